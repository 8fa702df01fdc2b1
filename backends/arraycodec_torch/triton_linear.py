"""`Linear` on GPUs: launches the kernels of `arraycodec_torch.kernels.linear`; importing it imports Triton.

Tiles that lie in one line of up to 4096 elements take one pass over memory; for others, extremes come first.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.linear import Linear
from arraycodec.primitives.floats import FLOAT32, KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.kernels import linear as kernels
from arraycodec_torch.linear import scales_of, taken
from arraycodec_torch.triton_blockwise import check_device, extremes_of_tiles, integers, launch, plan


def encode(x: torch.Tensor, codec: Linear, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    check_device(codec, x.device)
    spec, kind = arrays.spec(x), KINDS[arrays.spec(x).dtype]
    codec.supports(spec)
    specs, grid, source = codec.planes(spec), grid_of(spec, codec.block_size), integers(arrays.flat(x))
    found, patches = taken(codec, given), plan(grid, codec.bits)
    find = not found and patches.one_pass and spec.size > 0
    if find:
        found = {name: arrays.empty(specs[name], x.device) for name in specs if name != "codes"}
    elif not found:
        found = scales_of(extremes_of_tiles(source, kind, grid), codec, specs)
    planes = {"codes": arrays.empty(specs["codes"], x.device), **found}
    if spec.size:
        launch(
            kernels.encode, patches.programs, source, *_scales(planes, codec),
            integers(planes["codes"].view(-1)), *patches.numbers, KIND=kind, SYMMETRIC=codec.symmetric,
            SCALE_KIND=KINDS[arrays.spec(planes["scales"]).dtype], BITS=codec.bits, NATIVE=codec.flavour is None,
            ARITHMETIC=kind if codec.arithmetic == "eager" else FLOAT32, LOWEST=codec.lowest, FIND=find,
            **patches.constants,
        )  # fmt: skip
    return {name: planes[name] for name in specs}


def decode(codec: Linear, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    patches = plan(grid_of(spec, codec.block_size), codec.bits)
    launch(
        kernels.decode, patches.programs, integers(arrays.flat(planes["codes"])), *_scales(planes, codec),
        integers(out.view(-1)), *patches.numbers, KIND=KINDS[spec.dtype], SYMMETRIC=codec.symmetric,
        SCALE_KIND=KINDS[arrays.spec(planes["scales"]).dtype], BITS=codec.bits, **patches.constants,
    )  # fmt: skip


def _scales(planes: Planes, codec: Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points as kernels take them; symmetric ones take no zero points, and something in their place."""
    scales = integers(arrays.flat(planes["scales"]))
    return scales, scales if codec.symmetric else arrays.flat(planes["zero_points"])
