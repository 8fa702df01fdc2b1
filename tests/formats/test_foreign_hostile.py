"""Every stored tensor of a foreign checkpoint replaced by others in turn: an error of our tree, or a weight."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from tests.formats.foreign_modules import checkpoints
from tests.formats.foreign_support import folder

SHAPES = ((), (0,), (1,), (0, 32), (32, 0), (3, 5), (64, 64), (2, 32, 1))
DTYPES = (np.int32, np.uint8, np.float16, np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, np.int64)
TENSORS = [(name, key) for name, (tensors, _, _) in checkpoints().items() for key in tensors if "norm" not in key]


@pytest.mark.parametrize(("name", "key"), TENSORS)
def test_any_tensor_in_place_of_another(name: str, key: str, tmp_path: Path) -> None:
    tensors, config, _ = checkpoints()[name]
    own, rng = tensors[key], np.random.default_rng(0)
    others = [np.zeros(shape, own.dtype) for shape in SHAPES] + [np.zeros(own.shape, dtype) for dtype in DTYPES]
    raw = rng.integers(0, 256, own.nbytes, np.uint8)
    others += [
        raw.view(own.dtype).reshape(own.shape),
        own.reshape(-1),
        own.reshape(1, *own.shape),
        np.atleast_1d(own)[..., :0],
    ]
    for other in [*others, None]:
        rest = {k: tensor for k, tensor in tensors.items() if k != key} | ({} if other is None else {key: other})
        for group_size in ({}, {"group_size": -1}):
            path = folder(tmp_path, rest, config["quantization_config"] | group_size)
            try:
                with ac.open_checkpoint(path) as model:
                    for tensor in model.values():
                        tensor.decode()
                        tensor.verify()
            except ac.FormatError as error:
                assert str(error).startswith(str(path)), error
