"""The Triton kernels as compilers make them: their bits, run by the PTX interpreter, and assertions on their text."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import ArraySpec, numpy_dtype
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import PATTERNS
from arraycodec_torch import from_numpy, to_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from arraycodec_torch.implementations import TRITON  # noqa: E402
from tests.backends.triton_cases import (  # noqa: E402
    CASES,
    EVERY_PATTERN,
    MORE_TIES,
    QUANTISERS,
    TIES,
    beyond_huge_scales,
    cases,
    nvfp4_ties,
    stored,
    tie_rows,
)
from tests.backends.triton_emulation import (  # noqa: E402
    TARGETS,
    Emulated,
    compare,
    decode,
    emulated,
    encode,
    refuse_inexact,
)
from tests.backends.triton_far import FAR, MORE_FAR  # noqa: E402

SIZES = {"n", "span", "step", "columns", "width"}


def test_every_family_is_run_here() -> None:
    assert set(CASES) == set(TRITON) - {"delta", "gguf"}  # which have tests of their own: test_triton_*.py


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("family", CASES)
def test_bits(family: str, target: str, level: Level) -> None:
    """All cases on one target, at default level the first of each family on the others."""
    full = level >= Level.full
    with emulated(target=target) as how:
        for case in cases(family, full)[: None if full or target == "sm_90" else 1]:
            compare(how, case.codec, case.array(), case.given)


@pytest.mark.parametrize("family", QUANTISERS)
def test_any_stored_scale_decodes(family: str, level: Level) -> None:
    """Planes written by others: scales that are negative, tiny, huge, infinite or NaN, and every byte of codes."""
    case = CASES[family][0]
    planes = stored(case)
    with emulated() as how:
        for dtype in ("float32", "bfloat16", "float16") if level >= Level.full else ("float32",):
            decode(how, case.codec, planes, (len(PATTERNS), 192), dtype)


def test_infinity_and_nan_under_huge_given_scales() -> None:
    with emulated() as how:
        for case in beyond_huge_scales():
            encode(how, *case)


@pytest.mark.parametrize("dtype", EVERY_PATTERN)
def test_every_pattern_of_16_bits(dtype: str, level: Level) -> None:
    patterns = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype)).reshape(-1, 64)
    both = [codec for codecs in EVERY_PATTERN.values() for codec in codecs]
    with emulated() as how:
        for codec in both if level >= Level.full else EVERY_PATTERN[dtype]:
            compare(how, codec, patterns)


def test_quotients_that_are_ties(level: Level) -> None:
    both = [*TIES.items(), *(MORE_TIES.items() if level >= Level.full else ())]
    with emulated() as how:
        for largest, codecs in both:
            for codec in codecs:
                encode(how, codec, tie_rows(largest), {})
        encode(how, ac.NVFP4(), *nvfp4_ties())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_to_16_bits_at_every_exponent(dtype: str) -> None:
    """Products that are ties, and neighbours of ties, from one scale per exponent."""
    rng, exponents = np.random.default_rng(3), np.arange(256, dtype=np.uint32) << 23
    scales = exponents | rng.choice([0, 0x8000, 0x1000, 0xFFFF, 0x7FFFFF], 256).astype(np.uint32)
    codec, spec = ac.Codebook("dynamic", block_size=256), ArraySpec((256, 256), dtype)
    planes = {"codes": np.tile(np.arange(256, dtype=np.uint8), (256, 1)), "absmax": scales.view("f4").reshape(256, 1)}
    with emulated() as how:
        got = how.decode(codec, {name: from_numpy(plane) for name, plane in planes.items()}, spec, {})
    same_bits(to_numpy(got), codec.decode(planes, spec), "decoded")


@pytest.mark.parametrize("name", [*FAR, *(pytest.param(name, marks=pytest.mark.level("full")) for name in MORE_FAR)])
def test_more_than_2_31_elements(name: str) -> None:
    far = (FAR | MORE_FAR)[name]
    with emulated() as how:
        far.encode(how)
        far.decode(how)


def test_empty_arrays_launch_nothing() -> None:
    with emulated() as how:
        for case, *_ in CASES.values():
            for shape in ((0,), (0, 64), (3, 0)):
                compare(how, case.codec, np.zeros(shape, np.float32))


# -- assertions on the text


@pytest.mark.parametrize("target", TARGETS)
def test_ptx_is_exact_and_vectorised(target: str) -> None:
    """Of all kernels (mutants aside) that this process compiled, at least those that this test runs itself."""
    with emulated(target=target) as how:
        for case, *_ in CASES.values():
            compare(how, case.codec, case.array(), case.given)
    own = {key: found for key, found in Emulated.compiled.items() if is_own(key, target)}
    entries = {found.entry for found in own.values()}
    assert entries >= {"encode", "decode", "encode_blocks", "decode_blocks", "encode_rows", "decode_rows"}
    for key, found in own.items():
        refuse_inexact(found.ptx)
        sizes = {name for name, _ in found.signature} & SIZES
        if "n" in sizes <= found.divisible:  # as in every weight matrix
            of_array, of_codes = ("st", "ld") if found.entry.startswith("decode") else ("ld", "st")
            assert re.search(rf"{of_array}\.global\.v[48]\.b32", found.ptx), f"{found.entry}: no 16-byte accesses"
            if "'GROUP': 2, 'EVEN': True" in key[4]:  # codes of 4 bits
                assert re.search(rf"{of_codes}\.global\.v[248]\.b32", found.ptx), f"{found.entry}: codes byte by byte"
            if found.entry == "encode_blocks":  # the maximum of a row stays in registers
                assert "redux.sync.max.u32" in found.ptx or "shfl.sync" in found.ptx


def test_amd_compiles() -> None:
    """For gfx942, as far as a binary: there is no interpreter of its assembly."""
    with emulated(target="gfx942") as how:
        for case in (CASES[family][0] for family in QUANTISERS):
            planes = {name: from_numpy(plane) for name, plane in case.codec.encode(case.array()).items()}
            given = {name: from_numpy(plane) for name, plane in case.given.items()}
            if not case.codec.trained or "codebook" in given:
                how.encode(from_numpy(case.array()), case.codec, given)
            how.decode(case.codec, planes, ArraySpec(case.shape, case.dtype), {})
    compiled = [found for key, found in Emulated.compiled.items() if is_own(key, "gfx942")]
    assert len(compiled) > 2 * len(QUANTISERS)
    for found in compiled:
        assert found.asm["hsaco"]
        if not re.search(r"v_div_(scale|fmas|fixup)", found.asm["amdgcn"]):  # whose expansion fuses on purpose
            assert not re.search(r"v_(pk_)?(fma|mad|mac|fmac)_f32", found.asm["amdgcn"]), found.metadata.name


def is_own(key: Any, target: str) -> bool:
    """Whether a key of `Emulated.compiled` is of a kernel as it stands in the package, for this target."""
    return key[1] == target and key[0].__module__.startswith("arraycodec_torch.")
