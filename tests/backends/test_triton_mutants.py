"""Mistakes seeded into the Triton kernels, each of which a tier of their tests must catch.

A mutant is the present source with a few words replaced, so that it stays in step with the kernels; where the words
are gone, the mutant fails and wants to be rewritten. Tiers, from the cheapest: `text` (assertions on the PTX), `bits`
(the PTX interpreter against the reference; it also refuses races and accesses out of bounds), `far` (the same, at the
end of a tensor of more than 2^32 elements).
"""

from __future__ import annotations

import contextlib
import importlib.util
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
from arraycodec.spec import ArraySpec
from arraycodec_conformance.compare import same_bits
from arraycodec_torch import from_numpy, to_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from arraycodec_conformance import ptx  # noqa: E402
from arraycodec_torch import triton_codebook  # noqa: E402
from arraycodec_torch.kernels import codebook, primitives  # noqa: E402
from tests.backends.triton_emulation import FAR, Emulated, compare, emulated, refuse_inexact, sample  # noqa: E402


class Mutant(NamedTuple):
    """What is replaced in `codebook.py` and `primitives.py`, the tier that catches it, and how it shows there."""

    name: str
    edits: list[tuple[str, str]]
    tier: str
    shows: str  # in the message of the error
    run: str = "nf4"  # what that tier runs: a key of RUNS, or the index of a case of FAR
    fusion: bool = False


ROW = "rows = tl.program_id(0).to(tl.int64)", "rows = tl.program_id(0)"
START = "start = tl.program_id(0).to(tl.int64)", "start = tl.program_id(0)"
UNFLUSHED = "u = flushed(as_bits(y * scale))\n", "u = as_bits(y * scale)\n"
MUTANTS = [
    Mutant("fusion left on", [], "text", "mul.f32", fusion=True),
    Mutant("fusion left on, run", [], "bits", "InexactInstruction", fusion=True),
    Mutant("a fused multiply-add", [UNFLUSHED], "text", "fma.rn.f32", run="offset", fusion=True),
    Mutant("approximate division", [("tl.div_rn(140737488355328.0, ", "(140737488355328.0 / ")], "text", "div.full"),
    Mutant("a mask off by one", [("(at < n)", "(at <= n)")], "bits", "MemoryFault", run="tail"),
    Mutant("no mask", [("inside = start + i < n", "inside = start + i >= 0")], "bits", "MemoryFault", run="whole"),
    Mutant("32-bit blocks, encoding", [ROW], "far", "MemoryFault", run="0"),
    Mutant("32-bit runs", [("at = b[:, None] * block", "at = (b[:, None] * block).to(tl.int32)")], "far", "", run="1"),
    Mutant("32-bit elements, encoding", [START], "far", "MemoryFault", run="2"),
    Mutant("32-bit elements, one scale", [START], "far", "MemoryFault", run="3"),
    Mutant("32-bit blocks, decoding", [ROW], "far", "MemoryFault", run="4"),
    Mutant("32-bit elements, decoding", [START], "far", "MemoryFault", run="5"),
    Mutant("swapped nibbles", [("(high << 4) | low", "(low << 4) | high")], "bits", "codes"),
    Mutant("swapped values", [("byte >> 4", "byte & 7"), ("byte & 15", "byte >> 4")], "bits", "decoded"),
    Mutant("ties to the upper code", [("a = y > half", "a = y >= half")], "bits", "codes", run="ties"),
    Mutant("half up", [("+ (upper & 1)", "+ 1")], "bits", "decoded", run="narrow"),
    Mutant("halves half up", [("+ ((a >> 13) & 1)", "+ 1")], "bits", "decoded", run="half"),
    Mutant("subnormal halves cut off", [("(m + half + ((m >> shift) & 1))", "m")], "bits", "decoded", run="half"),
    Mutant("a reciprocal off by one", [("(q - 0x800000)", "(q - 0x800001)")], "bits", "codes", run="ties"),
    Mutant("no lowered exponents", [("absmax >= BIG_SCALE, LOWER, 0", "absmax >= BIG_SCALE, 0, 0")], "bits", "codes"),
    Mutant("subnormal scales kept", [("absmax >= MIN_SCALE, absmax, 0", "absmax > 0, absmax, 0")], "bits", "absmax"),
    Mutant("infinity kept", [("absmax >= INFINITY, NAN", "absmax > INFINITY, NAN")], "bits", "absmax"),
    Mutant("small scales used", [("magnitude >= MIN_SCALE, sc", "magnitude > 0, sc")], "bits", "decoded", run="narrow"),
    Mutant("the wrong block", [("(within + i >= block)", "(within + i > block)")], "bits", "decoded", run="large"),
    Mutant("a neighbour's scale", [("behind = start + i >=", "behind = start + i >")], "bits", "codes", run="large"),
]  # fmt: skip


def runs() -> dict[str, Callable[[Any], None]]:
    """What the tier `bits` runs for a mutant, given the triton implementation."""
    nf4, table = ac.Codebook("nf4"), ac.Codebook("nf4").tables({})
    ties = np.concatenate([table.bounds, np.nextafter(table.bounds, np.float32(2)), [1]]).astype(np.float32)
    scaled = ties * np.random.default_rng(0).uniform(0.5, 1, (999, 1)).astype(np.float32)
    return {
        "nf4": lambda how: compare(how, nf4, sample(4096)),
        "offset": lambda how: decode_scales(how, 0x3F800000, 0x3F900000, dtype="float32", offset=np.float32(0.1)),
        "tail": lambda how: compare(how, nf4, sample(4096 + 32)[: 4096 + 31]),
        "whole": lambda how: compare(how, ac.Codebook("nf4", block_size=None), sample(5000)),
        "ties": lambda how: compare(how, ac.Codebook("nf4", block_size=31), np.vstack([ties, scaled])),
        "narrow": lambda how: decode_scales(how, 0x3F808000, 0x3F818000, 0x3F818001, 0x08000000, dtype="bfloat16"),
        "half": lambda how: decode_scales(how, 0x3F801000, 0x3F803000, 0x37C05000, 0x33400000, dtype="float16"),
        "large": lambda how: compare(how, ac.Codebook("nf4", block_size=5000), np.linspace(1, 50, 15_000, dtype="f4")),
    }  # fmt: skip


def decode_scales(how: Any, *scales: int, dtype: str, **offset: np.float32) -> None:
    """Blocks of ones, so that what is rounded to `dtype` is the scale itself (plus the offset)."""
    codec, spec = ac.Codebook("nf4", offset=bool(offset)), ArraySpec((len(scales), 64), dtype)
    absmax = np.array(scales, np.uint32).view(np.float32)[:, None]
    planes = {"codes": np.full((len(scales), 32), 0xFF, np.uint8), "absmax": absmax}
    planes |= {name: np.array(value) for name, value in offset.items()}
    got = how.decode(codec, {name: from_numpy(plane) for name, plane in planes.items()}, spec, {})
    same_bits(to_numpy(got), codec.decode(planes, spec), "decoded")


def mutate(edits: list[tuple[str, str]], folder: Path, name: str) -> ModuleType:
    """The kernels with these replacements, as a module of its own."""
    texts = {module: Path(module.__file__ or "").read_text() for module in (primitives, codebook)}
    for old, new in edits:
        assert any(old in text for text in texts.values()), f"the kernels no longer say {old!r}: rewrite this mutant"
        texts = {module: text.replace(old, new) for module, text in texts.items()}
    loaded = ModuleType(name)
    for module, text in texts.items():
        own = f"{name}_{module.__name__.rpartition('.')[2]}"
        path = folder / f"{own}.py"
        path.write_text(text.replace(primitives.__name__, f"{name}_primitives"))
        spec = importlib.util.spec_from_file_location(own, path)
        assert spec
        assert spec.loader
        loaded = sys.modules[own] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
    return loaded


def check(module: ModuleType, tier: str, run: str, edit: Any = None) -> None:
    """Run one tier on these kernels; it raises where they are wrong."""
    if tier == "far":
        FAR[int(run)].run(module)
        return
    before = set(Emulated.compiled)
    wrong = (AssertionError, ptx.PtxError) if tier == "text" else ()  # what is run is none of that tier's business
    with emulated(module, edit=edit) as how, contextlib.suppress(*wrong):
        runs()[run](how)
    if tier == "text":
        refuse_inexact("".join(Emulated.compiled[key].ptx for key in set(Emulated.compiled) - before))


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.name} ({mutant.tier})")
def test_mutant_is_caught(mutant: Mutant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = mutate(mutant.edits, tmp_path, re.sub(r"\W", "_", f"mutant {mutant.name}"))
    if mutant.fusion:
        monkeypatch.setitem(triton_codebook.LAUNCH, "enable_fp_fusion", True)
    with pytest.raises((AssertionError, ptx.PtxError)) as caught:
        check(module, mutant.tier, mutant.run)
    assert mutant.shows in f"{caught.type.__name__}: {caught.value}"


@pytest.mark.parametrize("run", [*runs(), *map(str, range(len(FAR)))])
def test_kernels_without_a_mistake_pass(run: str) -> None:
    check(codebook, "far" if run.isdigit() else "bits", run)


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
