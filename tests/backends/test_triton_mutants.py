"""Mistakes seeded into the Triton kernels, each of which a tier of their tests must catch.

A mutant is the present source with a few words replaced, so that it stays in step with the kernels; where the words
are gone, the mutant fails and wants to be rewritten. Tiers, from the cheapest: `text` (assertions on the PTX), `bits`
(the PTX interpreter against the reference; it also refuses races and accesses out of bounds), `far` (the same, at the
end of a tensor of more than 2^31 elements).
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import arraycodec as ac
from arraycodec_torch import from_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from arraycodec_conformance import ptx  # noqa: E402
from arraycodec_torch import kernels, triton_blockwise  # noqa: E402
from tests.backends.triton_cases import CASES, beyond_huge_scales, nvfp4_ties, stored, tie_rows  # noqa: E402
from tests.backends.triton_emulation import (  # noqa: E402
    Emulated,
    compare,
    decode,
    emulated,
    encode,
    refuse_inexact,
    sample,
)
from tests.backends.triton_far import FAR  # noqa: E402

KERNELS = Path(kernels.__file__ or "").parent
FULL = pytest.mark.level("full")


class Mutant(NamedTuple):
    """What is replaced in the kernels, the tier that catches it, and how it shows there."""

    name: str
    edits: list[tuple[str, str]]
    tier: str
    shows: str  # in the message of the error
    run: str = "nf4"  # what that tier runs: a key of RUNS, or of FAR and the direction
    fusion: bool = False
    default: bool = True  # not only at level full


ROW = "rows = tl.program_id(0).to(tl.int64)", "rows = tl.program_id(0)"
START = "start = tl.program_id(0).to(tl.int64)", "start = tl.program_id(0)"
LINE = "program = tl.program_id(0).to(tl.int64)", "program = tl.program_id(0)"
UNFLUSHED = "u = flushed(as_bits(y * scale))\n", "u = as_bits(y * scale)\n"
MUTANTS = [
    Mutant("fusion left on", [], "text", "mul.f32", fusion=True),
    Mutant("fusion left on, run", [], "bits", "InexactInstruction", fusion=True, default=False),
    Mutant("a fused multiply-add", [UNFLUSHED], "text", "fma.rn.f32", run="offset", fusion=True),
    Mutant("approximate division", [("tl.div_rn(140737488355328.0, ", "(140737488355328.0 / ")], "text", "div.full"),
    Mutant("a mask off by one", [("(at < n)", "(at <= n)")], "bits", "MemoryFault", run="tail"),
    Mutant("no mask", [("inside = start + i < n", "inside = start + i >= 0")], "bits", "MemoryFault",
           run="whole", default=False),
    Mutant("32-bit blocks, encoding", [ROW], "far", "MemoryFault", run="nf4 encode"),
    Mutant("32-bit runs", [("(k - b * runs)[:, None] * RUN", "(k - b * runs)[:, None].to(tl.int32) * RUN")], "far", "",
           run="nf4-whole encode", default=False),
    Mutant("32-bit elements, encoding", [START], "far", "MemoryFault", run="nf4-96 encode", default=False),
    Mutant("32-bit elements, one scale", [START], "far", "MemoryFault", run="nf4-5002 encode", default=False),
    Mutant("32-bit blocks, decoding", [ROW], "far", "MemoryFault", run="nf4 decode", default=False),
    Mutant("32-bit elements, decoding", [START], "far", "MemoryFault", run="nf4-96 decode", default=False),
    Mutant("swapped nibbles", [("(high << 4) | low", "(low << 4) | high")], "bits", "codes"),
    Mutant("swapped values", [("byte >> 4", "byte & 7"), ("byte & 15", "byte >> 4")], "bits", "decoded", default=False),
    Mutant("ties to the upper code", [("a = y > half", "a = y >= half")], "bits", "codes", run="ties"),
    Mutant("half up", [("+ (upper & 1)", "+ 1")], "bits", "decoded", run="narrow"),
    Mutant("halves half up", [("+ ((a >> 13) & 1)", "+ 1")], "bits", "decoded", run="half", default=False),
    Mutant("subnormal halves cut off", [("small = (m + half + ((m >> shift) & 1))", "small = m")], "bits", "decoded",
           run="half", default=False),
    Mutant("a reciprocal off by one", [("(q - 0x800000)", "(q - 0x800001)")], "bits", "codes", run="ties"),
    Mutant("no lowered exponents", [("absmax >= BIG_SCALE, LOWER, 0", "absmax >= BIG_SCALE, 0, 0")], "bits", "codes"),
    Mutant("infinity lowered", [("bits - tl.where(exponent < INFINITY, lower, 0)", "bits - lower")], "bits", "codes",
           run="huge"),
    Mutant("subnormal scales kept", [("absmax >= MIN_SCALE, absmax, 0", "absmax > 0, absmax, 0")], "bits", "absmax",
           default=False),
    Mutant("infinity kept", [("absmax >= INFINITY, NAN", "absmax > INFINITY, NAN")], "bits", "absmax", default=False),
    Mutant("small scales used", [("magnitude >= MIN_SCALE, sc", "magnitude > 0, sc")], "bits", "decoded",
           run="narrow", default=False),
    Mutant("the wrong block", [("(within + i >= block)", "(within + i > block)")], "bits", "decoded", run="large"),
    Mutant("a neighbour's scale", [("behind = start + i >=", "behind = start + i >")], "bits", "codes",
           run="large", default=False),
    # tiles
    Mutant("tiles: 32-bit lines", [LINE], "far", "MemoryFault", run="linear-line encode"),
    Mutant("tiles: 32-bit lines, decoding", [LINE], "far", "MemoryFault", run="linear-column decode", default=False),
    Mutant("tiles: 32-bit parts", [LINE], "far", "MemoryFault", run="linear-band encode"),
    Mutant("tiles: a mask off by one", [("inside = at < n", "inside = at <= n")], "bits", "MemoryFault", run="flow"),
    Mutant("tiles: beyond the line", [("inside &= (i < step) & (first + i < span)", "inside &= i < step")], "bits", "",
           run="columns", default=False),
    Mutant("tiles: of another matrix", [("line // rows * down", "line // rows")], "bits", "", run="tiles"),
    Mutant("tiles: an odd element first", [("even | (odd << BITS)", "odd | (even << BITS)")], "bits", "codes",
           run="w4", default=False),
    Mutant("tiles: no zero bits at the end", [("tl.where(inside, code, 0)", "code")], "bits", "codes", run="odd"),
    Mutant("tiles: approximate division", [("tl.div_rn(as_float(run), as_float(divisor))",
           "(as_float(run) / as_float(divisor))")], "text", "div.full", run="w4"),
    Mutant("tiles: fusion left on", [], "text", "mul.f32", run="linear", fusion=True),
    Mutant("tiles: one rounding of three", [("rounded(as_bits(divided(run, scale)), ARITHMETIC)",
           "as_bits(divided(run, scale))")], "bits", "codes", run="w4"),
    Mutant("tiles: a sum that overflows", [("lower = tl.where(absmax >= BIG_SCALE, LOWER, 0)  #",
           "lower = tl.where(absmax >= BIG_SCALE, 0, 0)  #")], "bits", "codes", run="rows"),
    Mutant("tiles: a zero's sign", [("u = tl.where(usable, u, flushed(u))", "u = u")], "bits", "decoded", run="stored"),
    Mutant("casts: half up", [("code = (m + half + ((m >> shift) & 1))", "code = (m + half + 1)")], "bits", "codes",
           run="fp4"),
    Mutant("casts: no subnormals", [("field = tl.maximum(exponent, FIRST)", "field = exponent")], "bits", "codes",
           run="fp4", default=False),
    Mutant("casts: NaN saturates", [("tl.where(a <= INFINITY, code, NAN_CODE)", "code")], "bits", "codes", run="cast"),
    Mutant("mx: byte 0 used", [("tl.where(byte == 0, SIGN, lowest)", "lowest")], "bits", "codes",
           run="bytes", default=False),
    Mutant("mx: subnormals kept", [("a >= delta + 0x800000", "a >= delta")], "bits", "decoded", run="mx"),
    Mutant("nvfp4: a scale of 0", [("tl.where(code == 0, EPSILON, code)", "code")], "bits", "codes",
           run="nvfp4-zero"),
    Mutant("nvfp4: a multiplication", [("as_bits(tl.div_rn(x, unit))", "as_bits(x * tl.div_rn(1.0, unit))")], "bits",
           "codes", run="nvfp4"),
]  # fmt: skip


def runs() -> dict[str, Callable[[Any], None]]:
    """What the tiers `bits` and `text` run for a mutant, given the triton implementation."""
    nf4, table = ac.Codebook("nf4"), ac.Codebook("nf4").tables({})
    ties = np.concatenate([table.bounds, np.nextafter(table.bounds, np.float32(2)), [1]]).astype(np.float32)
    scaled = ties * np.random.default_rng(0).uniform(0.5, 1, (999, 1)).astype(np.float32)
    special = np.array([np.nan, -np.nan, np.inf, 1, 500], np.float32)
    weights = np.random.default_rng(0).standard_normal((4, 32)).astype(np.float32)
    shifts = {"scales": np.array([[0], [1], [120], [255]], np.uint8)}
    small = {
        "codes": np.tile(np.arange(16, dtype=np.uint8) * 17, (24, 1)),
        "scales": np.arange(24, dtype=np.uint8)[:, None],
    }
    return {
        "nf4": lambda how: compare(how, nf4, sample(4096)),
        "offset": lambda how: decode_scales(how, 0x3F800000, 0x3F900000, dtype="float32", offset=np.float32(0.1)),
        "tail": lambda how: compare(how, nf4, sample(4096 + 32)[: 4096 + 31]),
        "whole": lambda how: compare(how, ac.Codebook("nf4", block_size=None), sample(5000)),
        "ties": lambda how: compare(how, ac.Codebook("nf4", block_size=31), np.vstack([ties, scaled])),
        "narrow": lambda how: decode_scales(how, 0x3F808000, 0x3F818000, 0x3F818001, 0x08000000, dtype="bfloat16"),
        "half": lambda how: decode_scales(how, 0x3F801000, 0x3F803000, 0x37C05000, 0x33400000, dtype="float16"),
        "large": lambda how: compare(how, ac.Codebook("nf4", block_size=5000), np.linspace(1, 50, 15_000, dtype="f4")),
        "linear": lambda how: encode(how, ac.Linear(8), sample(8192), {}),
        "w4": lambda how: encode(how, ac.codec("w4a16"), sample(8192, "bfloat16").reshape(-1, 256), {}),
        "huge": lambda how: encode(how, *beyond_huge_scales()[0]),
        "flow": lambda how: encode(how, ac.Linear(7, block_size=(1, 5)), sample(4290).reshape(33, 130), {}),
        "columns": lambda how: encode(how, ac.Linear(6, block_size=(2, 20)), sample(1600).reshape(8, 200), {}),
        "odd": lambda how: encode(how, ac.Linear(4), sample(4099), {}),
        "rows": lambda how: encode(how, ac.Linear(4, False, (1, 64)), sample(8192).reshape(-1, 64), {}),
        "tiles": lambda how: encode(how, CASES["linear"][2].codec, CASES["linear"][2].array(), {}),
        "stored": lambda how: decode(how, ac.Minifloat(), stored(CASES["minifloat"][0]), (18, 192), "float32"),
        "fp4": lambda how: encode(how, ac.Minifloat("float4_e2m1fn"), tie_rows(6), {}),
        "cast": lambda how: encode(how, ac.Minifloat(scaled=False), special, {}),
        "mx": lambda how: decode(how, ac.Microscaling(), small, (24, 32), "float32"),
        "bytes": lambda how: encode(how, ac.Microscaling(), weights, shifts),
        "nvfp4": lambda how: encode(how, ac.NVFP4(), *nvfp4_ties()),
        "nvfp4-zero": lambda how: encode(how, ac.NVFP4(), sample(1024), {"global_scale": np.full(1, 1, np.float32)}),
    }  # fmt: skip


def decode_scales(how: Any, *scales: int, dtype: str, **offset: np.float32) -> None:
    """Blocks of ones, so that what is rounded to `dtype` is the scale itself (plus the offset)."""
    absmax = np.array(scales, np.uint32).view(np.float32)[:, None]
    planes = {"codes": np.full((len(scales), 32), 0xFF, np.uint8), "absmax": absmax}
    planes |= {name: np.array(value) for name, value in offset.items()}
    decode(how, ac.Codebook("nf4", offset=bool(offset)), planes, (len(scales), 64), dtype)


def mutate(edits: list[tuple[str, str]], folder: Path, name: str) -> dict[str, ModuleType]:
    """The kernels with these replacements, as modules of a package of their own; by the names of the originals."""
    texts = {path.stem: path.read_text() for path in KERNELS.glob("*.py")}
    for old, new in edits:
        assert any(old in text for text in texts.values()), f"the kernels no longer say {old!r}: rewrite this mutant"
        texts = {module: text.replace(old, new) for module, text in texts.items()}
    (folder / name).mkdir()
    for module, text in texts.items():
        (folder / name / f"{module}.py").write_text(text.replace(kernels.__name__, name))
    sys.path.insert(0, str(folder))
    try:
        loaded = {module: importlib.import_module(f"{name}.{module}") for module in texts if module != "__init__"}
    finally:
        sys.path.remove(str(folder))
    return {f"{kernels.__name__}.{module}": found for module, found in loaded.items()}


def check(mutated: dict[str, ModuleType], tier: str, run: str, edit: Any = None) -> None:
    """Run one tier on these kernels; it raises where they are wrong."""
    before = set(Emulated.compiled)
    wrong = (AssertionError, ptx.PtxError) if tier == "text" else ()  # what is run is none of that tier's business
    with emulated(mutated, edit=edit) as how, contextlib.suppress(*wrong):
        if tier == "far":
            name, direction = run.split()
            getattr(FAR[name], direction)(how)
        else:
            runs()[run](how)
    if tier == "text":
        refuse_inexact("".join(Emulated.compiled[key].ptx for key in set(Emulated.compiled) - before))


@pytest.mark.parametrize(
    "mutant",
    [pytest.param(m, marks=() if m.default else FULL, id=f"{m.name} ({m.tier})") for m in MUTANTS],
)
def test_mutant_is_caught(mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mutated = mutate(mutant.edits, tmp_path, re.sub(r"\W", "_", f"mutant {mutant.name}"))
    if mutant.fusion:
        monkeypatch.setitem(triton_blockwise.LAUNCH, "enable_fp_fusion", True)
    with pytest.raises((AssertionError, ptx.PtxError)) as caught:
        check(mutated, mutant.tier, mutant.run)
    assert mutant.shows in f"{caught.type.__name__}: {caught.value}"


@pytest.mark.level("full")
@pytest.mark.parametrize("run", runs())
def test_kernels_without_a_mistake_pass(run: str) -> None:
    check({}, "bits", run)


@pytest.mark.parametrize("barrier", range(3))
def test_missing_barrier_is_caught(barrier: int) -> None:
    """A maximum across warps goes through shared memory: without a barrier, a warp reads before another has written."""

    def without(found: ptx.Compiled) -> ptx.Compiled:
        lines = found.ptx.splitlines(keepends=True)
        places = [i for i, line in enumerate(lines) if line.strip().startswith("bar.sync")]
        assert len(places) == 3, f"{found.entry} has {len(places)} barriers: extend this test to all of them"
        del lines[places[barrier]]
        return replace(found, ptx="".join(lines))

    with emulated(edit=without) as how, pytest.raises(ptx.SharedRace):
        how.encode(from_numpy(sample(8192)), ac.Codebook("nf4", block_size=4096), {})
