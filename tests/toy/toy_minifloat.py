"""The minifloat codec in plain NumPy, written from docs/format/minifloat.md: numbers are looked up in sorted tables."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from toy_linear import EPSILON, MIN_SCALE, NAN, pack, tile_numbers, times_reciprocal, unpack, without_subnormals

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of


class Kind(NamedTuple):
    """A row of the page's table of formats."""

    exponent: int
    mantissa: int
    bias: int
    largest: float
    infinity: int | None
    nan: int | None


KINDS = {
    "float8_e4m3fn": Kind(4, 3, 7, 448.0, None, 0x7F),
    "float8_e5m2": Kind(5, 2, 15, 57344.0, 0x7C, 0x7E),
    "float8_e4m3fnuz": Kind(4, 3, 8, 240.0, None, 0x80),
    "float8_e5m2fnuz": Kind(5, 2, 16, 57344.0, None, 0x80),
    "float6_e2m3fn": Kind(2, 3, 1, 7.5, None, None),
    "float6_e3m2fn": Kind(3, 2, 3, 28.0, None, None),
    "float4_e2m1fn": Kind(2, 1, 1, 6.0, None, None),
}


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    specs, own, largest = codec.planes(spec_of(array)), codec.flavour is None, np.float32(KINDS[codec.format].largest)
    planes = dict(given)
    with np.errstate(all="ignore"):
        y = array.astype(np.float32).ravel()
        y = np.where(np.isnan(y), y, np.copysign(without_subnormals(y), y))
        if codec.scaled:
            tile, count = tile_numbers(array.shape, codec.block_size)
            absmax = np.zeros(count, np.float32)
            np.maximum.at(absmax, tile, np.abs(y))
            if "scales" not in given:
                scale = absmax * (np.float32(1) / largest) if own else (absmax / largest).astype(array.dtype)
                smallest = np.float32(0 if own else EPSILON[array.dtype.name])
                scale = np.where(scale.astype(np.float32) < MIN_SCALE, smallest.astype(scale.dtype), scale)
                scale = scale if array.size else np.zeros_like(scale)
                planes["scales"] = canonical(np.where(np.isfinite(absmax), scale, scale.dtype.type(np.nan)))
            scale = planes["scales"].astype(np.float32).ravel()[tile]
            if own:
                y = np.where(np.isnan(y), y, np.copysign(times_reciprocal(y, scale), y))
            else:
                y = (y / scale).astype(array.dtype if codec.arithmetic == "eager" else np.float32).astype(np.float32)
                y = without_subnormals(y)
            usable = np.isfinite(scale) & (scale >= MIN_SCALE)
            y = np.where(np.isnan(y), np.float32(np.nan), y)
            y = np.where(usable, y, np.float32(0))
        codes = cast(y, codec.format, codec.overflow == "saturate")
    planes["codes"] = codes.view(specs["codes"].numpy_dtype) if codec.bits == 8 else pack(codes, codec.bits)
    return {name: planes[name].reshape(spec.known_shape) for name, spec in specs.items()}


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    codes = planes["codes"].ravel().view(np.uint8)
    codes = codes if codec.bits == 8 else unpack(codes, codec.bits, spec.size)
    value = uncast(codes, codec.format)
    with np.errstate(all="ignore"):
        if codec.scaled:
            scale = planes["scales"].astype(np.float32).ravel()
            scale = np.where(np.isfinite(scale), scale, np.float32(np.nan))
            scale = np.where(np.abs(scale) < MIN_SCALE, np.float32(0), scale)
            scale = scale[tile_numbers(spec.known_shape, codec.block_size)[0]]
            value = value * scale
            value = np.where((value == 0) & ~(scale >= MIN_SCALE), np.float32(0), value)
        value = canonical(value.astype(spec.numpy_dtype))
    return value.reshape(spec.known_shape)


def magnitudes(kind: Kind, count: int) -> np.ndarray:
    """The values of the codes 0, 1, 2, ... as IEEE 754 reads them."""
    code = np.arange(count)
    exponent, mantissa = code >> kind.mantissa, code & (2**kind.mantissa - 1)
    significand = mantissa + np.where(exponent > 0, 2**kind.mantissa, 0)
    return np.ldexp(significand.astype(float), np.maximum(exponent, 1) - kind.bias - kind.mantissa)


def cast(y: np.ndarray, name: str, saturate: bool) -> np.ndarray:
    """The nearest code, of two equally near ones the even one."""
    kind, sign = KINDS[name], 1 << (KINDS[name].exponent + KINDS[name].mantissa)
    values = magnitudes(kind, sign + 1)
    top = int(np.searchsorted(values, kind.largest))
    bounds = (values[: top + 1] + values[1 : top + 2]) / 2
    magnitude = np.abs(y.astype(float))
    code = np.searchsorted(bounds, magnitude, side="left")
    code = code + (np.isin(magnitude, bounds) & (code % 2 == 1))
    beyond = top if saturate else kind.nan if kind.infinity is None else kind.infinity
    code = np.where(code > top, beyond, code)
    negative = np.signbit(y)
    if name.endswith("fnuz"):
        code = np.where(np.isnan(y), kind.nan, np.where(negative & (code > 0) & (code < sign), code + sign, code))
    elif kind.nan is None:
        code = np.where(np.isnan(y), 0, np.where(negative, code + sign, code))
    else:
        code = np.where(np.isnan(y), kind.nan, code) + np.where(negative, sign, 0)
    return code.astype(np.uint8)


def uncast(codes: np.ndarray, name: str) -> np.ndarray:
    """The float32 values of codes."""
    kind, sign = KINDS[name], 1 << (KINDS[name].exponent + KINDS[name].mantissa)
    values = magnitudes(kind, sign)
    values[values > kind.largest] = np.nan
    if kind.infinity is not None:
        values[kind.infinity] = np.inf
    values = np.concatenate([values, -values])
    if name.endswith("fnuz"):
        values[sign] = np.nan
    return values.astype(np.float32)[codes]


def canonical(x: np.ndarray) -> np.ndarray:
    """With the canonical NaN of the dtype in the place of every NaN."""
    integer, nan = NAN[x.dtype.name]
    return np.where(np.isnan(x), np.array(nan, integer).view(x.dtype), x)
