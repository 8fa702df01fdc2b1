"""How an array is coded: the field of its words that gets a code, and the tables, by what they cost to the bit.

Nothing here looks at names: constants, few distinct words, narrow ranges, floats that were once narrower, and rows or
columns of different scale are all found in the words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import histogram, samples
from arraycodec.primitives.entropy.candidates import (
    FLOAT_BITS,
    LONE,
    Bins,
    Field,
    candidates,
    narrowest,
    range_fields,
)
from arraycodec.primitives.entropy.cluster import labelled
from arraycodec.primitives.entropy.costs import FRACTION, entropies, logarithms
from arraycodec.primitives.entropy.fitting import GAP_BITS, ans_tables, folded, huffman_tables
from arraycodec.primitives.entropy.layout import GAP
from arraycodec.primitives.entropy.plan import ANS, FEWEST, FLOAT, HUFFMAN, NONE, PALETTE, PLAIN, Choice, Plan
from arraycodec.primitives.memory import read_only
from arraycodec.primitives.threads import split

STREAM = 4096  # elements of a stream where speed counts
LONG_STREAM = 8192  # where it does not
WINDOW_BITS = 4  # of the exponent, in mode inference
MIN_CODED = 64  # bytes of an array below which codes are not worth their tables
MOST_TABLES = 64  # however large an array is
MANY = 1 << 17  # words of which a part tells enough
TABLE_ELEMENTS = 1 << 15  # elements for each table at least, since making one takes as long as decoding so many


class Effort(NamedTuple):
    """What a mode goes to for fewer bits."""

    coder: int
    tables: int  # at most, at first
    units: int  # for each table at least
    table: int  # bits that a table must save: those it takes, and for the time to make it
    rounds: int
    sample: int  # units for which tables are made
    part: int  # one word in so many is looked at when units are compared,
    part_of_bins: int  # and when those of a label are counted
    stream: int  # bits of a stream beside its codes: its length, and what is left of bytes
    bit: int  # a longer field must save a bit for so many words: it decodes more slowly
    columns: int  # streams along columns must save a so many-th: they decode at half the speed


EFFORTS = {
    "balanced": Effort(HUFFMAN, 16, 16, 800, 3, 512, 4, 2, 20, 128, 100),
    "storage": Effort(ANS, 8, 4, 1500, 6, 2048, 1, 1, 36, 1 << 40, 1 << 40),
}


def choose(words: np.ndarray, dtype: str, shape: tuple[int, ...], mode: str, field: str | None) -> Choice:
    """The way to code `words`, flat unsigned integers; never larger than the words themselves.

    shape  of the array
    mode   "balanced", "storage" or "inference"
    field  the name of one of the dtype's fields (candidates.py); None: the one that takes the fewest bits
    """
    words, bits = read_only(words), 8 * words.itemsize
    if words.size == 0:
        return plain(words)
    found = [(words.size * bits, plain(words))]
    if field is None:
        found += _few(words, bits, mode)
    if mode == "inference":
        found += [_window(words, dtype, bits)] if words.nbytes >= MIN_CODED else []
    elif field is not None or (words.nbytes >= MIN_CODED and len(found) == 1):
        found += _coded(words, dtype, shape, EFFORTS[mode], field)
    return _least(found)[1]


def choose_window(words: np.ndarray, low: int, shift: int, shape: tuple[int, ...]) -> Choice:
    """The way to code words by their distance to `low`, modulo 2^n: of that the `shift` lowest bits are stored raw.

    Words at a distance of 256 << shift or more are patches.
    """
    words = read_only(words)
    if words.size == 0:
        return plain(words)
    if len({int(word) for word in samples.extremes(words, words.dtype.type(0))}) == 1:
        return _choice(Plan(offset=int(words[0]), stream=STREAM, unit=STREAM), words)
    found = [_range(words)]
    if words.nbytes >= MIN_CODED:
        bins = Bins(histogram.RANGE, words.dtype.type(low), 0, shift)
        fields = range_fields(PLAIN, low, shift)[:1]
        effort = EFFORTS["storage"]
        found += [_best(words, bins, fields, layout, effort) for layout in _layouts(words, bins, shape, 0, effort)]
    return _least(found)[1]


def plain(words: np.ndarray) -> Choice:
    """Every word as it is."""
    plan = Plan(rest=8 * words.itemsize, stream=STREAM, unit=STREAM) if words.size else Plan()
    return _choice(plan, words)


def _least(found: list[tuple[int, Choice]]) -> tuple[int, Choice]:
    """The first of those that take the fewest bits."""
    return min(found, key=lambda one: one[0])


def _choice(plan: Plan, words: np.ndarray) -> Choice:
    """A choice without tables."""
    none = np.zeros(0, np.uint8)
    return Choice(plan, np.zeros((0, 0), np.uint16), none, none, words[:0])


def _few(words: np.ndarray, bits: int, mode: str) -> Iterator[tuple[int, Choice]]:
    """A palette, its indices stored as they are or coded."""
    palette = np.empty(256, words.dtype)
    count = int(samples.distinct(words, 16 if bits == 8 else 256, palette))
    palette = np.sort(palette[:count])
    if count > (16 if bits == 8 else 256):
        return
    width = next(width for width in (0, 1, 2, 4, 8) if count <= 1 << width)
    plan = Plan(NONE, PALETTE, width, 0, STREAM, STREAM, palette=count)
    yield words.size * width + count * bits, _choice(plan, words)._replace(palette=palette)
    if count == 1 or mode == "inference" or words.nbytes < MIN_CODED:
        return
    indices = np.empty(words.size, np.uint8)
    split(lambda first, last: samples.palette_indices(words, palette, indices, first, last), words.size, words.size)
    for cost, found in _coded(indices, "uint8", (words.size,), EFFORTS[mode], "B8"):
        if not found.plan.arrangement:
            plan = found.plan._replace(arrangement=PALETTE, palette=count)
            yield cost + count * bits, found._replace(plan=plan, palette=palette)


def _window(words: np.ndarray, dtype: str, bits: int) -> tuple[int, Choice]:
    """No codes: the window of 2^WINDOW_BITS exponents with most of the words, or the range of integers."""
    if dtype not in FLOAT_BITS or FLOAT_BITS[dtype][0] <= WINDOW_BITS:
        return _range(words)
    exponent, mantissa = FLOAT_BITS[dtype]
    counts = np.zeros(1 << exponent, np.int64)
    samples.exponents(words, mantissa, 1, words.size, words.size, counts)
    first, inside = map(int, samples.best_window(counts, 1 << WINDOW_BITS))
    rest = mantissa + 1 + WINDOW_BITS
    cost = words.size * rest + (words.size - inside) * (GAP_BITS + bits) + words.size // GAP * GAP_BITS
    return cost, _choice(Plan(NONE, FLOAT, rest, first << (mantissa + 1), STREAM, STREAM, sign=mantissa), words)


def _range(words: np.ndarray) -> tuple[int, Choice]:
    """No codes: the distance of each word to the smallest one."""
    low, rest, arrangement, _ = narrowest(words)
    return words.size * rest, _choice(Plan(NONE, arrangement, rest, low, STREAM, STREAM), words)


class Layout(NamedTuple):
    """Where units and streams lie."""

    unit: int  # elements
    stream: int
    columns: int  # 0: of the flattened array

    def bands(self, size: int) -> int:
        """The number of units of the flattened array, or of rows of units."""
        return -(-(size // self.columns if self.columns else size) // self.unit)


def _coded(
    words: np.ndarray, dtype: str, shape: tuple[int, ...], effort: Effort, field: str | None
) -> Iterator[tuple[int, Choice]]:
    """The best fields and tables for each layout that may pay."""
    bins, fields = candidates(words, dtype, field)
    if not fields:
        return
    flip = 0 if dtype in FLOAT_BITS else 31
    for layout in _layouts(words, bins, shape, flip, effort):
        cost, found = _best(words, bins, fields, layout, effort)
        yield cost + (cost // effort.columns if layout.columns else 0), found


def _layouts(words: np.ndarray, bins: Bins, shape: tuple[int, ...], flip: int, effort: Effort) -> Iterator[Layout]:
    size, width = words.size, shape[-1] if shape else 1
    if effort.coder == HUFFMAN:
        stream = STREAM if size >= 8 * STREAM else 1024
        yield Layout(stream, stream, 0)
    else:
        unit = width if 256 <= width <= STREAM and size > width else 1024 if size >= 1 << 16 else 512
        yield Layout(unit, unit * max(1, min(LONG_STREAM, max(size // 16, STREAM)) // unit), 0)
    for columns in {width, math.prod(shape[1:])}:
        rows = size // columns
        if columns > 1 and size >= 1 << 16 and rows >= 4 * FEWEST:
            height = min(rows, LONG_STREAM)
            if effort.coder == ANS or samples.columns_differ(words, columns, *bins, flip):
                yield Layout(height, height, columns)


def _best(
    words: np.ndarray, bins: Bins, fields: tuple[Field, ...], layout: Layout, effort: Effort
) -> tuple[int, Choice]:
    """The field and the tables for this layout."""
    size, word = words.size, 8 * words.itemsize
    features, lows = _features(words, bins, layout, effort)
    most = min(max(effort.tables, min(size >> 19, MOST_TABLES)), lows.size // effort.units, size // TABLE_ELEMENTS)
    labels, count = labelled(features, most, effort.table, effort.rounds, effort.sample)
    sums = _sums(words, bins, layout, effort, labels, count)
    lone = 0 if bins.zero is None else int(sums[:, bins.zero].sum())
    if lone * effort.bit > size and 2 * (size - np.count_nonzero(words)) > lone:
        fields += tuple(field.with_lone(bins) for field in fields if field.symbols[bins.zero] < 0)
    zeros = _zeros(lows, layout, word)
    codes, outside = entropies(sums, tuple(field.symbols for field in fields), logarithms())
    rests = [_rest(zeros, field, size, layout) for field in fields]
    costs = [
        (int(codes[k]) >> FRACTION)
        + int(outside[k]) * (GAP_BITS + word)
        + rests[k][0]
        - size // effort.bit * field.rest
        for k, field in enumerate(fields)
    ]
    best = costs.index(min(costs))
    field, (rest, dropped) = fields[best], rests[best]
    tables = (huffman_tables if effort.coder == HUFFMAN else ans_tables)(folded(sums, field.symbols), word)
    cost = tables.bits + int(outside[best]) * (GAP_BITS + word) + rest + zeros.size * effort.stream
    cost += lows.size * (count - 1).bit_length()
    has_lone = bool((field.symbols == LONE).any())
    plan = Plan(
        effort.coder, field.arrangement, field.rest,
        (((field.first + tables.first) << field.rest) + field.offset) % (1 << word), layout.stream,
        layout.unit if count > 1 else layout.stream, layout.columns, tables.width, count, tables.tables.shape[1],
        int(has_lone), int(dropped.size > 0), field.sign, int(has_lone),
    )  # fmt: skip
    palette = np.zeros(int(has_lone), words.dtype)
    return cost, Choice(plan, tables.tables, labels if count > 1 else labels[:0], dropped, palette)


def _features(words: np.ndarray, bins: Bins, layout: Layout, effort: Effort) -> tuple[np.ndarray, np.ndarray]:
    """What units are compared by, and the bits that any of a unit's words has set."""
    bands = layout.bands(words.size)
    units = bands * max(layout.columns, 1)
    features, lows = np.empty((units, histogram.FEATURES), np.int16), np.empty(units, words.dtype)
    part = effort.part if words.size >= MANY else 1

    def work(first: int, last: int) -> None:
        if layout.columns:
            histogram.features_of_columns(words, layout.columns, layout.unit, *bins, features, lows, first, last)
        else:
            histogram.features_of_units(words, layout.unit, *bins, part, features, lows, first, last)

    split(work, bands, words.size)
    return features, lows


def _sums(words: np.ndarray, bins: Bins, layout: Layout, effort: Effort, labels: np.ndarray, count: int) -> np.ndarray:
    """The histogram of the words of each label, int64 (count, bins)."""
    sums, lock = np.zeros((count, bins.number), np.int64), Lock()
    part = effort.part_of_bins if words.size >= MANY else 1

    def work(first: int, last: int) -> None:
        mine = np.zeros_like(sums)
        if layout.columns:
            histogram.by_label_of_columns(words, layout.columns, layout.unit, labels, *bins, mine, first, last)
        else:
            histogram.by_label(words, layout.unit, labels, *bins, part, mine, first, last)
        with lock:
            np.add(sums, mine, out=sums)

    split(work, layout.bands(words.size), words.size)
    return sums


def _zeros(lows: np.ndarray, layout: Layout, word: int) -> np.ndarray:
    """The number of low bits that are zero in all words of each stream, uint8."""
    if layout.stream > layout.unit:
        lows = np.bitwise_or.reduceat(lows, np.arange(0, lows.size, layout.stream // layout.unit))
    if (lows & 1).all():
        return np.zeros(lows.size, np.uint8)
    lowest = (lows & (~lows + lows.dtype.type(1))).astype(np.float64)  # a power of two
    return np.where(lows > 0, np.frexp(lowest)[1] - 1, word).astype(np.uint8)


def _rest(zeros: np.ndarray, field: Field, size: int, layout: Layout) -> tuple[int, np.ndarray]:
    """The bits of the rests, and of what each stream drops of them, which is none where that does not pay."""
    if field.arrangement != FLOAT or not zeros.any():
        return field.rest * size, zeros[:0]
    dropped = np.minimum(zeros, min(field.rest, field.sign))
    saved = int(dropped.sum()) * layout.stream - 8 * zeros.size
    return (field.rest * size - saved, dropped) if saved > 0 else (field.rest * size, zeros[:0])
