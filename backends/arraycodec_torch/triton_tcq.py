"""`TCQ` on GPUs: launches the kernel of `arraycodec_torch.kernels.tcq`; importing it imports Triton.

Rotated arrays are decoded by plain torch ops.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.tcq import TCQ
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.primitives.levels import taps
from arraycodec.primitives.paths import PATH
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, tcq
from arraycodec_torch.kernels import tcq as kernels
from arraycodec_torch.normal import values_of
from arraycodec_torch.triton_blockwise import check_device, integers, launch, plan


def encode(x: torch.Tensor, codec: TCQ, given: Given) -> Planes:
    """Raises UnsupportedByBackend: paths are searched by the reference."""
    check_device(codec, x.device)
    return tcq.encode(x, codec, given)


def decode(codec: TCQ, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if codec.rotate:
        tcq.decode(codec, planes, spec, given, out)
    elif spec.size:
        grid, reach = grid_of(spec, codec.block_size), taps(codec.states).tolist()
        patches = plan(grid, codec.bits)
        launch(
            kernels.decode, patches.programs, arrays.flat(planes["codes"]), integers(arrays.flat(planes["scales"])),
            values_of(arrays.flat(planes["codebook"])), integers(out.view(-1)), *patches.numbers,
            KIND=KINDS[spec.dtype], BITS=codec.bits, REACH=len(reach), PATH=PATH,
            TAPS=sum(tap << 2 * d for d, tap in enumerate(reach)), WRAP=grid.columns % patches.numbers[1] != 0,
            **patches.constants,
        )  # fmt: skip
        if codec.outliers:
            tcq.put_outliers(planes["outliers"], planes["outlier_positions"], out.view(-1))
