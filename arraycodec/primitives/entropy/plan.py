"""`Plan`: the choices with which one array is coded, and where its streams lie.

A plan is data, one plane of 16 words, since it depends on the array. docs/format/lossless.md says what each word means;
everything that a decoder takes from a plan has been checked here first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.errors import CorruptError

WORDS = 16  # of the plane
PLANES = {"plan": "uint32", "tables": "uint8", "index": "uint16", "streams": "uint8", "raw": "uint8"}  # and `words`
NONE, HUFFMAN, ANS = range(3)  # coders
PLAIN, SIGNED, FLOAT, PALETTE = range(4)  # arrangements of a word's bits
MAX_STREAM = 1 << 15  # symbols of a stream: its bytes fit 16 bits with 14 bits for each
FEWEST = 32  # symbols of a stream on average, so that an index is no larger than what it is of
MAX_LENGTH = 12  # bits of a Huffman code
ANS_BITS = range(9, 15)  # of the states of a table
SLACK = 8  # zero bytes after the last stream, so that words can be loaded anywhere in it


class Plan(NamedTuple):
    """The scalars of an encoded array, in the order of the plane `plan`."""

    coder: int = NONE
    arrangement: int = PLAIN
    rest: int = 0  # bits of a word that are stored raw
    offset: int = 0  # what is added to every word, modulo 2^n
    stream: int = 0  # elements of a stream
    unit: int = 0  # elements that share a table
    columns: int = 0  # 0: streams follow the flattened array; else they follow the columns of so wide a matrix
    bits: int = 0  # of a table's index
    tables: int = 0
    symbols: int = 0  # of the alphabet
    palette: int = 0  # words
    zeros: int = 0  # 1: the rest of every stream drops so many low zero bits
    sign: int = 0  # the bit that the sign of a float is moved to
    lone: int = 0  # 1: the last symbol stands for the palette's only word

    def to_array(self) -> np.ndarray:
        """The plane `plan`."""
        low, high = self.offset & 0xFFFFFFFF, self.offset >> 32
        words = [*self[:3], low, high, *self[4:]]
        return np.array(words + [0] * (WORDS - len(words)), np.uint32)

    @classmethod
    def of(cls, plane: np.ndarray, bits: int, size: int) -> Plan:
        """The plan in a plane, for an array of `size` words of so many bits; CorruptError where it breaks a rule."""
        words = [int(word) for word in np.asarray(plane).reshape(-1)]
        plan = cls._make([*words[:3], words[3] | words[4] << 32, *words[5:15]])
        broken = next((rule for rule, holds in plan._rules(bits, size, words[15:]) if not holds), None)
        if broken:
            raise CorruptError(f"lossless: plan must have {broken}, got {words}")
        return plan

    def _rules(self, n: int, size: int, unused: list[int]) -> list[tuple[str, bool]]:
        coded, palette = self.coder != NONE, self.arrangement == PALETTE
        bits = {NONE: range(1), HUFFMAN: range(1, MAX_LENGTH + 1), ANS: ANS_BITS}.get(self.coder, range(0))
        rules = [
            ("coder 0, 1 or 2", self.coder in (NONE, HUFFMAN, ANS)),
            ("arrangement 0..3", self.arrangement in (PLAIN, SIGNED, FLOAT, PALETTE)),
            (f"at most {n} bits of rest", self.rest <= n),
            (f"an offset below 2^{n}", self.offset < 1 << n),
            (f"streams of 1..{MAX_STREAM} elements", 1 <= self.stream <= MAX_STREAM),
            ("units that divide the streams", 0 < self.unit <= self.stream and self.stream % self.unit == 0),
            ("one unit a stream unless several ANS tables", self.unit == self.stream
                or (self.coder == ANS and self.tables > 1)),
            ("columns that divide the array", self.columns == 0 or size % self.columns == 0),
            (f"streams of {FEWEST} elements on average",
                self.stream == 0 or self.number_of_streams(size) <= size // FEWEST + 1),
            ("one unit a stream of columns", self.columns == 0 or self.unit == self.stream),
            ("table bits that its coder allows", self.bits in bits),
            ("1..256 tables where there is a coder", 1 <= self.tables <= 256 if coded else self.tables == 0),
            ("1..256 symbols where there is a coder", 1 <= self.symbols <= 256 if coded else self.symbols == 0),
            ("a palette of 1..256 words where it is the arrangement, and a lone word where there is one",
                1 <= self.palette <= 256 if palette else self.palette == self.lone),
            ("a lone word only beside coded fields", self.lone == 0 or (self.lone == 1 and coded and not palette)),
            ("zeros 0 or 1", self.zeros in (0, 1)),
            ("the sign at a bit of the word", self.sign < n if self.arrangement == FLOAT else self.sign == 0),
            ("zeros in the unused words", not any(unused)),
        ]  # fmt: skip
        if size == 0:
            rules = [("nothing but zeros for an empty array", self == Plan() and not any(unused))]
        return rules

    @property
    def lone_symbol(self) -> int:
        """The symbol of the lone word; 256, which no symbol is, where there is none."""
        return self.symbols - 1 if self.lone else 256

    def number_of_streams(self, size: int) -> int:
        """How many streams an array of so many elements has."""
        if size == 0:
            return 0
        return -(-size // self.stream) if not self.columns else -(-(size // self.columns) // self.stream) * self.columns

    def streams(self, size: int) -> Streams:
        """Where the streams of an array of so many elements lie."""
        if size == 0:
            return Streams(np.zeros(0, np.int64), np.zeros(0, np.int64))
        if not self.columns:
            starts = np.arange(0, size, self.stream, dtype=np.int64)
            return Streams(starts, np.minimum(self.stream, size - starts))
        rows = size // self.columns
        tops = np.arange(0, rows, self.stream, dtype=np.int64)
        heights = np.minimum(self.stream, rows - tops)
        starts = tops[:, None] * self.columns + np.arange(self.columns)
        return Streams(starts.reshape(-1), np.repeat(heights, self.columns))


class Choice(NamedTuple):
    """How an array is to be coded."""

    plan: Plan
    tables: np.ndarray  # uint16 (T, A): code lengths or frequencies
    labels: np.ndarray  # uint8, the table of every unit
    zeros: np.ndarray  # uint8, the dropped zeros of every stream
    palette: np.ndarray  # words, rising


class Streams(NamedTuple):
    """The streams of an array: the place of the first element in the flattened array, and the number of elements."""

    starts: np.ndarray  # int64
    lengths: np.ndarray  # int64

    def units(self, unit: int) -> np.ndarray:
        """The number of units of each stream."""
        return -(-self.lengths // unit)
