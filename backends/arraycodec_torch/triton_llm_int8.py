"""`LLMInt8` on GPUs: launches the kernels of `arraycodec_torch.kernels.llm_int8`.

With a threshold plain torch ops run: the number of outlier columns has to be fetched from the device in any case.
"""

from __future__ import annotations

import torch
import triton

from arraycodec.base import Given, Planes
from arraycodec.codecs.llm_int8 import ROWS, LLMInt8
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, llm_int8
from arraycodec_torch.kernels import llm_int8 as kernels
from arraycodec_torch.triton_blockwise import TILE, check_device, integers, launch


def encode(x: torch.Tensor, codec: LLMInt8, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    spec = arrays.spec(x)
    codec.supports(spec)
    check_device(codec, x.device)
    if codec.threshold:
        return llm_int8.encode(x, codec, given)
    specs, grid = codec.planes(spec), grid_of(spec, ROWS)
    codes = arrays.empty(specs["codes"], x.device)
    scales = given["scales"] if "scales" in given else arrays.empty(specs["scales"], x.device)
    rows, width = tile(grid.columns)
    if spec.size:
        launch(
            kernels.encode_rows, -(-grid.tiles // rows), integers(arrays.flat(x)), integers(arrays.flat(scales)),
            codes.view(torch.uint8), grid.tiles, grid.columns, KIND=KINDS[spec.dtype], ROWS=rows, WIDTH=width,
            FIND="scales" not in given,
        )  # fmt: skip
    return {"codes": codes, "scales": scales.reshape(specs["scales"].known_shape)}


def decode(codec: LLMInt8, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    if codec.threshold:
        llm_int8.decode(codec, planes, spec, given, out)
        return
    grid = grid_of(spec, ROWS)
    rows, width = tile(grid.columns)
    across = -(-grid.columns // width)
    if spec.size:
        launch(
            kernels.decode_rows, -(-grid.tiles // rows) * across, integers(arrays.flat(planes["codes"])),
            integers(arrays.flat(planes["scales"])), integers(out), grid.tiles, grid.columns, across,
            KIND=KINDS[spec.dtype], ROWS=rows, WIDTH=width,
        )  # fmt: skip


def tile(columns: int) -> tuple[int, int]:
    """Rows and columns that a program has at once."""
    width = min(triton.next_power_of_2(max(columns, 1)), TILE)
    return TILE // width, width
