"""Scales as torch ops: the steps of `arraycodec.primitives.scales`, on a tile of blocks at a time.

A tile is a matrix with a row per block, so that a scale is a column that broadcasts; its size bounds the memory that
the intermediate results take.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from arraycodec_torch.primitives import (
    BIG_SCALE,
    INFINITY,
    LOWER,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    SIGN,
    as_bits,
    as_float,
    flushed,
    recip_rn,
    signed_flushed,
    widen,
)

ONE = 0x3F800000
TILE = {"cpu": 1 << 16}  # elements: what fits the second-level cache
LARGE_TILE = 1 << 22  # elsewhere: what keeps a GPU busy for longer than the launch of a kernel takes


class Tile(NamedTuple):
    """The elements start..stop of the flattened array: whole blocks, the first one `block`; or a part of one block."""

    start: int
    stop: int
    block: int
    rows: int


def tiles(size: int, block: int, device: torch.device) -> Iterator[Tile]:
    """Tiles that cover `size` elements in blocks of `block`, the last of which may be shorter."""
    tile = TILE.get(device.type, LARGE_TILE)
    rows = max(1, tile // block)
    whole = size // block
    for first in range(0, whole if block <= tile else 0, rows):
        last = min(first + rows, whole)
        yield Tile(first * block, last * block, first, last - first)
    for start in range(whole * block if block <= tile else 0, size, block):
        stop = min(start + block, size)
        for at in range(start, stop, tile):
            yield Tile(at, min(at + tile, stop), start // block, 1)


def absmax_of_blocks(source: torch.Tensor, block: int) -> torch.Tensor:
    """Steps 1 to 3 for all blocks: the bits of their scales."""
    found = torch.zeros(-(-source.numel() // block), dtype=torch.int32, device=source.device)
    for tile in tiles(source.numel(), block, source.device):
        largest = (load(source, tile) & MAGNITUDE).amax(1)
        absmax = found[tile.block : tile.block + tile.rows]
        torch.maximum(absmax, largest, out=absmax)
    return stored_scale(found)


def load(source: torch.Tensor, tile: Any) -> torch.Tensor:
    """Step 1, for a tile or a piece of a grid. A zero keeps its sign, which tables and integers take no notice of."""
    return signed_flushed(widen(source[tile.start : tile.stop])).view(tile.rows, -1)


def stored_scale(absmax: torch.Tensor) -> torch.Tensor:
    """Step 3."""
    return torch.where(absmax >= INFINITY, NAN, torch.where(absmax >= MIN_SCALE, absmax, 0))


def scale_run(run: torch.Tensor, absmax: torch.Tensor) -> torch.Tensor:
    """Steps 4 and 5 for bits `run` (rows, n) and `absmax` (rows, 1); y is 0 where the scale is NaN, 0 or negative."""
    return scaled(run, *inverse_scale(absmax))


def inverse_scale(absmax: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Steps 4 and 5 for scales: the reciprocal, and the exponent field up to which an element is read as +0.

    That is the field which is taken off the elements' exponents, or the largest of all where the scale is NaN, 0 or
    negative.
    """
    big = torch.where(absmax >= BIG_SCALE, LOWER, torch.zeros_like(absmax))
    lower = torch.where(is_usable(absmax), big, INFINITY)
    return as_float(recip_rn(torch.where(lower == INFINITY, ONE, absmax - lower))), lower


def scaled(run: torch.Tensor, inverse: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """Steps 4 and 5 for elements."""
    return as_float(lowered(run, lower)) * inverse


def divided(run: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Elements over the bits of their scales, rounded once; 0 as in `scale_run`."""
    usable = is_usable(scale)
    return as_float(torch.where(usable, run, 0)) / as_float(torch.where(usable, scale, ONE))


def is_usable(scale: torch.Tensor) -> torch.Tensor:
    """Whether elements can be divided by the scale: it is positive, finite and not below 2^-100."""
    return (scale >= MIN_SCALE) & (scale < INFINITY)


def lowered(bits: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """The exponents of numbers lowered by `lower`; what would become subnormal is a zero of its sign, or +0 for all.

    Infinity and NaN, which given scales let through, stay.
    """
    kept, exponent = torch.where(lower == INFINITY, torch.zeros_like(lower), SIGN), bits & INFINITY
    return torch.where(exponent > lower, bits - torch.where(exponent < INFINITY, lower, 0), bits & kept)


def used_scale(scale: torch.Tensor) -> torch.Tensor:
    """A stored scale as decoding uses it: the canonical NaN where it is not finite, 0 where it is below 2^-100."""
    bits = as_bits(scale)
    magnitude = bits & MAGNITUDE
    return as_float(torch.where(magnitude >= INFINITY, NAN, torch.where(magnitude >= MIN_SCALE, bits, 0)))


def decoded(y: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Values times the bits of their scales, rounded once, as bits."""
    return product(y, used_scale(as_float(scale)), is_usable(scale))


def product(y: torch.Tensor, scale: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
    """Values times scales as bits; every NaN is the canonical one, and a zero is +0 where a scale is not usable."""
    u = as_bits(y * scale)
    u = torch.where(usable, u, flushed(u))
    return torch.where((u & MAGNITUDE) > INFINITY, NAN, u)
