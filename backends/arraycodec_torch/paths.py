"""Paths through a trellis as torch ops: the search of `arraycodec.primitives.paths`, of many paths side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch

from arraycodec.primitives.normal import MAX_IMPORTANCE
from arraycodec.primitives.paths import CLIPS, PATH
from arraycodec.primitives.trellis import subsets

Search = Callable[..., torch.Tensor]  # as `search_paths`


def search(
    q: torch.Tensor, levels: torch.Tensor, states: int, weights: torch.Tensor | None, how: Search, most: int
) -> torch.Tensor:
    """The codes uint8 of integers (lines, columns), along whose lines paths lie; weights are of the same shape.

    how    searches paths that lie side by side; `search_paths`, or what a GPU has for it
    most   elements that it searches at a time
    """
    codes, (lines, columns) = torch.empty_like(q, dtype=torch.uint8), q.shape
    levels, whole = levels.to(torch.int32), columns // PATH * PATH
    for start, stop in ((0, whole), (whole, columns)):
        if lines and start < stop:
            length = min(stop - start, PATH)
            own = [x[:, start:stop].reshape(-1, length) for x in (q, weights) if x is not None]
            parts = zip(*(x.split(max(1, most // length)) for x in own), strict=True)
            found = [how(levels, states, *(x.T.contiguous() for x in part)).T for part in parts]
            codes[:, start:stop] = torch.cat(found).reshape(lines, -1)
    return codes


def search_paths(
    levels: torch.Tensor, states: int, numbers: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """The codes uint8 of paths (steps, paths), by Viterbi's algorithm; weighted costs are int64."""
    first = first_levels(numbers, levels)
    distance = distances(numbers.to(torch.int32), first, levels, states)
    if weights is not None:
        distance = distance.to(torch.int64) * weights[:, None]
    cost = torch.full(
        (states, numbers.shape[1]), far(states, weights is not None), dtype=distance.dtype, device=numbers.device
    )
    cost[0] = 0
    subset = torch.tensor(subsets(states), dtype=torch.int32, device=numbers.device)
    zero, one = subset.split(states)
    chosen = torch.empty((len(numbers), states >> 3, numbers.shape[1]), dtype=torch.uint8, device=numbers.device)
    for t, own in enumerate(distance):
        cost, took = step(cost, own.index_select(0, zero), own.index_select(0, one))
        chosen[t] = packed(took)
    state, windows = cheapest(cost), torch.empty_like(first)
    for t in reversed(range(len(numbers))):
        took = chosen[t].gather(0, (state >> 3)[None])[0] >> (state & 7) & 1
        before = state >> 1 | took * (states >> 1)
        windows[t], state = before << 1 | state & 1, before
    index = first + ((subset.index_select(0, windows.view(-1)).view_as(first) - first) & 3) >> 2
    return ((windows & 1) * (levels.numel() >> 2) | index).to(torch.uint8)


def far(states: int, weighted: bool) -> int:
    """What a path costs that does not begin in state 0: more than any that does, until all paths have forgotten it."""
    return (states.bit_length() - 1) * CLIPS[states] ** 2 * (MAX_IMPORTANCE if weighted else 1) + 1


def coarseness(levels: torch.Tensor) -> int:
    """By how many bits differences are shifted: few levels lie far apart."""
    return max(0, 6 - levels.numel().bit_length())


def first_levels(numbers: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The first of the four levels that each number may become, int32: how many bounds are below it."""
    return torch.bucketize(numbers.to(torch.int32), (levels[:-4] + levels[4:]) >> 1, out_int32=True)


def distances(x: torch.Tensor, first: torch.Tensor, levels: torch.Tensor, states: int) -> torch.Tensor:
    """The squared error (steps, 4, paths) of each number with the one level of each subset that it may become."""
    clip = CLIPS[states]
    subset = torch.arange(4, dtype=torch.int32, device=x.device)[:, None]
    first = first[:, None]
    level = levels.index_select(0, (first + ((subset - first) & 3)).view(-1)).view(len(x), 4, -1)
    e = ((x[:, None] - level) >> coarseness(levels)).clamp(-clip, clip)
    return e * e


def step(cost: torch.Tensor, zero: torch.Tensor, one: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of all paths: the costs of states, and which came from the predecessor with the highest bit set."""
    low, high = cost.repeat_interleave(2, 0).chunk(2)
    zero, one = zero + low, one + high
    after = torch.minimum(zero, one)
    # Costs are those beyond that of state 0, which stay below what 31 bits hold.
    return after - after[0], one < zero


def packed(took: torch.Tensor) -> torch.Tensor:
    """Booleans (states, paths) as bits of uint8, the first lowest."""
    bit = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=took.device)
    return (took.view(-1, 8, took.shape[1]) * bit[:, None]).sum(1, dtype=torch.uint8)


def cheapest(cost: torch.Tensor) -> torch.Tensor:
    """The cheapest state of each path, the first of equals."""
    state = torch.arange(len(cost), device=cost.device)[:, None]
    return torch.where(cost == cost.amin(0), state, len(cost)).amin(0)
