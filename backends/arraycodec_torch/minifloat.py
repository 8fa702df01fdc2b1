"""`Minifloat` as torch ops on any device: the steps of `arraycodec.codecs.minifloat` in the same order."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.primitives.floats import EPSILON, KINDS
from arraycodec.primitives.formats import FORMATS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.casts import float32_to_small, values
from arraycodec_torch.grid import absmax_of_tiles, pieces, quotients
from arraycodec_torch.packing import load_dense, store_dense
from arraycodec_torch.primitives import INFINITY, MIN_SCALE, NAN, as_bits, as_float, flushed, narrow, rounded, widen
from arraycodec_torch.scales import decoded, load


def encode(x: torch.Tensor, codec: Minifloat, given: Given) -> Planes:
    """The planes of `x`, in pieces that bound the memory of intermediate results."""
    spec, source = arrays.spec(x), arrays.flat(x)
    codec.supports(spec)
    specs, grid = codec.planes(spec), grid_of(spec, codec.block_size)
    planes = {"codes": arrays.empty(specs["codes"], x.device), **given}
    if codec.scaled and "scales" not in given:
        planes["scales"] = scales_of(absmax_of_tiles(source, grid), codec, specs["scales"])
    scales, stream = planes.get("scales"), planes["codes"].view(-1).view(torch.uint8)
    arithmetic = x.dtype if codec.arithmetic == "eager" else torch.float32
    for piece in pieces(grid, x.device):
        u = load(source, piece)
        if scales is not None:
            scale = widen(arrays.flat(scales)[piece.tiles])
            u = as_bits(quotients(u, piece, scale, codec.flavour is None, arithmetic))
            u = u if codec.flavour is None else flushed(u)
        store_dense(float32_to_small(u, codec.casting).view(-1).to(torch.uint8), stream, codec.bits, piece.start)
    return {name: planes[name] for name in specs}


def decode(codec: Minifloat, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in pieces."""
    stream, target, table = (
        arrays.flat(planes["codes"]).view(torch.uint8),
        out.view(-1),
        values(codec.format, out.device),
    )
    for piece in pieces(grid_of(spec, codec.block_size), out.device):
        codes = load_dense(stream, codec.bits, piece.start, piece.stop).to(torch.int32)
        y = table.index_select(0, codes).view(piece.rows, -1)
        u = as_bits(y)
        if codec.scaled:
            u = decoded(y, piece.spread(widen(arrays.flat(planes["scales"])[piece.tiles])))
        target[piece.start : piece.stop] = narrow(u, out.dtype).view(-1)


def scales_of(absmax: torch.Tensor, codec: Minifloat, spec: ArraySpec) -> torch.Tensor:
    """Step 3 for all tiles, from the bits of their largest magnitudes: the plane `scales`."""
    find = own_scales if codec.flavour is None else foreign_scales
    scales = narrow(find(absmax, FORMATS[codec.format].largest, spec.dtype), arrays.dtype(spec.dtype))
    # The whole of an empty array has a scale too.
    return scales.reshape(spec.known_shape) if scales.numel() else scales.new_zeros(spec.known_shape)


def own_scales(absmax: torch.Tensor, largest: float, dtype: str) -> torch.Tensor:
    """Step 3: absmax times the reciprocal of the format's largest number; a scale below 2^-100 is 0."""
    unit = torch.ones((), device=absmax.device) / torch.full((), largest, device=absmax.device)
    scale = as_bits(as_float(absmax) * unit)
    return torch.where(absmax >= INFINITY, NAN, torch.where(scale >= MIN_SCALE, scale, 0))


def foreign_scales(absmax: torch.Tensor, largest: float, dtype: str) -> torch.Tensor:
    """Step 3 in compressed-tensors' flavour: the quotient rounded to the dtype, and its eps where that is too small."""
    quotient = as_float(absmax) / torch.full_like(absmax, largest, dtype=torch.float32)
    scale = rounded(as_bits(quotient), arrays.dtype(dtype))
    return torch.where(absmax >= INFINITY, NAN, torch.where(scale >= MIN_SCALE, scale, int(EPSILON[KINDS[dtype]])))
