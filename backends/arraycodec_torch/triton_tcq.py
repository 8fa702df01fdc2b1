"""`TCQ` on GPUs: launches the kernels of `arraycodec_torch.kernels.tcq`; importing it imports Triton.

Rotated arrays are decoded by plain torch ops; and they search paths of 256 states, whose costs no registers can hold.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.tcq import TCQ
from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.grid import grid_of
from arraycodec.primitives.levels import taps
from arraycodec.primitives.paths import CLIPS, PATH
from arraycodec.primitives.trellis import subsets
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, tcq
from arraycodec_torch.kernels import tcq as kernels
from arraycodec_torch.normal import values_of
from arraycodec_torch.paths import coarseness, far, first_levels
from arraycodec_torch.triton_blockwise import check_device, integers, launch, plan

LANES = 32  # paths of a program, each a thread
MOST = 1 << 26  # elements that are searched at a time
SEARCHED = {8: (1, torch.uint8), 64: (2, torch.uint32)}  # states -> words of a bit for each, and their dtype


def encode(x: torch.Tensor, codec: TCQ, given: Given) -> Planes:
    """The planes of `x` with the codebook that is given: only the search of paths is by kernels of its own."""
    check_device(codec, x.device)
    if codec.states in SEARCHED:
        return tcq.encode(x, codec, given, search_paths, MOST)
    return tcq.encode(x, codec, given)


def search_paths(
    levels: torch.Tensor, states: int, numbers: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The codes uint8 of paths (steps, paths), by Viterbi's algorithm; weighted costs are int64."""
    (length, paths), device = numbers.shape, numbers.device
    firsts, subset, (words, dtype) = first_levels(numbers, levels).to(torch.int16), subsets(states), SEARCHED[states]
    found = torch.empty((length, words, paths), dtype=dtype, device=device)
    ends, codes = torch.empty(paths, dtype=torch.int32, device=device), torch.empty_like(numbers, dtype=torch.uint8)
    weighted = weights is not None
    launch(
        kernels.search, -(-paths // LANES), numbers, firsts, weights if weighted else numbers, levels, found, ends,
        paths, length, STATES=states, SUBSETS=tuple(subset.tolist()), CLIP=CLIPS[states], FAR=far(states, weighted),
        COARSE=coarseness(levels), WEIGHTED=weighted, LANES=LANES, num_warps=1,
    )  # fmt: skip
    launch(
        kernels.trace, -(-paths // LANES), found, ends, firsts, torch.tensor(subset, device=device), codes,
        paths, length, STATES=states, TOP=levels.numel() >> 2, LANES=LANES, num_warps=1,
    )  # fmt: skip
    return codes


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
