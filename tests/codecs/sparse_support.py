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
