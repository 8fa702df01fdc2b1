"""Ranks: step 6 of a codebook, the number of bounds strictly below each element, as its code."""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined


@inlined
def rank16(y, codes, b, s, first):
    """Step 6 with 15 bounds, free of branches: the code is the first one plus a step for each bound below y."""
    # Scalars, not b[k] in the loop: the compiler cannot know that writing codes[i] leaves b and s alone.
    b0, b1, b2, b3, b4, b5, b6, b7 = b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]
    b8, b9, b10, b11, b12, b13, b14 = b[8], b[9], b[10], b[11], b[12], b[13], b[14]
    s0, s1, s2, s3, s4, s5, s6, s7 = s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]
    s8, s9, s10, s11, s12, s13, s14 = s[8], s[9], s[10], s[11], s[12], s[13], s[14]
    o = np.uint8(0)
    for i in range(y.size):
        v = y[i]
        low = (s0 if v > b0 else o) + (s1 if v > b1 else o) + (s2 if v > b2 else o) + (s3 if v > b3 else o)
        mid = (s4 if v > b4 else o) + (s5 if v > b5 else o) + (s6 if v > b6 else o) + (s7 if v > b7 else o)
        top = (s8 if v > b8 else o) + (s9 if v > b9 else o) + (s10 if v > b10 else o) + (s11 if v > b11 else o)
        end = (s12 if v > b12 else o) + (s13 if v > b13 else o) + (s14 if v > b14 else o)
        codes[i] = np.uint8(first + low + mid + top + end)


@inlined
def rank256(y, codes, bounds):
    """Step 6 with 255 bounds, by halving; multiplied rather than branched on, since no branch can be foreseen."""
    for i in range(y.size):
        rank = np.uint32(0)
        for step in (128, 64, 32, 16, 8, 4, 2, 1):
            rank += np.uint32(step) * np.uint32(y[i] > bounds[rank + step - 1])
        codes[i] = np.uint8(rank)


@inlined
def rank_in_cells(y, bits, codes, cells, edges):
    """Step 6 with 255 bounds and infinity: the upper 16 bits of y say which of them is the only one in question."""
    for i in range(y.size):
        ranks = np.uint32(cells[bits[i] >> np.uint32(16)])
        below = ranks & np.uint32(255)
        codes[i] = np.uint8(ranks >> np.uint32(8)) if y[i] > edges[below] else np.uint8(below)
