"""The dense stream of codes: every width and length against bits one by one, and pieces that are appended."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from arraycodec.primitives.jit import kernel
from arraycodec.primitives.packing import load_dense, store_dense
from arraycodec_conformance.compare import same_bits


@kernel
def _store(codes, packed, bits, start, count):
    store_dense(codes, packed, bits, start, count)


@kernel
def _load(packed, bits, start, count, codes):
    load_dense(packed, bits, start, count, codes)


def stream(codes: np.ndarray, bits: int) -> np.ndarray:
    """Code i begins at bit i * bits; bit k of the stream is bit k % 8 of byte k // 8."""
    return np.packbits(np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little"), bitorder="little")


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_length_is_the_stream_of_its_bits(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for count in (*range(1, 70), 1000, 1024):
        codes = rng.integers(0, 1 << bits, count).astype(np.uint8)
        room = np.full(1024, 0xFF, np.uint8)  # what lies behind the codes does not matter
        room[:count] = codes
        packed = np.full(-(-count * bits // 8), 0xAA, np.uint8)
        _store(room, packed, bits, 0, count)
        same_bits(packed, stream(codes, bits), f"{count} codes of {bits} bits")
        back = np.full(1024, 0xFF, np.uint8)
        _load(packed, bits, 0, count, back)
        same_bits(back[:count], codes, f"{count} codes of {bits} bits, read")


@pytest.mark.parametrize("bits", range(1, 9))
def test_pieces_are_parts_of_one_stream(bits: int) -> None:
    """Stored in any order from elements that are multiples of 8, and read from any of these."""
    rng, total = np.random.default_rng(bits), 3001
    codes = rng.integers(0, 1 << bits, total).astype(np.uint8)
    packed = np.full(-(-total * bits // 8), 0xAA, np.uint8)
    borders = [0, 8, 1032, 1040, 2064, 3000, 3001]
    pieces = list(itertools.pairwise(borders))
    for start, stop in (pieces[i] for i in rng.permutation(len(pieces))):
        room = np.zeros(1024, np.uint8)
        room[: stop - start] = codes[start:stop]
        _store(room, packed, bits, start, stop - start)
    same_bits(packed, stream(codes, bits), f"{bits} bits")
    for start in (0, 8, 800, 2992, 3000):
        count = min(1000, total - start)
        back = np.zeros(1024, np.uint8)
        _load(packed, bits, start, count, back)
        same_bits(back[:count], codes[start : start + count], f"{bits} bits from {start}")


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_in_every_place(bits: int) -> None:
    """One code among zeros sets its own bits and no other."""
    for place in range(16):
        codes = np.zeros((1 << bits, 16), np.uint8)
        codes[:, place] = np.arange(1 << bits)
        room = np.zeros(1 << bits << 4, np.uint8)
        room[:] = codes.reshape(-1)
        packed = np.empty((1 << bits, 2 * bits), np.uint8)
        _store(room, packed.reshape(-1), bits, 0, room.size)
        want = np.arange(1 << bits, dtype=object) << (place * bits)
        got = [int.from_bytes(row.tobytes(), "little") for row in packed]
        assert got == want.tolist()
