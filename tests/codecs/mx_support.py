"""What the tests of microscaling and nvfp4 share: arrays that find differences, codes one to a byte, flushing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import hashed_input
from arraycodec_conformance.strategies import Recipe

DTYPES = ("float32", "bfloat16", "float16")
DISTRIBUTIONS = (
    "normal", "uniform", "cauchy", "ties", "thresholds", "sparse", "log-normal", "integers", "constant", "bits",
)  # fmt: skip


def matrices(dtype: str, seeds: int, exponents: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Matrices of many distributions and exponents, and those that are most likely to find a difference."""
    for seed in range(seeds):
        for distribution in DISTRIBUTIONS:
            for exponent in exponents[: 1 if distribution == "bits" else None]:
                yield f"{distribution} 2^{exponent}", Recipe((32, 256), dtype, distribution, exponent, seed).array()
    narrow = numpy_dtype(dtype)
    if narrow.itemsize == 2:
        finite = every_pattern(narrow)
        finite = finite[np.isfinite(finite.astype(np.float32))]
        yield "every finite pattern", finite[: finite.size // 256 * 256].reshape(-1, 256)
    grid = (np.arange(-512, 512) / 16).astype(narrow)
    yield "multiples of 1/16", np.concatenate([grid * narrow.type(2.0**k) for k in range(-8, 5)]).reshape(-1, 256)
    one_hot = np.zeros((8, 256), narrow)
    one_hot[:, ::33] = narrow.type(3)
    yield "one element that is not 0", one_hot
    yield "zeros", np.zeros((2, 256), narrow)
    largest = narrow.type(6)
    yield "all largest", np.stack([np.full(256, largest), np.full(256, -largest), np.tile([largest, -largest], 128)])


def every_pattern(dtype: str | np.dtype) -> np.ndarray:
    """All 65,536 numbers of a dtype of 16 bits."""
    return np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype) if isinstance(dtype, str) else dtype)


def golden_input() -> np.ndarray:
    """The matrix of compressed-tensors' golden hashes: hashed_input with two blocks of zeros, the second of -0."""
    x = hashed_input(16, 256).copy()
    x[0, :64] = 0
    x.view(np.uint16)[1, 64:128] = 0x8000
    return x


def unpacked(codes: np.ndarray, bits: int, count: int) -> np.ndarray:
    """Codes one to a byte, from the bits of the stream."""
    stream = np.ascontiguousarray(codes).view(np.uint8).reshape(-1)
    stream = np.unpackbits(stream, count=count * bits, bitorder="little")
    return np.packbits(stream.reshape(count, bits), axis=1, bitorder="little")[:, 0]


def assert_same_when_subnormals_are_flushed(results: Callable[[], list[np.ndarray]]) -> None:
    """Arrays made in this thread have the same bits in both modes of the processor, which torch sets."""
    torch = pytest.importorskip("torch")
    kept = results()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no such mode")
    try:
        flushed = results()
    finally:
        torch.set_flush_denormal(False)
    for with_mode, without in zip(flushed, kept, strict=True):
        same_bits(with_mode, without, "flushed")
