"""How Triton kernels of quantisers of tiles are launched: the patches of an array, and the extremes of its tiles."""

from __future__ import annotations

import contextlib
import math
from typing import Any, NamedTuple

import torch
import triton

from arraycodec.base import Codec
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.formats import Casting, Widening
from arraycodec.primitives.grid import Grid
from arraycodec_torch.grid import consecutive_run
from arraycodec_torch.kernels import blockwise as kernels
from arraycodec_torch.kernels.blockwise import CHUNK, COLUMN, FLOW, LINE

TILE = 4096  # elements per program
NARROW = 32  # elements; a patch of narrower tiles takes several beside each other
LAUNCH = {"num_warps": 4, "enable_fp_fusion": False}


class Plan(NamedTuple):
    """The patches of a launch: how many, the numbers and constants that kernels take, and whether lines are tiles."""

    programs: int
    numbers: tuple[int, ...]
    constants: dict[str, Any]
    one_pass: bool


def plan(grid: Grid, bits: int) -> Plan:
    """Patches for codes of `bits` bits, which begin at a byte wherever lines or tiles do."""
    run, group = consecutive_run(grid), 8 // math.gcd(bits, 8)
    width, lines = min(grid.width, grid.columns), grid.matrices * grid.rows
    if run and (run % group == 0 or grid.tiles == 1):
        tiles, lines, span, step = LINE, grid.tiles, run, min(run, TILE)
    elif not run and grid.columns % group == 0:
        chunk = NARROW <= width <= TILE and width % group == 0
        tiles, span, step = CHUNK if chunk else COLUMN, grid.columns, width if chunk else TILE
    else:
        tiles, lines, span, step = FLOW, 1, grid.size, TILE
    block = max(8, triton.next_power_of_2(min(step, span)))
    step = step if tiles.value in (LINE.value, CHUNK.value) else block
    rows = TILE // block
    whole = step == block and (lines == 1 or span % step == 0)
    one_pass = run == step if tiles is LINE else tiles is CHUNK and grid.height == 1
    constants = {"TILES": tiles.value, "ROWS": rows, "BLOCK": block, "WHOLE": whole, "GROUP": group}
    constants["EVEN"] = whole and grid.size % group == 0
    numbers = (grid.size, span, step, grid.rows, grid.columns, grid.height, grid.width)
    return Plan(-(-lines // rows) * -(-span // step), numbers, constants, one_pass)


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Run a kernel where its first argument is, not on the GPU that happens to be the current one."""
    device = arguments[0].device
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel[(programs,)](*arguments, **(LAUNCH | constants))


def block_constants(patches: Plan) -> dict[str, Any]:
    """The constants of kernels that take blocks only, whose lines are always tiles."""
    return {name: value for name, value in patches.constants.items() if name != "TILES"}


def cast_constants(casting: Casting) -> dict[str, Any]:
    """The numbers of a cast as constants of a kernel."""
    names = {"nan": "NAN_CODE"}
    return {names.get(name, name.upper()): value for name, value in casting._asdict().items()}


def widening_constants(widening: Widening) -> dict[str, Any]:
    """The numbers of the way back as constants of a kernel."""
    names = {"nan": "NAN_CODE", "infinity": "INFINITY_CODE"}
    return {names.get(name, name.upper()): value for name, value in widening._asdict().items()}


def absmax_of_tiles(source: torch.Tensor, kind: int, grid: Grid) -> torch.Tensor:
    """The bits of the largest magnitude of each tile."""
    return extremes_of_tiles(source, kind, grid, signed=False)[0]


def extremes_of_tiles(source: torch.Tensor, kind: int, grid: Grid, signed: bool = True) -> torch.Tensor:
    """(2, tiles): the bits of the largest magnitude of the elements >= 0 of each tile, and of those < 0.

    Not `signed`: (1, tiles), of all elements.
    """
    if not grid.size:
        return source.new_zeros((1 + signed, grid.tiles), dtype=torch.int32)
    grid = Grid(1, 1, grid.size, 1, run) if (run := consecutive_run(grid)) else grid
    height, width = min(grid.height, grid.rows), min(grid.width, grid.columns)
    wide = min(triton.next_power_of_2(width), TILE)
    slots = grid.across * -(-width // wide)
    beside = min(triton.next_power_of_2(slots), max(1, NARROW // wide))  # neighbours are read together
    high = min(triton.next_power_of_2(height), TILE // (wide * beside))
    beside = min(triton.next_power_of_2(slots), TILE // (wide * high))
    parts, bands = -(-height // high), grid.matrices * grid.down
    found = torch.empty((1 + signed, bands * parts, slots), dtype=torch.int32, device=source.device)
    launch(
        kernels.extremes_of_tiles, bands * parts * -(-slots // beside),
        source, found.view(torch.uint32), slots, parts, bands * parts, grid.rows, grid.columns, height, width,
        KIND=kind, SIGNED=signed, HIGH=high, SLOTS=beside, WIDE=wide,
    )  # fmt: skip
    return found.view(1 + signed, bands, parts, grid.across, -1).amax((2, 4)).view(1 + signed, -1)


def integers(x: torch.Tensor) -> torch.Tensor:
    """The elements as kernels take them: one after another, as unsigned integers."""
    return x.view({1: torch.uint8, 2: torch.uint16, 4: torch.uint32, 8: torch.uint64}[x.element_size()])


def check_device(codec: Codec, device: torch.device) -> None:
    """Raise unless kernels can run there."""
    if device.type == "cpu" and not triton.knobs.runtime.interpret:
        raise UnsupportedByBackend(
            f"{codec.name}: the torch backend's triton implementation takes tensors on a GPU, got one on {device}"
        )
