"""Oracles of the MX formats and NVFP4: the OCP specification's own words, compressed-tensors, torchao and gguf-py.

`preset` is compressed-tensors' CPU path, `outside` the classes of blocks for which equality with it is not claimed:
those that docs/format/microscaling.md and nvfp4.md name.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec_conformance.oracles import to_torch

RANGES = {  # the magnitude below which a quotient of elements vanishes, and the largest power of two
    "float32": (2.0**-126, 2.0**127),
    "bfloat16": (2.0**-126, 2.0**127),
    "float16": (float(np.nextafter(np.float32(2.0**-25), np.float32(1))), 2.0**15),
}
WIDTHS = {  # exponent and mantissa bits, bias, largest magnitude, and floor(log2()) of that
    "float4_e2m1fn": (2, 1, 1, 6.0, 2),
    "float6_e2m3fn": (2, 3, 1, 7.5, 2),
    "float6_e3m2fn": (3, 2, 3, 28.0, 4),
    "float8_e4m3fn": (4, 3, 7, 448.0, 8),
    "float8_e5m2": (5, 2, 15, 57344.0, 15),
}


def ocp_encode(x: np.ndarray, name: str, block_size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Section 6.3 of OCP Microscaling Formats 1.0 for blocks of finite numbers, not all 0: codes, one to a byte, and
    scales. In float64, by search among the format's numbers; a tie goes to the even code, what is too large saturates.
    """
    blocks = x.astype(np.float64).reshape(-1, block_size)
    sign = np.signbit(blocks)
    shared = np.floor(np.log2(np.abs(blocks).max(axis=1)))
    if name == "int8":
        y = blocks / np.exp2(shared)[:, None]
        return np.clip(np.rint(y * 64), -127, 127).astype(np.int8).reshape(-1), (shared + 127).astype(np.uint8)
    exponent, mantissa, bias, largest, emax = WIDTHS[name]
    shared -= emax
    codes = np.arange(1 << (exponent + mantissa))
    field, fraction = codes >> mantissa, (codes & ((1 << mantissa) - 1)) / (1 << mantissa)
    grid = np.where(field == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * np.exp2(field - bias))
    grid = grid[grid <= largest]
    y = np.abs(blocks) / np.exp2(shared)[:, None]
    middles = (grid[1:] + grid[:-1]) / 2
    below, above = np.searchsorted(middles, y, side="left"), np.searchsorted(middles, y, side="right")
    found = np.where(below % 2 == 0, below, above)
    codes = found | (sign.astype(int) << (exponent + mantissa))
    return codes.astype(np.uint8).reshape(-1), (shared + 127).astype(np.uint8)


def preset(x: np.ndarray, name: str, global_scale: np.ndarray | None = None, zero_points: bool = True) -> Planes:
    """What compressed-tensors stores for a matrix under a preset ("MXFP4A16"): `codes`, `scales` and, for NVFP4, the
    `global_scale`, found unless it is given; and `decoded`, the bfloat16 matrix that it makes of them.

    The zero points of a calibration are there although they are all 0: MXFP8 adds them, which takes the sign of -0.
    """
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    import arraycodec_torch

    tensor, scheme = to_torch(x), preset_name_to_scheme(name, ["Linear"])
    args, state = scheme.weights, {"weight": tensor}
    shared = None
    if name.startswith("NV"):
        shared = to_torch(global_scale) if global_scale is not None else generate_gparam(tensor.min(), tensor.max())
        state["weight_global_scale"] = shared
    groups = tensor.unflatten(-1, (-1, args.group_size))
    scale, zero_point = calculate_qparams(groups.amin(-1), groups.amax(-1), args, shared)
    state |= {"weight_scale": scale} | ({"weight_zero_point": zero_point} if zero_points else {})
    compressor: Any = BaseCompressor.get_value_from_registry(infer_module_format(torch.nn.Linear, scheme).value)
    stored = compressor.compress(state, scheme)
    found = {
        "codes": stored.get("weight_packed", stored.get("weight")),
        "scales": stored["weight_scale"],
        "global_scale": stored.get("weight_global_scale"),
        "decoded": compressor.decompress(stored, scheme)["weight"],
    }
    return {n: arraycodec_torch.to_numpy(t.contiguous()) for n, t in found.items() if t is not None}


def decoded_by_preset(planes: Planes, name: str) -> np.ndarray:
    """What compressed-tensors decodes a row of flat planes to, as bfloat16."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import preset_name_to_scheme

    import arraycodec_torch

    scheme = preset_name_to_scheme(name, ["Linear"])
    codes = "weight" if name.startswith("MXFP8") else "weight_packed"
    state = {codes: to_torch(planes["codes"].reshape(1, -1)), "weight_scale": to_torch(planes["scales"].reshape(1, -1))}
    if "global_scale" in planes:
        state["weight_global_scale"] = to_torch(planes["global_scale"])
    compressor: Any = BaseCompressor.get_value_from_registry(infer_module_format(torch.nn.Linear, scheme).value)
    return arraycodec_torch.to_numpy(compressor.decompress(state, scheme)["weight"].contiguous()).reshape(-1)


def outside(x: np.ndarray, name: str, planes: Planes, given: bool = False) -> dict[str, np.ndarray]:
    """The classes of blocks for which equality with a preset is not claimed: masks, each block in one at the most.

    `planes` are ours; `given` says that their global scale was. Blocks of zeros are inside, and in float16 those that
    are zero blocks on either side.
    """
    vanishing, power = RANGES[x.dtype.name]
    wide, used = x.astype(np.float32), True
    with np.errstate(all="ignore"):
        if name.startswith("NV"):
            blocks, step = wide.reshape(-1, 16), planes["scales"].astype(np.float32) / planes["global_scale"]
            absmax, vanishing = np.abs(blocks if given else wide.reshape(1, -1)).max(axis=1, initial=0), 2.0**-126
            absmax = np.broadcast_to(absmax, len(blocks))  # of each block, or of the array
            small, large = (absmax > 0) & (absmax < 2.0**-100) & (not given), (absmax >= 2.0**126) & (not given)
            used = 2.0**-117 <= float(planes["global_scale"][0]) < 2.0**115
        else:
            blocks, step = wide.reshape(-1, 32), np.exp2(planes["scales"].astype(np.float32) - 127)
            absmax, top = np.abs(blocks).max(axis=1), 1.9375 if name.startswith("MXFP6") else 1.75
            small, large = (absmax > 0) & (absmax < 2.0**-100), absmax >= top * power
            if x.dtype == np.float16:  # subnormals there, of which some round up to 2^-14
                small = ((top - 1) * 2.0**-14 <= absmax) & (absmax < 2.0**-14)
        negative, quotient = (blocks < 0) & (not name.startswith("MXFP6")), np.abs(blocks / step.reshape(-1, 1))
    found = {
        "not finite": ~np.isfinite(absmax),
        "absmax too small": small,
        "absmax too large": large,
        "global scale not in use": np.full(len(blocks), not used),
        "negative subnormal element": (negative & (np.abs(blocks) < 2.0**-126)).any(axis=1),
        "negative quotient that vanishes": (negative & (quotient < vanishing)).any(axis=1),
    }
    taken = np.zeros(len(blocks), bool)
    for what, mask in found.items():
        found[what] = mask & ~taken
        taken |= mask
    return found


def fake_quantised(x: np.ndarray, name: str, global_scale: np.ndarray | None = None) -> np.ndarray:
    """Activations after the library's dynamic quantisation under a preset with input activations ("MXFP4")."""
    import torch
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    import arraycodec_torch

    tensor, args = to_torch(x), preset_name_to_scheme(name, ["Linear"]).input_activations
    shared = None if global_scale is None else to_torch(global_scale)
    assert args is not None
    scale, zero_point = compute_dynamic_scales_and_zp(tensor, args, torch.nn.Identity(), global_scale=shared)
    return arraycodec_torch.to_numpy(fake_quantize(tensor, scale, zero_point, args, shared).contiguous())


def torchao_mx(x: np.ndarray, name: str, even: bool = False) -> Planes:
    """torchao's `to_mx` of a matrix, and what its MXTensor decodes to: codes one to a byte but for packed FP4."""
    import torch
    from torchao.prototype.mx_formats.config import ScaleCalculationMode
    from torchao.prototype.mx_formats.mx_tensor import to_dtype, to_mx

    import arraycodec_torch

    names = {"float4_e2m1fn": "float4_e2m1fn_x2", "float6_e2m3fn": "fp6_e2m3", "float6_e3m2fn": "fp6_e3m2"}
    kind = names.get(name, name)
    kind = kind if kind.startswith("fp6") else getattr(torch, kind)
    tensor, mode = to_torch(x), ScaleCalculationMode.EVEN if even else ScaleCalculationMode.FLOOR
    scales, codes = to_mx(tensor, kind, 32, mode)
    decoded = to_dtype(codes, scales, kind, 32, tensor.dtype)
    found = {"codes": codes.view(torch.uint8), "scales": scales.view(torch.uint8), "decoded": decoded}
    return {n: arraycodec_torch.to_numpy(t.contiguous()) for n, t in found.items()}


def torchao_nvfp4(x: np.ndarray) -> Planes:
    """torchao's NVFP4 of a matrix with its own scale for the whole, a multiplier; and what it decodes that to."""
    from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale

    import arraycodec_torch

    tensor = to_torch(x)
    multiplier = per_tensor_amax_to_scale(tensor.abs().max())
    stored = NVFP4Tensor.to_nvfp4(tensor, 16, per_tensor_scale=multiplier)
    decoded = stored.dequantize(tensor.dtype)
    found = {"codes": stored.qdata, "scales": stored.scale, "multiplier": multiplier, "decoded": decoded}
    planes = {n: arraycodec_torch.to_numpy(t.contiguous()) for n, t in found.items()}
    return planes | {"codes": planes["codes"].view(np.uint8)}


def gguf_mxfp4(x: np.ndarray) -> Planes:
    """gguf-py's MXFP4 of float32 blocks, its nibbles put in the order of ours: packed codes, scales, and decoded."""
    from gguf.quants import MXFP4

    stored = MXFP4.quantize_blocks(x.reshape(-1, 32))
    return {"scales": stored[:, 0], "codes": from_gguf(stored[:, 1:]), "decoded": MXFP4.dequantize_blocks(stored)}


def gguf_nvfp4(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """What gguf-py decodes blocks of 16 to, four of which share the first four bytes of its blocks of 64: float32."""
    from gguf.quants import NVFP4

    nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(-1, 4, 2, 8)  # halves of 8: bytes hold i and i + 8
    halves = (nibbles[:, :, 0] | nibbles[:, :, 1] << 4).reshape(-1, 32)
    stored = np.concatenate([scales.view(np.uint8).reshape(-1, 4), halves], axis=1)
    return NVFP4.dequantize_blocks(stored).reshape(-1)


def from_gguf(halves: np.ndarray) -> np.ndarray:
    """A block's 16 bytes with elements i and i + 16 in a byte, as bytes with elements 2 i and 2 i + 1."""
    nibbles = np.concatenate([halves & 15, halves >> 4], axis=1)
    return nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)


__all__ = [
    "decoded_by_preset", "fake_quantised", "from_gguf", "gguf_mxfp4", "gguf_nvfp4", "ocp_encode", "outside", "preset",
    "torchao_mx", "torchao_nvfp4",
]  # fmt: skip
