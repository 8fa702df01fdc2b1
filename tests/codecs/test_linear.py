"""The linear codec beyond the suite: its rule in exact arithmetic, given planes, edges, parameters."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.registry import SCHEMES
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import integers
from arraycodec_conformance.strategies import PATTERNS, Recipe

DTYPES = ("float32", "bfloat16", "float16")
FLAVOUR = "compressed-tensors"


def codes_of(planes: dict[str, Any], codec: ac.Linear, shape: tuple[int, ...]) -> np.ndarray:
    """int8 integers, from the bits of the stream."""
    return integers(planes["codes"], codec.bits, shape)


def flavours(bits: int) -> tuple[str | None, ...]:
    """Those that have integers of this width."""
    return (FLAVOUR,) if bits == 1 else (None, FLAVOUR)


# -- the rule, in exact arithmetic


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_integers_are_the_nearest_and_the_scale_spans_the_range(bits: int, symmetric: bool) -> None:
    """No integer is nearer by more than 2^-14 of a step, and a range of 2^bits - 1 steps is the tile's."""
    x = Recipe((24, 32), "float32", "normal", 0, bits).array()
    codec = ac.Linear(bits, symmetric, (1, None))
    planes = codec.encode(x)
    q, scales = codes_of(planes, codec, x.shape), planes["scales"].astype(float)
    zeros = planes["zero_points"].astype(int) if not symmetric else np.zeros(scales.shape, int)
    high = (1 << (bits - 1)) - 1
    low = -high if symmetric else -high - 1
    assert q.min() >= low
    assert q.max() <= high
    extent = np.abs(x).max(1) if symmetric else np.maximum(x, 0).max(1) - np.minimum(x, 0).min(1)
    np.testing.assert_allclose(scales[:, 0], extent / (high - (0 if symmetric else low)), rtol=2**-22)
    exact = x / scales + zeros
    assert (np.abs(np.clip(exact, low, high) - q) <= 0.5 + 2**-14).all()
    for i in range(24):  # decoding is one rounding of an exact product
        want = Fraction(int(q[i, 0]) - int(zeros[i, 0])) * Fraction(float(planes["scales"][i, 0]))
        assert codec.decode(planes, spec_of(x))[i, 0] == np.float32(float(want))


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_integer_survives(bits: int) -> None:
    """All levels of a width, times scales from 2^-99 to 2^119: what was decoded encodes to the same codes."""
    levels = np.arange(-(1 << (bits - 1)), 1 << (bits - 1), dtype=np.float32)
    for symmetric, flavour in itertools.product((True, False), flavours(bits)):
        codec = ac.Linear(bits, symmetric, (1, None), flavour)
        q = levels[1:] if symmetric and not flavour else levels
        scales = np.exp2(np.arange(-99, 119, 7, dtype=np.float32))[:, None]
        given = {"scales": scales} | ({} if symmetric else {"zero_points": np.zeros(scales.shape, np.int8)})
        x = (q * scales).astype(np.float32)
        planes = codec.encode(x, given)
        same_bits(codes_of(planes, codec, x.shape), np.tile(q.astype(np.int8), (len(scales), 1)), f"{codec}")
        same_bits(codec.decode(planes, spec_of(x)), x, f"{codec}: decoded")


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_halves_go_to_the_even_integer_and_the_rest_is_clamped(bits: int, symmetric: bool) -> None:
    high = (1 << (bits - 1)) - 1
    x = (np.arange(-8 * high - 16, 8 * high + 17, dtype=np.float32) / 4)[None]
    given = {"scales": np.ones((1, 1), np.float32)}
    for flavour, zero in itertools.product(flavours(bits), (0,) if symmetric else (-1, 0, 1)):
        codec = ac.Linear(bits, symmetric, (1, None), flavour)
        planes = codec.encode(x, given if symmetric else given | {"zero_points": np.full((1, 1), zero, np.int8)})
        want = np.rint(x) + zero if flavour is None else np.rint(x + zero)
        want = np.clip(want, -high if symmetric and not flavour else -high - 1, high)
        same_bits(codes_of(planes, codec, x.shape), want.astype(np.int8), f"{codec} {zero}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_element_pattern_is_rounded_to_the_nearest_integer(dtype: str) -> None:
    """All finite patterns under one scale: in float64, where x / 2^-3 is exact."""
    patterns = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
    x = patterns[np.isfinite(patterns.astype(np.float32))]
    given = {"scales": np.full(1, 0.125, np.float32)}
    want = np.clip(np.rint(x.astype(np.float64) * 8), -127, 127).astype(np.int8)
    same_bits(ac.Linear(8, block_size=None).encode(x, given)["codes"], want, dtype)


def test_scale_of_every_significand() -> None:
    """absmax * fl(1/127) for 2^16 significands at the edges of exponents; a scale below 2^-100 is 0."""
    significands = np.arange(0, 1 << 23, 1 << 7, dtype=np.uint32)
    for exponent in (20, 26, 27, 33, 34, 127, 252, 253, 254):
        x = ((np.uint32(exponent) << 23) | significands).view(np.float32)
        planes = ac.Linear(8, block_size=1).encode(x)
        want = x.astype(np.float64) * np.float64(np.float32(1) / np.float32(127))  # 48 bits: exact in float64
        want = np.where(want.astype(np.float32) < 2.0**-100, 0, want).astype(np.float32)
        same_bits(planes["scales"].reshape(-1), want, f"exponent {exponent}")
        same_bits(planes["codes"], np.where(want == 0, 0, 127).astype(np.int8), f"exponent {exponent}: codes")


@pytest.mark.level("exhaustive")
@pytest.mark.parametrize("bits", range(2, 9))
def test_scale_of_every_significand_and_width(bits: int) -> None:
    """All 2^23 significands, alone in a tile and beside their negative."""
    x = np.arange(127 << 23, 128 << 23, dtype=np.uint32).view(np.float32)
    for symmetric, steps in ((True, (1 << (bits - 1)) - 1), (False, (1 << bits) - 1)):
        want = (x.astype(np.float64) * np.float64(np.float32(1) / np.float32(steps))).astype(np.float32)
        planes = ac.Linear(bits, symmetric, block_size=1).encode(x)
        same_bits(planes["scales"].reshape(-1), want, f"{bits} bits, symmetric={symmetric}")
        both = ac.Linear(bits, symmetric, block_size=2).encode(np.stack([x, -x], axis=1))
        same_bits(both["scales"].reshape(-1), want if symmetric else want * 2, f"{bits} bits, both signs")
        if not symmetric:
            zero = np.rint(x.astype(np.float64) / (2 * want)) - (1 << (bits - 1))
            near = np.abs(x.astype(np.float64) / (2 * want) % 1 - 0.5) < 1e-4
            found = both["zero_points"].reshape(-1)
            same_bits(found[~near], zero.astype(np.int8)[~near], f"{bits} bits: zero points")


# -- given planes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("flavour", [None, FLAVOUR])
@pytest.mark.parametrize("symmetric", [True, False])
def test_computed_scales_can_be_given(symmetric: bool, flavour: str | None, dtype: str) -> None:
    """Encoding with the scales and zero points that encoding found gives the same planes: zero and NaN tiles too."""
    for bits, distribution, exponent in ((4, "normal", 0), (8, "bits", 0), (8, "sparse", -6), (5, "normal", 126)):
        x = Recipe((16, 96), dtype, distribution, exponent, 3).array()
        for arithmetic in ("float32", "eager") if flavour else ("float32",):
            codec = ac.Linear(bits, symmetric, (1, 32), flavour, arithmetic)
            planes = codec.encode(x)
            given = codec.encode(x, {n: planes[n] for n in planes if n != "codes"})
            for name, plane in planes.items():
                same_bits(given[name], plane, f"{codec} {dtype} {distribution}: {name}")


def test_static_and_dynamic_scales_of_tokens_agree() -> None:
    """A scale per token computed on the fly, or the same one given; a static one for all tokens clamps."""
    x = Recipe((4, 10, 64), "bfloat16", "cauchy", 0, 1).array()
    dynamic = ac.encode(x, "w8a8")
    assert dynamic.planes["scales"].shape == (4, 10, 1)
    static = ac.encode(x, "w8a8", given={"scales": dynamic.planes["scales"]})
    same_bits(static.planes["codes"], dynamic.planes["codes"], "codes")
    one = ac.encode(x, ac.codec("w8a8", block_size=None), given={"scales": np.full(1, 2**-6, x.dtype)})
    want = np.clip(np.rint(x.astype(np.float64) * 64), -128, 127)
    assert (np.abs(one.planes["codes"] - want) <= 1).all(), "eager rounds to 8 bits first"
    assert one.planes["codes"].min() == -128


def test_given_scales_let_nan_through_as_zero_and_clamp_infinities() -> None:
    zeros = np.full((1, 1), 3, np.int8)
    for flavour in (None, FLAVOUR):
        codec = ac.Linear(8, False, (1, None), flavour)
        for scale in (1, 2.0**125, 2.0**126, 2.0**127):  # exponents are lowered from 2^126 on
            x = np.array([[np.nan, np.inf, -np.inf, scale]], np.float32)
            enc = ac.encode(x, codec, given={"scales": np.full((1, 1), scale, np.float32), "zero_points": zeros})
            assert enc.planes["codes"].tolist() == [[3, 127, -128, 4]], scale
            assert scale > 1 or ac.decode(enc).tolist() == [[0, 124, -131, 1]]


def test_given_planes_are_not_changed_and_not_shared() -> None:
    scales = np.full((4, 1), 0.5, np.float32)
    enc = ac.encode(np.ones((4, 8), np.float32), "int8-channel", given={"scales": scales})
    assert not np.shares_memory(enc.planes["scales"], scales)
    assert (scales == 0.5).all()


# -- edges


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("codec", "rows", "columns"),
    [
        (ac.Linear(8), slice(None), slice(None)),
        (ac.Linear(4, False, (1, 4)), slice(2, 3), slice(4, 8)),
        (ac.Linear(3, True, (2, 4), FLAVOUR), slice(2, 4), slice(4, 8)),
    ],
    ids=repr,
)
def test_tiles_that_are_not_finite_decode_to_nan_and_no_other(
    codec: ac.Linear, rows: slice, columns: slice, dtype: str
) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        x = np.ones((4, 8), numpy_dtype(dtype))
        x[2, 5] = bad
        with pytest.raises(ac.NonFiniteError, match="input must be finite, got NaN or infinity in 1 of"):
            ac.encode(x, codec)
        enc = ac.encode(x, codec, check=False)
        inside = np.zeros(x.shape, bool)
        inside[rows, columns] = True
        decoded = ac.decode(enc)
        canonical = {"float32": 0x7FC00000, "bfloat16": 0x7FC0, "float16": 0x7E00}[dtype]
        assert (decoded.view(f"u{x.itemsize}")[inside] == canonical).all()
        assert np.isfinite(decoded.astype(np.float32)[~inside]).all()
        assert (codes_of(enc.planes, codec, x.shape)[inside] == 0).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_zero_is_an_integer_whatever_the_range(bits: int) -> None:
    """0.0 decodes to +0 exactly, beside numbers of either sign and of both."""
    rng = np.random.default_rng(bits)
    for flavour, sign in itertools.product(flavours(bits), (1, -1, 0)):
        x = rng.standard_normal((32, 16)).astype(np.float32)
        x = sign * np.abs(x) if sign else x
        x[:, 3], x[:, 5] = 0.0, -0.0
        decoded = ac.decode(ac.encode(x, ac.Linear(bits, False, (1, None), flavour)))
        same_bits(decoded[:, [3, 5]], np.zeros((32, 2), np.float32), f"{bits} {flavour} {sign}")


def test_results_do_not_depend_on_a_power_of_two() -> None:
    """Exponents are lowered exactly where a scale, or a sum of two magnitudes, is huge."""
    for symmetric, bits in itertools.product((True, False), (2, 4, 8)):
        codec, x = ac.Linear(bits, symmetric, (1, 32)), Recipe((16, 64), "float32", "ties", 0, 1).array()
        x = x / np.abs(x).max(axis=1, keepdims=True)
        planes = codec.encode(x)
        for exponent in (-60, 100, 120, 123, 125, 126, 127):
            other = codec.encode(np.ldexp(x, exponent))
            same_bits(other["codes"], planes["codes"], f"{codec} 2^{exponent}: codes")
            same_bits(other["scales"], np.ldexp(planes["scales"], exponent), f"{codec} 2^{exponent}: scales")


def test_hardware_that_flushes_subnormals_gives_the_same_bits() -> None:
    """torch sets the processor's mode for this thread, in which small arrays are encoded and decoded."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    scales = np.array(PATTERNS, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        x = (scales[:, None] * rng.uniform(-1, 1, (scales.size, 64))).astype(np.float32)
    codecs = [
        ac.Linear(bits, symmetric, (1, 16), flavour, arithmetic)
        for bits, symmetric in ((8, True), (4, False), (8, False))
        for flavour, arithmetic in ((None, "float32"), (FLAVOUR, "float32"), (FLAVOUR, "eager"))
    ]
    results: list[list[Any]] = []
    for flush in (False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor has no such mode")
        try:
            for codec, dtype in itertools.product(codecs, DTYPES):
                with np.errstate(over="ignore"):
                    planes = codec.encode(x.astype(numpy_dtype(dtype)))
                stored = planes | {"scales": any_bits(planes["scales"])}
                results.append([*planes.values(), codec.decode(planes, ac.ArraySpec(x.shape, dtype)),
                                codec.decode(stored, ac.ArraySpec(x.shape, dtype))])  # fmt: skip
        finally:
            torch.set_flush_denormal(False)
    for kept, flushed in zip(results[: len(results) // 2], results[len(results) // 2 :], strict=True):
        for a, b in zip(kept, flushed, strict=True):
            same_bits(b, a, "flushed")


def any_bits(scales: np.ndarray) -> np.ndarray:
    """Any bits, as others may have stored them."""
    raw = np.random.default_rng(9).integers(0, 256, scales.nbytes, np.uint8)
    return raw.view(scales.dtype).reshape(scales.shape)


# -- parameters


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ac.Linear(1), "linear: bits must be 2 to 8 without a flavour, got 1"),
        (lambda: ac.Linear(9), "bits must be an integer from 1 to 8, got 9"),
        (lambda: ac.Linear(True), "bits must be an integer from 1 to 8, got True"),
        (lambda: ac.Linear(4.0), "bits must be an integer from 1 to 8, got 4.0"),
        (lambda: ac.Linear(4, 1), "linear: symmetric must be True or False, got 1"),
        (lambda: ac.Linear(4, block_size=0), r"block_size must be an integer >= 1, None \(whole array\) or .*, got 0"),
        (lambda: ac.Linear(4, block_size=-1), "block_size must be .*, got -1"),
        (lambda: ac.Linear(4, block_size=True), "block_size must be .*, got True"),
        (lambda: ac.Linear(4, block_size="64"), "block_size must be .*, got '64'"),
        (lambda: ac.Linear(4, block_size=(1, 0)), r"linear: a tile must be \(rows, columns\), .*, got \(1, 0\)"),
        (lambda: ac.Linear(4, block_size=(1, 2, 3)), r"a tile must be \(rows, columns\), .*, got \(1, 2, 3\)"),
        (lambda: ac.Linear(4, block_size=(1, 2.0)), r"a tile must be .*, got \(1, 2.0\)"),
        (lambda: ac.Linear(4, flavour="gptq"), "flavour must be None or 'compressed-tensors', got 'gptq'"),
        (lambda: ac.Linear(4, arithmetic="eager"), "arithmetic must be 'float32', or with .* 'eager', got 'eager'"),
        (lambda: ac.Linear(4, flavour=FLAVOUR, arithmetic="bfloat16"), "arithmetic must be .*, got 'bfloat16'"),
        (lambda: ac.encode(np.ones(64), "int8_linear"), "dtype must be one of float32, bfloat16, float16, got float64"),
        (lambda: _given(False, scales=np.ones(1, np.float32)), r"scales and zero_points together, got \['scales'\]"),
        (lambda: _given(False, zero_points=np.ones(1, np.int8)), r"zero_points together, got \['zero_points'\]"),
        (lambda: _given(True, zero_points=np.ones(1, np.int8)), "given may hold .*, got 'zero_points'"),
        (lambda: _given(True, scales=np.ones(2, np.float32)), r"'scales' must be float32\[1\], got float32\[2\]"),
        (lambda: _given(True, scales=np.ones(1, np.float16)), r"'scales' must be float32\[1\], got float16\[1\]"),
    ],
)  # fmt: skip
def test_bad_arguments_say_where_what_and_what_is_allowed(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=message):
        make()


def _given(symmetric: bool, **given: np.ndarray) -> ac.Encoded:
    return ac.encode(np.ones(64, np.float32), ac.Linear(8, symmetric), given=given)


def test_schemes_are_what_their_names_say() -> None:
    assert SCHEMES["int8_linear"] == ac.Linear(8, True, 64)
    assert SCHEMES["int4_linear"] == ac.Linear(4, True, 64)
    assert ac.codec("w4a16", symmetric=False) == ac.Linear(4, False, (1, 128), FLAVOUR, "eager")
    assert ac.codec("int8_linear", block_size=None).planes(ac.ArraySpec((3, 5), "float16"))["scales"].shape == (1,)


def test_bits_per_element_of_schemes() -> None:
    x = np.ones((256, 1024), np.float32)
    sizes = {name: ac.encode(x, name).bits_per_element for name in ("int8_linear", "int4_linear", "w4a16", "w8a8")}
    assert sizes == {"int8_linear": 8.5, "int4_linear": 4.5, "w4a16": 4.25, "w8a8": 8 + 32 / 1024}
    assert ac.encode(x, ac.Linear(3, False, (1, 64))).bits_per_element == 3 + 40 / 64
