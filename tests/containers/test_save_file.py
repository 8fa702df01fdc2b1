"""`save_file` of a mapping that makes its values when they are asked for."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

import arraycodec as ac


def test_a_mapping_that_makes_its_values(tmp_path):
    """Each is asked for twice, and no more than one is alive at a time."""

    class Made(Mapping):
        def __init__(self):
            self.asked = Counter()

        def __getitem__(self, name):
            self.asked[name] += 1
            return np.full(8, len(name), np.float32)

        def __iter__(self):
            return iter(("a", "bb"))

        def __len__(self):
            return 2

    ac.save_file(tensors := Made(), tmp_path / "m.safetensors")
    assert tensors.asked == {"a": 2, "bb": 2} and ac.load_file(tmp_path / "m.safetensors")["bb"][0] == 2
