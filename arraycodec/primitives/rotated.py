"""Rotations of paths: signs and a Hadamard matrix for every whole `n` elements of a path, what is left over as it was.

n is a power of four, so the matrix over its root of n is the sum times a power of two. Back it goes on integers.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.blocks import without_subnormals
from arraycodec.primitives.grid import Grid
from arraycodec.primitives.hadamard import signs
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.paths import PATH
from arraycodec.primitives.threads import split

SIZES = (0, 4, 16, 64, 256)  # 0: none; sums of more than 256 levels would no longer be exact in float32


def root_bits(n: int) -> int:
    """The binary logarithm of the root of n; 0 for n = 0.

    >>> [root_bits(n) for n in SIZES]
    [0, 1, 2, 3, 4]
    """
    return max(n.bit_length() - 1, 0) // 2


def rotated(x: np.ndarray, grid: Grid, n: int) -> np.ndarray:
    """The float32 elements (flat) of an array, whose paths lie along the rows of `grid`, rotated.

    Sums are float64 in the order of `butterflies`, and are rounded to float32 once.
    """
    out, wide = np.empty(x.size, np.float32), without_subnormals(np.asarray(x, np.float32)).reshape(-1)
    turn = signs(n, 0).astype(np.float64)

    def work(first: int, last: int) -> None:
        rotate_rows(wide, grid.columns, turn, 1 / (1 << root_bits(n)), out, first, last)

    with np.errstate(over="ignore", invalid="ignore"):
        split(work, grid.matrices * grid.rows, grid.size)
    return out


@kernel
def rotate_rows(x, columns, turn, unit, out, first, last):
    """Rotate the rows first..last."""
    n = turn.size
    y = np.empty(n, np.float64)
    for row in range(first, last):
        source, target = x[row * columns : (row + 1) * columns], out[row * columns : (row + 1) * columns]
        for at in range(0, columns, n):
            whole = at + n <= min(at - at % PATH + PATH, columns)
            count = n if whole else columns - at
            if whole:
                for i in range(n):
                    y[i] = np.float64(source[at + i]) * turn[i]
                butterflies(y)
                for i in range(n):
                    target[at + i] = np.float32(y[i] * unit)
            else:
                for i in range(count):
                    target[at + i] = source[at + i]


@inlined
def butterflies(y):
    """The product with Sylvester's matrix, in place: neighbours first, then those two apart, and so on."""
    step = 1
    while step < y.size:
        for start in range(0, y.size, 2 * step):
            low, high = y[start : start + step], y[start + step : start + 2 * step]
            for i in range(step):
                total, difference = low[i] + high[i], low[i] - high[i]
                low[i], high[i] = total, difference
        step *= 2


@inlined
def turn_back(y, turn, bits):
    """Rotate the int32 levels of a path back: the result is in units of 2^-bits of a level, also where none were."""
    n = turn.size
    whole = y.size // n * n
    for at in range(0, whole, n):
        part = y[at : at + n]
        butterflies(part)
        for i in range(n):
            part[i] *= turn[i]
    for i in range(whole, y.size):
        y[i] <<= bits
