"""`Delta` on GPUs: launches the kernel of `arraycodec_torch.kernels.delta`."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.delta import Delta
from arraycodec.spec import ArraySpec
from arraycodec_torch import delta
from arraycodec_torch.delta import finish, load
from arraycodec_torch.kernels import delta as kernels
from arraycodec_torch.triton_blockwise import check_device, integers, launch
from arraycodec_torch.triton_lossless import LANES


def encode(x: torch.Tensor, codec: Delta, given: Given) -> Planes:
    """Raises, as that of `arraycodec_torch.delta` does."""
    check_device(codec, x.device)
    return delta.encode(x, codec, given)


def decode(codec: Delta, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    job = load(codec, planes, spec, given, out)
    if job is None:
        return
    plan, streams, kind, count = job.plan, job.streams, job.kind, job.streams.starts.numel()
    right = torch.empty(count, dtype=torch.uint8, device=out.device)
    launch(
        kernels.decode_differences, -(-count // LANES), streams.words.view(torch.uint32), streams.starts, streams.ends,
        streams.table.view(torch.uint32), streams.labels.view(torch.uint32), job.unit_labels, job.scales, job.curve_of,
        job.curves.view(torch.uint32), job.meaning.view(torch.uint64), integers(job.base), integers(out.view(-1)),
        right, streams.words.numel(), spec.size, count, plan.stream, plan.unit, plan.shift, plan.first, plan.buckets,
        plan.curve_shift,
        BITS=plan.bits, WORD=int(kind.bits), SIGN=int(kind.sign), FLIP=int(kind.flip), SCALED=bool(plan.scaled),
        CURVES=plan.curves > 0, LANES=LANES, num_warps=1,
    )  # fmt: skip
    finish(right.all())
