"""The tcq codec beyond the suite: what it gains, its choice of paths, given planes, edges, parts, parameters."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives import levels as trellis_levels
from arraycodec.primitives import paths, threads
from arraycodec.primitives.grid import Grid
from arraycodec.primitives.paths import PATH, paths_of, search
from arraycodec.primitives.threads import limited
from arraycodec.primitives.trellis import subsets
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe

LEVELS8 = np.array([-24576, -16384, -8192, -2048, 2048, 8192, 16384, 24576], np.int16)


def snr(x: np.ndarray, codec: ac.Codec | str, **given: Any) -> tuple[float, float]:
    """Decibels and bits per element."""
    found = ac.error(x, ac.encode(x, codec, given=given))
    return found.snr_db, found.bits_per_element


# -- what it gains


@pytest.mark.parametrize(("bits", "gain"), [(1, 0.6), (2, 1.2), (3, 1.3), (4, 1.3), (6, 1.3), (8, 1.3)])
def test_gain_over_the_best_table_at_equal_size(bits: int, gain: float, level: Level) -> None:
    """All planes counted, a bit being 6.02 dB; the table is k-means with one scale, at level full the optimum."""
    rows = 1024 if level >= Level.full else 256
    x = np.random.default_rng(0).standard_normal((rows, 1024), np.float32)
    table = ac.Lut(bits, None, training="optimum" if level >= Level.full or bits < 4 else "lloyd")
    (scalar, scalar_bits), (coded, coded_bits) = snr(x, table), snr(x, ac.TCQ(bits, block_size=None))
    assert coded - scalar - 6.0206 * (coded_bits - scalar_bits) >= gain


def test_more_states_are_better() -> None:
    x = np.random.default_rng(1).standard_normal((64, 1024), np.float32)
    for bits in (2, 4):
        eight, some, many = (snr(x, ac.TCQ(bits, states))[0] for states in (8, 64, 256))
        assert eight + 0.1 < some < many


def test_outliers_and_rotations_help_against_outliers() -> None:
    """The default keeps outliers apart; without that, 0.02 % of them cost 3 dB."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((256, 512), np.float32)
    x.reshape(-1)[rng.choice(x.size, 30, replace=False)] *= 40
    plain, _ = snr(x, ac.TCQ(4, outliers=0.0))
    kept, bits = snr(x, "tcq4")
    turned, _ = snr(x, ac.TCQ(4, outliers=0.0, rotate=256))
    assert kept > plain + 2 and bits < 4.1
    assert turned > plain + 1


def test_errors_count_alike_in_rows_of_all_sizes() -> None:
    """In training: few large rows matter more than many small ones, whose integers are of another kind."""
    rng = np.random.default_rng(11)
    small = np.where(rng.random((96, 512)) < 0.5, 1, -1) * rng.uniform(0.9, 1, (96, 512))
    x = np.concatenate([100 * rng.standard_normal((32, 512)), small]).astype(np.float32)
    alike = x / np.abs(x).max(axis=1, keepdims=True)
    for bits in (2, 6):
        codec = ac.TCQ(bits, outliers=0.0)
        codebook = codec.encode(alike)["codebook"]
        assert snr(x, codec)[0] > snr(x, codec, codebook=codebook)[0] + 1


@pytest.mark.parametrize("block_size", [(1, None), 64], ids=str)
@pytest.mark.parametrize("bits", [3, 8])
def test_importance_lowers_the_weighted_error(bits: int, block_size: Any) -> None:
    x = np.random.default_rng(3).standard_normal((128, 256), np.float32)
    importance = np.where(np.arange(256) % 4 == 0, 16, 1).astype(np.float32)
    codec = ac.TCQ(bits, block_size=block_size)
    errors = [
        (importance * np.square(x - ac.decode(ac.encode(x, codec, given=given)))).sum()
        for given in ({}, {"importance": importance})
    ]
    assert errors[1] < 0.65 * errors[0]


def test_equal_importance_changes_nothing() -> None:
    x = np.random.default_rng(3).standard_normal((8, 256), np.float32)
    plain = ac.TCQ(3).encode(x)
    weighted = ac.TCQ(3).encode(x, {"importance": np.full(256, 0.3, np.float32)})
    for name, plane in plain.items():
        same_bits(weighted[name], plane, name)


# -- the search


@pytest.mark.parametrize("states", [8, 64, 256])
@pytest.mark.parametrize("bits", [1, 2])
def test_no_path_is_better(bits: int, states: int) -> None:
    """All paths of 9 bits with the nearest level of each subset, by brute force, in exact integers."""
    rng, n = np.random.default_rng(4), 9
    levels = np.sort(rng.integers(-8000, 8000, 2 << bits)).astype(np.int16)
    q = rng.integers(-8000, 8000, n).astype(np.int16)
    codes = np.zeros(n, np.uint8)
    for part in paths_of(Grid(1, 1, n, 1, n)):
        search(q, part, levels, states, np.ones(1, np.int64), codes)
    coarse = max(0, 4 - bits)
    own = levels.astype(np.int64).reshape(-1, 4)  # by index and subset
    cost = np.square((q[:, None, None].astype(np.int64) - own) >> coarse).min(axis=1)
    best = min(
        sum(int(cost[t, s]) for t, s in enumerate(subsets_of(path, states)))
        for path in itertools.product((0, 1), repeat=n)
    )
    bit, index = codes >> (bits - 1), codes & ((1 << (bits - 1)) - 1)
    chosen = levels[4 * index.astype(int) + subsets_of(tuple(bit.tolist()), states)].astype(np.int64)
    assert int(np.square((q - chosen) >> coarse).sum()) == best


def subsets_of(path: tuple[int, ...], states: int) -> list[int]:
    """The subsets along a path, by its window."""
    window, found = 0, []
    for bit in path:
        window = (2 * window + bit) % (2 * states)
        found.append(int(subsets(states)[window]))
    return found


def test_threads_do_not_matter() -> None:
    x = Recipe((96, 16384), "float32", "cauchy", 0, 5).array()
    codec, planes = ac.TCQ(4, outliers=0.001, rotate=64), []
    for number in (1, 3):
        with limited(number):
            planes.append(codec.encode(x))
            planes[-1]["decoded"] = codec.decode(planes[-1], spec_of(x))
    for name in planes[0]:
        same_bits(planes[1][name], planes[0][name], name)


@pytest.mark.parametrize("shape", [(67, 131), (9001,), (5, 2500), (2, 5000)], ids=str)
@pytest.mark.parametrize("codec", [ac.TCQ(3), ac.TCQ(5, 64, 64), ac.TCQ(8, 8, (2, 64))], ids=str)
def test_bands_do_not_matter(codec: ac.TCQ, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """An array is searched a band at a time; with importance, which goes on across the border of bands."""
    x, found = Recipe(shape, "float32", "normal", 0, 10).array(), []
    given = {"importance": np.linspace(0, 1, shape[-1], dtype=np.float32)}
    for band in (paths.BAND, 1 << 11):
        monkeypatch.setattr(paths, "BAND", band)
        found.append(codec.encode(x, given))
    for name, plane in found[0].items():
        same_bits(found[1][name], plane, name)


def test_threads_do_not_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands are what threads share; one that was itself shared by the same threads would never end."""
    x = Recipe((24, 1001), "float32", "normal", 0, 12).array()
    expected = ac.TCQ(3).encode(x)
    monkeypatch.setattr(paths, "BAND", 1 << 11)
    monkeypatch.setattr(threads, "SERIAL_BELOW", 0)
    with limited(3):
        found = ac.TCQ(3).encode(x)
    for name, plane in expected.items():
        same_bits(found[name], plane, name)


def test_few_numbers_are_exact() -> None:
    """Up to a quarter as many numbers as levels: each is in all subsets, and comes back within 2^-15 of the scale."""
    x = np.random.default_rng(6).integers(-3, 4, (9, 300)).astype(np.float32)
    x[:, 0] = 4
    decoded = ac.decode(ac.encode(x, ac.TCQ(4)))
    assert np.abs(decoded - x).max() <= 4 * 2.0**-15
    assert not ac.decode(ac.encode(np.zeros((3, 70), np.float32), "tcq2")).any()


def test_training_is_on_a_sample_of_paths_far_apart() -> None:
    size = 3 << 16
    begins, length = trellis_levels.sample_paths(Grid(1, 1, size, 1, size))
    assert begins.size * length <= trellis_levels.SAMPLE and length == PATH
    assert (np.diff(begins) == 3 * PATH).all() and begins[-1] == size - 3 * PATH


# -- given planes


def test_a_codebook_is_shared() -> None:
    x = np.random.default_rng(7).standard_normal((2, 64, 512), np.float32)
    first = ac.encode(x[0], "tcq4")
    second = ac.encode(x[1], "tcq4", given={"codebook": first.planes["codebook"]})
    same_bits(second.planes["codebook"], first.planes["codebook"], "codebook")
    assert ac.error(x[1], second).snr_db > 21
    scales = ac.encode(x[1], "tcq4", given={"scales": first.planes["scales"]})
    same_bits(scales.planes["scales"], first.planes["scales"], "scales")


@pytest.mark.parametrize("wrong", [LEVELS8[::-1].copy(), np.full(8, -32768, np.int16)], ids=["order", "lowest"])
def test_levels_must_be_sorted(wrong: np.ndarray) -> None:
    codec, x = ac.TCQ(2), np.ones((2, 8), np.float32)
    with pytest.raises(ac.ArgumentError, match="tcq: the levels of a codebook must be sorted"):
        codec.encode(x, {"codebook": wrong})
    planes = codec.encode(x) | {"codebook": wrong}
    with pytest.raises(ac.CorruptError, match="tcq: the levels of a codebook must be sorted"):
        codec.check(planes, spec_of(x))


@pytest.mark.parametrize(
    ("importance", "message"),
    [
        (np.ones(7, np.float32), r"importance must be float32\[8\], got float32\[7\]"),
        (np.ones(8, np.float64), r"importance must be float32\[8\], got float64\[8\]"),
        (np.arange(-1, 7, dtype=np.float32), "importance must be finite, not negative, and not all 0"),
        (np.full((1, 8), 1, np.float32), r"importance must be float32\[8\], got float32\[1, 8\]"),
        (np.zeros(8, np.float32), "importance must be finite, not negative, and not all 0"),
        (np.full(8, np.nan, np.float32), "importance must be finite, not negative, and not all 0"),
    ],
)
def test_importance_is_checked(importance: np.ndarray, message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=f"tcq: {message}"):
        ac.encode(np.ones((2, 8), np.float32), "tcq2", given={"importance": importance})


# -- outliers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_outliers_are_the_largest(dtype: str) -> None:
    x = np.random.default_rng(8).permutation(np.arange(-100, 100)).astype(numpy_dtype(dtype)).reshape(4, 50)
    enc = ac.encode(x, ac.TCQ(4, outliers=0.05))
    positions = enc.planes["outlier_positions"]
    assert sorted(np.abs(x.reshape(-1)[positions].astype(int))) == [95, 96, 96, 97, 97, 98, 98, 99, 99, 100]
    assert (np.diff(positions) > 0).all()
    same_bits(ac.decode(enc).reshape(-1)[positions], x.reshape(-1)[positions], "outliers")
    first = np.flatnonzero(np.abs(x.reshape(-1).astype(int)) == 95)[0]
    assert first in positions, "of equal ones the first"


def test_outliers_that_bfloat16_cannot_hold_and_none_left() -> None:
    x = np.full((1, 16), 3.4e38, np.float32)
    x[0, 3] = np.nan
    enc = ac.encode(x, ac.TCQ(2, outliers=0.125), check=False)
    assert enc.planes["outlier_positions"].tolist() == [0, 1]
    assert np.isfinite(enc.planes["outliers"].astype(np.float32)).all()
    assert np.isnan(ac.decode(enc)[0, 2:]).all() and np.isfinite(ac.decode(enc)[0, :2]).all()
    with pytest.raises(ac.NonFiniteError, match="tcq: input must be finite"):
        ac.encode(x, ac.TCQ(2, outliers=0.125))
    given = {"scales": np.full((1, 1), 8, numpy_dtype("bfloat16")), "codebook": LEVELS8}
    infinite = np.full((1, 16), np.inf, np.float32)
    planes = ac.TCQ(2, outliers=0.125).encode(infinite, given)
    same_bits(planes["codes"], ac.TCQ(2, outliers=0.0).encode(infinite, given)["codes"], "what is not finite stays")
    lost = ac.encode(np.full((2, 8), np.nan, np.float32), ac.TCQ(2, outliers=0.125), check=False)
    assert np.isnan(lost.planes["outliers"].astype(np.float32)).all() and np.isnan(ac.decode(lost)).all()


@pytest.mark.parametrize("positions", [[3, 3], [4, 2], [-1, 2], [0, 16]])
def test_hostile_positions(positions: list[int]) -> None:
    """They are corrupt; and a decoder that is reached all the same writes nothing outside."""
    codec, x = ac.TCQ(2, outliers=0.125), np.arange(16, dtype=np.float32).reshape(2, 8)
    planes = codec.encode(x) | {"outlier_positions": np.array(positions, np.int32)}
    with pytest.raises(ac.CorruptError, match="tcq: outlier_positions must rise from at least 0 to below 16"):
        codec.check(planes, spec_of(x))
    frame = np.full(64, 7, np.float32)
    codec.decode(planes, spec_of(x), out=frame[24:40].reshape(2, 8))
    assert (frame[:24] == 7).all() and (frame[40:] == 7).all()


# -- rotations


def test_rotations_keep_the_sum_of_squares() -> None:
    """One large element becomes n equal ones, and the other way round."""
    for n in (4, 16, 64, 256):
        x = np.zeros((2, 256), np.float32)
        x[0, 5] = n**0.5 * 8
        enc = ac.encode(x, ac.TCQ(4, rotate=n))
        assert enc.planes["scales"].astype(np.float32).reshape(-1).tolist() == [8.0, 0.0]
        np.testing.assert_allclose(ac.decode(enc), x, atol=0.01)


@pytest.mark.parametrize("columns", [3, 64, 130, 1024, 1100, 2111])
def test_rows_of_any_length_are_rotated(columns: int) -> None:
    x = np.random.default_rng(columns).standard_normal((3, columns), np.float32)
    assert snr(x, ac.TCQ(6, rotate=16))[0] > 28


# -- edges and parts


@pytest.mark.parametrize("block_size", [(1, None), (1, 48), (2, 32), None, 5, 64, (None, None)], ids=str)
@pytest.mark.parametrize("shape", [(3, 70), (2, 3, 40), (2100,), (), (1, 1), (7, 3, 3, 3)], ids=str)
def test_every_part_reads_alike(shape: tuple[int, ...], block_size: Any) -> None:
    codec = ac.TCQ(3, 64, block_size, outliers=0.05)
    x = Recipe(shape, "float32", "log-normal", -3, 9).array()
    planes, spec = codec.encode(x), spec_of(x)
    whole, rng = codec.decode(planes, spec).reshape(-1), np.random.default_rng(0)
    for start, stop in [(0, x.size), *(sorted(rng.integers(0, x.size + 1, 2)) for _ in range(6))]:
        part = codec.read(lambda name, s: planes[name] if s == slice(None) else planes[name].reshape(-1)[s],
                          spec, int(start), int(stop))  # fmt: skip
        same_bits(part, whole[start:stop], f"{start}:{stop}")


def test_a_row_is_read_from_its_own_bytes() -> None:
    """And from all outliers, which are few."""
    codec, x = ac.TCQ(4), np.random.default_rng(0).standard_normal((100, 64), np.float32)
    planes, read = codec.encode(x), {}

    def fetch(name: str, piece: slice) -> np.ndarray:
        part = planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece]
        read[name] = part.size
        return part

    codec.read(fetch, spec_of(x), 640, 704)
    assert read == {"codes": 32, "scales": 1, "codebook": 32, "outliers": 3, "outlier_positions": 3}


def test_sizes() -> None:
    """bits, a scale per row, the codebook, and 48 bits for each outlier."""
    x = np.zeros((64, 1000), np.float32)
    for bits in range(1, 9):
        enc = ac.encode(x, f"tcq{bits}")
        assert 8 * enc.nbytes == bits * x.size + 16 * 64 + 16 * (2 << bits) + 48 * 32
    assert ac.encode(x, ac.TCQ(4, outliers=0.0)).nbytes == ac.encode(x, "tcq4").nbytes - 32 * 6
    assert (
        ac.TCQ(4, outliers=0.1).planes(ArraySpec((1 << 16, 1 << 15), "bfloat16"))["outlier_positions"].dtype == "int64"
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 0}, "bits must be an integer from 1 to 8, got 0"),
        ({"bits": True}, "bits must be an integer from 1 to 8, got True"),
        ({"states": 16}, "states must be 8, 64 or 256, got 16"),
        ({"states": 8.0}, "states must be 8, 64 or 256, got 8.0"),
        ({"outliers": 0.2}, r"outliers must be a number from 0.0 to 0.125, got 0.2"),
        ({"outliers": float("nan")}, r"outliers must be a number from 0.0 to 0.125, got nan"),
        ({"rotate": 8}, "rotate must be one of 0, 4, 16, 64, 256, got 8"),
        ({"rotate": 4.0}, "rotate must be one of 0, 4, 16, 64, 256, got 4.0"),
        ({"rotate": 64, "block_size": (1, 32)}, r"block_size must be whole rows or multiples of rotate=64 wide"),
        ({"block_size": 0}, "block_size must be an integer >= 1"),
    ],
)
def test_wrong_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=f"tcq: {message}"):
        ac.TCQ(**params)
