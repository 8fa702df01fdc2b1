"""`Lossless` on GPUs: launches the kernels of `arraycodec_torch.kernels.lossless`.

Tables are made, and patches are placed, by the plain torch ops of `arraycodec_torch.lossless`.
"""

from __future__ import annotations

import numpy as np
import torch
import triton

from arraycodec.base import Codec, Given, Planes
from arraycodec.codecs.lossless import Lossless
from arraycodec.primitives.entropy.plan import ANS, NONE, PALETTE
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, lossless
from arraycodec_torch.kernels import lossless as kernels
from arraycodec_torch.lossless import Band, Job, finish, load
from arraycodec_torch.streams import Streams
from arraycodec_torch.triton_blockwise import TILE, check_device, integers, launch

LANES = 32  # streams of a program: one warp, so that few streams are spread over many processors
ACROSS = 64  # columns of a tile where streams are columns


def encode(x: torch.Tensor, codec: Lossless, given: Given) -> Planes:
    """Raises, as that of `arraycodec_torch.lossless` does."""
    check_device(codec, x.device)
    return lossless.encode(x, codec, given)


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    job = load(planes, spec)
    words = integers(out.view(-1))
    symbols = torch.empty((job.number, 0), dtype=torch.uint8, device=out.device)
    right = torch.ones((), dtype=torch.bool, device=out.device)
    if job.streams is not None:
        symbols, right = decode_streams(job, job.streams)
    for band in job.bands:
        right = right & merge(job, band, planes, symbols, words)
    finish(job, right, words.view(job.words.dtype))


def decode_streams(job: Job, streams: Streams) -> tuple[torch.Tensor, torch.Tensor]:
    """The symbols, a row for each stream, and whether all streams end where they should."""
    plan, (whole, rest), count = job.plan, job.whole, job.number
    length = plan.stream if whole else rest
    pack = 1 if plan.unit % 4 else 4
    pitch = -(-length // pack) * pack
    symbols = torch.empty((count, pitch), dtype=torch.uint8, device=streams.words.device)
    right = torch.empty(count, dtype=torch.uint8, device=symbols.device)
    packed = symbols.view(torch.uint32 if pack == 4 else torch.uint8)
    launch(
        kernels.decode_streams, -(-count // LANES), streams.words.view(torch.uint32), streams.starts, streams.ends,
        streams.table.view(torch.uint32), streams.labels.view(torch.uint32), packed, right, streams.words.numel(),
        count, whole, length, rest, plan.unit, pitch,
        ANS=plan.coder == ANS, BITS=plan.bits, PACK=pack, LANES=LANES, num_warps=1,
    )  # fmt: skip
    return symbols, right.all()


def merge(job: Job, band: Band, planes: Planes, symbols: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Write the words of these streams; whether a palette has all of them."""
    plan, end = job.plan, band.first + band.number
    rows = ACROSS if job.columns > 1 else 1
    steps = min(triton.next_power_of_2(band.height), TILE // rows)
    rows = min(triton.next_power_of_2(band.number), TILE // steps)
    programs = -(-band.number // rows) * -(-band.height // steps)
    target = words[band.start : band.start + band.number * band.height]
    right = torch.empty(programs if plan.arrangement == PALETTE else 0, dtype=torch.uint8, device=words.device)
    zeros = torch.from_numpy(job.layout.zeros[band.first : end].astype(np.int32)).to(words.device)
    launch(
        kernels.merge, programs, integers(arrays.flat(planes["plan"])), symbols[band.first : end],
        job.raw.view(torch.uint8), job.chunks[band.first : end], zeros.view(torch.uint32),
        integers(job.words), target, right, band.number, band.height, job.columns, symbols.shape[1], plan.palette,
        plan.lone_symbol,
        WORD=job.bits, REST=plan.rest, ARRANGEMENT=plan.arrangement, SIGN=plan.sign,
        CODED=plan.coder != NONE, LONE=bool(plan.lone), ZEROS=bool(plan.zeros), ROWS=rows, STEPS=steps,
    )  # fmt: skip
    return right.all()
