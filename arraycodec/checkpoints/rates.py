"""Bits per weight and SNR of every scheme on real weights, beside what no code of normal weights can exceed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.base import Codec
from arraycodec.checkpoints.bench import matrices, takes
from arraycodec.checkpoints.bench_case import combined
from arraycodec.checkpoints.demo import SAMPLE
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.measure import compare, finite
from arraycodec.checkpoints.policy import FLOATS
from arraycodec.errors import ArgumentError

DB_PER_BIT = 20 * math.log10(2)  # 6.02: the rate-distortion function of independent normal numbers
Say = Callable[[str], None]


@dataclass(frozen=True)
class Rate:
    """One scheme as a point: what it costs, and what it keeps."""

    scheme: str
    bits: float  # per weight that is encoded: codes, scales, codebooks, all planes
    snr_db: float  # of all encoded matrices as if they were one; infinite where every bit came back

    @property
    def below_bound(self) -> float:
        """Decibels to the Gaussian bound at this size; negative above it, minus infinity for what is exact.

        >>> round(Rate("tcq4", 4.0, 22.0).below_bound, 2)
        2.08
        """
        return DB_PER_BIT * self.bits - self.snr_db

    def to_json(self) -> dict[str, Any]:
        """Its fields and the distance to the bound, with None for what is infinite: JSON has no such number."""
        data = asdict(self) | {"below_bound_db": self.below_bound}
        return {name: finite(value) for name, value in data.items()}


@dataclass(frozen=True)
class Rates:
    """The outcome of `rates`."""

    machine: dict[str, str | int]
    command: str  # that measures the same again
    source: str  # what the checkpoint is called: its name, for `model.safetensors` after that of its folder
    matrices: int
    elements: int
    dtypes: tuple[str, ...]  # of the matrices
    rates: tuple[Rate, ...]  # the fewest bits first
    notes: tuple[str, ...]  # what was not measured, and why

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return asdict(self) | {
            "dtypes": list(self.dtypes), "rates": [rate.to_json() for rate in self.rates], "notes": list(self.notes)
        }  # fmt: skip


def rates(
    file: str | os.PathLike[str] | None = None,
    schemes: Sequence[str] | None = None,
    *,
    say: Say = lambda what: None,
) -> Rates:
    """Encode and decode the matrices of a checkpoint with schemes: all, if none are named.

    file  any checkpoint; the small trained model of this package if not given.
    say   called with the scheme that is measured next.

    A scheme that does not take all of the matrices is left out, with a note: its point would be of other weights.
    Raises ArgumentError where there is no matrix, or no scheme that takes all.
    """
    codecs = {name: registry.codec(name) for name in (registry.SCHEMES if schemes is None else schemes)}
    source, notes = SAMPLE if file is None else Path(file), []
    arrays = list(matrices(source, notes))
    if not arrays:
        raise ArgumentError(f"bench: {source}: no matrices of {', '.join(FLOATS)} to measure on")
    found: dict[Codec, tuple[float, float]] = {}  # a codec with two names is measured once
    points = []
    for scheme, codec in codecs.items():
        if refused := sum(not takes(codec, array) for array in arrays):
            notes.append(f"{scheme} does not take {refused} of the {len(arrays)} matrices")
            continue
        if codec not in found:
            say(scheme)
            found[codec] = _measure(codec, arrays)
        points.append(Rate(scheme, *found[codec]))
    if not points:
        raise ArgumentError(f"bench: nothing to measure: {'; '.join(notes)}")
    dtypes = tuple(dict.fromkeys(array.dtype.name for array in arrays))
    points.sort(key=lambda rate: (rate.bits, -rate.snr_db, rate.scheme))
    return Rates(machine(), _command(file, schemes), _called(source), len(arrays), sum(array.size for array in arrays),
                 dtypes, tuple(points), tuple(notes))  # fmt: skip


def _measure(codec: Codec, arrays: list[np.ndarray]) -> tuple[float, float]:
    """Bits per weight, and SNR."""
    differences, nbytes = [], 0
    for array in arrays:
        encoded = api.encode(array, codec, check=False)
        differences.append(compare(array, api.decode(encoded)))
        nbytes += encoded.nbytes
    all_of_them = combined(codec.name, arrays, differences, nbytes, None)
    return all_of_them.bits_per_element, all_of_them.snr_db


def frontier(rates: Iterable[Rate]) -> list[Rate]:
    """Those that no other one beats in both: fewer bits and more SNR; of equals the first.

    >>> points = [Rate("a", 4.5, 20.0), Rate("b", 4.6, 19.0), Rate("c", 8.5, 44.0)]
    >>> [rate.scheme for rate in frontier(points)]
    ['a', 'c']
    """
    best: list[Rate] = []
    for rate in sorted(rates, key=lambda rate: (rate.bits, -rate.snr_db)):
        if not best or rate.snr_db > best[-1].snr_db:
            best.append(rate)
    return best


def _called(source: Path) -> str:
    path = source.absolute()  # of "." too
    return "/".join(path.parts[-2:]) if path.name.startswith("model.safetensors") else path.name


def _command(file: str | os.PathLike[str] | None, schemes: Sequence[str] | None) -> str:
    """With the file's name, not its path: that is of one machine."""
    name = [] if file is None else [Path(file).name]
    options = [] if schemes is None else ["--schemes", ",".join(schemes)]
    return " ".join(["arraycodec bench", *name, *options, "--rates DIR"])
