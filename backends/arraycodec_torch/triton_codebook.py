"""`Codebook` on GPUs: chooses and launches the kernels of `arraycodec_torch.kernels.codebook`.

Blocks that are a power of two take one pass over memory; for others, and for one scale of the whole tensor, the
largest magnitudes come first. Triton is imported by importing this module.
"""

from __future__ import annotations

import torch
import triton

from arraycodec.base import Given, Planes
from arraycodec.codecs.codebook import Codebook
from arraycodec.primitives.blocks import block_length
from arraycodec.primitives.floats import FLOAT32, KINDS
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.codebook import centred, flat, table_of, usable
from arraycodec_torch.kernels import codebook as kernels
from arraycodec_torch.primitives import without_subnormals
from arraycodec_torch.scales import stored_scale
from arraycodec_torch.triton_blockwise import TILE, check_device, integers, launch

LARGEST_ROW = 4096  # elements; a larger block is not held in the registers of one program


def encode(x: torch.Tensor, codec: Codebook, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    spec = arrays.spec(x)
    codec.supports(spec)
    check_device(codec, x.device)
    table, specs = table_of(codec, given, x.device, check=True), codec.planes(spec)
    planes: Planes = {name: given[name] for name in specs if name in given}
    source = centred(x, planes) if codec.offset else flat(x)
    n, block = spec.size, block_length(spec, codec.block_size)
    kind = FLOAT32 if codec.offset else KINDS[spec.dtype]
    source, codes = integers(source), arrays.empty(specs["codes"], x.device)
    one_pass = "absmax" not in planes and is_row(block)
    constants = {"KIND": kind, "BITS": codec.bits, "SMALLEST": int(codec.min_scale)}
    if "absmax" in planes:
        absmax = flat(planes["absmax"]).view(torch.uint32)
    elif one_pass or not n:
        absmax = torch.zeros(specs["absmax"].size, dtype=torch.uint32, device=x.device)
    else:
        absmax = usable(absmax_of_blocks(source, kind, block), codec).view(torch.uint32)
    if n and one_pass:
        rows, blocks = max(1, TILE // block), absmax.numel()
        launch(
            kernels.encode_blocks, -(-blocks // rows), source, absmax, codes, table.bounds, table.codes, n, blocks,
            BLOCK=block, ROWS=rows, TAIL=n % block != 0, **constants,
        )  # fmt: skip
    elif n:
        launch(
            kernels.encode_elements, -(-n // TILE), source, absmax, codes, table.bounds, table.codes, n, block,
            TILE=TILE, LARGE=block >= TILE, **constants,
        )  # fmt: skip
    planes |= {"codes": codes, "absmax": absmax.view(torch.float32).reshape(specs["absmax"].known_shape)}
    return {name: planes[name] for name in specs}


def decode(codec: Codebook, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    n, block = spec.size, block_length(spec, codec.block_size)
    if not n:
        return
    values = table_of(codec, planes, out.device).values
    codes, absmax = flat(planes["codes"]), flat(planes["absmax"]).view(torch.uint32)
    offset = without_subnormals(planes["offset"]) if codec.offset else values
    smallest = int(codec.min_scale)
    constants = {"KIND": KINDS[spec.dtype], "BITS": codec.bits, "OFFSET": codec.offset, "SMALLEST": smallest}
    if is_row(block):
        rows, blocks = max(1, TILE // block), absmax.numel()
        launch(
            kernels.decode_blocks, -(-blocks // rows), codes, absmax, values, offset, integers(out), n, blocks,
            BLOCK=block, ROWS=rows, TAIL=n % block != 0, **constants,
        )  # fmt: skip
    else:
        launch(
            kernels.decode_elements, -(-n // TILE), codes, absmax, values, offset, integers(out), n, block,
            TILE=TILE, LARGE=block >= TILE, **constants,
        )  # fmt: skip


def absmax_of_blocks(source: torch.Tensor, kind: int, block: int) -> torch.Tensor:
    """Steps 1 to 3 for blocks of any size: the largest magnitude of each run, then of those of a block, as int32."""
    n = source.numel()
    run = min(triton.next_power_of_2(block), LARGEST_ROW)
    blocks, runs = -(-n // block), -(-block // run)
    found = torch.empty((blocks, runs), dtype=torch.int32, device=source.device)
    rows = max(1, TILE // run)
    launch(
        kernels.absmax_runs, -(-found.numel() // rows), source, found.view(torch.uint32), n, block, runs, found.numel(),
        KIND=kind, RUN=run, ROWS=rows,
    )  # fmt: skip
    return stored_scale(found.amax(1))


def is_row(block: int) -> bool:
    """Whether a block can be a row of a tile."""
    return 2 <= block <= LARGEST_ROW and block & (block - 1) == 0
