"""`PQR` on GPUs: launches the kernel of `arraycodec_torch.kernels.pqr`; importing it imports Triton."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.pqr import PQR
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, pqr
from arraycodec_torch.kernels import pqr as kernels
from arraycodec_torch.primitives import without_subnormals
from arraycodec_torch.triton_blockwise import check_device, integers, launch, plan


def encode(x: torch.Tensor, codec: PQR, given: Given) -> Planes:
    """Raises: books are trained on the host."""
    check_device(codec, x.device)
    return pqr.encode(x, codec, given)


def decode(codec: PQR, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    patches, codes, entries = plan(grid_of(spec, codec.block_size), 8), planes["codes"], planes["codebook"]
    constants = {name: patches.constants[name] for name in ("TILES", "ROWS", "BLOCK", "WHOLE")}
    widths = sum(width << 4 * m for m, width in enumerate(codec.stages))
    launch(
        kernels.decode, patches.programs, arrays.flat(codes),
        integers(arrays.flat(planes["scales"])) if codec.scaled else arrays.flat(codes),
        integers(arrays.flat(entries)) if codec.scaled else without_subnormals(arrays.flat(entries)),
        arrays.flat(planes["gains"]) if codec.gain else arrays.flat(codes), integers(out.view(-1)),
        *patches.numbers, codec.length(spec), codes.numel(), KIND=KINDS[spec.dtype], BITS=codec.bits, WIDTHS=widths,
        STAGES=len(codec.stages), DIM=codec.dim, ENTRIES=codec.entries, BOOKS=len(entries) > 1, SCALED=codec.scaled,
        GAIN=codec.gain, UNIT=float(codec.unit), **constants,
    )  # fmt: skip
