"""The trellises of `tcq` and `dq`: which of four subsets of levels a path of bits leads to.

A path gets one bit a step; its window is the newest bit, lowest, with the ones before it, as many as there are bits in
the number of states. Levels are sorted; level j belongs to subset j mod 4, and at each step a path allows one subset.
These are Ungerboeck's feed-forward codes: the subset follows from the window alone.
"""

from __future__ import annotations

from functools import cache

import numpy as np

# states -> the masks of the window whose parities are the high and the low bit of the subset
MASKS = {8: (0o13, 0o4), 64: (0o103, 0o24), 256: (0o515, 0o362)}


@cache
def subsets(states: int) -> np.ndarray:
    """The subset of every window, uint8 (2 * states,); read-only.

    >>> subsets(8).tolist()
    [0, 2, 2, 0, 1, 3, 3, 1, 2, 0, 0, 2, 3, 1, 1, 3]
    """
    high, low = MASKS[states]
    found = np.array([2 * parity(w & high) + parity(w & low) for w in range(2 * states)], np.uint8)
    found.flags.writeable = False
    return found


def parity(x: int) -> int:
    """The number of set bits, modulo 2."""
    return x.bit_count() & 1
