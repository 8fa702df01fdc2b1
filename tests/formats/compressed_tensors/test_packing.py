"""Words and planes: against the bits one by one, both ways, for every width and awkward shapes."""

from __future__ import annotations

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.compressed_tensors import packing
from arraycodec.primitives.grid import codes_shape
from arraycodec.spec import ArraySpec
from arraycodec_conformance import compressed_tensors as oracle

SHAPES = [(16, 37), (3, 5, 64), (2, 3, 10), (8, 32), (1, 1), (5, 100), (33, 31), (0, 32), (4, 0)]


def integers(shape: tuple[int, ...], bits: int, seed: int = 0) -> np.ndarray:
    half = 1 << (bits - 1)
    return np.random.default_rng(seed).integers(-half, half, shape).astype(np.int8)


def padded(q: np.ndarray, bits: int) -> np.ndarray:
    """Words as the library made them until 0.17, along the last axis."""
    per_word = 32 // bits
    words = packing.padded_words_per_row(q.shape[-1], bits)
    u = np.zeros((*q.shape[:-1], words * per_word), np.uint64)
    u[..., : q.shape[-1]] = q.astype(np.int64) + (1 << (bits - 1))
    shifts = np.arange(per_word, dtype=np.uint64) * np.uint64(bits)
    u = u.reshape(*q.shape[:-1], words, per_word)
    return (u << shifts).sum(-1).astype(np.uint32).view(np.int32)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", SHAPES)
def test_both_ways(shape: tuple[int, ...], bits: int) -> None:
    q = integers(shape, bits)
    words = np.zeros((*shape[:-1], packing.words_per_row(shape[-1], bits)), np.int32)
    if q.size:
        words = oracle.words(q, bits)
    codes = packing.codes_of(words, bits, shape)
    assert codes.shape == codes_shape(ArraySpec(shape, "int8"), (1, 1), bits)
    assert codes.dtype == (np.int8 if bits == 8 else np.uint8)
    assert np.array_equal(packing.integers_of(codes, bits, shape), q)
    assert np.array_equal(packing.codes_of_integers(q, bits), codes)
    again = packing.words_of(codes, bits, shape)
    assert again.dtype == np.int32 and again.shape == words.shape and np.array_equal(again, words)
    assert np.array_equal(packing.codes_of_padded(padded(q, bits), bits, shape), codes)
    if q.size:
        zeros = oracle.zero_point_words(q, bits)
        assert np.array_equal(packing.zero_points_of(zeros, bits, shape[-2]), q)
        assert np.array_equal(packing.zero_point_words(q, bits), zeros)
        old = padded(q.swapaxes(-1, -2), bits).swapaxes(-1, -2)
        assert np.array_equal(packing.zero_points_of_padded(old, bits, shape[-2]), q)


def test_padding_bits_of_a_file_do_not_matter() -> None:
    """Rows of 37 codes of 3 bits leave 17 bits of their last word; they never reach the next row."""
    q = integers((4, 37), 3)
    words = oracle.words(q, 3)
    dirty = words | np.array([0, 0, 0, -1 << 15], np.int32)
    assert not np.array_equal(dirty, words)
    assert np.array_equal(packing.codes_of(dirty, 3, q.shape), packing.codes_of(words, 3, q.shape))


def test_whole_words_are_a_view() -> None:
    words = oracle.words(integers((8, 32), 3), 3)
    assert np.shares_memory(packing.codes_of(words, 3, (8, 32)), words)


@pytest.mark.parametrize("step", [7, 8, 9])
def test_rows_of_bits_in_pieces(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PIECE", step * 111)
    q = integers((53, 37), 3)
    words = oracle.words(q, 3)
    codes = packing.codes_of(words, 3, q.shape)
    assert np.array_equal(packing.integers_of(codes, 3, q.shape), q)
    assert np.array_equal(packing.words_of(codes, 3, q.shape), words)
    assert np.array_equal(packing.codes_of_padded(padded(q, 3), 3, q.shape), codes)


def test_integers_that_do_not_fit() -> None:
    q = np.zeros((2, 40), np.int8)
    q[1, 39] = -9
    with pytest.raises(ac.CorruptError, match=r"4 bits must be in -8\.\.7, got -9"):
        packing.codes_of_integers(q, 4)


def test_the_librarys_bytes() -> None:
    """Hashes of compressed-tensors 0.20 and 0.17.1 for q = 5i mod 8 - 4."""
    q = (5 * np.arange(16 * 37) % 8 - 4).astype(np.int8).reshape(16, 37)
    words = packing.words_of(packing.codes_of_integers(q, 3), 3, q.shape)
    assert oracle.sha(words) == "24c42bf8cccd"
    assert oracle.sha(padded(q, 3)) == "ad8a632a0379"
