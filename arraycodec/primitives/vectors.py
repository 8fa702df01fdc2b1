"""k-means of short vectors of integers: what centres quantise int16 vectors well, found the same way everywhere.

Training is done here and nowhere else. Distances are sums of squares of integers below 2^36, which float64 holds
exactly, and all other sums are int64: their order does not matter, nor do threads. Of two nearest centres the one with
the lower number is taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.primitives.jit import kernel
from arraycodec.primitives.threads import split

POOL = 1 << 17  # vectors that stand for all of more, since those that were trained on lie nearer to their centres
SAMPLE = 1 << 16  # vectors that centres are trained on
ROUNDS = 20
LANES = 256  # vectors whose distances are computed side by side, from a first-level cache

Centres = np.ndarray[Any, np.dtype[np.int16]]


def train(vectors: np.ndarray, weights: np.ndarray, k: int, turn: int = 0) -> Centres:
    """Centres int16 (k, d) of int16 vectors (n, d), which count as often as their int64 weights (n,) say.

    turn   where chance begins: what another stage is trained on, and starts from, shall be others.

    It starts as k-means++ does: from vectors picked one after another, as likely as they cost with those before, with a
    hash for chance. A centre without vectors moves to the vector that costs most, the next one to that with the next
    highest cost; where there are no vectors all centres are 0.

    >>> vectors = np.array([[0, 0], [2, 0], [90, 90], [94, 90]], np.int16)
    >>> train(vectors, np.ones(4, np.int64), 2).tolist()
    [[92, 90], [1, 0]]
    """
    if len(vectors) > SAMPLE:
        picked = (hashes(SAMPLE, turn) % np.uint64(len(vectors))).astype(np.int64)
        vectors, weights = vectors[picked], weights[picked]
    if not len(vectors):
        return np.zeros((k, vectors.shape[1]), np.int16)
    vectors = np.ascontiguousarray(vectors)
    centres = np.empty((k, vectors.shape[1]), np.int16)
    start_centres(vectors, weights, hashes(k, turn), centres)
    for _ in range(ROUNDS):
        codes, distances = nearest(vectors, centres)
        sums, mass = np.zeros((k, vectors.shape[1]), np.int64), np.zeros(k, np.int64)
        add_up(vectors, weights, codes, sums, mass)
        divisor = np.maximum(mass, 1)[:, None]
        moved = np.where(mass[:, None] > 0, (2 * sums + divisor) // (2 * divisor), centres).astype(np.int16)
        empty = np.flatnonzero(mass == 0)[: len(vectors)]
        if empty.size:
            moved[empty] = vectors[np.argsort(-distances * weights, kind="stable")[: empty.size]]
        if (moved == centres).all():
            break
        centres = moved
    return centres


def nearest(
    vectors: np.ndarray, centres: Centres
) -> tuple[np.ndarray[Any, np.dtype[np.uint16]], np.ndarray[Any, np.dtype[np.float64]]]:
    """The number of the nearest centre of each vector, and the square of its distance.

    >>> nearest(np.array([[3, 4]], np.int16), np.array([[9, 9], [0, 0]], np.int16))[1].tolist()
    [25.0]
    """
    codes, distances = np.empty(len(vectors), np.uint16), np.empty(len(vectors), np.float64)

    def work(first: int, last: int) -> None:
        start, stop = first * LANES, min(last * LANES, len(vectors))
        find_nearest(vectors[start:stop], centres, codes[start:stop], distances[start:stop])

    split(work, -(-len(vectors) // LANES), vectors.size * len(centres) // 64)
    return codes, distances


def sample_of(n: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The numbers of those of n vectors that stand for all: all, or as many as a hash picks, in order."""
    return np.sort(hashes(POOL) % np.uint64(n)).astype(np.int64) if n > POOL else np.arange(n)


def hashes(count: int, turn: int = 0) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Numbers for chance, always the same: the finish of SplitMix64 for 0, 1, ..., in another turn for others."""
    z = np.arange(1 + turn * POOL, 1 + turn * POOL + count, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return z


@kernel
def start_centres(vectors, weights, chance, centres):
    """The start of k-means++; sums of costs are float64, in the order of the vectors."""
    n, d = vectors.shape
    costs, picked = np.full(n, np.inf), np.int64(chance[0] % np.uint64(n))
    for c in range(centres.shape[0]):
        for e in range(d):
            centres[c, e] = vectors[picked, e]
        if c + 1 == centres.shape[0]:
            break
        total = np.float64(0)
        for i in range(n):
            distance = np.float64(0)
            for e in range(d):
                difference = np.float64(vectors[i, e]) - np.float64(centres[c, e])
                distance += difference * difference
            costs[i] = min(costs[i], distance * weights[i])
            total += costs[i]
        left = total * (np.float64(chance[c + 1] >> np.uint64(11)) * 2.0**-53)
        picked = n - 1
        for i in range(n):
            left -= costs[i]
            if left < 0:
                picked = i
                break


@kernel
def find_nearest(vectors, centres, codes, distances):
    """The nearest centres of vectors, LANES at a time."""
    d = vectors.shape[1]
    lanes = np.empty((d, LANES), np.float64)
    sums, best, found = np.empty(LANES), np.empty(LANES), np.empty(LANES, np.int64)
    for at in range(0, codes.size, LANES):
        count = min(LANES, codes.size - at)
        lanes[:] = 0
        for i in range(count):
            for e in range(d):
                lanes[e, i] = vectors[at + i, e]
        best[:] = np.inf
        for c in range(centres.shape[0]):
            sums[:] = 0
            for e in range(d):
                own, centre = lanes[e], np.float64(centres[c, e])
                for i in range(LANES):
                    difference = own[i] - centre
                    sums[i] += difference * difference
            for i in range(LANES):
                nearer = sums[i] < best[i]
                best[i] = sums[i] if nearer else best[i]
                found[i] = c if nearer else found[i]
        for i in range(count):
            codes[at + i], distances[at + i] = np.uint16(found[i]), best[i]


@kernel
def add_up(vectors, weights, codes, sums, mass):
    """Add vectors times their weights to the sums of their cells, and the weights to the masses."""
    for i in range(codes.size):
        cell, weight = codes[i], weights[i]
        mass[cell] += weight
        for e in range(vectors.shape[1]):
            sums[cell, e] += weight * np.int64(vectors[i, e])
