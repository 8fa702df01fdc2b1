"""`Codebook` as torch ops on any device: the steps of `arraycodec.codecs.codebook` in the same order.

What GPUs without Triton run, and what the Triton kernels are read beside.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import _disable_current_modes

from arraycodec.base import Given, Planes
from arraycodec.codecs.codebook import Codebook
from arraycodec.errors import ArgumentError
from arraycodec.primitives import codebooks
from arraycodec.primitives.blocks import block_length
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.packing import look_up, per_byte, store_codes
from arraycodec_torch.primitives import (
    INFINITY,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    as_bits,
    as_float,
    flushed,
    mul_add,
    narrow,
    recip_rn,
    tree_sum,
    widen,
    without_subnormals,
)
from arraycodec_torch.scales import absmax_of_blocks, load, scale_run, tiles, used_scale


class Table(NamedTuple):
    """`codebooks.Table` on a device."""

    values: torch.Tensor
    bounds: torch.Tensor
    codes: torch.Tensor
    zero: torch.Tensor


def encode(x: torch.Tensor, codec: Codebook, given: Given) -> Planes:
    """The planes of `x`, in tiles: (n, 15) comparisons never exist at once."""
    spec = arrays.spec(x)
    codec.supports(spec)
    table, specs = table_of(codec, given, x.device, check=True), codec.planes(spec)
    planes: Planes = {name: given[name] for name in specs if name in given}
    source = centred(x, planes) if codec.offset else flat(x)
    block = block_length(spec, codec.block_size)
    codes = arrays.empty(specs["codes"], x.device)
    if "absmax" not in planes:
        absmax = as_float(usable(absmax_of_blocks(source, block), codec))
        planes["absmax"] = absmax.new_zeros(specs["absmax"].known_shape) if not spec.size else absmax
    scales = usable(as_bits(flat(planes["absmax"])), codec)
    for tile in tiles(spec.size, block, x.device):
        y = scale_run(load(source, tile), scales[tile.block : tile.block + tile.rows, None])
        ranked = table.codes.index_select(0, rank(y.view(-1), table.bounds))
        store_codes(ranked, codes.view(-1), codec.bits, tile.start, table.zero)
    planes |= {"codes": codes, "absmax": planes["absmax"].reshape(specs["absmax"].known_shape)}
    return {name: planes[name] for name in specs}


def decode(codec: Codebook, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in tiles."""
    table = table_of(codec, planes, out.device)
    codes, target = flat(planes["codes"]), out.view(-1)
    scales = as_float(usable(as_bits(used_scale(flat(planes["absmax"]))), codec))
    values = per_byte(table.values, codec.bits)
    offset = without_subnormals(planes["offset"]) if codec.offset else None
    block = block_length(spec, codec.block_size)
    for tile in tiles(spec.size, block, out.device):
        y = look_up(codes, codec.bits, tile.start, tile.stop, values).view(tile.rows, -1)
        scale = scales[tile.block : tile.block + tile.rows, None]
        u = flushed(as_bits(y * scale if offset is None else mul_add(y, scale, offset)))
        u = torch.where((u & MAGNITUDE) > INFINITY, NAN, u)
        target[tile.start : tile.stop] = narrow(u, out.dtype).view(-1)


def usable(scale: torch.Tensor, codec: Codebook) -> torch.Tensor:
    """0 for scales whose products with the smallest entries of the table might be subnormal."""
    smallest = int(codec.min_scale)
    return scale if smallest == MIN_SCALE else torch.where((scale & MAGNITUDE) >= smallest, scale, 0)


def rank(y: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
    """Step 6: the number of bounds strictly below y, and 0 for NaN, which compares false with each."""
    y = torch.where(y != y, -torch.inf, y)
    return torch.bucketize(y, bounds, out_int32=True, right=False)  # bounds[rank - 1] < y <= bounds[rank]


def centred(x: torch.Tensor, planes: Planes) -> torch.Tensor:
    """The elements less the plane `offset`, which is their mean unless it was given."""
    source = as_float(flushed(widen(flat(x))))
    planes.setdefault("offset", mean(source))
    return source - without_subnormals(planes["offset"])


def mean(x: torch.Tensor) -> torch.Tensor:
    """The mean as float32, by halves and a reciprocal; 0 where it is not finite or below 2^-100."""
    if not x.numel():
        return x.new_zeros(())
    count = as_bits(torch.full((), x.numel(), dtype=torch.float32, device=x.device))
    value = tree_sum(x) * as_float(recip_rn(count))
    magnitude = as_bits(value) & MAGNITUDE
    return torch.where((magnitude >= MIN_SCALE) & (magnitude < INFINITY), value, 0)


def flat(x: torch.Tensor) -> torch.Tensor:
    """The elements one after another; a view where they lie so."""
    return x.resolve_neg().contiguous().view(-1)


def table_of(codec: Codebook, planes: Given, device: torch.device, check: bool = False) -> Table:
    """The table in force: a built-in one, or the user's among the planes.

    A user's table is checked where looking at it is free; on other devices it would have to be copied to the host.
    """
    if codec.table not in codebooks.USER or "codebook" not in planes:
        codec.tables(planes)  # raises where a plane is missing
        return _built_in(codec.table, codec.flavour, device)
    if check and device.type == "cpu":
        user = {name: arrays.to_numpy(planes[name]) for name in ("codebook", "bounds") if name in planes}
        codec._check_table(codec.tables(user), ArgumentError)
    values = flat(planes["codebook"]) + 0  # -0 is the value +0
    bounds = flat(planes["bounds"]) if "bounds" in planes else (values[:-1] + values[1:]) * 0.5
    bounds = torch.where(bounds == 0, float(codebooks.JUST_ABOVE_ZERO), bounds)
    codes = torch.arange(values.numel(), dtype=torch.uint8, device=device)
    return Table(values, bounds, codes, (bounds < 0).sum().to(torch.uint8))


@cache
def _built_in(name: str, flavour: str | None, device: torch.device) -> Table:
    found = codebooks.table(name, flavour)
    with _disable_current_modes():  # a fake mode must not leave its tensors in the cache
        ours = found.values, found.bounds, found.codes
        values, bounds, codes = (torch.tensor(array, device=device) for array in ours)
        return Table(values, bounds, codes, codes.new_tensor(found.zero))
