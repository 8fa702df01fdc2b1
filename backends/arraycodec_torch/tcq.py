"""`TCQ` as torch ops on any device: the steps of `arraycodec.codecs.tcq` in the same order, but for training."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.tcq import TCQ
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.primitives.grid import Grid, grid_of
from arraycodec.primitives.hadamard import signs
from arraycodec.primitives.levels import taps
from arraycodec.primitives.outliers import LARGEST
from arraycodec.primitives.paths import HALO, PATH
from arraycodec.primitives.rotated import root_bits
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.grid import absmax_of_tiles, pieces
from arraycodec_torch.normal import integer_weights, integers_of, scales_of, values_of
from arraycodec_torch.packing import load_dense, store_dense
from arraycodec_torch.paths import Search, search, search_paths
from arraycodec_torch.primitives import INFINITY, MAGNITUDE, NAN, SIGN, as_float, flushed, narrow, widen
from arraycodec_torch.scales import LARGE_TILE, TILE, decoded, load


def encode(x: torch.Tensor, codec: TCQ, given: Given, how: Search = search_paths, most: int | None = None) -> Planes:
    """The planes of `x` with the codebook that is given; many paths are searched side by side, `most` elements."""
    spec, source = arrays.spec(x), arrays.flat(x)
    codec.supports(spec)
    specs, grid = codec.planes(spec), grid_of(spec, codec.block_size)
    planes = {"codes": arrays.empty(specs["codes"], x.device), **taken(codec, given)}
    weights = weights_of(codec, spec, given)
    source = prepared(source, codec, grid, specs, planes)
    if "scales" not in planes:
        planes["scales"] = scales_of(absmax_of_tiles(source, grid), specs["scales"], arrays.spec(source).dtype)
    scales, q = arrays.flat(planes["scales"]), torch.empty(grid.size, dtype=torch.int16, device=x.device)
    for piece in pieces(grid, x.device):
        own = integers_of(load(source, piece), piece, widen(scales[piece.tiles]))
        q[piece.start : piece.stop] = own.view(-1)
    lines, most = (grid.matrices * grid.rows, grid.columns), most or TILE.get(x.device.type, LARGE_TILE)
    codes = search(q.view(lines), arrays.flat(planes["codebook"]), codec.states, weights, how, most).view(-1)
    for piece in pieces(grid, x.device):
        store_dense(codes[piece.start : piece.stop], planes["codes"].view(-1), codec.bits, piece.start)
    return {name: planes[name] for name in specs}


def taken(codec: TCQ, given: Given) -> Planes:
    """The planes that are given; UnsupportedByBackend where the codebook is not among them.

    Its levels are checked where looking at them is free; on other devices they would have to be copied to the host.
    """
    if "codebook" not in given:
        raise UnsupportedByBackend(
            f"{codec.name}: without a codebook the torch backend encodes on the host only; move the tensor to the CPU, "
            "or give a codebook"
        )
    if given["codebook"].device.type == "cpu":
        codec._check_levels(arrays.to_numpy(given["codebook"]), ArgumentError)
    return {name: given[name] for name in ("scales", "codebook") if name in given}


def weights_of(codec: TCQ, spec: ArraySpec, given: Given) -> torch.Tensor | None:
    """The weight of each element, int16 in the lines that paths lie along; None where all count alike."""
    shape, grid = spec.known_shape or (1,), grid_of(spec, codec.block_size)
    if "importance" not in given:
        return None
    weights = integer_weights(codec.name, given["importance"], shape[-1]).to(torch.int16)
    return weights.expand(shape).reshape(grid.matrices * grid.rows, grid.columns)


def prepared(source: torch.Tensor, codec: TCQ, grid: Grid, specs: dict[str, ArraySpec], planes: Planes) -> torch.Tensor:
    """Steps 1 and 2: the flat elements without outliers, which go to their planes, and rotated, as float32."""
    if codec.outliers:
        source, planes["outliers"], positions = without_outliers(source, specs["outliers"])
        planes["outlier_positions"] = positions.to(arrays.dtype(specs["outlier_positions"].dtype))
    return rotated(source, codec.rotate, grid) if codec.rotate else source


def without_outliers(source: torch.Tensor, plane: ArraySpec) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The flat elements without outliers, the plane of outliers, and their positions int64."""
    magnitude = widen(source) & MAGNITUDE
    magnitude = torch.where(magnitude < INFINITY, magnitude, 0)
    largest = torch.sort(magnitude, descending=True, stable=True).indices[: plane.size]
    positions = largest.sort().values
    own = source[positions]
    u = widen(own)
    finite = (u & MAGNITUDE) < INFINITY
    kept = torch.where(finite, (u & MAGNITUDE).clamp(max=int(LARGEST)) | (u & SIGN), NAN)
    rest = source.clone()
    rest[positions] = torch.where(finite, 0, own)
    return rest, narrow(kept, arrays.dtype(plane.dtype)), positions


def rotated(source: torch.Tensor, n: int, grid: Grid) -> torch.Tensor:
    """The flat elements as float32, rotated: sums are float64 and rounded once."""
    lines, whole = grid.matrices * grid.rows, grid.columns // n * n  # PATH is a multiple of n
    found = as_float(flushed(widen(source)))
    rows = found.view(lines, grid.columns)
    turn = torch.from_numpy(signs(n, 0)).to(source.device, torch.float64)
    turned = butterflies(rows[:, :whole].reshape(lines * whole // n, n).to(torch.float64) * turn)
    rows[:, :whole] = (turned * (1 / (1 << root_bits(n)))).to(torch.float32).view(lines, whole)
    return found


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
