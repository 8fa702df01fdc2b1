"""`bench`: how fast every scheme is on this machine, beside a plain copy of the same array, and what it loses.

One process; medians; every measured buffer is warm except where "allocating" is said. The yardstick is
`numpy.copyto` of the same array into warm memory by one thread: a decode of ratio 1 costs what a copy costs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.base import Codec
from arraycodec.checkpoints import bench_peers
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.measure import compare
from arraycodec.checkpoints.policy import FLOATS, Policy, accepted
from arraycodec.checkpoints.timing import medians
from arraycodec.checkpoints.tree import opened, scan, tensors
from arraycodec.errors import ArgumentError
from arraycodec.primitives import threads
from arraycodec.spec import ArraySpec, numpy_dtype

DEFAULT_SIZE = (4096, 11008)  # an MLP matrix of a 7-billion-parameter model
FILE_LIMIT = 1 << 26  # elements of a file that are measured on: enough to leave every cache
Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One scheme on one dtype with so many threads; times are medians in seconds."""

    scheme: str
    dtype: str
    threads: int
    elements: int
    copy: float  # numpy.copyto of the array into warm memory
    encode: float  # planes are allocated; they are a fraction of the array
    decode: float  # into warm memory, with out=
    decode_allocating: float

    def to_json(self) -> dict[str, Any]:
        """Times in seconds, nanoseconds per element, and in copies."""
        data: dict[str, Any] = {k: getattr(self, k) for k in ("scheme", "dtype", "threads", "elements")}
        for name in ("copy", "encode", "decode", "decode_allocating"):
            seconds = getattr(self, name)
            data |= {f"{name}_s": seconds, f"{name}_ns_per_element": 1e9 * seconds / self.elements}
            data |= {f"{name}_in_copies": seconds / self.copy}
        return data


@dataclass(frozen=True)
class Quality:
    """What a scheme loses on the arrays measured, and what it costs."""

    scheme: str
    dtype: str
    mae: float
    snr_db: float
    bits_per_element: float


@dataclass(frozen=True)
class Bench:
    """The outcome of `bench`."""

    machine: dict[str, str | int]
    arrays: str  # what was measured on
    cases: tuple[Case, ...]
    quality: tuple[Quality, ...]
    peers: tuple[bench_peers.Peer, ...]
    notes: tuple[str, ...]  # what could not be measured, and why

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "machine": self.machine,
            "arrays": self.arrays,
            "cases": [case.to_json() for case in self.cases],
            "quality": [asdict(quality) for quality in self.quality],
            "peers": [peer.to_json() for peer in self.peers],
            "notes": list(self.notes),
        }


def bench(
    file: str | os.PathLike[str] | None = None,
    size: tuple[int, int] = DEFAULT_SIZE,
    schemes: Sequence[str] | None = None,
    *,
    quick: bool = False,
    say: Say = lambda what: None,
) -> Bench:
    """Measure schemes (all, if none are named) on a random matrix of this size, or on the matrices of a file.

    quick  float32 only, all threads only, few repetitions, no other libraries.
    say    called with what is measured next.
    """
    codecs = {name: registry.codec(name) for name in (registry.SCHEMES if schemes is None else schemes)}
    cases, quality, notes = [], [], []
    arrays, peers = "", []
    for dtype, workload in _workloads(file, size, quick):
        arrays = arrays or _describe(file, workload)
        for scheme, codec in codecs.items():
            if not (fit := [array for array in workload if array.dtype.name in accepted(codec)]):
                notes.append(f"{scheme} does not take {dtype}")
                continue
            say(f"{scheme} {dtype}")
            quality.append(_quality(scheme, dtype, codec, fit))
            for count in [threads.available_cpus()] if quick else sorted({1, threads.available_cpus()}):
                with threads.limited(count):
                    cases.append(_case(scheme, dtype, count, codec, fit, quick))
        if not quick and dtype == "float32" and file is None:
            found, missing = bench_peers.peers(workload[0], [c for c in codecs if c in bench_peers.SCHEMES], say)
            peers += found
            notes += missing
    if not cases:
        raise ArgumentError(f"bench: nothing to measure: {'; '.join(notes) or 'no matrices'}")
    return Bench(machine(), arrays, tuple(cases), tuple(quality), tuple(peers), tuple(notes))


def parse_size(text: str) -> tuple[int, int]:
    """`"4096x11008"` as (4096, 11008)."""
    rows, mark, columns = text.lower().partition("x")
    if not (mark and rows.isdecimal() and columns.isdecimal() and int(rows) * int(columns)):
        raise ArgumentError(f"size must be ROWSxCOLS, such as 4096x11008, got {text!r}")
    return int(rows), int(columns)


def _workloads(
    file: str | os.PathLike[str] | None, size: tuple[int, int], quick: bool
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """dtype -> the arrays to measure on."""
    if file is not None:
        found: dict[str, list[np.ndarray]] = {}
        for array in _matrices(file):
            found.setdefault(array.dtype.name, []).append(array)
        yield from found.items()
        return
    values = np.random.default_rng(0).standard_normal(size, np.float32) * np.float32(0.02)
    for dtype in FLOATS[:1] if quick else FLOATS:
        yield dtype, [values if dtype == "float32" else values.astype(numpy_dtype(dtype))]


def _matrices(file: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """What compressing would encode, up to a limit."""
    policy, left = Policy("nf4"), FILE_LIMIT
    with opened(scan(file)) as files:
        for name, (_, tensor) in tensors(files).items():
            if policy.decide(name, tensor.dtype, tensor.shape).codec and tensor.spec.size <= left:
                left -= tensor.spec.size
                yield tensor.decode()


def _describe(file: str | os.PathLike[str] | None, workload: list[np.ndarray]) -> str:
    if file is not None:
        return f"matrices of {os.fspath(file)}"
    return "normal random numbers, standard deviation 0.02, " + " × ".join(map(str, workload[0].shape))


def _quality(scheme: str, dtype: str, codec: Codec, arrays: list[np.ndarray]) -> Quality:
    """Over all arrays together: errors add up by their squares."""
    elements = sum(array.size for array in arrays)
    noise, power, absolute, nbytes = 0.0, 0.0, 0.0, 0
    for array in arrays:
        encoded = api.encode(array, codec, check=False)
        found = compare(array, api.decode(encoded))
        own = power_of(array)
        power, noise = power + own, noise + found.relative_rms**2 * own
        absolute, nbytes = absolute + found.mae * array.size, nbytes + encoded.nbytes
    snr = 10 * float(np.log10(power / noise)) if noise else float("inf")
    return Quality(scheme, dtype, absolute / elements, snr, 8 * nbytes / elements)


def power_of(array: np.ndarray) -> float:
    """The sum of squares of the finite elements, in float64."""
    flat, total = array.reshape(-1), 0.0
    for start in range(0, flat.size, 1 << 13):
        piece = flat[start : start + (1 << 13)].astype(np.float64)
        total += float(np.square(piece, where=np.isfinite(piece), out=np.zeros_like(piece)).sum())
    return total


def _case(scheme: str, dtype: str, count: int, codec: Codec, arrays: list[np.ndarray], quick: bool) -> Case:
    encoded = [api.encode(array, codec, check=False) for array in arrays]
    outs = [api.empty(ArraySpec(array.shape, array.dtype.name)) for array in arrays]

    def copy() -> None:
        for array, out in zip(arrays, outs, strict=True):
            np.copyto(out, array)

    def decode_into() -> None:
        for value, out in zip(encoded, outs, strict=True):
            api.decode(value, out=out)

    times = medians(
        copy,
        lambda: [api.encode(array, codec, check=False) for array in arrays],
        decode_into,
        lambda: [api.decode(value) for value in encoded],
        quick=quick,
    )
    return Case(scheme, dtype, count, sum(array.size for array in arrays), *times)


__all__ = ["DEFAULT_SIZE", "Bench", "Case", "Quality", "bench", "parse_size"]
