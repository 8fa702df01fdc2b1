"""`bench --results`: the measurements behind docs/benchmarks/results.md, in one process.

A matrix of normal random numbers, with every scheme in its own blocks and with one scale for the whole matrix; the same
matrix in bfloat16, and with outliers; and every peer that is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.checkpoints.bench import DEFAULT_SHAPE, takes
from arraycodec.checkpoints.bench_case import Case, Quality, case, quality
from arraycodec.checkpoints.bench_peers import Peer, peers
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.peers import LIBRARIES, compressed_tensors
from arraycodec.errors import ArgumentError
from arraycodec.primitives import threads
from arraycodec.spec import numpy_dtype

Say = Callable[[str], None]
OUTLIERS, OUTLIER = 0.001, 50  # the share of elements that are outliers, and by what they are multiplied
BFLOAT16_PEERS = (compressed_tensors.NAME,)  # which is made for such weights; the others are measured on float32


@dataclass(frozen=True)
class Section:
    """What was measured on one array with one kind of blocks."""

    cases: tuple[Case, ...]
    quality: tuple[Quality, ...]
    peers: tuple[Peer, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Lists of rows."""
        return {name: [row.to_json() for row in getattr(self, name)] for name in ("cases", "quality", "peers")}


@dataclass(frozen=True)
class Results:
    """The outcome of `results`."""

    machine: dict[str, str | int]
    date: str  # year-month-day, UTC
    command: str  # that measures the same again
    threads: int
    shape: tuple[int, int]
    aliases: dict[str, str]  # scheme -> the name under which its codec was measured
    blocks: Section  # every scheme in its own blocks
    whole: Section  # one scale for the matrix, where the codec has that
    bfloat16: Section
    outliers: Section
    whole_outliers: Section
    notes: tuple[str, ...]  # what could not be measured, and why

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        sections = ("blocks", "whole", "bfloat16", "outliers", "whole_outliers")
        return {
            "machine": self.machine,
            "date": self.date,
            "command": self.command,
            "threads": self.threads,
            "shape": list(self.shape),
            "aliases": self.aliases,
            **{name: getattr(self, name).to_json() for name in sections},
            "notes": list(self.notes),
        }


def results(
    shape: tuple[int, int] = DEFAULT_SHAPE,
    schemes: Sequence[str] | None = None,
    *,
    quick: bool = False,
    say: Say = lambda what: None,
) -> Results:
    """Measure schemes (all lossy ones, if none are named) and their peers on a matrix of this shape, with all threads.

    quick  few repetitions, no peers.
    say    called with what is measured next.
    """
    lossy = (name for name, codec in registry.SCHEMES.items() if not codec.lossless)
    codecs = {name: registry.codec(name) for name in (lossy if schemes is None else schemes)}
    x = np.random.default_rng(0).standard_normal(shape, np.float32)
    left_out = [f"{name} does not take this matrix" for name, codec in codecs.items() if not takes(codec, x)]
    taken = {name: codec for name, codec in codecs.items() if takes(codec, x)}
    codecs = distinct(taken)
    if quick:
        left_out.append("peers, in a quick run")
    if not codecs:
        raise ArgumentError(f"bench: nothing to measure: {'; '.join(left_out)}")
    whole = whole_arrays(codecs)
    blocks, notes = _section(x, codecs, quick, say, () if quick else LIBRARIES)
    narrow, more = _section(x.astype(numpy_dtype("bfloat16")), codecs, quick, say, () if quick else BFLOAT16_PEERS)
    spiky = outliers(x)
    return Results(
        machine(), time.strftime("%Y-%m-%d", time.gmtime()), _command(shape, schemes, quick),
        threads.get_num_threads(), shape, aliases(taken),
        blocks, _section(x, whole, quick, say, ())[0], narrow, _losses(spiky, codecs, say), _losses(spiky, whole, say),
        tuple(dict.fromkeys([*left_out, *notes, *more])),
    )  # fmt: skip


def _section(
    x: np.ndarray, codecs: dict[str, Codec], quick: bool, say: Say, libraries: Sequence[str]
) -> tuple[Section, list[str]]:
    cases, losses = [], []
    for scheme, codec in codecs.items():
        say(f"{scheme} {x.dtype.name}")
        losses.append(quality(scheme, codec, [x]))
        cases.append(case(scheme, codec, [x], quick))
    found, notes = peers(x, codecs, say, libraries)
    return Section(tuple(cases), tuple(losses), tuple(found)), notes


def _losses(x: np.ndarray, codecs: dict[str, Codec], say: Say) -> Section:
    """The quality alone: what a codec loses depends on the array, how long it takes does not."""
    losses = []
    for scheme, codec in codecs.items():
        say(f"{scheme}, outliers")
        losses.append(quality(scheme, codec, [x]))
    return Section((), tuple(losses))


def outliers(x: np.ndarray) -> np.ndarray:
    """A copy in which some elements are far larger than the others, as in activations and some weights."""
    spiky = x.copy()
    chosen = np.random.default_rng(1).choice(x.size, max(1, round(OUTLIERS * x.size)), replace=False)
    spiky.reshape(-1)[chosen] *= np.float32(OUTLIER)
    return spiky


def whole_arrays(codecs: dict[str, Codec]) -> dict[str, Codec]:
    """The codecs with one scale for the whole array, as far as they have that."""
    found: dict[str, Codec] = {}
    for scheme, codec in codecs.items():
        if hasattr(codec, "block_size"):
            with suppress(ArgumentError):
                found[scheme] = replace(codec, block_size=None)  # type: ignore[call-arg]
    return distinct(found)


def distinct(codecs: dict[str, Codec]) -> dict[str, Codec]:
    """Every codec under the first of its names."""
    other = aliases(codecs)
    return {name: codec for name, codec in codecs.items() if name not in other}


def aliases(codecs: dict[str, Codec]) -> dict[str, str]:
    """The names of codecs that have an earlier one, with that."""
    first: dict[Codec, str] = {}
    for name, codec in codecs.items():
        first.setdefault(codec, name)
    return {name: first[codec] for name, codec in codecs.items() if first[codec] != name}


def _command(shape: tuple[int, int], schemes: Sequence[str] | None, quick: bool) -> str:
    options = ["--shape", "x".join(map(str, shape)), *(["--schemes", ",".join(schemes)] if schemes is not None else [])]
    return " ".join(["arraycodec bench", *options, *(["--quick"] if quick else []), "--results DIR"])
