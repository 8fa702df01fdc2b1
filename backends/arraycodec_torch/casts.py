"""Casts from float32 to small floats and their values, as torch ops: `arraycodec.primitives.casts`, step by step."""

from __future__ import annotations

from functools import cache

import torch
from torch.utils._python_dispatch import _disable_current_modes

from arraycodec.primitives import formats
from arraycodec.primitives.formats import Casting
from arraycodec_torch.primitives import INFINITY, MAGNITUDE


def float32_to_small(bits: torch.Tensor, casting: Casting) -> torch.Tensor:
    """float32 bits -> the code in a small format, rounded to nearest even; see `formats.Casting`."""
    a = bits & MAGNITUDE
    exponent = a >> 23
    field = exponent.clamp(min=casting.first)
    shift = (23 - casting.mantissa + field - exponent).clamp(max=25)  # 25 leaves nothing
    m = (a & 0x7FFFFF) | 0x800000
    half = (1 << (shift - 1)) - 1
    code = (m + half + ((m >> shift) & 1)) >> shift
    code = code + ((field - casting.first) << casting.mantissa)
    code = torch.where(code <= casting.largest, code, casting.beyond)
    code = torch.where(a <= INFINITY, code, casting.nan)
    sign = ((bits >> 31) & 1) << (casting.bits - 1)
    sign = sign if casting.signed_zero else torch.where(code != 0, sign, 0)
    return code | (sign if casting.signed_nan else torch.where(a <= INFINITY, sign, 0))


@cache
def values(name: str, device: torch.device) -> torch.Tensor:
    """The float32 value of every code of a format, on a device."""
    with _disable_current_modes():  # a fake mode must not leave its tensors in the cache
        return torch.tensor(formats.values(name), device=device)
