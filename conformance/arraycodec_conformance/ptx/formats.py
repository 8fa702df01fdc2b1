"""Number formats: how the words of a register are read as values, and how values are rounded back into words.

A format never rounds twice: wider arithmetic passes through round-to-odd, after which the last rounding is
the correct one (Boldo and Melquiond 2008: two spare bits suffice). Where PTX leaves the payload of a NaN open
the result is the canonical NaN of the format, whose all-ones mantissa no reference produces by accident.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

UNSIGNED: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.bool_),
    8: np.dtype(np.uint8),
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}
SIGNED: dict[int, np.dtype[Any]] = {bits: np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True, slots=True)
class Format:
    """A PTX type: `decode` reads unsigned words of `bits` bits as values, `encode` rounds values to words.

    The values of a format with several `elements` in a word have them as trailing axis.
    """

    name: str
    bits: int
    decode: Callable[[Array], Array]
    encode: Callable[[Array], Array]
    elements: int = 1


def to_odd(rounded: Array, error: Array) -> Array:
    """Turn round-to-nearest into round-to-odd, given the sign of `exact - rounded`."""
    bits = rounded.view(SIGNED[rounded.itemsize * 8])
    # A NaN error stands for a result that was never finite: nothing to correct.
    inexact = np.abs(error) > 0
    outward = (error > 0) != np.signbit(rounded)
    step = np.where(inexact & (bits & 1 == 0), np.where(outward, 1, -1), 0).astype(bits.dtype)
    return (bits + step).view(rounded.dtype)


def add_to_odd(a: Array, b: Array) -> Array:
    """Float64 sum rounded to odd; the error of the nearest sum comes from Knuth's two-sum, which is exact."""
    total = a + b
    part = total - a
    return to_odd(total, (a - (total - part)) + (b - part))


def fma(a: Array, b: Array, c: Array) -> Array:
    """`a * b + c` of float32, float16 or bfloat16 values as float64, ready for one correct rounding.

    Products of 24-bit significands fit the 53 bits of float64, and their exponents its range, so only the sum
    rounds.
    """
    return add_to_odd(a.astype(np.float64) * b.astype(np.float64), c.astype(np.float64))


def _narrow_to_odd(values: Array) -> Array:
    """Float64 to float32, rounded to odd, so that the next narrowing rounds once."""
    nearest = values.astype(np.float32)
    return to_odd(nearest, values - nearest.astype(np.float64))


def _encode_float32(values: Array) -> Array:
    values = values.astype(np.float32, copy=False)
    nan = np.isnan(values)
    words = values.view(np.uint32)
    return np.where(nan, np.uint32(0x7FFFFFFF), words) if nan.any() else words


def _encode_float16(values: Array) -> Array:
    if values.dtype == np.float64:
        values = _narrow_to_odd(values)
    values = values.astype(np.float16, copy=False)
    return np.where(np.isnan(values), np.uint16(0x7FFF), values.view(np.uint16))


def _encode_bfloat16(values: Array) -> Array:
    if values.dtype == np.float64:
        values = _narrow_to_odd(values)
    bits = values.astype(np.float32, copy=False).view(np.uint32)
    nearest_even = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) >> 16
    return np.where(np.isnan(values), np.uint16(0x7FFF), nearest_even.astype(np.uint16))


def _decode_bfloat16(words: Array) -> Array:
    # Float64, because a product of two bfloat16 can leave the range of float32 and would round twice there.
    return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _identity(words: Array) -> Array:
    return words


def _integer(name: str, bits: int, dtype: np.dtype[Any]) -> Format:
    return Format(name, bits, lambda words: words.view(dtype), lambda values: values.view(UNSIGNED[bits]))


def _packed(element: Format, bits: int) -> Format:
    """Several elements in one word, lowest first, as a trailing axis."""
    word, part = UNSIGNED[bits], UNSIGNED[element.bits]
    count = bits // element.bits

    def decode(words: Array) -> Array:
        return element.decode(np.ascontiguousarray(words).view(part)).reshape(-1, count)

    def encode(values: Array) -> Array:
        return np.ascontiguousarray(element.encode(values)).view(word).reshape(-1)

    return Format(f"{element.name}x{count}", bits, decode, encode, count)


def _formats() -> dict[str, Format]:
    formats = [Format("pred", 1, _identity, _identity)]
    for bits in (8, 16, 32, 64):
        formats += [_integer(f"{kind}{bits}", bits, UNSIGNED[bits]) for kind in "bu"]
        formats += [_integer(f"s{bits}", bits, SIGNED[bits])]
    float32 = Format("f32", 32, lambda words: words.view(np.float32), _encode_float32)
    float16 = Format("f16", 16, lambda words: words.view(np.float16), _encode_float16)
    bfloat16 = Format("bf16", 16, _decode_bfloat16, _encode_bfloat16)
    formats += [float32, float16, bfloat16, _packed(float32, 64), _packed(float16, 32), _packed(bfloat16, 32)]
    by_name = {item.name: item for item in formats}
    by_name.update({f"{kind}16x2": _packed(by_name[f"{kind}16"], 32) for kind in "us"})
    return by_name


FORMATS: dict[str, Format] = _formats()
"""Every type suffix the executor knows."""
