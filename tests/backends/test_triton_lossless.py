"""The Triton kernels of `Lossless` by the PTX interpreter: every layout, corrupt planes, far elements, mutants."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.errors import CorruptError
from arraycodec.primitives.entropy.plan import HUFFMAN, PLAIN, SLACK, Plan
from arraycodec.spec import ArraySpec
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_torch import arrays, from_numpy, to_numpy

triton = pytest.importorskip("triton")
if triton.knobs.runtime.interpret:
    pytest.skip("kernels are compiled here, not interpreted", allow_module_level=True)

from arraycodec_conformance import ptx  # noqa: E402
from tests.backends.lossless_cases import CHOSEN, EXAMPLES, MORE, Example, broken, planned, weights  # noqa: E402
from tests.backends.test_triton_mutants import mutate  # noqa: E402
from tests.backends.triton_emulation import HUGE, TARGETS, Emulated, emulated  # noqa: E402

CODEC = ac.Lossless()
FULL = pytest.mark.level("full")
ON_EVERY_TARGET = ["units", "columns", "64 bits"]


def decode(how: Any, planes: Planes, spec: ArraySpec, out: torch.Tensor | None = None) -> np.ndarray:
    """By the kernels."""
    return to_numpy(how.decode(CODEC, {name: from_numpy(plane) for name, plane in planes.items()}, spec, {}, out))


@pytest.mark.parametrize("name", [*EXAMPLES, *CHOSEN, *(pytest.param(name, marks=FULL) for name in MORE)])
def test_bits(name: str, level: Level) -> None:
    example = (EXAMPLES | CHOSEN | MORE)[name]()
    for target in TARGETS if name in ON_EVERY_TARGET or level >= Level.full else ("sm_90",):
        with emulated(target=target) as how:
            same_bits(decode(how, example.planes, example.spec), example.array, "decoded")


@pytest.mark.parametrize("name", ["one table", "units", "raw palette"])
def test_broken_planes_end_as_in_the_reference(name: str, level: Level) -> None:
    """The same bits, or CorruptError in both; and in no case does a kernel leave its arrays, which the memory tells."""
    example = EXAMPLES[name]()
    with emulated() as how:
        for seed in range(100 if level >= Level.full else 12):
            compare_broken(how, example, seed)


def compare_broken(how: Any, example: Example, seed: int) -> None:
    """Decode planes that someone changed here and in the reference."""
    planes = broken(example, seed)
    try:
        want = CODEC.decode(planes, example.spec)
    except CorruptError:
        with pytest.raises(CorruptError):
            decode(how, planes, example.spec)
    else:
        same_bits(decode(how, planes, example.spec), want, f"decoded, seed {seed}")


def test_amd_compiles() -> None:
    """For gfx942, as far as a binary."""
    with emulated(target="gfx942") as how, contextlib.suppress(CorruptError):  # nothing is decoded
        decode(how, EXAMPLES["units"]().planes, EXAMPLES["units"]().spec)
    found = {compiled.metadata.name for key, compiled in Emulated.compiled.items() if key[1] == "gfx942"}
    assert found >= {"decode_streams", "merge"}


def test_lanes_share_nothing() -> None:
    """Each lane of the loop over symbols is on its own: no barrier, no shared memory."""
    with emulated() as how:
        decode(how, EXAMPLES["one table"]().planes, EXAMPLES["one table"]().spec)
    streams = [
        found.ptx for key, found in Emulated.compiled.items() if key[1] == "sm_90" and found.entry == "decode_streams"
    ]
    assert streams
    assert not any(re.search(r"bar\.sync|\.shared\.", text) for text in streams)


def decode_far(how: Any) -> None:
    """Decode more than 2^31 elements, all of them zero but in the last two streams, and compare those of the last.

    A tensor of so many elements has its launches run the last program only (see `triton_emulation`), so the streams
    before seem to end nowhere. Their length is odd, for else symbols are stored in words, which are fewer.
    """
    height = 1023
    last = weights((2 * height,), "float32").view(np.uint8)[: 2 * height] & 0x7F
    small = planned(last, Plan(HUFFMAN, PLAIN, rest=7, stream=height, tables=1, symbols=2)).planes
    count = HUGE // height + 64
    planes = {name: small[name] for name in ("plan", "tables", "words")}
    planes["index"] = np.resize(small["index"], count)
    for name, slack in (("streams", SLACK), ("raw", 0)):
        plane = np.zeros((small[name].size - slack) // 2 * count + slack, np.uint8)
        plane[plane.size - small[name].size :] = small[name]
        planes[name] = plane
    spec = ArraySpec((count * height,), "uint8")
    out = arrays.empty(spec)
    with pytest.raises(CorruptError):
        decode(how, planes, spec, out)
    same_bits(out[-height:].numpy(), last[-height:], "the end")


def test_more_than_2_31_elements() -> None:
    with emulated() as how:
        decode_far(how)


# -- mistakes seeded into the kernels

MUTANTS = {
    "words of the next window": ("load_word(words, word + 2, size, inside & over)",
                                 "load_word(words, word + 1, size, inside & over)", "one table"),
    "no bound on words": ("mask=inside & (word < size)", "mask=inside", "one table"),
    "a window used up": ("over = at >= 32", "over = at >= 63", "one table"),
    "all streams are whole": ("tl.where(lane < whole, length, rest)", "length", "one table"),
    "the state of the last stream": ("(state == 0)", "(state >= 0)", "broken state"),
    "one bit too few": ("(bits & ((1 << taken) - 1))", "(bits & ((1 << taken) - 2))", "units"),
    "the first table only": ("+ first // unit, mask", ", mask", "units"),
    "symbols in another order": ("<< (8 * i)", "<< (8 * (PACK - 1 - i))", "one table"),
    "the widest section on top": ("tl.static_range(6, -1, -1)", "tl.static_range(0, 7)", "one table"),
    "sections without padding": ("((height << log) + 63) // 64 * 8", "((height << log) + 7) // 8",
                                 "streams of any length"),
    "neighbours in a byte": ("step // stride * WIDTH", "step % (8 // WIDTH) * WIDTH", "one table"),
    "zeros not restored": ("u = u << tl.minimum(dropped, WORD - 1).to(u.dtype)", "u = u", "zeros"),
    "the sign one too low": ("((u >> SIGN) & 1)", "((u >> (SIGN - 1)) & 1)", "one table"),
    "an offset of 32 bits": ("u += tl.load(plan + 4).to(u.dtype) << 32", "u += 0", "64 bits"),
    "columns as rows": ("(row // columns * height + step) * columns + row % columns", "row * height + step", "columns"),
    "palettes without end": ("mask=inside & (u < number_of_words)", "mask=inside", "broken palette"),
    "32-bit streams": ("row = (program // across).to(tl.int64)", "row = (program // across)", "far"),
    "32-bit symbols": ("lane = tl.program_id(0).to(tl.int64)", "lane = tl.program_id(0)", "far"),
}  # fmt: skip
DEFAULT = {"no bound on words", "a window used up", "sections without padding", "the sign one too low"}


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in DEFAULT else FULL) for name in MUTANTS])
def test_mutant_is_caught(name: str, tmp_path: Path) -> None:
    old, new, run = MUTANTS[name]
    mutated = mutate([(old, new)], tmp_path, re.sub(r"\W", "_", f"mutant lossless {name}"))
    with emulated(mutated) as how, pytest.raises((AssertionError, CorruptError, ptx.PtxError, pytest.fail.Exception)):
        check(how, run)


@pytest.mark.level("full")
@pytest.mark.parametrize("run", sorted({run for *_, run in MUTANTS.values()}))
def test_kernels_without_a_mistake_pass(run: str) -> None:
    with emulated() as how:
        check(how, run)


def check(how: Any, run: str) -> None:
    """What a mutant runs; it raises where that is wrong."""
    if run == "far":
        decode_far(how)
        return
    if run.startswith("broken"):
        example = EXAMPLES["raw palette" if run == "broken palette" else "units"]()
        for seed in range(40):
            compare_broken(how, example, seed)
        return
    example = (EXAMPLES | CHOSEN)[run]()
    same_bits(decode(how, example.planes, example.spec), example.array, "decoded")
