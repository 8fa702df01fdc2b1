"""Cells of sorted numbers: the two ways to find the levels of k-means in one dimension.

Numbers are sorted `values` with prefix sums of their mass, of mass times value (`moment`) and times its square. Cell i
is the values from cuts[i] to cuts[i + 1], and its level the mean. Lloyd's iteration may have all 65,536 values, some of
them without a mass: then none has to be searched.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel

BINS = 1 << 16  # numbers are int16: v is in bin v + 32768
LOWEST = 1 << 15
CELLS = 1 << 11  # whose densities are looked at, at most; with few values, one for every eight, at least 16
FINE = 4  # bits behind the binary point of Lloyd's centres


@inlined
def above(values, v):
    """The index of the first value above v."""
    if values.size == BINS:
        return min(max(v + LOWEST + 1, 0), BINS)
    lo, hi = 0, values.size
    while lo < hi:
        middle = (lo + hi) >> 1
        if values[middle] <= v:
            lo = middle + 1
        else:
            hi = middle
    return lo


@inlined
def cube_root(n):
    """The largest integer whose cube is at most n: the estimate may be off, the correction is exact."""
    root = np.int64(np.float64(n) ** (1 / 3))
    while root * root * root > n:
        root -= 1
    while (root + 1) * (root + 1) * (root + 1) <= n:
        root += 1
    return root


@kernel
def lloyd_levels(values, mass, moment, square, rounds, levels):
    """Lloyd's iteration with more values than levels; centres are multiples of 2^-FINE.

    When nothing moves any more, cells are cut and joined, and it goes on.
    """
    k, n = levels.size, values.size
    centres = np.empty(k, np.int64)
    start_centres(values, mass, centres)
    cuts = np.zeros(k + 1, np.int64)
    cuts[k] = n
    for i in range(1, k):
        cuts[i] = above(values, (centres[i - 1] + centres[i]) >> (FINE + 1))
    for _ in range(rounds):
        moved = False
        for i in range(k):
            weight = mass[cuts[i + 1]] - mass[cuts[i]]
            if weight > 0:  # an empty cell stays where it is until it is joined to another
                total = (moment[cuts[i + 1]] - moment[cuts[i]]) << (FINE + 1)
                centre = (total + weight) // (2 * weight)
                moved |= centre != centres[i]
                centres[i] = centre
        if not moved and not rebalanced(values, mass, moment, square, cuts, centres):
            break
        for i in range(1, k):  # a number in the middle belongs to the lower centre
            middle, cut = (centres[i - 1] + centres[i]) >> (FINE + 1), cuts[i]
            if n == BINS:
                cut = above(values, middle)
            else:  # a cut moves by little
                while cut < n and values[cut] <= middle:
                    cut += 1
                while cut > 0 and values[cut - 1] > middle:
                    cut -= 1
            cuts[i] = cut
    for i in range(k):
        levels[i] = np.int16((centres[i] + (1 << (FINE - 1))) >> FINE)


@kernel
def rebalanced(values, mass, moment, square, cuts, centres):
    """Cut the costliest cells in two and join neighbours instead, as long as it pays; whether any moved.

    Lloyd's iteration cannot do that, and ends far from the optimum where a few numbers are far from the others. A cell
    is cut at its mean; one that is cut or joined, and its neighbours, are left alone until the iteration has settled.
    """
    k, never = centres.size, np.int64(0x7FFFFFFFFFFFFFFF)
    own, gain, middle = np.zeros(k, np.int64), np.zeros(k, np.int64), np.zeros(k, np.int64)
    loss = np.full(k, never, np.int64)  # of joining a cell and the next one
    for i in range(k):
        own[i] = cost_of(mass, moment, square, cuts[i], cuts[i + 1])
        if own[i] > 0:
            first, last = cuts[i], cuts[i + 1]
            middle[i] = above(values, (moment[last] - moment[first]) // (mass[last] - mass[first]))
            gain[i] = own[i] - cost_of(mass, moment, square, first, middle[i])
            gain[i] -= cost_of(mass, moment, square, middle[i], last)
    for i in range(k - 1):
        loss[i] = cost_of(mass, moment, square, cuts[i], cuts[i + 2]) - own[i] - own[i + 1]
    moved = False
    while True:
        i, j = np.argmin(loss), np.argmax(gain)
        if gain[j] <= loss[i]:
            break
        free = i if j == i + 1 else i + 1
        if j != i and j != i + 1:
            if mass[cuts[i + 2]] > mass[cuts[i]]:  # both may be empty
                centres[i] = centre_of(mass, moment, cuts[i], cuts[i + 2]) << FINE
        elif loss[i] > 0:
            gain[j] = 0
            continue
        centres[free] = centre_of(mass, moment, cuts[j], middle[j]) << FINE
        centres[j] = centre_of(mass, moment, middle[j], cuts[j + 1]) << FINE
        gain[i] = gain[i + 1] = gain[j] = 0
        for joined in (i - 1, i, i + 1, j - 1, j):
            if 0 <= joined < k:
                loss[joined] = never
        moved = True
    centres.sort()
    return moved


@kernel
def start_centres(values, mass, centres):
    """Centres at equal mass of the cube root of the density, which is optimal for many levels (Panter and Dite)."""
    width, number = 5, CELLS  # bits of a value within a cell
    while number > 16 and number * 8 > values.size:
        width, number = width + 1, number >> 1
    cells, sums = np.empty(number, np.int64), np.zeros(number + 1, np.int64)
    found = at = 0
    while at < values.size:  # a cell that no value is in is passed over
        cell = values[at] >> width
        end = above(values, ((cell + 1) << width) - 1)
        if mass[end] > mass[at]:
            cells[found] = cell
            sums[found + 1] = sums[found] + cube_root((mass[end] - mass[at]) << 12)
            found += 1
        at = end
    k, j = centres.size, 0
    for i in range(k):
        target = sums[found] * (2 * i + 1) // (2 * k)
        while sums[j + 1] <= target:
            j += 1
        inside = ((target - sums[j]) << (width + FINE)) // (sums[j + 1] - sums[j])
        centres[i] = (cells[j] << (width + FINE)) + inside


@inlined
def centre_of(mass, moment, first, last):
    """The best integer level of the values first..last: in float64 the mean is exact enough to round it right."""
    return np.int64(np.rint(np.float64(moment[last] - moment[first]) / np.float64(mass[last] - mass[first])))


@inlined
def cost_of(mass, moment, square, first, last):
    """The sum of the squared errors of the values first..last with their best integer level; 0 without a mass."""
    weight, total = mass[last] - mass[first], moment[last] - moment[first]
    centre = np.int64(np.rint(np.float64(total) / np.float64(weight)))
    return square[last] - square[first] - centre * (2 * total - centre * weight)


@kernel
def optimum_levels(values, mass, moment, square, levels):
    """The best levels: those of the first j values with c cells follow from those with c - 1.

    The last cell of more values begins no earlier, nor does the last of more cells: so the search in the middle halves
    what is left and right of it, and what the round before has found is where it starts.
    """
    k, n = levels.size, values.size
    if n <= k:
        for i in range(k):
            levels[i] = values[min(i, n - 1)] if n else 0
        return
    before, best = np.empty(n + 1, np.int64), np.empty(n + 1, np.int64)
    begin = np.zeros((k, n + 1), np.uint16)  # of the last cell, for c + 1 cells and j values
    for j in range(1, n + 1):
        before[j] = cost_of(mass, moment, square, 0, j)
    for c in range(1, k):
        # Later cells need a value each; the last round is about all values only.
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
                least, at = np.int64(0x7FFFFFFFFFFFFFFF), max(low, c)
                for t in range(at, high + 1):
                    cost = before[t] + cost_of(mass, moment, square, t, j)
                    if cost < least:
                        least, at = cost, t
                best[j], begin[c, j] = least, at
            step >>= 1
        before, best = best, before
    last = n
    for c in range(k - 1, -1, -1):
        first = np.int64(begin[c, last])
        levels[c] = np.int16(centre_of(mass, moment, first, last))
        last = first
