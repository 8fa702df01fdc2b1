"""Decoding of whole arrays of words: streams in threads, each with its rest, patches at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.entropy import ans, huffman
from arraycodec.primitives.entropy.bitstreams import ans_four, ans_one, huffman_four, huffman_one
from arraycodec.primitives.entropy.fields import constants, words_of
from arraycodec.primitives.entropy.layout import SMALL, Layout, layout_of, pieces_of
from arraycodec.primitives.entropy.plan import HUFFMAN, NONE
from arraycodec.primitives.entropy.rest import load_rest
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits, read_only
from arraycodec.primitives.threads import split
from arraycodec.spec import ArraySpec

EFFORT = 4  # elements of a plain loop that take as long as one here: from so few on a second thread pays


class Decoder(NamedTuple):
    """What the kernels decode with."""

    coder: int
    tables: np.ndarray  # uint32 (T, 2^bits)
    lengths: np.ndarray  # uint16 (T, A)
    labels: np.ndarray
    firsts: np.ndarray
    unit: int


def decoder(found: Layout) -> Decoder:
    """The decoding tables of a layout."""
    plan = found.plan
    made = np.zeros((plan.tables, 1 << plan.bits), np.uint32)
    for table in range(plan.tables):
        build = huffman.decoding_table if plan.coder == HUFFMAN else ans.decoding_table
        made[table] = build(found.tables[table], plan.bits)
    return Decoder(plan.coder, made, found.tables, found.labels, found.firsts, max(plan.unit, 1))


def decode(found: Layout, data: np.ndarray, raw: np.ndarray, words: np.ndarray, out: np.ndarray) -> None:
    """The words of a whole array, into `out`."""
    _decode(found, data, raw, words, out, 0)
    out[found.patches] = words[found.plan.palette :]


def read_words(
    fetch: Callable[[str, slice], np.ndarray], spec: ArraySpec, start: int, stop: int
) -> np.ndarray[Any, np.dtype[np.unsignedinteger]]:
    """The words start..stop, which are not none, of an array of `spec`; see `Codec.read`."""
    small = {name: bits(fetch(name, slice(None))) for name in SMALL}
    found = layout_of(small, spec.size, 8 * spec.numpy_dtype.itemsize)
    first, last = found.streams_of(start, stop)
    code, chunk = found.places[[first, last]], found.chunks[[first, last]]
    data = bits(fetch("streams", slice(int(code[0]), int(code[1]) + found.slack)))
    raw = bits(fetch("raw", slice(int(chunk[0]), int(chunk[1]))))
    part = found.part(first, last)
    part.check(data.size, raw.size)  # who fetches from planes that are too short gives what there is
    return decode_part(part, data, raw, small["words"], start, stop)


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

        def fours(first: int, last: int) -> None:
            decode_streams(found, tools, data, raw, words, 4 * first, min(4 * last, count), origin, out)

        split(fours, -(-count // 4), EFFORT * out.size)
        return
    bands = pieces_of(found.plan, count)

    def tiles(first: int, last: int) -> None:
        for at in range(first, last):
            decode_band(found, tools, data, raw, words, bands[at], out, origin)

    split(tiles, len(bands), EFFORT * out.size)


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
        order, first, starts, found.streams.lengths, found.places, tools, data, found.chunks, read_only(found.zeros),
        raw, plan.rest, plan.arrangement, constants(plan, out.dtype), words[: plan.palette], plan.lone_symbol, out,
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
    order, first, starts, lengths, places, tools, data, chunks, zeros, raw, rest, arrangement, c, palette, lone, out
):
    """Decode streams in this order; the first one that is wrong, or -1."""
    most = 0
    for i in order:
        most = max(most, lengths[i])
    symbols, bits = np.zeros(4 * most + 16, np.uint8), np.empty(4, np.int64)
    at = 0
    while at < order.size:
        count = lengths[order[at]]
        together = together_from(order, at, lengths)
        if tools.coder != NONE:
            wrong = decode_symbols(order, at, together, count, places, tools, data, bits, symbols, starts, first, out)
            if wrong >= 0:
                return wrong
        for k in range(together):
            i = order[at + k]
            words = out[starts[i - first] : starts[i - first] + count]
            load_rest(raw[chunks[i] : chunks[i + 1]], rest - zeros[i], words)
            if not words_of(symbols[k * count : (k + 1) * count], zeros[i], arrangement, c, palette, lone, words):
                return i
        at += together
    return -1


@inlined
def together_from(order, at, lengths):
    """4 where the next four streams are of one length, else 1."""
    if at + 4 > order.size:
        return 1
    count = lengths[order[at]]
    for k in range(1, 4):
        if lengths[order[at + k]] != count:
            return 1
    return 4


@kernel
def decode_symbols(order, at, together, count, places, tools, data, bits, symbols, starts, first, out):
    """The symbols of one stream, or of four; the first one that does not end where it should, or -1."""
    t, labels, firsts = tools.tables, tools.labels, tools.firsts
    if together == 4:
        a, b, c, d = order[at], order[at + 1], order[at + 2], order[at + 3]
        bits[0], bits[1], bits[2], bits[3] = 8 * places[a], 8 * places[b], 8 * places[c], 8 * places[d]
        if tools.coder == HUFFMAN:
            p, q, r, s = labels[firsts[a]], labels[firsts[b]], labels[firsts[c]], labels[firsts[d]]
            lengths = (tools.lengths[p], tools.lengths[q], tools.lengths[r], tools.lengths[s])
            soon = (starts[a - first], starts[b - first], starts[c - first], starts[d - first])
            huffman_four(data, bits, t[p], t[q], t[r], t[s], lengths, count, symbols, out, soon)
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
