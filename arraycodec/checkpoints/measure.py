"""How far one array is from another, a piece at a time, so that no float64 copy of a tensor is ever made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PIECE = 1 << 13  # elements: all temporaries stay in the cache, and BLAS wakes no threads for so few


@dataclass(frozen=True)
class Difference:
    """What `b` differs from `a`, over the finite elements of `a`; infinite errors where `b` is not finite there."""

    identical: bool  # the same bits
    elements: int  # of which the bits differ
    max_abs: float
    mae: float
    relative_rms: float  # root of (sum of squared differences / sum of squares of a)
    snr_db: float  # -20 log10(relative_rms); infinite where all are equal

    def to_json(self) -> dict[str, Any]:
        """Its fields, with None for what is infinite: JSON has no such number."""
        return {name: finite(value) for name, value in asdict(self).items()}


EXACT = Difference(True, 0, 0.0, 0.0, 0.0, math.inf)


def finite(value: Any) -> Any:
    """The value, but None for a float that is infinite or NaN: JSON has no such number.

    >>> finite(1.5), finite(math.inf), finite(3)
    (1.5, None, 3)
    """
    return value if not isinstance(value, float) or math.isfinite(value) else None


def compare(a: np.ndarray, b: np.ndarray) -> Difference:
    """The difference of two arrays of the same shape; their dtypes may differ.

    >>> import numpy as np
    >>> compare(np.array([1.0, 2.0], np.float32), np.array([1.0, 2.5], np.float32)).max_abs
    0.5
    """
    if a.shape != b.shape:
        raise ValueError(f"compare: shapes must be equal, got {a.shape} and {b.shape}")
    if "c" in a.dtype.kind + b.dtype.kind and a.dtype != b.dtype:
        a, b = a.astype(np.complex128), b.astype(np.complex128)
    x, y = np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1)
    differ, count, total, squared, power, largest = 0, 0, 0.0, 0.0, 0.0, 0.0
    for start in range(0, x.size, PIECE):
        p, q = x[start : start + PIECE], y[start : start + PIECE]
        away, base, changed = _piece(p, q)
        differ += changed
        count += base.size
        power += float(base @ base)
        if changed:
            magnitude = np.abs(away)
            if np.isnan(squares := float(magnitude @ magnitude)):  # b holds NaN where a does not
                magnitude[np.isnan(magnitude)] = squares = math.inf
            total += float(magnitude.sum())
            squared += squares
            largest = max(largest, float(magnitude.max(initial=0.0)))
    if not differ:
        return EXACT
    relative = 0.0 if squared == 0 else math.sqrt(squared / power) if power else math.inf
    snr = math.inf if relative == 0 else -20 * math.log10(relative) + 0.0 if relative < math.inf else -math.inf
    return Difference(False, differ, largest, total / max(count, 1), relative, snr)


def _piece(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Differences and values (float64) of the finite elements of p, and how many elements differ in their bits."""
    base = _float(p)
    changed = _unequal(p, q)
    with np.errstate(invalid="ignore", over="ignore"):
        away = base - _float(q) if changed else base[:0]
    finite = np.isfinite(base)
    if not finite.all():
        base, away = base[finite], away[finite] if changed else away
    return away, base, changed


def _unequal(p: np.ndarray, q: np.ndarray) -> int:
    """How many elements differ: in their bits, or in their values where the dtypes differ."""
    if p.dtype != q.dtype:
        return int(np.count_nonzero(_float(p) != _float(q)))
    word = f"u{min(p.dtype.itemsize, 8)}"
    unequal = p.view(word) != q.view(word)
    return int(np.count_nonzero(unequal if unequal.size == p.size else unequal.reshape(p.size, -1).any(axis=1)))


def _float(x: np.ndarray) -> np.ndarray:
    """As float64; a complex number as its two parts."""
    if x.dtype.kind == "c":
        return x.view(f"f{x.dtype.itemsize // 2}").astype(np.float64)
    return x.astype(np.float64)
