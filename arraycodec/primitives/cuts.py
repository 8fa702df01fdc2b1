"""Cuts of sorted numbers into cells, close to the best ones and in a fraction of the time that finding these takes.

Dynamic programming first, among a few places for each cut, or Lloyd's iteration; then dynamic programming among a few
places around each cut that these found, at steps of 2^m numbers, 2^(m - 1), ..., 1, the last one again until no cut
moves. All cuts move together, so that Lloyd's iteration would change none, and cells come and go. What is lost is 0.02
dB as a rule; with few numbers it is the optimum.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.cells import above, centre_of
from arraycodec.primitives.jit import inlined, kernel

PLACES = 3  # for each cut, at least, among which the best are found at once
REACH = 2  # steps to either side, that a cut moves at a time
ROUNDS = 4  # of the last step, at most


@kernel
def near_levels(values, mass, moment, least, levels):
    """Levels of sorted values with prefix sums of their mass and moment, as in `primitives.cells`; all have a mass.

    least   so many places at least; more of them take longer, and lose less.
    """
    k, n = levels.size, values.size
    count = max(PLACES * k, least)
    if n <= k:
        for i in range(k):
            levels[i] = values[min(i, n - 1)] if n else 0
        return
    places = np.arange(n + 1) if n <= count else places_of(values, mass, count)
    cuts = np.empty(k + 1, np.int64)
    best_cuts(mass, moment, places, cuts)
    if n > count:
        settle_cuts(mass, moment, count, cuts)
    for i in range(k):
        levels[i] = np.int16(centre_of(mass, moment, cuts[i], cuts[i + 1]))


@kernel
def settle_levels(values, mass, moment, levels):
    """Better levels than given ones, from the cuts between these; more values than levels, all with a mass."""
    k, n = levels.size, values.size
    cuts = np.empty(k + 1, np.int64)
    cuts[0], cuts[k] = 0, n
    for i in range(1, k):  # a level without a value of its own takes one
        middle = (np.int64(levels[i - 1]) + np.int64(levels[i])) >> 1
        cuts[i] = max(above(values, middle), cuts[i - 1] + 1)
    for i in range(k - 1, 0, -1):
        cuts[i] = min(cuts[i], cuts[i + 1] - 1)
    settle_cuts(mass, moment, k, cuts)
    for i in range(k):
        levels[i] = np.int16(centre_of(mass, moment, cuts[i], cuts[i + 1]))


@kernel
def settle_cuts(mass, moment, places, cuts):
    """Move all cuts by steps that get smaller, the first over a quarter of the distance between so many places."""
    n, step = mass.size - 1, 1
    room = (np.empty((cuts.size, 2 * REACH + 1), np.int64), np.empty((3, cuts.size, 2 * REACH + 1)))
    while 4 * step * places <= n:
        step *= 2
    while step > 1:
        move_cuts(mass, moment, step, room, cuts)
        step >>= 1
    for _ in range(ROUNDS):
        if not move_cuts(mass, moment, 1, room, cuts):
            break


@inlined
def gain_of(weight, total):
    """What a cell's own best integer level saves: the square of its values, without which costs are compared."""
    centre = np.rint(total / weight)
    return centre * (2 * total - centre * weight)


@kernel
def places_of(values, mass, count):
    """At least half as many places as `count`, and 0 and n: half by the density's fourth root, half by numbers.

    The fourth root gives cells of any size a few of them, as the best cuts do, and is a square root twice. A gap that
    is too long counts for one place only: the limit falls until there is little left to cut off.
    """
    n = values.size
    sums = np.zeros(n)
    for i in range(1, n):
        gap = np.float64(values[i] - values[i - 1])
        sums[i] = np.sqrt(np.sqrt(np.float64(mass[i + 1] - mass[i]) * (gap * gap * gap)))
    limit = np.inf  # of a gap: as long as the part of a place, and so it has one
    while True:
        total = 0.0
        for i in range(n):
            total += min(sums[i], limit)
        part = 2 * total / (count - 1)
        if part >= 0.75 * limit:
            break
        limit = part
    own = total / (n - 1)
    for i in range(1, n):
        sums[i] = sums[i - 1] + min(sums[i], limit) + own
    places, found, i = np.zeros(count + 1, np.int64), 0, 0
    for c in range(1, count):
        while i < n - 1 and sums[i] < part * (c - 0.5):
            i += 1
        if i > places[found]:
            found += 1
            places[found] = i
    found += 1
    places[found] = n
    return places[: found + 1]


@kernel
def best_cuts(mass, moment, places, cuts):
    """The best cuts among places, by the search of `cells.optimum_levels`."""
    k, n = cuts.size - 1, places.size - 1
    weights, totals = np.empty(n + 1), np.empty(n + 1)
    for j in range(n + 1):
        weights[j], totals[j] = mass[places[j]], moment[places[j]]
    before, best = np.empty(n + 1), np.empty(n + 1)
    begin = np.zeros((k, n + 1), np.uint16)  # of the last cell, for c + 1 cells and j places
    for j in range(1, n + 1):
        before[j] = gain_of(weights[j], totals[j])
    for c in range(1, k):
        lo, hi = (c + 1, n - (k - 1 - c)) if c < k - 1 else (n, n)
        step = 1
        while 2 * step <= hi - lo + 1:
            step *= 2
        while step:
            for j in range(lo + step - 1, hi + 1, 2 * step):
                low, high = np.int64(begin[c - 1, j]), j - 1
                if j - step >= lo:
                    low = max(low, np.int64(begin[c, j - step]))
                if j + step <= hi:
                    high = min(high, np.int64(begin[c, j + step]))
                most, at = -np.inf, max(low, c)
                for t in range(at, high + 1):
                    gain = before[t] + gain_of(weights[j] - weights[t], totals[j] - totals[t])
                    if gain > most:
                        most, at = gain, t
                best[j], begin[c, j] = most, at
            step >>= 1
        before, best = best, before
    last = n
    for c in range(k, -1, -1):
        cuts[c] = places[last]
        last = np.int64(begin[max(c - 1, 0), last]) if c else 0


@kernel
def move_cuts(mass, moment, step, room, cuts):
    """Move all cuts by up to REACH steps to the best places; whether any moved."""
    k, n, (places, (weights, totals, gains)) = cuts.size - 1, mass.size - 1, room
    begin = np.empty(places.shape, np.int8)
    places[0, 0], weights[0, 0], totals[0, 0], gains[0, 0] = 0, 0, 0, 0
    before, moved = 1, False  # places of the cut before
    for c in range(1, k + 1):
        count, start = 0, 0
        for place in range(cuts[c] - REACH * step, cuts[c] + REACH * step + 1, step):
            if c <= place <= n - (k - c) and (c < k or place == n):
                places[c, count], weights[c, count], totals[c, count] = place, mass[place], moment[place]
                count += 1
        for i in range(count):
            most = -np.inf
            for t in range(start, before):
                weight = weights[c, i] - weights[c - 1, t]
                if weight <= 0:
                    break
                gain = gains[c - 1, t] + gain_of(weight, totals[c, i] - totals[c - 1, t])
                if gain > most:
                    most, start = gain, t
            gains[c, i], begin[c, i] = most, start
        before = count
    at = 0
    for c in range(k, 1, -1):
        at = np.int64(begin[c, at])
        moved |= cuts[c - 1] != places[c - 1, at]
        cuts[c - 1] = places[c - 1, at]
    return moved
