"""`Minifloat` on GPUs: launches the kernels of `arraycodec_torch.kernels.minifloat`; importing it imports Triton.

Tiles that lie in one line of up to 4096 elements take one pass over memory; for others, largest magnitudes come first.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.primitives.floats import FLOAT32, KINDS
from arraycodec.primitives.formats import FORMATS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.kernels import minifloat as kernels
from arraycodec_torch.minifloat import scales_of
from arraycodec_torch.triton_blockwise import (
    absmax_of_tiles,
    cast_constants,
    check_device,
    integers,
    launch,
    plan,
    widening_constants,
)


def encode(x: torch.Tensor, codec: Minifloat, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    check_device(codec, x.device)
    spec, kind = arrays.spec(x), KINDS[arrays.spec(x).dtype]
    codec.supports(spec)
    specs, grid, source = codec.planes(spec), grid_of(spec, codec.block_size), integers(arrays.flat(x))
    planes, patches = {"codes": arrays.empty(specs["codes"], x.device), **given}, plan(grid, codec.bits)
    find = codec.scaled and "scales" not in given and patches.one_pass and spec.size > 0
    if find:
        planes["scales"] = arrays.empty(specs["scales"], x.device)
    elif codec.scaled and "scales" not in given:
        planes["scales"] = scales_of(absmax_of_tiles(source, kind, grid), codec, specs["scales"])
    if spec.size:
        scales = planes.get("scales", x)  # something in their place where there are none
        launch(
            kernels.encode, patches.programs, source, integers(arrays.flat(scales)),
            integers(planes["codes"].view(-1)), *patches.numbers, KIND=kind, SCALED=codec.scaled,
            SCALE_KIND=KINDS[arrays.spec(scales).dtype], NATIVE=codec.flavour is None,
            ARITHMETIC=kind if codec.arithmetic == "eager" else FLOAT32, FIND=find,
            MAXIMUM=FORMATS[codec.format].largest, **cast_constants(codec.casting), **patches.constants,
        )  # fmt: skip
    return {name: planes[name] for name in specs}


def decode(codec: Minifloat, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    patches, scales = plan(grid_of(spec, codec.block_size), codec.bits), planes.get("scales", out)
    launch(
        kernels.decode, patches.programs, integers(arrays.flat(planes["codes"])), integers(arrays.flat(scales)),
        integers(out.view(-1)), *patches.numbers, KIND=KINDS[spec.dtype],
        SCALE_KIND=KINDS[arrays.spec(scales).dtype], SCALED=codec.scaled, BITS=codec.bits,
        **widening_constants(FORMATS[codec.format].widening), **patches.constants,
    )  # fmt: skip
