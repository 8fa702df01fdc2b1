"""Triton kernel of `TCQ`: the steps of `arraycodec.codecs.tcq` in the same order, but for rotations.

The kernel takes a patch of the array, as `arraycodec_torch.kernels.blockwise` describes, and loads besides it the bits
of the few elements before each one.
"""

import triton
import triton.language as tl

from arraycodec_torch.kernels.blockwise import decoded, load_dense, patch, tiles_of
from arraycodec_torch.kernels.primitives import BFLOAT16, widen


@triton.jit
def decode(
    codes, scales, values, out, n, span, step, rows, columns, height, width,
    KIND: tl.constexpr, BITS: tl.constexpr, REACH: tl.constexpr, PATH: tl.constexpr, TAPS: tl.constexpr,
    WRAP: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
    GROUP: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Decode a patch."""
    line, first, at, inside = patch(n, span, step, ROWS, BLOCK, WHOLE)
    tile, present = tiles_of(line, first, at, inside, n, span, rows, columns, height, width, TILES, BLOCK)
    scale = widen(tl.load(scales + tile, mask=present, other=0), BFLOAT16)
    code = load_dense(codes, line, first, at, inside, n, span, step, BITS, GROUP, EVEN, ROWS, BLOCK)
    column = columns_of(line, first, at, span, columns, WRAP, BLOCK) % PATH
    subset = (code >> (BITS - 1)) * (TAPS & 3)
    for d in tl.static_range(1, REACH):
        if (TAPS >> 2 * d) & 3 != 0:
            subset ^= bits_before(codes, at, d, inside & (column >= d), BITS) * ((TAPS >> 2 * d) & 3)
    level = ((code & ((1 << (BITS - 1)) - 1)) << 2) | subset
    tl.store(out + at, decoded(tl.load(values + level), scale, KIND), mask=inside)


@triton.jit
def columns_of(line, first, at, span, columns, WRAP: tl.constexpr, BLOCK: tl.constexpr):
    """The columns of the elements of a patch; WRAP: its lines may go on in the next row."""
    if WRAP:
        return at % columns
    return (line * span + first) % columns + tl.arange(0, BLOCK)[None, :]


@triton.jit
def bits_before(codes, at, d, there, BITS: tl.constexpr):
    """The highest bit of the code `d` elements before each, 0 where that is not there."""
    bit = (at - d) * BITS + (BITS - 1)
    return (tl.load(codes + (bit >> 3), mask=there, other=0).to(tl.uint32) >> (bit & 7).to(tl.uint32)) & 1


# -- the search: a program takes LANES paths, each a thread with the costs of its states in registers


@triton.jit
def search(
    numbers, firsts, weights, levels, found, out, paths, length,
    STATES: tl.constexpr, SUBSETS: tl.constexpr, CLIP: tl.constexpr, FAR: tl.constexpr, COARSE: tl.constexpr,
    WEIGHTED: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Viterbi's algorithm along paths: bits of the predecessors of all states, and the state that each path ends in.

    Arrays have a row of `paths` for each step; `found` has STATES bits, in rows of as many words.
    """
    kind: tl.constexpr = tl.int64 if WEIGHTED else tl.int32
    word: tl.constexpr = found.dtype.element_ty.primitive_bitwidth
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    there, place = lane < paths, lane
    cost = (tl.zeros([LANES], kind),)
    for _ in tl.static_range(STATES - 1):
        cost = cost + (tl.full([LANES], FAR, kind),)  # noqa: RUF005
    for _ in range(length):
        number = tl.load(numbers + lane, mask=there, other=0).to(tl.int32)
        first = tl.load(firsts + lane, mask=there, other=0).to(tl.int32)
        weight = tl.load(weights + lane, mask=there, other=0).to(kind) if WEIGHTED else 1
        distance = ()
        for subset in tl.static_range(4):
            e = (number - tl.load(levels + first + ((subset - first) & 3))) >> COARSE
            e = tl.minimum(tl.maximum(e, -CLIP), CLIP)
            distance = distance + ((e * e).to(kind) * weight,)  # noqa: RUF005
        cost, took = step(cost, distance, STATES, SUBSETS, word)
        for i in tl.static_range(STATES // word):
            tl.store(found + place, took[i].to(found.dtype.element_ty), mask=there)
            place += paths
        lane += paths
    state, least = tl.zeros([LANES], tl.int32), cost[0]
    for s in tl.static_range(1, STATES):
        state = tl.where(cost[s] < least, s, state)
        least = tl.minimum(cost[s], least)
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    tl.store(out + lane, state, mask=there)


@triton.jit
def step(cost, distance, STATES: tl.constexpr, SUBSETS: tl.constexpr, WORD: tl.constexpr):
    """One step: the costs of states, beyond that of state 0, and which came from the one with the highest bit set."""
    after, words = (), ()
    for i in tl.static_range(STATES // WORD):
        took = tl.zeros(cost[0].shape, tl.uint32)
        for k in tl.static_range(WORD):
            zero = cost[(WORD * i + k) // 2] + distance[SUBSETS[WORD * i + k]]
            one = cost[(WORD * i + k + STATES) // 2] + distance[SUBSETS[WORD * i + k + STATES]]
            took |= (one < zero).to(tl.uint32) << k
            after = after + (tl.minimum(zero, one),)  # noqa: RUF005
        words = words + (took,)  # noqa: RUF005
    beyond = ()
    for s in tl.static_range(STATES):
        beyond = beyond + (after[s] - after[0],)  # noqa: RUF005
    return beyond, words


@triton.jit
def trace(
    ways, ends, firsts, subsets, out, paths, length, STATES: tl.constexpr, TOP: tl.constexpr, LANES: tl.constexpr
):
    """Back from the states that paths end in: codes, whose bit is TOP."""
    word: tl.constexpr = ways.dtype.element_ty.primitive_bitwidth
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    there = lane < paths
    state = tl.load(ends + lane, mask=there, other=0)
    for i in range(length):
        t = length - 1 - i
        way = tl.load(ways + (t * (STATES // word) + state // word).to(tl.int64) * paths + lane, mask=there, other=0)
        before = (state >> 1) | (((way.to(tl.uint32) >> (state % word).to(tl.uint32)) & 1) * (STATES // 2)).to(tl.int32)
        first = tl.load(firsts + t * paths + lane, mask=there, other=0).to(tl.int32)
        newest = state & 1
        subset = tl.load(subsets + ((before << 1) | newest)).to(tl.int32)
        code = (newest * TOP) | ((first + ((subset - first) & 3)) >> 2)
        tl.store(out + t * paths + lane, code.to(tl.uint8), mask=there)
        state = before
