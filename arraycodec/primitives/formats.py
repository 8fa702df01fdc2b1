"""Small float formats: FP8, FP6 and FP4 as data, which every backend imports.

A code is sign | exponent | mantissa, as in IEEE 754; exponent 0 is subnormal. Formats differ in their widths, in the
bias and in what their last codes mean: those ending in "fn" have no infinity, those in "fnuz" neither infinity nor
negative zero, whose code is their only NaN, and formats of 6 and 4 bits have neither infinity nor NaN.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from arraycodec.primitives.floats import NAN


class Casting(NamedTuple):
    """What the cast from float32 to a format needs: integers only, so that a kernel takes it as the tuple it is."""

    bits: int  # the width of a code
    mantissa: int  # the bits of its mantissa
    first: int  # the float32 exponent field of the smallest normal number
    largest: int  # the code of the largest number
    beyond: int  # the code of what is larger, infinity included
    nan: int  # the code of NaN
    signed_nan: bool  # whether NaN has the sign bit as well; where not, NaN has no sign
    signed_zero: bool  # whether there is a negative zero


class Widening(NamedTuple):
    """What the way back to float32 needs: integers as in `Casting`; 256 is the code of what a format does not have."""

    half: int  # the sign bit of a code
    step: int  # float32 bits per unit of the code of a normal number
    offset: int  # the float32 bits that are added to them
    normal: int  # the code of the smallest normal number
    unit: int  # the bits of the smallest subnormal number
    largest: int  # the code of the largest number
    infinity: int  # the code of infinity; other codes beyond the largest are NaN
    nan: int  # the code of NaN in place of negative zero


class Format(NamedTuple):
    """A small float format, by its dtype name; codes are those of positive numbers."""

    name: str
    exponent: int  # bits of the exponent
    mantissa: int  # bits of the mantissa
    bias: int
    max_code: int  # of the largest finite number
    inf_code: int | None
    nan_code: int | None  # the canonical one; other codes beyond max_code are NaN as well
    signed_zero: bool = True

    @property
    def bits(self) -> int:
        """The width of a code."""
        return 1 + self.exponent + self.mantissa

    @property
    def largest(self) -> float:
        """The largest finite number."""
        return _magnitude(self, self.max_code)

    def casting(self, saturate: bool = True) -> Casting:
        """The cast to this format. What is too large becomes the largest number; unless saturating, infinity or NaN.

        A format that has neither saturates always; its NaN is 0.
        """
        nan, first = self.nan_code or 0, 127 + 1 - self.bias
        beyond = self.max_code if saturate else self.inf_code or self.nan_code or self.max_code
        signed_nan = self.nan_code is not None and self.signed_zero
        return Casting(self.bits, self.mantissa, first, self.max_code, beyond, nan, signed_nan, self.signed_zero)

    @property
    def widening(self) -> Widening:
        """The way back to float32, exact for every code."""
        exponent = 127 - self.bias
        return Widening(
            half=1 << (self.bits - 1),
            step=1 << (23 - self.mantissa),
            offset=exponent << 23,
            normal=1 << self.mantissa,
            unit=(exponent + 1 - self.mantissa) << 23,
            largest=self.max_code,
            infinity=self.inf_code or 256,
            nan=256 if self.signed_zero else 1 << (self.bits - 1),
        )


FORMATS = {
    row.name: row
    for row in (
        Format("float8_e4m3fn", 4, 3, 7, 0x7E, None, 0x7F),
        Format("float8_e5m2", 5, 2, 15, 0x7B, 0x7C, 0x7E),
        Format("float8_e4m3fnuz", 4, 3, 8, 0x7F, None, 0x80, signed_zero=False),
        Format("float8_e5m2fnuz", 5, 2, 16, 0x7F, None, 0x80, signed_zero=False),
        Format("float6_e2m3fn", 2, 3, 1, 0x1F, None, None),
        Format("float6_e3m2fn", 3, 2, 3, 0x1F, None, None),
        Format("float4_e2m1fn", 2, 1, 1, 0x07, None, None),
    )
}


@cache
def values(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The float32 value of every code of a format, read-only; each NaN is the canonical one.

    >>> values("float4_e2m1fn").tolist()[:8]
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    """
    form = FORMATS[name]
    half = 1 << (form.bits - 1)
    found = np.zeros(2 * half, np.float32)
    for code in range(half):
        finite, infinite = code <= form.max_code, code == form.inf_code
        found[code] = _magnitude(form, code) if finite else math.inf if infinite else NAN.view(np.float32)
        found[half + code] = -found[code]
    found[half:][~(found[:half] == found[:half])] = NAN.view(np.float32)
    if not form.signed_zero:
        found[half] = NAN.view(np.float32)
    found.setflags(write=False)
    return found


def _magnitude(form: Format, code: int) -> float:
    """The value of a finite, positive code."""
    exponent, mantissa = code >> form.mantissa, code & ((1 << form.mantissa) - 1)
    if exponent:
        mantissa |= 1 << form.mantissa
    return math.ldexp(mantissa, max(exponent, 1) - form.bias - form.mantissa)
