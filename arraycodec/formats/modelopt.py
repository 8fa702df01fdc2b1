"""ModelOpt (TensorRT Model Optimizer): NVFP4 and FP8 checkpoints.

The specification is docs/format/modelopt.md. A linear module stores
    NVFP4  weight          uint8 (rows, columns / 2)             two codes to a byte, the first in the low nibble
           weight_scale    float8_e4m3fn (rows, columns / 16)
           weight_scale_2  float32, one number                   a multiplier, where compressed-tensors has a divisor
    FP8    weight          float8_e4m3fn (rows, columns)
           weight_scale    float32, one number or one per row
Scales of activations and caches (input_scale, k_scale, v_scale) stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from arraycodec.base import Encoded, Planes
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import ArgumentError, CorruptError, FormatError
from arraycodec.formats import block_fp8
from arraycodec.formats import parts as stored
from arraycodec.formats.config import Config
from arraycodec.formats.translated import Weight
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec

ALGORITHMS = ("NVFP4", "FP8", "FP8_PER_CHANNEL_PER_TOKEN", "MIXED_PRECISION")
SCALE, GLOBAL, SMOOTHING = "weight_scale", "weight_scale_2", "pre_quant_scale"
GROUP = 16
CODEC = NVFP4(flavour="modelopt")


def read(raw: Mapping[str, LazyTensor], config: Config) -> dict[str, Weight]:
    """The weights of a ModelOpt checkpoint by name: those whose module has a `weight_scale`.

    FormatError where the configuration cannot be read, CorruptError where tensors are missing or do not fit each other.
    """
    algorithm = _algorithm(config)
    weights = {}
    for module, parts in stored.modules(raw, "weight", (SCALE, GLOBAL, SMOOTHING)).items():
        weight = parts["weight"]
        if SMOOTHING in parts:
            raise FormatError(f"{parts[SMOOTHING].where}: inputs that are scaled before a product are not read")
        if SCALE not in parts:
            if weight.dtype in ("uint8", "float8_e4m3fn") or GLOBAL in parts:
                raise CorruptError(f"{weight.where}: {SCALE} of the same module is missing")
            continue
        name = f"{module}.weight".removeprefix(".")
        if weight.dtype == "uint8":
            weights[name] = _nvfp4(parts, config)
        elif weight.dtype == "float8_e4m3fn" and GLOBAL not in parts:
            weights[name] = _fp8(weight, parts[SCALE], config)
        else:
            others = ", ".join(role for role in parts if role != "weight")
            raise FormatError(
                f"{weight.where}: weights of {algorithm} must be uint8 (NVFP4) or float8_e4m3fn (FP8), got "
                f"{weight.dtype} beside {others}"
            )
    return weights


def _algorithm(config: Config) -> str:
    """The quant_algo, as config.json or hf_quant_config.json has it."""
    own = config.quantization.get("quantization", config.quantization)
    where = f"{config.where}: quantization_config"
    if not isinstance(own, Mapping):
        raise FormatError(f"{where}: quantization must be an object, got {checks.shown(own)}")
    found = own.get("quant_algo")
    if found not in ALGORITHMS:
        raise FormatError(f"{where}: quant_algo must be one of {', '.join(ALGORITHMS)}, got {checks.shown(found)}")
    if (group := own.get("group_size")) not in (None, GROUP) and found == "NVFP4":
        raise FormatError(f"{where}: group_size must be {GROUP}, got {checks.shown(group)}")
    return found


def _nvfp4(parts: stored.Parts, config: Config) -> Weight:
    """A weight in NVFP4, once its tensors are found to fit each other."""
    codes, scales, factor = parts["weight"], parts[SCALE], stored.part(parts, GLOBAL)
    if len(codes.shape) != 2 or codes.shape[1] * 2 % GROUP:
        raise CorruptError(f"{codes.where}: must have rows of whole groups of {GROUP} codes, got {list(codes.shape)}")
    rows, columns = codes.shape[0], codes.shape[1] * 2
    stored.fits(scales, (rows, columns // GROUP), ("float8_e4m3fn",), f" for {rows} rows of {columns} codes")
    stored.fits(factor, factor.shape if factor.shape in ((), (1,)) else (1,), ("float32",))
    spec = ArraySpec((rows, columns), config.dtype if config.dtype in KINDS else block_fp8.WEIGHT_DTYPE)
    return Weight(spec, CODEC, {"codes": codes, "scales": scales, "global_scale": factor}, _planes, stored.check_finite)


def _planes(arrays: dict[str, np.ndarray]) -> Planes:
    return {**arrays, "global_scale": arrays["global_scale"].reshape(1)}


def _fp8(weight: LazyTensor, scales: LazyTensor, config: Config) -> Weight:
    """A weight in FP8 with one scale, or one per row."""
    per_row = len(weight.shape) == 2 and scales.shape in (weight.shape[:1], (weight.shape[0], 1))
    if not per_row or weight.shape[0] == 1:
        return block_fp8.weight(weight, scales, None, config)
    return block_fp8.weight(weight, scales, (1, None), config)


def divided(encoded: Encoded) -> Encoded:
    """The same codes and scales with a global scale that is a divisor, as compressed-tensors has it.

    The divisor is the reciprocal, rounded to float32, as its own converter computes it. A step is a quotient then and
    was a product: they are equal where the global scale is a power of two, and else differ by a unit or two in the last
    place of float32 at the most, which bfloat16 and float16 show only where a number lies that near a tie.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.ones((1, 16), np.float32), ac.NVFP4(flavour="modelopt"))
    >>> divided(enc).codec.flavour, divided(enc).planes["global_scale"].item()
    (None, 2688.0)
    """
    codec = encoded.codec
    if not isinstance(codec, NVFP4) or not codec.multiplies:
        raise ArgumentError(f"divided: codec must be NVFP4 of the flavour 'modelopt', got {codec}")
    with np.errstate(all="ignore"):
        divisor = np.float32(1) / np.asarray(encoded.planes["global_scale"])
    planes = {**encoded.planes, "global_scale": divisor}
    return Encoded(NVFP4(codec.block_size, "eager"), encoded.spec, planes)
