"""`DifferencePlan`: the choices with which an array is coded beside its base, and the plane `tables`.

A plan is data, one plane of 16 words. docs/format/delta.md says what each word means; everything that a decoder takes
from a plan or from the tables has been checked here first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.entropy.plan import ANS_BITS
from arraycodec.primitives.entropy.tables import pack_bits, pack_frequencies, unpack_bits, unpack_frequencies
from arraycodec.spec import DTYPES, ArraySpec

WORDS = 16  # of the plane
RAW, EQUAL, CODED = range(3)  # coders
MAX_STREAM = 1 << 13  # elements of a stream: its bytes fit 16 bits with 14 bits of state and 31 raw ones for each
MAX_TABLES, MAX_CURVES = 64, 64
CURVE = 256  # entries of a curve


class DifferencePlan(NamedTuple):
    """The scalars of an encoded array, in the order of the plane `plan`."""

    coder: int = RAW
    stream: int = 0  # elements of a stream
    unit: int = 0  # elements that share a label and a factor
    bits: int = 0  # of an ANS state
    tables: int = 0
    symbols: int = 0  # of the alphabet
    direct: int = 0  # differences of up to so many bits are symbols of their own
    leading: int = 0  # bits after the leading one in the symbols of larger differences
    shift: int = 0  # from a base element to its bucket
    first: int = 0  # the shifted base element of bucket 0
    buckets: int = 0
    labels: int = 0
    curves: int = 0
    curve_shift: int = 0  # from a base element to its index in a curve
    scaled: int = 0  # 1: each unit has a factor

    def to_array(self) -> np.ndarray:
        """The plane `plan`."""
        return np.array([*self, 0], np.uint32)

    @classmethod
    def of(cls, plane: np.ndarray, spec: ArraySpec) -> DifferencePlan:
        """The plan in a plane, for an array of this spec; CorruptError where it breaks a rule."""
        words = [int(word) for word in np.asarray(plane).reshape(-1)]
        plan = cls(*words[:15])
        bits, size = DTYPES[spec.dtype].bits, spec.size
        rules = plan._coded_rules(bits, spec.dtype) if plan.coder == CODED else plan._other_rules()
        rules += [
            ("a raw array where it is empty", size > 0 or plan.coder == RAW),
            ("zero in the unused word", words[15:] == [0]),
        ]
        if broken := next((rule for rule, holds in rules if not holds), None):
            raise CorruptError(f"delta: plan must have {broken}, got {words}")
        return plan

    def _other_rules(self) -> list[tuple[str, bool]]:
        return [
            ("coder 0, 1 or 2", self.coder in (RAW, EQUAL)),
            ("zeros beside coder 0 and 1", not any(self[1:])),
        ]

    def _coded_rules(self, n: int, dtype: str) -> list[tuple[str, bool]]:
        return [
            (f"streams of 1..{MAX_STREAM} elements", 1 <= self.stream <= MAX_STREAM),
            ("units that divide the streams", 1 <= self.unit <= self.stream and self.stream % self.unit == 0),
            (f"states of {ANS_BITS[0]}..{ANS_BITS[-1]} bits", self.bits in ANS_BITS),
            (f"1..{MAX_TABLES} tables", 1 <= self.tables <= MAX_TABLES),
            (f"symbols for differences of up to {min(n, 8)} bits", self.direct <= min(n, 8)),
            ("at most as many leading bits", self.leading <= self.direct),
            # All rules are worked out, broken ones too: no power of two may have billions of bits.
            ("1..256 symbols, no more than differences have",
                self.leading <= self.direct <= n and 1 <= self.symbols <= min(256, self.most_symbols(n))),
            (f"fewer than {n} bits without a bucket", self.shift < n),
            (f"a first bucket below 2^{n}", self.first < 1 << n),
            ("1..256 buckets", 1 <= self.buckets <= 256),
            ("1..256 labels", 1 <= self.labels <= 256),
            (f"at most {MAX_CURVES} curves", self.curves <= MAX_CURVES),
            (f"fewer than {n} bits without an index", self.curve_shift < (n if self.curves else 1)),
            ("scaled 0, or 1 of float32", self.scaled <= (dtype == "float32")),
        ]  # fmt: skip

    def most_symbols(self, n: int) -> int:
        """The symbols that differences of n bits have."""
        return (1 << self.direct) + ((n - self.direct) << self.leading)

    def number_of_streams(self, size: int) -> int:
        """The streams of an array of so many elements."""
        return -(-size // self.stream) if self.coder == CODED else 0

    def number_of_units(self, size: int) -> int:
        """The units of an array of so many elements."""
        return -(-size // self.unit) if self.coder == CODED else 0


class Model(NamedTuple):
    """What the plane `tables` holds."""

    frequencies: np.ndarray  # uint16 (T, A)
    curves: np.ndarray  # int32 (C, 256)
    curve_of: np.ndarray  # uint8 (G,): 0, or a curve counted from 1
    table_of: np.ndarray  # uint8 (G, E): the table of each bucket
    labels: np.ndarray  # uint8, one for each unit


def pack(plan: DifferencePlan, model: Model) -> np.ndarray:
    """The plane `tables`."""
    parts = [pack_frequencies(table) for table in model.frequencies]
    if plan.curves:
        parts += [model.curves.astype("<i4").reshape(-1).view(np.uint8), model.curve_of]
    if plan.tables > 1:
        parts.append(pack_bits(model.table_of.reshape(-1), _width(plan.tables)))
    if plan.labels > 1:
        parts.append(pack_bits(model.labels, _width(plan.labels)))
    return np.concatenate(parts)


def unpack(plan: DifferencePlan, plane: np.ndarray, units: int) -> Model:
    """The model of a coded array again; CorruptError where the plane has another length or breaks a rule."""
    at, frequencies = 0, np.zeros((plan.tables, plan.symbols), np.uint16)
    for table in range(plan.tables):
        frequencies[table], at = unpack_frequencies(plane, at, plan.symbols, plan.bits)
    curves, curve_of = np.zeros((plan.curves, CURVE), np.int32), np.zeros(plan.labels, np.uint8)
    if plan.curves:
        _enough(plane, at + curves.nbytes + plan.labels)
        curves = plane[at : at + curves.nbytes].view("<i4").astype(np.int32).reshape(curves.shape)
        at += curves.nbytes
        curve_of = plane[at : at + plan.labels].copy()
        at += plan.labels
        _below(curve_of, plan.curves + 1, "curves of labels")
    table_of, labels = np.zeros((plan.labels, plan.buckets), np.uint8), np.zeros(units, np.uint8)
    if plan.tables > 1:
        flat, at = unpack_bits(plane, at, table_of.size, _width(plan.tables))
        table_of = flat.reshape(table_of.shape)
        _below(table_of, plan.tables, "tables of buckets")
    if plan.labels > 1:
        labels, at = unpack_bits(plane, at, units, _width(plan.labels))
        _below(labels, plan.labels, "labels")
    if at != plane.size:
        raise CorruptError(f"delta: plane 'tables' must have {at} bytes, got {plane.size}")
    return Model(frequencies, curves, curve_of, table_of, labels)


def _width(count: int) -> int:
    """The bits of a number below `count`."""
    return (count - 1).bit_length()


def _enough(plane: np.ndarray, end: int) -> None:
    if end > plane.size:
        raise CorruptError(f"delta: plane 'tables' must have at least {end} bytes, got {plane.size}")


def _below(values: np.ndarray, end: int, what: str) -> None:
    if values.size and values.max() >= end:
        raise CorruptError(f"delta: {what} must be below {end}, got {values.max()}")
