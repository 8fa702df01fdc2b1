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
ROUNDS = 12
BUCKETS = 10  # bits of a first number, by which the search for the nearest of pairs finds where to begin
BEYOND = 1 << 21  # farther from all int16 numbers than these from one another
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
    order = np.argsort(vectors[:, 0], kind="stable")  # neighbours have the same centres, or near ones
    vectors, weights = np.ascontiguousarray(vectors[order]), weights[order]
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
    order = np.argsort(centres[:, 0], kind="stable")

    def work(first: int, last: int) -> None:
        start, stop = first * LANES, min(last * LANES, len(vectors))
        if centres.shape[1] == 2:
            find_nearest_pairs(vectors[start:stop], centres, order, codes[start:stop], distances[start:stop])
        else:
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
    """The start of k-means++ with vectors sorted by their first number; sums of costs are float64, LANES at a time.

    Lanes that a new centre is too far from to be the nearest of any, by the first number alone, keep what they have.
    """
    n, d = vectors.shape
    blocks = (n + LANES - 1) // LANES
    numbers, away, squares = np.empty((d, n), np.float64), np.full(n, np.inf), np.empty(LANES)
    sums, furthest = np.empty(blocks), np.full(blocks, np.inf)
    for i in range(n):
        for e in range(d):
            numbers[e, i] = vectors[i, e]
    picked = np.int64(chance[0] % np.uint64(n))
    for c in range(centres.shape[0]):
        for e in range(d):
            centres[c, e] = vectors[picked, e]
        total, own = np.float64(0), np.float64(centres[c, 0])
        for block in range(blocks):
            first, last = block * LANES, min((block + 1) * LANES, n)
            gap = max(numbers[0, first] - own, own - numbers[0, last - 1], 0.0)
            if gap * gap < furthest[block]:
                squares[:] = 0
                for e in range(d):
                    lanes, centre = numbers[e, first:last], np.float64(centres[c, e])
                    for i in range(lanes.size):
                        difference = lanes[i] - centre
                        squares[i] += difference * difference
                cost = most = np.float64(0)
                for i in range(last - first):
                    distance = min(away[first + i], squares[i])
                    away[first + i], most = distance, max(most, distance)
                    cost += distance * weights[first + i]
                sums[block], furthest[block] = cost, most
            total += sums[block]
        if c + 1 == centres.shape[0]:
            break
        left, block = total * (np.float64(chance[c + 1] >> np.uint64(11)) * 2.0**-53), 0
        while block + 1 < blocks and left >= sums[block]:
            left -= sums[block]
            block += 1
        first, picked = block * LANES, min((block + 1) * LANES, n) - 1
        for i in range(first, picked):
            left -= away[i] * weights[i]
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
def find_nearest_pairs(vectors, centres, order, codes, distances):
    """`find_nearest` of vectors of two; `order` sorts centres by their first number.

    From where a vector belongs among them to the right and to the left, until first numbers alone are too far away. A
    distance and the number of the centre are compared as one integer.
    """
    k = order.size
    x, y, begin = np.zeros(k + 2, np.int64), np.zeros(k + 2, np.int64), np.empty(1 << BUCKETS, np.int64)
    x[0], x[k + 1] = -BEYOND, BEYOND
    for i in range(k):
        x[i + 1], y[i + 1] = centres[order[i], 0], centres[order[i], 1]
    right = 1
    for bucket in range(begin.size):
        while right <= k and (x[right] + 32768) >> (16 - BUCKETS) < bucket:
            right += 1
        begin[bucket] = right
    for i in range(codes.size):
        own, other = np.int64(vectors[i, 0]), np.int64(vectors[i, 1])
        right = begin[(own + 32768) >> (16 - BUCKETS)]
        left = right - 1
        near = min(right, k)
        best = (((x[near] - own) ** 2 + (y[near] - other) ** 2) << 16) | order[near - 1]
        while True:
            ahead, behind = x[right] - own, own - x[left]  # the first may be negative, in the bucket it begins in
            more, less = (ahead * abs(ahead)) << 16 <= best, (behind * behind) << 16 <= best
            if not (more or less):
                break
            if more:
                best = min(best, ((ahead * ahead + (y[right] - other) ** 2) << 16) | order[right - 1])
                right += 1
            if less:
                best = min(best, ((behind * behind + (y[left] - other) ** 2) << 16) | order[left - 1])
                left -= 1
        codes[i], distances[i] = np.uint16(best & 0xFFFF), np.float64(best >> 16)


@kernel
def add_up(vectors, weights, codes, sums, mass):
    """Add vectors times their weights to the sums of their cells, and the weights to the masses."""
    for i in range(codes.size):
        cell, weight = codes[i], weights[i]
        mass[cell] += weight
        for e in range(vectors.shape[1]):
            sums[cell, e] += weight * np.int64(vectors[i, e])
