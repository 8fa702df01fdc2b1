"""The microscaling codec beyond the suite: the OCP text and ml_dtypes as judges, every byte, given scales, parameters.

Other libraries are compared in test_microscaling_peers.py, where they are installed; what compressed-tensors stores is
known here by hashes.
"""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.codecs.microscaling import FORMAT_NAMES
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance import mx_oracles
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import sha
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import PATTERNS, Recipe
from tests.codecs.mx_support import (
    DTYPES,
    assert_same_when_subnormals_are_flushed,
    every_pattern,
    golden_input,
    matrices,
    unpacked,
)

FLAVOUR = "compressed-tensors"
FOREIGN = [ac.Microscaling(name, flavour=FLAVOUR) for name in ("float4_e2m1fn", "float6_e2m3fn", "float8_e4m3fn")]
CODECS = [*map(ac.Microscaling, FORMAT_NAMES), *FOREIGN]
GOLDEN = (  # of compressed-tensors 0.20.0, MXFP4A16, MXFP6A16 and MXFP8A16: codes, scales, decoded
    ("1df80490a927", "e73b18a26f05", "0c50b75d8921"),
    ("33f2a230c55b", "eb828bc0670b", "10d79c165e99"),
    ("de9f8a9109e1", "73d8e2e0842d", "c7f0634145b4"),
)


# -- encoding


@pytest.mark.parametrize(("codec", "hashes"), list(zip(FOREIGN, GOLDEN, strict=True)), ids=["fp4", "fp6", "fp8"])
def test_golden_hashes_of_compressed_tensors(codec: ac.Microscaling, hashes: tuple[str, ...]) -> None:
    enc = ac.encode(golden_input(), codec)
    assert (sha(enc.planes["codes"]), sha(enc.planes["scales"]), sha(ac.decode(enc))) == hashes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_encode_equals_the_ocp_text(name: str, dtype: str, level: Level) -> None:
    codec, elements = ac.Microscaling(name), 0
    for what, x in matrices(dtype, 10 if level >= Level.full else 1, (0, -6, 10, -99, 120)):
        blocks = x.reshape(-1, 32)[in_the_text(x.reshape(-1, 32))]
        planes = codec.encode(blocks)
        codes, scales = mx_oracles.ocp_encode(blocks, name)
        same_bits(unpacked(planes["codes"], codec.bits, blocks.size), codes.view(np.uint8), f"{name} {what}: codes")
        same_bits(planes["scales"].reshape(-1), scales, f"{name} {what}: scales")
        elements += blocks.size
    print(f"{name} {dtype}: {elements:,} elements, 0 differ")
    assert elements > 100_000


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_bfloat16_number_as_the_largest_of_a_block(name: str) -> None:
    """It and seven zeros: as the OCP text has it, and zero blocks and those that are not finite as the page has it."""
    codec, blocks = ac.Microscaling(name, block_size=8), np.zeros((2**16, 8), ml_dtypes.bfloat16)
    blocks[:, 3] = every_pattern("bfloat16")
    planes = codec.encode(blocks)
    codes, scales = unpacked(planes["codes"], codec.bits, blocks.size).reshape(-1, 8), planes["scales"].reshape(-1)
    inside, finite = in_the_text(blocks), np.isfinite(blocks[:, 3].astype(np.float32))
    want = mx_oracles.ocp_encode(blocks[inside], name, 8)
    same_bits(codes[inside].reshape(-1), want[0].view(np.uint8), f"{name}: codes")
    same_bits(scales[inside], want[1], f"{name}: scales")
    assert (scales[~finite] == 255).all()
    assert not codes[~finite].any()
    assert (scales[finite & ~inside] == 0).all()
    minus_zero = np.signbit(blocks[finite & ~inside]) & (name != "int8")
    assert (codes[finite & ~inside] == np.where(minus_zero, 1 << (codec.bits - 1), 0)).all()
    assert inside.sum() == 2 * (255 - 27) * 128, "exponent fields from 27, which is 2^-100, to 254"


@pytest.mark.parametrize(
    ("codec", "emax", "kept"), list(zip(FOREIGN, (2, 2, 8), (1, 3, 1), strict=True)), ids=["fp4", "fp6", "fp8"]
)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_scales_of_the_flavour_from_every_number(codec: ac.Microscaling, emax: int, kept: int, dtype: str) -> None:
    """By the bits of the dtype: rounded to `kept` mantissa bits as the library does it, by adding and cutting."""
    codec, x = ac.Microscaling(codec.format, 8, FLAVOUR), np.zeros((2**16, 8), numpy_dtype(dtype))
    x[:, 5] = every_pattern(dtype)
    mantissa, bias, smallest, zero = {"bfloat16": (7, 127, 27, 0), "float16": (10, 15, 1, 127)}[dtype]
    bits = every_pattern(dtype).view(np.uint16).astype(int) & 0x7FFF
    exponent = ((bits + (1 << (mantissa - kept - 1))) >> mantissa) - bias
    want = np.where(bits >> mantissa < smallest, zero, exponent + 127 - emax)
    want = np.where(bits >> mantissa == 2 * bias + 1, 255, want).astype(np.uint8)
    same_bits(codec.encode(x)["scales"].reshape(-1), want, f"{codec} {dtype}")


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_every_bfloat16_number_with_given_scales(codec: ac.Microscaling) -> None:
    """Clamped and rounded by ml_dtypes, from float64; NaN and infinity too, which only given scales let through."""
    x = every_pattern("bfloat16")
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float64)
    wide = np.where(np.abs(wide) < 2.0**-126, np.copysign(0, wide), wide)
    for byte in (0, 1, 16, 17, 90, 120, 127, 128, 141, 200, 254, 255):
        planes = codec.encode(x, {"scales": np.full(2048, byte, np.uint8)})
        with np.errstate(all="ignore"):
            y = np.ldexp(wide, 127 - byte)
        y = np.where(np.abs(y) < 2.0**-126, np.copysign(0, wide), y) if byte else np.copysign(0, wide)
        signs = codec.flavour is None or codec.format == "float6_e2m3fn"
        want = cast(np.where((wide == 0) & (not signs), 0, y) if byte < 255 else np.zeros(x.size), codec.format)
        same_bits(unpacked(planes["codes"], codec.bits, x.size), want, f"{codec} scale {byte}")


def in_the_text(blocks: np.ndarray) -> np.ndarray:
    """Finite blocks with absmax from 2^-100, without subnormal elements: those that section 6.3 is compared on."""
    wide = np.abs(blocks.astype(np.float32))
    subnormal = ((wide < 2.0**-126) & (wide != 0)).any(axis=1)
    return np.isfinite(wide).all(axis=1) & (wide.max(axis=1) >= 2.0**-100) & ~subnormal


def cast(y: np.ndarray, name: str) -> np.ndarray:
    """float64 numbers as codes, one to a byte."""
    y, nan = np.nan_to_num(y, posinf=np.inf, neginf=-np.inf), np.isnan(y)
    if name == "int8":
        return np.clip(np.rint(y * 64), -127, 127).astype(np.int8).view(np.uint8)
    largest = float(ml_dtypes.finfo(name).max)
    codes = np.clip(y, -largest, largest).astype(np.float32).astype(getattr(ml_dtypes, name)).view(np.uint8)
    return np.where(nan, {"float8_e4m3fn": 0x7F, "float8_e5m2": 0x7E}.get(name, 0), codes).astype(np.uint8)


# -- every byte


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_every_code_with_every_scale_decodes_to_its_product(name: str, dtype: str) -> None:
    """ml_dtypes' values of codes and scales, in float64; what float32 cannot hold as a normal number is a zero."""
    codec = ac.Microscaling(name)
    planes = every_code_with_every_scale(codec)
    spec = ac.ArraySpec((planes["scales"].size * 32,), dtype)
    codes = unpacked(planes["codes"], codec.bits, spec.size)
    values = codes.view(np.int8) / 64 if name == "int8" else codes.view(getattr(ml_dtypes, name)).astype(float)
    with np.errstate(over="ignore", invalid="ignore"):
        product = values * np.repeat(planes["scales"].view(ml_dtypes.float8_e8m0fnu).astype(float), 32)
        product = np.where(np.abs(product) < 2.0**-126, np.copysign(0, values), product)
        want = product.astype(np.float32).astype(spec.numpy_dtype)
    got = codec.decode(planes, spec)
    nan = np.isnan(want.astype(np.float32))
    same_bits(got[~nan], want[~nan], f"{name} {dtype}")
    canonical = {"float32": 0x7FC00000, "bfloat16": 0x7FC0, "float16": 0x7E00}[dtype]
    assert (got[nan].view(f"u{got.itemsize}") == canonical).all()


def every_code_with_every_scale(codec: ac.Microscaling) -> dict[str, np.ndarray]:
    """Flat planes in which each of the 256 scales has blocks with all codes."""
    codes = np.tile((np.arange(max(32, 1 << codec.bits)) & ((1 << codec.bits) - 1)).astype(np.uint8), 256)
    stream = np.unpackbits(codes[:, None], axis=1, count=codec.bits, bitorder="little")
    packed = np.packbits(stream.reshape(-1), bitorder="little")
    scales = np.repeat(np.arange(256, dtype=np.uint8), codes.size // 256 // 32)
    return {"codes": packed.view(codec.planes(ac.ArraySpec((32,), "float32"))["codes"].numpy_dtype), "scales": scales}


def test_hardware_that_flushes_subnormals_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        x = np.array(PATTERNS, np.uint32).view(np.float32)[:, None] * rng.uniform(-1, 1, (len(PATTERNS), 64))
        x = x.astype(np.float32)

    def results() -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for codec in CODECS:
            planes, every = codec.encode(x), every_code_with_every_scale(codec)
            found += planes.values()
            found += [codec.decode(planes, ac.ArraySpec(x.shape, dtype)) for dtype in DTYPES]
            found.append(codec.decode(every, ac.ArraySpec((every["scales"].size * 32,), "float32")))
        return found

    assert_same_when_subnormals_are_flushed(results)


# -- given scales, parts


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_computed_scales_can_be_given(codec: ac.Microscaling) -> None:
    """Encoding with the scales that encoding found gives the same codes, zero blocks and non-finite ones included."""
    for dtype in DTYPES:
        for distribution, exponent in (("normal", 0), ("bits", 0), ("normal", -99), ("normal", 126), ("sparse", -6)):
            x = Recipe((16, 96), dtype, distribution, exponent, 3).array()
            planes = codec.encode(x)
            given = codec.encode(x, {"scales": planes["scales"]})
            same_bits(given["codes"], planes["codes"], f"{codec} {dtype} {distribution}")


@pytest.mark.parametrize("name", FORMAT_NAMES)
def test_any_given_scale_saturates_and_keeps_zeros(name: str) -> None:
    codec, row = ac.Microscaling(name), [1, -1, 0, -0.0, 2.0**-126, 2.0**127, np.inf, -np.inf]
    x = np.tile(np.array(row, np.float32), (256, 4))
    planes = codec.encode(x, {"scales": np.arange(256, dtype=np.uint8)[:, None]})
    decoded = codec.decode(planes, spec_of(x))
    huge, one = np.full((1, 32), 2.0**127, np.float32), np.full((1, 1), 127, np.uint8)
    largest = codec.decode(codec.encode(huge, {"scales": one}), spec_of(huge))[0, 0]
    assert np.isnan(decoded[255]).all()
    assert (decoded[0] == 0).all()
    assert (decoded[1:255, 2:4] == 0).all()
    with np.errstate(over="ignore"):
        expected = (largest * np.exp2(np.arange(1, 255) - 127.0)).astype(np.float32)
    same_bits(decoded[1:255, 6], expected, "infinity becomes the largest number")
    same_bits(decoded[1:255, 7], -expected, "and with its sign")


@pytest.mark.parametrize(("name", "bits"), [("mxfp4", 4), ("mxfp6", 6), ("mxint8", 8)])
def test_reading_a_part_fetches_its_blocks_only(name: str, bits: int) -> None:
    enc, fetched = ac.encode(Recipe((64, 256), "float32", "normal", 0, 1).array(), name), []

    def fetch(plane: str, piece: slice) -> np.ndarray:
        fetched.append(enc.planes[plane].reshape(-1)[piece])
        return fetched[-1]

    part = enc.codec.read(fetch, enc.spec, 1000, 1030)
    same_bits(part, ac.decode(enc).reshape(-1)[1000:1030], name)
    assert [plane.nbytes for plane in fetched] == [64 * bits // 8, 2]


# -- parameters, threads, memory


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"format": "fp4"}, "format must be one of float4_e2m1fn.*got 'fp4'"),
        ({"format": None}, "format must be one of .* got None"),
        ({"block_size": 24}, "block_size must be a power of two from 8 to 1024, got 24"),
        ({"block_size": None}, "block_size must be"),
        ({"block_size": True}, "block_size must be"),
        ({"block_size": 32.0}, "block_size must be"),
        ({"block_size": (1, 32)}, "block_size must be"),
        ({"block_size": 2048}, "block_size must be"),
        ({"flavour": "ocp"}, "flavour must be None or 'compressed-tensors', got 'ocp'"),
        ({"format": "int8", "flavour": FLAVOUR}, "format of flavour 'compressed-tensors' must be one of"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=f"microscaling: {message}"):
        ac.Microscaling(**params)


def test_nonfinite_blocks_are_reported() -> None:
    x = np.ones((4, 64), np.float32)
    x[2, 40] = np.inf
    with pytest.raises(ac.NonFiniteError, match="in 1 of 8 blocks, first at block 5"):
        ac.encode(x, "mxfp8")


def test_results_do_not_depend_on_threads() -> None:
    x, results = Recipe((1025, 1056), "bfloat16", "normal", 0, 1).array(), []
    for threads in (1, 2, 3):
        ac.set_num_threads(threads)
        try:
            for name in ("mxfp6", "mxfp8"):
                enc = ac.encode(x, name)
                results.append([*enc.planes.values(), ac.decode(enc)])
        finally:
            ac.set_num_threads(None)
    for i, found in enumerate(results):
        for other, first in zip(found, results[i % 2], strict=True):
            same_bits(other, first, "threads")


@pytest.mark.parametrize("name", ["mxfp4", "mxfp6", "mxfp8", "mxint8"])
def test_encoding_takes_no_memory_but_its_planes(name: str) -> None:
    x = Recipe((2048, 2048), "float32", "normal", 0, 1).array()
    ac.encode(x, name)
    tracemalloc.start()
    enc = ac.encode(x, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < enc.nbytes + (1 << 20), f"{peak:,} bytes for planes of {enc.nbytes:,}"
