"""The linear codec against the bytes of compressed-tensors 0.20.0, without it: hashes of what it made on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import hashed_input, sha, zero_point_words

DTYPES = ("float32", "bfloat16", "float16")

# Packed codes, scales, packed zero points, decoded.
GOLDEN_GROUPS = {  # 64 to a group; the second of each pair is asymmetric
    1: ("9f56cda75fef 7e5077bc0f2c - 9f1dcbc35c35", "0673cef70ee1 74521491079e 139f813d9a23 f7c45a54c2f0"),
    2: ("67f310173fe3 bdb7d6c9d86b - 33be18d9595b", "561f6d2c805d dcaadec2d352 f4f56ed791f8 f6223cd98bac"),
    3: ("b680430bc75d cb8368ef4ced - ddfdd34b7eca", "d581d37455f3 4a31e67e1242 c9c52588109c 354856c51859"),
    4: ("ccf36edbf704 ff7988e9ba2a - b30a1d2ef226", "eba29f3e56f1 9d972398ffb5 68b16c0cd49a f1773653c32d"),
    5: ("72683031565c 7cd1a38d7e29 - 32d24338111c", "c234a7986b3f dcba07709b73 b6f7b37391fa 103202861edc"),
    6: ("c94b049aae56 7f085450913f - ed951dc90e34", "dfe8a482cd0d 77bec63fbbfe 0169791a48a7 7f50140743f1"),
    7: ("06adde35a3f7 7425b2037909 - 8defc119b9c1", "0abe39f964aa a53ba80d7bc5 0e877557d281 88b3ff7a8f31"),
    8: ("8acd0e45a5ea 253e61dd287b - 1d82db15f3f1", "176a77f44931 82f3c717aecd 246d4afb61c0 2d93d5a162e7"),
}
GOLDEN_RAGGED = {  # rows of 37
    (4, False): "8d1e0369b303 5422818ca956 f7e014aa782e a951ab9ab572",
    (3, True): "eef367e21674 312d03ffe2c1 - ac0cf3d450aa",
}
GOLDEN_CHANNELS = "c8ae3cdb31d0 ca3282037d1e - 8b3cb288a983"  # int8, not packed
GOLDEN_PRESETS = {  # of float32, bfloat16, float16 weights; W8A8 is not packed
    "W2A16": (
        "83f354b10cb3 a41a6be9a384 - b7c6c66f8d23",
        "2b9c343e2da3 8472775ea3ca - 6f46394846f7",
        "879f3bf72152 3e6b4db9718d - 0d7366574df2",
    ),
    "W3A16": (
        "8c615f4f2382 357b05de90da - 75790e6035d1",
        "5c5d4612c672 64328b4d54f1 - 71d1ec3d79c9",
        "614962293880 a1448945b7bb - 99fa009440ef",
    ),
    "W4A16": (
        "556cc723ac88 555c0cbf0f22 - 16bf5ced3444",
        "94ef3c97c1c6 8ae6d75a1ecf - 635ca88cf156",
        "3fd209bcad34 1eab5b5df34c - 2e75c26097aa",
    ),
    "W5A16": (
        "177d6206ba00 fe2209f423a5 - a781b9082058",
        "d70e8fa98a65 57ea7b5aa753 - 5ad96396cc49",
        "7b8930cf210c 1d4f1678d167 - 13f6988d9976",
    ),
    "W6A16": (
        "f0de2f426086 d81f7ce5bd08 - 94521313a31f",
        "fc382b9401b6 5260ec937e95 - 7b9f2435730b",
        "6971510971c6 05768f39164d - 2f72b30c6883",
    ),
    "W7A16": (
        "111513630999 0d036c8b89cb - 3c8ba5916fd2",
        "ca6808f3a9e1 9762599e9d5e - 81fb1e81ef58",
        "768d6eb96bb3 3edf7241924d - 26e9a125b70f",
    ),
    "W8A16": (
        "08e769d663a7 3bb4d07c0443 - f1c60e4bb8e1",
        "354d8124dce7 e866ee4b461d - 18bb9fa27728",
        "48b9fa61f08a 745ac26f3ad0 - b1a2a1b988e6",
    ),
    "W4A16_ASYM": (
        "8679ce327fe3 fc15720cd77c 0f6e028337ce c79b0ea233f7",
        "1736ba08debd 151564e0b190 eb59151b11f2 905df628ed44",
        "69c4a7b50c4c 86a018b91e36 0f6e028337ce df7037e60ee5",
    ),
    "W8A8": (
        "103c3b034fd6 184c22d3eb2c - c8afd08195a9",
        "c5918b906b57 fccf464cca38 - 793fb65dfcd6",
        "85f1c66fbe2b 4521b8eabe9b - daedf6950e41",
    ),
}
GOLDEN_TOKENS = {  # activations of 4 bits, not packed; those of 8 bits are W8A8's
    "float32": "c37da3b40ebb b7ab8e518817 - 0b60d1012c0c",
    "bfloat16": "fa0431923799 34b4573645db - e522bcaeaacf",
    "float16": "590cd6ef0816 b87f08a3bf85 - ee650650074e",
}


def foreign(bits: int, symmetric: bool, block_size: Any, arithmetic: str = "eager") -> ac.Linear:
    return ac.Linear(bits, symmetric, block_size, "compressed-tensors", arithmetic)


def hashes(x: np.ndarray, codec: ac.Linear, packed: bool = True) -> str:
    """The four hashes of what we make of `x`."""
    enc = ac.encode(x, codec)
    codes = oracle.integers(enc.planes["codes"], codec.bits, x.shape)
    zeros = enc.planes.get("zero_points")
    return " ".join([
        sha(oracle.words(codes, codec.bits) if packed else codes),
        sha(enc.planes["scales"]),
        "-" if zeros is None else sha(zero_point_words(zeros, codec.bits)),
        sha(ac.decode(enc)),
    ])  # fmt: skip


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", GOLDEN_GROUPS)
def test_golden_hashes_of_groups(bits: int, symmetric: bool) -> None:
    x = hashed_input(16, 256).copy()
    x[0, :64] = 0
    x.view(np.uint16)[1, 64:128] = 0x8000  # -0
    assert sha(x) == "d5f84b86b6d8"
    assert hashes(x, foreign(bits, symmetric, (1, 64))) == GOLDEN_GROUPS[bits][not symmetric]
    if bits == 8 and symmetric:
        assert hashes(x, foreign(8, True, (1, None)), packed=False) == GOLDEN_CHANNELS


@pytest.mark.parametrize(("bits", "symmetric"), GOLDEN_RAGGED)
def test_golden_hashes_of_ragged_rows(bits: int, symmetric: bool) -> None:
    x = hashed_input(16, 37)
    assert hashes(x, foreign(bits, symmetric, (1, None))) == GOLDEN_RAGGED[bits, symmetric]


def test_golden_hash_of_packed_words() -> None:
    q = ((5 * np.arange(16 * 37) % 8) - 4).astype(np.int8).reshape(16, 37)
    assert sha(oracle.words(q, 3)) == "24c42bf8cccd"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", GOLDEN_PRESETS)
def test_golden_hashes_of_presets(name: str, dtype: str) -> None:
    x = hashed_input(24, 384, dtype)
    want = GOLDEN_PRESETS[name][DTYPES.index(dtype)]
    assert hashes(x, oracle.WEIGHTS[name], packed=name != "W8A8") == want


@pytest.mark.parametrize("dtype", DTYPES)
def test_golden_hashes_of_activations_per_token(dtype: str) -> None:
    x = hashed_input(24, 384, dtype).reshape(4, 6, 384)
    assert hashes(x, oracle.ACTIVATIONS["W4A4"], packed=False) == GOLDEN_TOKENS[dtype]
    assert hashes(x, oracle.ACTIVATIONS["W8A8"], packed=False) == GOLDEN_PRESETS["W8A8"][DTYPES.index(dtype)]


@pytest.mark.parametrize("bits", range(1, 9))
def test_words_are_the_bytes_of_codes_where_rows_are_whole_words(bits: int) -> None:
    """Theirs is the same little-endian stream, but each row is padded to a whole word; our 8 bits have no offset."""
    rng = np.random.default_rng(bits)
    for columns in (32, 96, 37):
        q = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), (6, columns)).astype(np.int8)
        codec = foreign(bits, False, (1, None), "float32")
        ones, zeros = np.ones((6, 1), np.float32), np.zeros((6, 1), np.int8)
        codes = codec.encode(q.astype(np.float32), {"scales": ones, "zero_points": zeros})["codes"]
        stored = oracle.words(q, bits).view(np.uint8).reshape(6, -1)
        if bits == 8:
            same_bits(stored[:, :columns] ^ np.uint8(0x80), codes.view(np.uint8), f"{columns} columns of 8 bits")
        elif columns * bits % 32 == 0:
            same_bits(stored, codes, f"{columns} columns of {bits} bits")
        else:
            same_bits(oracle.integers(codes, bits, q.shape), q, f"{columns} columns of {bits} bits")
