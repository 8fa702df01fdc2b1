"""docs/format/two_four.md, step by step, in plain NumPy: the witness of `arraycodec_toy` for this codec."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.errors import ArgumentError
from arraycodec.spec import ArraySpec


def encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    columns = x.shape[-1] if x.ndim else 1
    rows = x.reshape(int(np.prod(x.shape[:-1])), columns)
    values, kept = [], np.zeros(rows.shape, bool)
    keys = magnitudes(codec, rows)
    for r, row in enumerate(rows):
        for start in range(0, columns, 4):
            own = range(start, min(start + 4, columns))
            if not codec.prune and sum(keys[r][i] > 0 for i in own) > 2:
                raise ArgumentError("two_four: a group has more than two elements that are not zero")
            for i in sorted(sorted(own, key=lambda i: (-keys[r][i], i))[:2]):
                kept[r, i] = True
                values.append(row[i])
    mask = np.packbits(kept, axis=1, bitorder="little")
    leading = x.shape[:-1]
    number = columns // 4 * 2 + min(columns % 4, 2)
    return {
        "values": np.array(values, x.dtype).reshape(*leading, number),
        "bitmask": mask.reshape(*leading, mask.shape[1]),
    }


def magnitudes(codec: Any, rows: np.ndarray) -> list[list[int]]:
    """The rank of each element as a Python int; 0 is that of a zero."""
    width, name = 8 * rows.itemsize, rows.dtype.name
    words = np.ascontiguousarray(rows).view(f"u{rows.itemsize}").tolist()
    sign, negative_zero = 1 << (width - 1), 0 if codec.drop_negative_zero else 1

    def key(word: int) -> int:
        if name.endswith("fnuz") and word == sign:
            return 1 << width
        if "float" in name and name != "float8_e8m0fnu":
            return 2 * (word % sign) + (negative_zero if word == sign else 0)
        return (1 << width) - word if name.startswith("int") and word >= sign else word

    return [[key(word) for word in row] for row in words]


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    x = np.zeros(spec.known_shape, spec.numpy_dtype)
    columns = spec.shape[-1] if spec.shape else 1
    rows = x.reshape(int(np.prod(spec.shape[:-1])), columns)
    bits = np.unpackbits(planes["bitmask"], axis=-1, bitorder="little", count=columns).reshape(rows.shape)
    values = planes["values"].reshape(len(rows), planes["values"].shape[-1])
    for r in range(len(rows)):
        for start in range(0, columns, 4):
            own = iter(values[r, start // 2 : start // 2 + 2])
            for i in range(start, min(start + 4, columns)):
                if bits[r, i]:
                    rows[r, i] = next(own, 0)
    return x
