from tests.checkpoints.support import xored  # noqa: F401  # a fixture
