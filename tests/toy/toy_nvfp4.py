"""The nvfp4 codec in plain NumPy, written from docs/format/nvfp4.md: whole arrays, casts of ml_dtypes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of

E2M1, E4M3 = np.dtype(ml_dtypes.float4_e2m1fn), np.dtype(ml_dtypes.float8_e4m3fn)
NAN = {"float32": (np.uint32, 0x7FC00000), "bfloat16": (np.uint16, 0x7FC0), "float16": (np.uint16, 0x7E00)}


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    specs = codec.planes(spec_of(array))
    count = -(-array.size // codec.block_size)
    narrow = array.dtype if codec.arithmetic == "eager" else np.dtype(np.float32)
    with np.errstate(all="ignore"):
        x = np.zeros(count * codec.block_size, np.float32)
        x[: array.size] = array.astype(np.float32).ravel()
        x = np.where(np.abs(x) < np.float32(2**-126), np.float32(0), x).reshape(count, codec.block_size)
        own = (
            global_factor(np.abs(x).max(initial=0)) if codec.flavour else global_scale(np.abs(x).max(initial=0), narrow)
        )
        divisor = given.get("global_scale", own)
        in_use = used(codec)
        if "scales" in given:
            scales = given["scales"].ravel()
        else:
            absmax = np.abs(x).max(axis=1, initial=0)
            sixth = (absmax / np.float32(6)).astype(narrow).astype(np.float32)
            wanted = absmax / (np.float32(6) * divisor) if codec.flavour else sixth * divisor
            scales = np.minimum(wanted, np.float32(448)).astype(E4M3)
            least = np.where(absmax == 0, E4M3.type(1), E4M3.type(2**-9)) if codec.flavour else E4M3.type(0.125)
            scales = np.where(scales.astype(np.float32) == 0, least, scales)
            scales = np.where(np.isfinite(absmax) & in_use(divisor), scales, E4M3.type(np.nan))
        step = np.where(in_use(divisor), combined(codec, scales, divisor), np.float32(np.nan))[:, None]
        y = np.clip(np.where((step > 0) & ~np.isnan(x), x / step, np.float32(0)), -6, 6)
        negative = (x < 0) & (step > 0)
        codes = (np.abs(y).astype(E2M1).view(np.uint8) | (negative << 3)).astype(np.uint8).ravel()
    codes = np.append(codes[: array.size], np.zeros(array.size % 2, np.uint8))
    scales = np.where(np.isnan(scales.astype(np.float32)), np.uint8(0x7F), scales.view(np.uint8)).view(E4M3)
    planes = {"codes": codes[0::2] | codes[1::2] << 4, "scales": given.get("scales", scales), "global_scale": divisor}
    return {name: planes[name].reshape(spec.known_shape) for name, spec in specs.items()}


def global_scale(absmax: np.float32, narrow: np.dtype) -> np.ndarray:
    if not 2**-100 <= absmax < np.inf:
        return np.ones(1, np.float32)
    part = np.float32(0.0625 if absmax >= np.float32(2.0**126) else 1)
    reciprocal = np.array([np.float32(1) / (absmax * part)]).astype(narrow).astype(np.float32)
    scale = (reciprocal * (np.float32(2688) * part)).astype(narrow).astype(np.float32)
    return np.where(np.isfinite(scale), scale, np.float32(1))


def global_factor(absmax: np.float32) -> np.ndarray:
    return np.full(1, absmax / np.float32(2688) if 2**-100 <= absmax < np.inf else 1, np.float32)


def combined(codec: Any, scales: np.ndarray, divisor: np.ndarray) -> np.ndarray:
    wide = scales.astype(np.float32).ravel()
    return wide * divisor if codec.flavour else wide / divisor


def used(codec: Any) -> Callable[[np.ndarray], np.ndarray]:
    low, high = (2.0**-116, 2.0**117) if codec.flavour else (2.0**-117, 2.0**115)
    return lambda divisor: (divisor >= np.float32(low)) & (divisor < np.float32(high))


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    codes = planes["codes"].ravel()
    codes = np.stack([codes & 15, codes >> 4], axis=1).ravel()[: spec.size]
    with np.errstate(all="ignore"):
        divisor = planes["global_scale"]
        step = np.where(used(codec)(divisor), combined(codec, planes["scales"], divisor), np.float32(np.nan))
        step = step[np.arange(spec.size) // codec.block_size]
        value = codes.view(E2M1).astype(np.float32) * step
        value = np.where((value == 0) & ~(step > 0), np.float32(0), value)
        integer, nan = NAN[spec.dtype]
        canonical = np.array(nan, integer).view(spec.numpy_dtype)
        decoded = np.where(np.isnan(value), canonical, value.astype(spec.numpy_dtype))
    return decoded.reshape(spec.known_shape)
