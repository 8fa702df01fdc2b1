"""`Lut` on GPUs: launches the kernels of `arraycodec_torch.kernels.lut`; importing it imports Triton.

Tiles that lie in one line of up to 4096 elements take one pass over memory; for others, largest magnitudes come first.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.lut import Lut
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.primitives.normal import LARGEST
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.kernels import lut as kernels
from arraycodec_torch.lut import bounds_of, taken
from arraycodec_torch.normal import scales_of, values_of
from arraycodec_torch.triton_blockwise import absmax_of_tiles, check_device, integers, launch, plan


def encode(x: torch.Tensor, codec: Lut, given: Given) -> Planes:
    """The planes of `x` with the codebook that is given."""
    check_device(codec, x.device)
    spec, kind = arrays.spec(x), KINDS[arrays.spec(x).dtype]
    codec.supports(spec)
    specs, grid, source = codec.planes(spec), grid_of(spec, codec.block_size), integers(arrays.flat(x))
    planes, patches = {"codes": arrays.empty(specs["codes"], x.device), **taken(codec, given)}, plan(grid, codec.bits)
    find = "scales" not in planes and patches.one_pass and spec.size > 0
    if find:
        planes["scales"] = arrays.empty(specs["scales"], x.device)
    elif "scales" not in planes:
        planes["scales"] = scales_of(absmax_of_tiles(source, kind, grid), specs["scales"], spec.dtype)
    if spec.size:
        launch(
            kernels.encode, patches.programs, source, integers(arrays.flat(planes["scales"])),
            bounds_of(planes["codebook"]), planes["codes"].view(-1), *patches.numbers, codec.length(spec), KIND=kind,
            BITS=codec.bits, BOOKS=len(planes["codebook"]) > 1, LARGEST=int(LARGEST[kind]), FIND=find,
            **patches.constants,
        )  # fmt: skip
    return {name: planes[name] for name in specs}


def decode(codec: Lut, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    patches = plan(grid_of(spec, codec.block_size), codec.bits)
    launch(
        kernels.decode, patches.programs, arrays.flat(planes["codes"]), integers(arrays.flat(planes["scales"])),
        values_of(arrays.flat(planes["codebook"])), integers(out.view(-1)), *patches.numbers, codec.length(spec),
        KIND=KINDS[spec.dtype], BITS=codec.bits, BOOKS=len(planes["codebook"]) > 1, **patches.constants,
    )  # fmt: skip
