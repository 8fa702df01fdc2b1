"""docs/format/bitmask.md, step by step, in plain NumPy: the witness of `arraycodec_toy` for this codec."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.errors import CorruptError
from arraycodec.spec import ArraySpec


def encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    rows = x.reshape(int(np.prod(x.shape[:-1])), x.shape[-1] if x.ndim else 1)
    kept = np.ascontiguousarray(rows).view(np.uint8).reshape(*rows.shape, x.itemsize) != 0
    if codec.drop_negative_zero and ("float" in x.dtype.name or x.dtype.kind == "c"):
        with np.errstate(invalid="ignore"):
            kept &= (rows != 0)[..., None] if x.dtype.name != "float8_e8m0fnu" else True
    kept = kept.any(axis=-1)
    counts = kept.sum(axis=1)
    leading = x.shape[:-1] or ((1,) if x.ndim < 2 else ())
    mask = np.packbits(kept, axis=1, bitorder="little")
    return {
        "values": rows[kept],
        "bitmask": mask.reshape(*x.shape[:-1], mask.shape[1]),
        "offsets": (np.cumsum(counts) - counts).astype(np.int32).reshape(leading),
    }


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    columns = spec.shape[-1] if spec.shape else 1
    mask = planes["bitmask"]
    bits = np.unpackbits(mask, axis=-1, bitorder="little", count=columns).astype(bool).reshape(spec.known_shape)
    if int(np.unpackbits(mask).sum()) != planes["values"].size:
        raise CorruptError("bitmask: values must be as many as bits of the mask")
    x = np.zeros(spec.known_shape, spec.numpy_dtype)
    x[bits] = planes["values"]
    return x
