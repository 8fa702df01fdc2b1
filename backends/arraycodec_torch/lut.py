"""`Lut` as torch ops on any device: the steps of `arraycodec.codecs.lut` in the same order, but for training."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.lut import Lut
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.cells import LOWEST
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.grid import Piece, absmax_of_tiles, pieces
from arraycodec_torch.normal import integers_of, scales_of, values_of
from arraycodec_torch.packing import load_dense, store_dense
from arraycodec_torch.primitives import narrow, widen
from arraycodec_torch.scales import decoded, load


def encode(x: torch.Tensor, codec: Lut, given: Given) -> Planes:
    """The planes of `x` with the codebook that is given, in pieces that bound the memory of intermediate results."""
    spec, source = arrays.spec(x), arrays.flat(x)
    codec.supports(spec)
    specs, grid = codec.planes(spec), grid_of(spec, codec.block_size)
    planes = {"codes": arrays.empty(specs["codes"], x.device), **taken(codec, given)}
    if "scales" not in planes:
        planes["scales"] = scales_of(absmax_of_tiles(source, grid), specs["scales"], spec.dtype)
    scales, stream = arrays.flat(planes["scales"]), planes["codes"].view(-1)
    bounds, length = bounds_of(planes["codebook"]).view(-1), codec.length(spec)
    for piece in pieces(grid, x.device):
        q = integers_of(load(source, piece), piece, widen(scales[piece.tiles]))
        code = nearest_code(q.view(-1), bounds, books_of(piece, length, x.device), codec.levels)
        store_dense(code.to(torch.uint8), stream, codec.bits, piece.start)
    return {name: planes[name] for name in specs}


def decode(codec: Lut, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in pieces."""
    stream, target, length = arrays.flat(planes["codes"]), out.view(-1), codec.length(spec)
    scales, values = arrays.flat(planes["scales"]), values_of(arrays.flat(planes["codebook"]))
    for piece in pieces(grid_of(spec, codec.block_size), out.device):
        code = load_dense(stream, codec.bits, piece.start, piece.stop).to(torch.int64)
        code = code + books_of(piece, length, out.device) * codec.levels
        y = values.index_select(0, code).view(piece.rows, -1)
        u = decoded(y, piece.spread(widen(scales[piece.tiles])))
        target[piece.start : piece.stop] = narrow(u, out.dtype).view(-1)


def taken(codec: Lut, given: Given) -> Planes:
    """The planes that are given; UnsupportedByBackend where the codebook is not among them."""
    if "codebook" not in given:
        raise UnsupportedByBackend(
            f"{codec.name}: without a codebook the torch backend encodes on the host only; move the tensor to the CPU, "
            "or give a codebook"
        )
    return {name: given[name] for name in ("scales", "codebook") if name in given}


def bounds_of(levels: torch.Tensor) -> torch.Tensor:
    """The largest number whose code is at most that of each level but the last, int32 (books, levels - 1)."""
    low, high = levels[:, :-1].to(torch.int32), levels[:, 1:].to(torch.int32)
    bounds = torch.where(low == high, LOWEST - 1, (low + high) >> 1)
    return bounds.flip(1).cummin(1).values.flip(1)


def books_of(piece: Piece, length: int, device: torch.device) -> torch.Tensor | int:
    """The book of each element of a piece; one number where they share it."""
    if piece.start // length == (piece.stop - 1) // length:
        return piece.start // length
    return torch.arange(piece.start, piece.stop, device=device) // length


def nearest_code(q: torch.Tensor, bounds: torch.Tensor, book: torch.Tensor | int, levels: int) -> torch.Tensor:
    """Step 4: the number of bounds of its book below each integer, by halving."""
    first, code, step = book * (levels - 1), torch.zeros_like(q, dtype=torch.int64), levels >> 1
    while step:
        code = code + step * (bounds[first + code + (step - 1)] < q)
        step >>= 1
    return code
