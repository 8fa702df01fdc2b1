"""marlin-24: what cannot be, and that its orders are permutations. Its weights are compared in test_sparse.py."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats import marlin
from tests.formats.sparse_library import FIXTURES, MODULE
from tests.formats.sparse_support import opened, tensors


def test_corrupt_marlin(tmp_path: Path) -> None:
    quantization = json.loads((FIXTURES / "marlin_4/config.json").read_text())["quantization_config"]
    stored = {
        name.replace(MODULE, "m"): part for name, part in tensors(FIXTURES / "marlin_4/model.safetensors").items()
    }
    opened(tmp_path, stored, quantization)
    meta = stored["m.meta"].copy()
    meta[0, 0] = 0
    for change, told in (
        ({"m.meta": meta}, "meta must name two places of four, the lower one first"),
        ({"m.meta": meta[:, :-1]}, r"meta must be \[inputs / 32, outputs \* 2\]"),
        ({"m.meta": meta.astype(np.int32)}, "meta must be int16"),
        ({"m.weight_packed": stored["m.weight_packed"][:-1]}, "weight_packed must have the shape"),
        ({"m.scale_packed": stored["m.scale_packed"][:1]}, "scale_packed must have the shape"),
        ({"m.scale_packed": stored["m.scale_packed"].astype(ml_dtypes.bfloat16)}, "scale_packed must be float16"),
    ):
        with pytest.raises(CorruptError, match=told):
            opened(tmp_path, stored | change, quantization)
    packed = {name: stored[name] for name in ("m.weight_packed", "m.meta")}
    packed |= {"m.weight_scale": np.ones((64, 3), np.float16), "m.weight_shape": np.array([64, 384])}
    with pytest.raises(FormatError, match=r"is stored as pack-quantized, but .* says marlin-24"):
        opened(tmp_path, packed, quantization)
    groups = quantization["config_groups"]["group_0"]
    for weights, told in (
        ({"symmetric": False}, "symmetric integers of 4 or 8 bits"),
        ({"group_size": 64}, "groups of 128"),
    ):
        other = groups | {"weights": groups["weights"] | weights}
        with pytest.raises(FormatError, match=told):
            opened(tmp_path, stored, quantization | {"config_groups": {"group_0": other}})


def test_marlins_orders_are_permutations() -> None:
    """Each of the three places every position once, whatever the size."""
    for rows, columns in ((64, 32), (128, 96), (192, 256)):
        for bits in (4, 8):
            codes = np.arange(rows * columns // 2, dtype=np.uint32)
            seen = []
            for part in range(0, 24, bits):  # a position at a time, some of its bits as codes
                stream = (codes >> np.uint32(part) & np.uint32((1 << bits) - 1)).astype(np.uint8)
                low = stream if bits == 8 else (stream[0::2] | stream[1::2] << 4).astype(np.uint8)
                words = low.view(np.int32).reshape(columns // 32, rows * bits // 2)
                found = marlin.integers_of(words, bits, (rows, columns // 2)).astype(np.int64) + (1 << (bits - 1))
                seen.append(found << part)
            assert sorted(np.sum(seen, axis=0).reshape(-1)) == list(range(rows * columns // 2))
