"""`Microscaling` as torch ops on any device: the steps of `arraycodec.codecs.microscaling` in the same order."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.microscaling import INT8_SHIFT, LAST_BYTE, NAN_BYTE, SAFE_BYTE, Microscaling, Rule
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.casts import float32_to_small, values
from arraycodec_torch.grid import absmax_of_tiles, pieces
from arraycodec_torch.packing import load_dense, store_dense
from arraycodec_torch.primitives import INFINITY, MAGNITUDE, NAN, SIGN, as_bits, as_float, narrow
from arraycodec_torch.scales import load


def encode(x: torch.Tensor, codec: Microscaling, given: Given) -> Planes:
    """The planes of `x`, in pieces that bound the memory of intermediate results."""
    spec, source = arrays.spec(x), arrays.flat(x)
    codec.supports(spec)
    specs, grid, rule = codec.planes(spec), grid_of(spec, codec.block_size), codec.rule(spec.dtype)
    planes = {"codes": arrays.empty(specs["codes"], x.device), **given}
    if "scales" not in given:
        planes["scales"] = scale_byte(absmax_of_tiles(source, grid), rule).reshape(specs["scales"].known_shape)
    scales, stream = arrays.flat(planes["scales"]), planes["codes"].view(-1).view(torch.uint8)
    for piece in pieces(grid, x.device):
        byte = piece.spread(scales[piece.tiles]).to(torch.int32)
        u = shift_exponents(load(source, piece), byte, INT8_SHIFT if codec.casting is None else 0, rule.signed_zero)
        code = integers(as_float(u)) if codec.casting is None else float32_to_small(u, codec.casting)
        store_dense(code.view(-1).to(torch.uint8), stream, codec.bits, piece.start)
    return {name: planes[name] for name in specs}


def decode(codec: Microscaling, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in pieces."""
    stream, target, scales = arrays.flat(planes["codes"]), out.view(-1), arrays.flat(planes["scales"])
    for piece in pieces(grid_of(spec, codec.block_size), out.device):
        if codec.casting is None:
            y = stream[piece.start : piece.stop].to(torch.float32) * 2.0**-INT8_SHIFT
        else:
            codes = load_dense(stream.view(torch.uint8), codec.bits, piece.start, piece.stop).to(torch.int32)
            y = values(codec.format, out.device).index_select(0, codes)
        u = multiplied(y.view(piece.rows, -1), piece.spread(scales[piece.tiles]).to(torch.int32))
        target[piece.start : piece.stop] = narrow(u, out.dtype).view(-1)


def scale_byte(absmax: torch.Tensor, rule: Rule) -> torch.Tensor:
    """Step 3."""
    byte = (((absmax + rule.half) >> 23) - rule.emax).clamp(0, LAST_BYTE)
    byte = torch.where(absmax < rule.floor, rule.zero, byte)
    return torch.where(absmax >= INFINITY, NAN_BYTE, byte).to(torch.uint8)


def shift_exponents(run: torch.Tensor, byte: torch.Tensor, int8_shift: int, signed_zero: bool) -> torch.Tensor:
    """Step 4, for int8 times 64."""
    delta = (byte - 127 - int8_shift) << 23
    a = run & MAGNITUDE
    shifted = torch.where(a < INFINITY + delta.clamp(max=0), a - delta, a.clamp(min=INFINITY))
    shifted = torch.where((a >= 0x800000 + delta.clamp(min=0)) & (byte != 0), shifted, 0)
    sign = run & SIGN if signed_zero else torch.where(a != 0, run & SIGN, 0)
    return torch.where(byte == NAN_BYTE, 0, sign | shifted)


def integers(y: torch.Tensor) -> torch.Tensor:
    """Step 5 for int8."""
    return torch.round(torch.where(y == y, y, 0).clamp(-127, 127)).to(torch.int32)


def multiplied(y: torch.Tensor, byte: torch.Tensor) -> torch.Tensor:
    """The bits of values times 2^(byte - 127), where the exponents of small scales are added as integers."""
    u = torch.where(byte < SAFE_BYTE, lower(as_bits(y), byte), as_bits(y * as_float(byte << 23)))
    return torch.where((byte == NAN_BYTE) | ((u & MAGNITUDE) > INFINITY), NAN, u)


def lower(u: torch.Tensor, byte: torch.Tensor) -> torch.Tensor:
    """Values times 2^(byte - 127) where products may be subnormal; what falls below 2^-126 is a zero."""
    delta = (127 - byte) << 23
    a = u & MAGNITUDE
    return torch.where(a >= INFINITY, u, torch.where(a >= delta + 0x800000, u - delta, u & SIGN))
