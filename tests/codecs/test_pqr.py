"""The pqr codec beyond the suite: PQ-R as it was asked for, optimal entries, gains, sizes that are told, parameters."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.errors import ArgumentError, CorruptError, NonFiniteError
from arraycodec.primitives import kmeans, stages, sums, vectors
from arraycodec.primitives.cells import BINS, LOWEST, optimum_levels
from arraycodec.primitives.cuts import near_levels
from arraycodec.primitives.threads import limited
from arraycodec.spec import spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import Recipe

# Bits per weight and SNR of "Local PQ-R" as the request reports them: stages, block -> bits, dB.
REQUESTED: dict[tuple[tuple[int, ...], int], tuple[float, float]] = {
    ((4, 4), 32): (40.0, 61.52),
    ((4, 4), 64): (24.0, 49.96),
    ((4, 4), 128): (16.0, 45.92),
    ((4, 4), 256): (12.0, 43.59),
    ((4, 4), 512): (10.0, 41.95),
    ((5, 3), 128): (18.0, 46.81),
}


def snr(x: np.ndarray, y: np.ndarray) -> float:
    """Signal-to-noise ratio in dB."""
    wide = x.astype(np.float64)
    return float(10 * np.log10((wide**2).sum() / ((wide - y.astype(np.float64)) ** 2).sum()))


def normal(*shape: int) -> np.ndarray:
    """Random weights."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def decoded(x: np.ndarray, codec: ac.Codec) -> np.ndarray:
    """What is left of an array."""
    return codec.decode(codec.encode(x), spec_of(x))


# -- the request


@pytest.mark.parametrize(("widths", "block"), REQUESTED)
def test_local_pqr_has_the_snr_and_the_true_size_of_the_request(widths: tuple[int, ...], block: int) -> None:
    """Up to 1 dB above what the request reports of one layer, and never below: entries are all but optimal."""
    bits, reported = REQUESTED[widths, block]
    x = normal(64, 1024)
    enc = ac.encode(x, ac.PQR(widths, scope=block, codebook="float32"))
    assert enc.bits_per_element == bits == 8 + 32 * sum(1 << width for width in widths) / block
    assert reported <= snr(x, ac.decode(enc)) <= reported + 1


@pytest.mark.level("full")
def test_table_of_the_request(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole table from a seed, a million weights; `pytest tests/codecs/test_pqr.py -k table --level full -s`."""
    x = normal(1024, 1024)
    rows = [((4, 4), "tensor", 8.001, 37.53), ((5, 3), "tensor", 8.0012, 37.42), ((4, 4), 2048, 8.5, 40.05)]
    rows += [(widths, block, bits, own) for (widths, block), (bits, own) in REQUESTED.items()]
    for widths, scope, bits, want in rows:
        enc = ac.encode(x, ac.PQR(widths, scope=scope, codebook="float32"))
        found = snr(x, ac.decode(enc))
        with capsys.disabled():
            print(f"\n{widths} {scope}: {enc.bits_per_element:.4f} bits, {found:.2f} dB, told {want}", end="")
        assert abs(found - want) <= 1
        assert enc.bits_per_element == pytest.approx(bits, abs=1e-3)


def test_faithful_codes_and_values() -> None:
    """Byte = first index * 16 + second; the value is the float32 sum of two entries, rounded once to the dtype."""
    for dtype in ("float32", "bfloat16", "float16"):
        x = Recipe((40, 64), dtype, "normal", -4, 3).array()
        planes = ac.codec("pqr").encode(x)
        codes, book = planes["codes"].reshape(-1).astype(int), planes["codebook"][0, :, 0]
        assert planes["codes"].shape == x.shape
        assert set(planes) == {"codes", "codebook"}
        want = (book[:16][codes >> 4] + book[16:][codes & 15]).astype(x.dtype)
        same_bits(ac.codec("pqr").decode(planes, spec_of(x)).reshape(-1), want + x.dtype.type(0), dtype)


def test_per_tensor_is_below_int8_per_row_at_the_same_size() -> None:
    """The baseline of the request is the weakest; and where weights are normal, it even wins."""
    x = normal(256, 1024)
    pqr, per_tensor, per_row = (
        snr(x, decoded(x, ac.codec(name) if isinstance(name, str) else name))
        for name in ("pqr", ac.Linear(8, block_size=None), "int8-channel")
    )
    assert pqr < per_tensor < per_row
    x[:, 3] *= 100  # an outlier column
    pqr, per_tensor = (snr(x, decoded(x, codec)) for codec in (ac.codec("pqr"), ac.Linear(8, block_size=None)))
    assert pqr > per_tensor + 1


# -- entries


def test_entries_of_a_small_block_are_the_best_there_are() -> None:
    """Eight numbers in three stages of one bit: the first stage against all ways to cut them in two."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        q = np.sort(rng.integers(-32767, 32768, 8)).astype(np.int16)
        entries, gains = np.zeros((1, 2), np.int16), np.zeros((1, 2), np.uint8)
        stages.train_blocks(q, np.ones(1, np.int64), 0, 8, (1,), False, entries, gains)
        cost = (np.abs(q[:, None].astype(int) - entries[0].astype(int)).min(1) ** 2).sum()
        best = min(
            sum(((part - np.rint(part.mean())) ** 2).sum() for part in np.split(q.astype(float), [cut]))
            for cut in range(1, 8)
        )
        assert cost == best


@pytest.mark.parametrize("k", [2, 16, 32])
def test_entries_are_almost_the_best_there_are(k: int) -> None:
    """Of blocks of every kind: 0.05 dB above the least squared error on average, and nothing where numbers are few."""
    rng = np.random.default_rng(k)
    lost = []
    for n in (3 * k, 128, 512):
        x = np.stack([rng.standard_normal(n), rng.uniform(-1, 1, n), rng.laplace(size=n), rng.standard_cauchy(n)])
        x[1] *= rng.choice([1, 30], n)
        x[2, :4] = 90, -50, 60, 61  # outliers
        for q in np.rint(x / np.abs(x).max(1, keepdims=True) * 32767).astype(np.int16):
            values, keys = np.empty(n, np.int64), (q.astype(np.int64) + LOWEST) << 32 | 1
            sums, near, best = np.empty((3, n + 1), np.int64), np.empty(k, np.int16), np.empty(k, np.int16)
            found = kmeans.prefix_keys(keys, values, sums)
            mass, moment, square = sums[:, : found + 1]
            near_levels(values[:found], mass, moment, 0, near)
            optimum_levels(values[:found], mass, moment, square, best)
            errors = [(np.abs(q[:, None].astype(int) - own.astype(int)).min(1) ** 2).sum() for own in (near, best)]
            lost.append(10 * np.log10(max(errors[0], 1) / max(errors[1], 1)))
            assert found > 3 * k or not lost[-1]
            assert (np.diff(near.astype(int)) >= 0).all()
    assert max(lost) < 0.5
    assert sum(lost) / len(lost) < 0.05


@pytest.mark.parametrize("gain", [False, True])
def test_a_single_book_is_the_same_from_a_histogram_and_from_a_block(gain: bool) -> None:
    """Two programs for the same entries, gains and codes, where few numbers are: of all, and of so many in a row."""
    x = np.random.default_rng(3).choice(normal(15), 6000)
    whole, blocks = (ac.PQR((3, 3, 2), 1, scope, 3000, gain) for scope in ("tensor", 3000))
    planes, others = whole.encode(x[:3000]), blocks.encode(x)
    for name in planes:
        same_bits(planes[name].reshape(-1), others[name].reshape(-1)[: planes[name].size], name)


def test_importance_draws_entries_to_columns_that_count() -> None:
    x = normal(64, 32)
    x[:, 16:] *= 0.1
    importance = np.repeat(np.array([0, 1], np.float32), 16)
    for codec in (ac.PQR((2, 2)), ac.PQR((2, 2), scope=2048), ac.PQR((3, 2), dim=2)):
        plain, drawn = codec.encode(x), codec.encode(x, {"importance": importance})
        errors = [np.abs(codec.decode(planes, spec_of(x)) - x)[:, 16:].mean() for planes in (plain, drawn)]
        assert errors[1] < errors[0] / 2
    with pytest.raises(ArgumentError, match="importance"):
        ac.PQR().encode(x, {"importance": importance[:5]})


def test_vectors_of_a_lattice_are_found() -> None:
    """As many clusters as centres, far apart: each is found, whatever the order of the vectors."""
    rng = np.random.default_rng(2)
    corners = np.array(list(itertools.product((-20000, 0, 20000), repeat=2)), np.int16)
    points = corners[rng.permutation(np.repeat(np.arange(9), 50))] + rng.integers(-9, 10, (450, 2)).astype(np.int16)
    centres = vectors.train(points, np.ones(450, np.int64), 9)
    found = np.rint(centres / 20000).astype(int) * 20000
    assert sorted(found.tolist()) == corners.tolist()
    assert np.abs(centres - found).max() <= 9
    codes, distances = vectors.nearest(points, centres)
    exact = ((points[:, None].astype(int) - centres.astype(int)) ** 2).sum(2)
    assert (codes == exact.argmin(1)).all()
    assert (distances == exact.min(1)).all()


def test_fewer_vectors_than_centres_and_none() -> None:
    few = np.array([[1, 2], [3, 4]], np.int16)
    centres = vectors.train(few, np.ones(2, np.int64), 8)
    assert {tuple(c) for c in centres.tolist()} == {(1, 2), (3, 4)}
    assert not vectors.train(few[:0], np.ones(0, np.int64), 4).any()


@pytest.mark.parametrize("codec", [ac.PQR((6, 3), dim=2, gain=True), ac.PQR((3, 3), scope=64), ac.PQR()], ids=str)
def test_threads_do_not_matter(codec: ac.PQR) -> None:
    x = normal(1 << 10, 1 << 10) if codec.dim == 1 else normal(1 << 8, 1 << 10)
    planes = []
    for threads in (1, 3):
        with limited(threads):
            planes.append(codec.encode(x))
            planes[-1]["decoded"] = codec.decode(planes[-1], spec_of(x))
    for name, plane in planes[0].items():
        same_bits(plane, planes[1][name], name)


# -- gains


@pytest.mark.parametrize(("dim", "widths", "least"), [(1, (5, 3), 2.5), (2, (6, 6), 0.8)])
def test_gains_pay(dim: int, widths: tuple[int, ...], least: float) -> None:
    """Cells of the first stage differ in size: an octave for each is worth decibels on normal weights."""
    x = normal(128, 1024)
    plain, gained = (snr(x, decoded(x, ac.PQR(widths, dim, "tensor", (1, None), gain))) for gain in (False, True))
    assert gained > plain + least


def test_gains_are_the_smallest_that_make_residuals_small() -> None:
    x = normal(64, 256)
    codec = ac.PQR((3, 5), gain=True)
    planes = codec.encode(x)
    assert planes["gains"].shape == (1, 8)
    assert len(set(planes["gains"][0].tolist())) > 1
    for exponent in range(9):
        limit = 256 << 2 * exponent
        for mean, want in ((limit, exponent), (limit + 1, min(exponent + 1, 8))):
            assert stages.gain_of(np.int64(mean * 7), np.int64(7)) == want
    planes["gains"][0, 3] = 9
    with pytest.raises(CorruptError, match="gains must be from 0 to 8, got 9"):
        codec.check(planes, spec_of(x))


# -- codes


@pytest.mark.parametrize("bits", [1, 3, 7, 8, 11, 12, 16, 24, 33, 47, 55, 56])
def test_codes_survive_their_stream(bits: int) -> None:
    """Any width: code i begins at bit i * bits; what Python's integers make of the bytes."""
    rng = np.random.default_rng(bits)
    for count in (0, 1, 7, 8, 37):
        codes = rng.integers(0, 1 << bits, count, np.uint64)
        packed = np.zeros(-(-count * bits // 8), np.uint8)
        sums.pack(codes, bits, packed)
        stream = int.from_bytes(packed.tobytes(), "little")
        assert [stream >> i * bits & (1 << bits) - 1 for i in range(count)] == codes.tolist()
        assert stream >> count * bits == 0


def test_many_stages_and_the_widest_code() -> None:
    """Residuals get smaller with every stage until the integers are exact; 56 bits are the most."""
    x = normal(8, 64)
    codec = ac.PQR((8,) * 7, block_size=(1, None))
    assert snr(x, decoded(x, codec)) > 80
    assert codec.bits == 56
    assert sums.code_dtype(56) == np.uint64
    numbers = np.arange(-LOWEST, LOWEST)
    (entries, _), table = stages.train_numbers(np.ones(BINS, np.int64), (8, 8), False)
    index = table.astype(int)
    found = entries[:256, 0][index >> 8].astype(int) + entries[256:, 0][index & 255]
    assert np.abs(found - numbers).max() <= 1  # all 65,536 numbers in 16 bits


# -- sizes


def test_a_configuration_larger_than_its_source_warns() -> None:
    """Once a call, with the size; and not where it is smaller."""
    x = normal(64, 128)
    with pytest.warns(UserWarning, match=r"40 bits per element, more than the 32 of float32") as caught:
        ac.encode(x, ac.PQR((4, 4), scope=32, codebook="float32"))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert "32768 of 40960 bytes are codebooks, 256 for 8192 elements" in str(caught[0].message)
    with pytest.warns(UserWarning, match="24 bits per element, more than the 16 of bfloat16"):
        ac.encode(x.astype("bfloat16"), ac.PQR((4, 4), scope=64, codebook="float32"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ac.encode(x, "pqr-local")
        ac.encode(np.zeros((0, 4), np.float32), "pqr")


# -- edges


def test_blocks_that_are_not_finite_are_told() -> None:
    x = normal(4, 256)
    x[1, 7], x[2, 200] = np.nan, -np.inf
    for codec in (ac.codec("pqr-local"), ac.PQR(block_size=128)):
        with pytest.raises(NonFiniteError, match="2 of 8 blocks, first at block 2"):
            ac.encode(x, codec)
        enc = ac.encode(x, codec, check=False)
        lost = np.isnan(ac.decode(enc).reshape(8, 128))
        assert lost.all(1).tolist() == lost.any(1).tolist() == [i in (2, 5) for i in range(8)]


@pytest.mark.parametrize("name", ["pqr", "pqr-local", "pqr-gain", "pqr-vector"])
def test_zero_tiny_and_huge_arrays(name: str) -> None:
    codec = ac.codec(name)
    for value, want in ((0.0, 0.0), (-0.0, 0.0), (1e-40, 0.0), (2.0**-101, 0.0), (2.0**-100, None), (3e38, None)):
        x = np.full((2, 6), value, np.float32)
        found = decoded(x, codec)
        assert not np.signbit(found).any() or value < 0
        np.testing.assert_allclose(found, x if want is None else want, rtol=2**-14)


def test_reads_are_parts_of_the_whole() -> None:
    x = normal(33, 130)
    for codec in (ac.codec("pqr-local"), ac.PQR((4, 3), 2, 100, 5, True), ac.PQR((5, 6), 8, "row", (2, 48))):
        planes = codec.encode(x)
        whole = codec.decode(planes, spec_of(x)).reshape(-1)
        fetched: list[int] = []

        def fetch(name: str, piece: slice, planes: dict[str, Any] = planes, sizes: list[int] = fetched) -> np.ndarray:
            sizes.append(planes[name].reshape(-1)[piece].nbytes)
            return planes[name].reshape(-1)[piece]

        for start, stop in ((0, 1), (129, 131), (1000, 1400), (4289, 4290), (0, 4290), (7, 7)):
            same_bits(codec.read(fetch, spec_of(x), start, stop), whole[start:stop], f"{codec}: {start}:{stop}")
        assert sum(fetched[:2]) < 6000


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"stages": ()}, "stages must be a tuple of widths"),
        ({"stages": (4, 13)}, "from 1 to 12"),
        ({"stages": [4, 4]}, "stages must be a tuple"),
        ({"stages": (8,) * 8}, "at most 56 bits together"),
        ({"dim": 3}, "dim must be 1, 2, 4 or 8"),
        ({"scope": "column"}, "scope must be 'tensor', 'row' or a multiple of dim"),
        ({"dim": 4, "scope": 6}, "multiple of dim"),
        ({"codebook": "float16"}, "codebook must be 'int16' or 'float32'"),
        ({"codebook": "float32", "gain": True}, "with float32 books"),
        ({"codebook": "float32", "block_size": 64}, "with float32 books"),
        ({"gain": 1}, "gain must be True or False"),
    ],
)
def test_parameters_are_checked(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        ac.PQR(**parameters)


def test_trained_planes_cannot_be_given() -> None:
    x = normal(4, 64)
    with pytest.raises(ArgumentError, match="codebook"):
        ac.encode(x, ac.PQR(), given={"codebook": np.zeros((1, 40, 1), np.int16)})
    scales = ac.encode(x, ac.PQR(block_size=(1, None))).planes["scales"]
    given = ac.encode(x, ac.PQR(block_size=(1, None)), given={"scales": scales * scales.dtype.type(2)})
    assert snr(x, ac.decode(given)) > 30
