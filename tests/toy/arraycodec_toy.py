"""A third party's backend, as small as one can be: its own array type, and the codebook codec in plain NumPy.

It was written from docs/format/codebook.md alone, shares no code with the reference's kernels, and passes the published
suite: so it is the independent witness that the reference does what its page says.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import toy_bitmask
import toy_delta
import toy_dq
import toy_gguf
import toy_linear
import toy_llm_int8
import toy_lossless
import toy_lut
import toy_microscaling
import toy_minifloat
import toy_nvfp4
import toy_permuted
import toy_pqr
import toy_tcq
import toy_tied
import toy_two_four

from arraycodec.base import Codec, Given, Planes, decode_with, encode_with
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.spec import ArraySpec, spec_of

NAME = "toy"
IMPLEMENTATIONS = {"plain": sys.modules[__name__]}


# codec name -> the module with `encode(codec, x, given)` and `decode(codec, planes, spec)` of that family; decoding a
# codec that has the input "base" takes it as a fourth argument
WITNESSES = {
    "bitmask": toy_bitmask,
    "delta": toy_delta,
    "dq": toy_dq,
    "gguf": toy_gguf,
    "linear": toy_linear,
    "llm_int8": toy_llm_int8,
    "lossless": toy_lossless,
    "lut": toy_lut,
    "microscaling": toy_microscaling,
    "minifloat": toy_minifloat,
    "nvfp4": toy_nvfp4,
    "permuted": toy_permuted,
    "pqr": toy_pqr,
    "tcq": toy_tcq,
    "tied": toy_tied,
    "two_four": toy_two_four,
}


class ToyArray:
    """An array that belongs to nobody but this backend."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.shape, self.dtype, self.nbytes = data, data.shape, data.dtype, data.nbytes

    def reshape(self, *shape: int) -> ToyArray:
        return ToyArray(self.data.reshape(*shape))

    def __getitem__(self, key: Any) -> ToyArray:
        return ToyArray(np.asarray(self.data[key]))


def choose(x: ToyArray) -> str:
    return "plain"


def spec(x: ToyArray) -> ArraySpec:
    return spec_of(x.data)


def concrete(x: ToyArray) -> bool:
    return True


def from_numpy(x: np.ndarray, device: Any = None) -> ToyArray:
    return ToyArray(np.asarray(x))


def to_numpy(x: ToyArray) -> np.ndarray:
    return x.data


def empty(spec: ArraySpec, device: Any = None) -> ToyArray:
    return ToyArray(np.zeros(spec.known_shape, spec.numpy_dtype))


def stack(arrays: list[ToyArray], shape: tuple[int, ...]) -> ToyArray:
    return ToyArray(np.stack([a.data for a in arrays]).reshape(*shape, *arrays[0].shape))


def encode(x: ToyArray, codec: Codec, given: Given) -> Planes:
    planes = encode_with(_encode, codec, x.data, {name: plane.data for name, plane in given.items()})
    return {name: ToyArray(np.asarray(plane)) for name, plane in planes.items()}


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: Any = None) -> ToyArray:
    if out is not None:
        raise UnsupportedByBackend("toy: out is not supported")
    data, inputs = ({name: array.data for name, array in arrays.items()} for arrays in (planes, given))
    return ToyArray(decode_with(_decode, codec, data, spec, inputs, None))


# -- docs/format/codebook.md, step by step

SMALLEST_SCALE = {"linear": 2**-96, "fp8-e5m2": 2**-89}


def _encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    if x.dtype.name not in codec.dtypes:
        raise ArgumentError(f"toy: dtype must be one of {', '.join(codec.dtypes)}, got {x.dtype}")
    if codec.name in WITNESSES:
        return WITNESSES[codec.name].encode(codec, x, given)
    if codec.name != "codebook":
        raise UnsupportedByBackend(f"toy: codec {codec.name} is not implemented")
    specs, table, planes = codec.planes(spec_of(x)), codec.tables(given), {n: given[n] for n in given if n != "bounds"}
    with np.errstate(all="ignore"):
        wide = x.astype(np.float32)
        if codec.offset:
            planes.setdefault("offset", _mean(wide.ravel()))
            wide = wide - planes["offset"]
        wide = _without_subnormals(wide)
        block = codec.block_size or max(x.size, 1)
        count = max(-(-x.size // block), 1 if codec.block_size is None else 0)
        blocks = np.zeros(count * block, np.float32)
        blocks[: x.size] = wide.ravel()
        blocks = blocks.reshape(count, block)
        absmax = np.abs(blocks).max(axis=1, initial=0)
        absmax = np.where(np.isfinite(absmax), absmax, np.float32(np.nan))
        smallest = np.float32(SMALLEST_SCALE.get(codec.table, 2**-100))
        absmax = np.where(absmax < smallest, np.float32(0), absmax)
        if "absmax" in planes:
            absmax = planes["absmax"].ravel()
        usable = np.isfinite(absmax) & (absmax >= smallest)
        lower = np.where(absmax >= np.float32(2.0**126), np.float32(0.0625), np.float32(1))
        small = np.abs(blocks) * lower[:, None] < np.float32(2**-126)
        scaled = np.where(small, np.float32(0), blocks * lower[:, None])
        inverse = np.float32(1) / np.where(usable, absmax * lower, np.float32(1))
        y = np.where(usable[:, None], scaled * inverse[:, None], np.float32(0)).ravel()[: x.size]
    rank = np.where(np.isnan(y), 0, np.searchsorted(table.bounds, y, side="left"))  # no bound is below a NaN
    codes = table.codes[rank]
    if codec.bits == 4:
        codes = np.append(codes, np.uint8(table.zero)) if codes.size % 2 else codes
        codes = (codes[0::2] << 4) | codes[1::2]
    planes |= {"codes": codes.astype(np.uint8), "absmax": absmax.astype(np.float32)}
    return {n: np.asarray(planes[n]).reshape(s.known_shape) for n, s in specs.items()}


def _decode(codec: Any, planes: Planes, spec: ArraySpec, given: Planes, out: None) -> np.ndarray:
    if codec.name in WITNESSES:
        inputs = [given["base"]] if "base" in codec.inputs else []
        return WITNESSES[codec.name].decode(codec, planes, spec, *inputs)
    codes = planes["codes"].ravel()
    if codec.bits == 4:
        codes = np.stack([codes >> 4, codes & 15], axis=1).ravel()
    size, block = spec.size, codec.block_size or max(spec.size, 1)
    with np.errstate(all="ignore"):
        scale = planes["absmax"].ravel()
        scale = np.where(np.isfinite(scale), scale, np.float32(np.nan))
        smallest = np.float32(SMALLEST_SCALE.get(codec.table, 2**-100))
        scale = np.where(np.abs(scale) < smallest, np.float32(0), scale)
        y = codec.tables(planes).values[codes[:size]] * scale[np.arange(size) // block]
        y = np.where(y == 0, np.float32(0), y)
        if codec.offset:
            y = y + planes["offset"]
            y = _without_subnormals(y)
        y = np.where(np.isnan(y), np.uint32(0x7FC00000).view(np.float32), y).astype(np.float32)
        narrow = y.astype(spec.numpy_dtype)
        if spec.dtype != "float32":  # the canonical NaN of a 16-bit format has no payload
            nan = np.array(0x7FC0 if spec.dtype == "bfloat16" else 0x7E00, np.uint16).view(spec.numpy_dtype)
            narrow = np.where(np.isnan(y), nan, narrow)
    return narrow.reshape(spec.known_shape)


def _mean(x: np.ndarray) -> np.ndarray:
    size = 1
    while size < x.size:
        size *= 2
    total = np.zeros(size, np.float32)
    total[: x.size] = _without_subnormals(x)
    while size > 1:
        size //= 2
        total = _without_subnormals(total[:size] + total[size:])
    value = total[0] * (np.float32(1) / np.float32(x.size)) if x.size else np.float32(0)
    return np.array(value if np.float32(2**-100) <= np.abs(value) < np.inf else 0, np.float32)


def _without_subnormals(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.float32(2**-126), np.float32(0), x)
