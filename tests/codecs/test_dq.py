"""`DQ` beyond the suite: quality for its size, targets, edges, reads, hostile planes; its search: test_dependent.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.api import validate
from arraycodec.codecs.dq import coded
from arraycodec.primitives.dependent import SEGMENT, next_level
from arraycodec.primitives.floats import MIN_SCALE
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level


def normal(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """A Gaussian."""
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32).astype(numpy_dtype(dtype))


# -- quality


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_quality_of_a_gaussian_million(bits: int) -> None:
    """Within 0.8 dB of the bound, all planes counted, and never more bits than were asked for."""
    x = normal((1024, 1024))
    enc = ac.encode(x, ac.DQ(bits=bits))
    found = ac.error(x, enc)  # of the decoded array
    assert bits - 0.01 < enc.bits_per_element <= bits
    assert 8 * sum(plane.nbytes for plane in enc.planes.values()) == enc.bits_per_element * x.size
    assert found.snr_db > 6.0206 * bits - 0.8, found
    assert found.snr_db > {2: 11.37, 4: 23.53, 8: 47.58}[bits], found  # and what it was


def test_rows_of_different_scale_are_worth_more() -> None:
    """Tables of rows see what a single table does not."""
    x = normal((512, 1024)) * np.exp(normal((512, 1), seed=1))
    assert ac.error(x, ac.encode(x, "dq4")).snr_db > 6.0206 * 4 + 2


def test_outliers_cost_little() -> None:
    x = normal((256, 1024))
    before = ac.error(x, ac.encode(x, ac.DQ(step=0.25)))
    x.reshape(-1)[::5000] *= 300
    after = ac.error(x, ac.encode(x, ac.DQ(step=0.25)))
    assert after.bits_per_element < before.bits_per_element + 0.02
    assert after.rmse == pytest.approx(before.rmse, rel=0.01)


def test_targets() -> None:
    """Bits are met to 0.005 from below, as two bytes more than that are, decibels to 0.03 from above."""
    x = normal((300, 500), seed=2)
    for target in (1, 1.5, 3.3, 6, 11.9):
        assert target - 0.005 <= ac.encode(x, ac.DQ(bits=target)).bits_per_element <= target
    for target in (3.0, 20.0, 41.5, 70.0):
        assert target <= ac.error(x, ac.encode(x, ac.DQ(snr=target))).snr_db < target + 0.031
    assert ac.encode(x, ac.DQ(step=0.5)).planes["scale"] == np.float32(2.0**-10)
    widest = ac.error(x, ac.encode(x, ac.DQ(snr=120.0))).snr_db  # the smallest step that there is
    assert 85 < widest < 100


@pytest.mark.parametrize("size", [1, 2, 6, 60, 600, 4095, 4096, 9000])
def test_bits_of_small_arrays(size: int) -> None:
    """All planes, less 144 bytes of arrays with fewer than 4096 elements; and what is left is used."""
    x = normal((size,), seed=size)
    free = 8 * 144 if size < 4096 else 0
    for bits in (1, 2.5, 4, 8, 12):
        enc = ac.encode(x, ac.DQ(bits=bits))
        assert enc.nbytes * 8 <= bits * size + free
        if size >= 600:
            assert ac.error(x, enc).snr_db > 6.0206 * bits - 10


@pytest.mark.parametrize("size", [6, 600, 9000])
def test_snr_of_small_arrays(size: int) -> None:
    x = normal((size,), seed=size)
    for snr in (5.0, 30.0, 60.0):
        assert ac.error(x, ac.encode(x, ac.DQ(snr=snr))).snr_db >= snr


def test_a_few_outliers_do_not_change_how_codes_are_chosen() -> None:
    """Codes far away take no part in it; it is worth 0.17 dB at 2 bits."""
    x = normal((256, 1024))
    before = ac.error(x, ac.encode(x, ac.DQ(step=1.04)))
    x[7, 7] = 1000
    after = ac.error(x, ac.encode(x, ac.DQ(step=1.04)))
    assert after.bits_per_element < before.bits_per_element + 0.002
    assert after.rmse == pytest.approx(before.rmse, rel=1e-3)


def test_wide_distributions_take_the_smallest_step_they_can() -> None:
    x = np.zeros(100_000, np.float32)
    x[::1000] = normal((100,))
    enc = ac.encode(x, ac.DQ(bits=8))
    assert enc.bits_per_element < 1 and ac.error(x, enc).snr_db > 80


def test_threads_change_nothing() -> None:
    x = normal((1100, 1000), "bfloat16", 3)
    before = ac.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            ac.set_num_threads(threads)
            enc = ac.encode(x, ac.DQ(snr=25.0))
            found.append((ac.to_bytes(enc), ac.decode(enc).tobytes()))
    finally:
        ac.set_num_threads(before)
    assert found[0] == found[1]


# -- edges


SHAPES = [(), (0,), (0, 3), (1,), (7,), (SEGMENT,), (SEGMENT + 1,), (3, 5, 600), (64, 130)]


@pytest.mark.parametrize("dtype", ac.DQ.dtypes)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_and_dtype(shape: tuple[int, ...], dtype: str) -> None:
    x = normal(shape, dtype)
    for codec in (ac.DQ(), ac.DQ(snr=30.0), ac.DQ(step=0.1)):
        enc = ac.encode(x, codec)
        validate(enc)
        codec.check(enc.planes, enc.spec)
        assert spec_of(ac.decode(enc)) == enc.spec == spec_of(x)
        same_bits(ac.decode(ac.from_bytes(ac.to_bytes(enc))), ac.decode(enc), str(codec))
        if codec.step and x.size:
            assert np.abs(ac.decode(enc).astype(np.float64) - x.astype(np.float64)).max() < 0.11


@pytest.mark.parametrize("dtype", ac.DQ.dtypes)
def test_the_largest_numbers_do_not_become_infinite(dtype: str) -> None:
    largest = {"float32": 0x7F7FFFFF, "bfloat16": 0x7F7F, "float16": 0x7BFF}[dtype]
    top = np.array([largest], f"u{numpy_dtype(dtype).itemsize}").view(numpy_dtype(dtype))
    for n in (3, 5000):
        x = np.concatenate([top, -top, np.zeros(n, top.dtype), top])
        for codec in (ac.DQ(), ac.DQ(bits=1), ac.DQ(snr=10.0)):
            assert np.isfinite(ac.decode(ac.encode(x, codec)).astype(np.float64)).all()


def test_what_is_not_finite_marks_the_array() -> None:
    x = normal((40, 70))
    x[3, 3] = np.inf
    with pytest.raises(ac.NonFiniteError):
        ac.encode(x, "dq4")
    enc = ac.encode(x, "dq4", check=False)
    assert (ac.decode(enc).view(np.uint32) == 0x7FC00000).all() and enc.nbytes < 200


def test_tiny_arrays_and_scales() -> None:
    for x in (np.zeros(5000, np.float32), np.full(5000, 2.0**-101, np.float32), np.full(9, -1e-40, np.float32)):
        enc = ac.encode(x, "dq4")
        assert not ac.decode(enc).view(np.uint32).any() and enc.planes["scale"] == 0
    enc = ac.encode(np.full(9, 2.0**-100, np.float32), "dq4")
    assert enc.planes["scale"].view(np.uint32) == MIN_SCALE


def test_steps_that_do_not_suit_an_array() -> None:
    x = np.array([1.0, -2.0], np.float32)
    with pytest.raises(ac.ArgumentError, match=r"step must be from 6\.1\d*e-05 for elements up to 2"):
        ac.encode(x, ac.DQ(step=6e-5))
    with pytest.raises(ac.ArgumentError, match="to 8188 for float16"):
        ac.encode(x.astype(np.float16), ac.DQ(step=9000.0))


def test_parameters() -> None:
    assert ac.DQ() == ac.DQ(bits=4) == ac.codec("dq4") and ac.DQ(snr=3).bits is None
    assert eval("ac." + repr(ac.DQ(snr=3))) == ac.DQ(snr=3.0)
    assert ac.codec("dq", step=0.5) == ac.DQ(step=0.5)
    wrong: list[tuple[str, Any]] = [
        ("bits", 0.5), ("bits", 13), ("bits", "4"), ("bits", True), ("snr", -1.0), ("snr", float("nan")), ("step", 0),
    ]  # fmt: skip
    for name, value in wrong:
        with pytest.raises(ac.ArgumentError, match=f"dq: {name} must be a number from"):
            ac.DQ(**{name: value})
    with pytest.raises(ac.ArgumentError, match="dq: give one of bits, snr, step, got bits=4, snr=3"):
        ac.DQ(bits=4, snr=3)


def test_it_is_marked_experimental() -> None:
    from arraycodec.checkpoints.inventory import inventory

    found = inventory()
    assert [codec["name"] for codec in found["codecs"] if codec["experimental"]] == ["dq"]
    assert {scheme["name"] for scheme in found["schemes"] if scheme["experimental"]} == {"dq2", "dq4", "dq8"}


# -- reads and hostile planes


def fetching(enc: ac.Encoded, seen: list[int]) -> Callable[[str, slice], np.ndarray]:
    """What gives slices of planes, and notes the bytes."""

    def fetch(name: str, piece: slice) -> np.ndarray:
        plane = enc.planes[name]
        found = plane if piece == slice(None) else plane.reshape(-1)[piece]
        seen.append(found.nbytes)
        return found

    return fetch


def test_reads() -> None:
    x = normal((300, 700), seed=7)
    x[5, 5] = 500  # a patch
    enc = ac.encode(x, ac.DQ(bits=5))
    want = ac.decode(enc).reshape(-1)
    for start, stop in ((0, 1), (SEGMENT - 1, SEGMENT + 1), (3500, 3600), (100_000, 104_000), (x.size - 1, x.size)):
        seen: list[int] = []
        got = enc.codec.read(fetching(enc, seen), enc.spec, start, stop)
        same_bits(got, want[start:stop], f"{start}:{stop}")
        assert sum(seen) < enc.nbytes / 3
    assert enc.codec.read(fetching(enc, []), enc.spec, 9, 9).shape == (0,)


def test_any_codes_and_centroids_decode() -> None:
    """All codes of 16 bits, and centroids of any size: integers of at most 2^24, so the values are exact."""
    codes = np.random.default_rng(0).permutation(1 << 16).astype(np.uint16).view(np.int16)
    codes[:7] = -(1 << 15)
    planes = coded(codes, codes.shape) | {
        "scale": np.array([0.5], np.float32),
        "centroids": np.full(25, -(1 << 15), np.int16),
    }
    ac.DQ().check(planes, ac.ArraySpec(codes.shape, "float32"))
    got = ac.DQ().decode(planes, ac.ArraySpec(codes.shape, "float32"))
    want, path = [], np.uint32(0)
    for i, m in enumerate(codes):
        level, path = next_level(m, path if i % SEGMENT else np.uint32(0))
        want.append((256 * int(level) - ((1 << 15) if abs(level) <= 12 else 0)) / 2)
    assert got.tolist() == want and min(want) == -(2.0**23)


def test_hostile_planes() -> None:
    """Changed bytes end in CorruptError or in some array, and in nothing else."""
    enc = ac.encode(normal((20, 300), "float16"), "dq4")
    rng, caught = np.random.default_rng(0), 0
    for _ in range(300):
        name = rng.choice([name for name, plane in enc.planes.items() if plane.size])
        plane = enc.planes[name].copy()
        raw = plane.view(np.uint8).reshape(-1)
        raw[rng.integers(raw.size)] = rng.integers(256)
        if rng.random() < 0.2:
            plane = plane[: rng.integers(plane.size)]
        bad = replace(enc, planes=enc.planes | {name: plane})
        try:
            validate(bad)
            ac.decode(bad)
        except ac.FormatError:
            caught += 1
    assert caught > 60


def test_shared_planes_of_large_arrays(level: Level) -> None:
    """Eight million elements, in threads."""
    if level < Level.full:
        pytest.skip("at level full")
    x = normal((2048, 4096), seed=9)
    assert ac.error(x, ac.encode(x, "dq4")).snr_db > 23.5
