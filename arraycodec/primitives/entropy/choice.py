"""How an array is coded: the field of its words that gets a code, and the tables, by what they cost to the bit.

Nothing here looks at names: constants, few distinct words, narrow ranges, floats that were once narrower, and rows or
columns of different scale are all found in the words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import ans, histogram, huffman
from arraycodec.primitives.entropy.cluster import labelled
from arraycodec.primitives.entropy.costs import FRACTION, entropies, logarithms
from arraycodec.primitives.entropy.histogram import BYTES, FINE, FLOATS, MANTISSA, OTHER, RANGE, WINDOW
from arraycodec.primitives.entropy.plan import (
    ANS,
    FLOAT,
    HUFFMAN,
    MAX_LENGTH,
    NONE,
    PALETTE,
    PLAIN,
    SIGNED,
    Choice,
    Plan,
)
from arraycodec.primitives.threads import split

# Exponent and mantissa bits of the floats of the dtype table.
FLOAT_BITS = {
    "float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52),
    "float8_e4m3fn": (4, 3), "float8_e4m3fnuz": (4, 3), "float8_e5m2": (5, 2), "float8_e5m2fnuz": (5, 2),
}  # fmt: skip
FIELDS = ("E", "EM1", "EM2", "EM3", "SE", "SEM1", "SEM2", *(f"B{bits}" for bits in range(1, 9)))
MODES = ("balanced", "storage", "inference")

STREAM = 4096  # elements of a stream where speed counts
GAP = 16  # bits of the place of a patch
WINDOW_BITS = 4  # of the exponent, in mode inference
MIN_CODED = 64  # bytes of an array below which codes are not worth their tables
TABLE_BITS = 1500  # what a table must save in mode balanced: a third of that is stored, and expanding it takes time
SLOW = ("EM3", "SEM2")  # fields with long codes, which decode slowly:
SLOW_WEIGHT = 200  # in mode balanced they must save a bit for so many words


class Field(NamedTuple):
    """A candidate: the coded field of a word."""

    name: str
    arrangement: int
    rest: int  # bits below it
    sign: int  # where a float's sign is moved to
    symbols: np.ndarray  # int16 (bins,): the symbol of the words in each bin, 0..255; -1: outside
    first: int  # the field's value for symbol 0; an offset before it has been subtracted
    offset: int  # what is subtracted from the word before the field is taken


class Units(NamedTuple):
    """The units of an array and their statistics."""

    size: int  # elements of a unit
    columns: int
    histograms: np.ndarray  # uint16 (units, bins)
    features: np.ndarray  # int16 (units, FEATURES)
    lows: np.ndarray  # the bits that are set in any of a unit's words


def choose(words: np.ndarray, dtype: str, shape: tuple[int, ...], mode: str, field: str | None) -> Choice:
    """The way to code `words`, flat unsigned integers; never larger than the words themselves.

    mode   one of MODES; field  one of FIELDS or None, for the one that takes the fewest bits
    """
    bits = 8 * words.itemsize
    if words.size == 0:
        return _choice(Plan(), words)
    best = _raw(words, bits)
    if field is None:
        best = _least([best, *_few(words, bits, mode)])
        if best[1].plan.palette == 1 or best[0] < MIN_CODED:
            return best[1]
    if mode == "inference":
        return _least([best, *_windows(words, dtype, bits)])[1]
    if words.nbytes < MIN_CODED and field is None:
        return best[1]
    found = _coded(words, dtype, shape, mode, field)
    return _least([best, found] if found else [best])[1]


def _least(found: list[tuple[int, Choice]]) -> tuple[int, Choice]:
    """The first of those that take the fewest bits."""
    return min(found, key=lambda one: one[0])


def _choice(plan: Plan, words: np.ndarray, tables=None, labels=None, zeros=None, palette=None) -> Choice:
    none = np.zeros(0, np.uint8)
    tables = np.zeros((0, 0), np.uint16) if tables is None else tables
    palette = words[:0] if palette is None else palette
    return Choice(plan, tables, none if labels is None else labels, none if zeros is None else zeros, palette)


def _raw(words: np.ndarray, bits: int) -> tuple[int, Choice]:
    return words.size * bits, _choice(Plan(rest=bits, stream=STREAM, unit=STREAM), words)


# ---- few distinct words


def _few(words: np.ndarray, bits: int, mode: str) -> Iterator[tuple[int, Choice]]:
    """A palette, with indices stored as they are or coded."""
    palette = np.empty(256, words.dtype)
    count = histogram.distinct(words, 256, palette)
    if count > 256 or (bits == 8 and count > 16):
        return
    palette = np.sort(palette[:count])
    width = next(width for width in (0, 1, 2, 4, 8) if count <= 1 << width)
    plan = Plan(NONE, PALETTE, width, 0, STREAM, STREAM, palette=count)
    yield words.size * width + count * bits, _choice(plan, words, palette=palette)
    if count > 2 and mode != "inference" and words.nbytes >= MIN_CODED:
        indices = np.empty(words.size, np.uint8)
        split(
            lambda first, last: histogram.palette_indices(words, palette, indices, first, last), words.size, words.size
        )
        cost, found = _coded(indices, "uint8", (words.size,), mode, "B8")
        plan = found.plan._replace(arrangement=PALETTE, palette=count)
        yield cost + count * bits, found._replace(plan=plan, palette=palette)


# ---- no codes: a window of exponents, a range of integers


def _windows(words: np.ndarray, dtype: str, bits: int) -> Iterator[tuple[int, Choice]]:
    """The window of 2^WINDOW_BITS exponents with most of the words; the range of integers."""
    if dtype not in FLOAT_BITS or FLOAT_BITS[dtype][0] <= WINDOW_BITS:
        for arrangement, flip in ((PLAIN, 0), (SIGNED, 1 << (bits - 1))):
            low, high = map(int, histogram.extremes(words, words.dtype.type(flip)))
            rest = (high - low).bit_length()
            plan = Plan(NONE, arrangement, rest, low, STREAM, STREAM)
            yield words.size * rest, _choice(plan, words)
        return
    exponent, mantissa = FLOAT_BITS[dtype]
    counts = np.zeros(1 << exponent, np.int64)
    histogram.exponents(words, mantissa, -(-words.size // 64), 64, counts)
    inside = np.convolve(counts, np.ones(1 << WINDOW_BITS, np.int64), "valid")
    first = int(inside.argmax())
    rest = mantissa + 1 + WINDOW_BITS
    cost = words.size * rest + int(words.size - inside[first]) * (GAP + bits) + words.size // 65536 * GAP
    plan = Plan(NONE, FLOAT, rest, first << (mantissa + 1), STREAM, STREAM, sign=mantissa)
    yield cost, _choice(plan, words)


# ---- codes


def _coded(
    words: np.ndarray, dtype: str, shape: tuple[int, ...], mode: str, field: str | None
) -> tuple[int, Choice] | None:
    bins, fields = _fields(words, dtype, field)
    if not fields:
        return None
    found = []
    for unit, stream, columns in _layouts(words, shape, mode):
        units = _units(words, bins, unit, columns)
        found.append(_best_tables(words, units, stream, fields, mode))
    return _least(found)


def _layouts(words: np.ndarray, shape: tuple[int, ...], mode: str) -> Iterator[tuple[int, int, int]]:
    """Elements of a unit and of a stream, and columns."""
    size, width = words.size, shape[-1] if shape else 1
    if mode == "balanced":
        stream = STREAM if size >= 8 * STREAM else 1024
        yield stream, stream, 0
    elif 256 <= width <= 4096 and size > width:
        yield width, width * max(1, min(16384, max(size // 16, 4096)) // width), 0
    else:
        unit = 1024 if size >= 1 << 16 else 512
        yield unit, max(unit, min(16384, size // 16 // unit * unit)), 0
    for columns in {width, math.prod(shape[1:])}:
        if columns > 1 and size >= 1 << 16 and columns < size and size // columns >= 128:
            yield min(size // columns, 16384), min(size // columns, 16384), columns


def _units(words: np.ndarray, bins: tuple[int, int, int, int], unit: int, columns: int) -> Units:
    kind = bins[0]
    size = {BYTES: histogram.BYTE_BINS, RANGE: histogram.RANGE_BINS, FLOATS: histogram.FLOAT_BINS}[kind]
    bands = -(-(words.size // columns if columns else words.size) // unit)
    out = np.empty((bands * max(columns, 1), size), np.uint16)
    features = np.empty((out.shape[0], histogram.FEATURES), np.int16)
    lows = np.empty(out.shape[0], words.dtype)

    def work(first: int, last: int) -> None:
        if columns:
            histogram.of_columns(words, columns, unit, *bins, out, features, lows, first, last)
        else:
            histogram.of_units(words, unit, *bins, out, features, lows, first, last)

    split(work, bands, words.size)
    return Units(unit, columns, out, features, lows)


def _fields(words: np.ndarray, dtype: str, field: str | None) -> tuple[tuple[int, int, int, int], list[Field]]:
    """What the bins of this array are (histogram.bins_of), and the fields that may be coded."""
    bits = 8 * words.itemsize
    if dtype in FLOAT_BITS and not (field or "E").startswith("B"):
        exponent, mantissa = FLOAT_BITS[dtype]
        if bits == 8:
            return (BYTES, 0, 0, 0), [f for f in _byte_floats(exponent, mantissa) if field in (None, f.name)]
        counts = np.zeros(1 << exponent, np.int64)
        histogram.exponents(words, mantissa, min(256, -(-words.size // 64)), max(64, words.size // 256), counts)
        first = _window(counts, WINDOW)
        second = max(0, min(first + WINDOW // 2 - 128, (1 << exponent) - 256))
        candidates = _float_fields(mantissa, first, second)
        return (FLOATS, first, second, mantissa - MANTISSA), [f for f in candidates if field in (None, f.name)]
    if bits == 8:
        return (BYTES, 0, 0, 0), [f for f in _byte_fields() if field in (None, f.name)]
    ranges = []
    for arrangement, flip in ((PLAIN, 0), (SIGNED, 1 << (bits - 1))):
        low, high = map(int, histogram.extremes(words, words.dtype.type(flip)))
        ranges.append((high - low, low ^ flip, low, arrangement))
    span, first, low, arrangement = min(ranges)
    shift = max(0, span.bit_length() - 8)
    word = words.dtype.type(first)
    return (RANGE, word, 0, shift), [f for f in _range_fields(arrangement, low, shift) if field in (None, f.name)]


def _window(counts: np.ndarray, width: int) -> int:
    """Where the window of so many exponents starts that holds the most, the middle one if there are several."""
    if counts.size <= width:
        return 0
    inside = np.convolve(counts, np.ones(width, np.int64), "valid")
    best = np.flatnonzero(inside == inside.max())
    return int(best[0] + best[-1] + 1) // 2


@cache
def _float_fields(mantissa: int, first: int, second: int) -> list[Field]:
    """E, EM1..EM3 and, with the sign as the symbol's lowest bit, SE, SEM1, SEM2."""
    fine = np.r_[0:FINE, FINE + OTHER : 2 * FINE + OTHER]
    sign, number = fine >= FINE, fine % (FINE + OTHER) + (first << MANTISSA)
    fields = []
    for signed, most in ((0, 3), (1, 2)):
        for top in range(most + 1):
            symbols = np.full(histogram.FLOAT_BINS, -1, np.int16)
            start = (first << top) << signed if top or signed else second
            symbols[fine] = (((number >> (MANTISSA - top)) << signed) | (sign & signed)) - start
            if not top and not signed:
                symbols[FINE : FINE + OTHER] = np.arange(OTHER)
            rest = mantissa + 1 - top - signed
            name = "SE"[1 - signed :] + (f"M{top}" if top else "")
            fields.append(Field(name, FLOAT, rest, rest - 1 + signed, symbols, start, 0))
    return fields


@cache
def _byte_floats(exponent: int, mantissa: int) -> list[Field]:
    byte = np.arange(256)
    fields = []
    for signed in (0, 1):
        for top in range(mantissa + 1):
            number = (byte & 127) >> (mantissa - top)
            symbols = ((number << signed) | (byte >> 7 & signed)).astype(np.int16)
            rest = mantissa + 1 - top - signed
            name = "SE"[1 - signed :] + (f"M{top}" if top else "")
            fields.append(Field(name, FLOAT, rest, rest - 1 + signed, symbols, 0, 0))
    return fields


@cache
def _byte_fields() -> list[Field]:
    """The top 1..8 bits of bytes, plain or signed."""
    byte = np.arange(256)
    return [
        Field(f"B{top}", arrangement, 8 - top, 0, ((byte ^ flip) >> (8 - top)).astype(np.int16), 0, 0)
        for top in range(8, 0, -1)
        for arrangement, flip in ((PLAIN, 0), (SIGNED, 128))
    ]


def _range_fields(arrangement: int, low: int, shift: int) -> list[Field]:
    """The top 1..8 bits of the range of integers; the last bin is empty, since the range holds them all."""
    bins = np.append(np.arange(256), -512)
    return [
        Field(f"B{top}", arrangement, shift + 8 - top, 0, (bins >> (8 - top)).clip(-1).astype(np.int16), 0, low)
        for top in range(8, 0, -1)
    ]


class Tables(NamedTuple):
    """Tables of one field and what they take."""

    bits: int  # in all: codes, tables, patches
    first: int  # the symbol that becomes symbol 0
    tables: np.ndarray
    index: int  # bits of a table's index


def _best_tables(words: np.ndarray, units: Units, stream: int, fields: list[Field], mode: str) -> tuple[int, Choice]:
    """The field and the tables for these units."""
    ideal, bits = mode == "storage", 8 * words.itemsize
    most = min(128 if ideal else 16, units.lows.size // (4 if ideal else 8), words.size >> 15)
    table = 1500 if ideal else TABLE_BITS
    labels, count, _ = labelled(units.features, most, table, 8 if ideal else 3, 4096 if ideal else 1024)
    sums = np.zeros((count, units.histograms.shape[1]), np.int64)
    histogram.by_label(units.histograms, labels, sums)
    zeros = _zeros(units, stream, bits)
    side = zeros.size * (36 if ideal else 20) + (units.lows.size * (count - 1).bit_length())
    entropies_of, outside_of = entropies(sums, np.stack([field.symbols for field in fields]), logarithms())
    best = None
    for field, code, outside in zip(fields, entropies_of, outside_of, strict=True):
        dropped, rest = _dropped(zeros, field, words.size, stream)
        cost = (int(code) >> FRACTION) + int(outside) * (GAP + bits) + rest
        if not ideal and field.name in SLOW:
            cost += words.size // SLOW_WEIGHT
        if best is None or cost < best[0]:
            best = cost, field, int(outside), dropped, rest
    assert best is not None
    _, field, outside, dropped, rest = best
    counts = _folded(sums, field.symbols)
    if ideal:
        tables = min((_ans(counts, bits, index) for index in (12, 13, 14)), key=lambda tables: tables.bits)
    else:
        tables = _huffman(counts, bits)
    offset = (((field.first + tables.first) << field.rest) + field.offset) % (1 << bits)
    plan = Plan(
        ANS if ideal else HUFFMAN, field.arrangement, field.rest, offset, stream,
        units.size if count > 1 and ideal else stream, units.columns, tables.index, count, tables.tables.shape[1], 0,
        int(dropped is not None), field.sign,
    )  # fmt: skip
    cost = tables.bits + outside * (GAP + bits) + rest + side
    return cost, _choice(plan, words, tables.tables, labels if count > 1 else None, dropped)


def _folded(sums: np.ndarray, symbols: np.ndarray) -> np.ndarray:
    """The counts of a field's 256 symbols from those of the bins."""
    counts = np.zeros((sums.shape[0], 257), np.int64)
    for row, into in zip(sums, counts, strict=True):
        into[:] = np.bincount(symbols + 1, row, 257)
    return counts[:, 1:]


def _zeros(units: Units, stream: int, bits: int) -> np.ndarray:
    """The low bits that are zero in all words of each stream."""
    if units.columns:
        lows = units.lows
    else:
        lows = np.bitwise_or.reduceat(units.lows, np.arange(0, units.lows.size, max(1, stream // units.size)))
    lowest = lows & (~lows + lows.dtype.type(1))
    return np.where(lows > 0, np.log2(np.maximum(lowest, 1).astype(np.float64)), bits).astype(np.int64)


def _dropped(zeros: np.ndarray, field: Field, size: int, stream: int) -> tuple[np.ndarray | None, int]:
    """The zeros that the rest of each stream drops, None if it does not pay, and the bits of the rest of the array."""
    most = min(field.rest, field.sign) if field.arrangement == FLOAT else field.rest
    if field.offset or not most or not zeros.any():
        return None, field.rest * size
    dropped = np.minimum(zeros, most)
    saved = int(dropped.sum()) * stream - 8 * zeros.size
    return (dropped.astype(np.uint8), field.rest * size - saved) if saved > 0 else (None, field.rest * size)


def _trimmed(counts: np.ndarray, saved: int) -> tuple[int, int, int]:
    """The range of symbols that tables should have, and the number of words outside.

    saved  the bits that a patch takes beyond those of a code
    """
    total = counts.sum(0)
    used = np.flatnonzero(total)
    if not used.size:
        return 0, 1, 0
    first, last, outside = int(used[0]), int(used[-1]), 0
    entry = 4 * counts.shape[0]
    while first < last and total[first] * saved < entry:
        outside += int(total[first])
        first += 1
    while first < last and total[last] * saved < entry:
        outside += int(total[last])
        last -= 1
    return first, last + 1, outside


def _huffman(counts: np.ndarray, bits: int) -> Tables:
    first, last, outside = _trimmed(counts, GAP + bits - MAX_LENGTH)
    counts = np.ascontiguousarray(counts[:, first:last])
    tables = np.array([huffman.lengths(row, MAX_LENGTH) for row in counts], np.uint16)
    _complete(tables)
    cost = int((counts * tables).sum()) + outside * (GAP + bits) + tables.shape[0] * 8 * -(-tables.shape[1] // 2)
    return Tables(cost, first, tables, int(tables.max()))


def _complete(tables: np.ndarray) -> None:
    """Give a table of no symbols its first one, since every table must have a code."""
    tables[tables.sum(1) == 0, 0] = 1


def _ans(counts: np.ndarray, bits: int, index: int) -> Tables:
    first, last, outside = _trimmed(counts, GAP + bits - index)
    counts = np.ascontiguousarray(counts[:, first:last])
    tables = np.zeros(counts.shape, np.uint16)
    cost = outside * (GAP + bits)
    for row, table in zip(counts, tables, strict=True):
        kept = row
        total = int(row.sum())
        if total:
            # A rare symbol takes a whole state from the others: a patch may be cheaper.
            rare = row * (GAP + bits - index) < (total * 3 >> (index + 1)) + 8
            rare &= row * 4 < (total >> index) * 3
            kept = np.where(rare, 0, row) if not rare.all() else row
        else:
            kept = np.eye(1, row.size, dtype=np.int64)[0]
        table[:] = ans.normalised(kept, index)
        patched = int(row.sum() - kept.sum()) if total else 0
        used = table > 0
        cost += patched * (GAP + bits)
        if total:
            cost += int(np.round((kept[used] * (index - np.log2(table[used]))).sum()))
        lengths = np.floor(np.log2(np.maximum(table, 1))).astype(np.int64)
        cost += 8 * (-(-row.size // 2)) + 8 * -(-int(lengths[used].sum()) // 8)
    return Tables(cost, first, tables, index)
