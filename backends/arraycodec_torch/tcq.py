"""`TCQ` as torch ops on any device: the steps of `arraycodec.codecs.tcq` in the same order; it encodes on the host."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.tcq import TCQ
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.grid import Grid, grid_of
from arraycodec.primitives.hadamard import signs
from arraycodec.primitives.levels import taps
from arraycodec.primitives.paths import HALO, PATH
from arraycodec.primitives.rotated import root_bits
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.grid import pieces
from arraycodec_torch.normal import values_of
from arraycodec_torch.packing import load_dense
from arraycodec_torch.primitives import narrow, widen
from arraycodec_torch.scales import decoded


def encode(x: torch.Tensor, codec: TCQ, given: Given) -> Planes:
    """Raises UnsupportedByBackend: paths are searched by the reference."""
    raise UnsupportedByBackend(
        f"{codec.name}: the torch backend encodes on the host only; encode a CPU tensor, and move the planes"
    )


def decode(codec: TCQ, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in pieces; rotated ones need an int32 copy of the array."""
    grid, target, stream = grid_of(spec, codec.block_size), out.view(-1), arrays.flat(planes["codes"])
    scales, levels = arrays.flat(planes["scales"]), arrays.flat(planes["codebook"]).to(torch.int32)
    turned = turned_back(codec, stream, grid, levels) if codec.rotate else None
    for piece in pieces(grid, out.device):
        if turned is None:
            y = values_of(levels_of(codec, stream, grid, levels, piece.start, piece.stop))
        else:
            y = values_of(turned[piece.start : piece.stop]) * (1 / (1 << root_bits(codec.rotate)))
        u = decoded(y.view(piece.rows, -1), piece.spread(widen(scales[piece.tiles])))
        target[piece.start : piece.stop] = narrow(u, out.dtype).view(-1)
    if codec.outliers:
        put_outliers(planes["outliers"], planes["outlier_positions"], target)


def levels_of(
    codec: TCQ, stream: torch.Tensor, grid: Grid, levels: torch.Tensor, start: int, stop: int
) -> torch.Tensor:
    """The levels of the elements start..stop; `start` is a multiple of 8."""
    begin = max(start - HALO, 0)
    codes = load_dense(stream, codec.bits, begin, stop).to(torch.int32)
    bits = torch.nn.functional.pad(codes >> (codec.bits - 1), (HALO - (start - begin), 0))
    column = torch.arange(start, stop, device=stream.device) % grid.columns % PATH
    subset = torch.zeros_like(column, dtype=torch.int32)
    for d, tap in enumerate(taps(codec.states).tolist()):
        if tap:
            before = bits[HALO - d : bits.numel() - d]
            subset ^= torch.where(column >= d, before, 0) * tap
    index = codes[start - begin :] & ((1 << (codec.bits - 1)) - 1)
    return levels.index_select(0, index << 2 | subset)


def turned_back(codec: TCQ, stream: torch.Tensor, grid: Grid, levels: torch.Tensor) -> torch.Tensor:
    """All levels rotated back, int32 in units of 2^-root of a level."""
    found = torch.empty(grid.size, dtype=torch.int32, device=stream.device)
    for piece in pieces(grid, stream.device):
        found[piece.start : piece.stop] = levels_of(codec, stream, grid, levels, piece.start, piece.stop)
    n, root = codec.rotate, root_bits(codec.rotate)
    turn = torch.from_numpy(signs(n, 0)).to(stream.device, torch.int32)
    lines, whole = grid.matrices * grid.rows, grid.columns // n * n  # PATH is a multiple of n
    rows = found.view(lines, grid.columns)
    rows[:, :whole] = (butterflies(rows[:, :whole].reshape(lines * whole // n, n)) * turn).view(lines, whole)
    rows[:, whole:] <<= root
    return found


def butterflies(y: torch.Tensor) -> torch.Tensor:
    """The product of rows with Sylvester's matrix: neighbours first, then those two apart, and so on."""
    rows, n = y.shape
    step = 1
    while step < n:
        low, high = y.view(rows, n // (2 * step), 2, step).unbind(2)
        y = torch.stack([low + high, low - high], 2).view(rows, n)
        step *= 2
    return y


def put_outliers(outliers: torch.Tensor, positions: torch.Tensor, target: torch.Tensor) -> None:
    """Write outliers over elements; positions outside of the array are passed over."""
    there = (positions >= 0) & (positions < target.numel())
    target[positions[there].to(torch.int64)] = narrow(widen(outliers[there]), target.dtype)
