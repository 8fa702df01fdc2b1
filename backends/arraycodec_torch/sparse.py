"""What `Bitmask` and `TwoFour` share as torch ops: elements as integers, and bitmasks of rows."""

from __future__ import annotations

import torch

from arraycodec.primitives.bitmasks import Rows
from arraycodec_torch.arrays import flat

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # torch computes with no wider unsigned ones


def words_of(x: torch.Tensor) -> torch.Tensor:
    """The elements one after another as integers; a view where they lie so."""
    return flat(x.resolve_conj()).view(WORDS[x.element_size()])


def unsigned_words(x: torch.Tensor) -> torch.Tensor:
    """The same as unsigned integers, as kernels take them."""
    return words_of(x).view({1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[x.element_size()])


def pack_bits(kept: torch.Tensor, rows: Rows) -> torch.Tensor:
    """uint8 (rows, width) with the lowest bit first; rows end in zero bits."""
    padded = torch.nn.functional.pad(kept.view(rows.rows, rows.columns).to(torch.uint8), (0, -rows.columns % 8))
    eights = padded.view(rows.rows, rows.width, 8) << torch.arange(8, dtype=torch.uint8, device=kept.device)
    return eights.sum(-1, dtype=torch.uint8)


def unpack_bits(bitmask: torch.Tensor, rows: Rows, columns: int) -> torch.Tensor:
    """The inverse of `pack_bits` for so many columns: bool (rows, columns)."""
    bits = bitmask.reshape(rows.rows, rows.width, 1) >> torch.arange(8, dtype=torch.uint8, device=bitmask.device)
    return (bits & 1).bool().view(rows.rows, 8 * rows.width)[:, :columns]
