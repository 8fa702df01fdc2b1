"""Coding of whole arrays of words by a choice: streams in threads, in the order of the array, so that the bytes never
depend on the number of threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import ans, huffman, tables
from arraycodec.primitives.entropy.bitstreams import NO_CODE, ans_write, huffman_write
from arraycodec.primitives.entropy.fields import arranged, constants
from arraycodec.primitives.entropy.layout import gaps_of, pieces_of
from arraycodec.primitives.entropy.plan import ANS, HUFFMAN, NONE, SLACK, Choice, Plan, Streams
from arraycodec.primitives.entropy.rest import chunk_places, cut_rest
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import read_only
from arraycodec.primitives.threads import split


class Encoder(NamedTuple):
    """What the kernels encode with."""

    coder: int
    likely: np.ndarray  # uint8 (T,): what stands for a symbol without a code
    known: np.ndarray  # bool (T, 256)
    codes: np.ndarray  # uint64 (T, 256): of Huffman
    drops: np.ndarray  # uint32 (T, A): of ANS
    firsts: np.ndarray  # int64 (T, A)
    states: np.ndarray  # uint16 (T, 2^bits)
    labels: np.ndarray  # uint8, of units
    unit_firsts: np.ndarray  # int64, of streams
    unit: int


def encoder(choice: Choice, streams: Streams) -> Encoder:
    """The encoding tables of a choice."""
    plan, t = choice.plan, choice.plan.tables
    codes, known = np.zeros((t, 256), np.uint64), np.zeros((t, 256), np.bool_)
    drops, firsts = np.zeros((t, plan.symbols), np.uint32), np.zeros((t, plan.symbols), np.int64)
    states = np.zeros((t, 1 << plan.bits), np.uint16)
    likely = np.array([_likely(plan, table) for table in choice.tables], np.uint8)
    for table in range(t):
        used = np.flatnonzero(choice.tables[table])
        known[table, used] = True
        if plan.coder == HUFFMAN:
            own = huffman.codes(choice.tables[table])
            codes[table] = own[likely[table]] | NO_CODE
            codes[table, used] = own[used]
        else:
            drops[table], firsts[table], states[table] = ans.encoding_tables(choice.tables[table], plan.bits)
    units = streams.units(max(plan.unit, 1))
    labels = choice.labels if plan.tables > 1 else np.zeros(int(units.sum()), np.uint8)
    return Encoder(
        plan.coder, likely, known, codes, drops, firsts, states, labels, np.cumsum(units) - units,
        max(plan.unit, 1),
    )  # fmt: skip


def _likely(plan: Plan, table: np.ndarray) -> int:
    """The first of the symbols that take the fewest bits."""
    return int(np.argmin(np.where(table > 0, table, 255)) if plan.coder == HUFFMAN else np.argmax(table))


def encode(words: np.ndarray, choice: Choice) -> dict[str, np.ndarray]:
    """The planes of an array of words."""
    plan, size, palette = choice.plan, words.size, read_only(choice.palette)
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
            out, places = np.empty(room, np.uint8), np.empty(int(lengths.sum()) * (1 + plan.lone), np.int32)
            used, found = encode_kernel(
                read_only(source), starts, lengths, low, tools, zeros, plan.rest, plan.arrangement, c, palette,
                plan.lone_symbol, chunks, raw, index, out, places,
            )  # fmt: skip
            parts[at] = out[:used]
            patched[at] = _elements(places[:found], streams, low, high, plan.columns)

    split(work, len(edges), size)
    data = _joined(parts) if plan.coder != NONE else np.zeros(0, np.uint8)
    places = np.unique(np.concatenate([np.zeros(0, np.int64), *patched]))  # `place_lone` may have noted one already
    return {
        "plan": plan.to_array(),
        "tables": tables.pack(plan, choice.tables, choice.labels, zeros),
        "index": np.concatenate([index, gaps_of(places)]),
        "streams": data,
        "raw": raw,
        "words": np.concatenate([choice.palette, words[places]]),
    }


def _gather(words: np.ndarray, streams: Streams, low: int, high: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """The words of streams, each contiguous, and where each starts."""
    start, length = int(streams.starts[low]), int(streams.lengths[low])
    if not columns:
        stop = int(streams.starts[high - 1] + streams.lengths[high - 1])
        return words[start:stop], streams.starts[low:high] - start
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
        parts[k] = joined[:0]
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
        if zeros[i]:
            drop(part, zeros[i])
        cut_rest(part, rest - zeros[i], raw[chunks[i] : chunks[i + 1]])
        if tools.coder == NONE:
            found = patch_outside(part, starts[k], places, found)
            continue
        start = at
        if narrow(part, coded) > 255 or (tools.coder == ANS and not known_all(coded, tools, i)):
            found = patch_unknown(part, tools, i, coded, starts[k], places, found)
        if tools.coder == HUFFMAN:  # by itself, since to hand all tools on takes long
            at = huffman_write(coded, tools.codes[tools.labels[tools.unit_firsts[i]]], out, start)
            if at < 0:  # likely symbols have been written for some without a code
                at = -at
                found = patch_unknown(part, tools, i, coded, starts[k], places, found)
        else:
            at = write_ans(coded, tools, i, pieces, out, start)
        index[i] = at - start
    return at, found


@kernel
def write_ans(symbols, tools, stream, pieces, out, at):
    """Write a stream from byte `at` on; the byte after it."""
    labels = tools.labels[tools.unit_firsts[stream] :]
    return ans_write(symbols, tools.drops, tools.firsts, tools.states, labels, tools.unit, pieces, out, at)


@kernel
def patch_outside(u, start, places, found):
    """Note the places of words that have bits above their rest."""
    top = u.dtype.type(0)
    for k in range(u.size):
        top |= u[k]
    if top:
        for k in range(u.size):
            if u[k]:
                places[found] = start + k
                found += 1
    return found


@inlined
def narrow(u, symbols):
    """The words as symbols, and the largest one."""
    top = u.dtype.type(0)
    for k in range(u.size):
        symbols[k] = np.uint8(u[k])
        top = max(top, u[k])
    return top


@kernel
def known_all(symbols, tools, stream):
    """Whether ANS has a frequency for every symbol; Huffman finds out while it writes."""
    known, labels = True, tools.labels[tools.unit_firsts[stream] :]
    for first in range(0, symbols.size, tools.unit):
        own = tools.known[labels[first // tools.unit]]
        for symbol in symbols[first : first + tools.unit]:
            known &= own[symbol]
    return known


@kernel
def patch_unknown(u, tools, stream, symbols, start, places, found):
    """Put likely symbols in the place of those without a code, and note the places."""
    labels = tools.labels[tools.unit_firsts[stream] :]
    for first in range(0, u.size, tools.unit):
        label = labels[first // tools.unit]
        known, likely = tools.known[label], tools.likely[label]
        for k in range(first, min(first + tools.unit, u.size)):
            if u[k] > 255 or not known[symbols[k]]:
                symbols[k] = likely
                places[found] = start + k
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
