"""`Microscaling` on GPUs: launches the kernels of `arraycodec_torch.kernels.microscaling`, and imports Triton."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.microscaling import Microscaling
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.formats import FORMATS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.kernels import microscaling as kernels
from arraycodec_torch.triton_blockwise import (
    block_constants,
    cast_constants,
    check_device,
    integers,
    launch,
    plan,
    widening_constants,
)

INT8 = FORMATS["float8_e4m3fn"]  # has codes of as many bits; the kernels do not look at its other numbers


def encode(x: torch.Tensor, codec: Microscaling, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    check_device(codec, x.device)
    spec = arrays.spec(x)
    codec.supports(spec)
    specs, patches, rule = codec.planes(spec), plan(grid_of(spec, codec.block_size), codec.bits), codec.rule(spec.dtype)
    planes = {name: given[name] if name in given else arrays.empty(plane, x.device) for name, plane in specs.items()}
    if spec.size:
        launch(
            kernels.encode, patches.programs, integers(arrays.flat(x)), arrays.flat(planes["scales"]),
            integers(planes["codes"].view(-1)), *patches.numbers[:3], KIND=KINDS[spec.dtype],
            FIND="scales" not in given, INT8=codec.casting is None, EMAX=rule.emax, HALF=rule.half, FLOOR=rule.floor,
            ZERO=rule.zero, KEEP_SIGN=rule.signed_zero, **cast_constants(codec.casting or INT8.casting()),
            **block_constants(patches),
        )  # fmt: skip
    return planes


def decode(codec: Microscaling, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if not spec.size:
        return
    patches = plan(grid_of(spec, codec.block_size), codec.bits)
    form = INT8 if codec.casting is None else FORMATS[codec.format]
    launch(
        kernels.decode, patches.programs, integers(arrays.flat(planes["codes"])), arrays.flat(planes["scales"]),
        integers(out.view(-1)), *patches.numbers[:3], KIND=KINDS[spec.dtype], INT8=codec.casting is None,
        BITS=codec.bits, **widening_constants(form.widening), **block_constants(patches),
    )  # fmt: skip
