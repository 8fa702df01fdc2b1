"""`Tied` on any device: the base is copied where it lies; the host reads it for its hash. Encoding is for the host."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.tied import Tied
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays


def encode(x: torch.Tensor, codec: Tied, given: Given) -> Planes:
    """UnsupportedByBackend: the hash is one chain of 64-bit products over all bytes."""
    raise UnsupportedByBackend(f"tied: the torch backend encodes CPU tensors only, got one on {x.device}")


def decode(codec: Tied, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Fill `out` with the base, once its spec and hash are found to be right."""
    base = codec.base(given)
    codec.check_base({"hash": arrays.to_numpy(planes["hash"])}, spec, arrays.to_numpy(base))
    out.copy_(base)
