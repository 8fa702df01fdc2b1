"""`ArraySpec`, the shape and dtype of an array, and the one table of dtypes.

A dtype is its NumPy/ml_dtypes name everywhere (`"bfloat16"`, `"float8_e4m3fn"`). The table maps that name to what
safetensors, torch and JAX call it; no other file spells a dtype of one framework in terms of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from arraycodec.errors import ArgumentError, FormatError

MAX_ELEMENTS = 2**48  # a guard against hostile shapes: 256 Ti elements, far above any tensor


class DType(NamedTuple):
    """One row of the dtype table: its names elsewhere and its width."""

    name: str
    bits: int
    safetensors: str | None  # the code in a safetensors header, where one exists
    torch: str | None  # the attribute of the torch module, where one exists


_ROWS = (
    DType("bool", 8, "BOOL", "bool"),
    DType("uint8", 8, "U8", "uint8"),
    DType("int8", 8, "I8", "int8"),
    DType("uint16", 16, "U16", "uint16"),
    DType("int16", 16, "I16", "int16"),
    DType("uint32", 32, "U32", "uint32"),
    DType("int32", 32, "I32", "int32"),
    DType("uint64", 64, "U64", "uint64"),
    DType("int64", 64, "I64", "int64"),
    DType("float16", 16, "F16", "float16"),
    DType("bfloat16", 16, "BF16", "bfloat16"),
    DType("float32", 32, "F32", "float32"),
    DType("float64", 64, "F64", "float64"),
    DType("complex64", 64, "C64", "complex64"),
    DType("float8_e4m3fn", 8, "F8_E4M3", "float8_e4m3fn"),
    DType("float8_e5m2", 8, "F8_E5M2", "float8_e5m2"),
    DType("float8_e4m3fnuz", 8, "F8_E4M3FNUZ", "float8_e4m3fnuz"),
    DType("float8_e5m2fnuz", 8, "F8_E5M2FNUZ", "float8_e5m2fnuz"),
    DType("float8_e8m0fnu", 8, "F8_E8M0", "float8_e8m0fnu"),
    # Of files only: no array has these dtypes, their data is packed uint8 (see containers/safetensors.py).
    DType("float6_e2m3fn", 6, "F6_E2M3", None),
    DType("float6_e3m2fn", 6, "F6_E3M2", None),
    DType("float4_e2m1fn", 4, "F4", None),
)
DTYPES: dict[str, DType] = {row.name: row for row in _ROWS}
BY_SAFETENSORS: dict[str, DType] = {row.safetensors: row for row in _ROWS if row.safetensors}
BY_TORCH: dict[str, DType] = {row.torch: row for row in _ROWS if row.torch}


@cache
def numpy_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype called `name`; the narrow floats come from ml_dtypes."""
    if name not in DTYPES:
        raise ArgumentError(f"dtype: got {name!r}, allowed are {', '.join(DTYPES)}")
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))


@dataclass(frozen=True)
class ArraySpec:
    """The shape and dtype of an array, without the array.

    `shape` holds non-negative ints; in a codec's `planes` an axis may be None where its length depends on the data.

    >>> ArraySpec((4096, 11008), "bfloat16").nbytes
    90177536
    """

    shape: tuple[int | None, ...]
    dtype: str

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            hint = "" if isinstance(self.dtype, str) else "; dtypes are names, such as 'float16'"
            raise FormatError(f"ArraySpec: dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}{hint}")
        for axis in self.shape:
            if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int) or axis < 0):
                raise FormatError(f"ArraySpec: shape must hold integers >= 0, got {self.shape!r}")
        if self.fixed and self.size > MAX_ELEMENTS:
            raise FormatError(f"ArraySpec: at most 2^48 elements are allowed, got shape {self.shape}")

    @property
    def fixed(self) -> bool:
        """Whether every axis is known before the data is."""
        return None not in self.shape

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape is one of this spec: an open axis has any length."""
        return len(shape) == len(self.shape) and all(a in (None, n) for a, n in zip(self.shape, shape, strict=True))

    def of_length(self, n: int) -> ArraySpec:
        """This spec with open axes of length `n`."""
        return self if self.fixed else replace(self, shape=tuple(n if axis is None else axis for axis in self.shape))

    @property
    def size(self) -> int:
        """The number of elements, as an exact Python int."""
        return math.prod(self.known_shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the array."""
        return self.size * DTYPES[self.dtype].bits // 8

    @property
    def known_shape(self) -> tuple[int, ...]:
        """The shape, once no axis is open any more."""
        if not self.fixed:
            raise FormatError(f"ArraySpec: shape {self.shape} has an axis whose length depends on the data")
        return self.shape  # type: ignore[return-value]  # it holds no None

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return numpy_dtype(self.dtype)


def spec_of(x: np.ndarray) -> ArraySpec:
    """The spec of a NumPy array; its byte order does not matter, its dtype must be in the table."""
    return _spec(x.shape, x.dtype)


@lru_cache(maxsize=4096)  # asked for every plane of every call, and NumPy takes microseconds to tell a dtype's name
def _spec(shape: tuple[int, ...], dtype: np.dtype[Any]) -> ArraySpec:
    name = dtype.name
    if name not in DTYPES or DTYPES[name].bits % 8:
        allowed = ", ".join(row.name for row in _ROWS if row.bits % 8 == 0)
        raise ArgumentError(f"array: dtype must be one of {allowed}, got {dtype}")
    return ArraySpec(tuple(map(int, shape)), name)
