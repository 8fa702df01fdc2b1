"""How far one array is from another, a piece at a time, so that no float64 copy of a tensor is ever made."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

PIECE = 1 << 18  # elements: four float64 temporaries of a piece stay in the second-level cache


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
        return {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(self).items()}


EXACT = Difference(True, 0, 0.0, 0.0, 0.0, math.inf)


def compare(a: np.ndarray, b: np.ndarray) -> Difference:
    """The difference of two arrays of the same shape; their dtypes may differ.

    >>> import numpy as np
    >>> compare(np.array([1.0, 2.0], np.float32), np.array([1.0, 2.5], np.float32)).max_abs
    0.5
    """
    if a.shape != b.shape:
        raise ValueError(f"compare: shapes must be equal, got {a.shape} and {b.shape}")
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
            magnitude[np.isnan(magnitude)] = math.inf
            total += float(magnitude.sum())
            squared += float(magnitude @ magnitude)
            largest = max(largest, float(magnitude.max(initial=0.0)))
    if not differ:
        return EXACT
    relative = 0.0 if squared == 0 else math.sqrt(squared / power) if power else math.inf
    snr = math.inf if relative == 0 else -20 * math.log10(relative) if relative < math.inf else -math.inf
    return Difference(False, differ, largest, total / max(count, 1), relative, snr)


def _piece(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Differences and values (float64) of the finite elements of p, and how many elements differ in their bits."""
    if p.dtype == q.dtype:
        width = min(p.dtype.itemsize, 8)
        unequal = (p.view(f"u{width}") != q.view(f"u{width}")).reshape(p.size, -1).any(axis=1)
        changed = int(np.count_nonzero(unequal))
    else:
        with np.errstate(invalid="ignore"):
            changed = int(np.count_nonzero(_float(p) != _float(q)))
    base, other = _float(p), _float(q)
    if not changed:
        return base[:0], base[np.isfinite(base)], 0
    keep = np.isfinite(base)
    with np.errstate(invalid="ignore", over="ignore"):
        return (base - other)[keep], base[keep], changed


def _float(x: np.ndarray) -> np.ndarray:
    """As float64; a complex number as its two parts."""
    if x.dtype.kind == "c":
        return x.view(f"f{x.dtype.itemsize // 2}").astype(np.float64)
    return x.astype(np.float64)
