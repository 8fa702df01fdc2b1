"""FP8 with a scale per square block, as DeepSeek publishes it, and with one scale per tensor: quant_method "fp8".

The specification is docs/format/block_fp8.md. A weight `X` that is quantised is stored as
    X            float8_e4m3fn (..., rows, columns)
    X_scale_inv  float32, bfloat16 or float8_e8m0fnu (..., ceil(rows / height), ceil(columns / width)): what values are
                 multiplied with, in spite of its name; without blocks one number, which may be called X_scale
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats import parts as stored
from arraycodec.formats.config import Config
from arraycodec.formats.translated import Weight
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.grid import scales_shape
from arraycodec.spec import ArraySpec

CODES = "float8_e4m3fn"
SCALES = ("_scale_inv", "_scale")  # what the name of a weight's scales ends in
SCALE_DTYPES = ("float32", "bfloat16", "float8_e8m0fnu")
WEIGHT_DTYPE = "bfloat16"  # where config.json does not say


def read(raw: Mapping[str, LazyTensor], config: Config) -> dict[str, Weight]:
    """The weights of an fp8 checkpoint by name; those that are stored in another dtype stay as they are.

    FormatError where the configuration cannot be read, CorruptError where tensors are missing or do not fit it.
    """
    block = block_size(config.quantization, f"{config.where}: quantization_config")
    weights, used = {}, set()
    for name, tensor in raw.items():
        if tensor.dtype != CODES:
            continue
        scales = next((raw[name + ending] for ending in SCALES if name + ending in raw), None)
        if scales is None:
            raise CorruptError(f"{tensor.where}: its scales {checks.shown(f'{name}_scale_inv')} are missing")
        weights[name] = weight(tensor, scales, block, config)
        used.add(scales.name)
    for name, tensor in raw.items():
        if name.endswith("_scale_inv") and name not in used:
            raise CorruptError(f"{tensor.where}: belongs to no weight of {CODES}")
    return weights


def block_size(said: Mapping[str, Any], where: str) -> tuple[int, int] | None:
    """Rows and columns of a block; None for one scale per tensor."""
    if (found := said.get("weight_block_size")) is None:
        return None
    if not isinstance(found, list) or len(found) != 2 or not all(type(side) is int and side > 0 for side in found):
        raise FormatError(f"{where}: weight_block_size must be two integers >= 1 or null, got {checks.shown(found)}")
    return found[0], found[1]


def weight(codes: LazyTensor, scales: LazyTensor, block: Any, config: Config) -> Weight:
    """A weight of float8 codes and scales of blocks of this size, once they are found to fit each other."""
    dtype = config.dtype if config.dtype in KINDS else WEIGHT_DTYPE
    spec = ArraySpec(codes.shape, dtype)
    codec = Minifloat(CODES, block)
    if scales.dtype == dtype != "float32":
        codec = Minifloat(CODES, block, flavour="compressed-tensors", arithmetic="eager")
    shape = scales_shape(spec, block, 8)
    if _apart(scales.shape) == _apart(shape):
        shape = scales.shape
    stored.fits(scales, shape, SCALE_DTYPES, f" for {codes.dtype}{list(codes.shape)} in blocks of {block}")
    return Weight(
        spec, codec, {"codes": codes, "scales": scales}, partial(_planes, codec=codec, spec=spec), stored.check_finite
    )


def _apart(shape: tuple[int, ...]) -> list[int]:
    """A shape without axes of length 1, which some leave out."""
    return [axis for axis in shape if axis != 1]


def _planes(arrays: dict[str, np.ndarray], codec: Minifloat, spec: ArraySpec) -> Planes:
    """The planes of a weight; scales of another dtype are widened to float32, which holds them all."""
    want = codec.planes(spec)["scales"]
    scales = arrays["scales"].astype(want.numpy_dtype, copy=False).reshape(want.known_shape)
    return {"codes": arrays["codes"], "scales": scales}
