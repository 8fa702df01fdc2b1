"""What the Triton kernels of all quantisers of tiles share: patches of the array, their tiles, scales and packed codes.

A program takes a patch: ROWS lines of `span` elements, and of each line BLOCK columns, of which `step` are its own.
What lines are depends on TILES, which `arraycodec_torch.triton_blockwise.plan` chooses:
    LINE    the tiles themselves, which follow each other in memory;
    CHUNK   the lines of the array, where the columns of a patch are of one tile;
    COLUMN  the lines of the array, with several tiles beside each other;
    FLOW    one line, the whole array, where neither lines nor tiles begin at a byte of codes.
Values of tiles and lines have a column, so that they broadcast. Indices are 64-bit.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.primitives import (
    INFINITY,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    ONE,
    SIGN,
    as_bits,
    as_float,
    flushed,
    narrow,
    used_scale,
    widen,
)

LINE = tl.constexpr(0)
CHUNK = tl.constexpr(1)
COLUMN = tl.constexpr(2)
FLOW = tl.constexpr(3)


@triton.jit
def patch(n, span, step, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr):
    """The lines of this program's patch, their first column in it, the elements, and which of them there are.

    WHOLE: the columns of a patch fill it, and the last one ends with the line.
    """
    chunks = (span + step - 1) // step
    program = tl.program_id(0).to(tl.int64)
    line = program // chunks * ROWS + tl.arange(0, ROWS)[:, None]
    first = program % chunks * step
    i = tl.arange(0, BLOCK)[None, :]
    at = line * span + first + i
    inside = at < n
    if not WHOLE:
        inside &= (i < step) & (first + i < span)
    return line, first, at, inside


@triton.jit
def tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES: tl.constexpr, BLOCK: tl.constexpr):
    """The tiles of a patch, in a shape that broadcasts with the elements, and which of them there are."""
    if TILES == LINE:
        tile, present = line, line * span < n
    else:
        across, down = (columns + width - 1) // width, (rows + height - 1) // height
        if TILES == CHUNK:
            column, present = first, line * span + first < n
        elif TILES == COLUMN:
            column, present = first + tl.arange(0, BLOCK)[None, :], inside
        else:
            line, column, present = at // columns, at % columns, inside
        tile = (line // rows * down + line % rows // height) * across + column // width
    return tile, present


@triton.jit
def absmax_of(run):
    """The bits of the largest magnitude of each line."""
    return flushed(tl.max(run & MAGNITUDE, axis=1))[:, None]


@triton.jit
def extremes(run):
    """The bits of the largest magnitude of the elements >= 0 of each line, and of those < 0."""
    above = tl.max(tl.where(run < SIGN, run, 0), axis=1)
    below = tl.max(tl.where(run >= SIGN, run & MAGNITUDE, 0), axis=1)
    return flushed(above)[:, None], flushed(below)[:, None]


@triton.jit
def extremes_of_tiles(
    source, found, slots, parts, bands, rows, columns, height, width, KIND: tl.constexpr, SIGNED: tl.constexpr,
    HIGH: tl.constexpr, SLOTS: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Extremes of tiles of any shape, from HIGH lines and SLOTS slots of WIDE columns at a time; not SIGNED: absmax.

    A tile has as many slots across as WIDE columns cover it, and `parts` parts of HIGH lines one above the other;
    `found` has a row for each of the `bands` rows of parts (twice as many if SIGNED) and a column for each slot.
    """
    program = tl.program_id(0).to(tl.int64)
    chunks = (slots + SLOTS - 1) // SLOTS
    part, slot = program // chunks, program % chunks * SLOTS + tl.arange(0, SLOTS)
    down = (rows + height - 1) // height
    band = part // parts
    within = part % parts * HIGH + tl.arange(0, HIGH)
    row = band % down * height + within
    line = band // down * rows + row
    beside = (width + WIDE - 1) // WIDE  # slots of a tile
    inner = (slot % beside * WIDE)[:, None] + tl.arange(0, WIDE)[None, :]
    column = (slot // beside * width)[:, None] + inner
    inside = ((inner < width) & (column < columns))[None, :, :] & ((within < height) & (row < rows))[:, None, None]
    at = line[:, None, None] * columns + column[None, :, :]
    run = widen(tl.load(source + at, mask=inside, other=0), KIND)
    target = found + part * slots + slot
    above = tl.where(run < SIGN, run, 0) if SIGNED else run & MAGNITUDE
    tl.store(target, flushed(tl.max(tl.max(above, axis=2), axis=0)), mask=slot < slots)
    if SIGNED:
        below = tl.where(run >= SIGN, run & MAGNITUDE, 0)
        tl.store(target + bands * slots, flushed(tl.max(tl.max(below, axis=2), axis=0)), mask=slot < slots)


@triton.jit
def is_usable(scale):
    """Whether elements can be divided by the scale: it is positive, finite and not below 2^-100."""
    return (scale >= MIN_SCALE) & (scale < INFINITY)


@triton.jit
def divided(run, scale):
    """Elements over the bits of their scales, rounded once; 0 where the scale is NaN, negative or < 2^-100."""
    usable = is_usable(scale)
    run = tl.where(usable, flushed(run), 0)
    divisor = tl.where(usable, scale, ONE)
    run, divisor = tl.broadcast(run, divisor)
    return tl.div_rn(as_float(run), as_float(divisor))


@triton.jit
def rint(y):
    """An integer of magnitude below 2^22 nearest to y, ties to even: its bits are the low ones of y + 1.5 * 2^23."""
    return (as_bits(y + 12582912.0) - 0x4B400000).to(tl.int32)


@triton.jit
def decoded(y, scale, KIND: tl.constexpr):
    """Values times the bits of their scales, rounded once to float32 and once to the kind.

    A zero keeps its sign where the scale is positive, finite and not below 2^-100, and is +0 elsewhere.
    """
    return narrow(product(y, as_float(used_scale(scale)), is_usable(scale)), KIND)


@triton.jit
def product(y, scale, usable):
    """Values times scales as bits; every NaN is the canonical one, and a zero is +0 where a scale is not usable."""
    u = as_bits(y * scale)
    u = tl.where(usable, u, flushed(u))
    return tl.where((u & MAGNITUDE) > INFINITY, NAN, u)


# -- packing: a dense little-endian bit stream, in which GROUP codes are whole bytes


@triton.jit
def store_dense(
    codes, code, line, first, at, inside, n, span, step,
    BITS: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the codes of a patch; neighbours move together until they are whole bytes."""
    if BITS == 8:
        tl.store(codes + at, code.to(tl.uint8), mask=inside)
    else:
        words = tl.where(inside, code, 0)  # the stream ends in zero bits
        even, odd = tl.split(tl.reshape(words, [ROWS, BLOCK // 2, 2]))
        words = even | (odd << BITS)
        if GROUP >= 4:
            even, odd = tl.split(tl.reshape(words, [ROWS, BLOCK // 4, 2]))
            words = even | (odd << 2 * BITS)
        if GROUP == 8:
            even, odd = tl.split(tl.reshape(words.to(tl.uint64), [ROWS, BLOCK // 8, 2]))
            words = even | (odd << 4 * BITS)
        byte, remaining, present = groups(line, first, n, span, step, BITS, GROUP, EVEN, BLOCK)
        for k in tl.static_range(GROUP * BITS // 8):
            there = present if EVEN else present & (remaining > 8 * k)
            tl.store(codes + byte + k, (words >> 8 * k).to(tl.uint8), mask=there)


@triton.jit
def load_dense(
    codes, line, first, at, inside, n, span, step,
    BITS: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The inverse of `store_dense`: codes as uint32."""
    if BITS == 8:
        words = tl.load(codes + at, mask=inside, other=0).to(tl.uint32)
    else:
        byte, remaining, present = groups(line, first, n, span, step, BITS, GROUP, EVEN, BLOCK)
        words = tl.zeros([ROWS, BLOCK // GROUP], tl.uint64 if GROUP == 8 else tl.uint32)
        for k in tl.static_range(GROUP * BITS // 8):
            there = present if EVEN else present & (remaining > 8 * k)
            piece = tl.load(codes + byte + k, mask=there, other=0)
            words |= piece.to(words.dtype) << 8 * k
        if GROUP == 8:
            words = tl.join(words & ((1 << 4 * BITS) - 1), words >> 4 * BITS).to(tl.uint32)
            words = tl.reshape(words, [ROWS, BLOCK // 4])
        if GROUP >= 4:
            words = tl.reshape(tl.join(words & ((1 << 2 * BITS) - 1), words >> 2 * BITS), [ROWS, BLOCK // 2])
        words = tl.reshape(tl.join(words & ((1 << BITS) - 1), words >> BITS), [ROWS, BLOCK])
    return words


@triton.jit
def groups(
    line, first, n, span, step, BITS: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr, BLOCK: tl.constexpr
):
    """The first byte of each group of codes in a patch, the bits from there to the end, and which groups there are.

    EVEN: all groups are whole, and those of a patch fill it or end with the line. Then bytes are what is compared, from
    which Triton sees that neighbours are there together, and so are moved together.
    """
    k = tl.arange(0, BLOCK // GROUP)[None, :]
    start = line * span + first  # whole groups, but in lines behind the only one
    byte = start // GROUP * (GROUP * BITS // 8) + k * (GROUP * BITS // 8)
    remaining = (n - start - k * GROUP) * BITS
    end = n // GROUP * (GROUP * BITS // 8)
    present = byte < end if EVEN else (k * GROUP < step) & (first + k * GROUP < span)
    return byte, remaining, present
