"""`Permuted` as torch ops on any device: columns are gathered as integers of their width, which torch can index."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.permuted import Permuted
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encode(x: torch.Tensor, codec: Permuted, given: Given) -> Planes:
    """The planes of `x`; the host looks at the order."""
    codec.supports(spec := arrays.spec(x))
    order = codec.permutation({name: arrays.to_numpy(plane) for name, plane in given.items()})
    values = arrays.empty(spec, x.device)
    take(x, torch.argsort(given["order"]), codec.sides(spec), values)
    return {"order": arrays.from_numpy(order, x.device), "values": values}


def decode(codec: Permuted, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    take(planes["values"], planes["order"], codec.sides(spec), out)


def take(source: torch.Tensor, order: torch.Tensor, sides: tuple[int, ...], out: torch.Tensor) -> None:
    """Column j of `out` becomes column order[j] of `source`; places out of range are the nearest ones in it."""
    if out.numel():
        word = _WORDS[out.element_size()]
        places = order.clamp(0, sides[1] - 1)
        columns = arrays.flat(source).view(word).view(sides)
        torch.index_select(columns, 1, places, out=out.view(-1).view(word).view(sides))
