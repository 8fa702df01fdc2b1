"""What the Triton kernels of `Bitmask` and `TwoFour` share: tiles of BLOCK bytes of a bitmask, with 8 elements each.

Elements are unsigned integers of WORD bits. EVEN: rows are whole bytes, so that tiles are consecutive elements.
"""

import triton
import triton.language as tl


@triton.jit
def places(size, columns, width, EVEN: tl.constexpr, BLOCK: tl.constexpr):
    """The bytes of a program (BLOCK, 1), which of them are there; the column and place of its elements (BLOCK, 8)."""
    byte = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)[:, None]
    i = tl.arange(0, 8)[None, :]
    row = byte // width
    column = (byte - row * width) * 8 + i
    at = byte * 8 + i if EVEN else row * columns + column
    return byte, byte < size, column, at


@triton.jit
def ones(v):
    """The number of bits that are set, of at most 8."""
    v = v - ((v >> 1) & 0x55)
    v = (v & 0x33) + ((v >> 2) & 0x33)
    return (v + (v >> 4)) & 15
