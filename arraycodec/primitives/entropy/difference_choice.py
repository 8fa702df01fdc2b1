"""How differences are coded: labels of units, tables of contexts and the alphabet, by what they cost in bits.

A context is a label of a unit and a bucket of the base. Costs are integers with FRACTION digits below the bit: so every
machine and every number of threads finds the same plan.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import ans
from arraycodec.primitives.entropy.candidates import FLOAT_BITS
from arraycodec.primitives.entropy.costs import FRACTION, log2, logarithms
from arraycodec.primitives.entropy.difference_plan import CODED, CURVE, MAX_STREAM, DifferencePlan, Model
from arraycodec.primitives.entropy.difference_survey import (
    CURVE_SHIFT,
    DIRECT,
    LEADING,
    LEVELS,
    Survey,
    survey,
)
from arraycodec.primitives.entropy.differences import Kind, kind_of, meaning_of
from arraycodec.primitives.jit import kernel

UNIT = 512  # elements of a unit where rows are no good units
ALPHABETS = ((4, 2), (3, 1), (2, 0), (1, 0))
LARGE = 1 << 18  # elements for which the tables of the largest alphabet weigh nothing
ROUNDS = 8


class Effort(NamedTuple):
    """What a mode may spend."""

    stream: int
    labels: int
    tables: int
    bits: tuple[int, ...]  # of an ANS state


EFFORTS = {"balanced": Effort(4096, 8, 16, (11,)), "storage": Effort(MAX_STREAM, 16, 32, (11, 12, 13, 14))}


class Choice(NamedTuple):
    """A plan and what goes with it."""

    plan: DifferencePlan
    model: Model
    scales: np.ndarray
    bits: int  # that it is expected to take


def choose(words: np.ndarray, base: np.ndarray, dtype: str, shape: tuple[int, ...], mode: str) -> Choice:
    """The way to code `words` beside `base`, flat unsigned integers that are not empty."""
    effort, kind = EFFORTS[mode], kind_of(dtype)
    stream, unit = _geometry(shape, words.size, effort.stream)
    shift = FLOAT_BITS[dtype][1] if dtype in FLOAT_BITS else int(kind.bits) - 4
    found = survey(words, base, kind, unit, shift, dtype == "float32")
    groups = _groups(found, effort.labels if found.levels.size >= 16 else 1)
    there = np.bincount(found.levels, minlength=len(groups)) > 0
    contexts = np.stack([found.histogram[there & (groups == label)].sum(0) for label in range(int(groups.max()) + 1)])
    flat = contexts.reshape(-1, contexts.shape[2])
    used = flat.any(1)
    cost, direct, leading, sums, labels = _tables(flat[used], kind, words.size, effort)
    bits, frequencies = _frequencies(sums, effort.bits)
    table_of = np.zeros(len(flat), np.uint8)
    table_of[used] = labels
    curve_of = np.zeros(len(contexts), np.uint8)
    curve_of[groups[found.levels[found.levels >= LEVELS]]] = 1
    curves = int(curve_of.any())
    model = Model(
        frequencies, found.curve[None] if curves else np.zeros((0, CURVE), np.int32), curve_of,
        table_of.reshape(contexts.shape[:2]), groups[found.levels].astype(np.uint8),
    )  # fmt: skip
    plan = DifferencePlan(
        CODED, stream, unit, bits, len(sums), sums.shape[1], direct, leading, shift, found.first, found.buckets,
        len(contexts), curves, CURVE_SHIFT * curves, int(found.scales.size > 0),
    )  # fmt: skip
    return Choice(plan, model, found.scales, cost >> FRACTION)


def _geometry(shape: tuple[int, ...], size: int, stream: int) -> tuple[int, int]:
    """The elements of a stream and of a unit: whole rows, where rows are neither short nor long."""
    rows = shape[-1] if len(shape) > 1 else 0
    if len(shape) > 2 and rows < 64:
        rows = int(np.prod(shape[1:]))
    unit = rows if 64 <= rows <= stream else UNIT
    return max(1, stream // unit) * unit, unit


def _groups(found: Survey, most: int) -> np.ndarray:
    """The label of each level: levels of units in which differences of the same length are as frequent share one."""
    groups, last = np.zeros(len(found.histogram), np.int64), 0
    there = np.bincount(found.levels, minlength=len(groups)) > 0
    for first in range(0, len(groups), LEVELS):
        used = np.flatnonzero(there[first : first + LEVELS])
        if used.size:
            part = _summed(found.histogram[first + used], _length_of(found.histogram.shape[2]))
            labels, _ = clustered(part.reshape(used.size, -1), min(most, used.size), logarithms())
            _, labels = np.unique(labels, return_inverse=True)
            groups[first + used] = last + labels.reshape(-1)
            last = int(groups.max()) + 1
    return groups


def _tables(counts: np.ndarray, kind: Kind, size: int, effort: Effort) -> tuple[int, int, int, np.ndarray, np.ndarray]:
    """The cost, the alphabet, the counts of the symbols of each table, and the table of each context."""
    found = []
    for direct, leading in ALPHABETS[:1] if size >= LARGE else ALPHABETS:
        merged, raw = _merged(counts, direct, leading, int(kind.bits))
        tables = 1
        while tables <= min(effort.tables, max(1, size >> 14)):
            labels, bits = clustered(merged, tables, logarithms())
            own = (
                8 * tables * merged.shape[1] + len(merged) * (tables - 1).bit_length()
            )  # about what tables and map take
            found.append((int(bits) + raw + (own << FRACTION), direct, leading, merged, labels))
            tables *= 2
    bits, direct, leading, merged, labels = min(found, key=lambda one: one[0])
    _, labels = np.unique(labels, return_inverse=True)
    labels = labels.reshape(-1)
    sums = np.stack([merged[labels == table].sum(0) for table in range(int(labels.max()) + 1)])
    return bits, direct, leading, sums, labels.astype(np.uint8)


def _merged(counts: np.ndarray, direct: int, leading: int, bits: int) -> tuple[np.ndarray, int]:
    """Counts of the symbols of a smaller alphabet, without those after the last that occurs; the cost of raw bits."""
    merged = _summed(counts, _symbol_of(counts.shape[1], direct, leading))
    last = int(np.flatnonzero(merged.any(0))[-1]) + 1
    raw = meaning_of(direct, leading, last)[:last] >> np.uint64(32)
    return np.ascontiguousarray(merged[:, :last]), int(merged[:, :last].sum(0) @ raw.astype(np.int64)) << FRACTION


@cache
def _symbol_of(symbols: int, direct: int, leading: int) -> np.ndarray:
    """The symbol of a smaller alphabet for each of the finest."""
    least = (meaning_of(DIRECT, LEADING, symbols)[:symbols] & np.uint64(0xFFFFFFFF)).astype(np.int64)
    exponent = np.maximum(np.frexp(least)[1] - 1, direct)
    digits = (least >> (exponent - leading)) & ((1 << leading) - 1)
    return np.where(least < 1 << direct, least, (1 << direct) + ((exponent - direct) << leading) + digits)


@cache
def _length_of(symbols: int) -> np.ndarray:
    """The bit length of the differences of each of the finest symbols."""
    return np.frexp((meaning_of(DIRECT, LEADING, symbols)[:symbols] & np.uint64(0xFFFFFFFF)).astype(np.int64))[1]


def _summed(counts: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The counts of the last axis added up by group."""
    found = np.zeros((*counts.shape[:-1], int(groups.max()) + 1), np.int64)
    add_up(counts.reshape(-1, counts.shape[-1]), groups, found.reshape(-1, found.shape[-1]))
    return found


@kernel
def add_up(counts, groups, found):
    """Add each column of `counts` to the column of its group."""
    for row in range(counts.shape[0]):
        for k in range(groups.size):
            found[row, groups[k]] += counts[row, k]


@kernel
def clustered(counts, tables, logs):
    """The table of each context, and the bits of all with FRACTION digits: k-means by code length.

    counts  int64 (contexts, symbols), none of them without an element. At first a table has contexts that are
            neighbours in the order of their mean symbols, and as many elements as the others.
    """
    contexts, symbols = counts.shape
    means, weights = np.empty(contexts, np.int64), np.empty(contexts, np.int64)
    for c in range(contexts):
        moment, weight = np.int64(0), np.int64(0)
        for s in range(symbols):
            moment += counts[c, s] * s
            weight += counts[c, s]
        means[c], weights[c] = (moment << 8) // weight, weight
    labels, done, total = np.empty(contexts, np.int64), np.int64(0), weights.sum()
    for c in np.argsort(means, kind="mergesort"):
        labels[c] = (done + (weights[c] >> 1)) * tables // (total + 1)
        done += weights[c]
    sums, lengths = np.empty((tables, symbols), np.int64), np.empty((symbols, tables), np.int64)
    costs, bits, before = np.empty(tables, np.int64), np.int64(0), np.int64(-1)
    for _ in range(ROUNDS):
        sums[:] = 0
        for c in range(contexts):
            sums[labels[c]] += counts[c]
        for t in range(tables):
            whole = log2(16 * sums[t].sum() + symbols, logs)
            for s in range(symbols):  # one that does not occur counts as a sixteenth
                lengths[s, t] = whole - log2(16 * sums[t, s] + 1, logs)
        bits = np.int64(0)
        for c in range(contexts):
            costs[:] = 0
            for s in range(symbols):
                count = counts[c, s]
                if count:
                    for t in range(tables):
                        costs[t] += count * lengths[s, t]
            labels[c] = np.argmin(costs)
            bits += costs[labels[c]]
        if before >= 0 and bits >= before - (before >> 12):
            break
        before = bits
    return labels, bits


def _frequencies(sums: np.ndarray, widths: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """The state bits that cost least, and the frequencies of each table."""
    found = {bits: np.stack([ans.normalised(row, bits) for row in sums]) for bits in widths}
    least = min(widths, key=lambda bits: cost_of(sums, found[bits], bits, logarithms()))
    return least, found[least].astype(np.uint16)


@kernel
def cost_of(sums, frequencies, bits, logs):
    """What symbols cost that are coded with these frequencies of 2^bits."""
    cost = np.int64(0)
    for t in range(sums.shape[0]):
        for s in range(sums.shape[1]):
            if sums[t, s]:
                cost += sums[t, s] * ((np.int64(bits) << FRACTION) - log2(frequencies[t, s], logs))
    return cost
