"""Triton kernel of `Delta`: the steps of `arraycodec_torch.delta` in the same order, with a lane for each stream."""

import triton
import triton.language as tl

from arraycodec_torch.kernels.lossless import load_word, next_bits, skip
from arraycodec_torch.kernels.primitives import as_bits, as_float


@triton.jit
def decode_differences(
    words, starts, ends, table, rows, labels, scales, curve_of, curves, meaning, base, out, found,
    size, n, count, stream, unit, shift, first_bucket, buckets, curve_shift,
    BITS: tl.constexpr, WORD: tl.constexpr, SIGN: tl.constexpr, FLIP: tl.constexpr,
    SCALED: tl.constexpr, CURVES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Decode LANES streams; found: whether each ends where it should. Windows are those of `decode_streams`."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = lane < count
    start = tl.load(starts + lane, mask=inside, other=0)
    word, at = start >> 5, (start & 31).to(tl.uint32)
    window = load_word(words, word, size, inside) | load_word(words, word + 1, size, inside) << 32
    ahead = load_word(words, word + 2, size, inside)
    state = next_bits(window, at, BITS)
    window, ahead, word, at = skip(words, window, ahead, word, at + BITS, size, inside)
    for first in range(0, stream, unit):
        here = lane * stream + first
        own_unit = lane * (stream // unit) + first // unit
        label = tl.load(labels + own_unit, mask=here < n, other=0).to(tl.int32)
        factor = tl.load(scales + own_unit, mask=here < n, other=1.0) if SCALED else 1.0
        curve = tl.load(curve_of + label, mask=here < n, other=0).to(tl.int32) if CURVES else 0
        for i in range(unit):
            present = here + i < n
            element = tl.load(base + here + i, mask=present, other=0).to(tl.uint32)
            sign = element & SIGN
            m = element ^ sign
            v = m ^ FLIP
            bucket = tl.minimum(tl.maximum((v >> shift).to(tl.int64) - first_bucket, 0), buckets - 1)
            row = tl.load(rows + label * buckets + bucket, mask=present, other=0)
            entry = tl.load(table + (row + state), mask=present, other=0)
            taken = entry & 15
            state = tl.where(present, (entry >> 16) + (next_bits(window, at, BITS) & ((1 << taken) - 1)), state)
            window, ahead, word, at = skip(words, window, ahead, word, at + taken, size, inside)
            told = tl.load(meaning + ((entry >> 8) & 255), mask=present, other=0)
            raw = (told >> 32).to(tl.uint32)
            z = told.to(tl.uint32) + (next_bits(window, at, 31) & ((1 << raw) - 1))
            window, ahead, word, at = skip(words, window, ahead, word, at + raw, size, inside)
            if SCALED:
                m = scaled(m, factor)
            if CURVES:
                bend = tl.load(curves + (curve - 1) * 256 + ((v >> curve_shift) & 255).to(tl.int32),
                               mask=present & (curve > 0), other=0)  # fmt: skip
                m += bend
            w = (m + ((z >> 1) ^ (0 - (z & 1)))) & ((1 << WORD) - 1)
            if SIGN:
                w = tl.where((w & SIGN) != 0, w ^ (SIGN - 1), w)
            tl.store(out + here + i, (w ^ sign).to(out.dtype.element_ty), mask=present)
    end = (word * 32 + at + 7) >> 3
    tl.store(found + lane, (end == tl.load(ends + lane, mask=inside, other=0)) & (state == 0), mask=inside)


@triton.jit
def scaled(m, factor):
    """The bits of float32 magnitudes times a factor, where both are normal and the product is not the smallest such."""
    product = as_bits(as_float(m) * factor)
    field, product_field = m >> 23, product >> 23
    normal = (field >= 1) & (field <= 254) & (product_field >= 2) & (product_field <= 254)
    return tl.where(normal, product, m)
