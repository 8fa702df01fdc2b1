"""A third party's backend, found through its entry point, passes the published suite."""

from collections.abc import Iterator
from importlib.metadata import EntryPoint

import pytest

from arraycodec import registry
from arraycodec_conformance.suite import BackendSuite


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if the package arraycodec_toy were installed with `[project.entry-points."arraycodec.backends"]`."""
    group = "arraycodec.backends"
    found = registry._entry_points(group)
    point = EntryPoint("arraycodec_toy", "arraycodec_toy", group)
    monkeypatch.setattr(registry, "_entry_points", lambda name: found | {point.name: point} if name == group else {})
    registry._backend.cache_clear()
    yield
    registry._backend.cache_clear()


class TestToy(BackendSuite):
    backend = "arraycodec_toy"
