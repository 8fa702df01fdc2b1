"""`Bitmask` on GPUs: launches the kernels of `arraycodec_torch.kernels.bitmask`.

The number of values is fetched from the device, since it is a shape.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.bitmask import Bitmask
from arraycodec.primitives.bitmasks import Rows, rows_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.bitmask import offsets_of
from arraycodec_torch.kernels import bitmask as kernels
from arraycodec_torch.sparse import unsigned_words
from arraycodec_torch.triton_blockwise import TILE, check_device, launch

BYTES = TILE // 8  # of the bitmask, for each program


def encode(x: torch.Tensor, codec: Bitmask, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    codec.supports(spec := arrays.spec(x))
    check_device(codec, x.device)
    specs, rows, source = codec.planes(spec), rows_of(spec), unsigned_words(x)
    bitmask = arrays.empty(specs["bitmask"], x.device)
    counts = torch.empty(bitmask.numel(), dtype=torch.uint8, device=x.device)
    if spec.size:
        launch(
            kernels.mark, programs(rows), source, bitmask, counts, *numbers(rows),
            MASK=codec.mask(spec.dtype), EVEN=rows.columns % 8 == 0, BLOCK=BYTES,
        )  # fmt: skip
    behind = sums(counts, spec)
    values = torch.empty(int(behind[-1]) if spec.size else 0, dtype=x.dtype, device=x.device)
    if values.numel():
        launch(
            kernels.squeeze, programs(rows), source, bitmask, behind - counts, unsigned_words(values), *numbers(rows),
            EVEN=rows.columns % 8 == 0, BLOCK=BYTES,
        )  # fmt: skip
    row_counts = counts.view(rows.rows, rows.width).sum(1)
    return {"values": values, "bitmask": bitmask, "offsets": offsets_of(row_counts, specs["offsets"])}


def decode(codec: Bitmask, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    rows, bitmask, values = rows_of(spec), arrays.flat(planes["bitmask"]), planes["values"]
    if not spec.size:
        codec.check_number(values.numel(), 0)
        return
    counts = torch.empty_like(bitmask)
    launch(kernels.count, -(-bitmask.numel() // TILE), bitmask, counts, bitmask.numel(), BLOCK=TILE)
    behind = sums(counts, spec)
    codec.check_number(values.numel(), int(behind[-1]))
    launch(
        kernels.spread, programs(rows), unsigned_words(values), bitmask, behind - counts, unsigned_words(out),
        *numbers(rows), EVEN=rows.columns % 8 == 0, BLOCK=BYTES,
    )  # fmt: skip


def sums(counts: torch.Tensor, spec: ArraySpec) -> torch.Tensor:
    """Where the values of each byte of the bitmask end."""
    return counts.cumsum(0, dtype=torch.int32 if spec.size < 1 << 31 else torch.int64)


def programs(rows: Rows) -> int:
    """How many programs have the whole bitmask."""
    return -(-rows.rows * rows.width // BYTES)


def numbers(rows: Rows) -> tuple[int, int, int]:
    """Bytes of the bitmask, columns of a row, and bytes of a row."""
    return rows.rows * rows.width, rows.columns, rows.width
