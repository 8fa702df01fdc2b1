"""Where everything of a coded array lies: its streams, their bytes and chunks, tables and patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.entropy import tables
from arraycodec.primitives.entropy.plan import NONE, SLACK, Plan, Streams
from arraycodec.primitives.entropy.rest import chunk_places

PIECE = 1 << 19  # elements that one call of a kernel codes
TILE = 64  # columns that are turned into rows together
GAP = 65535  # the longest way to the next patch


@dataclass(frozen=True)
class Layout:
    """Where everything of an array lies, found from its small planes and checked."""

    plan: Plan
    size: int
    streams: Streams
    places: np.ndarray  # int64: where each stream starts in the plane `streams`, and where the last one ends
    chunks: np.ndarray  # int64: where each chunk starts in the plane `raw`, and where the last one ends
    tables: np.ndarray  # uint16 (T, A)
    labels: np.ndarray  # uint8
    firsts: np.ndarray  # int64: the first unit of every stream
    zeros: np.ndarray  # uint8
    patches: np.ndarray  # int64: places of elements in the flattened array

    @property
    def slack(self) -> int:
        """The bytes that a decoder may load after a stream."""
        return SLACK if self.plan.coder != NONE else 0

    def check(self, streams: int, raw: int) -> None:
        """Raise CorruptError unless the large planes have these bytes."""
        for name, want, got in (("streams", self.places[-1] + self.slack, streams), ("raw", self.chunks[-1], raw)):
            if want != got:
                raise CorruptError(f"lossless: plane {name!r} must have {want} bytes, got {got}")

    def streams_of(self, start: int, stop: int) -> tuple[int, int]:
        """The range of streams that holds the elements start..stop, which are not none; of columns, whole bands."""
        height, columns = self.plan.stream, self.plan.columns
        if not columns:
            return start // height, -(-stop // height)
        count = self.streams.starts.size
        return start // (height * columns) * columns, min(-(-stop // (height * columns)) * columns, count)

    def part(self, first: int, last: int) -> Layout:
        """The layout of these streams alone, for planes that begin with them; elements keep their places."""
        picked = slice(first, last)
        firsts = self.firsts[picked]
        return replace(
            self,
            streams=Streams(self.streams.starts[picked], self.streams.lengths[picked]),
            places=self.places[first : last + 1] - self.places[first],
            chunks=self.chunks[first : last + 1] - self.chunks[first],
            labels=self.labels[firsts[0] :],
            firsts=firsts - firsts[0],
            zeros=self.zeros[picked],
        )


SMALL = ("plan", "tables", "index", "words")  # the planes that a layout is found from


def layout_of(planes: Mapping[str, np.ndarray], size: int, bits: int) -> Layout:
    """The layout of an array of `size` words of so many bits; CorruptError where its small planes do not fit.

    Of the plane `words` only the length is looked at.
    """
    plan = Plan.of(planes["plan"], bits, size)
    table_plane, index, words = (planes[name] for name in SMALL[1:])
    count = plan.number_of_streams(size)
    coded = count if plan.coder != NONE else 0
    if index.size < coded:
        raise CorruptError(f"lossless: plane 'index' must have the lengths of {coded} streams, got {index.size}")
    if table_plane.size < count * plan.zeros:
        raise CorruptError(f"lossless: plane 'tables' must have the zeros of {count} streams, got {table_plane.size}")
    streams = plan.streams(size)  # not before the planes are known to be large enough for so many
    several = plan.unit != plan.stream
    units = streams.units(plan.unit) if several else count
    firsts = np.cumsum(units) - units if several else np.arange(count)
    found, labels, zeros = tables.unpack(plan, table_plane, int(np.sum(units)), count)
    places = np.zeros(count + 1, np.int64)
    np.cumsum(index[:coded], out=places[1 : coded + 1])
    patches = patches_of(index[coded:])
    if patches.size and patches[-1] >= size:
        raise CorruptError(f"lossless: a patch at element {patches[-1]} of {size}")
    if plan.palette + patches.size != words.size:
        raise CorruptError(f"lossless: plane 'words' must have {plan.palette + patches.size} words, got {words.size}")
    chunks = chunk_places(streams.lengths, zeros, plan.rest)
    return Layout(plan, size, streams, places, chunks, found, labels, firsts, zeros, patches)


def patches_of(gaps: np.ndarray) -> np.ndarray:
    """The places of patches in the flattened array, from the gaps between them."""
    if not gaps.size:
        return np.zeros(0, np.int64)
    steps = gaps.astype(np.int64)
    return (np.cumsum(np.where(steps == 0, GAP, steps)) - 1)[steps > 0]


def gaps_of(places: np.ndarray) -> np.ndarray:
    """The gaps between patches at these places of the flattened array, as the plane `index` has them."""
    steps = np.diff(places, prepend=-1)
    far = (steps - 1) // GAP
    gaps = np.zeros(int(far.sum()) + places.size, np.uint16)
    gaps[np.cumsum(far + 1) - 1] = steps - far * GAP
    return gaps


def pieces_of(plan: Plan, count: int) -> list[tuple[int, int]]:
    """Ranges of streams that one call of the kernel codes."""
    if plan.columns:
        bands = range(0, count, plan.columns)
        return [
            (at, min(at + TILE, band + plan.columns)) for band in bands for at in range(band, band + plan.columns, TILE)
        ]
    step = max(1, PIECE // max(plan.stream, 1))
    return list(pairwise([*range(0, count, step), count]))
