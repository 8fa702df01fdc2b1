"""`Gguf` on GPUs: launches the kernel of `arraycodec_torch.kernels.gguf`; importing it imports Triton."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from arraycodec.base import Given, Planes
from arraycodec.codecs.gguf import Gguf
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.gguf_blocks import TRITS, TYPES, Integers, places
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.gguf import tables_of
from arraycodec_torch.kernels import gguf as kernels
from arraycodec_torch.triton_blockwise import TILE, check_device, integers, launch


def encode(x: torch.Tensor, codec: Gguf, given: Given) -> Planes:
    """Raises ArgumentError: the codec does not encode."""
    raise codec.no_encoder


def decode(codec: Gguf, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these blocks into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    block, tables, numbers = codec.block, tables_of(codec.type, out.device), places_of(codec.type, out.device)
    blocks, subs, rows = arrays.flat(planes["blocks"]), block.elements // block.sub, TILE // block.sub
    groups = blocks.numel() // block.nbytes * subs
    values, steps, small = (blocks if table is None else table for table in tables)
    launch(
        kernels.decode, -(-groups // rows), blocks, *numbers, values, steps, integers(small), integers(out.view(-1)),
        spec.size, groups, KIND=KINDS[spec.dtype], NBYTES=block.nbytes, SUBS=subs, SUB=block.sub, ROWS=rows,
        D=-1 if block.d is None else block.d, M=-1 if block.m is None else block.m, VALUES=tables.values is not None,
        STEPS=tables.steps is not None, SMALL=tables.small is not None, TRITS=block.codes.low[0].bits == TRITS,
        **constants("CODE", block.codes), **constants("SCALE", block.scales), **constants("MINIMUM", block.minima),
    )  # fmt: skip


def constants(name: str, numbers: Integers) -> dict[str, int]:
    """What the kernel knows of integers besides their places."""
    low, high = numbers.low[0] if numbers.low else None, numbers.high
    found = {"MASK": low.mask if low else 0, "HIGH": high.mask if high else 0, "WIDTH": low.bits if low else 0}
    return {f"{name}_{key}": value for key, value in (found | {"FLIP": numbers.flip, "ZERO": numbers.zero}).items()}


@cache
def places_of(name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The places of codes, scales and minima of a block type, on a device."""
    block = TYPES[name]
    with _disable_current_modes():  # a fake mode must not leave its tensors in the cache
        codes, scales, minima = (
            integers(torch.tensor(packed(numbers), device=device))
            for numbers in (block.codes, block.scales, block.minima)
        )
    return codes, scales, minima


def packed(numbers: Integers) -> np.ndarray:
    """Bytes and shifts in one int32 each, low bits first; a zero where there are none."""
    if not numbers.low:
        return np.zeros(1, np.int32)
    byte, shift = places(numbers.low + ((numbers.high,) if numbers.high else ()))
    upper = 3**shift if numbers.low[0].bits == TRITS else shift
    return byte | upper.astype(np.int32) << 16
