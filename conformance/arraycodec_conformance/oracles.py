"""Oracles: other people's implementations as judges, and the domain in which equality with each is claimed.

Each function takes and gives NumPy arrays. A domain is a mask over blocks; what lies outside it is named in the class's
page in docs/format and counted by the tests, never ignored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MIN_SCALE, MAX_SCALE = np.float32(2.0**-100), np.float32(2.0**126)


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


def domain(x: np.ndarray, block_size: int, table: str) -> np.ndarray:
    """Blocks for which the codes equal bitsandbytes' CPU encoder bit for bit (docs/format/codebook.md, Compatibility).

    Whole, finite blocks with 2^-100 <= absmax < 2^126; for fp4 also no element with 0 < x/absmax <= 2^-100, nor a
    subnormal one, to which its CPU kernel gives code 8 instead of 0 (both decode to 0).
    """
    blocks = x.astype(np.float32).reshape(-1, block_size)
    with np.errstate(all="ignore"):
        absmax = np.abs(blocks).max(axis=1)
        inside = np.isfinite(blocks).all(axis=1) & (absmax >= MIN_SCALE) & (absmax < MAX_SCALE)
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

    return bnb.create_dynamic_map().numpy() if name == "dynamic" else bnb.get_4bit_type(name, device="cpu").numpy()


__all__ = [
    "bitsandbytes_decode", "bitsandbytes_encode", "bitsandbytes_table", "cuda_fp4_encode", "domain",
    "to_torch", "unpack",
]  # fmt: skip
