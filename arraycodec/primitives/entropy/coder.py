"""Coding and decoding of whole arrays of words by a plan: streams in threads, each with its rest, patches at the end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.entropy import ans, huffman, tables
from arraycodec.primitives.entropy.bitstreams import (
    ans_four,
    ans_one,
    ans_write,
    huffman_four,
    huffman_one,
    huffman_write,
)
from arraycodec.primitives.entropy.fields import arranged, constants, words_of
from arraycodec.primitives.entropy.plan import ANS, HUFFMAN, NONE, SLACK, Choice, Plan, Streams
from arraycodec.primitives.entropy.rest import chunk_places, load_rest, store_rest
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.threads import split

PIECE = 1 << 19  # elements that one call of a kernel codes
TILE = 64  # columns that are turned into rows together
GAP = 65535  # the longest way to the next patch


class Coded(NamedTuple):
    """The planes of an array, as arrays of unsigned integers."""

    plan: np.ndarray
    tables: np.ndarray
    index: np.ndarray
    streams: np.ndarray
    raw: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class Layout:
    """Where everything of an array lies, found from its small planes and checked."""

    plan: Plan
    size: int
    streams: Streams
    places: np.ndarray  # int64: where each stream starts in the plane `streams`, and where the last one ends
    chunks: np.ndarray  # int64: where each chunk starts in the plane `raw`, and where the last one ends
    tables: np.ndarray  # uint16 (T, A)
    labels: np.ndarray  # uint8
    firsts: np.ndarray  # int64: the first unit of every stream
    zeros: np.ndarray  # uint8
    patches: np.ndarray  # int64: places of elements in the flattened array

    @property
    def slack(self) -> int:
        """The bytes that a decoder may load after a stream."""
        return SLACK if self.plan.coder != NONE else 0

    def check(self, streams: int, raw: int) -> None:
        """Raise CorruptError unless the large planes have these bytes."""
        for name, want, got in (("streams", self.places[-1] + self.slack, streams), ("raw", self.chunks[-1], raw)):
            if want != got:
                raise CorruptError(f"lossless: plane {name!r} must have {want} bytes, got {got}")

    def streams_of(self, start: int, stop: int) -> tuple[int, int]:
        """The range of streams that holds the elements start..stop, which are not none; of columns, whole bands."""
        height, columns = self.plan.stream, self.plan.columns
        if not columns:
            return start // height, -(-stop // height)
        count = self.streams.starts.size
        return start // (height * columns) * columns, min(-(-stop // (height * columns)) * columns, count)

    def part(self, first: int, last: int) -> Layout:
        """The layout of these streams alone, for planes that begin with them; elements keep their places."""
        picked = slice(first, last)
        firsts = self.firsts[picked]
        return replace(
            self,
            streams=Streams(self.streams.starts[picked], self.streams.lengths[picked]),
            places=self.places[first : last + 1] - self.places[first],
            chunks=self.chunks[first : last + 1] - self.chunks[first],
            labels=self.labels[firsts[0] :],
            firsts=firsts - firsts[0],
            zeros=self.zeros[picked],
        )


def layout_of(
    plan_plane: np.ndarray, table_plane: np.ndarray, index: np.ndarray, words: np.ndarray, size: int, bits: int
) -> Layout:
    """The layout of an array of `size` words of so many bits; CorruptError where its small planes do not go together."""
    plan = Plan.of(plan_plane, bits, size)
    count = plan.number_of_streams(size)
    streams = plan.streams(size)
    units = streams.units(max(plan.unit, 1))
    firsts = np.cumsum(units) - units
    found, labels, zeros = tables.unpack(plan, table_plane, int(units.sum()), count)
    coded = count if plan.coder != NONE else 0
    if index.size < coded:
        raise CorruptError(f"lossless: plane 'index' must have the lengths of {coded} streams, got {index.size}")
    places = np.zeros(count + 1, np.int64)
    np.cumsum(index[:coded], out=places[1 : coded + 1])
    gaps = index[coded:].astype(np.int64)
    patches = (np.cumsum(np.where(gaps == 0, GAP, gaps)) - 1)[gaps > 0]
    if patches.size and patches[-1] >= size:
        raise CorruptError(f"lossless: a patch at element {patches[-1]} of {size}")
    if plan.palette + patches.size != words.size:
        raise CorruptError(f"lossless: plane 'words' must have {plan.palette + patches.size} words, got {words.size}")
    chunks = chunk_places(streams.lengths, zeros, plan.rest)
    return Layout(plan, size, streams, places, chunks, found, labels, firsts, zeros, patches)


# -- decoding


class Decoder(NamedTuple):
    """What the kernels decode with."""

    coder: int
    tables: np.ndarray  # uint32 (T, 2^bits)
    lengths: np.ndarray  # uint16 (T, A)
    labels: np.ndarray
    firsts: np.ndarray
    unit: int
    reach: int  # bytes that a stream of one element more could take, at most, for each 8 elements


def decoder(found: Layout) -> Decoder:
    """The decoding tables of a layout."""
    plan = found.plan
    made = np.zeros((plan.tables, 1 << plan.bits), np.uint32)
    for table in range(plan.tables):
        build = huffman.decoding_table if plan.coder == HUFFMAN else ans.decoding_table
        made[table] = build(found.tables[table], plan.bits)
    return Decoder(plan.coder, made, found.tables, found.labels, found.firsts, max(plan.unit, 1), plan.bits)


def decode(found: Layout, data: np.ndarray, raw: np.ndarray, words: np.ndarray, out: np.ndarray) -> None:
    """The words of a whole array, into `out`."""
    _decode(found, data, raw, words, out, 0)
    out[found.patches] = words[found.plan.palette :]


def decode_part(
    found: Layout, data: np.ndarray, raw: np.ndarray, words: np.ndarray, start: int, stop: int
) -> np.ndarray:
    """The words start..stop of an array, from the streams around them."""
    origin = int(found.streams.starts[0])
    out = np.empty(int((found.streams.lengths).sum()), words.dtype)
    _decode(found, data, raw, words, out, origin)
    inside = (found.patches >= origin) & (found.patches < origin + out.size)
    out[found.patches[inside] - origin] = words[found.plan.palette :][inside]
    return out[start - origin : stop - origin]


def _decode(found: Layout, data: np.ndarray, raw: np.ndarray, words: np.ndarray, out: np.ndarray, origin: int) -> None:
    """All streams of a layout, in threads, into `out`, which begins at element `origin`."""
    tools, count = decoder(found), found.streams.starts.size
    if not found.plan.columns:
        step = max(1, PIECE // max(found.plan.stream, 1))

        def pieces(first: int, last: int) -> None:
            for at in range(first * step, min(last * step, count), step):
                decode_streams(found, tools, data, raw, words, at, min(at + step, count), origin, out)

        split(pieces, -(-count // step), out.size)
        return
    bands = _pieces(found.plan, count)

    def tiles(first: int, last: int) -> None:
        for at in range(first, last):
            decode_band(found, tools, data, raw, words, bands[at], out, origin)

    split(tiles, len(bands), out.size)


def decode_streams(
    found: Layout,
    tools: Decoder,
    data: np.ndarray,
    raw: np.ndarray,
    words: np.ndarray,
    first: int,
    last: int,
    origin: int,
    out: np.ndarray,
    local: np.ndarray | None = None,
) -> None:
    """Decode the streams first..last; `out` begins at element `origin`, or they go to the places `local` in it."""
    plan = found.plan
    order = np.arange(first, last)
    if plan.tables > 1:  # streams of one table one after another, so that it stays in the cache
        order = order[np.argsort(found.labels[found.firsts[first:last]], kind="stable")]
    starts = found.streams.starts[first:last] - origin if local is None else local
    wrong = decode_kernel(
        order, first, starts, found.streams.lengths, found.places, tools, data, found.chunks, found.zeros,
        raw, plan.rest, plan.arrangement, constants(plan, out.dtype), words[: plan.palette], out,
    )  # fmt: skip
    if wrong >= 0:
        raise CorruptError(f"lossless: stream {wrong} is not what its table and its length in the index say")


def decode_band(
    found: Layout, tools: Decoder, data: np.ndarray, raw: np.ndarray, words: np.ndarray,
    streams: tuple[int, int], out: np.ndarray, origin: int,
) -> None:  # fmt: skip
    """Decode columns of a band, which are streams, and turn them."""
    first, last = streams
    height = int(found.streams.lengths[first])
    turned = np.empty((last - first, height), out.dtype)
    local = np.arange(last - first) * height
    decode_streams(found, tools, data, raw, words, first, last, 0, turned.reshape(-1), local)
    transpose(turned, out, int(found.streams.starts[first]) - origin, found.plan.columns)


@kernel
def transpose(turned, out, start, columns):
    """Rows of `turned` as columns of a matrix so many columns wide, from its element `start` on."""
    for top in range(0, turned.shape[1], 16):
        for left in range(0, turned.shape[0], 16):
            for row in range(top, min(top + 16, turned.shape[1])):
                target = out[start + row * columns + left : start + row * columns + min(left + 16, turned.shape[0])]
                for k in range(target.size):
                    target[k] = turned[left + k, row]


@kernel
def decode_kernel(
    order, first, starts, lengths, places, tools, data, chunks, zeros, raw, rest, arrangement, c, palette, out
):
    """Decode streams in this order; the first one that is wrong, or -1."""
    most = 0
    for i in order:
        most = max(most, lengths[i])
    symbols, bits = np.zeros(4 * most + 16, np.uint8), np.empty(4, np.int64)
    at = 0
    while at < order.size:
        count = lengths[order[at]]
        together = together_from(order, at, lengths, places, data.size, tools)
        if tools.coder != 0:
            wrong = decode_symbols(order, at, together, count, places, tools, data, bits, symbols)
            if wrong >= 0:
                return wrong
        for k in range(together):
            i = order[at + k]
            words = out[starts[i - first] : starts[i - first] + count]
            load_rest(raw[chunks[i] : chunks[i + 1]], rest - zeros[i], words)
            if not words_of(symbols[k * count : (k + 1) * count], zeros[i], arrangement, c, palette, words):
                return i
        at += together
    return -1


@kernel
def together_from(order, at, lengths, places, size, tools):
    """4 where the next four streams are of one length, are followed by enough bytes and hold whole units; else 1."""
    if at + 4 > order.size:
        return 1
    count = lengths[order[at]]
    if tools.coder == ANS and (tools.unit & 3 or count % tools.unit):
        return 1
    for k in range(4):
        i = order[at + k]
        if lengths[i] != count:
            return 1
        if tools.coder != NONE and places[i] + (count + 2) * tools.reach // 8 + 2 * SLACK > size:
            return 1
    return 4


@kernel
def decode_symbols(order, at, together, count, places, tools, data, bits, symbols):
    """The symbols of one stream, or of four; the first one that does not end where it should, or -1."""
    t, labels, firsts = tools.tables, tools.labels, tools.firsts
    if together == 4:
        a, b, c, d = order[at], order[at + 1], order[at + 2], order[at + 3]
        bits[0], bits[1], bits[2], bits[3] = 8 * places[a], 8 * places[b], 8 * places[c], 8 * places[d]
        if tools.coder == HUFFMAN:
            p, q, r, s = labels[firsts[a]], labels[firsts[b]], labels[firsts[c]], labels[firsts[d]]
            lengths = (tools.lengths[p], tools.lengths[q], tools.lengths[r], tools.lengths[s])
            huffman_four(data, bits, t[p], t[q], t[r], t[s], lengths, count, symbols)
        else:
            p, q, r, s = labels[firsts[a] :], labels[firsts[b] :], labels[firsts[c] :], labels[firsts[d] :]
            ans_four(data, bits, t, p, q, r, s, tools.unit, count, symbols)
    else:
        i = order[at]
        label = labels[firsts[i]]
        if tools.coder == HUFFMAN:
            bits[0] = huffman_one(data, 8 * places[i], t[label], tools.lengths[label], symbols[:count])
        else:
            bits[0] = ans_one(data, 8 * places[i], t, labels[firsts[i] :], tools.unit, symbols[:count])
    for k in range(together):
        if bits[k] < 0 or (bits[k] + 7) >> 3 != places[order[at + k] + 1]:
            return order[at + k]
    return -1


# -- encoding


class Encoder(NamedTuple):
    """What the kernels encode with."""

    coder: int
    symbols: int
    likely: np.ndarray  # uint8 (T,): what stands for a symbol without a code
    known: np.ndarray  # bool (T, A)
    codes: np.ndarray  # uint64 (T, A): of Huffman
    drops: np.ndarray  # uint32 (T, A): of ANS
    firsts: np.ndarray  # int64 (T, A)
    states: np.ndarray  # uint16 (T, 2^bits)
    labels: np.ndarray  # uint8, of units
    unit_firsts: np.ndarray  # int64, of streams
    unit: int


def encoder(choice: Choice, streams: Streams) -> Encoder:
    """The encoding tables of a choice."""
    plan, (t, a) = choice.plan, choice.tables.shape
    codes, drops, firsts = np.zeros((t, a), np.uint64), np.zeros((t, a), np.uint32), np.zeros((t, a), np.int64)
    states = np.zeros((t, 1 << plan.bits), np.uint16)
    for table in range(t):
        if plan.coder == HUFFMAN:
            codes[table] = huffman.codes(choice.tables[table])
        else:
            drops[table], firsts[table], states[table] = ans.encoding_tables(choice.tables[table], plan.bits)
    likely = np.array([_likely(plan, table) for table in choice.tables], np.uint8)
    units = streams.units(max(plan.unit, 1))
    labels = choice.labels if plan.tables > 1 else np.zeros(int(units.sum()), np.uint8)
    known = choice.tables > 0
    return Encoder(
        plan.coder, plan.symbols, likely, known, codes, drops, firsts, states, labels, np.cumsum(units) - units,
        max(plan.unit, 1),
    )  # fmt: skip


def _likely(plan: Plan, table: np.ndarray) -> int:
    """The first of the symbols that take the fewest bits."""
    return int(np.argmin(np.where(table > 0, table, 255)) if plan.coder == HUFFMAN else np.argmax(table))


def encode(words: np.ndarray, choice: Choice) -> Coded:
    """The planes of an array of words."""
    plan, size = choice.plan, words.size
    streams = plan.streams(size)
    count = streams.starts.size
    zeros = choice.zeros if plan.zeros else np.zeros(count, np.uint8)
    chunks = chunk_places(streams.lengths, zeros, plan.rest)
    raw = np.empty(int(chunks[-1]), np.uint8)
    tools, c = encoder(choice, streams), constants(plan, words.dtype)
    index = np.zeros(count if plan.coder != NONE else 0, np.uint16)
    edges = _pieces(plan, count)
    parts: list[np.ndarray] = [np.zeros(0, np.uint8)] * len(edges)
    patched: list[np.ndarray] = [np.zeros(0, np.int64)] * len(edges)

    def work(first: int, last: int) -> None:
        for at in range(first, last):
            low, high = edges[at]
            source, starts = _gather(words, streams, low, high, plan.columns)
            lengths = streams.lengths[low:high]
            room = int(lengths.sum()) * plan.bits // 8 + 16 * (high - low) + 2 * SLACK if plan.coder else 0
            out, places = np.empty(room, np.uint8), np.empty(int(lengths.sum()), np.int32)
            used, found = encode_kernel(
                source, starts, lengths, low, tools, zeros, plan.rest, plan.arrangement, c, choice.palette, chunks, raw,
                index, out, places,
            )  # fmt: skip
            parts[at] = out[:used].copy()
            patched[at] = _elements(places[:found], streams, low, high, plan.columns)

    split(work, len(edges), size)
    data = _joined(parts) if plan.coder != NONE else np.zeros(0, np.uint8)
    places = np.sort(np.concatenate([np.zeros(0, np.int64), *patched]))
    return Coded(
        plan.to_array(),
        tables.pack(plan, choice.tables, choice.labels, zeros),
        np.concatenate([index, gaps_of(places)]),
        data,
        raw,
        np.concatenate([choice.palette, words[places]]),
    )


def _pieces(plan: Plan, count: int) -> list[tuple[int, int]]:
    """Ranges of streams that one call of the kernel codes."""
    if plan.columns:
        bands = range(0, count, plan.columns)
        return [
            (at, min(at + TILE, band + plan.columns)) for band in bands for at in range(band, band + plan.columns, TILE)
        ]
    step = max(1, PIECE // max(plan.stream, 1))
    return list(pairwise([*range(0, count, step), count]))


def _gather(words: np.ndarray, streams: Streams, low: int, high: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The words of streams, each contiguous, and where each starts."""
    start, length = int(streams.starts[low]), int(streams.lengths[low])
    if not columns:
        return words[start : int(streams.starts[high - 1] + streams.lengths[high - 1])], streams.starts[
            low:high
        ] - start
    rows = words[start - start % columns : start - start % columns + length * columns].reshape(length, columns)
    left = start % columns
    return np.ascontiguousarray(rows[:, left : left + high - low].T).reshape(-1), np.arange(high - low) * length


def _elements(places: np.ndarray, streams: Streams, low: int, high: int, columns: int) -> np.ndarray:
    """Places in gathered words as places in the flattened array."""
    start, length = int(streams.starts[low]), int(streams.lengths[low])
    if not columns:
        return places.astype(np.int64) + start
    stream, row = np.divmod(places.astype(np.int64), length)
    return start + stream + row * columns


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    """The parts one after another and the slack; each part is let go once it is copied."""
    joined, at = np.empty(sum(part.size for part in parts) + SLACK, np.uint8), 0
    for k in range(len(parts)):
        joined[at : at + parts[k].size] = parts[k]
        at += parts[k].size
        parts[k] = parts[k][:0].copy()
    joined[at:] = 0
    return joined


def gaps_of(places: np.ndarray) -> np.ndarray:
    """The gaps between patches at these places of the flattened array, as the plane `index` has them."""
    steps = np.diff(places, prepend=-1)
    far = (steps - 1) // GAP
    gaps = np.zeros(int(far.sum()) + places.size, np.uint16)
    gaps[np.cumsum(far + 1) - 1] = steps - far * GAP
    return gaps


@kernel
def encode_kernel(
    source, starts, lengths, first, tools, zeros, rest, arrangement, c, palette, chunks, raw, index, out, places
):
    """Code streams one after another; the bytes written, and the number of patches, whose places in `source` are left
    in `places`.
    """
    most = 0
    for length in lengths:
        most = max(most, length)
    u, symbols, pieces = np.empty(most, source.dtype), np.empty(most, np.uint8), np.empty(most, np.uint64)
    at, found = 0, 0
    for k in range(starts.size):
        i, count = first + k, lengths[k]
        part, coded = u[:count], symbols[:count]
        arranged(source[starts[k] : starts[k] + count], arrangement, c, palette, part)
        labels = tools.labels[tools.unit_firsts[i] :]
        found = cut(part, rest, tools, labels, coded, starts[k], places, found)
        if zeros[i]:
            drop(part, zeros[i])
        store_rest(part, rest - zeros[i], raw[chunks[i] : chunks[i + 1]])
        if tools.coder != NONE:
            start = at
            if tools.coder == HUFFMAN:
                at = huffman_write(coded, tools.codes[labels[0]], out, at)
            else:
                at = ans_write(coded, tools.drops, tools.firsts, tools.states, labels, tools.unit, pieces, out, at)
            index[i] = at - start
    return at, found


@kernel
def cut(u, rest, tools, labels, symbols, start, places, found):
    """The symbols of a stream; those without a code become likely ones, and their places are noted."""
    word = u.dtype.type
    whole = rest >= 8 * u.itemsize
    shift = word(0 if whole else rest)
    if tools.coder == NONE:
        if not whole:
            for k in range(u.size):
                if u[k] >> shift:
                    places[found] = start + k
                    found += 1
        return found
    for first in range(0, u.size, tools.unit):
        label = labels[first // tools.unit]
        known, likely = tools.known[label], tools.likely[label]
        part, target = u[first : first + tools.unit], symbols[first : first + tools.unit]
        top = np.uint64(0)
        for k in range(part.size):
            symbol = word(part[k] >> shift)
            target[k] = np.uint8(symbol)
            top = max(top, np.uint64(symbol))
        safe = top < known.size
        if safe:
            for k in range(part.size):
                safe &= known[target[k]]
        if not safe:
            for k in range(part.size):
                symbol = np.uint64(part[k] >> shift)
                if symbol >= known.size or not known[symbol]:
                    target[k] = likely
                    places[found] = start + first + k
                    found += 1
    return found


@kernel
def drop(u, zeros):
    """Shift so many low zero bits out."""
    z = u.dtype.type(zeros)
    for k in range(u.size):
        u[k] >>= z
