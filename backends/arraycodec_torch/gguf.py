"""`Gguf` as torch ops on any device: the steps of `arraycodec.codecs.gguf` in the same order."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

from arraycodec.base import Given, Planes
from arraycodec.codecs.gguf import Gguf
from arraycodec.primitives import gguf_blocks
from arraycodec.primitives.gguf_blocks import SMALLEST_NORMAL, TRITS, BlockType, Field, Integers
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.primitives import INFINITY, MAGNITUDE, NAN, as_bits, as_float, narrow, widen
from arraycodec_torch.scales import LARGE_TILE, TILE


class Tables(NamedTuple):
    """The tables of a block type on a device; None where it has none."""

    values: torch.Tensor | None  # of codes
    steps: torch.Tensor | None  # of scale bytes
    small: torch.Tensor | None  # bits of products that are looked up


def encode(x: torch.Tensor, codec: Gguf, given: Given) -> Planes:
    """Raises ArgumentError: the codec does not encode."""
    raise codec.no_encoder


def decode(codec: Gguf, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these blocks into `out`, in pieces of whole blocks."""
    block, tables, target = codec.block, tables_of(codec.type, out.device), out.view(-1)
    stream = arrays.flat(planes["blocks"])
    blocks = stream.view(stream.numel() // block.nbytes, block.nbytes)
    step = max(TILE.get(out.device.type, LARGE_TILE) // block.elements, 1)
    for first in range(0, len(blocks), step):
        start = first * block.elements
        decoded = narrow(load_blocks(blocks[first : first + step], block, tables), out.dtype).view(-1)
        target[start : start + decoded.numel()] = decoded[: target.numel() - start]


def load_blocks(blocks: torch.Tensor, block: BlockType, tables: Tables) -> torch.Tensor:
    """Steps 1 to 4: float32 bits (blocks, sub-blocks, elements)."""
    codes = load_integers(blocks, block.codes).view(len(blocks), -1, block.sub)
    scales = load_integers(blocks, block.scales)[..., None]
    if tables.steps is None:
        step = as_float(load_halves(blocks, block.d)) * scales.to(torch.float32)
    else:
        step = tables.steps[scales]
    y = step * (codes.to(torch.float32) if tables.values is None else tables.values[codes])
    if block.m is not None:
        minima = load_integers(blocks, block.minima)[..., None]
        y = y - as_float(load_halves(blocks, block.m)) * minima.to(torch.float32)
    u = as_bits(y)
    if tables.small is not None:  # products that hardware might flush
        rare = tables.small[scales.clamp(max=SMALLEST_NORMAL - 1) * 16 + codes]
        u = torch.where(scales < SMALLEST_NORMAL, rare, u)
    return torch.where((u & MAGNITUDE) > INFINITY, NAN, u)


def load_integers(blocks: torch.Tensor, integers: Integers) -> torch.Tensor:
    """Integers of blocks as int32 (blocks, count)."""
    if not integers.low:
        return blocks.new_full((len(blocks), 1), -integers.zero, dtype=torch.int32)
    found = torch.cat([load_field(blocks, field) for field in integers.low], dim=1)
    if integers.high is not None:
        found = found | load_field(blocks, integers.high) << integers.low[0].bits
    return (found ^ integers.flip) - integers.zero


def load_field(blocks: torch.Tensor, field: Field) -> torch.Tensor:
    """The numbers of a field as int32 (blocks, count)."""
    turns, size = [], field.chunks * field.run
    for turn in range(field.turns):
        at, digit = field.at + turn * field.stride, field.first + turn * field.step
        part = blocks[:, at : at + size].to(torch.int32).view(len(blocks), field.chunks, field.run)
        turns.append((part * 3**digit & 255) * 3 >> 8 if field.bits == TRITS else part >> digit & field.mask)
    return torch.stack(turns, dim=2).view(len(blocks), field.size)


def load_halves(blocks: torch.Tensor, at: int | None) -> torch.Tensor:
    """The float32 bits of the float16 at a byte of each block."""
    assert at is not None  # every type without a table of steps has d
    return widen(blocks[:, at : at + 2].contiguous().view(torch.float16))[..., None]


@cache
def tables_of(name: str, device: torch.device) -> Tables:
    """The tables of the block type called `name`."""
    block = gguf_blocks.TYPES[name]
    with _disable_current_modes():  # a fake mode must not leave its tensors in the cache
        return Tables(
            torch.tensor(block.values, dtype=torch.float32, device=device) if block.values else None,
            torch.tensor(gguf_blocks.steps(block.steps).view("f4"), device=device) if block.steps else None,
            torch.tensor(gguf_blocks.small_products().view("i4"), device=device) if block.steps == "e8m0" else None,
        )
