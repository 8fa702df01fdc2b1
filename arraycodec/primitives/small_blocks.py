"""Small blocks: what formats with a scale per 8 to 1024 consecutive elements share on the CPU.

Their blocks divide a run. Loops over a whole run vectorise where loops over 16 or 32 elements do not, so largest
magnitudes are found for all blocks of a run at once, and what belongs to a block is repeated for each of its elements.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from arraycodec.primitives.blocks import is_positive
from arraycodec.primitives.floats import MAGNITUDE
from arraycodec.primitives.formats import values
from arraycodec.primitives.jit import inlined
from arraycodec.primitives.packing import load_dense
from arraycodec.primitives.scales import RUN
from arraycodec.spec import ArraySpec

ALLOWED = "a power of two from 8 to 1024"


def is_small(block_size: object) -> bool:
    """Whether blocks of this size divide a run and begin at whole bytes of codes."""
    return (
        is_positive(block_size)
        and isinstance(block_size, int)
        and block_size.bit_count() == 1
        and 8 <= block_size <= RUN
    )


def blocks_around(
    spec: ArraySpec, block: int, bits: int, start: int, stop: int
) -> tuple[int, ArraySpec, dict[str, slice]]:
    """What reading the elements start..stop needs: where the blocks around them begin, these as a flat array, and their
    slices of the planes `codes` and `scales`."""
    first = start // block * block
    last = min(-(-stop // block) * block, spec.size) if start < stop else first
    codes, scales = slice(first * bits // 8, -(-last * bits // 8)), slice(first // block, -(-last // block))
    return first, ArraySpec((last - first,), spec.dtype), {"codes": codes, "scales": scales}


@inlined
def maxima(run, count, block, tree):
    """The largest magnitude of each block of a run, in tree[:blocks]; the run is zeros from `count` on."""
    half = RUN >> 1
    run[count:] = 0
    for i in range(half):
        tree[i] = max(np.uint32(run[2 * i] & MAGNITUDE), np.uint32(run[2 * i + 1] & MAGNITUDE))
    width = 2
    while width < block:
        half >>= 1
        width *= 2
        for i in range(half):
            tree[i] = max(tree[2 * i], tree[2 * i + 1])


@cache
def values_per_byte(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The two values of a 4-bit format in each of the 256 bytes, the low nibble's first."""
    table, byte = values(name), np.arange(256)
    return np.stack([table[byte & 15], table[byte >> 4]], axis=1).reshape(-1)


@inlined
def load_values(codes, bits, start, count, table, q, y):
    """The values of the elements start..start + count; `table` is by code, for 4 bits by byte."""
    if bits == 4:
        piece = codes[start >> 1 : (start + count + 1) >> 1]
        pairs, both = table.view(np.uint64), y.view(np.uint64)
        for i in range(piece.size):  # two floats in one move; after an odd last element comes the padding
            both[i] = pairs[piece[i]]
        return
    load_dense(codes, bits, start, count, q)
    for i in range(count):
        y[i] = table[q[i]]
