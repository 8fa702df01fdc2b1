"""The gguf codec in plain NumPy, written from docs/format/gguf.md: one function per block type, whole arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec

NAN = {"float32": (np.uint32, 0x7FC00000), "bfloat16": (np.uint16, 0x7FC0), "float16": (np.uint16, 0x7E00)}
E2M1 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
Array = Any


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    raise codec.no_encoder


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    function, nbytes = TYPES[codec.type]
    with np.errstate(all="ignore"):
        x = function(planes["blocks"].reshape(-1, nbytes)).astype(np.float32).ravel()[: spec.size]
        integer, nan = NAN[spec.dtype]
        canonical = np.array(nan, integer).view(spec.numpy_dtype)
        return np.where(np.isnan(x), canonical, x.astype(spec.numpy_dtype)).reshape(spec.known_shape)


def half(b: Array, at: int) -> Array:
    return b[:, at : at + 2].copy().view(np.float16).astype(np.float32)


def halves(b: Array) -> Array:
    """The low nibbles of bytes, then the high ones."""
    return np.concatenate([b & 15, b >> 4], axis=-1).astype(np.int32)


def fifth(b: Array) -> Array:
    return np.unpackbits(b, axis=1, bitorder="little").astype(np.int32) << 4


def rows(b: Array, run: int, bits: int) -> Array:
    """Runs of bytes, each read once per group of so many bits from the lowest on."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    parts = b.reshape(len(b), b.shape[1] // run, 1, run) >> shifts & ((1 << bits) - 1)
    return parts.reshape(len(b), b.shape[1] * 8 // bits).astype(np.int32)


def k_scales(b: Array) -> tuple[Array, Array]:
    low, high, rest = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scales = np.concatenate([low & 63, rest & 15 | low >> 6 << 4], axis=1)
    return scales, np.concatenate([high & 63, rest >> 4 | high >> 6 << 4], axis=1)


def by_sub(step: Array, codes: Array, minimum: Array | None = None) -> Array:
    """step * code - minimum, with a step per sub-block."""
    codes = codes.reshape(*step.shape, codes.shape[1] // step.shape[1]).astype(np.float32)
    x = step[..., None] * codes
    return x if minimum is None else x - minimum[..., None]


def q2_k(b: Array) -> Array:
    step, minimum = half(b, 80) * (b[:, :16] & 15), half(b, 82) * (b[:, :16] >> 4)
    return by_sub(step.astype(np.float32), rows(b[:, 16:80], 32, 2), minimum.astype(np.float32))


def q3_k(b: Array) -> Array:
    low, top = b[:, 96:104], b[:, 104:108]
    upper = np.concatenate([top >> shift & 3 for shift in (0, 2, 4, 6)], axis=1).astype(np.int32)
    scales = (halves(low) | upper << 4) - 32
    codes = rows(b[:, 32:96], 32, 2) + 4 * rows(b[:, :32], 32, 1) - 4
    return by_sub(half(b, 108) * scales.astype(np.float32), codes)


def q4_k(b: Array) -> Array:
    scales, minima = k_scales(b[:, 4:16])
    return by_sub(half(b, 0) * scales.astype("f4"), rows(b[:, 16:], 32, 4), half(b, 2) * minima.astype("f4"))


def q5_k(b: Array) -> Array:
    scales, minima = k_scales(b[:, 4:16])
    codes = rows(b[:, 48:], 32, 4) + 16 * rows(b[:, 16:48], 32, 1)
    return by_sub(half(b, 0) * scales.astype("f4"), codes, half(b, 2) * minima.astype("f4"))


def q6_k(b: Array) -> Array:
    codes = rows(b[:, :128], 64, 4) + 16 * rows(b[:, 128:192], 32, 2) - 32
    return by_sub(half(b, 208) * b[:, 192:208].view(np.int8).astype("f4"), codes)


def iq4_xs(b: Array) -> Array:
    low = np.stack([b[:, 4:8] & 15, b[:, 4:8] >> 4], axis=2).reshape(-1, 8).astype(np.int32)
    high = b[:, 2:4].copy().view(np.uint16).astype(np.int32) >> np.arange(0, 16, 2) & 3
    return by_sub(half(b, 0) * ((low | high << 4) - 32).astype("f4"), IQ4[rows(b[:, 8:], 16, 4)])


def tq1_0(b: Array) -> Array:
    digits = []
    for part, turns in ((b[:, :32], 5), (b[:, 32:48], 5), (b[:, 48:52], 4)):
        digits += [((part.astype(np.int32) * 3**turn) % 256) * 3 // 256 for turn in range(turns)]
    return half(b, 52) * (np.concatenate(digits, axis=1) - 1).astype("f4")


def mxfp4(b: Array) -> Array:
    return np.ldexp(E2M1[halves(b[:, 1:])].astype(np.float64), b[:, :1].astype(np.int32) - 128)


def nvfp4(b: Array) -> Array:
    byte = b[:, :4].astype(np.int32)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    scale = np.where(exponent == 0, mantissa * 2.0**-10, (8 + mantissa) * 2.0 ** (exponent - 11))
    return by_sub(np.where(byte == 127, 0, scale).astype("f4"), E2M1[rows(b[:, 4:], 8, 4)])


TYPES: dict[str, tuple[Callable[[Array], Array], int]] = {
    "Q4_0": (lambda b: half(b, 0) * (halves(b[:, 2:]) - 8).astype("f4"), 18),
    "Q4_1": (lambda b: half(b, 0) * halves(b[:, 4:]).astype("f4") + half(b, 2), 20),
    "Q5_0": (lambda b: half(b, 0) * (halves(b[:, 6:]) + fifth(b[:, 2:6]) - 16).astype("f4"), 22),
    "Q5_1": (lambda b: half(b, 0) * (halves(b[:, 8:]) + fifth(b[:, 4:8])).astype("f4") + half(b, 2), 24),
    "Q8_0": (lambda b: half(b, 0) * b[:, 2:].view(np.int8).astype("f4"), 34),
    "Q2_K": (q2_k, 84),
    "Q3_K": (q3_k, 110),
    "Q4_K": (q4_k, 144),
    "Q5_K": (q5_k, 176),
    "Q6_K": (q6_k, 210),
    "IQ4_NL": (lambda b: half(b, 0) * IQ4[halves(b[:, 2:])], 18),
    "IQ4_XS": (iq4_xs, 136),
    "TQ1_0": (tq1_0, 54),
    "TQ2_0": (lambda b: half(b, 64) * (rows(b[:, :64], 32, 2) - 1).astype("f4"), 66),
    "MXFP4": (mxfp4, 17),
    "NVFP4": (nvfp4, 36),
}
