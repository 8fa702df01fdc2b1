"""Oracles: other people's implementations as judges, and the domain in which equality with each is claimed.

Each function takes and gives NumPy arrays. A domain is a mask over blocks; what lies outside it is named in the class's
page in docs/format and counted by the tests, never ignored.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np

from arraycodec.primitives import codebooks

MIN_SCALE, MAX_SCALE = np.float32(2.0**-100), np.float32(2.0**126)
BITSANDBYTES_MAPS: dict[str, tuple[str, tuple[Any, ...]]] = {  # our name of a map: its function and the arguments
    "dynamic": ("create_dynamic_map", ()),
    "dynamic-unsigned": ("create_dynamic_map", (False,)),
    "linear": ("create_linear_map", ()),
    "linear-unsigned": ("create_linear_map", (False,)),
    "fp8-e5m2": ("create_fp8_map", ()),
    "fp8-e4m3": ("create_fp8_map", (True, 4, 3)),
    "fp8-e3m4": ("create_fp8_map", (True, 3, 4)),
}


def to_torch(x: np.ndarray) -> Any:
    """A torch tensor with the bits of `x`."""
    import arraycodec_torch

    return arraycodec_torch.from_numpy(np.ascontiguousarray(x))


def bitsandbytes_encode(x: np.ndarray, table: str, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """bitsandbytes' CPU `quantize_4bit`: packed codes and absmax, flat."""
    import bitsandbytes.functional as bnb

    packed, state = bnb.quantize_4bit(to_torch(x), blocksize=block_size, quant_type=table)
    return packed.view(-1).numpy(), state.absmax.numpy()


def bitsandbytes_decode(codes: np.ndarray, absmax: np.ndarray, table: str, block_size: int, dtype: str) -> np.ndarray:
    """bitsandbytes' CPU `dequantize_4bit` of whole blocks, flat: its defect D1 needs rows that are not whole blocks."""
    import bitsandbytes.functional as bnb
    import torch

    import arraycodec_torch

    n, dtype_ = codes.size * 2, getattr(torch, dtype)
    state = bnb.QuantState(
        absmax=torch.from_numpy(absmax.copy()), shape=torch.Size((n // block_size, block_size)), dtype=dtype_,
        code=bnb.get_4bit_type(table, device="cpu"), blocksize=block_size, quant_type=table,
    )  # fmt: skip
    decoded = bnb.dequantize_4bit(torch.from_numpy(codes.copy()).view(-1, 1), state)
    return arraycodec_torch.to_numpy(decoded).reshape(-1)


def cuda_fp4_encode(x: np.ndarray, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """An emulation of bitsandbytes' CUDA FP4 kernel with an exact reciprocal: unpacked codes, and absmax.

    The thresholds are the kernel's own decimal literals, decided on |y|, with the sign bit for y < 0.
    """
    literals = np.array([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333], np.float32)
    blocks = x.astype(np.float32).reshape(-1, block_size)
    absmax = np.abs(blocks).max(axis=1)
    y = blocks * (np.float32(1) / absmax)[:, None]
    magnitude = np.array([0, 1, 6, 7, 4, 5, 2, 3], np.uint8)[(np.abs(y)[..., None] > literals).sum(-1)]
    return (magnitude + np.where(y < 0, 8, 0).astype(np.uint8)).reshape(-1), absmax


def bitsandbytes_map_encode(x: np.ndarray, table: str, block_size: int) -> tuple[np.ndarray, np.ndarray]:
    """bitsandbytes' CPU `quantize_blockwise` with one of its 8-bit maps: codes and absmax, flat."""
    import bitsandbytes.functional as bnb

    codes, state = bnb.quantize_blockwise(to_torch(x), code=_map(table), blocksize=block_size)
    return codes.view(-1).numpy(), state.absmax.numpy()


def bitsandbytes_map_decode(
    codes: np.ndarray, absmax: np.ndarray, table: str, block_size: int, dtype: str
) -> np.ndarray:
    """bitsandbytes' CPU `dequantize_blockwise` with one of its 8-bit maps, flat."""
    import bitsandbytes.functional as bnb
    import torch

    import arraycodec_torch

    state = bnb.QuantState(
        absmax=torch.from_numpy(absmax.copy()), code=_map(table), blocksize=block_size, dtype=getattr(torch, dtype)
    )
    return arraycodec_torch.to_numpy(bnb.dequantize_blockwise(torch.from_numpy(codes.copy()), state)).reshape(-1)


def bitsandbytes_int8_encode(x: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bitsandbytes' CPU `int8_vectorwise_quant` of a matrix: codes, the absmax of each row, columns with outliers."""
    import bitsandbytes.functional as bnb

    codes, scales, columns = bnb.int8_vectorwise_quant(to_torch(x.copy()), threshold)
    found = np.zeros(0, np.int32) if columns is None else columns.numpy().astype(np.int32)
    return codes.numpy(), scales.numpy(), found


def bitsandbytes_int8_decode(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """bitsandbytes' CPU `int8_vectorwise_dequant` of a matrix, float32."""
    import bitsandbytes.functional as bnb

    return bnb.int8_vectorwise_dequant(to_torch(codes), to_torch(scales)).numpy()


def constriction_huffman_lengths(counts: np.ndarray) -> np.ndarray:
    """The code length of each symbol in constriction's Huffman tree for these counts; 0 for those that do not occur."""
    symbol = importlib.import_module("constriction").symbol
    used = np.flatnonzero(counts)
    lengths = np.zeros(counts.size, np.int64)
    if used.size == 1:
        lengths[used] = 1  # its tree has a code of no bits; ours has one bit
        return lengths
    tree = symbol.huffman.EncoderHuffmanTree(counts[used].astype(np.float64))
    for rank, number in enumerate(used):
        coder = symbol.QueueEncoder()
        coder.encode_symbol(rank, tree)
        lengths[number] = coder.get_compressed()[1]
    return lengths


def constriction_ans_bytes(symbols: np.ndarray, frequencies: np.ndarray) -> int:
    """The bytes that constriction's ANS coder makes of these symbols with these frequencies."""
    stream = importlib.import_module("constriction").stream
    used = np.flatnonzero(frequencies)
    ranks = np.searchsorted(used, symbols).astype(np.int32)
    if used.size == 1:
        return 0
    coder = stream.stack.AnsCoder()
    probabilities = frequencies[used] / frequencies.sum()
    coder.encode_reverse(ranks, stream.model.Categorical(probabilities, perfect=False))
    return -(-int(coder.num_valid_bits()) // 8)


def domain(x: np.ndarray, block_size: int, table: str) -> np.ndarray:
    """Blocks for which the codes equal bitsandbytes' CPU encoder bit for bit (docs/format/codebook.md, Compatibility).

    Whole, finite blocks with 2^-100 <= absmax < 2^126 (a map with tiny entries starts at its own smallest scale); for
    fp4 also no element with 0 < x/absmax <= 2^-100, nor a subnormal one, to which its CPU kernel gives code 8 instead
    of 0 (both decode to 0).
    """
    blocks, smallest = x.astype(np.float32).reshape(-1, block_size), codebooks.table(table).min_scale.view(np.float32)
    with np.errstate(all="ignore"):
        absmax = np.abs(blocks).max(axis=1)
        inside = np.isfinite(blocks).all(axis=1) & (absmax >= smallest) & (absmax < MAX_SCALE)
        if table == "fp4":
            tiny = (blocks > 0) & ((blocks < np.float32(2.0**-126)) | (blocks <= absmax[:, None] * MIN_SCALE))
            inside &= ~tiny.any(axis=1)
    return inside


def unpack(codes: np.ndarray) -> np.ndarray:
    """4-bit codes, one to a byte."""
    return np.stack([codes >> 4, codes & 15], axis=-1).reshape(-1)


def bitsandbytes_table(name: str) -> np.ndarray:
    """The table as bitsandbytes constructs it."""
    import bitsandbytes.functional as bnb

    return (_map(name) if name in BITSANDBYTES_MAPS else bnb.get_4bit_type(name, device="cpu")).numpy()


@cache
def _map(name: str) -> Any:
    """A map as a tensor, always the same one: its CPU encoder remembers tables by the address of the map."""
    import bitsandbytes.functional as bnb

    function, arguments = BITSANDBYTES_MAPS[name]
    return getattr(bnb, function)(*arguments)


__all__ = [
    "BITSANDBYTES_MAPS", "bitsandbytes_decode", "bitsandbytes_encode", "bitsandbytes_int8_decode",
    "bitsandbytes_int8_encode", "bitsandbytes_map_decode", "bitsandbytes_map_encode", "bitsandbytes_table",
    "constriction_ans_bytes", "constriction_huffman_lengths", "cuda_fp4_encode", "domain", "to_torch", "unpack",
]  # fmt: skip
