"""The torch backend: the functions of `arraycodec.reference`, for tensors on any device.

CPU tensors run the NumPy reference on their own memory, GPU tensors Triton kernels or plain torch ops. While
torch.compile, export, vmap or a fake mode looks on, calls go through two opaque operators (`arraycodec_torch.ops`).
"""

from __future__ import annotations

from typing import Any

import torch

from arraycodec.base import Codec, Given, Planes
from arraycodec.spec import ArraySpec
from arraycodec_torch import ops, tracing
from arraycodec_torch.arrays import at_hand, check_out, empty, from_numpy, put, spec, stack, to_numpy
from arraycodec_torch.implementations import IMPLEMENTATIONS, choose, chosen

__all__ = [
    "IMPLEMENTATIONS",
    "NAME",
    "choose",
    "concrete",
    "decode",
    "empty",
    "encode",
    "from_numpy",
    "put",
    "spec",
    "stack",
    "to_numpy",
]

NAME = "torch"


def encode(x: torch.Tensor, codec: Codec, given: Given) -> Planes:
    """The planes of `x`, on its device; autograd sees constants."""
    return chosen(x).encode(x, codec, given) if at_hand(x) else ops.encode(x, codec, given)


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: Any = None) -> torch.Tensor:
    """The tensor of these planes, on their device, in `out` where it is passed."""
    if out is not None:
        check_out(out, spec, planes)
    plane = next(iter(planes.values()))
    if not at_hand(plane):
        return ops.decode(codec, planes, spec, given, out)
    decoded = chosen(plane).decode(codec, planes, spec, given, out)
    if out is not None and not out.is_inference():
        torch.autograd.graph.increment_version(out)  # autograd may have saved `out` for a backward pass
    return decoded


def concrete(x: torch.Tensor) -> bool:
    """Whether the values can be looked at without a synchronisation or an error."""
    return x.device.type == "cpu" and at_hand(x)


ops.register_encoded()
tracing.install()
