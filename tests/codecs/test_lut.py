"""The lut codec beyond the suite: its rule in exact arithmetic, books, importance, threads, edges, parameters."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.kmeans import optimum
from arraycodec.primitives.threads import limited
from arraycodec.registry import SCHEMES
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import Recipe

CODECS = [
    ac.Lut(8),
    ac.Lut(4, (1, 64)),
    ac.Lut(3, 50, scope=30),
    ac.Lut(5, (8, 16), "row"),
    ac.Lut(1, None, 7),
]


def codes_of(planes: dict[str, Any], codec: ac.Lut, size: int) -> np.ndarray:
    """The codes, from the bits of the stream."""
    stream = np.unpackbits(planes["codes"].reshape(-1), count=size * codec.bits, bitorder="little")
    return np.packbits(stream.reshape(size, codec.bits), axis=1, bitorder="little")[:, 0]


def weights(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, columns), np.float32)


# -- the rule


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_codes_are_nearest_levels_and_decoding_rounds_once(codec: ac.Lut) -> None:
    """In exact arithmetic; no level is nearer by more than the step of 2^-15 of the scale that integers have."""
    x = Recipe((24, 96), "float32", "normal", 0, codec.bits).array()
    planes = codec.encode(x)
    assert codec.planes(spec_of(x)) == {name: spec_of(plane) for name, plane in planes.items()}
    books, codes = planes["codebook"], codes_of(planes, codec, x.size)
    length = {"tensor": x.size, "row": 96}.get(str(codec.scope), codec.scope)
    assert isinstance(length, int)
    own = books[np.arange(x.size) // length]
    decoded = codec.decode(planes, spec_of(x)).reshape(-1)
    scale = np.abs(decoded / (own[np.arange(x.size), codes] / 32768.0))
    away = np.abs(own / 32768.0 * scale[:, None] - x.reshape(-1, 1))
    chosen = away[np.arange(x.size), codes]
    assert (chosen <= away.min(1) + scale * 2.0**-15).all()
    assert (codes == np.abs(own - own[np.arange(x.size), codes][:, None].astype(int)).argmin(1)).all(), "of equals one"
    for i in range(0, x.size, 100):
        exact = Fraction(int(own[i, codes[i]])) * Fraction(float(planes["scales"].reshape(-1)[0])) / 32768
        if planes["scales"].size == 1:
            assert decoded[i] == np.float32(float(exact))


def test_float64_has_every_product() -> None:
    """Every code with scales of every exponent: an integer of 15 bits times 8 bits is exact in float32 already."""
    codec = ac.Lut(8, (1, None))
    books = np.linspace(-32767, 32767, 256).astype(np.int16)[None]
    exponents = np.arange(27, 255, dtype=np.uint16) << 7
    scales = (exponents | np.arange(exponents.size, dtype=np.uint16) % 128).view(numpy_dtype("bfloat16"))[:, None]
    planes = {"codes": np.tile(np.arange(256, dtype=np.uint8), (scales.size, 1)), "scales": scales, "codebook": books}
    spec = ac.ArraySpec((scales.size, 256), "float32")
    want = books.astype(np.float64) * scales.astype(np.float64) * 2.0**-15
    same_bits(codec.decode(planes, spec), want.astype(np.float32), "products")


def test_more_levels_are_better_and_the_optimum_best() -> None:
    """On 2^18 Gaussian numbers with a scale per row: the SNR of a quantiser of that many levels, in dB."""
    x = weights(256, 1024)
    for bits, least in ((1, 4.3), (2, 9.1), (4, 20.1), (6, 32.0), (8, 44.2)):
        snr = ac.error(x, ac.encode(x, ac.Lut(bits))).snr_db
        assert snr > least
        if bits <= 4:
            assert ac.error(x, ac.encode(x, ac.Lut(bits, training="optimum"))).snr_db >= snr - 1e-3


def test_size_counts_the_books() -> None:
    x = weights(8, 1024)
    enc = ac.encode(x, "lut4")
    assert enc.nbytes == 8 * 512 + 8 * 2 + 16 * 2
    assert ac.encode(x, ac.Lut(8, None, 64)).bits_per_element == 8 + 16 / x.size + 256 * 16 / 64


# -- books


@pytest.mark.parametrize("training", ["lloyd", "optimum"])
def test_a_row_has_the_book_it_has_alone(training: str) -> None:
    x = weights(5, 700)
    planes = ac.Lut(4, (1, None), "row", training).encode(x)
    for i, row in enumerate(x):
        alone = ac.Lut(4, (1, None), "tensor", training).encode(row)
        same_bits(planes["codebook"][i], alone["codebook"][0], f"row {i}")
        same_bits(planes["codes"][i], alone["codes"], f"codes of row {i}")


def test_blocks_cross_rows() -> None:
    x = weights(9, 100)
    planes = ac.Lut(3, None, 64).encode(x)
    assert planes["codebook"].shape == (15, 8)
    flat = x.reshape(-1)
    for i in range(15):
        given = {"scales": planes["scales"]}
        same_bits(
            planes["codebook"][i],
            ac.Lut(3, None).encode(flat[64 * i : 64 * i + 64], given)["codebook"][0],
            f"block {i}",
        )


def test_a_codebook_can_be_given() -> None:
    """Encoding with the books and scales that encoding found gives the same planes."""
    for codec in CODECS:
        x = Recipe((24, 96), "bfloat16", "log-normal", 0, 1).array()
        planes = codec.encode(x)
        for names in (["codebook"], ["codebook", "scales"], ["scales"]):
            again = codec.encode(x, {name: planes[name] for name in names})
            for name, plane in planes.items():
                same_bits(again[name], plane, f"{codec}: {name} with {names}")
    with pytest.raises(ac.ArgumentError, match="lut: the levels of a codebook must be sorted, from -32767 to 32767"):
        ac.encode(weights(2, 8), "lut2", given={"codebook": np.array([[0, 2, 1, 3]], np.int16)})


def test_a_book_from_outside_is_checked() -> None:
    x = weights(2, 8)
    planes = ac.Lut(2).encode(x)
    for levels in ([0, 2, 1, 3], [-32768, 0, 0, 1]):
        with pytest.raises(ac.CorruptError, match="must be sorted, from -32767"):
            ac.Lut(2).check(planes | {"codebook": np.array([levels], np.int16)}, spec_of(x))
    ac.Lut(2).check(planes, spec_of(x))


# -- importance


@pytest.mark.parametrize("scope", ["tensor", 160])
def test_an_element_counts_by_the_square_of_its_scale(scope: str | int) -> None:
    """The histogram by NumPy, with the weights that the page has; a scale of 2^-7 of the largest counts 1, not 0."""
    x = weights(20, 64) * np.geomspace(0.005, 1, 20, dtype=np.float32)[:, None]
    x[3] = 0
    share = np.linspace(0, 1, 64, dtype=np.float32)
    codec = ac.Lut(2, (1, 16), scope, "optimum")
    planes = codec.encode(x, {"importance": share})
    scales = np.repeat(planes["scales"].astype(np.float64).reshape(-1), 16)
    with np.errstate(all="ignore"):
        exact = np.rint(x.reshape(-1) * (32768 / scales).astype(np.float32))  # the quotient is rounded as recip_rn is
    q = np.clip(np.where(scales > 0, exact, 0), -32767, 32767).astype(int) + 32768
    columns = np.tile(np.rint(share.astype(np.float64) * 4095).astype(np.int64), 20)
    length = scope if isinstance(scope, int) else x.size
    for book, levels in enumerate(planes["codebook"]):
        own = slice(book * length, (book + 1) * length)
        mass = np.maximum(np.rint(4095 * (scales[own] / scales[own].max()) ** 2), 1).astype(np.int64)
        counts = np.zeros(1 << 16, np.int64)
        np.add.at(counts, q[own], mass * (scales[own] > 0) * columns[own])
        same_bits(levels, optimum(counts, 4), f"book {book}")


@pytest.mark.parametrize("scope", ["tensor", "row", 128])
def test_columns_that_do_not_count_have_no_part_in_training(scope: str | int) -> None:
    x = weights(16, 64)
    codec, share = ac.Lut(3, None, scope, "optimum"), np.array([1, 0] * 32, np.float32)
    planes = codec.encode(x, {"importance": share})
    half = scope // 2 if isinstance(scope, int) else scope
    kept = ac.Lut(3, None, half, "optimum").encode(x[:, ::2], {"scales": planes["scales"]})
    same_bits(planes["codebook"], kept["codebook"], "levels of every second column")


def test_equal_importance_is_none() -> None:
    x = weights(16, 64)
    codec = ac.Lut(3, training="optimum")
    same_bits(codec.encode(x, {"importance": np.full(64, 7, np.float32)})["codebook"], codec.encode(x)["codebook"], "")


def test_importance_lowers_the_error_where_it_is() -> None:
    x = weights(512, 64) * np.geomspace(0.1, 1, 64, dtype=np.float32)
    share = np.geomspace(1000, 1, 64).astype(np.float32)
    errors = []
    for given in ({}, {"importance": share}):
        enc = ac.encode(x, "lut4", given=given)
        errors.append(float(((ac.decode(enc) - x) ** 2 * share).sum()))
    assert errors[1] < 0.5 * errors[0]


def test_importance_of_another_length_is_refused() -> None:
    with pytest.raises(ac.ArgumentError, match=r"lut: importance must be float32\[64\], got float32\[63\]"):
        ac.encode(weights(4, 64), "lut4", given={"importance": np.ones(63, np.float32)})


# -- parts and threads


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_any_range_can_be_read(codec: ac.Lut) -> None:
    x = Recipe((3, 21, 80), "float16", "normal", 0, 1).array()
    planes, spec = codec.encode(x), spec_of(x)
    flat = {name: plane.reshape(-1) for name, plane in planes.items()}
    decoded = codec.decode(planes, spec).reshape(-1)

    def fetch(name: str, piece: slice) -> np.ndarray:
        return planes[name] if piece == slice(None) else flat[name][piece]

    rng = np.random.default_rng(0)
    ranges = [tuple(sorted(rng.integers(0, x.size + 1, 2).tolist())) for _ in range(40)]
    for start, stop in [*ranges, (0, 1), (x.size - 1, x.size), (1680, 1681), (5, 5)]:
        same_bits(codec.read(fetch, spec, start, stop), decoded[start:stop], f"{start}:{stop}")


@pytest.mark.parametrize("codec", [ac.Lut(8), ac.Lut(4, (1, None), "row"), ac.Lut(2, 64, 100)], ids=str)
def test_threads_change_nothing(codec: ac.Lut) -> None:
    x, found = weights(1100, 1000), []
    share = np.arange(1, 1001, dtype=np.float32)
    for threads in (1, 3):
        with limited(threads):
            found.append(codec.encode(x, {"importance": share}))
    for name, plane in found[0].items():
        same_bits(found[1][name], plane, f"{name} by three threads")


# -- edges


def test_nothing_that_is_finite_becomes_infinite() -> None:
    """The largest numbers of each dtype: a scale is never more than the dtype can hold."""
    for dtype, largest in (("float32", 3.4028234663852886e38), ("bfloat16", 3.3895313892515355e38), ("float16", 65504)):
        x = (np.linspace(-1, 1, 256) * largest).astype(numpy_dtype(dtype)).reshape(2, 128)
        for codec in (ac.Lut(8), ac.Lut(2), ac.Lut(1, (1, None), "row")):
            decoded = ac.decode(ac.encode(x, codec)).astype(np.float64)
            assert np.isfinite(decoded).all()
            assert (np.abs(decoded) <= largest).all()


def test_a_tile_that_is_not_finite_is_nan_and_the_others_are_not() -> None:
    x = weights(3, 64)
    x[1, 5] = np.inf
    with pytest.raises(ac.NonFiniteError, match="lut: input must be finite, got NaN or infinity in 1 of 3 blocks"):
        ac.encode(x, "lut8")
    decoded = ac.decode(ac.encode(x, "lut8", check=False))
    assert np.isnan(decoded[1]).all()
    assert np.isfinite(decoded[[0, 2]]).all()


def test_zeros_and_empty_arrays() -> None:
    for codec in CODECS:
        for shape in ((0,), (0, 64), (3, 0), (), (4, 16)):
            x = np.zeros(shape, np.float32)
            enc = ac.encode(x, codec)
            same_bits(ac.decode(enc), x, f"{codec} {shape}")
            assert not enc.planes["scales"].astype(np.float32).any()
    assert ac.encode(np.zeros(0, np.float32), "lut2").planes["codebook"].tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("codec", [ac.Lut(2, scope=10**30), ac.Lut(2, scope=1 << 63), ac.Lut(4, scope=1 << 40)])
def test_books_longer_than_any_array(codec: ac.Lut) -> None:
    """As for the whole array: what a file says is not memory."""
    x = weights(3, 40)
    planes, whole = codec.encode(x), ac.Lut(codec.bits, codec.block_size).encode(x)
    for name, plane in whole.items():
        same_bits(planes[name], plane, f"{codec}: {name}")
    same_bits(codec.decode(planes, spec_of(x)), codec.decode(whole, spec_of(x)), str(codec))
    assert codec.encode(np.zeros((0, 3), np.float32))["codebook"].shape == (0, codec.levels)


# -- parameters


def test_schemes() -> None:
    assert {name: SCHEMES[name] for name in SCHEMES if name.startswith("lut")} == {
        f"lut{bits}": ac.Lut(bits) for bits in range(2, 9)
    }
    assert ac.codec("lut") == ac.Lut(8, (1, None), "tensor", "lloyd")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"bits": 0}, "lut: bits must be an integer from 1 to 8, got 0"),
        ({"bits": True}, "lut: bits must be an integer from 1 to 8, got True"),
        ({"bits": 9}, "got 9"),
        ({"block_size": (1, 0)}, "lut: a tile must be"),
        ({"scope": "channel"}, "lut: scope must be 'tensor', 'row' or an integer >= 1, got 'channel'"),
        ({"scope": 0}, "got 0"),
        ({"scope": True}, "got True"),
        ({"training": "kmeans"}, "lut: training must be 'lloyd' or 'optimum', got 'kmeans'"),
    ],
)
def test_bad_parameters(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=message):
        ac.Lut(**params)
