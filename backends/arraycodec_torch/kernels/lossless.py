"""Triton kernels of `Lossless`: the steps of `arraycodec_torch.lossless` in the same order.

First a lane decodes a stream, symbol by symbol, into a row of `pitch` bytes. Then programs with tiles of ROWS streams
and STEPS elements of each merge symbols and rests to words, which lie beside each other where streams are columns.
"""

import triton
import triton.language as tl

from arraycodec.primitives.entropy import plan

SIGNED = tl.constexpr(plan.SIGNED)
FLOAT = tl.constexpr(plan.FLOAT)
PALETTE = tl.constexpr(plan.PALETTE)


@triton.jit
def decode_streams(
    words, starts, ends, table, labels, out, found, size, count, whole, length, rest, unit, pitch,
    ANS: tl.constexpr, BITS: tl.constexpr, PACK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Decode LANES streams: of `length` symbols the first `whole` ones, of `rest` the others; PACK symbols a store.

    found: whether each stream ends where it should. A window of 64 bits holds the next ones from `at` < 32 on, and the
    32 behind them wait in `ahead`, so that nothing waits for the load that follows.
    """
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    inside = lane < count
    start = tl.load(starts + lane, mask=inside, other=0)
    steps = tl.where(lane < whole, length, rest)
    word, at = start >> 5, (start & 31).to(tl.uint32)
    window = load_word(words, word, size, inside) | load_word(words, word + 1, size, inside) << 32
    ahead = load_word(words, word + 2, size, inside)
    state = tl.zeros([LANES], tl.uint32)
    if ANS:
        state = next_bits(window, at, BITS)
        window, ahead, word, at = skip(words, window, ahead, word, at + BITS, size, inside)
    for first in range(0, length, unit):
        label = tl.load(
            labels + lane * ((length + unit - 1) // unit) + first // unit, mask=inside & (first < steps), other=0
        )
        for step in range(first, tl.minimum(first + unit, length), PACK):
            packed = tl.zeros([LANES], tl.uint32)
            for i in tl.static_range(PACK):
                present = inside & (step + i < steps)
                bits = next_bits(window, at, BITS)
                entry = tl.load(table + (label + (state if ANS else bits)), mask=present, other=0)
                taken = entry & 15
                if ANS:
                    state = tl.where(present, (entry >> 16) + (bits & ((1 << taken) - 1)), state)
                window, ahead, word, at = skip(words, window, ahead, word, at + taken, size, inside)
                packed |= ((entry >> 8) & 255) << (8 * i)
            tl.store(out + (lane * pitch + step) // PACK, packed.to(out.dtype.element_ty), mask=inside)
    end = (word * 32 + at + 7) >> 3
    tl.store(found + lane, (end == tl.load(ends + lane, mask=inside, other=0)) & (state == 0), mask=inside)


@triton.jit
def load_word(words, word, size, inside):
    """32 bits of the streams, zeros behind their end, as the low half of 64."""
    return tl.load(words + word, mask=inside & (word < size), other=0).to(tl.uint64)


@triton.jit
def next_bits(window, at, BITS: tl.constexpr):
    """The bits of a window from `at` on."""
    return (window >> at.to(tl.uint64)).to(tl.uint32) & ((1 << BITS) - 1)


@triton.jit
def skip(words, window, ahead, word, at, size, inside):
    """The window that has the bits from `at` on in its lower half."""
    over = at >= 32
    window = tl.where(over, (window >> 32) | (ahead << 32), window)
    word = tl.where(over, word + 1, word)
    ahead = tl.where(over, load_word(words, word + 2, size, inside & over), ahead)
    return window, ahead, word, tl.where(over, at - 32, at)


@triton.jit
def merge(
    plan, symbols, raw, places, zeros, palette, out, found, count, height, columns, pitch, number_of_words, lone,
    WORD: tl.constexpr, REST: tl.constexpr, ARRANGEMENT: tl.constexpr, SIGN: tl.constexpr, CODED: tl.constexpr,
    LONE: tl.constexpr, ZEROS: tl.constexpr, ROWS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Merge ROWS x STEPS words of WORD bits; found: whether a palette has all of them."""
    across = (height + STEPS - 1) // STEPS
    program = tl.program_id(0)
    row = (program // across).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    step = program % across * STEPS + tl.arange(0, STEPS)[None, :]
    present = row < count
    inside = present & (step < height)
    dropped = tl.load(zeros + row, mask=present, other=0).to(tl.int32) if ZEROS else tl.zeros([ROWS, 1], tl.int32)
    place = tl.multiple_of(tl.load(places + row, mask=present, other=0), [8, 8])
    u = load_rest(raw + place, dropped, step, height, inside, WORD, REST, ZEROS)
    if ZEROS:
        u = u << tl.minimum(dropped, WORD - 1).to(u.dtype)
    symbol = tl.load(symbols + row * pitch + step, mask=inside, other=0) if CODED else tl.zeros([1, 1], tl.uint8)
    if REST < WORD:
        u += symbol.to(u.dtype) << REST
    u += tl.load(plan + 3).to(u.dtype)
    if WORD == 64:
        u += tl.load(plan + 4).to(u.dtype) << 32
    elif WORD < 32:
        u = u & ((1 << WORD) - 1)
    if ARRANGEMENT == SIGNED:
        u = u ^ (1 << (WORD - 1))
    elif ARRANGEMENT == FLOAT:
        low: tl.constexpr = (1 << SIGN) - 1
        u = (((u >> 1) | low) ^ low) | (u & low) | (((u >> SIGN) & 1) << (WORD - 1))
    elif ARRANGEMENT == PALETTE:
        missing = inside & (u >= number_of_words)
        tl.store(found + program, tl.max(tl.max(missing.to(tl.int32), axis=1), axis=0) == 0)
        u = tl.load(palette + u.to(tl.int32), mask=inside & (u < number_of_words), other=0)
    if LONE:
        u = tl.where(symbol == lone, tl.load(palette).to(u.dtype), u)
    at = (row // columns * height + step) * columns + row % columns
    tl.store(out + at, u.to(out.dtype.element_ty), mask=inside)


@triton.jit
def load_rest(
    chunk, dropped, step, height, inside, WORD: tl.constexpr, REST: tl.constexpr, ZEROS: tl.constexpr
):  # fmt: skip
    """The rest of each word, from the sections of its stream's chunk: a width for each bit in the number of bits."""
    u = tl.zeros(inside.shape, tl.uint64 if WORD == 64 else tl.uint32)
    low = tl.zeros(dropped.shape, tl.int32)
    for log in tl.static_range(6, -1, -1):
        if (ZEROS and 1 << log <= REST) or REST >> log & 1:
            wanted = ((REST - dropped) >> log & 1) != 0
            section = load_section(chunk, step, height, inside & wanted, 1 << log).to(u.dtype)
            u |= section << tl.where(wanted, low, 0).to(u.dtype)
            chunk += tl.where(wanted, ((height << log) + 63) // 64 * 8, 0)
            low += tl.where(wanted, 1 << log, 0)
    return u


@triton.jit
def load_section(chunk, step, height, inside, WIDTH: tl.constexpr):
    """The integers of a section; of less than a byte, one from each byte, then the next one from each."""
    if WIDTH == 64:
        value = tl.load(chunk.to(tl.pointer_type(tl.uint64), bitcast=True) + step, mask=inside, other=0)
    elif WIDTH == 32:
        value = tl.load(chunk.to(tl.pointer_type(tl.uint32), bitcast=True) + step, mask=inside, other=0)
    elif WIDTH == 16:
        value = tl.load(chunk.to(tl.pointer_type(tl.uint16), bitcast=True) + step, mask=inside, other=0)
    elif WIDTH == 8:
        value = tl.load(chunk + step, mask=inside, other=0)
    else:
        stride = (height * WIDTH + 7) // 8
        shift = step // stride * WIDTH
        byte = tl.load(chunk + step % stride, mask=inside, other=0).to(tl.int32)
        value = (byte >> shift) & ((1 << WIDTH) - 1)
    return value
