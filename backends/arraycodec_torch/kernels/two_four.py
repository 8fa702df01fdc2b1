"""Triton kernels of `TwoFour`: the steps of `arraycodec.codecs.two_four` in the same order."""

import triton
import triton.language as tl

from arraycodec.primitives import sparse
from arraycodec_torch.kernels.sparse import ones, places

SIGNED = tl.constexpr(sparse.SIGNED)
FLOAT = tl.constexpr(sparse.FLOAT)
FNUZ = tl.constexpr(sparse.FNUZ)


@triton.jit
def choose(
    source, values, bitmask, found, size, columns, width, number,
    WORD: tl.constexpr, KIND: tl.constexpr, NEGATIVE_ZEROS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Encode BLOCK bytes of the bitmask; found: how many groups of each have more than two that are not zero."""
    byte = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = byte < size
    row = byte // width
    bits, crowded = tl.zeros([BLOCK], tl.int32), tl.zeros([BLOCK], tl.int32)
    for half in tl.static_range(2):
        column = (byte - row * width) * 8 + 4 * half
        at = row * columns + column
        w0, k0 = load_key(source + at, there & (column < columns), WORD, KIND, NEGATIVE_ZEROS)
        w1, k1 = load_key(source + at + 1, there & (column + 1 < columns), WORD, KIND, NEGATIVE_ZEROS)
        w2, k2 = load_key(source + at + 2, there & (column + 2 < columns), WORD, KIND, NEGATIVE_ZEROS)
        w3, k3 = load_key(source + at + 3, there & (column + 3 < columns), WORD, KIND, NEGATIVE_ZEROS)
        b01, b02, b03 = (k1 > k0).to(tl.int32), (k2 > k0).to(tl.int32), (k3 > k0).to(tl.int32)
        b12, b13, b23 = (k2 > k1).to(tl.int32), (k3 > k1).to(tl.int32), (k3 > k2).to(tl.int32)
        kept0 = b01 + b02 + b03 < 2
        kept1 = 1 - b01 + b12 + b13 < 2
        kept2 = 2 - b02 - b12 + b23 < 2
        kept3 = 3 - b03 - b13 - b23 < 2
        first = tl.where(kept0, w0, tl.where(kept1, w1, w2))
        last = tl.where(kept3, w3, tl.where(kept2, w2, w1))
        place = column // 2
        tl.store(values + row * number + place, first, mask=there & (place < number))
        tl.store(values + row * number + place + 1, last, mask=there & (place + 1 < number))
        own = kept0.to(tl.int32) | (kept1.to(tl.int32) << 1) | (kept2.to(tl.int32) << 2) | (kept3.to(tl.int32) << 3)
        own = tl.where(column + 4 <= columns, own, own & ((1 << tl.maximum(columns - column, 0).to(tl.int32)) - 1))
        bits |= own << (4 * half)
        others = (k0 != 0).to(tl.int32) + (k1 != 0).to(tl.int32) + (k2 != 0).to(tl.int32) + (k3 != 0).to(tl.int32)
        crowded += (others > 2).to(tl.int32)
    tl.store(bitmask + byte, bits.to(tl.uint8), mask=there)
    tl.store(found + byte, crowded.to(tl.uint8), mask=there)


@triton.jit
def load_key(pointer, inside, WORD: tl.constexpr, KIND: tl.constexpr, NEGATIVE_ZEROS: tl.constexpr):
    """An element, and an unsigned integer in the order of magnitudes; NaN is above all numbers, and 0 is zero alone."""
    word = tl.load(pointer, mask=inside, other=0)
    u = word.to(tl.uint64 if WORD == 64 else tl.uint32)
    sign = tl.full(u.shape, 1, u.dtype) << (WORD - 1)
    if KIND == SIGNED:
        u = tl.where(u >= sign, sign - (u - sign), u)
    elif KIND == FLOAT:
        key = (u & (sign - 1)) << 1
        u = tl.where(u == sign, 1, key) if NEGATIVE_ZEROS else key
    elif KIND == FNUZ:
        u = tl.where(u == sign, sign << 1, (u & (sign - 1)) << 1)
    return word, u


@triton.jit
def spread(
    values, bitmask, out, size, columns, width, number, EVEN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Decode the elements of BLOCK bytes of the bitmask; a third bit of a group reads zero."""
    byte, there, column, at = places(size, columns, width, EVEN, BLOCK)
    i = tl.arange(0, 8)[None, :]
    bits = tl.load(bitmask + byte, mask=there, other=0).to(tl.int32)
    rank = ones((bits >> (i & 4)) & ((1 << (i & 3)) - 1))
    place = column // 4 * 2 + rank
    kept = there & (((bits >> i) & 1) != 0) & (rank < 2) & (place < number)
    value = tl.load(values + byte // width * number + place, mask=kept, other=0)
    tl.store(out + at, value, mask=there & (column < columns))
