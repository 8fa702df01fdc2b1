"""`LLMInt8` as torch ops on any device: the steps of `arraycodec.codecs.llm_int8` in the same order."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.llm_int8 import EIGHT, ROWS, STEPS, UNIT, LLMInt8
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.codebook import flat
from arraycodec_torch.grid import absmax_of_tiles, pieces
from arraycodec_torch.primitives import INFINITY, MAGNITUDE, NAN, as_bits, as_float, flushed, narrow, widen
from arraycodec_torch.scales import inverse_scale, load, scaled, stored_scale, used_scale


def encode(x: torch.Tensor, codec: LLMInt8, given: Given) -> Planes:
    """The planes of `x`; with a threshold the number of outlier columns is fetched from the device."""
    spec = arrays.spec(x)
    codec.supports(spec)
    specs, grid, source = codec.planes(spec), grid_of(spec, ROWS), flat(x)
    columns = torch.zeros(0, dtype=torch.int32, device=x.device)
    outliers = source[:0]
    if codec.threshold and spec.size:
        source, columns, outliers = without_outliers(source.view(-1, grid.columns), codec.threshold_bits(spec))
    codes = arrays.empty(specs["codes"], x.device)
    scales = given["scales"] if "scales" in given else as_float(stored_scale(absmax_of_tiles(source, grid)))
    absmax, target = as_bits(flat(scales)), codes.view(-1)
    for piece in pieces(grid, x.device):
        y = steps_run(load(source, piece), piece.spread(absmax[piece.tiles]))
        target[piece.start : piece.stop] = integers(y).view(-1)
    planes: Planes = {"codes": codes, "scales": scales.reshape(specs["scales"].known_shape)}
    if codec.threshold:
        if columns.numel():
            codes.view(-1, grid.columns)[:, columns.long()] = 0
        shape = (*spec.known_shape[:-1], columns.numel())
        planes |= {"outlier_columns": columns, "outliers": outliers.reshape(shape)}
    return planes


def decode(codec: LLMInt8, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    grid, codes, target = grid_of(spec, ROWS), flat(planes["codes"]), out.view(-1)
    scales, unit = used_scale(flat(planes["scales"])), as_float(torch.full((), int(UNIT), device=out.device).int())
    for piece in pieces(grid, out.device):
        scale = as_bits(piece.spread(scales[piece.tiles]))
        finite = ((scale & MAGNITUDE) < INFINITY) & (scale != 0)
        q = codes[piece.start : piece.stop].view(piece.rows, -1).to(torch.float32)
        y = as_float(flushed(as_bits(q * as_float(torch.where(finite, scale - int(EIGHT), scale))))) * unit
        u = torch.where((as_bits(y) & MAGNITUDE) > INFINITY, NAN, as_bits(y))
        target[piece.start : piece.stop] = narrow(u, out.dtype).view(-1)
    if codec.threshold and planes["outlier_columns"].numel() and spec.size:
        outliers = planes["outliers"].reshape(-1, planes["outlier_columns"].numel())
        same = outliers.dtype == out.dtype
        placed = outliers if same else narrow(widen(outliers), out.dtype)
        out.view(-1, grid.columns)[:, planes["outlier_columns"].long()] = placed


def without_outliers(rows: torch.Tensor, threshold: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Step 0: the elements with outliers replaced by 0, the columns that have any, and these columns as they are."""
    magnitude = widen(rows) & MAGNITUDE
    outlier = (magnitude >= threshold) & (magnitude <= INFINITY)
    columns = outlier.any(0).nonzero().view(-1)
    return torch.where(outlier, 0, rows).view(-1), columns.int(), rows.index_select(1, columns)


def steps_run(run: torch.Tensor, absmax: torch.Tensor) -> torch.Tensor:
    """Step 4 for bits `run` (rows, n) and `absmax` (rows, 1); y is 0 where the scale is NaN, 0 or negative."""
    inverse, lower = inverse_scale(absmax)
    return scaled(run, inverse * STEPS, lower)


def integers(y: torch.Tensor) -> torch.Tensor:
    """Step 5."""
    y = torch.where(y == y, y, 0)
    return y.clamp(-STEPS, STEPS).round().to(torch.int8)
