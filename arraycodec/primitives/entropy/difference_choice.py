"""How differences are coded: labels of units, tables of contexts and the alphabet, by what they cost in bits.

A context is a label of a unit and a bucket of the base. Costs are integers, of 1/256 of a bit, and sums of them in
float64 stay exact: so every machine and every number of threads finds the same plan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy import ans
from arraycodec.primitives.entropy.costs import logarithms
from arraycodec.primitives.entropy.difference_plan import CODED, MAX_STREAM, DifferencePlan, Model
from arraycodec.primitives.entropy.difference_survey import (
    CURVE_SHIFT,
    DIRECT,
    LEADING,
    LEVELS,
    Survey,
    survey,
)
from arraycodec.primitives.entropy.differences import Kind, kind_of, meaning_of

MANTISSA = {
    "float32": 23, "bfloat16": 7, "float16": 10,
    "float8_e4m3fn": 3, "float8_e4m3fnuz": 3, "float8_e5m2": 2, "float8_e5m2fnuz": 2,
}  # fmt: skip
UNIT = 512  # elements of a unit where rows are no good units
ALPHABETS = ((4, 2), (3, 1), (2, 0), (1, 0))
ROUNDS = 8


class Effort(NamedTuple):
    """What a mode may spend."""

    stream: int
    labels: int
    tables: int
    bits: tuple[int, ...]  # of an ANS state


EFFORTS = {"balanced": Effort(4096, 8, 16, (12,)), "storage": Effort(MAX_STREAM, 16, 32, (12, 13, 14))}


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
    shift = MANTISSA.get(dtype, int(kind.bits) - 4)
    found = survey(words, base, kind, unit, shift, dtype == "float32")
    groups = _groups(found, effort.labels if found.levels.size >= 16 else 1)
    contexts = np.zeros((groups.max() + 1, *found.histogram.shape[1:]), np.int64)
    np.add.at(contexts, groups, found.histogram)
    flat = contexts.reshape(-1, contexts.shape[2])
    used = flat.any(1)
    best = None
    for direct, leading in ALPHABETS if words.size < 1 << 18 else ALPHABETS[:1]:
        counts, raw = _merged(flat[used], direct, leading, kind)
        tables = 1
        while tables <= min(effort.tables, max(1, words.size >> 14)):
            labels, lengths = _clustered(counts, tables)
            bits = raw + _cost(counts, labels, lengths) + _table_bits(counts, labels)
            if best is None or bits < best[0]:
                best = bits, direct, leading, counts, labels
            tables *= 2
    _, direct, leading, counts, labels = best
    names, labels = np.unique(labels, return_inverse=True)
    sums = np.zeros((len(names), counts.shape[1]), np.int64)
    np.add.at(sums, labels.reshape(-1), counts)
    bits, frequencies = _frequencies(sums, effort.bits)
    table_of = np.zeros(len(flat), np.uint8)
    table_of[used] = labels.reshape(-1)
    unit_labels = groups[found.levels].astype(np.uint8)
    curve_of = np.zeros(len(contexts), np.uint8)
    curve_of[groups[LEVELS:][found.histogram[LEVELS:].any((1, 2))]] = 1
    curves = int(curve_of.any())
    model = Model(
        frequencies, found.curve[None] if curves else np.zeros((0, 256), np.int32), curve_of,
        table_of.reshape(contexts.shape[:2]), unit_labels,
    )  # fmt: skip
    plan = DifferencePlan(
        CODED, stream, unit, bits, len(names), counts.shape[1], direct, leading, shift, found.first, found.buckets,
        len(contexts), curves, CURVE_SHIFT * curves, int(found.scales.size > 0),
    )  # fmt: skip
    return Choice(plan, model, found.scales, best[0])


def _geometry(shape: tuple[int, ...], size: int, stream: int) -> tuple[int, int]:
    """The elements of a stream and of a unit: whole rows, where rows are neither short nor long."""
    rows = shape[-1] if len(shape) > 1 else 0
    if len(shape) > 2 and rows < 64:
        rows = int(np.prod(shape[1:]))
    unit = rows if 64 <= rows <= stream else UNIT
    return max(1, stream // unit) * unit, unit


def _groups(found: Survey, most: int) -> np.ndarray:
    """The label of each level: levels of units in which the classes of differences have much the same frequencies."""
    classes = np.minimum(np.arange(found.histogram.shape[2]), 16)
    classes = np.where(classes < 16, np.frexp(classes)[1], 5 + (np.arange(classes.size) - 16) // 4)
    groups, last = np.zeros(len(found.histogram), np.int64), 0
    for first in range(0, len(groups), LEVELS):
        part = found.histogram[first : first + LEVELS]
        used = part.any((1, 2))
        if not used.any():
            continue
        coarse = np.zeros((int(used.sum()), part.shape[1], int(classes.max()) + 1), np.int64)
        np.add.at(coarse, (slice(None), slice(None), classes), part[used])
        labels, _ = _clustered(coarse.reshape(len(coarse), -1), min(most, len(coarse)))
        _, labels = np.unique(labels, return_inverse=True)
        groups[first : first + LEVELS][used] = last + labels.reshape(-1)
        last += int(labels.max()) + 1
    return groups


def _merged(counts: np.ndarray, direct: int, leading: int, kind: Kind) -> tuple[np.ndarray, int]:
    """Counts of the symbols of a smaller alphabet, without those after the last that occurs; the raw bits."""
    n = int(kind.bits)
    fine = (meaning_of(DIRECT, LEADING, counts.shape[1])[: counts.shape[1]] & 0xFFFFFFFF).astype(np.int64)
    length = np.frexp(fine)[1]
    large = (1 << direct) + ((length - 1 - direct) << leading) + ((fine >> np.maximum(length - 1 - leading, 0)) & ((1 << leading) - 1))
    symbols = np.where(fine < 1 << direct, fine, large)
    merged = np.zeros((len(counts), (1 << direct) + ((n - direct) << leading)), np.int64)
    np.add.at(merged, (slice(None), symbols), counts)
    raw = meaning_of(direct, leading, merged.shape[1])[: merged.shape[1]] >> np.uint64(32)
    last = int(np.flatnonzero(merged.any(0))[-1]) + 1
    return merged[:, :last], int(merged.sum(0) @ raw.astype(np.int64)) << 8


def _log2(x: np.ndarray) -> np.ndarray:
    """log2 of integers >= 1 in 1/256."""
    bits = x.astype(np.float64).view(np.int64)
    return ((((bits >> 52) - 1023) << 16) + logarithms()[(bits >> 40) & 0xFFF]) >> 8


def _lengths(sums: np.ndarray) -> np.ndarray:
    """Code lengths for the counts of each table; a symbol that does not occur counts as a sixteenth."""
    scaled = 16 * sums + 1
    return np.minimum(_log2(scaled.sum(1, keepdims=True)) - _log2(scaled), 24 << 8)


def _clustered(counts: np.ndarray, tables: int) -> tuple[np.ndarray, np.ndarray]:
    """The table of each context, and the code lengths of the tables: k-means in which code length is the distance."""
    weights = counts.sum(1)
    order = np.argsort((counts @ np.arange(counts.shape[1]) << 16) // weights, kind="stable")
    middles = np.cumsum(weights[order]) - (weights[order] + 1) // 2
    labels = np.empty(len(counts), np.int64)
    labels[order] = middles * tables // int(weights.sum())
    rows, before = counts.astype(np.float64), None
    for _ in range(ROUNDS):
        sums = np.zeros((tables, counts.shape[1]), np.int64)
        np.add.at(sums, labels, counts)
        lengths = _lengths(sums)
        if tables == 1:
            break
        costs = rows @ lengths.T.astype(np.float64)
        labels = costs.argmin(1)
        bits = costs.min(1).sum()
        if before is not None and bits >= before * (1 - 1 / 4096):
            break
        before = bits
    return labels, lengths


def _cost(counts: np.ndarray, labels: np.ndarray, lengths: np.ndarray) -> int:
    return int((counts * lengths[labels]).sum())


def _table_bits(counts: np.ndarray, labels: np.ndarray) -> int:
    """About what tables and map take."""
    tables = len(np.unique(labels))
    return (tables * 8 * counts.shape[1] + len(counts) * (tables - 1).bit_length()) << 8


def _frequencies(sums: np.ndarray, widths: tuple[int, ...]) -> tuple[int, np.ndarray]:
    """The state bits that cost least, and the frequencies of each table."""
    best = None
    for bits in widths:
        found = np.stack([ans.normalised(row, bits) for row in sums])
        cost = int((sums * ((bits << 8) - _log2(np.maximum(found, 1)))).sum())
        if best is None or cost < best[0]:
            best = cost, bits, found.astype(np.uint16)
    return best[1], best[2]
