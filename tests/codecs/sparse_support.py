"""Arrays for the tests of sparsity."""

from __future__ import annotations

import numpy as np

from arraycodec.spec import numpy_dtype


def sparse(shape: tuple[int, ...], dtype: str, density: float = 0.5, seed: int = 0) -> np.ndarray:
    """Random bits, with zeros, the pattern of -0, equal magnitudes and large ones among them."""
    rng, own, size = np.random.default_rng(seed), numpy_dtype(dtype), int(np.prod(shape))
    raw = rng.integers(0, 2 if dtype == "bool" else 256, (size, own.itemsize), np.uint8)
    if dtype != "bool":
        for byte in (0x80, 0x7F, 0xFF):
            raw[rng.random(size) < 0.1] = [0] * (own.itemsize - 1) + [byte]
    raw[rng.random(size) >= density] = 0
    return raw.reshape(-1).view(own).reshape(shape)


def golden_matrix(zeros: bool = True) -> np.ndarray:
    """16 x 256 bfloat16, by a hash of each element's index; with `zeros` +0 in row 0 and -0 in row 1."""
    h = (np.arange(16 * 256, dtype=np.uint64) * np.uint64(2654435761) + np.uint64(97)) & np.uint64(0xFFFFFFFF)
    h = h.astype(np.uint32)
    bits = (h >> 31) << 15 | (112 + ((h >> 20) & 7)) << 7 | ((h >> 8) & 127)
    x = bits.astype(np.uint16).reshape(16, 256)
    if zeros:
        x[0, :64], x[1, 64:128] = 0, 0x8000
    return x.view(numpy_dtype("bfloat16"))
