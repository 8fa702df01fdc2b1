"""`Linear` as torch ops on any device: the steps of `arraycodec.codecs.linear` in the same order."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.linear import Linear
from arraycodec.primitives.floats import EPSILON, KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.grid import extremes_of_tiles, pieces, quotients
from arraycodec_torch.packing import load_dense, store_dense
from arraycodec_torch.primitives import (
    BIG_SCALE,
    INFINITY,
    LOWER,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    as_bits,
    as_float,
    narrow,
    rounded,
    widen,
)
from arraycodec_torch.scales import decoded, is_usable, load, lowered, scale_run


def encode(x: torch.Tensor, codec: Linear, given: Given) -> Planes:
    """The planes of `x`, in pieces that bound the memory of intermediate results."""
    spec, source = arrays.spec(x), arrays.flat(x)
    codec.supports(spec)
    specs, grid = codec.planes(spec), grid_of(spec, codec.block_size)
    planes = {"codes": arrays.empty(specs["codes"], x.device), **taken(codec, given)}
    if "scales" not in planes:
        planes |= scales_of(extremes_of_tiles(source, grid), codec, specs)
    scales, stream = widen(arrays.flat(planes["scales"])), planes["codes"].view(-1).view(torch.uint8)
    zeros = None if codec.symmetric else arrays.flat(planes["zero_points"])
    arithmetic = x.dtype if codec.arithmetic == "eager" else torch.float32
    for piece in pieces(grid, x.device):
        run, scale = load(source, piece), scales[piece.tiles]
        y = quotients(run, piece, scale, codec.flavour is None, arithmetic)
        zero = 0 if zeros is None else piece.spread(zeros[piece.tiles])
        q = integers(y, zero, codec, arithmetic)
        store_dense(q.view(-1).to(torch.uint8), stream, codec.bits, piece.start)
    return {name: planes[name] for name in specs}


def decode(codec: Linear, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in pieces."""
    grid, target = grid_of(spec, codec.block_size), out.view(-1)
    stream, scales = arrays.flat(planes["codes"]), arrays.flat(planes["scales"])
    zeros = None if codec.symmetric else arrays.flat(planes["zero_points"])
    for piece in pieces(grid, out.device):
        q = load_dense(stream, codec.bits, piece.start, piece.stop).to(torch.int32).view(piece.rows, -1)
        q = q if codec.bits == 8 else q - (1 << (codec.bits - 1))
        q = q if zeros is None else q - piece.spread(zeros[piece.tiles])
        scale = piece.spread(widen(scales[piece.tiles]))
        target[piece.start : piece.stop] = narrow(decoded(q.to(torch.float32), scale), out.dtype).view(-1)


def taken(codec: Linear, given: Given) -> Planes:
    """The scales and zero points of a calibration, which come together."""
    if not codec.symmetric and ("scales" in given) != ("zero_points" in given):
        raise codec.fail("given", "scales and zero_points together", sorted(given))
    return {name: given[name] for name in ("scales", "zero_points") if name in given}


def scales_of(extremes: torch.Tensor, codec: Linear, specs: dict[str, ArraySpec]) -> Planes:
    """Step 3 for all tiles, from (2, tiles) bits: the planes `scales` and `zero_points`."""
    dtype, shape = arrays.dtype(specs["scales"].dtype), specs["scales"].known_shape
    find = own_scales if codec.flavour is None else foreign_scales
    scales, zeros = find(extremes[0], extremes[1], codec, specs["scales"].dtype)
    planes = {"scales": narrow(scales, dtype), "zero_points": zeros.to(torch.int8)}
    # The whole of an empty array has a scale too.
    return {name: p.reshape(shape) if p.numel() else p.new_zeros(shape) for name, p in planes.items() if name in specs}


def own_scales(
    above: torch.Tensor, below: torch.Tensor, codec: Linear, dtype: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step 3: the scale is the range times 1 / (number of steps in it); a scale below 2^-100 is 0."""
    steps = (1 << (codec.bits - 1)) - 1 if codec.symmetric else (1 << codec.bits) - 1
    unit = torch.ones((), device=above.device) / torch.full((), steps, dtype=torch.float32, device=above.device)
    absmax = torch.maximum(above, below)
    lower = torch.where(absmax >= BIG_SCALE, LOWER, torch.zeros_like(absmax))  # so that the sum does not overflow
    extent = as_float(lowered(absmax, lower))
    if not codec.symmetric:
        extent = as_float(lowered(above, lower)) + as_float(lowered(below, lower))
    scale = as_bits(extent * unit) + lower
    scale = torch.where(absmax >= INFINITY, NAN, torch.where(scale >= MIN_SCALE, scale, 0))
    zeros = torch.round(scale_run(below, scale)) - (1 << (codec.bits - 1))
    return scale, torch.where(is_usable(scale), zeros, 0)


def foreign_scales(
    above: torch.Tensor, below: torch.Tensor, codec: Linear, dtype: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Step 3 in compressed-tensors' flavour: the range divided by its steps, every operation rounded to the dtype."""
    kind, steps, half = arrays.dtype(dtype), (1 << codec.bits) - 1, 1 << (codec.bits - 1)
    absmax = torch.maximum(above, below)
    extent = absmax if codec.symmetric else rounded(as_bits(as_float(above) + as_float(below)), kind)
    divisor = torch.full_like(absmax, steps / 2 if codec.symmetric else steps, dtype=torch.float32)
    scale = rounded(as_bits(as_float(extent) / divisor), kind)  # by a tensor: CUDA multiplies by 1 / scalar
    scale = torch.where((scale & MAGNITUDE) >= INFINITY, NAN, scale)
    epsilon = int(EPSILON[KINDS[dtype]])
    quotient = rounded(as_bits(as_float(below) / as_float(scale)), kind)
    quotient = torch.where(scale != 0, quotient, INFINITY)  # without a scale the quotient is infinite
    zeros = as_float(rounded(as_bits(as_float(quotient) - half), kind)).clamp(-half, half - 1)
    found = (scale != NAN) & (absmax >= MIN_SCALE) & ((scale != 0) | (below != 0))
    dead = (scale != NAN) & ((absmax < MIN_SCALE) | (scale == 0))
    return torch.where(dead, epsilon, scale), torch.where(found, torch.round(zeros), 0)


def integers(y: torch.Tensor, zero: torch.Tensor | int, codec: Linear, arithmetic: torch.dtype) -> torch.Tensor:
    """Step 5 and the offset of step 6. Our own rule rounds before it adds the zero point, the flavour after."""
    low, high = codec.lowest, (1 << (codec.bits - 1)) - 1
    if codec.flavour is None:
        q = torch.round(torch.where(y == y, y, 0).clamp(-1024, 1024)) + zero
    else:
        q = y if isinstance(zero, int) else as_float(rounded(as_bits(y + zero), arithmetic))
        q = torch.round(torch.where(q == q, q, 0).clamp(low, high))
    return q.clamp(low, high).to(torch.int32) + (0 if codec.bits == 8 else 1 << (codec.bits - 1))
