"""The Triton kernels as compilers make them: their bits, run by the PTX interpreter, and assertions on their text."""

from __future__ import annotations

import re

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import ArraySpec, numpy_dtype
from arraycodec_conformance.compare import same_bits
from arraycodec_torch import from_numpy, to_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from tests.backends.triton_emulation import (  # noqa: E402
    FAR,
    TARGETS,
    Emulated,
    Far,
    compare,
    emulated,
    kernels,
    refuse_inexact,
    sample,
)

USER = np.linspace(-1, 1, 16, dtype=np.float32)  # a midpoint of it is zero
SCALES = np.array([1, -1, 0, 2.0**-101, 2.0**127, np.inf, 7, 1e-3], np.float32)
CASES = [
    (ac.Codebook("nf4"), 4096 * 3, "float32", {}),
    (ac.Codebook("nf4"), 4096 * 3 + 37, "bfloat16", {}),
    (ac.Codebook("fp4", block_size=4096), 4096 * 2 + 5, "float16", {}),
    (ac.Codebook("nf4", block_size=2), 1001, "float32", {}),
    (ac.Codebook("fp4", block_size=5), 4099, "float32", {}),
    (ac.Codebook("nf4", block_size=1), 300, "bfloat16", {}),
    (ac.Codebook("nf4", block_size=None), 20_000, "float32", {}),
    (ac.Codebook("nf4", block_size=5000), 17_001, "bfloat16", {}),
    (ac.Codebook("dynamic", block_size=256), 4097, "float32", {}),
    (ac.Codebook("dynamic", block_size=100), 4097, "float16", {}),
    (ac.Codebook("dynamic", block_size=256, offset=True), 5000, "float32", {}),
    (ac.Codebook("nf4", block_size=30, offset=True), 5000, "bfloat16", {}),
    (ac.Codebook("user4", block_size=32), 4096, "float32", {"codebook": USER}),
    (ac.Codebook("nf4"), 64 * 8, "float32", {"absmax": SCALES}),
]  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_the_launcher_and_its_kernels_give_the_bits_of_the_reference(target: str) -> None:
    with emulated(target=target) as how:
        for codec, n, dtype, given in CASES[:: 1 if target == "sm_90" else 3]:
            compare(how, codec, sample(n, dtype), given)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_pattern_of_16_bits(target: str, dtype: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
    finite = patterns[patterns.view(np.uint16) & 0x7FFF < (0x7F80 if dtype == "bfloat16" else 0x7C00)]
    with emulated(target=target) as how:
        compare(how, ac.Codebook("nf4"), patterns)
        compare(how, ac.Codebook("nf4"), np.sort(finite))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_16_bits_at_every_exponent(dtype: str) -> None:
    """Products that are ties, and neighbours of ties, from one scale per exponent."""
    rng = np.random.default_rng(3)
    scales = ((np.arange(256, dtype=np.uint32) << 23) | rng.choice([0, 0x8000, 0x1000, 0xFFFF, 0x7FFFFF], 256)).astype(
        "u4"
    )
    codec, spec = ac.Codebook("dynamic", block_size=256), ArraySpec((256, 256), dtype)
    planes = {"codes": np.tile(np.arange(256, dtype=np.uint8), (256, 1)), "absmax": scales.view("f4").reshape(256, 1)}
    with emulated() as how:
        got = how.decode(codec, {name: from_numpy(plane) for name, plane in planes.items()}, spec, {})
    same_bits(to_numpy(got), codec.decode(planes, spec), "decoded")


@pytest.mark.parametrize("case", FAR, ids=lambda case: f"{case.name}-{case.block}")
def test_more_than_2_31_elements(case: Far) -> None:
    case.run(kernels)


# -- assertions on the text


@pytest.mark.parametrize("target", TARGETS)
def test_ptx_is_exact_and_vectorised(target: str) -> None:
    """Of all kernels (mutants aside) that this process compiled, at least those that this test runs itself."""
    with emulated(target=target) as how:
        for codec in (ac.Codebook("nf4"), ac.Codebook("nf4", block_size=None)):
            compare(how, codec, sample(8192, "bfloat16"))
    own = [key for key in Emulated.compiled if target in key and key[0].__module__ == kernels.__name__]
    compiled = [Emulated.compiled[key] for key in own]
    assert {found.entry for found in compiled} >= {"encode_blocks", "decode_blocks", "absmax_runs", "encode_elements"}
    for found in compiled:
        refuse_inexact(found.ptx)
        if "n" in found.divisible:  # as in every weight matrix
            wide = r"st\.global\.v[48]\.b32" if found.entry.startswith("decode") else r"ld\.global\.v[48]\.b32"
            assert re.search(wide, found.ptx), f"{found.entry}: no 16-byte accesses"
            if found.entry == "encode_blocks":  # the maximum of a row stays in registers
                assert "redux.sync.max.u32" in found.ptx or "shfl.sync" in found.ptx


def test_amd_compiles() -> None:
    """For gfx942, as far as a binary: there is no interpreter of its assembly."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as triton_compile

    types = {"source": "*u16", "out": "*u16", "codes": "*u8", "order": "*u8", "absmax": "*u32", "found": "*u32"}
    types |= {"bounds": "*fp32", "values": "*fp32", "offset": "*fp32"}
    for case in FAR:
        kernel, constants = getattr(kernels, case.name), case.constants
        signature = {arg: "constexpr" if arg in constants else types.get(arg, "i64") for arg in kernel.arg_names}
        fixed = {(kernel.arg_names.index(arg),): value for arg, value in constants.items()}
        built = triton_compile(
            ASTSource(kernel, signature, constexprs=fixed),
            target=GPUTarget("hip", "gfx942", 64),
            options={"num_warps": 4, "enable_fp_fusion": False},
        )
        assert built.asm["hsaco"]
        if case.name.startswith("decode"):  # no division there, whose expansion fuses on purpose
            assert not re.search(r"v_(pk_)?(fma|mad|mac|fmac)_f32", built.asm["amdgcn"])
