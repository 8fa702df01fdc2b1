"""`NVFP4` as torch ops on any device: the steps of `arraycodec.codecs.nvfp4` in the same order."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.nvfp4 import (
    E2M1,
    E4M3,
    EPSILON,
    HIGHEST_FACTOR,
    HIGHEST_GLOBAL,
    LARGEST,
    LOWEST_FACTOR,
    LOWEST_GLOBAL,
    NAN_SCALE,
    NVFP4,
    SMALLEST,
    TOP,
    UNIT,
)
from arraycodec.primitives.grid import Grid, grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.casts import float32_to_small, values
from arraycodec_torch.grid import absmax_of_tiles, pieces
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
)
from arraycodec_torch.scales import ONE, load, product

SCALES, ELEMENTS = "float8_e4m3fn", "float4_e2m1fn"


def encode(x: torch.Tensor, codec: NVFP4, given: Given) -> Planes:
    """The planes of `x`, in pieces that bound the memory of intermediate results."""
    spec, source = arrays.spec(x), arrays.flat(x)
    codec.supports(spec)
    specs, grid = codec.planes(spec), grid_of(spec, codec.block_size)
    arithmetic = x.dtype if codec.arithmetic == "eager" else torch.float32
    planes = {"codes": arrays.empty(specs["codes"], x.device), **taken(codec, given)}
    if "global_scale" not in given:
        planes["global_scale"] = global_scale(absmax_of_tiles(source, whole(spec.size)), arithmetic, codec.multiplies)
    divisor = planes["global_scale"]
    if "scales" not in given:
        found = block_scale(absmax_of_tiles(source, grid), as_bits(divisor), arithmetic, codec.multiplies)
        planes["scales"] = found.view(arrays.dtype(SCALES)).reshape(specs["scales"].known_shape)
    scales, stream = arrays.flat(planes["scales"]), planes["codes"].view(-1)
    for piece in pieces(grid, x.device):
        run, step = load(source, piece), piece.spread(step_of(scales[piece.tiles], divisor, codec.multiplies))
        run = torch.where(step > 0, run, 0)
        y = as_bits(as_float(run) / torch.where(step > 0, step, 1))
        sign = torch.where((run & MAGNITUDE) != 0, (run >> 28) & 8, 0)
        code = sign | float32_to_small(y & MAGNITUDE, E2M1)
        store_dense(code.view(-1).to(torch.uint8), stream, 4, piece.start)
    return {name: planes[name] for name in specs}


def decode(codec: NVFP4, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in pieces."""
    stream, target, table = arrays.flat(planes["codes"]), out.view(-1), values(ELEMENTS, out.device)
    scales = arrays.flat(planes["scales"])
    for piece in pieces(grid_of(spec, codec.block_size), out.device):
        codes = load_dense(stream, 4, piece.start, piece.stop)
        step = piece.spread(step_of(scales[piece.tiles], planes["global_scale"], codec.multiplies))
        u = product(table.index_select(0, codes).view(piece.rows, -1), step, step > 0)
        target[piece.start : piece.stop] = narrow(u, out.dtype).view(-1)


def taken(codec: NVFP4, given: Given) -> Given:
    """The given planes: scales mean nothing without the global scale they were found with."""
    if "scales" in given and "global_scale" not in given:
        raise codec.fail("given", "a global_scale together with scales", sorted(given))
    return given


def whole(size: int) -> Grid:
    """One tile, the whole array."""
    return Grid(1, 1, size, 1, max(size, 1))


def global_scale(absmax: torch.Tensor, arithmetic: torch.dtype, multiplies: bool) -> torch.Tensor:
    """Step 2: 2688 times the reciprocal, both rounded to the arithmetic's dtype; 1 where that is no finite number."""
    absmax = absmax if absmax.numel() else absmax.new_zeros(1)
    usable, big = (absmax >= MIN_SCALE) & (absmax < INFINITY), absmax >= BIG_SCALE
    if multiplies:
        factor = as_float(absmax) / torch.full_like(absmax, TOP, dtype=torch.float32)
        return torch.where(usable, factor, 1)
    divisor = as_float(torch.where(usable, torch.where(big, absmax - LOWER, absmax), ONE))
    reciprocal = rounded(as_bits(torch.ones_like(divisor) / divisor), arithmetic)
    top = torch.where(big, TOP / 16, torch.full_like(divisor, TOP))
    scale = rounded(as_bits(as_float(reciprocal) * top), arithmetic)
    return as_float(torch.where(usable & (scale < INFINITY), scale, ONE))


def block_scale(absmax: torch.Tensor, divisor: torch.Tensor, arithmetic: torch.dtype, multiplies: bool) -> torch.Tensor:
    """Step 3: the code of absmax / 6 * global scale, 0.125 where it is a zero's; NaN where either is out of range.

    In the flavour of absmax / (6 * global scale): 1 for a block of zeros, and 2^-9 where it is a zero's otherwise.
    """
    usable = (absmax < INFINITY) & in_range(divisor, multiplies)
    if multiplies:
        code = float32_to_small(as_bits(as_float(absmax) / (LARGEST * as_float(divisor))), E4M3)
        code = torch.where(absmax == 0, UNIT, torch.where(code != 0, code, SMALLEST))
        return torch.where(usable, code, NAN_SCALE).to(torch.uint8)
    sixth = rounded(as_bits(as_float(absmax) / torch.full_like(absmax, LARGEST, dtype=torch.float32)), arithmetic)
    code = float32_to_small(as_bits(as_float(sixth) * as_float(divisor)), E4M3)
    code = torch.where(code != 0, code, EPSILON)
    return torch.where(usable, code, NAN_SCALE).to(torch.uint8)


def step_of(scales: torch.Tensor, divisor: torch.Tensor, multiplies: bool) -> torch.Tensor:
    """What values are multiplied with: scale / global scale, NaN where a global scale is out of range."""
    scale = values(SCALES, scales.device).index_select(0, scales.view(torch.uint8).to(torch.int32))
    step, nan = scale * divisor if multiplies else scale / divisor, as_float(torch.full_like(as_bits(divisor), NAN))
    return torch.where(in_range(as_bits(divisor), multiplies), step, nan)


def in_range(divisor: torch.Tensor, multiplies: bool) -> torch.Tensor:
    """Whether a global scale, by its bits, is one that can be used."""
    lowest, highest = (LOWEST_FACTOR, HIGHEST_FACTOR) if multiplies else (LOWEST_GLOBAL, HIGHEST_GLOBAL)
    return (divisor >= int(lowest)) & (divisor < int(highest))
