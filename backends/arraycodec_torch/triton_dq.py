"""`DQ` on GPUs: the codes by `triton_lossless`, then the kernel of `arraycodec_torch.kernels.dq`."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton

from arraycodec.base import Given, Planes
from arraycodec.codecs.dq import CODES, DQ
from arraycodec.primitives.dependent import PERIOD, SEGMENT
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, dq, triton_lossless
from arraycodec_torch.kernels import dq as kernels
from arraycodec_torch.triton_blockwise import check_device, integers, launch


def encode(x: torch.Tensor, codec: DQ, given: Given) -> Planes:
    """Raises, as that of `arraycodec_torch.dq` does."""
    check_device(codec, x.device)
    return dq.encode(x, codec, given)


def decode(codec: DQ, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    codes = arrays.empty(replace(spec, dtype=CODES), out.device)
    triton_lossless.decode(codec, planes, replace(spec, dtype=CODES), given, codes)
    launch(
        kernels.restore, -(-spec.size // SEGMENT), integers(codes.view(-1)),
        integers(arrays.flat(planes["centroids"])), integers(arrays.flat(planes["scale"])), integers(out.view(-1)),
        spec.size,
        ROWS=SEGMENT // PERIOD, ACROSS=triton.next_power_of_2(PERIOD), KIND=KINDS[spec.dtype],
    )  # fmt: skip
