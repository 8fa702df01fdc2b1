"""`ordered`: work on tensors in several threads, hand over the results in order, never hold more than a few bytes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

from arraycodec.errors import ArgumentError
from arraycodec.primitives import threads

T = TypeVar("T")
R = TypeVar("R")

Progress = Callable[[int, int, str], None]  # bytes done, bytes in all, the tensor or file at hand

MIN_BUDGET = 1 << 24  # 16 MiB in flight even where all tensors are small


def ordered(
    work: Callable[[T], R], items: Sequence[T], cost: Callable[[T], int], jobs: int, budget: int
) -> Iterator[tuple[T, R]]:
    """`(item, work(item))` in the order of `items`, up to `jobs` of them worked on at once.

    Items in flight (taken up and not yet finished with by the caller) cost at most `budget` together; an item that
    costs more than that travels alone. The results therefore never depend on `jobs`, and memory hardly does.
    """
    if jobs == 1:
        yield from ((item, work(item)) for item in items)
        return
    pool = ThreadPoolExecutor(jobs, "arraycodec-checkpoint")
    running: deque[tuple[T, Future[R]]] = deque()
    spent, at = 0, 0
    try:
        while running or at < len(items):
            while at < len(items) and len(running) < 2 * jobs and (not running or spent + cost(items[at]) <= budget):
                running.append((items[at], pool.submit(work, items[at])))
                spent += cost(items[at])
                at += 1
            item, future = running.popleft()
            yield item, future.result()
            del future  # the result is the caller's now, and no reference here outlives the caller's own
            spent -= cost(item)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def using(jobs: int | None) -> Iterator[int]:
    """Let kernels use `jobs` threads too while the block runs; None leaves the number as it is."""
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise ArgumentError(f"jobs must be an integer >= 1 or None, got {jobs!r}")
    before = threads.get_num_threads()
    if jobs is None or jobs == before:
        yield before
        return
    with threads.limited(jobs):
        yield jobs


class Done:
    """Counts bytes for a `Progress` callback, which is called by one thread at a time."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.bytes = total, progress, 0
        self._lock = Lock()

    def add(self, nbytes: int, what: str) -> None:
        """So many bytes more are done, of the tensor `what`."""
        with self._lock:
            self.bytes += nbytes
            if self.progress:
                self.progress(min(self.bytes, self.total), self.total, what)
