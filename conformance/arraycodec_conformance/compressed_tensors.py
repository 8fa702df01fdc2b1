"""compressed-tensors as an oracle: its own functions where it is installed, and its layout of bytes where it is not.

The library packs codes in int32 words, row by row, each row padded with zero bits; and zero points likewise, but along
the rows of their array. `words` and `zero_point_words` make these from codes and zero points as planes hold them.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.codecs.linear import Linear
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.oracles import to_torch


def _codec(bits: int, symmetric: bool = True, group: int | None = None) -> Linear:
    return Linear(bits, symmetric, (1, group), "compressed-tensors", "eager")


# Its presets of integers: the codec of the weights, and that of the activations, which are quantised per token.
_WIDTHS = [f"{w}A{a}" for a in (4, 8, 16) for w in range(2, 9) if w <= a and (w, a) != (8, 8)]
WEIGHTS = {f"W{name}": _codec(int(name[0]), group=128) for name in (*_WIDTHS, "4AFP8")}
WEIGHTS |= {"W4A16_ASYM": _codec(4, False, 128), "W8A8": _codec(8), "INT8": _codec(8)}
ACTIVATIONS = {f"W{name}": _codec(int(name[2:])) for name in _WIDTHS if not name.endswith("16")}
ACTIVATIONS |= {"W8A8": _codec(8), "INT8": _codec(8)}


def hashed_input(rows: int, columns: int, dtype: str = "bfloat16") -> np.ndarray[Any, Any]:
    """The array that golden hashes are of: signs, eight binades and mantissas out of a multiplicative hash."""
    h = (np.arange(rows * columns, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(97)).astype(np.uint32)
    bits = ((h >> 31) << 15) | ((112 + ((h >> 20) & 7)) << 7) | ((h >> 8) & 127)
    if dtype != "bfloat16":
        low = ((h * np.uint32(40503)) >> 16) & 0xFFFF
        return ((bits << 16) | low).view(np.float32).astype(numpy_dtype(dtype)).reshape(rows, columns)
    return bits.astype(np.uint16).view(numpy_dtype("bfloat16")).reshape(rows, columns)


def sha(array: np.ndarray) -> str:
    """The first 12 digits of the SHA-256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12]


def words(integers: np.ndarray, bits: int) -> np.ndarray:
    """int8 integers (rows, columns) as int32 (rows, ceil(columns * bits / 32)): a dense stream per row.

    Matrices of more axes are packed one by one.
    """
    if integers.ndim > 2:
        return np.stack([words(matrix, bits) for matrix in integers])
    rows, columns = integers.shape
    unsigned = (integers.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
    stream = np.unpackbits(unsigned[:, :, None], axis=2, count=bits, bitorder="little").reshape(rows, -1)
    padded = np.zeros((rows, -(-columns * bits // 32) * 32), np.uint8)
    padded[:, : columns * bits] = stream
    return np.packbits(padded, axis=1, bitorder="little").view("<i4")


def zero_point_words(zero_points: np.ndarray, bits: int) -> np.ndarray:
    """int8 zero points (rows, groups) as int32 (ceil(rows * bits / 32), groups)."""
    swapped = np.ascontiguousarray(zero_points.swapaxes(-1, -2))
    return np.ascontiguousarray(words(swapped, bits).swapaxes(-1, -2))


def integers(codes: np.ndarray, bits: int, shape: tuple[int, ...]) -> np.ndarray:
    """The int8 integers of a plane of codes, read from the bits of the stream one by one."""
    if bits == 8:
        return codes.reshape(shape)
    count = int(np.prod(shape))
    stream = np.unpackbits(codes.reshape(-1), count=count * bits, bitorder="little").reshape(count, bits)
    unsigned = np.packbits(stream, axis=1, bitorder="little")[:, 0]
    return (unsigned.astype(np.int16) - (1 << (bits - 1))).astype(np.int8).reshape(shape)


def arguments(bits: int, symmetric: bool, block_size: Any) -> Any:
    """The QuantizationArgs of a tile: (1, n) is a group, (1, None) a channel, (m, n) a block, None the tensor."""
    from compressed_tensors.quantization import QuantizationArgs

    common = {"num_bits": bits, "type": "int", "symmetric": symmetric}
    if block_size is None:
        return QuantizationArgs(**common, strategy="tensor")
    height, width = block_size
    if height != 1:
        return QuantizationArgs(**common, strategy="block", block_structure=[height, width])
    if width is None:
        return QuantizationArgs(**common, strategy="channel")
    return QuantizationArgs(**common, strategy="group", group_size=width)


def quantise(x: np.ndarray, args: Any, float32: bool = False, scales: np.ndarray | None = None) -> Planes:
    """What the library makes of an array on the CPU: int8 `integers`, `scales`, int8 `zero_points`, and `decoded`.

    Scales that are given are those of a calibration, with zero points of 0.
    `float32` is its Triton kernel in torch operations: quotient and sum in float32, where the CPU rounds to the dtype.
    """
    import torch
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp

    import arraycodec_torch

    tensor = to_torch(x)
    if scales is not None:
        scale = to_torch(scales)
        zero = torch.zeros_like(scale)
    elif args.dynamic:
        scale, zero = compute_dynamic_scales_and_zp(tensor, args, torch.nn.Identity())
    else:
        scale, zero = calculate_qparams(*extremes(tensor, args), args)
    wide = (lambda t: t.to(torch.float32)) if float32 else (lambda t: t)
    q = quantize(wide(tensor), wide(scale), zero, args, dtype=torch.int8)
    decoded = dequantize(q, scale, zero, args)
    found = {"integers": q, "scales": scale, "zero_points": zero.to(torch.int8), "decoded": decoded}
    return {name: arraycodec_torch.to_numpy(value.contiguous()) for name, value in found.items()}


def dequantise(integers: np.ndarray, scales: np.ndarray, zero_points: np.ndarray, args: Any) -> np.ndarray:
    """The array that the library makes of these planes on the CPU."""
    from compressed_tensors.quantization.lifecycle.forward import dequantize

    import arraycodec_torch

    planes = [to_torch(plane) for plane in (integers, scales, zero_points)]
    return arraycodec_torch.to_numpy(dequantize(*planes, args).contiguous())


def compress(x: np.ndarray, name: str) -> Planes:
    """What the library stores for the weights of a preset, under its own names, and the `decoded` weight.

    Codes are `weight_packed` with `weight_shape`, or int8 `weight` where activations are quantised too.
    """
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams

    import arraycodec_torch

    tensor, scheme = to_torch(x), preset_name_to_scheme(name, ["Linear"])
    scale, zero = calculate_qparams(*extremes(tensor, scheme.weights), scheme.weights)
    compressor: Any = BaseCompressor.get_value_from_registry(infer_module_format(torch.nn.Linear, scheme).value)
    state = {"weight": tensor, "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    stored = compressor.compress(state, scheme)
    found = stored | {"decoded": compressor.decompress(stored, scheme)["weight"]}
    return {plane: arraycodec_torch.to_numpy(value.contiguous()) for plane, value in found.items()}


def inside(x: np.ndarray, codec: Linear, scales: np.ndarray) -> np.ndarray:
    """The tiles of `x` for which equality is claimed, where `scales` are the library's: all zeros, or finite with a
    largest magnitude and a scale of at least 2^-100, and a scale that is finite too.
    """
    with np.errstate(all="ignore"):
        absmax = np.abs(_tiles(x.astype(np.float32), codec.block_size)).max((-3, -1)).reshape(scales.shape)
        wide, smallest = scales.astype(np.float32), np.float32(2.0**-100)
        usable = np.isfinite(wide) & np.isfinite(absmax)
        return usable & ((absmax == 0) | ((absmax >= smallest) & (wide >= smallest)))


def spread(tiles: np.ndarray, shape: tuple[int, ...], block_size: Any) -> np.ndarray:
    """One number per tile as one per element."""
    height, width = _sides(shape, block_size)
    tiles = tiles.reshape((*shape[:-2], -(-shape[-2] // height), -(-shape[-1] // width)))
    return tiles.repeat(height, -2).repeat(width, -1)[..., : shape[-2], : shape[-1]]


def _tiles(x: np.ndarray, block_size: Any) -> np.ndarray:
    """(..., down, height, across, width), with zeros where a tile sticks out."""
    height, width = _sides(x.shape, block_size)
    *leading, rows, columns = x.shape
    x = np.pad(x, [(0, 0)] * len(leading) + [(0, -rows % height), (0, -columns % width)])
    return x.reshape(*leading, x.shape[-2] // height, height, x.shape[-1] // width, width)


def _sides(shape: tuple[int, ...], block_size: Any) -> tuple[int, int]:
    height, width = block_size or (None, None)
    return height or shape[-2], width or shape[-1]


def extremes(tensor: Any, args: Any) -> tuple[Any, Any]:
    """The smallest and largest element of each tile, as its observers find them."""
    import torch
    from compressed_tensors.quantization.utils import maybe_pad_tensor_for_block_quant

    if args.strategy == "tensor":
        return torch.aminmax(tensor)
    if args.strategy == "channel":
        return tensor.amin(-1, keepdim=True), tensor.amax(-1, keepdim=True)
    if args.strategy == "group":
        groups = tensor.unflatten(-1, (-1, args.group_size))
        return groups.amin(-1), groups.amax(-1)
    height, width = args.block_structure
    padded = maybe_pad_tensor_for_block_quant(tensor, args.block_structure)
    rows, columns = padded.shape
    blocks = padded.reshape(rows // height, height, columns // width, width)
    return blocks.amin((1, 3)), blocks.amax((1, 3))


__all__ = [
    "ACTIVATIONS", "WEIGHTS", "arguments", "compress", "dequantise", "hashed_input", "inside", "integers", "quantise",
    "sha", "spread", "words", "zero_point_words",
]  # fmt: skip
