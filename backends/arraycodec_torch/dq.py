"""`DQ` as torch ops on any device: the codes by `lossless`, then all levels at once; encoding is for the host.

The bit z of a level, found code by code on the host, follows from parities alone: 1 / (1 + D + D^3) has period 7, so it
is a running sum, with steps of 7, of the parities 2, 3, 4 and 6 codes before (docs/format/dq.md).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn.functional import pad

from arraycodec.base import Given, Planes
from arraycodec.codecs.dq import CODES, DQ
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.dependent import CENTRED, PERIOD, SEGMENT, TAPS, UNIT
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, lossless
from arraycodec_torch.primitives import as_bits, narrow
from arraycodec_torch.scales import LARGE_TILE, TILE, is_usable, product, used_scale


def encode(x: torch.Tensor, codec: DQ, given: Given) -> Planes:
    """Raises: the search for a step and for paths is for the host."""
    raise UnsupportedByBackend(
        f"{codec.name}: the torch backend encodes on the host only, got a tensor on {x.device}; "
        "move it to the CPU, and decode on any device"
    )


def decode(codec: DQ, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    codes = arrays.empty(replace(spec, dtype=CODES), out.device)
    lossless.decode(codec, planes, replace(spec, dtype=CODES), given, codes)
    target, scale, usable = out.view(-1), used_scale(planes["scale"]), is_usable(as_bits(planes["scale"]))
    step = max(1, TILE.get(out.device.type, LARGE_TILE) // SEGMENT) * SEGMENT
    for start in range(0, spec.size, step):
        piece = codes.view(-1)[start : start + step].to(torch.int32)
        y = centres(levels(piece), planes["centroids"]).to(torch.float32)
        target[start : start + step] = narrow(product(y, scale, usable), out.dtype)


def levels(codes: torch.Tensor) -> torch.Tensor:
    """The levels of codes, int32, from the start of a segment on."""
    before, behind = max(TAPS), -codes.numel() % SEGMENT
    parity = pad(pad(codes & 1, (0, behind)).view(-1, SEGMENT), (before, 0))
    q = torch.stack([parity[:, before - tap : before - tap + SEGMENT] for tap in TAPS]).sum(0)
    z = q.view(-1, SEGMENT // PERIOD, PERIOD).cumsum(1).view(-1)[: codes.numel()] & 1
    return 2 * codes + z.to(torch.int32)


def centres(level: torch.Tensor, centroids: torch.Tensor) -> torch.Tensor:
    """Where levels stand, in 2^-8 half steps."""
    near = level.abs() <= CENTRED
    moved = centroids.to(torch.int32)[torch.where(near, level + CENTRED, 0).to(torch.int64)]
    return UNIT * level + torch.where(near, moved, 0)
