"""Numbers of a few bits, densely in bytes, and ANS frequencies in them: what planes of tables are made of."""

from __future__ import annotations

import numpy as np

from arraycodec.errors import CorruptError

WIDTHS = np.arange(14)  # bits of a frequency below its highest


def pack_bits(values: np.ndarray, width: int) -> np.ndarray:
    """The low `width` bits (at most 8) of each value, the lowest first in the lowest free bit, padded to a byte."""
    bits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little")


def unpack_bits(plane: np.ndarray, at: int, count: int, width: int) -> tuple[np.ndarray, int]:
    """`count` values of so many bits from byte `at` on, and the byte after them."""
    end = at + -(-count * width // 8)
    if end > plane.size:
        raise CorruptError(f"plane 'tables' must have at least {end} bytes, got {plane.size}")
    bits = np.unpackbits(plane[at:end], count=count * width, bitorder="little").reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little").reshape(count), end


def pack_frequencies(frequencies: np.ndarray) -> np.ndarray:
    """Bit lengths of the frequencies, 4 bits each; then the bits below the highest of each."""
    lengths = (frequencies[:, None].astype(np.int64) >> np.arange(16) > 0).sum(1).astype(np.uint8)
    low = ((frequencies[:, None].astype(np.int64) >> WIDTHS) & 1).astype(np.uint8)
    return np.concatenate([pack_bits(lengths, 4), np.packbits(low[lengths[:, None] > WIDTHS + 1], bitorder="little")])


def unpack_frequencies(plane: np.ndarray, at: int, symbols: int, bits: int) -> tuple[np.ndarray, int]:
    """The frequencies of so many symbols, which add up to 2^bits, from byte `at` on, and the byte after them."""
    lengths, at = unpack_bits(plane, at, symbols, 4)
    taken = lengths[:, None] > WIDTHS + 1
    low, at = unpack_bits(plane, at, int(taken.sum()), 1)
    digits = np.zeros(taken.shape, np.int64)
    digits[taken] = low
    frequencies = (digits << WIDTHS).sum(1) + np.where(lengths > 0, 1 << np.maximum(lengths.astype(np.int64) - 1, 0), 0)
    if frequencies.sum() != 1 << bits:
        raise CorruptError(f"plane 'tables': frequencies must add up to 2^{bits}, got {frequencies.sum()}")
    return frequencies, at
