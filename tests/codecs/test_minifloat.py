"""The minifloat codec beyond the suite: every code, odd scales, signs of zero, tiles, parameters, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.formats import FORMATS, values
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.float8 import unpacked
from arraycodec_conformance.strategies import PATTERNS, Recipe

FLAVOUR = "compressed-tensors"
DTYPES = ("float32", "bfloat16", "float16")
CODECS = (*map(ac.Minifloat, FORMATS), ac.codec("fp8-channel"), ac.codec("fp8-block"), ac.Minifloat(flavour=FLAVOUR))


# -- every code, any scale


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_code_decodes_to_its_product(name: str, dtype: str) -> None:
    """With scales that are positive and finite, computed in float64, where the product is exact."""
    codec, count = ac.Minifloat(name, block_size=(1, None)), 1 << FORMATS[name].bits
    scales = np.random.default_rng(1).integers(0x0D800000, 0x7F800000, (200, 1), np.uint32).view(np.float32)
    scales[:3, 0] = 2.0**-100, 1, 2.0**127
    stream = np.unpackbits(np.arange(count, dtype=np.uint8)[:, None], axis=1, count=codec.bits, bitorder="little")
    row = np.packbits(stream.reshape(-1), bitorder="little")
    spec = ac.ArraySpec((200, count), dtype)
    codes = np.repeat(row[None], 200, axis=0).view(codec.planes(spec)["codes"].numpy_dtype)
    got = codec.decode({"codes": codes, "scales": scales}, spec)
    with np.errstate(over="ignore", invalid="ignore"):
        want = (values(name).astype(np.float64) * scales).astype(np.float32).astype(spec.numpy_dtype)
    nan = np.isnan(values(name))
    same_bits(got[:, ~nan], want[:, ~nan], f"{name} as {dtype}")
    canonical = {"float32": 0x7FC00000, "bfloat16": 0x7FC0, "float16": 0x7E00}[dtype]
    assert (got[:, nan].view(f"u{got.itemsize}") == canonical).all()


@pytest.mark.parametrize("name", FORMATS)
def test_signs_of_zeros(name: str) -> None:
    """Kept under a scale that is in use, and lost under any other, in the flavour, and in formats without -0."""
    form = FORMATS[name]
    x = np.array([[-0.0, 0.0, -1e-40, 1e-40, -1e-30, 1.0, -1.0, 0.5]], np.float32)
    plain = ac.decode(ac.encode(x, ac.Minifloat(name, block_size=8)))
    assert np.signbit(plain[0, :5]).tolist() == [form.signed_zero, False, form.signed_zero, False, form.signed_zero]
    zeros = ac.encode(np.full((2, 8), -0.0, np.float32), ac.Minifloat(name, block_size=8))
    assert not zeros.planes["codes"].view(np.uint8).any()
    assert not np.signbit(ac.decode(zeros)).any()
    cast = ac.decode(ac.encode(x, ac.Minifloat(name, scaled=False)))
    assert np.signbit(cast[0, 0]) == form.signed_zero
    if name == "float8_e4m3fn":
        flavoured = ac.decode(ac.encode(x, ac.Minifloat(block_size=8, flavour=FLAVOUR)))
        assert np.signbit(flavoured[0]).tolist() == [False] * 4 + [True, False, True, False]


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_computed_scales_can_be_given(codec: ac.Minifloat) -> None:
    """Encoding with the scales that encoding found gives the same codes, zero tiles and non-finite ones included."""
    for dtype in DTYPES:
        for distribution, exponent in (("normal", 0), ("bits", 0), ("normal", -99), ("normal", 126), ("sparse", -6)):
            x = Recipe((16, 96), dtype, distribution, exponent, 3).array()
            planes = codec.encode(x)
            given = codec.encode(x, {"scales": planes["scales"]})
            same_bits(given["codes"].view(np.uint8), planes["codes"].view(np.uint8), f"{codec} {dtype} {distribution}")


@pytest.mark.parametrize("flavour", [None, FLAVOUR])
def test_given_scales(flavour: str | None) -> None:
    """A static scale: elements beyond it saturate, NaN is NaN, and a scale that cannot be used gives zeros."""
    head = np.array([1.0, -1000.0, np.inf, -np.inf, np.nan, 0.3], np.float32)
    x = np.stack([head] * 6)
    scales = np.array([1, 0, -1, np.nan, np.inf, 2.0**-101], np.float32)[:, None]
    codec = ac.Minifloat(block_size=(1, None), flavour=flavour)
    planes = codec.encode(x, {"scales": scales})
    assert planes["codes"].view(np.uint8)[0].tolist() == [0x38, 0xFE, 0x7E, 0xFE, 0x7F, 0x2A]
    assert not planes["codes"].view(np.uint8)[1:].any()
    same_bits(planes["scales"], scales, "given scales are stored as they are")
    decoded = codec.decode(planes, spec_of(x))
    assert np.isnan(decoded[3:5]).all()
    same_bits(decoded[[1, 2, 5]], np.zeros((3, 6), np.float32), "zeros are +0 under such scales")


@pytest.mark.parametrize("name", FORMATS)
def test_infinity_and_nan_are_the_same_under_every_given_scale(name: str) -> None:
    """Also from 2^126 on, where the exponents of other elements are lowered."""
    for overflow in ("saturate", "nonfinite") if name.startswith("float8") else ("saturate",):
        codec, codes = ac.Minifloat(name, block_size=None, overflow=overflow), []
        for scale in np.array([1, 2.0**125, 2.0**126, 2.0**127], np.float32):
            x = np.array([np.inf, -np.inf, np.nan, -np.nan, scale, -scale, 0, -0.0], np.float32)
            codes.append(codec.encode(x, {"scales": np.full(1, scale)})["codes"].view(np.uint8))
        for other in codes[1:]:
            same_bits(other, codes[0], f"{name}, {overflow}")


@pytest.mark.parametrize("exponent", [-98, -91, 119, 126])
@pytest.mark.parametrize("name", FORMATS)
def test_codes_do_not_depend_on_a_power_of_two(name: str, exponent: int) -> None:
    """As long as there is a scale, which is that power times as large."""
    x, codec = Recipe((8, 64), "float32", "uniform", 0, 5).array(), ac.Minifloat(name)
    planes, moved = codec.encode(x), codec.encode(np.ldexp(x, exponent))
    scales = np.ldexp(planes["scales"], exponent)
    scales[scales < 2.0**-100] = 0
    same_bits(moved["scales"], scales, "scales")
    rows = scales[:, 0] > 0
    got, want = (p["codes"].view(np.uint8) for p in (moved, planes))
    same_bits(got[rows], want[rows], f"{name} 2^{exponent}")
    assert not got[~rows].any()


# -- tiles


def test_a_token_is_encoded_as_if_it_were_alone() -> None:
    x = Recipe((2, 5, 96), "bfloat16", "cauchy", 0, 1).array()
    for codec in (ac.Minifloat(block_size=(1, None)), ac.codec("fp8-channel")):
        enc = ac.encode(x, codec)
        assert enc.planes["scales"].shape == (2, 5, 1)
        for i in np.ndindex(2, 5):
            alone = ac.encode(x[i][None], codec)
            for name, plane in enc.planes.items():
                same_bits(plane[i].reshape(-1), alone.planes[name].reshape(-1), f"{codec} token {i}: {name}")


@pytest.mark.parametrize("name", ["float8_e5m2", "float6_e2m3fn", "float4_e2m1fn"])
@pytest.mark.parametrize("block_size", [(1, 24), (5, 24), (3, None), (None, 7)], ids=str)
def test_ragged_tiles_are_encoded_as_if_they_were_alone(name: str, block_size: Any) -> None:
    """Of stacked matrices (experts), too; edge tiles are smaller."""
    x, codec = Recipe((2, 7, 40), "float32", "normal", 0, 2).array(), ac.Minifloat(name, block_size=block_size)
    planes = codec.encode(x)
    rows, columns = block_size[0] or 7, block_size[1] or 40
    assert planes["scales"].shape == (2, -(-7 // rows), -(-40 // columns))
    codes = unpacked(planes["codes"], codec.bits, x.size).reshape(x.shape)
    decoded = codec.decode(planes, spec_of(x))
    for matrix, down, across in np.ndindex(planes["scales"].shape):
        at = (matrix, slice(down * rows, (down + 1) * rows), slice(across * columns, (across + 1) * columns))
        tile = np.ascontiguousarray(x[at])
        whole = ac.Minifloat(name, block_size=None)
        alone = whole.encode(tile)
        same_bits(codes[at], unpacked(alone["codes"], codec.bits, tile.size).reshape(tile.shape), f"codes {at}")
        same_bits(planes["scales"][matrix, down, across].reshape(1), alone["scales"], f"scale {at}")
        same_bits(np.ascontiguousarray(decoded[at]), whole.decode(alone, spec_of(tile)), f"decoded {at}")


@pytest.mark.parametrize("name", ["float8_e5m2", "float6_e2m3fn"])
@pytest.mark.parametrize(
    "block_size", [5, 24, None, (1, 4), (3, 5), (2, None), (None, 1), (None, None), "cast"], ids=str
)
def test_a_part_is_read_without_the_rest(name: str, block_size: Any) -> None:
    """Every range begins and ends in other tiles; of large arrays only what lies around the range is fetched."""
    codec = ac.Minifloat(name, scaled=False) if block_size == "cast" else ac.Minifloat(name, block_size=block_size)
    fetched = 0

    def read(planes: dict[str, np.ndarray], spec: ac.ArraySpec, start: int, stop: int) -> np.ndarray:
        def fetch(plane: str, piece: slice) -> np.ndarray:
            nonlocal fetched
            found = planes[plane].reshape(-1)[piece]
            fetched += found.size
            return found

        return codec.read(fetch, spec, start, stop)

    for shape in ((), (29,), (7, 9), (3, 5, 7), (2, 2, 8, 4)):
        x = Recipe(shape, "float16", "normal", 0, 1).array()
        planes, spec = codec.encode(x), spec_of(x)
        want = codec.decode(planes, spec).reshape(-1)
        for start in range(0, x.size + 1, 7):
            for stop in range(start, x.size + 1, 9):
                same_bits(read(planes, spec, start, stop), want[start:stop], f"{codec} {shape} {start}:{stop}")
    x = Recipe((64, 512, 8), "float16", "normal", 0, 1).array()
    planes, fetched = codec.encode(x), 0
    same_bits(
        read(planes, spec_of(x), 90_000, 90_010), codec.decode(planes, spec_of(x)).reshape(-1)[90_000:90_010], name
    )
    assert fetched <= 8192 + 16


def test_threads_do_not_change_bits() -> None:
    x = Recipe((1000, 1031), "bfloat16", "normal", 0, 1).array()
    before = ac.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            ac.set_num_threads(threads)
            planes = ac.encode(x, ac.Minifloat("float6_e3m2fn", block_size=(128, 128))).planes
            found.append({name: plane.view(np.uint8) for name, plane in planes.items()})
    finally:
        ac.set_num_threads(before)
    for name, plane in found[0].items():
        same_bits(found[1][name], plane, name)


def test_hardware_that_flushes_subnormals_gives_the_same_bits() -> None:
    """torch sets the processor's mode for this thread, in which small arrays are encoded and decoded."""
    torch = pytest.importorskip("torch")
    scales = np.array(PATTERNS, np.uint32).view(np.float32)
    codecs = [*CODECS, *(ac.Minifloat(name, scaled=False) for name in FORMATS)]
    with np.errstate(all="ignore"):
        x = (scales[:, None] * np.random.default_rng(0).uniform(-1, 1, (scales.size, 64))).astype(np.float32)
        inputs = [x.astype(numpy_dtype(dtype)) for dtype in DTYPES]
    results: list[list[np.ndarray]] = []
    for flush in (False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor has no such mode")
        found: list[np.ndarray] = []
        try:
            for codec in codecs:
                for own in inputs:
                    planes = codec.encode(own)
                    found += [*planes.values(), codec.decode(planes, spec_of(own))]
        finally:
            torch.set_flush_denormal(False)
        results.append([array.view(np.uint8) for array in found])
    for kept, flushed in zip(*results, strict=True):
        same_bits(flushed, kept, "flushed")


# -- parameters, errors, memory


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"format": "fp8"}, "format must be one of float8_e4m3fn, .*, got 'fp8'"),
        ({"block_size": 0}, "block_size must be an integer >= 1, None .*, got 0"),
        ({"block_size": (1, 2, 3)}, r"a tile must be \(rows, columns\), .*got \(1, 2, 3\)"),
        ({"scaled": 1}, "scaled must be True or False, got 1"),
        ({"overflow": "nan"}, "overflow must be 'saturate', or 'nonfinite' .*, got 'nan'"),
        ({"format": "float6_e2m3fn", "overflow": "nonfinite"}, "overflow must be 'saturate'"),
        ({"format": "float8_e5m2", "flavour": FLAVOUR}, "flavour must be None, or 'compressed-tensors' for"),
        ({"flavour": "torchao"}, "flavour must be None"),
        ({"arithmetic": "eager"}, "arithmetic must be 'float32', or with the flavour 'eager', got 'eager'"),
        ({"flavour": FLAVOUR, "overflow": "nonfinite"}, "overflow must be 'saturate' with the flavour"),
        ({"scaled": False, "block_size": 32}, "block_size must be 64 where scaled is False, got 32"),
        ({"scaled": False, "flavour": FLAVOUR}, "flavour must be None where scaled is False"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=message):
        ac.Minifloat(**params)


@pytest.mark.parametrize(
    ("codec", "given", "message"),
    [
        (ac.Minifloat(), {"zero_points": np.zeros((2, 1))}, "given may hold .*, got 'zero_points'"),
        (ac.Minifloat(), {"scales": np.ones(1, np.float32)}, r"must be float32\[2, 1\], got float32\[1\]"),
        (ac.codec("fp8-channel"), {"scales": np.ones((2, 1), np.float16)}, r"must be float32\[2, 1\], got float16"),
        (ac.Minifloat(scaled=False), {"scales": np.ones((2, 1), np.float32)}, "nothing can be given to encoding"),
    ],
)
def test_bad_scales_are_refused(codec: ac.Minifloat, given: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=message):
        ac.encode(np.ones((2, 64), np.float32), codec, given=given)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_tiles_are_reported(bad: float) -> None:
    x = np.ones((4, 64), np.float32)
    x[2, 40] = bad
    for scheme in ("fp8", "fp8-channel", "float4_e2m1fn"):
        with pytest.raises(ac.NonFiniteError, match="in 1 of 4 blocks, first at block 2"):
            ac.encode(x, scheme)
        decoded = ac.decode(ac.encode(x, scheme, check=False))
        assert np.isnan(decoded[2]).all()
        assert np.isfinite(decoded[[0, 1, 3]]).all()
    assert np.isnan(ac.decode(ac.encode(x, ac.Minifloat(scaled=False)))[2, 40]) == np.isnan(bad)  # a cast keeps them


@pytest.mark.parametrize("name", ["fp8", "fp8-channel", "fp8-block", "float6_e2m3fn", "float4_e2m1fn"])
def test_encoding_takes_no_memory_but_its_planes(name: str) -> None:
    x = Recipe((2048, 2048), "float32", "normal", 0, 1).array()
    ac.encode(x, name)
    tracemalloc.start()
    enc = ac.encode(x, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < enc.nbytes + (1 << 20), f"{peak:,} bytes for planes of {enc.nbytes:,}"
