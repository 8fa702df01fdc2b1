"""Equality of bits: arrays are compared as unsigned integers, and the first difference is shown."""

from __future__ import annotations

from typing import Any

import numpy as np


def same_bits(got: np.ndarray, want: np.ndarray, what: str, x: np.ndarray | None = None) -> None:
    """Raise AssertionError unless both arrays have the same shape, dtype and bits (NaN payloads and -0 included)."""
    assert got.dtype == want.dtype, f"{what}: dtype must be {want.dtype}, got {got.dtype}"
    assert got.shape == want.shape, f"{what}: shape must be {want.shape}, got {got.shape}"
    a, b = (np.ascontiguousarray(y).reshape(-1).view(f"u{y.dtype.itemsize}") for y in (got, want))
    differing = np.flatnonzero(a != b)
    if differing.size:
        i = int(differing[0])
        source = f", x[{i}] = {_hex(x, i)}" if x is not None and x.size == a.size else ""
        raise AssertionError(
            f"{what}: {differing.size} of {a.size} elements differ, first at {i}: "
            f"want {_hex(want, i)}, got {_hex(got, i)}{source}"
        )


def _hex(array: np.ndarray, i: int) -> str:
    flat: Any = np.ascontiguousarray(array).reshape(-1)
    width = 2 * flat.dtype.itemsize
    return f"{int(flat.view(f'u{flat.dtype.itemsize}')[i]):0{width}x} ({flat[i]})"
