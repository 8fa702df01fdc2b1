"""The minifloat codec with compressed-tensors, torchao and ml_dtypes as judges: zero differing bytes in the domain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.formats import FORMATS, values
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance import float8
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import hashed_input, sha
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe
from tests.codecs.peers import needs

FLAVOUR = "compressed-tensors"
DTYPES = ("float32", "bfloat16", "float16")
DISTRIBUTIONS = (
    "normal", "uniform", "cauchy", "ties", "thresholds", "sparse", "log-normal", "bits", "integers", "constant",
)  # fmt: skip
TILES = (None, (1, None), (1, 128), (128, 128))
PRESETS = {  # of weights
    "FP8": ac.Minifloat(block_size=None, flavour=FLAVOUR, arithmetic="eager"),
    "FP8_DYNAMIC": ac.codec("fp8-channel"),
    "FP8_BLOCK": ac.codec("fp8-block"),
}


def arrays(dtype: str, shape: tuple[int, ...], seeds: int) -> Iterator[tuple[str, np.ndarray]]:
    """Arrays of many distributions and exponents, and those that are most likely to find a difference."""
    for seed in range(seeds):
        for distribution in DISTRIBUTIONS:
            for exponent in (0, -6, 10, -99, 120) if dtype != "float16" else (0, -6, -14, 10):
                yield f"{distribution} 2^{exponent}", Recipe(shape, dtype, distribution, exponent, seed).array()
    narrow, size = numpy_dtype(dtype), int(np.prod(shape))
    if narrow.itemsize == 2:
        patterns = np.arange(2**16, dtype=np.uint16).view(narrow)
        finite = patterns[np.isfinite(patterns.astype(np.float32))]
        for part in range(finite.size // size):
            yield "finite patterns", finite[part * size : (part + 1) * size].reshape(shape)
    for k in range(-8, 5):
        yield "multiples of 1/16", np.resize((np.arange(-512, 512) / 16 * 2.0**k).astype(narrow), shape)
    one_hot = np.zeros(size, narrow)
    one_hot[::333] = 3
    yield "few elements that are not 0", one_hot.reshape(shape)


def compare(what: str, codec: ac.Minifloat, x: np.ndarray, want: dict[str, np.ndarray]) -> tuple[int, int, int]:
    """Require equality in the domain: elements inside, outside, and of these the ones whose codes differ."""
    tiles, inside = float8.inside(x, codec.block_size, codec.arithmetic == "float32")
    enc = ac.encode(x, codec, check=False)
    got = {"codes": enc.planes["codes"].view(np.uint8), "scales": enc.planes["scales"], "decoded": ac.decode(enc)}
    want = {name: plane.reshape(got[name].shape) for name, plane in want.items()}
    same_bits(got["scales"][tiles], want["scales"][tiles], f"{codec} {what}: scales")
    for name in ("codes", "decoded"):
        same_bits(got[name][inside], want[name][inside], f"{codec} {what}: {name}")
    return int(inside.sum()), int((~inside).sum()), int((got["codes"] != want["codes"])[~inside].sum())


def report(what: str, counts: list[tuple[int, int, int]]) -> None:
    """Print the sums of counts, and require that there was something to compare."""
    inside, outside, differing = (sum(column) for column in zip(*counts, strict=True))
    print(f"{what}: {inside:,} elements inside, 0 differ; {outside:,} outside, {differing:,} codes of them differ")
    assert inside > 100_000


# -- compressed-tensors


@pytest.mark.parametrize(
    ("name", "x", "hashes"),
    [
        ("FP8", "zeros", ("f96fa0f8c407", "da90b33f6611", "46cc6efafd0e")),
        ("FP8_DYNAMIC", "zeros", ("a8d60de6d564", "5e886ba53d1c", "8c4642f45e03")),
        ("FP8_BLOCK", "ragged", ("27e88191425d", "0e16cd7946f4", "ddeceffd1d20")),
    ],
)
def test_golden_hashes_of_compressed_tensors(name: str, x: str, hashes: tuple[str, ...]) -> None:
    """Codes, scales and decoded values of version 0.20.0."""
    w = hashed_input(16, 256) if x == "zeros" else hashed_input(130, 200)
    if x == "zeros":
        w.view(np.uint16)[0, :64], w.view(np.uint16)[1, 64:128] = 0, 0x8000
    enc = ac.encode(w, PRESETS[name])
    assert (sha(enc.planes["codes"]), sha(enc.planes["scales"]), sha(ac.decode(enc))) == hashes


@needs("compressed_tensors")
@pytest.mark.level("full")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PRESETS)
def test_presets_of_weights_equal_compressed_tensors(name: str, dtype: str, level: Level) -> None:
    """Through its compressors, as a checkpoint is written and read."""
    seeds = 20 if level >= Level.exhaustive else 2
    counts = [compare(what, PRESETS[name], x, float8.preset(x, name)) for what, x in arrays(dtype, (130, 256), seeds)]
    report(f"{name} {dtype}", counts)


@needs("compressed_tensors")
@pytest.mark.level("full")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arithmetic", ["eager", "float32"])
@pytest.mark.parametrize(("block_size", "dynamic"), [*((t, False) for t in TILES), *((t, True) for t in TILES[:3])])
def test_tiles_equal_compressed_tensors(block_size: Any, dynamic: bool, arithmetic: str, dtype: str) -> None:
    """Weights, and activations whose scales are found when they are quantised: per tensor, token, and group."""
    codec, counts = ac.Minifloat(block_size=block_size, flavour=FLAVOUR, arithmetic=arithmetic), []
    for what, x in arrays(dtype, (40, 256), 1):
        want = float8.compressed_tensors(x, block_size, arithmetic == "float32", dynamic)
        counts.append(compare(what, codec, x, want))
    report(f"{block_size} {'dynamic ' * dynamic}{arithmetic} {dtype}", counts)


@needs("compressed_tensors")
@pytest.mark.level("full")
@pytest.mark.parametrize("dtype", DTYPES)
def test_heads_of_a_cache_equal_compressed_tensors(dtype: str) -> None:
    codec = ac.Minifloat(block_size=(None, None), flavour=FLAVOUR, arithmetic="eager")
    counts = [
        compare(what, codec, x, float8.compressed_tensors(x, (None, None))) for what, x in arrays(dtype, (4, 65, 64), 1)
    ]
    report(f"heads {dtype}", counts)


@needs("compressed_tensors")
@pytest.mark.level("full")
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_decodes_as_in_compressed_tensors(dtype: str) -> None:
    """With all positive scales of 16 bits from 2^-100 on; those of float32 at random."""
    narrow, codes = numpy_dtype(dtype), np.arange(256, dtype=np.uint8)
    scales = np.arange(1, 0x7F80, dtype=np.uint16) if dtype == "bfloat16" else np.arange(1, 0x7C00, dtype=np.uint16)
    if dtype == "float32":
        scales = np.random.default_rng(0).integers(0x0D800000, 0x7F800000, 1 << 15, np.uint32)
    scales = scales.view(narrow)
    scales = scales[scales.astype(np.float32) >= np.float32(2.0**-100)].reshape(-1, 1)
    planes = {"codes": np.repeat(codes[None], scales.size, axis=0), "scales": scales}
    with np.errstate(over="ignore"):
        want = float8.decoded_by_compressed_tensors(planes["codes"], scales)
    planes["codes"] = planes["codes"].view(numpy_dtype("float8_e4m3fn"))
    codec = ac.Minifloat(block_size=(1, None), flavour=FLAVOUR)
    got, nan = codec.decode(planes, spec_of(want)), np.isnan(values("float8_e4m3fn"))
    same_bits(got[:, ~nan], want[:, ~nan], dtype)
    assert np.isnan(want[:, nan].astype(np.float32)).all()


@needs("compressed_tensors")
@pytest.mark.level("full")
def test_classes_outside_the_domain_differ_as_the_page_says() -> None:
    """The scale and the first code on either side, by class."""
    tiny, quotient = -(2.0**-130), -(2.0**-120)
    rows: dict[tuple[str, str], tuple[list[float], tuple[float, int], tuple[float, int]]] = {
        ("float32", "scale below 2^-100"): ([2.0**-95], (2.0**-23, 0), (2.0**-95 / 448, 0x7E)),
        ("bfloat16", "scale below 2^-100"): ([2.0**-95], (2.0**-7, 0), (float(np.float32(2.0**-95)) / 448, 0x7E)),
        ("float32", "negative and subnormal"): ([tiny, 448], (1, 0), (1, 0x80)),
        ("bfloat16", "negative and subnormal"): ([tiny, 448], (1, 0), (1, 0x80)),
        ("float32", "subnormal quotient"): ([quotient, 448 * 2.0**9], (2.0**9, 0), (2.0**9, 0x80)),
        ("float16", "quotient that rounds to -0"): ([-(2.0**-20), 2.0**15], (73.125, 0), (73.125, 0)),
        ("float32", "NaN"): ([np.nan, 448], (np.nan, 0), (np.nan, 0x7F)),
        ("float32", "infinity"): ([np.inf, 448], (np.nan, 0), (np.inf, 0x7F)),
    }
    for (dtype, what), (head, ours, theirs) in rows.items():
        x = np.zeros((1, 8), numpy_dtype(dtype))
        x[0, : len(head)] = head
        enc = ac.encode(x, PRESETS["FP8_DYNAMIC"], check=False)
        want = float8.preset(x, "FP8_DYNAMIC")
        for planes, (scale, code) in ((enc.planes, ours), (want, theirs)):
            sign = 0x7F if code == 0x7F else 0xFF  # that of a computed NaN depends on the processor
            assert planes["codes"].view(np.uint8)[0, 0] & sign == code, f"{dtype} {what}"
            same_bits(planes["scales"].reshape(-1), np.array([scale], numpy_dtype(dtype)), f"{dtype} {what}: scale")


# -- torchao, ml_dtypes


@needs("torchao")
@pytest.mark.level("full")
@pytest.mark.parametrize("block_size", [None, (1, None), (1, 128), (65, 128)], ids=str)
def test_flavour_in_float32_equals_torchao_but_for_signs_of_zero(block_size: Any) -> None:
    codec, elements = ac.Minifloat(block_size=block_size, flavour=FLAVOUR), 0
    for what, x in arrays("float32", (130, 256), 2):
        sizes = tuple(n or length for n, length in zip(block_size or (None, None), x.shape, strict=True))
        tiles, _ = float8.inside(x, block_size)
        tiles &= float8.tile_absmax(x, block_size) > 0  # torchao divides by 0
        inside = float8.spread(tiles, x.shape, block_size)
        enc, want = ac.encode(x, codec, check=False), float8.torchao(x, sizes, codec.format)
        scales = want["scales"].reshape(enc.planes["scales"].shape)
        same_bits(enc.planes["scales"][tiles], scales[tiles], f"{what}: scales")
        got, theirs = enc.planes["codes"].view(np.uint8), want["codes"]
        same_bits(
            np.where(got == 0x80, np.uint8(0), got)[inside], np.where(theirs == 0x80, np.uint8(0), theirs)[inside], what
        )
        same_bits(ac.decode(enc)[inside] + np.float32(0), want["decoded"][inside] + np.float32(0), f"{what}: decoded")
        elements += int(inside.sum())
    print(f"torchao {block_size}: {elements:,} elements, 0 differ")
    assert elements > 500_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_ml_dtypes_casts_of_the_quotients(name: str, dtype: str) -> None:
    """Of x * (1 / (absmax * (1 / largest))), each operation in float32, for blocks that are finite and not 0."""
    codec, largest = ac.Minifloat(name), np.float32(FORMATS[name].largest)
    for distribution in ("normal", "ties", "log-normal", "bits"):
        x = Recipe((128, 64), dtype, distribution, 0, 1).array()
        wide = x.astype(np.float32)
        wide = np.where(np.abs(wide) < 2.0**-126, np.copysign(np.float32(0), wide), wide)
        with np.errstate(all="ignore"):
            absmax = np.abs(wide).max(axis=1, keepdims=True)
            scale = absmax * (np.float32(1) / largest)
            y = wide * (np.float32(1) / scale)
            y = np.where(y > largest, largest, np.where(y < -largest, -largest, y))
        inside = (absmax < 2.0**126) & (scale >= 2.0**-100)
        planes = codec.encode(x)
        same_bits(planes["scales"][inside], scale[inside], f"{name} {distribution}: scales")
        want = float8.ml_dtypes_cast(y, name)
        got = float8.unpacked(planes["codes"], codec.bits, x.size).reshape(x.shape)
        same_bits(got[inside[:, 0]], want[inside[:, 0]], f"{name} {distribution}: codes")
