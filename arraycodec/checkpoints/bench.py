"""`bench`: how fast every scheme is on this machine, beside a plain copy of the same array, and what it loses.

One process; medians; every measured buffer is warm except where "allocating" is said.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.checkpoints.bench_case import Case, Quality, case, quality
from arraycodec.checkpoints.bench_peers import Peer, frameworks_of, peers
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.policy import FLOATS, Policy, accepted
from arraycodec.checkpoints.tree import opened, scan, tensors
from arraycodec.errors import ArgumentError
from arraycodec.primitives import threads
from arraycodec.spec import numpy_dtype, spec_of

DEFAULT_SHAPE = (4096, 11008)  # an MLP matrix of a 7-billion-parameter model
FILE_LIMIT = 1 << 26  # elements of a file that are measured on: enough to leave every cache
Say = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """The outcome of `bench`."""

    machine: dict[str, str | int]
    arrays: str  # what was measured on
    cases: tuple[Case, ...]
    quality: tuple[Quality, ...]
    peers: tuple[Peer, ...]
    notes: tuple[str, ...]  # what could not be measured, and why

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "machine": self.machine,
            "arrays": self.arrays,
            "cases": [case.to_json() for case in self.cases],
            "quality": [row.to_json() for row in self.quality],
            "peers": [peer.to_json() for peer in self.peers],
            "notes": list(self.notes),
        }


def bench(
    file: str | os.PathLike[str] | None = None,
    shape: tuple[int, int] = DEFAULT_SHAPE,
    schemes: Sequence[str] | None = None,
    *,
    quick: bool = False,
    say: Say = lambda what: None,
) -> Bench:
    """Measure schemes (all, if none are named) on a random matrix of this shape, or on the matrices of a file.

    quick  float32 only, all threads only, few repetitions, no other libraries.
    say    called with what is measured next.
    """
    codecs = {name: registry.codec(name) for name in (registry.SCHEMES if schemes is None else schemes)}
    cases, losses, others, notes = [], [], [], []
    arrays = ""
    for dtype, workload in _workloads(file, shape, quick, notes):
        arrays = arrays or _describe(file, workload)
        for scheme, codec in codecs.items():
            if not (fit := [array for array in workload if takes(codec, array)]):
                notes.append(f"{scheme} does not take {dtype} of this shape")
                continue
            say(f"{scheme} {dtype}")
            losses.append(quality(scheme, codec, fit))
            for count in [threads.available_cpus()] if quick else sorted({1, threads.available_cpus()}):
                with threads.limited(count):
                    cases.append(case(scheme, codec, fit, quick))
        if not quick and dtype == "float32" and file is None:
            for measure in (frameworks_of, peers):
                found, missing = measure(workload[0], codecs, say)
                others += found
                notes += missing
    if not cases:
        raise ArgumentError(f"bench: nothing to measure: {'; '.join(notes) or 'no matrices'}")
    return Bench(machine(), arrays, tuple(cases), tuple(losses), tuple(others), tuple(notes))


def takes(codec: Codec, array: np.ndarray) -> bool:
    """Whether a codec takes arrays of this dtype and shape."""
    try:
        codec.supports(spec_of(array))
    except ArgumentError:
        return False
    return array.dtype.name in accepted(codec)


def parse_shape(text: str) -> tuple[int, int]:
    """`"4096x11008"` as (4096, 11008)."""
    rows, mark, columns = text.lower().partition("x")
    if not (mark and rows.isdecimal() and columns.isdecimal() and int(rows) * int(columns)):
        raise ArgumentError(f"shape must be ROWSxCOLS, such as 4096x11008, got {text!r}")
    return int(rows), int(columns)


def _workloads(
    file: str | os.PathLike[str] | None, shape: tuple[int, int], quick: bool, notes: list[str]
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """dtype -> the arrays to measure on."""
    if file is not None:
        found: dict[str, list[np.ndarray]] = {}
        for array in matrices(file, notes):
            found.setdefault(array.dtype.name, []).append(array)
        yield from found.items()
        return
    values = np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(0.02)
    for dtype in FLOATS[:1] if quick else FLOATS:
        yield dtype, [values if dtype == "float32" else values.astype(numpy_dtype(dtype))]


def matrices(file: str | os.PathLike[str], notes: list[str]) -> Iterator[np.ndarray]:
    """What compressing a checkpoint would encode, up to a limit; what is over it is told in `notes`."""
    policy, left, over = Policy("nf4"), FILE_LIMIT, 0
    with opened(scan(file)) as files:
        for name, (_, tensor) in tensors(files).items():
            if not policy.decide(name, tensor.dtype, tensor.shape).codec:
                continue
            if tensor.spec.size > left:
                over += 1
                continue
            left -= tensor.spec.size
            yield tensor.decode()
    if over:
        notes.append(f"{over} matrices of the file: only {FILE_LIMIT:,} weights are measured")


def _describe(file: str | os.PathLike[str] | None, workload: list[np.ndarray]) -> str:
    if file is not None:
        return f"matrices of {os.fspath(file)}"
    return "normal random numbers, standard deviation 0.02, " + " × ".join(map(str, workload[0].shape))


__all__ = ["DEFAULT_SHAPE", "Bench", "Case", "Quality", "bench", "parse_shape"]
