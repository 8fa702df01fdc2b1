"""The nvfp4 codec beside compressed-tensors, torchao and gguf-py, each where it is installed (level full).

The tests print what docs/format/nvfp4.md counts: elements inside a domain, of which none may differ, and blocks of the
classes outside.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype
from arraycodec_conformance import mx_oracles
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe
from tests.codecs.mx_support import DTYPES, golden_input, matrices, unpacked
from tests.codecs.peers import needs
from tests.codecs.test_nvfp4 import EAGER, LARGEST, SMALLEST, every_code_with_every_scale

pytestmark = pytest.mark.level("full")


def exponents(dtype: str) -> tuple[int, ...]:
    return (0, -6, -90, 100, -110, 124) if dtype != "float16" else (0, -3, -6, -14, 10)


# -- compressed-tensors


@needs("compressed_tensors")
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_equal_compressed_tensors_in_the_domain(dtype: str, given: bool, level: Level) -> None:
    """With its own global scale, and with one that is given, from far too small to far too large."""
    inside, counts, rng = 0, Counter[str](), np.random.default_rng(1)
    for what, x in matrices(dtype, 40 if level >= Level.exhaustive else 4, exponents(dtype)):
        if what.startswith(("bits", "every")):  # else one number that is not finite takes the whole array outside
            x = np.where(np.abs(x.astype(np.float32)) < 2.0**126, x, x.dtype.type(0))
        shared = ac.shared_global_scale([x], "eager") * np.float32(2.0 ** rng.uniform(-12, 12)) if given else None
        enc = ac.encode(x, EAGER, given={"global_scale": shared} if given else {}, check=False)
        want = mx_oracles.preset(x, "NVFP4A16", shared)
        classes = mx_oracles.outside(x, "NVFP4A16", enc.planes, given)
        equal = ~np.logical_or.reduce(list(classes.values()))
        if equal.any():
            same_bits(enc.planes["global_scale"], want["global_scale"], f"{dtype} {what}: global scale")
        got = enc.planes | {"decoded": ac.decode(enc, dtype="bfloat16")}
        different = np.zeros(equal.size, bool)
        for plane in ("codes", "scales", "decoded"):
            ours, theirs = (np.ascontiguousarray(p[plane]).view(np.uint8).reshape(equal.size, -1) for p in (got, want))
            same_bits(ours[equal], theirs[equal], f"{dtype} {what}: {plane}")
            different |= (ours != theirs).any(axis=1)
        inside += 16 * int(equal.sum())
        for outside, mask in classes.items():
            counts += Counter({outside: int(mask.sum()), f"{outside}, differ": int((mask & different).sum())})
        if dtype == "float32" and not given:
            for plane, array in ac.encode(x, "nvfp4", check=False).planes.items():
                same_bits(array, enc.planes[plane], f"{what}: {plane}, both arithmetics")
    print(f"{dtype} given={given}: {inside:,} elements inside, 0 differ; blocks outside: {dict(counts)}")
    assert inside > 800_000


@needs("compressed_tensors")
def test_weights_of_the_preset_with_activations_are_those_without() -> None:
    x = golden_input()
    for plane, array in mx_oracles.preset(x, "NVFP4A16").items():
        same_bits(mx_oracles.preset(x, "NVFP4")[plane], array, plane)


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations_equal_compressed_tensors_in_the_domain(dtype: str) -> None:
    """NVFP4: scales of blocks are found on the fly, under a global scale from a calibration."""
    elements = 0
    for what, x in matrices(dtype, 2, exponents(dtype)):
        calibrated = ac.shared_global_scale([x], "eager") * np.float32(0.6)
        enc = ac.encode(x, EAGER, given={"global_scale": calibrated}, check=False)
        equal = ~np.logical_or.reduce(list(mx_oracles.outside(x, "NVFP4", enc.planes, True).values()))
        got, want = (y.reshape(-1, 16) for y in (ac.decode(enc), mx_oracles.fake_quantised(x, "NVFP4", calibrated)))
        same_bits(got[equal], want[equal], f"{dtype} {what}")
        elements += 16 * int(equal.sum())
    print(f"{dtype}: {elements:,} activations, 0 differ")
    assert elements > 400_000


@needs("compressed_tensors")
def test_every_byte_decodes_as_in_compressed_tensors() -> None:
    """All codes with all positive scales, over global scales from the smallest to the largest in use."""
    for bits in (SMALLEST, 0x1E3CE508, 0x3F800000, 0x45638E39, 0x5D5E0B6B, LARGEST):
        planes = every_code_with_every_scale(bits)
        want = mx_oracles.decoded_by_preset(planes, "NVFP4A16")
        got = ac.NVFP4().decode(planes, ac.ArraySpec(want.shape, "bfloat16"))
        scale = np.repeat(planes["scales"].astype(np.float32), 16)
        same_bits(got[scale > 0], want[scale > 0], f"global scale {bits:08x}")
        assert np.isnan(want[np.isnan(scale)].astype(np.float32)).all()
        assert np.isnan(got[np.isnan(scale)].astype(np.float32)).all()
        negative = (scale < 0) & (got != 0)
        same_bits(got[negative], want[negative], "negative scales, but for the sign of zero")


@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_set_with_a_shared_global_scale_equals_compressed_tensors(dtype: str) -> None:
    """As for fused projections: matrices of different sizes and magnitudes."""
    sizes = zip(((64, 128), (16, 128), (16, 128)), (0, -3, 1), strict=True)
    arrays = [Recipe(shape, dtype, "normal", exponent, 5).array() for shape, exponent in sizes]
    shared = ac.shared_global_scale(arrays, "eager")
    for x in arrays:
        enc, want = ac.encode(x, EAGER, given={"global_scale": shared}), mx_oracles.preset(x, "NVFP4A16", shared)
        for plane, array in enc.planes.items():
            same_bits(array, want[plane], f"{dtype}: {plane}")
        same_bits(ac.decode(enc, dtype="bfloat16"), want["decoded"], f"{dtype}: decoded")


@needs("compressed_tensors")
def test_classes_outside_the_domain_differ_as_the_page_says() -> None:
    """The global scale, the first block's scale, and its first code on either side, by class."""
    big, least = 1.9 * 2.0**127, 2.0**-100
    rows: dict[tuple[str, str], tuple[list[float], tuple[str, int, int], tuple[str, int, int]]] = {
        ("float32", "absmax below 2^-100"): ([least / 2], ("0x1.0p+0", 0x20, 0), ("0x1.5p+112", 0x7E, 7)),
        ("float32", "absmax from 2^126"): ([big], ("0x1.61af2ap-117", 0x7E, 7), ("0x1.61af24p-117", 0x7E, 7)),
        ("bfloat16", "absmax from 2^126"): ([big], ("0x1.62p-117", 0x7E, 7), ("0x1.64p-117", 0x7E, 7)),
        ("float32", "negative, subnormal"): ([-(2.0**-130), 1], ("0x1.5p+11", 0x7E, 0), ("0x1.5p+11", 0x7E, 8)),
        ("float32", "quotient -0"): ([-(2.0**-126), 2.0**30], ("0x1.5p-19", 0x7E, 8), ("0x1.5p-19", 0x7E, 0)),
        ("float32", "NaN"): ([np.nan, 1], ("0x1.0p+0", 0x7F, 0), ("0x1.0p+0", 0x7F, 0)),
        ("float32", "infinity"): ([np.inf, 1], ("0x1.0p+0", 0x7F, 0), ("0x0.0p+0", 0xFF, 0)),
    }
    for (dtype, what), (head, ours, theirs) in rows.items():
        x = np.zeros((1, 32), numpy_dtype(dtype))
        x[0, : len(head)] = head
        for planes, (scale, *expected) in ((EAGER.encode(x), ours), (mx_oracles.preset(x, "NVFP4A16"), theirs)):
            assert float(planes["global_scale"][0]) == float.fromhex(scale), f"{dtype} {what}"
            found = [int(planes["scales"].view(np.uint8)[0, 0]), int(planes["codes"][0, 0]) & 15]
            assert found == expected, f"{dtype} {what}"


# -- torchao, gguf-py


@needs("torchao")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torchao_has_the_same_scales_and_other_codes_near_ties(dtype: str) -> None:
    counts = Counter[str]()
    for seed in range(8):
        x = Recipe((256, 256), dtype, "normal", -6, seed).array()
        planes, want = ac.NVFP4().encode(x), mx_oracles.torchao_nvfp4(x)
        same_bits(planes["scales"], want["scales"].reshape(planes["scales"].shape), "scales")
        ours, theirs = (unpacked(p["codes"], 4, x.size) for p in (planes, want))
        step = np.repeat(planes["scales"].astype(np.float64).reshape(-1) / float(planes["global_scale"][0]), 16)
        y = np.abs(x.astype(np.float64).reshape(-1)) / step
        near = (np.abs(y[:, None] - np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5])) < 1e-6).any(axis=1)
        assert not ((ours != theirs) & ~near).any()
        stored = {n: want[n].reshape(planes[n].shape) for n in ("codes", "scales")}
        stored["global_scale"] = np.float32(1) / want["multiplier"].reshape(1)
        decoded = ac.NVFP4().decode(stored, ac.ArraySpec(x.shape, dtype))
        units = np.abs(decoded.view(f"i{x.itemsize}").astype(int) - want["decoded"].view(f"i{x.itemsize}").astype(int))
        assert units.max() <= 2, "its step is a product with the multiplier, here it is a quotient"
        counts += Counter(elements=x.size, codes=int((ours != theirs).sum()), decoded=int((units > 0).sum()))
    print(f"torchao {dtype}: {dict(counts)}")


@needs("gguf")
def test_every_byte_of_gguf_decodes_alike() -> None:
    """Its scales are unsigned; without a global scale, which is 1 here. Its 7f is 0."""
    planes = every_code_with_every_scale(0x3F800000)
    planes = planes | {"codes": planes["codes"][: 128 * 8], "scales": planes["scales"][:128]}
    got = ac.NVFP4().decode(planes, ac.ArraySpec((128 * 16,), "float32"))
    want = mx_oracles.gguf_nvfp4(planes["codes"], planes["scales"])
    assert np.isnan(got[-16:]).all()
    assert (want[-16:] == 0).all()
    got, want = (np.where(y == 0, np.float32(0), y)[:-16] for y in (got, want))
    same_bits(got, want, "values; code 8 is -0 here")
    print(f"gguf: {got.size:,} decoded elements, 0 differ")
