"""Coding of whole arrays of words by a choice: streams in threads, in the order of the array, so that the bytes never
depend on the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import ans, huffman, tables
from arraycodec.primitives.entropy.bitstreams import ans_write, huffman_write
from arraycodec.primitives.entropy.fields import arranged, constants
from arraycodec.primitives.entropy.layout import gaps_of, pieces_of
from arraycodec.primitives.entropy.plan import HUFFMAN, NONE, SLACK, Choice, Plan, Streams
from arraycodec.primitives.entropy.rest import chunk_places, store_rest
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.threads import split


class Coded(NamedTuple):
    """The planes of an array, as arrays of unsigned integers."""

    plan: np.ndarray
    tables: np.ndarray
    index: np.ndarray
    streams: np.ndarray
    raw: np.ndarray
    words: np.ndarray


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
    edges = pieces_of(plan, count)
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
                source, starts, lengths, low, tools, zeros, plan.rest, plan.arrangement, c, choice.palette,
                plan.lone_symbol, chunks, raw, index, out, places,
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


@kernel
def encode_kernel(
    source, starts, lengths, first, tools, zeros, rest, arrangement, c, palette, lone, chunks, raw, index, out, places
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
        own = source[starts[k] : starts[k] + count]
        arranged(own, arrangement, c, palette, part)
        if lone < 256:
            found = place_lone(own, palette[0], lone, rest, part, starts[k], places, found)
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
def place_lone(words, lone_word, lone, rest, u, start, places, found):
    """Give lone words their symbol and no rest; other words whose symbol that would be are patches."""
    word = u.dtype.type
    shift, mine = word(rest), word(word(lone) << word(rest))
    for k in range(u.size):
        if words[k] == lone_word:
            u[k] = mine
        elif word(u[k] >> shift) == word(lone):
            u[k] = mine
            places[found] = start + k
            found += 1
    return found


@kernel
def drop(u, zeros):
    """Shift so many low zero bits out."""
    z = u.dtype.type(zeros)
    for k in range(u.size):
        u[k] >>= z
