"""Triton kernels of `Bitmask`: the steps of `arraycodec.codecs.bitmask` in the same order.

The bits of each byte are counted and summed between two launches, so an element finds its value without its neighbours.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.sparse import ones, places


@triton.jit
def mark(
    source, out, found, size, columns, width, MASK: tl.constexpr, EVEN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Step 1: BLOCK bytes of the bitmask; found: how many bits each has."""
    byte, there, column, at = places(size, columns, width, EVEN, BLOCK)
    x = tl.load(source + at, mask=there & (column < columns), other=0)
    bits = ((x & MASK) != 0).to(tl.int32)
    tl.store(out + byte, tl.sum(bits << tl.arange(0, 8)[None, :], axis=1)[:, None].to(tl.uint8), mask=there)
    tl.store(found + byte, tl.sum(bits, axis=1)[:, None].to(tl.uint8), mask=there)


@triton.jit
def count(bitmask, found, size, BLOCK: tl.constexpr):
    """How many bits each of BLOCK bytes has."""
    byte = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    bits = tl.load(bitmask + byte, mask=byte < size, other=0).to(tl.int32)
    tl.store(found + byte, ones(bits).to(tl.uint8), mask=byte < size)


@triton.jit
def squeeze(
    source, bitmask, starts, out, size, columns, width, EVEN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Step 2 for BLOCK bytes of the bitmask, whose values begin at `starts`."""
    byte, there, column, at = places(size, columns, width, EVEN, BLOCK)
    kept, place = value_of(bitmask, starts, byte, there)
    tl.store(out + place, tl.load(source + at, mask=kept & (column < columns), other=0), mask=kept)


@triton.jit
def spread(
    values, bitmask, starts, out, size, columns, width, EVEN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Decode the elements of BLOCK bytes of the bitmask."""
    byte, there, column, at = places(size, columns, width, EVEN, BLOCK)
    kept, place = value_of(bitmask, starts, byte, there)
    tl.store(out + at, tl.load(values + place, mask=kept, other=0), mask=there & (column < columns))


@triton.jit
def value_of(bitmask, starts, byte, there):
    """Whether each element is kept, and the place of its value: as many bits of its byte are set before its own."""
    i = tl.arange(0, 8)[None, :]
    bits = tl.load(bitmask + byte, mask=there, other=0).to(tl.int32)
    start = tl.load(starts + byte, mask=there, other=0).to(tl.int64)
    return ((bits >> i) & 1) != 0, start + ones(bits & ((1 << i) - 1))
