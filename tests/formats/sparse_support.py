"""What the tests of sparse files share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec_conformance.compare import same_bits
from tests.formats.sparse_library import FORMATS

BITMASK, SPARSE_24 = FORMATS
Tensors = dict[str, np.ndarray[Any, Any]]


def tensors(path: Path) -> Tensors:
    """What a safetensors file holds."""
    with ac.open_file(path) as file:
        return {name: np.asarray(tensor) for name, tensor in file.items()}


def same_tensors(got: Tensors, want: Tensors) -> None:
    assert set(got) == set(want)
    for name, tensor in want.items():
        same_bits(got[name], tensor, name)


def two_four(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array with zeros in place of the first and the third element of each four."""
    x = x.copy()
    x[..., 0::4] = x[..., 2::4] = 0
    return x


def opened(folder: Path, parts: Tensors, quantization: dict[str, Any] | None = None) -> np.ndarray[Any, Any]:
    """The one weight of a checkpoint."""
    safetensors.save(parts, folder / "model.safetensors")
    config = (
        {} if quantization is None else {"quantization_config": {"quant_method": "compressed-tensors"} | quantization}
    )
    (folder / "config.json").write_text(json.dumps(config))
    with ac.open_checkpoint(folder) as model:
        return model["m.weight"].decode()
