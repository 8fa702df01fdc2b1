"""Codebooks: the tables of every codebook format, which every backend loads.

A table is data: `values` (code -> float), the decision `bounds` between neighbouring values, and `codes`, the code
of each rank. An element y is encoded by its rank, the number of bounds strictly below it: `codes[sum(y > bounds)]`.
In a table of 8 bits the rank is the code. The numbers are hexadecimal float32 patterns in the modules codebook_tables
and codebook_bounds, because a decimal literal is read differently by different parsers.

No product of an entry and a scale in use is subnormal: entries that are not zero have magnitude >= 2^-24 and scales
>= 2^-100; a table with smaller entries raises `min_scale`. Bounds have magnitude >= 2^-100, and the two of exactly
that stand for "just above zero" and "just below zero".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from arraycodec.primitives.codebook_bounds import BOUNDS, CODES
from arraycodec.primitives.codebook_tables import VALUES
from arraycodec.primitives.floats import MIN_SCALE

MIN_ENTRY = 2.0**-24
MAX_ENTRY = 2.0**24
JUST_ABOVE_ZERO = np.float32(2.0**-100)

USER = {"user4": 4, "user8": 8}  # tables that travel with the data, as the plane `codebook`
NAMES = (*VALUES, *USER)

NO_CELLS = np.empty(0, np.uint16)


@dataclass(frozen=True, eq=False)
class Table:
    """One codebook. float32 `values[2^bits]`, float32 `bounds[2^bits - 1]` rising, uint8 `codes[2^bits]` by rank."""

    bits: int
    values: np.ndarray[Any, np.dtype[np.float32]]
    bounds: np.ndarray[Any, np.dtype[np.float32]]
    codes: np.ndarray[Any, np.dtype[np.uint8]]

    @cached_property
    def zero(self) -> int:
        """The code of 0.0: that of zero blocks, of non-finite blocks and of padding."""
        return int(self.codes[int((self.bounds < 0).sum())])

    @cached_property
    def min_scale(self) -> np.uint32:
        """The bits of the smallest scale in use: the power of two, at least 2^-100, whose products are >= 2^-124."""
        exponent = int(np.abs(self.values[self.values != 0]).min().view(np.uint32)) >> 23
        return max(MIN_SCALE, np.uint32(max(130 - exponent, 0) << 23))

    @cached_property
    def steps(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`code = codes[0] + sum of steps[k] over the bounds k below y`, modulo 256: a rank without a look-up."""
        return np.diff(self.codes)

    @cached_property
    def cells(self) -> np.ndarray[Any, np.dtype[np.uint16]]:
        """Ranks by the upper 16 bits of y: in the low byte that below the one bound of such a cell, in the high above.

        For 255 bounds; empty where a cell has two that differ. The rank of NaN is 0.
        """
        bits = self.bounds.view(np.uint32)
        ordered = np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))  # as integers, like the floats
        cell = ordered >> np.uint32(16)
        if ((np.diff(cell) == 0) & (np.diff(ordered) != 0)).any():
            return NO_CELLS
        inside = np.bincount(cell, minlength=1 << 16)
        above = np.cumsum(inside)
        ranks = (above - inside) | (above << 8)
        ranks = np.concatenate([ranks[1 << 15 :], ranks[: 1 << 15][::-1]])
        ranks[0x7F81:0x8000] = 0
        return ranks.astype(np.uint16)


def midpoints(values: np.ndarray) -> np.ndarray:
    """float32 `(a + b) * 0.5` of neighbours in a rising table: the bounds of nearest-value encoding, ties down."""
    return (values[:-1] + values[1:]) * np.float32(0.5)


def flavours(name: str) -> list[str | None]:
    """The flavours of a named table; None is the canonical one."""
    return [None, *dict.fromkeys(flavour for table, flavour in (*CODES, *BOUNDS) if table == name and flavour)]


@cache
def table(name: str, flavour: str | None = None) -> Table:
    """The built-in table of this name and flavour; its arrays are read-only."""
    key, values = (name, flavour), _floats(VALUES[name])
    codes = np.array(CODES.get(key, range(values.size)), np.uint8)
    found = _table(values, codes, _floats(BOUNDS[key]) if key in BOUNDS else midpoints(values[codes]))
    for array in (found.values, found.bounds, found.codes):
        array.setflags(write=False)
    return found


def user_table(values: np.ndarray, bounds: np.ndarray | None = None) -> Table:
    """The table of a user's rising float32 `values`, with midpoints as bounds unless they are given."""
    values = np.asarray(values, np.float32) + np.float32(0)  # -0 is the value +0
    bounds = midpoints(values) if bounds is None else np.asarray(bounds, np.float32)
    return _table(values, np.arange(values.size, dtype=np.uint8), bounds)


def _table(values: np.ndarray, codes: np.ndarray, bounds: np.ndarray) -> Table:
    """A zero among the bounds becomes 2^-100: whether a subnormal y lies above 0 is no question for hardware."""
    return Table(values.size.bit_length() - 1, values, np.where(bounds == 0, JUST_ABOVE_ZERO, bounds), codes)


def _floats(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The floats of these patterns; -0 is the value +0."""
    return np.array([int(word, 16) for word in text.split()], np.uint32).view(np.float32) + np.float32(0)
