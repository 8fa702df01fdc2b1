"""`NVFP4` on GPUs: launches the kernels of `arraycodec_torch.kernels.nvfp4`; importing it imports Triton.

Unless the global scale is given, a first pass over memory finds the largest magnitude of the array.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.primitives.floats import FLOAT32, KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.casts import values
from arraycodec_torch.kernels import nvfp4 as kernels
from arraycodec_torch.nvfp4 import ELEMENTS, SCALES, global_scale, taken, whole
from arraycodec_torch.triton_blockwise import absmax_of_tiles, block_constants, check_device, integers, launch, plan


def encode(x: torch.Tensor, codec: NVFP4, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    check_device(codec, x.device)
    spec, kind = arrays.spec(x), KINDS[arrays.spec(x).dtype]
    codec.supports(spec)
    specs, patches, source = codec.planes(spec), plan(grid_of(spec, codec.block_size), 4), integers(arrays.flat(x))
    planes = taken(codec, given)
    if "global_scale" not in given:
        arithmetic = x.dtype if codec.arithmetic == "eager" else torch.float32
        absmax = absmax_of_tiles(source, kind, whole(spec.size))
        planes = {**planes, "global_scale": global_scale(absmax, arithmetic, codec.multiplies)}
    planes = {name: planes[name] if name in planes else arrays.empty(specs[name], x.device) for name in specs}
    if spec.size:
        launch(
            kernels.encode, patches.programs, source, integers(planes["global_scale"]),
            integers(arrays.flat(planes["scales"])), values(SCALES, x.device), planes["codes"].view(-1),
            *patches.numbers[:3], KIND=kind, ARITHMETIC=kind if codec.arithmetic == "eager" else FLOAT32,
            MULTIPLIES=codec.multiplies, FIND="scales" not in given, **block_constants(patches),
        )  # fmt: skip
    return planes


def decode(codec: NVFP4, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    patches = plan(grid_of(spec, codec.block_size), 4)
    launch(
        kernels.decode, patches.programs, arrays.flat(planes["codes"]), integers(arrays.flat(planes["scales"])),
        integers(planes["global_scale"]), values(SCALES, out.device), values(ELEMENTS, out.device),
        integers(out.view(-1)), *patches.numbers[:3], KIND=KINDS[spec.dtype],
        MULTIPLIES=codec.multiplies, **block_constants(patches),
    )  # fmt: skip
