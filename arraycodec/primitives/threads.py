"""The library's own threads: ranges of independent work on kernels that release the GIL.

Not Numba's `parallel=True`: its OpenMP layer kills forked children and its workqueue aborts on concurrent callers.
Results never depend on the number of threads, since each range writes its own part of the output.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from threading import Lock

from arraycodec.errors import ArgumentError

SERIAL_BELOW = 1 << 20  # elements; a smaller array is done before a second thread has woken up

_lock = Lock()
_pool: ThreadPoolExecutor | None = None
_num_threads: int | None = None


def available_cpus() -> int:
    """The CPUs this process may use: its affinity, and its cgroup's quota where one is set."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(affinity, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no cgroup v2, or its quota is "max"
        return affinity


def get_num_threads() -> int:
    """The number of threads that encode and decode use for large arrays."""
    return _num_threads or available_cpus()


def set_num_threads(n: int | None) -> None:
    """Use `n` threads from now on; None means as many as the process has CPUs."""
    global _num_threads, _pool
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise ArgumentError(f"set_num_threads: n must be an integer >= 1 or None, got {n!r}")
    with _lock:
        _num_threads, _pool = n, None


@contextmanager
def limited(n: int) -> Iterator[None]:
    """Use `n` threads while the block runs, and as many as before afterwards."""
    before = _num_threads
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)


def split(work: Callable[[int, int], None], units: int, elements: int) -> None:
    """Call `work(first, last)` on ranges that cover `units`, in threads where `elements` is large enough.

    The caller's thread does the last range. An exception in any range is raised here, after all have ended.
    """
    threads = 1 if elements < SERIAL_BELOW else min(get_num_threads(), units)
    if threads <= 1:
        if units:
            work(0, units)
        return
    edges = [units * i // threads for i in range(threads + 1)]
    futures = [_executor().submit(work, *edge) for edge in pairwise(edges[:-1])]
    try:
        work(edges[-2], edges[-1])
    finally:
        for future in futures:
            future.exception()  # wait for all, so that no thread still writes when the caller goes on
    for future in futures:
        future.result()


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(1, get_num_threads() - 1), "arraycodec")
        return _pool


def _after_fork() -> None:
    """A forked child has none of its parent's threads, and may have inherited a held lock."""
    global _pool, _lock
    _pool, _lock = None, Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
