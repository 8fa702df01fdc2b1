"""The linear codec and other libraries at hand (extra `peers`): compressed-tensors, torchao, quanto, gguf-py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance import integer_oracles
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe
from tests.codecs.peers import needs

DTYPES = ("float32", "bfloat16", "float16")
DISTRIBUTIONS = (
    "normal", "uniform", "cauchy", "ties", "thresholds", "sparse", "log-normal", "bits", "integers", "constant",
)  # fmt: skip
TILES = [None, (1, None), (1, 32), (8, 24), (128, 128), (1, 1), (32, 1)]
EXPERTS = [(1, False, (1, 32)), (4, True, (1, 32)), (4, False, (1, 16)), (3, False, (1, None)), (8, True, (1, None))]

pytestmark = pytest.mark.level("full")


def foreign(bits: int, symmetric: bool, block_size: Any, arithmetic: str = "eager") -> ac.Linear:
    return ac.Linear(bits, symmetric, block_size, "compressed-tensors", arithmetic)


# -- compressed-tensors


def arrays(dtype: str, shape: tuple[int, ...], seeds: int) -> Iterator[tuple[str, np.ndarray]]:
    """Finite arrays of many distributions and exponents."""
    for seed in range(seeds):
        for distribution in DISTRIBUTIONS:
            for exponent in (0, -6, -90, 100) if dtype != "float16" else (0, -6, -14, 8):
                x = Recipe(shape, dtype, distribution, exponent, seed).array()
                with np.errstate(invalid="ignore"):
                    finite = np.isfinite(x.astype(np.float32))
                yield f"{distribution} 2^{exponent}", np.where(finite, x, x.dtype.type(0))


@needs("compressed_tensors")
def test_presets_are_those_of_compressed_tensors() -> None:
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    for kind, ours in (("weights", oracle.WEIGHTS), ("input_activations", oracle.ACTIVATIONS)):
        schemes = {name: getattr(preset_name_to_scheme(name, []), kind) for name in PRESET_SCHEMES}
        theirs = {name: args for name, args in schemes.items() if args is not None and args.type == "int"}
        assert set(theirs) == set(ours)
        for name, args in theirs.items():
            group = args.group_size if args.strategy == "group" else None
            assert args.strategy in ("group", "channel", "token")
            assert ours[name] == foreign(args.num_bits, args.symmetric, (1, group)), name


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
def test_presets_store_and_decode_the_same_bytes(dtype: str) -> None:
    """Rows of the domain, as the library's own compressor stores them."""
    counts = Counter()
    for name, codec in oracle.WEIGHTS.items():
        for what, x in arrays(dtype, (32, 256), 2):
            whole = oracle.quantise(x, oracle.arguments(codec.bits, codec.symmetric, codec.block_size))["scales"]
            x = x[oracle.inside(x, codec, whole).all(axis=1)]
            if len(x) <= 8:  # there it cannot unpack its own zero points of 4 bits
                continue
            want, planes, packed = oracle.compress(x, name), codec.encode(x), name.endswith(("A16", "ASYM"))
            codes = oracle.integers(planes["codes"], codec.bits, x.shape)
            got = {
                "weight_packed" if packed else "weight": oracle.words(codes, codec.bits) if packed else codes,
                "weight_scale": planes["scales"],
                "decoded": codec.decode(planes, spec_of(x)),
            }
            if not codec.symmetric:
                got["weight_zero_point"] = oracle.zero_point_words(planes["zero_points"], codec.bits)
            assert set(want) == {*got, *(["weight_shape"] if packed else [])}
            for plane, array in got.items():
                same_bits(array, want[plane], f"{name} {dtype} {what}: {plane}")
                counts[f"bytes of {plane}"] += array.nbytes
            counts["elements"] += x.size
    print(f"presets {dtype}: {dict(counts)}, 0 differ")
    assert counts["elements"] > 1_000_000


@needs("compressed_tensors")
@pytest.mark.parametrize("arithmetic", ["eager", "float32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_width_and_tile_equals_compressed_tensors(dtype: str, arithmetic: str, level: Level) -> None:
    """`float32` is what its Triton kernel computes, in torch operations."""
    counts = Counter()
    for bits in range(1, 9):
        for symmetric in (True, False):
            for block_size in TILES:
                codec = foreign(bits, symmetric, block_size, arithmetic)
                args = oracle.arguments(bits, symmetric, block_size)
                for what, x in arrays(dtype, (16, 96), 10 if level >= Level.exhaustive else 1):
                    counts += compare(x, codec, args, f"{codec} {dtype} {what}")
    print(f"tiles {dtype} {arithmetic}: {dict(counts)}, 0 differ inside")
    assert counts["inside"] > 1_000_000


def compare(x: np.ndarray, codec: ac.Linear, args: Any, what: str) -> Counter[str]:
    """Require the same planes and decoded values inside the domain; how many elements are inside and outside."""
    want = oracle.quantise(x, args, codec.arithmetic == "float32")
    enc = ac.encode(x, codec, check=False)
    codes = oracle.integers(enc.planes["codes"], codec.bits, x.shape)
    tiles = oracle.inside(x, codec, want["scales"])
    mask = oracle.spread(tiles, x.shape, codec.block_size)
    for name in ("scales",) if codec.symmetric else ("scales", "zero_points"):
        ours, theirs = enc.planes[name].reshape(-1), want[name].reshape(-1)
        same_bits(ours[tiles.reshape(-1)], theirs[tiles.reshape(-1)], f"{what}: {name}")
    same_bits(codes[mask], want["integers"][mask], f"{what}: codes")
    same_bits(ac.decode(enc)[mask], want["decoded"][mask], f"{what}: decoded")
    outside = ~mask
    different = int((codes != want["integers"]).sum())
    return Counter(inside=int(mask.sum()), outside=int(outside.sum()), codes_that_differ_outside=different)


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
def test_experts_equal_compressed_tensors(dtype: str) -> None:
    """Weights of more axes: words are packed matrix by matrix, those of zero points too."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    counts = Counter()
    for shape in ((3, 8, 64), (2, 3, 8, 64)):
        for bits, symmetric, block_size in EXPERTS:
            codec, args = foreign(bits, symmetric, block_size), oracle.arguments(bits, symmetric, block_size)
            for what, x in arrays(dtype, shape, 1):
                counts += compare(x, codec, args, f"{codec} {dtype} {what}")
            planes = codec.encode(Recipe(shape, dtype, "normal", 0, 1).array())
            codes = oracle.integers(planes["codes"], bits, shape)
            theirs = pack_to_int32(oracle.to_torch(codes), bits).numpy()
            same_bits(oracle.words(codes, bits), theirs, f"{codec}: words")
            if not symmetric and len(shape) == 3:
                zeros = planes["zero_points"]
                theirs = np.stack([pack_to_int32(oracle.to_torch(z), bits, packed_dim=0).numpy() for z in zeros])
                same_bits(oracle.zero_point_words(zeros, bits), theirs, f"{codec}: words of zero points")
    print(f"experts {dtype}: {dict(counts)}, 0 differ inside")


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_equal_compressed_tensors(dtype: str) -> None:
    """Dynamic per token; static with scales of a calibration, per tensor and, for a cache, per head."""
    from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme

    counts = Counter()
    for name in ("W8A8", "W4A4"):
        args = preset_name_to_scheme(name, []).input_activations
        for what, x in arrays(dtype, (2, 12, 96), 2):
            counts += compare(x, oracle.ACTIVATIONS[name], args, f"{name} per token {dtype} {what}")
            one = foreign(args.num_bits, True, None)  # its tokens of a matrix share a scale
            counts += compare(x[0], one, args, f"{name} of a matrix {dtype} {what}")
    for strategy, block_size, own, theirs in (
        ("tensor", None, 1, 1),
        ("attn_head", (None, None), (1, 4, 1, 1), (4, 1, 1)),
    ):
        args = QuantizationArgs(num_bits=8, type="int", strategy=strategy, dynamic=False)
        scales = np.random.default_rng(1).uniform(2**-8, 2**-4, own).astype(numpy_dtype(dtype))
        for what, x in arrays(dtype, (1, 4, 12, 64), 2):
            want = oracle.quantise(x, args, scales=scales.reshape(theirs))
            enc = ac.encode(x, foreign(8, True, block_size), given={"scales": scales})
            same_bits(enc.planes["codes"], want["integers"], f"{strategy} {dtype} {what}: codes")
            same_bits(ac.decode(enc), want["decoded"], f"{strategy} {dtype} {what}: decoded")
            counts["static"] += x.size
    print(f"activations {dtype}: {dict(counts)}, 0 differ inside")


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_scale_decodes_as_in_compressed_tensors(dtype: str) -> None:
    """All 2^16 scales with all codes of 4 bits and several zero points; outside are those that are not usable, and the
    sign of a zero."""
    scales = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))[:, None]
    integers = np.broadcast_to(np.arange(-8, 8, dtype=np.int8), (2**16, 16))
    codec, args = foreign(4, False, (1, None)), oracle.arguments(4, False, (1, None))
    unsigned = (integers + 8).astype(np.uint8)
    packed = unsigned[:, ::2] | (unsigned[:, 1::2] << 4)
    wide = np.abs(scales.astype(np.float32))
    usable = (np.isfinite(wide) & (wide >= 2.0**-100))[:, 0]
    for zero in (-8, 0, 7):
        zeros = np.full(scales.shape, zero, np.int8)
        got = codec.decode({"codes": packed, "scales": scales, "zero_points": zeros}, ac.ArraySpec((2**16, 16), dtype))
        want = oracle.dequantise(integers, scales, zeros, args)
        positive = usable & (np.arange(2**16) < 2**15)
        same_bits(got[positive], want[positive], f"{dtype}, zero point {zero}")
        negative = usable & ~positive
        value = want[negative]
        same_bits(got[negative], np.where(value == 0, value.dtype.type(0), value), f"{dtype}, negative scales")
    print(f"scales {dtype}: {3 * 16 * int(usable.sum()):,} products, 0 differ")


@needs("compressed_tensors")
def test_classes_outside_the_domain_differ_as_the_page_says() -> None:
    """What either side stores for a tile of four: scale, zero point (0 where there is none) and codes."""
    nan, inf, eps = np.nan, np.inf, 2.0**-23
    tiny, small = float(np.float32(2.0**-101) / np.float32(7.5)), float(np.float32(2.0**-99) / np.float32(7.5))
    marked = [nan, 0, 0, 0, 0, 0]
    rows: list[tuple[str, bool, list[float], list[float], list[float]]] = [
        ("bfloat16", True, [nan, 1, -1, 0], marked, marked),
        ("bfloat16", True, [inf, 1, -1, 0], marked, [inf, 0, 0, 0, 0, 0]),
        ("bfloat16", False, [inf, 1, -1, 0], marked, [inf, -8, 0, -8, -8, -8]),
        ("float32", False, [3e38, -3e38, 1, 0], marked, [inf, -8, -8, -8, -8, -8]),
        ("float16", False, [65504, -65504, 1, 0], marked, [inf, -8, -8, -8, -8, -8]),
        ("float32", True, [2.0**-99, 0, 0, -(2.0**-99)], [small, 0, 0, 0, 0, 0], [small, 0, 7, 0, 0, -7]),
        ("float32", False, [2.0**-99, 0, 0, -(2.0**-99)], [small, -1, -1, -1, -1, -1], [small, -1, 6, -1, -1, -8]),
        ("float32", True, [2.0**-101, 0, 0, -(2.0**-101)], [eps, 0, 0, 0, 0, 0], [tiny, 0, 7, 0, 0, -7]),
        ("float32", False, [2.0**-101, 0, 0, -(2.0**-101)], [eps, 0, 0, 0, 0, 0], [tiny, -1, 6, -1, -1, -8]),
        ("float32", False, [2.0**-149, 0, 0, -(2.0**-149)], [eps, 0, 0, 0, 0, 0], [eps, 7, 7, 7, 7, 7]),
    ]
    for dtype, symmetric, tile, ours, theirs in rows:
        x = np.array([tile], np.float32).astype(numpy_dtype(dtype))
        codec, args = foreign(4, symmetric, (1, 4)), oracle.arguments(4, symmetric, (1, 4))
        want, planes = oracle.quantise(x, args), codec.encode(x)
        got = [planes["scales"], planes.get("zero_points", np.zeros(1)), oracle.integers(planes["codes"], 4, x.shape)]
        for found, expected in ((got, ours), ([want[n] for n in ("scales", "zero_points", "integers")], theirs)):
            numbers = np.concatenate([array.astype(np.float64).reshape(-1) for array in found])
            np.testing.assert_array_equal(numbers, np.array(expected), err_msg=f"{dtype} {symmetric} {tile}")


# -- torchao, optimum-quanto, gguf-py


@needs("torchao")
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_of_torchao_with_its_scales(dtype: str, symmetric: bool) -> None:
    """It multiplies by the reciprocal, as our own flavour does, but has all 256 codes in symmetric tensors too."""
    counts: Counter[str] = Counter()
    for group in (None, 32):
        codec = ac.Linear(8, False, (1, group))
        for what, x in arrays(dtype, (64, 256), 2):
            want = integer_oracles.torchao_int8(x, symmetric, group)
            finite = np.isfinite(want["scales"])
            given = {name: want[name] for name in ("scales", "zero_points")}
            planes = codec.encode(x, given)
            same_bits(planes["codes"], want["codes"], f"torchao {dtype} {what}: codes")
            mask = oracle.spread(finite, x.shape, codec.block_size)
            decoded = codec.decode(planes, spec_of(x))
            same_bits(decoded[mask], want["decoded"][mask], f"torchao {dtype} {what}: decoded")
            own = ac.Linear(8, symmetric, (1, group), "compressed-tensors", "eager").encode(x)
            counts["scales"] += finite.size
            counts["scales_unlike_eager"] += int((own["scales"].astype(np.float32) != want["scales"]).sum())
            counts["elements"] += x.size
    print(f"torchao {dtype} symmetric={symmetric}: {dict(counts)}, 0 codes and decoded values differ")


@needs("optimum")
@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_of_quanto_with_its_scales(dtype: str) -> None:
    """It divides, rounding to the array's dtype, by absmax / 127."""
    counts, codec, own = Counter(), foreign(8, True, (1, None)), ac.Linear(8, block_size=(1, None))
    for what, x in arrays(dtype, (64, 256), 2):
        want = integer_oracles.quanto_int8(x)
        rows = (want["scales"].astype(np.float32) >= 2.0**-100)[:, 0]
        x, want = x[rows], {name: plane[rows] for name, plane in want.items()}
        planes = codec.encode(x, {"scales": want["scales"]})
        same_bits(planes["codes"], want["codes"], f"quanto {dtype} {what}: codes")
        same_bits(codec.decode(planes, spec_of(x)), want["decoded"], f"quanto {dtype} {what}: decoded")
        counts["elements"] += x.size
        counts["codes of our own flavour that differ"] += int((own.encode(x)["codes"] != want["codes"]).sum())
    print(f"quanto {dtype}: {dict(counts)}, 0 differ with its scales")


@needs("gguf")
def test_q8_0_of_gguf_is_int8_in_blocks_of_32_but_for_ties() -> None:
    """Its scales are absmax / 127 rounded to float16; it rounds halves away from zero."""
    counts, codec = Counter(), ac.Linear(8, block_size=32)
    for what, x in arrays("float32", (64, 256), 4):
        x = x.reshape(-1, 32)
        absmax = np.abs(x).max(axis=1)
        x = x[(absmax == 0) | (absmax >= 127 * 2.0**-100)]
        with np.errstate(over="ignore"):
            want, planes = integer_oracles.gguf_q8_0(x), codec.encode(x)
            half = planes["scales"].astype(np.float16)
        y = np.abs(x) / np.where(planes["scales"] == 0, np.float32(1), planes["scales"])
        tie = np.abs(y - np.floor(y) - np.float32(0.5)) < 1e-4
        same_bits(planes["codes"][~tie], want["codes"][~tie], f"q8_0 {what}: codes")
        finite = np.isfinite(half)[:, 0]
        stored = {"codes": want["codes"], "scales": want["scales"].reshape(half.shape)}
        decoded = codec.decode(stored, spec_of(x))
        same_bits(decoded[finite], want["decoded"][finite] + np.float32(0), f"q8_0 {what}: decoded")
        counts["elements"] += x.size
        counts["codes that differ at ties"] += int((planes["codes"] != want["codes"]).sum())
        counts["scales"] += half.size
        counts["scales that differ"] += int((half.astype(np.float32) != stored["scales"]).sum())
    print(f"gguf Q8_0: {dict(counts)}, no other codes and no decoded values differ")
    assert counts["scales that differ"] < 1e-3 * counts["scales"]


@needs("gguf")
def test_q4_0_of_gguf_decodes_to_the_same_numbers() -> None:
    """Its scales may be negative: there its zeros are -0."""
    codec, elements = ac.Linear(4, block_size=32), 0
    for what, x in arrays("float32", (64, 256), 4):
        with np.errstate(over="ignore"):
            want = integer_oracles.gguf_q4_0(x)
        spec, scales = spec_of(x.reshape(-1, 32)), want["scales"]
        got = codec.decode({"codes": want["codes"], "scales": scales}, spec)
        rows = np.isfinite(scales)[:, 0]
        same_bits(got[rows], want["decoded"][rows] + np.float32(0), f"q4_0 {what}: decoded")
        elements += 32 * int(rows.sum())
    print(f"gguf Q4_0: {elements:,} elements decoded, 0 differ")
