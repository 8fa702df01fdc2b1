"""Residual stages: books of which each quantises what those before it have left, trained on integers.

With *gains* (see `primitives.sums`) what the first stage leaves is multiplied with a power of two that its cell has for
itself, so that the later stages find residuals of about the same size in all cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from threading import Lock
from typing import NamedTuple

import numpy as np

from arraycodec.primitives import kmeans, vectors
from arraycodec.primitives.cells import BINS, LOWEST
from arraycodec.primitives.cuts import near_levels
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.kmeans import find_codes, key_of, prefix_keys
from arraycodec.primitives.sums import FINE, Codes, code_dtype, pack, starts
from arraycodec.primitives.threads import split

HIGHEST = 32767
PIECE = 1 << 16  # elements, or vectors, that are encoded at once
FLAT = 1 << 8  # the mean square of what a cell leaves, up to which its gain is 2^0

Load = Callable[[int, int], np.ndarray]  # the int16 numbers of a range of elements
Keep = Callable[[int, np.ndarray, np.ndarray], None]  # books (n, entries, dim) and gains (n, cells) from a number on


class Stages(NamedTuple):
    """The widths of stages, whether there are gains; and of an array the elements of a vector, of a book, and all."""

    widths: tuple[int, ...]
    gain: bool
    dim: int
    length: int
    size: int
    books: int


class Book(NamedTuple):
    """int16 entries (entries, d) of all stages, and uint8 exponents of the gains of the first (none: all 0)."""

    entries: np.ndarray
    gains: np.ndarray


def encode(load: Load, weights: np.ndarray, how: Stages, keep: Keep, packed: np.ndarray) -> None:
    """Write the stream of codes of the numbers of an array, and have the books kept that were found for them.

    weights   int64 (columns,), repeated along the flattened array: how much each number counts in training.
    """
    if how.dim > 1:
        encode_vectors(load, weights, how, keep, packed)
    elif how.length >= how.size and how.books:
        encode_numbers(load, weights, how, keep, packed)
    else:
        encode_blocks(load, weights, how, keep, packed)


def pieces(size: int, piece: int, work: Callable[[int, int], None]) -> None:
    """Call `work(start, stop)` on pieces of an array, in threads where it is large."""

    def several(first: int, last: int) -> None:
        for start in range(first * piece, min(last * piece, size), piece):
            work(start, min(start + piece, size))

    split(several, -(-size // piece), size)


def bytes_of(packed: np.ndarray, start: int, stop: int, bits: int) -> np.ndarray:
    """The part of a stream that the codes start..stop are."""
    return packed[start * bits // 8 : -(-stop * bits // 8)]


# -- numbers: one book of all, from their histogram


def train_numbers(counts: np.ndarray, widths: tuple[int, ...], gain: bool) -> tuple[Book, Codes]:
    """The book that k-means finds for a histogram of int16 numbers stage by stage, and the code of each number."""
    residual, code = np.arange(-LOWEST, LOWEST, dtype=np.int32), np.zeros(BINS, code_dtype(sum(widths)))
    entries, gains = [], np.zeros(1 << widths[0], np.uint8)
    index = np.empty(BINS, np.uint16)
    for m, width in enumerate(widths):
        own = np.zeros(BINS, np.int64)
        add_counts(counts, residual, own)
        levels = kmeans.near(own, 1 << width)
        take_stage(kmeans.nearest(levels), levels, width, residual, index, code)
        if gain and m == 0:
            squares, mass = np.zeros(gains.size, np.int64), np.zeros(gains.size, np.int64)
            fewer = counts >> max(int(counts.sum()).bit_length() - kmeans.MAX_MASS.bit_length(), 0)  # so that sums fit
            np.add.at(squares, index, fewer * residual * residual)
            np.add.at(mass, index, fewer)
            gains = gains_of(squares, mass)
            residual <<= FINE - gains[index].astype(np.int32)
        residual = residual.clip(-HIGHEST, HIGHEST)
        entries.append(levels[:, None])
    return Book(np.concatenate(entries), gains), code


@kernel
def add_counts(counts, residual, own):
    """Add the counts of numbers to those of what is left of them."""
    for v in range(counts.size):
        own[residual[v] + LOWEST] += counts[v]


@kernel
def take_stage(table, levels, width, residual, index, code):
    """The index of each residual in a table of all numbers, below the code so far, and what it leaves."""
    for v in range(residual.size):
        i = table[residual[v] + LOWEST]
        index[v] = i
        code[v] = (code[v] << width) | i
        residual[v] -= levels[i]


def encode_numbers(load: Load, weights: np.ndarray, how: Stages, keep: Keep, packed: np.ndarray) -> None:
    """`encode` of a single book, in two passes."""
    counts, lock, bits = np.zeros(BINS, np.int64), Lock(), sum(how.widths)

    def count(start: int, stop: int) -> None:
        own = np.zeros(BINS, np.int64)
        kmeans.count_range(load(start, stop), weights, start, own)
        with lock:
            np.add(counts, own, out=counts)

    def code(start: int, stop: int) -> None:
        codes = np.empty(stop - start, table.dtype)
        take(table, load(start, stop), codes)
        pack(codes, bits, bytes_of(packed, start, stop, bits))

    pieces(how.size, PIECE, count)
    book, table = train_numbers(counts, how.widths, how.gain)
    keep(0, book.entries[None], book.gains[None])
    pieces(how.size, PIECE, code)


@kernel
def take(table, integers, codes):
    """The codes of numbers from a table of all."""
    for i in range(codes.size):
        codes[i] = table[np.int64(integers[i]) + LOWEST]


def gains_of(squares: np.ndarray, mass: np.ndarray) -> np.ndarray:
    """The exponents of the gains of cells, from the sums of the squares of what they leave, and of weights."""
    return np.array([gain_of(square, m) for square, m in zip(squares, mass, strict=True)], np.uint8)


@inlined
def gain_of(square, mass):
    """The smallest exponent with which the mean square is at most FLAT times 4 to its power."""
    gain = 0
    while gain < FINE and square > mass * (FLAT << (2 * gain)):
        gain += 1
    return gain


@kernel
def add_squares(points, centres, weights, index, squares, mass):
    """Add to the sums of cells the squares of what vectors differ from their centres, and weights, for each element."""
    for i in range(index.size):
        cell, weight = index[i], weights[i]
        for e in range(points.shape[1]):
            difference = np.int64(points[i, e]) - np.int64(centres[cell, e])
            squares[cell] += weight * difference * difference
            mass[cell] += weight


# -- vectors: a book from some of them, then the codes of all


def train_vectors(points: np.ndarray, weights: np.ndarray, widths: tuple[int, ...], gain: bool) -> Book:
    """The book that k-means finds for int16 vectors (n, d) stage by stage."""
    residual, entries, gains = points, [], np.zeros(1 << widths[0], np.uint8)
    for m, width in enumerate(widths):
        centres = vectors.train(residual, weights, 1 << width, m)
        index, _ = vectors.nearest(residual, centres)
        if gain and m == 0:
            squares, mass = np.zeros(gains.size, np.int64), np.zeros(gains.size, np.int64)
            add_squares(residual, centres, weights, index, squares, mass)
            gains = gains_of(squares, mass)
        residual = left(residual, centres, index, gains if gain and m == 0 else None)
        entries.append(centres)
    return Book(np.concatenate(entries), gains)


def codes_of_vectors(points: np.ndarray, book: Book, widths: tuple[int, ...], gain: bool) -> Codes:
    """The codes of int16 vectors (n, d)."""
    residual, code = points, np.zeros(len(points), np.uint64)
    for m, (start, width) in enumerate(zip(starts(widths), widths, strict=True)):
        centres = book.entries[start : start + (1 << width)]
        index, _ = vectors.nearest(residual, centres)
        residual = left(residual, centres, index, book.gains if gain and m == 0 else None)
        code = (code << np.uint64(width)) | index.astype(np.uint64)
    return code.astype(code_dtype(sum(widths)))


def encode_vectors(load: Load, weights: np.ndarray, how: Stages, keep: Keep, packed: np.ndarray) -> None:
    """`encode` of vectors: a book at a time from a sample of those that begin in it, then the codes of all."""
    dim, n, bits = how.dim, -(-how.size // how.dim), sum(how.widths)
    edges = [min(-(-book * how.length // dim), n) for book in range(how.books + 1)]
    found: list[Book] = []

    def points(first: int, last: int) -> np.ndarray:
        own = np.zeros((last - first, dim), np.int16)
        stop = min(last * dim, how.size)
        own.reshape(-1)[: stop - first * dim] = load(first * dim, stop)
        return own

    for book, (start, stop) in enumerate(pairwise(edges)):
        sample = vectors.sample_of(stop - start) + start
        chosen = np.empty((sample.size, dim), np.int16)
        for first in range(start, stop, PIECE):
            last = min(first + PIECE, stop)
            own = slice(*np.searchsorted(sample, (first, last)))
            chosen[own] = points(first, last)[sample[own] - first]
        if weights.size == 1:
            mass = np.full(sample.size, dim * weights[0])
        else:
            mass = weights[(sample[:, None] * dim + np.arange(dim)) % weights.size].sum(1)
        found.append(train_vectors(chosen, mass, how.widths, how.gain))
        keep(book, found[book].entries[None], found[book].gains[None])
    for first in range(0, n, PIECE):
        last, book = min(first + PIECE, n), first * dim // how.length
        own, codes = points(first, last), np.zeros(last - first, code_dtype(bits))
        while book < how.books and edges[book] < last:
            part = slice(max(edges[book], first) - first, min(edges[book + 1], last) - first)
            codes[part] = codes_of_vectors(own[part], found[book], how.widths, how.gain)
            book += 1
        pack(codes, bits, bytes_of(packed, first, last, bits))


def left(residual: np.ndarray, centres: np.ndarray, index: np.ndarray, gains: np.ndarray | None) -> np.ndarray:
    """What a stage leaves to the next one, as int16."""
    wide = residual - centres[index].astype(np.int32)
    if gains is not None:
        wide <<= (FINE - gains[index].astype(np.int32))[:, None]
    return wide.clip(-HIGHEST, HIGHEST).astype(np.int16)


# -- numbers: a book for each `length` consecutive ones


def encode_blocks(load: Load, weights: np.ndarray, how: Stages, keep: Keep, packed: np.ndarray) -> None:
    """`encode` of many books, as many together as make a piece whose codes are whole bytes."""
    length, bits = how.length, sum(how.widths)
    unit = length * (8 // math.gcd(length, 8))

    def code(start: int, stop: int) -> None:
        books = -(-(stop - start) // length)
        entries = np.zeros((books, sum(1 << width for width in how.widths)), np.int16)
        gains = np.zeros((books, 1 << how.widths[0]), np.uint8)
        codes = train_blocks(load(start, stop), weights, start, length, how.widths, how.gain, entries, gains)
        keep(start // length, entries[:, :, None], gains)
        pack(codes, bits, bytes_of(packed, start, stop, bits))

    pieces(how.size, unit * max(PIECE // unit, 1), code)


def train_blocks(
    integers: np.ndarray, weights: np.ndarray, start: int, length: int, widths: tuple[int, ...], gain: bool,
    entries: np.ndarray, gains: np.ndarray,
) -> Codes:  # fmt: skip
    """The codes of int16 numbers, the first of which has index `start` in its array and is the first of a book.

    Their books (books, entries) and gains (books, cells) are written.
    """
    codes = np.zeros(integers.size, code_dtype(sum(widths)))
    train_range(integers, weights, start, length, np.array(widths), gain, entries, gains, codes)
    return codes


@kernel
def train_range(integers, weights, offset, length, widths, gain, entries, gains, codes):
    """Train all books, and encode what they are of."""
    length = min(length, integers.size)
    keys, values, sums = np.empty(length, np.int64), np.empty(length, np.int64), np.empty((3, length + 1), np.int64)
    residual, narrow, index = np.empty(length, np.int16), np.empty(length, np.uint8), np.empty(length, np.uint16)
    for book in range(entries.shape[0]):
        start, stop = book * length, min((book + 1) * length, integers.size)
        count, base = stop - start, 0
        left, own = residual[:count], index[:count]
        left[:] = integers[start:stop]
        for m in range(widths.size):
            k = 1 << widths[m]
            levels = entries[book, base : base + k]
            base += k
            if weights.size == 1:
                for i in range(count):
                    keys[i] = key_of(left[i], weights[0])
            else:
                for i in range(count):
                    keys[i] = key_of(left[i], weights[(offset + start + i) % weights.size])
            found = prefix_keys(keys[:count], values, sums)
            near_levels(values[:found], sums[0, : found + 1], sums[1, : found + 1], 0, levels)
            find_indices(bounds_of(levels), left, narrow[:count], own)
            for i in range(count):
                codes[start + i] = (codes[start + i] << widths[m]) | own[i]
            if gain and m == 0:
                raise_gains(left, levels, weights, offset + start, own, gains[book])
            for i in range(count):
                wide = np.int32(left[i]) - np.int32(levels[own[i]])
                if gain and m == 0:
                    wide <<= FINE - np.int32(gains[book, own[i]])
                left[i] = min(max(wide, -HIGHEST), HIGHEST)


@kernel
def find_indices(bounds, integers, codes, index):
    """The index of the nearest level of each number; `codes` is a buffer of uint8."""
    if bounds.size < 256:
        find_codes(bounds, integers, codes)
        index[:] = codes
    else:
        for i in range(integers.size):
            index[i] = np.searchsorted(bounds, integers[i])


@kernel
def bounds_of(levels):
    """`kmeans.bounds_of` for a book."""
    bounds = np.empty(levels.size - 1, np.int16)
    lowest = np.int64(HIGHEST)
    for i in range(levels.size - 2, -1, -1):
        low, high = np.int64(levels[i]), np.int64(levels[i + 1])
        if low < high:
            lowest = min(lowest, (low + high) >> 1)
        bounds[i] = lowest
    return bounds


@kernel
def raise_gains(integers, levels, weights, start, index, gains):
    """`gains_of` for a book."""
    squares, mass = np.zeros(gains.size, np.int64), np.zeros(gains.size, np.int64)
    for i in range(integers.size):
        weight, difference = weights[(start + i) % weights.size], np.int64(integers[i]) - np.int64(levels[index[i]])
        squares[index[i]] += weight * difference * difference
        mass[index[i]] += weight
    for cell in range(gains.size):
        gains[cell] = gain_of(squares[cell], mass[cell])
