"""Timing in one process: medians, and of runs that are compared with each other, taken in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def medians(*runs: Callable[[], object], quick: bool = False) -> list[float]:
    """The median time of each run in seconds; in turns, so that what else the machine does meets all of them alike."""
    times: list[list[float]] = [[] for _ in runs]
    least, budget = (3, 0.1) if quick else (7, 0.5)
    for run in runs:
        run()
    while len(times[0]) < least or (sum(map(sum, times)) < budget * len(runs) and len(times[0]) < 200):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]
