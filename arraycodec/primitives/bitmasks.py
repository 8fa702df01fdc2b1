"""Bitmasks of sparse arrays: their rows and shapes, where the values of a row begin, and what a magnitude is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.memory import bits
from arraycodec.primitives.sparse import FLOAT, FNUZ, SIGNED, UNIT, UNSIGNED, count_rows
from arraycodec.primitives.threads import split
from arraycodec.spec import DTYPES, ArraySpec


class Rows(NamedTuple):
    """The rows of an array and of its bitmask."""

    rows: int
    columns: int

    @property
    def width(self) -> int:
        """Bytes of a row of the mask."""
        return -(-self.columns // 8)

    @property
    def across(self) -> int:
        """Units of a row."""
        return -(-self.columns // UNIT)

    @property
    def units(self) -> int:
        return self.rows * self.across


def rows_of(spec: ArraySpec) -> Rows:
    """The rows of an array; one without axes is a row of one element."""
    *leading, columns = spec.known_shape or (1,)
    return Rows(math.prod(leading), columns)


def bitmask_spec(spec: ArraySpec) -> ArraySpec:
    """uint8 plane of a bit per element, `(..., ceil(columns / 8))`."""
    return ArraySpec((*spec.shape[:-1], rows_of(spec).width), "uint8")


def kind_of(dtype: str) -> int:
    """UNSIGNED, SIGNED, FLOAT or FNUZ."""
    if dtype.endswith("fnuz"):
        return FNUZ
    if "float" in dtype and dtype != "float8_e8m0fnu":
        return FLOAT
    return SIGNED if dtype.startswith("int") else UNSIGNED


def magnitude_mask(dtype: str) -> int:
    """The bits that are not all zero in an element which differs from zero as a number."""
    bits = DTYPES[dtype].bits
    if dtype == "complex64":
        return 0x7FFFFFFF_7FFFFFFF
    return (1 << bits) - 1 - (1 << bits - 1) * (kind_of(dtype) == FLOAT)


def sums(counts: np.ndarray) -> np.ndarray:
    """Where the values of each unit begin, and where those of the last one end."""
    starts = np.zeros(counts.size + 1, np.int64)
    np.cumsum(counts, out=starts[1:])
    return starts


def starts_of(bitmask: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """`sums` of the bits of each unit of a mask."""
    rows, flat = rows_of(spec), bits(bitmask)
    counts = np.empty(rows.units, np.int64)
    split(lambda first, last: count_rows(flat, rows.columns, counts, first, last), rows.units, spec.size)
    return sums(counts)


def row_starts(starts: np.ndarray, rows: Rows) -> np.ndarray:
    """Where the values of each row begin, and where those of the last one end."""
    return starts[:: rows.across] if rows.across else np.zeros(rows.rows + 1, np.int64)


def check_ends(codec: str, bitmask: np.ndarray, rows: Rows) -> None:
    """Raise CorruptError where a bit is set after the last column of a row."""
    if rows.columns % 8 and (bitmask.reshape(-1, rows.width)[:, -1] >> rows.columns % 8).any():
        raise CorruptError(f"{codec}: rows of bitmask must end in zero bits after their {rows.columns} columns")
