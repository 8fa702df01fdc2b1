"""Timing in one process: medians, and of runs that are compared with each other, taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

BUDGET, QUICK_BUDGET = 0.2, 0.1  # seconds for every run
REPEATS, SHORT = 3, 0.1  # what is short runs so often in a turn, until it has taken so many seconds


def medians(*runs: Callable[[], object], quick: bool = False, warm: bool = False) -> list[float]:
    """The median time of each run in seconds; in turns, so that what else the machine does meets all of them alike.

    At least three turns, two where they take seconds; in each of them a short run is repeated, or next to a long one it
    would be measured twice.

    warm  they have run before, so that nothing is left to compile or to load.
    """
    times: list[list[float]] = [[] for _ in runs]
    budget = len(runs) * (QUICK_BUDGET if quick else BUDGET)
    if not warm:
        for run in runs:
            run()
    turns = 0
    while turns < 200 and (turns < 2 or sum(map(sum, times)) < (1 if turns == 2 else budget)):
        turns += 1
        for run, own in zip(runs, times, strict=True):
            own += _turn(run)
    return [statistics.median(own) for own in times]


def _turn(run: Callable[[], object]) -> list[float]:
    times: list[float] = []
    while len(times) < REPEATS and sum(times) < SHORT:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times
