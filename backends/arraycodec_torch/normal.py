"""Normalised integers as torch ops: the functions of `arraycodec.primitives.normal`, step by step."""

from __future__ import annotations

import torch

from arraycodec.errors import ArgumentError
from arraycodec.primitives import normal
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.grid import Piece, quotients
from arraycodec_torch.primitives import INFINITY, MAGNITUDE, MIN_SCALE, NAN, as_bits, narrow

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


def integer_weights(codec: str, importance: torch.Tensor, columns: int) -> torch.Tensor:
    """The importance of columns as int64 from 0 to 4095, the largest; values are taken on trust, but on a CPU.

    4095 * importance / largest, rounded to nearest even, on integers: subnormal numbers count.
    """
    if importance.device.type == "cpu":
        normal.integer_weights(codec, arrays.to_numpy(importance), columns)
    elif importance.shape != (columns,) or importance.dtype != torch.float32:
        got = f"{str(importance.dtype).removeprefix('torch.')}{list(importance.shape)}"
        raise ArgumentError(f"{codec}: importance must be float32[{columns}], got {got}")
    if not columns:
        return importance.to(torch.int64)
    bits = (as_bits(importance.contiguous()) & MAGNITUDE).to(torch.int64)
    own = (bits & 0x7FFFFF) | torch.where(bits >= 0x800000, 0x800000, 0)
    exponent, largest = (bits >> 23).clamp(min=1), bits.argmax()
    divisor = own[largest] << (exponent[largest] - exponent).clamp(max=24)  # by which all that is smaller becomes 0
    quotient, rest = normal.MAX_IMPORTANCE * own // divisor, normal.MAX_IMPORTANCE * own % divisor
    return quotient + ((2 * rest > divisor) | ((2 * rest == divisor) & (quotient & 1 == 1)))
