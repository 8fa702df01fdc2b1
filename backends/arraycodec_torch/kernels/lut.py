"""Triton kernels of `Lut`: the steps of `arraycodec.codecs.lut` in the same order, but for training.

A kernel takes a patch of the array, as `arraycodec_torch.kernels.blockwise` describes.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.blockwise import absmax_of, decoded, load_dense, patch, store_dense, tiles_of
from arraycodec_torch.kernels.normal import integers_of, scales_of
from arraycodec_torch.kernels.primitives import BFLOAT16, narrow, widen


@triton.jit
def encode(
    source, scales, bounds, codes, n, span, step, rows, columns, height, width, length,
    KIND: tl.constexpr, BITS: tl.constexpr, BOOKS: tl.constexpr, LARGEST: tl.constexpr, FIND: tl.constexpr,
    TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Encode a patch; FIND: each of its lines is a tile, whose scale is found and stored as well."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    run = widen(tl.load(source + at, mask=inside, other=0), KIND)
    tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
    if FIND:
        scale = scales_of(absmax_of(run), LARGEST)  # 1
        tl.store(scales + tile, narrow(scale, BFLOAT16), mask=present)
    else:
        scale = widen(tl.load(scales + tile, mask=present, other=0), BFLOAT16)
    q = integers_of(run, scale)  # 2
    code = nearest_code(q, bounds, at, inside, length, BITS, BOOKS)  # 4
    store_dense(codes, code, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)


@triton.jit
def decode(
    codes, scales, values, out, n, span, step, rows, columns, height, width, length,
    KIND: tl.constexpr, BITS: tl.constexpr, BOOKS: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WHOLE: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Decode a patch."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
    scale = widen(tl.load(scales + tile, mask=present, other=0), BFLOAT16)
    code = load_dense(codes, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)
    book = at // length if BOOKS else 0
    y = tl.load(values + (book * (1 << BITS) + code), mask=inside, other=0)
    tl.store(out + at, decoded(y, scale, KIND), mask=inside)


@triton.jit
def nearest_code(q, bounds, at, inside, length, BITS: tl.constexpr, BOOKS: tl.constexpr):
    """Step 4: the number of bounds of its book below each integer, by halving; BOOKS: there is more than one."""
    code = tl.zeros(q.shape, tl.int32)
    if BOOKS:
        bounds += tl.where(inside, at // length, 0) * ((1 << BITS) - 1)
    for k in tl.static_range(BITS):
        half = 1 << (BITS - 1 - k)
        code += tl.where(tl.load(bounds + code + (half - 1)) < q, half, 0)
    return code.to(tl.uint32)
