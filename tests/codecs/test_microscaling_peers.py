"""The microscaling codec beside compressed-tensors, torchao and gguf-py, each where it is installed (level full).

The tests print what docs/format/microscaling.md counts: elements inside a domain, of which none may differ, and blocks
of the classes outside.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.codecs.microscaling import FORMAT_NAMES
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance import mx_oracles
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from tests.codecs.mx_support import DTYPES, matrices, unpacked
from tests.codecs.peers import needs
from tests.codecs.test_microscaling import every_code_with_every_scale, in_the_text

pytestmark = pytest.mark.level("full")
FLAVOUR = "compressed-tensors"
PRESETS = {
    "MXFP4A16": ac.Microscaling("float4_e2m1fn", flavour=FLAVOUR),
    "MXFP6A16": ac.Microscaling("float6_e2m3fn", flavour=FLAVOUR),
    "MXFP8A16": ac.Microscaling("float8_e4m3fn", flavour=FLAVOUR),
}
ACTIVATIONS = {"MXFP4": "MXFP4A16", "MXFP6A8": "MXFP8A16", "MXFP8": "MXFP8A16"}  # the format of input activations
FLOATS = FORMAT_NAMES[:-1]


def exponents(dtype: str) -> tuple[int, ...]:
    return (0, -6, 10, -99, 120) if dtype != "float16" else (0, -6, -14, 10)


# -- compressed-tensors


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PRESETS)
def test_weights_equal_compressed_tensors_in_the_domain(name: str, dtype: str, level: Level) -> None:
    codec, inside, counts = PRESETS[name], 0, Counter[str]()
    for what, x in matrices(dtype, 40 if level >= Level.exhaustive else 4, exponents(dtype)):
        enc, want = ac.encode(x, codec, check=False), mx_oracles.preset(x, name)
        got = enc.planes | {"decoded": ac.decode(enc, dtype="bfloat16")}
        classes = mx_oracles.outside(x, name, enc.planes)
        equal = ~np.logical_or.reduce(list(classes.values()))
        different = np.zeros(equal.size, bool)
        for plane in ("codes", "scales"):
            ours, theirs = (np.ascontiguousarray(p[plane]).view(np.uint8).reshape(equal.size, -1) for p in (got, want))
            same_bits(ours[equal], theirs[equal], f"{name} {dtype} {what}: {plane}")
            different |= (ours != theirs).any(axis=1)
        ours, theirs = (p["decoded"].reshape(equal.size, -1) for p in (got, want))
        normal = equal & ~is_subnormal(theirs).any(axis=1)  # what is subnormal there is a zero here
        same_bits(ours[normal], theirs[normal], f"{name} {dtype} {what}: decoded")
        inside += 32 * int(equal.sum())
        for outside, mask in classes.items():
            counts += Counter({outside: int(mask.sum()), f"{outside}, differ": int((mask & different).sum())})
    print(f"{name} {dtype}: {inside:,} elements inside, 0 differ; blocks outside: {dict(counts)}")
    assert inside > 640_000


@needs("compressed_tensors")
@pytest.mark.parametrize("name", ["MXFP4", "MXFP4XFP8", "MXFP6A8", "MXFP8"])
def test_weights_of_presets_with_activations_are_those_without(name: str) -> None:
    _, x = next(matrices("bfloat16", 1, (0,)))
    for plane, array in mx_oracles.preset(x, f"{name[:5]}A16").items():
        same_bits(mx_oracles.preset(x, name)[plane], array, f"{name}: {plane}")


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_equal_compressed_tensors_in_the_domain(name: str, dtype: str) -> None:
    """Its dynamic quantisation, which gives the dtype of the activations, where results are normal numbers."""
    codec, elements = PRESETS[ACTIVATIONS[name]], 0
    for what, x in matrices(dtype, 2, exponents(dtype)):
        enc = ac.encode(x, codec, check=False)
        outside = np.logical_or.reduce(list(mx_oracles.outside(x, ACTIVATIONS[name], enc.planes).values()))
        got, want = ac.decode(enc).reshape(-1, 32), mx_oracles.fake_quantised(x, name).reshape(-1, 32)
        small = np.abs(want.astype(np.float32)) < (2.0**-14 if dtype == "float16" else 2.0**-126)
        equal = ~outside & ~(small & (want != 0)).any(axis=1)
        same_bits(got[equal], want[equal], f"{name} {dtype} {what}")
        elements += 32 * int(equal.sum())
    print(f"{name} {dtype}: {elements:,} activations, 0 differ")
    assert elements > 300_000


@needs("compressed_tensors")
@pytest.mark.parametrize("name", PRESETS)
def test_every_code_with_every_scale_decodes_as_in_compressed_tensors(name: str) -> None:
    """Outside: results below 2^-126, NaN codes, and the scale 255."""
    codec = PRESETS[name]
    planes = every_code_with_every_scale(codec)
    got = codec.decode(planes, ac.ArraySpec((planes["scales"].size * 32,), "bfloat16"))
    want = mx_oracles.decoded_by_preset(planes, name)
    scale, nan = np.repeat(planes["scales"], 32), np.isnan(want.astype(np.float32))
    outside = (scale == 255) | is_subnormal(want) | nan
    assert not (outside & (scale > 16) & (scale < 255) & ~nan).any()
    same_bits(got[~outside], want[~outside], name)
    print(f"{name}: {int((~outside).sum()):,} of {outside.size:,} decoded elements inside, 0 differ")


def is_subnormal(x: np.ndarray) -> np.ndarray:
    """Of a bfloat16 array."""
    u = x.view(np.uint16)
    return ((u & 0x7F80) == 0) & ((u & 0x7F) != 0)


@needs("compressed_tensors")
def test_classes_outside_the_domain_differ_as_the_page_says() -> None:
    """The first code of a block and its scale on either side, by class."""
    rows: dict[tuple[str, str, str], tuple[list[float], tuple[int, int], tuple[int, int]]] = {
        ("MXFP4A16", "float32", "absmax below 2^-100"): ([2.0**-101], (0, 0), (6, 24)),
        ("MXFP4A16", "bfloat16", "absmax subnormal"): ([2.0**-127], (0, 0), (2, 0)),
        ("MXFP4A16", "float16", "0.75 * 2^-14"): ([0.75 * 2.0**-14], (0, 127), (5, 111)),
        ("MXFP4A16", "float16", "below"): ([0.7 * 2.0**-14], (0, 127), (0, 127)),
        ("MXFP6A16", "float16", "15/16 * 2^-14"): ([0.9375 * 2.0**-14], (0, 127), (23, 111)),
        ("MXFP4A16", "float32", "negative and subnormal"): ([-(2.0**-130), 1.0], (0, 125), (8, 125)),
        ("MXFP8A16", "float32", "negative and subnormal"): ([-(2.0**-130), 1.0], (0, 119), (0x80, 119)),
        ("MXFP4A16", "float16", "quotient -0"): ([-(2.0**-13), 2.0**15], (8, 140), (0, 140)),
        ("MXFP8A16", "float16", "quotient -0"): ([-(2.0**-20), 2.0**15], (0x80, 134), (0, 134)),
    }
    for (name, dtype, what), (head, ours, theirs) in rows.items():
        x = np.zeros((1, 32), numpy_dtype(dtype))
        x[0, : len(head)] = head
        mask = (1 << PRESETS[name].bits) - 1
        enc, want = ac.encode(x, PRESETS[name]), mx_oracles.preset(x, name)
        for planes, expected in ((enc.planes, ours), (want, theirs)):
            found = int(planes["codes"].view(np.uint8)[0, 0]) & mask, int(planes["scales"][0, 0])
            assert found == expected, f"{name} {dtype} {what}"


@needs("compressed_tensors")
@pytest.mark.parametrize("name", PRESETS)
def test_zero_points_take_the_sign_of_minus_zero_in_mxfp8_only(name: str) -> None:
    x = np.full((1, 32), 0.5, np.float32)
    x[0, 0] = -0.0
    with_them, without = (mx_oracles.preset(x, name, zero_points=given) for given in (True, False))
    codes = [unpacked(planes["codes"], PRESETS[name].bits, 32) for planes in (with_them, without)]
    same_bits(codes[0][1:], codes[1][1:], "other elements")
    assert [int(c[0]) for c in codes] == {"MXFP4A16": [0, 0], "MXFP6A16": [32, 32], "MXFP8A16": [0, 0x80]}[name]


# -- torchao


def in_torchao_domain(x: np.ndarray) -> np.ndarray:
    """Blocks of zeros, and those in which the OCP text is followed."""
    blocks = x.reshape(-1, 32)
    return blocks[in_the_text(blocks) | (blocks == 0).all(axis=1)]


@needs("torchao")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FLOATS)
def test_floor_scales_equal_torchao(name: str, dtype: str) -> None:
    codec, elements = ac.Microscaling(name), 0
    for what, x in matrices(dtype, 4, exponents(dtype)):
        blocks = in_torchao_domain(x)
        planes, want = codec.encode(blocks), mx_oracles.torchao_mx(blocks, name)
        got, codes = unpacked(planes["codes"], codec.bits, blocks.size), want["codes"].reshape(-1)
        same_bits(got, unpacked(codes, 4, blocks.size) if codec.bits == 4 else codes, f"{name} {what}: codes")
        same_bits(planes["scales"].reshape(-1), want["scales"].reshape(-1), f"{name} {what}: scales")
        same_bits(codec.decode(planes, spec_of(blocks)), want["decoded"], f"{name} {what}: decoded")
        elements += blocks.size
    print(f"torchao FLOOR {name} {dtype}: {elements:,} elements, 0 differ")


@needs("torchao")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_even_scales_of_fp4_equal_torchao(dtype: str) -> None:
    codec, elements = PRESETS["MXFP4A16"], 0
    for what, x in matrices(dtype, 4, exponents(dtype)):
        blocks = in_torchao_domain(x)
        blocks = blocks[np.abs(blocks.astype(np.float32)).max(axis=1) < 1.75 * 2.0**127]
        planes, want = codec.encode(blocks), mx_oracles.torchao_mx(blocks, "float4_e2m1fn", even=True)
        theirs = unpacked(want["codes"], 4, blocks.size)
        theirs[blocks.reshape(-1) == 0] = 0  # it keeps signs of zeros
        same_bits(unpacked(planes["codes"], 4, blocks.size), theirs, f"{what}: codes")
        same_bits(planes["scales"].reshape(-1), want["scales"].reshape(-1), f"{what}: scales")
        elements += blocks.size
    print(f"torchao EVEN {dtype}: {elements:,} elements, 0 differ")


# -- gguf-py


@needs("gguf")
def test_mxfp4_is_that_of_gguf_but_for_ties_and_signs_of_zero() -> None:
    codec, counts = ac.Microscaling("float4_e2m1fn"), Counter[str]()
    for what, x in matrices("float32", 4, exponents("float32")):
        blocks = in_torchao_domain(x)
        planes, want = codec.encode(blocks), mx_oracles.gguf_mxfp4(blocks)
        scales = planes["scales"].reshape(-1)
        same = scales == want["scales"]
        near = (np.abs(blocks).max(axis=1).view(np.uint32) & 0x7FFFFF) >= 0x7FFFF0
        assert (same | near).all(), f"{what}: scales differ elsewhere than below a power of two"
        ours, theirs = (unpacked(p["codes"], 4, blocks.size).reshape(-1, 32)[same] for p in (planes, want))
        y = np.abs(blocks[same]) / np.exp2(scales[same].astype(float) - 127)[:, None]
        tie, zero = np.isin(y, (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5)), (ours == 8) & (theirs == 0)
        assert ((ours == theirs) | tie | zero).all(), f"{what}: codes differ elsewhere than at ties and zeros"
        counts += Counter(
            elements=ours.size,
            ties=int(((ours != theirs) & tie).sum()),
            zeros=int(zero.sum()),
            scales=int((~same).sum()),
        )
    print(f"gguf: {dict(counts)}")
    assert counts["ties"] and counts["zeros"] and counts["scales"]


@needs("gguf")
def test_every_byte_of_gguf_decodes_alike() -> None:
    from gguf.quants import MXFP4

    halves = np.arange(256, dtype=np.uint8).reshape(16, 16)
    scales = np.arange(2, 255, dtype=np.uint8)
    stored = np.concatenate([np.repeat(scales, 16)[:, None], np.tile(halves, (scales.size, 1))], axis=1)
    with np.errstate(over="ignore"):
        want = MXFP4.dequantize_blocks(stored)
    planes = {"codes": mx_oracles.from_gguf(stored[:, 1:]), "scales": stored[:, :1].copy()}
    got = ac.Microscaling().decode(planes, spec_of(want))
    same_bits(np.where(got == 0, np.float32(0), got), np.where(want == 0, np.float32(0), want), "code 8 is -0 here")
    print(f"gguf: {want.size:,} decoded elements, 0 differ")
