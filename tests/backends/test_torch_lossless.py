"""`Lossless` in plain torch ops: bits of every layout, corrupt planes, tables, and what compilers make of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.errors import CorruptError, UnsupportedByBackend
from arraycodec.primitives.entropy import ans, huffman
from arraycodec.spec import ArraySpec
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_torch import IMPLEMENTATIONS, from_numpy, scales, streams, to_numpy
from tests.backends.lossless_cases import CHOSEN, EXAMPLES, MORE, Example, broken, columns, weights

CODEC = ac.Lossless()
FULL = pytest.mark.level("full")


def decode(planes: Planes, spec: ArraySpec, out: torch.Tensor | None = None) -> np.ndarray:
    """By plain torch ops."""
    own = {name: from_numpy(plane) for name, plane in planes.items()}
    return to_numpy(IMPLEMENTATIONS["torch"].decode(CODEC, own, spec, {}, out))


@pytest.mark.parametrize("name", [*EXAMPLES, *CHOSEN, *(pytest.param(name, marks=FULL) for name in MORE)])
def test_bits(name: str) -> None:
    example = (EXAMPLES | CHOSEN | MORE)[name]()
    same_bits(CODEC.decode(example.planes, example.spec), example.array, "decoded by the reference")
    same_bits(decode(example.planes, example.spec), example.array, "decoded")


def test_examples_have_every_layout() -> None:
    """Coders, arrangements, columns, units, dropped zeros, patches: what kernels are specialised for."""
    plans = [tuple(make().planes["plan"].tolist()) for make in (EXAMPLES | CHOSEN).values()]
    assert {plan[0] for plan in plans} == {0, 1, 2}
    assert {plan[1] for plan in plans} == {0, 1, 2, 3}
    assert any(plan[7] for plan in plans)
    assert any(plan[5] != plan[6] for plan in plans)
    assert any(plan[12] for plan in plans)


@pytest.mark.parametrize("tile", [1, 64, 1000])
def test_tiles_change_no_bit(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scales.TILE, "cpu", tile)
    for name in ("columns", "one table"):
        example = EXAMPLES[name]()
        same_bits(decode(example.planes, example.spec), example.array, "decoded")


def test_planes_that_start_anywhere() -> None:
    """Views into a larger tensor, of which integers of 4 or 8 bytes cannot always be made."""
    example = EXAMPLES["one table"]()
    for skip in (1, 4):
        own = {name: from_numpy(plane) for name, plane in example.planes.items()}
        for name in ("tables", "streams", "raw"):
            own[name] = torch.cat([own[name][:1].expand(skip), own[name]])[skip:]
        got = IMPLEMENTATIONS["torch"].decode(CODEC, own, example.spec, {})
        same_bits(to_numpy(got), example.array, "decoded")


def test_out_is_filled() -> None:
    example = CHOSEN["columns of bfloat16"]()
    out = torch.empty(example.spec.known_shape, dtype=torch.bfloat16)
    same_bits(decode(example.planes, example.spec, out), example.array, "returned")
    same_bits(to_numpy(out), example.array, "written")


@pytest.mark.parametrize("name", ["one table", "units", "columns", "raw palette", "window", "64 bits"])
def test_broken_planes_end_as_in_the_reference(name: str, level: Level) -> None:
    """The same bits, or CorruptError in both."""
    example = EXAMPLES[name]()
    for seed in range(150 if level >= Level.full else 30):
        compare_broken(example, seed)


def compare_broken(example: Example, seed: int) -> None:
    """Decode planes that someone changed here and in the reference."""
    planes = broken(example, seed)
    try:
        want = CODEC.decode(planes, example.spec)
    except CorruptError:
        with pytest.raises(CorruptError):
            decode(planes, example.spec)
    else:
        same_bits(decode(planes, example.spec), want, f"decoded, seed {seed}")


def test_encoding_is_for_the_host() -> None:
    with pytest.raises(UnsupportedByBackend, match=r"lossless: the torch backend encodes on the host only.* on cpu"):
        IMPLEMENTATIONS["torch"].encode(torch.ones(4), CODEC, {})


@pytest.mark.parametrize("bits", [1, 5, 12])
def test_huffman_tables(bits: int) -> None:
    """The first symbol of every entry of the reference."""
    rng = np.random.default_rng(bits)
    count = min(1 << bits, 256)
    tables = [huffman.lengths(rng.geometric(0.4, count) * (rng.random(count) < 0.9) + (np.arange(count) < 1), bits)]
    tables += [np.where(np.arange(count) == 1, 1, 0)]  # alone
    got = streams.huffman_tables(torch.from_numpy(np.array(tables, np.int32)), bits).numpy()
    for lengths, table in zip(tables, got, strict=True):
        want = huffman.decoding_table(lengths.astype(np.uint16), bits)
        assert ((table >> 8) == ((want >> 8) & 255)).all()
        assert ((table & 15) == np.asarray(lengths)[table >> 8]).all()


@pytest.mark.parametrize("bits", [9, 14])
def test_ans_tables(bits: int) -> None:
    rng = np.random.default_rng(bits)
    tables = [ans.normalised(rng.geometric(p, 256) * (rng.random(256) < 0.5) + 1, bits) for p in (0.01, 0.5)]
    tables += [np.where(np.arange(256) == 3, 1 << bits, 0)]
    got = streams.ans_tables(torch.from_numpy(np.array(tables, np.int32)), bits).numpy()
    for frequencies, table in zip(tables, got, strict=True):
        assert (table.view(np.uint32) == ans.decoding_table(frequencies.astype(np.uint16), bits)).all()


def test_compiled_programs_decode() -> None:
    """One graph, through the operator; of a stack of encoded layers as well."""
    x = torch.from_numpy(columns("float32"))
    encoded = ac.encode(x, CODEC)
    decoded = torch.compile(lambda: ac.decode(encoded) * 2, fullgraph=True, backend="eager")()
    same_bits(decoded.numpy(), x.numpy() * 2, "compiled")


def test_a_part_of_another_codec() -> None:
    """Codes of a quantiser, coded: the parts of `Then` run where the whole does."""
    x = weights((64, 256), "float32")[:, :128].copy()
    codec = ac.codec("nf4+lossless")
    planes = codec.encode(np.nan_to_num(x))
    want = codec.decode(planes, ArraySpec(x.shape, "float32"))
    own = {name: from_numpy(plane) for name, plane in planes.items()}
    got = IMPLEMENTATIONS["torch"].decode(codec, own, ArraySpec(x.shape, "float32"), {})
    same_bits(to_numpy(got), want, "decoded")
