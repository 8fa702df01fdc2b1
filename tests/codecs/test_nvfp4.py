"""The nvfp4 codec beyond the suite: every byte, every bfloat16 number, given and shared scales, parameters.

Other libraries are compared in test_nvfp4_peers.py, where they are installed; what compressed-tensors stores is known
here by hashes.
"""

from __future__ import annotations

import importlib
import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.formats import values
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import sha
from arraycodec_conformance.strategies import PATTERNS, Recipe
from tests.codecs.mx_support import (
    DTYPES,
    assert_same_when_subnormals_are_flushed,
    every_pattern,
    golden_input,
    unpacked,
)

EAGER = ac.NVFP4(arithmetic="eager")
FP4, FP8 = values("float4_e2m1fn"), values("float8_e4m3fn")
SMALLEST, LARGEST = 0x05000000, 0x78FFFFFF  # global scales in use


# -- encoding


def test_golden_hashes_of_compressed_tensors() -> None:
    """Of version 0.20.0, NVFP4A16: codes, scales, global scale, decoded."""
    enc = ac.encode(golden_input(), EAGER)
    assert (sha(enc.planes["codes"]), sha(enc.planes["scales"])) == ("c3b6d6eac20d", "89f47eb62848")
    assert enc.planes["global_scale"].tolist() == [346112.0]
    assert sha(ac.decode(enc)) == "a0190d3d4afc"


@pytest.mark.parametrize("codec", [ac.NVFP4(block_size=8), ac.NVFP4(block_size=8, arithmetic="eager")], ids=repr)
@pytest.mark.parametrize("bits", [SMALLEST, 0x1E3CE508, 0x3F800000, 0x43E00000, 0x45638E39, 0x5D5E0B6B, LARGEST])
def test_every_bfloat16_number_as_the_largest_of_a_block(codec: ac.NVFP4, bits: int) -> None:
    """It, its negative half and six zeros, with a global scale from the smallest to the largest: as ml_dtypes casts."""
    blocks, divisor = np.zeros((2**16, 8), ml_dtypes.bfloat16), np.array([bits], np.uint32).view(np.float32)
    blocks[:, 3] = every_pattern("bfloat16")
    with np.errstate(all="ignore"):
        blocks[:, 6] = blocks[:, 3].astype(np.float32) * np.float32(-0.5)
        planes = codec.encode(blocks, {"global_scale": divisor})
        wide = blocks.astype(np.float32)
        wide = np.where(np.abs(wide) < 2.0**-126, np.float32(0), wide)
        absmax = np.abs(wide).max(axis=1)
        sixth = absmax / np.float32(6)
        sixth = sixth.astype(ml_dtypes.bfloat16).astype(np.float32) if codec.arithmetic == "eager" else sixth
        scales = np.minimum(sixth * divisor, np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
        scales = np.where(scales.view(np.uint8) == 0, np.uint8(0x20), scales.view(np.uint8))
        scales = np.where(np.isfinite(absmax), scales, np.uint8(0x7F))
        y = np.clip(wide / (FP8[scales] / divisor)[:, None], -6, 6)
        codes = np.where(np.isnan(y), 0, np.abs(y)).astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
        codes = np.where(np.isfinite(absmax)[:, None], codes | np.where(wide < 0, 8, 0), 0).astype(np.uint8)
    same_bits(planes["scales"].view(np.uint8).reshape(-1), scales, f"{codec} {bits:08x}: scales")
    same_bits(unpacked(planes["codes"], 4, codes.size), codes.reshape(-1), f"{codec} {bits:08x}: codes")


# -- the flavour of ModelOpt: what its NVFP4QTensor does, in NumPy


def modelopt(x: np.ndarray, block: int, factor: Any = None) -> dict[str, np.ndarray]:
    """Its `quantize` and `dequantize` of whole blocks, operation by operation."""
    wide = x.astype(np.float32).reshape(-1, block)
    factor = np.abs(wide).max().reshape(1) / np.float32(6.0 * 448.0) if factor is None else factor
    scale = np.abs(wide).max(axis=1) / (np.float32(6) * factor)
    scale[scale == 0] = 1
    scales = np.clip(scale, np.float32(2**-9), np.float32(448)).astype(ml_dtypes.float8_e4m3fn)
    y = wide / (scales.astype(np.float32) * factor)[:, None]
    bounds = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
    codes = np.searchsorted(bounds, np.abs(y)) + np.isin(np.abs(y), bounds[1::2])
    codes = (codes + 8 * (y < 0)).astype(np.uint8)
    values = FP4[codes] * (scales.astype(np.float32) * factor)[:, None]
    return {"codes": codes, "scales": scales, "global_scale": factor, "decoded": values.astype(x.dtype)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block", [16, 64])
def test_modelopt_stores_and_decodes_the_same(dtype: str, block: int) -> None:
    codec = ac.NVFP4(block, flavour="modelopt")
    for distribution, exponent in (("normal", -6), ("cauchy", 0), ("ties", 0), ("log-normal", -3), ("sparse", 2)):
        x = Recipe((32, 128), dtype, distribution, exponent, 3).array()
        with np.errstate(invalid="ignore"):
            x = np.where(np.isfinite(x.astype(np.float32)), x, x.dtype.type(0))
        for factor in (None, np.array([0.01], np.float32)):
            want = modelopt(x, block, factor)
            enc = ac.encode(x, codec, given={} if factor is None else {"global_scale": factor})
            what = f"{distribution} {dtype} {factor}"
            same_bits(enc.planes["global_scale"], want["global_scale"], f"{what}: global scale")
            same_bits(enc.planes["scales"].reshape(-1), want["scales"], f"{what}: scales")
            same_bits(unpacked(enc.planes["codes"], 4, x.size), want["codes"].reshape(-1), f"{what}: codes")
            same_bits(ac.decode(enc), want["decoded"].reshape(x.shape), f"{what}: decoded")


def test_modelopt_at_the_edges() -> None:
    """A block of zeros, one too small for its scale, given factors at the ends of what is in use."""
    codec = ac.NVFP4(8, flavour="modelopt")
    x = np.zeros((4, 8), np.float32)
    x[1], x[2, :2] = 1e-9, (3, -1)
    planes = codec.encode(x)
    same_bits(planes["global_scale"], np.array([3], np.float32) / np.float32(2688), "global scale")
    assert planes["scales"].reshape(-1).tolist() == [1.0, 2.0**-9, 448.0, 1.0]
    assert not codec.encode(x[:1])["codes"].any() and codec.encode(x[:1])["global_scale"].tolist() == [1.0]
    for bits, used in ((0x05800000, True), (0x057FFFFF, False), (0x79FFFFFF, True), (0x7A000000, False)):
        planes = every_code_with_every_scale(bits)
        got = codec.decode(planes | {"scales": np.repeat(planes["scales"], 2)}, ac.ArraySpec((256 * 16,), "float32"))
        with np.errstate(over="ignore", invalid="ignore"):
            step = np.repeat(FP8, 16) * planes["global_scale"]
            want = FP4[unpacked(planes["codes"], 4, 4096)] * step
            want = np.where((want == 0) & ~(step > 0), np.float32(0), want)
        positive = ~np.isnan(step)
        same_bits(got[positive], want[positive] if used else np.full(4064, np.nan, np.float32), f"{bits:08x}")
        assert np.isnan(got[~positive]).all()


def test_modelopt_factors_are_shared_too() -> None:
    q, k = (Recipe((16, 64), "bfloat16", "normal", e, 1).array() for e in (0, 4))
    codec = ac.NVFP4(flavour="modelopt")
    together = codec.encode(np.concatenate([q, k]))["global_scale"]
    same_bits(ac.shared_global_scale([q, k], flavour="modelopt"), together, "two")


# -- every byte


def every_code_with_every_scale(global_scale: int) -> dict[str, np.ndarray]:
    """Flat planes in which each of the 256 scales has a block with all codes."""
    codes = np.tile(np.arange(0x10, 0x100, 0x22, dtype=np.uint8), 256)
    scales = np.arange(256, dtype=np.uint8).view(numpy_dtype("float8_e4m3fn"))
    return {"codes": codes, "scales": scales, "global_scale": np.array([global_scale], np.uint32).view(np.float32)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_code_with_every_scale_decodes_to_its_product(dtype: str) -> None:
    """A quotient and a product in float32, each rounded once; a zero is +0 unless the scale is positive."""
    spec = ac.ArraySpec((256 * 16,), dtype)
    for bits in (SMALLEST, 0x3F800000, 0x45638E39, LARGEST):
        planes = every_code_with_every_scale(bits)
        got = ac.NVFP4().decode(planes, spec)
        scale = np.repeat(FP8, 16)
        with np.errstate(over="ignore", invalid="ignore"):
            product = FP4[unpacked(planes["codes"], 4, spec.size)] * (scale / planes["global_scale"])
            want = np.where((product == 0) & ~(scale > 0), np.float32(0), product).astype(spec.numpy_dtype)
        nan = np.isnan(scale)
        same_bits(got[~nan], want[~nan], f"{dtype} {bits:08x}")
        assert np.isnan(got[nan].astype(np.float32)).all()


@pytest.mark.parametrize("bits", [0, 1, 0x80000000, 0xBF800000, 0x04FFFFFF, 0x79000000, 0x7F800000, 0x7FC00000])
def test_a_global_scale_out_of_range_is_not_used(bits: int) -> None:
    x, given = np.ones((2, 32), np.float32), {"global_scale": np.array([bits], np.uint32).view(np.float32)}
    planes = ac.NVFP4().encode(x, given)
    assert (planes["scales"].view(np.uint8) == 0x7F).all()
    assert not planes["codes"].any()
    same_bits(planes["global_scale"], given["global_scale"], "kept as it is given")
    decoded = ac.NVFP4().decode(every_code_with_every_scale(bits), ac.ArraySpec((4096,), "float32"))
    assert (decoded.view(np.uint32) == 0x7FC00000).all()
    with pytest.raises(ac.NonFiniteError, match="in 4 of 4 blocks"):
        ac.encode(x, "nvfp4", given=given)


def test_hardware_that_flushes_subnormals_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    with np.errstate(all="ignore"):
        x = np.array(PATTERNS, np.uint32).view(np.float32)[:, None] * rng.uniform(-1, 1, (len(PATTERNS), 64))
        arrays = [x.astype(np.float32).astype(numpy_dtype(dtype)) for dtype in DTYPES]

    def results() -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for array in arrays:
            for codec in (ac.NVFP4(), EAGER, ac.NVFP4(flavour="modelopt")):
                for rows in (array, *array):
                    found += codec.encode(rows).values()
                for bits in (SMALLEST, 0x0D800000, 0x3F800000, LARGEST):
                    planes = every_code_with_every_scale(bits)
                    found += codec.encode(array, {"global_scale": planes["global_scale"]}).values()
                    found.append(codec.decode(planes, ac.ArraySpec((4096,), array.dtype.name)))
        return found

    assert_same_when_subnormals_are_flushed(results)


# -- given planes, parts


def test_computed_planes_can_be_given() -> None:
    kinds = (("normal", 0), ("bits", 0), ("normal", -99), ("normal", 126), ("sparse", -6))
    for codec in (ac.NVFP4(), EAGER, ac.NVFP4(block_size=64)):
        for dtype in DTYPES:
            for distribution, exponent in kinds:
                x = Recipe((16, 96), dtype, distribution, exponent, 3).array()
                planes = codec.encode(x)
                given = codec.encode(x, {name: planes[name] for name in ("scales", "global_scale")})
                same_bits(given["codes"], planes["codes"], f"{codec} {dtype} {distribution}")


def test_given_scales_need_a_given_global_scale() -> None:
    planes = ac.NVFP4().encode(np.ones((2, 32), np.float32))
    with pytest.raises(ac.ArgumentError, match="nvfp4: given must be a global_scale together with scales"):
        ac.encode(np.ones((2, 32), np.float32), "nvfp4", given={"scales": planes["scales"]})


def test_reading_a_part_fetches_its_blocks_only() -> None:
    enc, fetched = ac.encode(Recipe((64, 256), "float32", "normal", 0, 1).array(), "nvfp4"), []

    def fetch(plane: str, piece: slice) -> np.ndarray:
        fetched.append(enc.planes[plane].reshape(-1)[piece])
        return fetched[-1]

    same_bits(enc.codec.read(fetch, enc.spec, 1000, 1030), ac.decode(enc).reshape(-1)[1000:1030], "part")
    assert [plane.nbytes for plane in fetched] == [24, 3, 4]


# -- sets of arrays


def test_a_shared_global_scale_is_that_of_all_arrays_as_one() -> None:
    q, k, v = (Recipe((16, 64), "bfloat16", "normal", e, 1).array() for e in (0, 4, -2))
    together = ac.NVFP4().encode(np.concatenate([q, k, v]))["global_scale"]
    same_bits(ac.shared_global_scale([q, k, v]), together, "three")
    same_bits(ac.shared_global_scale(iter([q])), ac.NVFP4().encode(q)["global_scale"], "one")
    eager = EAGER.encode(np.concatenate([q, k, v]))["global_scale"]
    same_bits(ac.shared_global_scale([q, k, v], "eager"), eager, "eager")
    zeros = np.zeros((4, 16), np.float32)
    assert ac.shared_global_scale([zeros, np.zeros(0, np.float32)]).tolist() == [1.0]
    same_bits(ac.shared_global_scale([zeros, q.astype(np.float32)]), ac.NVFP4().encode(q)["global_scale"], "zeros")
    assert ac.shared_global_scale([q, np.full(3, np.nan, np.float32)]).tolist() == [1.0]


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize(
    ("dtype", "arithmetic"), [("bfloat16", "eager"), ("bfloat16", "float32"), ("float16", "eager")]
)
def test_a_set_of_another_framework_has_the_same_planes(framework: str, dtype: str, arithmetic: str) -> None:
    """Queries, keys and values: one global scale, as an array of that framework, and planes with the same bits."""
    pytest.importorskip(framework)
    backend, codec = importlib.import_module(f"arraycodec_{framework}"), ac.NVFP4(arithmetic=arithmetic)
    arrays = [Recipe((16, 128), dtype, "normal", exponent, 5).array() for exponent in (0, -3, 1)]
    theirs = [backend.from_numpy(x) for x in arrays]
    shared, own = ac.shared_global_scale(arrays, arithmetic), ac.shared_global_scale(theirs, arithmetic)
    assert type(own) is type(theirs[0])
    same_bits(backend.to_numpy(own), shared, "global scale")
    for x, their in zip(arrays, theirs, strict=True):
        want = ac.encode(x, codec, given={"global_scale": shared})
        got = ac.encode(their, codec, given={"global_scale": own})
        for name, plane in want.planes.items():
            same_bits(backend.to_numpy(got.planes[name]), plane, name)
        same_bits(backend.to_numpy(ac.decode(got)), ac.decode(want), "decoded")


def test_bad_sets_are_refused() -> None:
    x = np.ones(16, np.float32)
    for arguments, message in (
        (([],), "at least one array, got none"),
        (([x], "bfloat16"), "arithmetic must be 'float32' or 'eager', got 'bfloat16'"),
        (([x, x.astype(np.float16)], "eager"), "one dtype"),
        (([x.astype(np.int32)],), "dtype must be one of float32, bfloat16, float16, got int32"),
    ):
        with pytest.raises(ac.ArgumentError, match=message):
            ac.shared_global_scale(*arguments)  # type: ignore[arg-type]


# -- parameters, threads, memory


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"block_size": 24}, "block_size must be a power of two from 8 to 1024, got 24"),
        ({"block_size": None}, "block_size must be"),
        ({"block_size": (1, 16)}, "block_size must be"),
        ({"arithmetic": "bfloat16"}, "arithmetic must be 'float32' or 'eager', got 'bfloat16'"),
        ({"flavour": "trt"}, "flavour must be None or 'modelopt', got 'trt'"),
        ({"flavour": "modelopt", "arithmetic": "eager"}, "arithmetic must be 'float32' with the flavour, got 'eager'"),
    ],
)
def test_bad_parameters_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=f"nvfp4: {message}"):
        ac.NVFP4(**params)


def test_results_do_not_depend_on_threads() -> None:
    x, results = Recipe((1025, 2048), "bfloat16", "normal", 0, 1).array(), []
    for threads in (1, 2, 3):
        ac.set_num_threads(threads)
        try:
            planes = ac.NVFP4().encode(x)
            results.append([*planes.values(), ac.NVFP4().decode(planes, spec_of(x))])
        finally:
            ac.set_num_threads(None)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            same_bits(b, a, "threads")


def test_encoding_takes_no_memory_but_its_planes() -> None:
    x = Recipe((2048, 2048), "float32", "normal", 0, 1).array()
    ac.encode(x, "nvfp4")
    tracemalloc.start()
    enc = ac.encode(x, "nvfp4")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < enc.nbytes + (1 << 20), f"{peak:,} bytes for planes of {enc.nbytes:,}"
