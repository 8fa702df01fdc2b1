"""Other people's FP8, FP6 and FP4 as oracles: casts of ml_dtypes and torch, tiles of compressed-tensors and torchao.

Tiles are given as `Minifloat` has them. The domain in which compressed-tensors' planes are equal is `inside`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compressed_tensors import extremes, spread
from arraycodec_conformance.oracles import to_torch

TILES: dict[Any, dict[str, Any]] = {  # compressed-tensors' strategy for a tile
    None: {"strategy": "tensor"},
    (1, None): {"strategy": "channel"},
    (1, 128): {"strategy": "group", "group_size": 128},
    (128, 128): {"strategy": "block", "block_structure": [128, 128]},
    (None, None): {"strategy": "attn_head"},
}
MIN_SCALE, SMALLEST_NORMAL = np.float32(2.0**-100), np.float32(2.0**-126)


def ml_dtypes_cast(x: np.ndarray, format: str) -> np.ndarray:
    """The codes of ml_dtypes' cast, one to a byte: what overflows becomes infinity, else NaN, else the largest."""
    with np.errstate(all="ignore"):
        return x.astype(np.float32).astype(numpy_dtype(format)).view(np.uint8)


def ml_dtypes_values(format: str, bits: int) -> np.ndarray:
    """The float32 values of all codes of this many bits."""
    return np.arange(1 << bits, dtype=np.uint8).view(numpy_dtype(format)).astype(np.float32)


def unpacked(codes: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Codes one to a byte, from the bits of the stream."""
    raw = np.ascontiguousarray(codes).view(np.uint8).reshape(-1)
    stream = np.unpackbits(raw, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(stream, axis=1, bitorder="little")[:, 0]


def torch_cast(x: np.ndarray, format: str) -> np.ndarray:
    """The codes of torch's cast on the CPU; float8_e4m3fn saturates, infinity included, the others do not."""
    import torch

    return to_torch(x).to(getattr(torch, format)).view(torch.uint8).numpy()


def compressed_tensors(
    x: np.ndarray, block_size: Any, float32: bool = False, dynamic: bool = False
) -> dict[str, np.ndarray]:
    """compressed-tensors' FP8 on the CPU: `codes`, `scales` and `decoded` of a matrix in tiles of this block size.

    float32  its Triton kernel in torch operations: the quotient in float32, where the CPU rounds to the dtype
    dynamic  the scales of activations, found when they are quantised; rows are tokens
    A tile (None, None) is a head of a cache, and `x` an array of (heads, tokens, channels).
    """
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp

    import arraycodec_torch

    tiles = {"strategy": "token"} if dynamic and block_size == (1, None) else TILES[block_size]
    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, dynamic=dynamic, **tiles)
    tensor = to_torch(x)
    if tiles["strategy"] == "token":
        tensor = tensor[None]  # of a matrix it makes one scale
    if dynamic:
        scale, zero = compute_dynamic_scales_and_zp(tensor, args, torch.nn.Identity())
    elif tiles["strategy"] == "attn_head":
        low, high = tensor.amin((1, 2), keepdim=True), tensor.amax((1, 2), keepdim=True)
        scale, zero = calculate_qparams(low, high, args)
    else:
        scale, zero = calculate_qparams(*extremes(tensor, args), args)
    wide = (lambda t: t.to(torch.float32)) if float32 else (lambda t: t)
    codes = quantize(wide(tensor), wide(scale), wide(zero), args, dtype=torch.float8_e4m3fn)
    found = {"codes": codes.view(torch.uint8), "scales": scale, "decoded": dequantize(codes, scale, zero, args)}
    return {name: arraycodec_torch.to_numpy(value.contiguous()) for name, value in found.items()}


def preset(x: np.ndarray, name: str) -> dict[str, np.ndarray]:
    """What compressed-tensors stores for a matrix of weights under a preset ("FP8"), and the matrix it makes of it."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams

    import arraycodec_torch

    tensor, scheme = to_torch(x), preset_name_to_scheme(name, ["Linear"])
    # The zero points of a calibration are there although they are all 0: they are added, which takes the sign of -0.
    scale, zero = calculate_qparams(*extremes(tensor, scheme.weights), scheme.weights)
    state = {"weight": tensor, "weight_scale": scale, "weight_zero_point": zero}
    compressor: Any = BaseCompressor.get_value_from_registry(infer_module_format(torch.nn.Linear, scheme).value)
    stored = compressor.compress(state, scheme)
    decoded = compressor.decompress(stored, scheme)["weight"]
    found = {"codes": stored["weight"].view(torch.uint8), "scales": stored["weight_scale"], "decoded": decoded}
    return {name: arraycodec_torch.to_numpy(value.contiguous()) for name, value in found.items()}


def decoded_by_compressed_tensors(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """compressed-tensors' decoder for float8_e4m3fn `codes`, as bytes, and as many `scales`."""
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    import arraycodec_torch

    args = QuantizationArgs(num_bits=8, type="float", symmetric=True, strategy="tensor")
    return arraycodec_torch.to_numpy(
        dequantize(to_torch(codes).view(torch.float8_e4m3fn), to_torch(scales), args=args).contiguous()
    )


def inside(x: np.ndarray, block_size: Any, float32: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Where planes equal compressed-tensors' bit for bit (docs/format/minifloat.md): a mask of tiles, one of elements.

    Tiles are finite, and of zeros or with a scale from 2^-100. Elements lie in such tiles and are not both negative
    and so small that they, or their quotient, are subnormal in float32.
    """
    wide = x.astype(np.float32)
    with np.errstate(all="ignore"):
        absmax = tile_absmax(wide, block_size)
        scale = (absmax / np.float32(448)).astype(x.dtype).astype(np.float32)
        tiles = np.isfinite(absmax) & ((absmax == 0) | (scale >= MIN_SCALE) | (x.dtype == np.float16))
        per_element = spread(np.where(scale > 0, scale, np.float32(1)), x.shape, block_size)
        quotient = (wide / per_element).astype(np.float32 if float32 else x.dtype).astype(np.float32)
    tiny = (np.abs(wide) < SMALLEST_NORMAL) | (np.abs(quotient) < SMALLEST_NORMAL) & (quotient != 0)
    return tiles, spread(tiles, x.shape, block_size) & ~(tiny & (wide < 0))


def tile_absmax(x: np.ndarray, block_size: Any) -> np.ndarray:
    """The largest magnitude of each tile, NaN where there is one, in the shape of the plane `scales`."""
    if block_size is None:
        return np.abs(x).max(initial=0).reshape(1)
    rows, columns = (size or length for size, length in zip(block_size, x.shape[-2:], strict=True))
    by_rows = np.maximum.reduceat(np.abs(x), np.arange(0, x.shape[-2], rows), axis=-2)
    return np.maximum.reduceat(by_rows, np.arange(0, x.shape[-1], columns), axis=-1)


def torchao(x: np.ndarray, block_size: tuple[int, int], format: str) -> dict[str, np.ndarray]:
    """torchao's float8 tensors on the CPU: `codes`, `scales` and `decoded` of a matrix in tiles of this block size."""
    import torch
    from torchao.quantization import quant_primitives as ao

    import arraycodec_torch

    tensor, dtype = to_torch(x), getattr(torch, format)
    scale = ao._choose_scale_float8(tensor, list(block_size), dtype)
    codes = ao._quantize_affine_float8(tensor, scale, dtype)
    found = {"codes": codes.view(torch.uint8), "scales": scale,
             "decoded": ao._dequantize_affine_float8(codes, scale, tensor.dtype)}  # fmt: skip
    return {name: arraycodec_torch.to_numpy(value.contiguous()) for name, value in found.items()}


__all__ = [
    "TILES", "compressed_tensors", "decoded_by_compressed_tensors", "inside", "ml_dtypes_cast", "ml_dtypes_values",
    "preset", "spread", "tile_absmax", "torch_cast", "torchao", "unpacked",
]  # fmt: skip
