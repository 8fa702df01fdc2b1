"""`info --floor`: how few bits a tensor's words would take by their statistics, beside what they do take.

A word is cut into fields, from the top: of a float the sign, the exponent and the highest mantissa bit together, then
the other mantissa bits 8 at a time; of all else 8 bits at a time. Of each field the entropy is taken over the whole
tensor (order 0), given the row, given the column, and given the field of the element before; the fields' entropies are
summed. A row is what has one index of the first axis, a column what has one place in all rows; an array of less than
two axes is one row.

Entropies are estimated from counts with Miller and Madow's correction, (symbols seen - 1) / (2 ln 2) bits for each
context. A context with fewer than 4 elements for each symbol that it holds says too little about its symbols: there
they cost what they cost over the whole tensor. No tables are counted. So a coder stays above the lowest of the four,
but for what none of them sees: repeats, equal tensors, a base. Tensors in a lossy codec are passed over: they are
stored as codes, and entropies of the words these decode to say nothing about codes.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec.checkpoints.decompress import opened_with
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, Progress, ordered, using
from arraycodec.checkpoints.tree import located, scan, tensors
from arraycodec.containers.lazy import LazyTensor
from arraycodec.primitives.entropy.candidates import FLOAT_BITS
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits
from arraycodec.spec import ArraySpec

ENOUGH = 4  # elements for each symbol of a context
COLUMNS = 64  # that are counted at once
CONTEXTS = ("order0", "row", "column", "previous")


@dataclass(frozen=True)
class Floor:
    """One tensor's entropies in bits per element, and the bits per element that it takes as it is stored."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    order0: float
    row: float
    column: float
    previous: float
    stored: float

    @property
    def elements(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def decoded(self) -> int:
        """The bytes of the tensor decoded."""
        return ArraySpec(self.shape, self.dtype).nbytes

    @property
    def lowest(self) -> float:
        """The lowest of the entropies."""
        return min(getattr(self, name) for name in CONTEXTS)

    @property
    def gap(self) -> float:
        """How many bits per element are stored above the lowest entropy."""
        return self.stored - self.lowest

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        fields = ("file", "name", "dtype", "shape", *CONTEXTS, "stored", "lowest", "gap")
        return {name: getattr(self, name) for name in fields} | {"shape": list(self.shape)}


def floors(
    path: str | os.PathLike[str],
    *,
    base: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> tuple[Floor, ...]:
    """The floor of every tensor that has elements and is plain or lossless; all of these are read and decoded.

    >>> [floor.gap for floor in floors("model.lossless.safetensors")]  # doctest: +SKIP
    """
    tree, found = scan(path), []

    def meant(tensor: LazyTensor) -> bool:
        return bool(tensor.spec.size) and (tensor.codec is None or tensor.codec.lossless)

    with opened_with(tree, base) as files, using(jobs) as threads:
        mine = {name: (file, tensor) for name, (file, tensor) in tensors(files).items() if meant(tensor)}
        cost = {name: tensor.spec.nbytes for name, (_, tensor) in mine.items()}
        done = Done(sum(cost.values()), progress)

        def work(name: str) -> Floor:
            file, tensor = mine[name]
            with located(tree.path(file), tensor.name):
                total = entropies(tensor.decode())
            per = [value / tensor.spec.size for value in (*total, 8 * tensor.nbytes)]
            return Floor(file, tensor.name, tensor.dtype, tensor.shape, *per)

        budget = max([MIN_BUDGET, *cost.values()])
        for name, floor in ordered(work, [*mine], cost.__getitem__, threads, budget):
            found.append(floor)
            done.add(cost[name], name)
    return tuple(found)


def entropies(array: np.ndarray) -> tuple[float, float, float, float]:
    """The bits of a whole array by order 0, given rows, columns, and the element before.

    >>> entropies(np.array([[1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2]], np.uint8))[1]  # a row says it all
    0.0
    """
    if array.dtype.kind == "c":
        array = np.atleast_1d(array).view(ArraySpec((), f"float{4 * array.dtype.itemsize}").numpy_dtype)
    words = bits(array)
    columns = words.size // array.shape[0] if array.ndim > 1 else words.size
    total = [0.0] * len(CONTEXTS)
    for shift, width in fields(array.dtype):
        ranks, counts = _ranks(words, shift, width)
        own = float(_entropy(counts))
        costs = np.log2(words.size / counts)  # what a symbol costs where its context says too little
        for index, kind in enumerate(CONTEXTS):
            total[index] += (
                own if kind == "order0" else min(own, _conditional(kind, words, shift, ranks, costs, columns))
            )
    return total[0], total[1], total[2], total[3]


def fields(dtype: np.dtype[Any]) -> list[tuple[int, int]]:
    """(shift, width) of every field of a word, from the top.

    >>> fields(np.dtype(np.float32)), fields(np.dtype(np.int16))
    ([(22, 10), (14, 8), (6, 8), (0, 6)], [(8, 8), (0, 8)])
    """
    top = 8 * dtype.itemsize
    found = []
    if dtype.name in FLOAT_BITS and dtype.itemsize > 1:
        low = FLOAT_BITS[dtype.name][1] - 1
        found, top = [(low, top - low)], low
    while top:
        low = max(top - 8, 0)
        found.append((low, top - low))
        top = low
    return found


def _ranks(words: np.ndarray, shift: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """field -> its place among the fields seen, and how often each is."""
    counts = np.zeros(1 << width, np.int64)
    _count(words, np.uint64(shift), counts)
    ranks = np.cumsum(counts > 0, dtype=np.int32) - np.int32(1)
    return ranks, counts[counts > 0]


def _conditional(kind: str, words: np.ndarray, shift: int, ranks: np.ndarray, costs: np.ndarray, columns: int) -> float:
    run = {"row": _by_row, "column": _by_column, "previous": _by_previous}[kind]
    return float(run(words, np.uint64(shift), ranks, costs, columns))


@kernel
def _count(words, shift, counts):
    mask = np.uint64(counts.size - 1)
    for i in range(words.size):
        counts[(np.uint64(words[i]) >> shift) & mask] += 1


@inlined
def _entropy_of(counts, costs):
    """The bits of one context."""
    n, seen, own, whole = 0, 0, 0.0, 0.0
    for s in range(counts.size):
        c = counts[s]
        if c:
            n += c
            seen += 1
            own -= c * math.log2(c)
            whole += c * costs[s]
    if n < ENOUGH * seen:
        return whole
    return own + n * math.log2(n) + (seen - 1) / (2 * math.log(2)) if n else 0.0


@kernel
def _entropy(counts):
    """The bits of order 0; of few elements what the numbers of their symbols take."""
    return _entropy_of(counts, np.full(counts.size, math.log2(counts.size)))


@kernel
def _by_row(words, shift, ranks, costs, columns):
    mask, total = np.uint64(ranks.size - 1), 0.0
    counts = np.zeros(costs.size, np.int64)
    for start in range(0, words.size, columns):
        row = words[start : start + columns]
        counts[:] = 0
        for i in range(row.size):
            counts[ranks[(np.uint64(row[i]) >> shift) & mask]] += 1
        total += _entropy_of(counts, costs)
    return total


@kernel
def _by_column(words, shift, ranks, costs, columns):
    mask, total = np.uint64(ranks.size - 1), 0.0
    counts = np.zeros((COLUMNS, costs.size), np.int64)
    for first in range(0, columns, COLUMNS):
        wide = min(COLUMNS, columns - first)
        counts[:] = 0
        for start in range(first, words.size, columns):
            piece = words[start : start + wide]
            for i in range(piece.size):
                counts[i, ranks[(np.uint64(piece[i]) >> shift) & mask]] += 1
        for i in range(wide):
            total += _entropy_of(counts[i], costs)
    return total


@kernel
def _by_previous(words, shift, ranks, costs, columns):
    """The first element of a row has none before it, which is a context of its own."""
    mask, total = np.uint64(ranks.size - 1), 0.0
    counts = np.zeros((costs.size + 1, costs.size), np.int64)
    for start in range(0, words.size, columns):
        row, before = words[start : start + columns], costs.size
        for i in range(row.size):
            symbol = ranks[(np.uint64(row[i]) >> shift) & mask]
            counts[before, symbol] += 1
            before = symbol
    for context in range(costs.size + 1):
        total += _entropy_of(counts[context], costs)
    return total
