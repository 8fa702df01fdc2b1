"""Which fields of words may be coded, and the bins in which words are counted so that any of them can be judged.

A field is some bits of a word, or of its difference to an offset, of at most 256 values in use. The bins are finer than
all fields of an array: the counts of a field's symbols are sums of bins.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import histogram, samples
from arraycodec.primitives.entropy.histogram import BYTES, FINE, FLOATS, MANTISSA, OTHER, RANGE, WINDOW
from arraycodec.primitives.entropy.plan import FLOAT, PLAIN, SIGNED

# Exponent and mantissa bits of the floats of the dtype table.
FLOAT_BITS = {
    "float16": (5, 10), "bfloat16": (8, 7), "float32": (8, 23), "float64": (11, 52),
    "float8_e4m3fn": (4, 3), "float8_e4m3fnuz": (4, 3), "float8_e5m2": (5, 2), "float8_e5m2fnuz": (5, 2),
}  # fmt: skip
LONE = 256  # the symbol of words that are zero, in a field that has no symbol for the exponent 0
SAMPLES, SAMPLE = 256, 64  # runs of words, and their length, by which the window of exponents is found


class Bins(NamedTuple):
    """How words are sorted into bins: the arguments of `histogram.bins_of`."""

    kind: int
    first: np.unsignedinteger | int
    second: int
    shift: int

    @property
    def number(self) -> int:
        """How many there are."""
        return {BYTES: histogram.BYTE_BINS, RANGE: histogram.RANGE_BINS, FLOATS: histogram.FLOAT_BINS}[self.kind]

    @property
    def zero(self) -> int | None:
        """The bin of the word 0 where it lies outside of the window of exponents."""
        if self.kind != FLOATS or not self.first:
            return None
        return FINE if self.second == 0 else histogram.FLOAT_BINS - 1


class Field(NamedTuple):
    """A candidate."""

    name: str
    arrangement: int
    rest: int  # bits below it
    sign: int  # where a float's sign is moved to
    symbols: np.ndarray  # int16 (bins,): the symbol of the words in each bin, 0..255 or LONE; -1: outside
    first: int = 0  # the field's value for symbol 0
    offset: int = 0  # what is subtracted from words before the field is taken

    def with_lone(self, bins: Bins) -> Field:
        """The field with a symbol of its own for zero."""
        symbols = self.symbols.copy()
        symbols[bins.zero] = LONE
        return self._replace(symbols=symbols)


def candidates(words: np.ndarray, dtype: str, name: str | None) -> tuple[Bins, tuple[Field, ...]]:
    """The bins for these words and the fields that may be coded; only those called `name`, unless that is None."""
    bits = 8 * words.itemsize
    if dtype in FLOAT_BITS:
        exponent, mantissa = FLOAT_BITS[dtype]
        if bits == 8:
            bins, fields = Bins(BYTES, 0, 0, 0), _byte_float_fields(mantissa)
        else:
            first, second = _window(words, exponent, mantissa)
            bins, fields = Bins(FLOATS, first, second, mantissa - MANTISSA), _float_fields(mantissa, first, second)
    elif bits == 8:
        bins, fields = Bins(BYTES, 0, 0, 0), _byte_fields()
    else:
        low, rest, arrangement, flip = narrowest(words)
        shift = max(0, rest - 8)
        bins, fields = Bins(RANGE, words.dtype.type(low ^ flip), 0, shift), range_fields(arrangement, low, shift)
    return bins, fields if name is None else tuple(field for field in fields if field.name == name)


def narrowest(words: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest word, the bits of its distance to the largest, arrangement and flipped bits: plain or signed."""
    ranges = []
    for arrangement, flip in ((PLAIN, 0), (SIGNED, 1 << (8 * words.itemsize - 1))):
        low, high = map(int, samples.extremes(words, words.dtype.type(flip)))
        ranges.append((high - low, low, arrangement, flip))
    span, low, arrangement, flip = min(ranges)
    return low, span.bit_length(), arrangement, flip


def _window(words: np.ndarray, exponent: int, mantissa: int) -> tuple[int, int]:
    """The first exponents with fine bins, and of those with bins at all, from samples of the words."""
    counts = np.zeros(1 << exponent, np.int64)
    if counts.size > WINDOW:
        stride = max(SAMPLE, words.size // SAMPLES)
        samples.exponents(words, mantissa, -(-words.size // stride), stride, SAMPLE, counts)
    first = int(samples.best_window(counts, WINDOW)[0])
    return first, max(0, min(first + WINDOW // 2 - OTHER // 2, counts.size - OTHER))


@cache
def _float_fields(mantissa: int, first: int, second: int) -> tuple[Field, ...]:
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
            fields.append(Field(_name(top, signed), FLOAT, rest, rest - 1 + signed, symbols, start))
    return tuple(fields)


@cache
def _byte_float_fields(mantissa: int) -> tuple[Field, ...]:
    """The same of floats of 8 bits, up to the whole byte."""
    byte = np.arange(256)
    fields = []
    for signed in (0, 1):
        for top in range(mantissa + 1):
            symbols = (((byte & 127) >> (mantissa - top)) << signed | (byte >> 7 & signed)).astype(np.int16)
            rest = mantissa + 1 - top - signed
            fields.append(Field(_name(top, signed), FLOAT, rest, max(rest - 1 + signed, 0), symbols))
    return tuple(fields)


def _name(top: int, signed: int) -> str:
    return "SE"[1 - signed :] + (f"M{top}" if top else "")


@cache
def _byte_fields() -> tuple[Field, ...]:
    """The top 8..1 bits of bytes, plain or signed."""
    byte = np.arange(256)
    return tuple(
        Field(f"B{top}", arrangement, 8 - top, 0, ((byte ^ flip) >> (8 - top)).astype(np.int16))
        for top in range(8, 0, -1)
        for arrangement, flip in ((PLAIN, 0), (SIGNED, 128))
    )


def range_fields(arrangement: int, low: int, shift: int) -> tuple[Field, ...]:
    """The top 8..1 bits of the range of integers, whose last bin is empty, since it holds them all."""
    return tuple(
        Field(
            f"B{top}", arrangement, shift + 8 - top, 0,
            np.append(np.arange(256) >> (8 - top), -1).astype(np.int16), 0, low,
        )
        for top in range(8, 0, -1)
    )  # fmt: skip
