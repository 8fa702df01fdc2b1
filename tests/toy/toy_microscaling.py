"""The microscaling codec in plain NumPy, written from docs/format/microscaling.md: powers of two as float64 numbers."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of

EMAX = {
    "float4_e2m1fn": 2, "float6_e2m3fn": 2, "float6_e3m2fn": 4, "float8_e4m3fn": 8, "float8_e5m2": 15, "int8": 0,
}  # fmt: skip
NAN = {"float32": (np.uint32, 0x7FC00000), "bfloat16": (np.uint16, 0x7FC0), "float16": (np.uint16, 0x7E00)}


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    specs, foreign = codec.planes(spec_of(array)), codec.flavour is not None
    count = -(-array.size // codec.block_size)
    with np.errstate(all="ignore"):
        x = np.zeros(count * codec.block_size)
        x[: array.size] = array.astype(np.float32).ravel()
        x = np.where(np.abs(x) < 2.0**-126, np.copysign(0, x), x).reshape(count, codec.block_size)
        if "scales" in given:
            scale = given["scales"].ravel()
        else:
            absmax = np.abs(x).max(axis=1, initial=0)
            fraction, exponent = np.frexp(np.where(np.isfinite(absmax), absmax, 1))  # 0.5 <= fraction < 1
            exponent = exponent - 1
            if foreign:
                exponent = exponent + (fraction >= (31 / 32 if codec.format == "float6_e2m3fn" else 7 / 8))
            scale = np.clip(exponent + 127 - EMAX[codec.format], 0, 254)
            half = foreign and array.dtype == np.float16
            scale = np.where(absmax < (2.0**-14 if half else 2.0**-100), 127 if half else 0, scale)
            scale = np.where(np.isfinite(absmax), scale, 255)
        power = scale.astype(int)[:, None]
        y = np.ldexp(x, 127 - power)
        y = np.where(
            np.abs(y) < 2.0**-126, np.copysign(0, y), np.where(np.abs(y) >= 2.0**128, np.copysign(np.inf, y), y)
        )
        y = np.where(power == 0, np.copysign(0, x), y)
        if foreign and codec.format != "float6_e2m3fn":
            y = np.where(x == 0, 0, y)
        y = np.where(power == 255, 0, y).ravel()[: array.size]
        codes = cast(y, codec.format)
    planes = {"codes": pack(codes, codec.bits).view(specs["codes"].numpy_dtype), "scales": scale.astype(np.uint8)}
    return {name: planes[name].reshape(spec.known_shape) for name, spec in specs.items()}


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    codes = unpack(np.ascontiguousarray(planes["codes"]).view(np.uint8).ravel(), codec.bits, spec.size)
    power = planes["scales"].ravel().astype(int)[np.arange(spec.size) // codec.block_size]
    with np.errstate(all="ignore"):
        if codec.format == "int8":
            value = codes.view(np.int8).astype(float) / 64
        else:
            value = codes.view(getattr(ml_dtypes, codec.format)).astype(float)
        value = np.ldexp(value, power - 127)
        value = np.where(np.abs(value) < 2.0**-126, np.copysign(0, value), value)
        value = np.where(power == 255, np.nan, value).astype(np.float32)
        integer, nan = NAN[spec.dtype]
        canonical = np.array(nan, integer).view(spec.numpy_dtype)
        decoded = np.where(np.isnan(value), canonical, value.astype(spec.numpy_dtype))
    return decoded.reshape(spec.known_shape)


def cast(y: np.ndarray, name: str) -> np.ndarray:
    """The codes of float64 numbers, one to a byte: clamped, then as ml_dtypes or rint round."""
    if name == "int8":
        return np.clip(np.rint(np.where(np.isnan(y), 0, y) * 64), -127, 127).astype(np.int8).view(np.uint8)
    dtype = np.dtype(getattr(ml_dtypes, name))
    largest = float(ml_dtypes.finfo(dtype).max)
    number = np.where(np.isnan(y), 0, y)
    codes = np.clip(number, -largest, largest).astype(np.float32).astype(dtype).view(np.uint8)
    return np.where(np.isnan(y), {"float8_e4m3fn": 0x7F, "float8_e5m2": 0x7E}.get(name, 0), codes).astype(np.uint8)


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    stream = np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(stream.ravel(), bitorder="little")


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    stream = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(stream, axis=1, bitorder="little")[:, 0] if count else np.zeros(0, np.uint8)
