"""Normalised integers as torch ops: the functions of `arraycodec.primitives.normal`, step by step."""

from __future__ import annotations

import torch

from arraycodec.primitives import normal
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec
from arraycodec_torch.grid import Piece, quotients
from arraycodec_torch.primitives import INFINITY, MIN_SCALE, NAN, narrow

STEPS, UNIT, HIGHEST = float(normal.STEPS), float(normal.UNIT), float(normal.HIGHEST)


def scales_of(absmax: torch.Tensor, spec: ArraySpec, dtype: str) -> torch.Tensor:
    """The plane `scales` of this spec, from the bits of the largest magnitudes of tiles of an array of this dtype."""
    scale = ((absmax >> 16) + ((absmax & 0xFFFF) != 0)).clamp(max=int(normal.LARGEST[KINDS[dtype]]))
    scale = torch.where(absmax >= MIN_SCALE, scale << 16, 0)
    scales = narrow(torch.where(absmax < INFINITY, scale, NAN), torch.bfloat16)
    # The whole of an empty array has a scale too.
    return scales.reshape(spec.known_shape) if scales.numel() else scales.new_zeros(spec.known_shape)


def integers_of(run: torch.Tensor, piece: Piece, scale: torch.Tensor) -> torch.Tensor:
    """The integers of a piece as int32, from the bits of its elements and of the scales of its tiles."""
    y = quotients(run, piece, scale, True, torch.float32) * STEPS  # an exact product, but of what rounds to 0
    return torch.round(torch.where(y == y, y, 0).clamp(-HIGHEST, HIGHEST)).to(torch.int32)


def values_of(integers: torch.Tensor) -> torch.Tensor:
    """What integers of any dtype are times a scale, as float32, exact below 2^24."""
    return integers.to(torch.float32) * UNIT
