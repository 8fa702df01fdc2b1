"""The search for the step of a uniform quantiser that meets a target of size or of quality."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from arraycodec.primitives.dependent import HIGHEST, UNIT, Numbers, histogram
from arraycodec.primitives.entropy.costs import FRACTION, entropy, logarithms
from arraycodec.primitives.floats import MIN_SCALE

DIVISIONS = 2 * UNIT  # scales of a step
GRID = 12  # low bits of a scale that are zero where it is searched for
OCTAVE = 1 << (23 - GRID)  # such scales from one power of two to the next
TRIES = 8
CLOSE = 1 / 200  # bits of an element on the right side of a target, with which the search ends;
SLACK = 64  # bits of an array that are close, too
AIM = 0.4  # of what is close, which a try is for
SLOPES = -1.5, -0.3  # of bits over octaves of steps, which noise in them does not go beyond
FINEST = 15  # bits of a magnitude as an integer, where first steps are looked for
DEARER = 0.04  # bits of an element that codes take more than levels of a quantiser without a trellis,
BETTER = 0.18  # and what its smaller error at the same step is worth
DB = 20 * math.log10(2)  # of a bit
LARGEST = {"float32": 3.4028234663852886e38, "bfloat16": 3.3895313892515355e38, "float16": 65504.0}

T = TypeVar("T")


def nearest(
    trial: Callable[[np.uint32], T],
    places: range,
    first: Start,
    excess: Callable[[T], float],
    sign: int,
    close: float = CLOSE,
) -> T:
    """The trial whose excess is nearest to 0 and has this sign, or is 0; the last one where no scale has such.

    trial   what comes of a scale, given by its bits
    places  of scales, see `scale_at`
    excess  in bits of an element; it falls with the step
    close   the excess with which the search ends
    """
    best, before, slope = None, None, first.slope
    k = clamped(place_of(first.step), places)
    for _ in range(TRIES):
        made = trial(scale_at(k))
        e = excess(made)
        if e * sign >= 0 and (best is None or abs(e) < abs(best[0])):
            best = e, made
        if 0 <= e * sign <= close:
            break
        if before:
            slope = limited((e - before[1]) / math.log2(step_at(k) / step_at(before[0])))
        before = k, e
        move = place_of(step_at(k) * 2 ** ((sign * AIM * close - e) / slope)) - k
        k = clamped(k + (move or (1 if e > 0 else -1)), places)
        if k == before[0]:
            break
        del made  # before there is another
    way = OCTAVE // 8
    while best is None:  # further and further to the side where scales will do
        k = clamped(k - sign * way, places)
        made = trial(scale_at(k))
        if excess(made) * sign >= 0 or k in (places[0], places[-1]):
            return made
        way *= 2
    return best[1]


def clamped(place: int, places: range) -> int:
    """The place among `places` that is nearest."""
    return min(max(place, places[0]), places[-1])


def place_of(step: float) -> int:
    """The place of the scale of a step, or just below it, among those that are tried."""
    return int(np.float32(min(step / DIVISIONS, LARGEST["float32"])).view(np.uint32)) >> GRID


def scale_at(place: int) -> np.uint32:
    """The bits of a scale that is tried."""
    return np.uint32(place << GRID)


def step_at(place: int) -> float:
    """The step of such a scale."""
    return float(scale_at(place).view(np.float32)) * DIVISIONS


def places_for(largest: float, dtype: str) -> range:
    """The scales with which every element has a code, and that are of use."""
    lowest = max(int(MIN_SCALE) >> GRID, place_of(least_step(largest)) + 1)
    return range(lowest, max(lowest, place_of(min(2 * largest, most_step(dtype)))) + 1)


def least_step(largest: float) -> float:
    """The step with which the largest element still has a code."""
    return largest / HIGHEST * DIVISIONS


def most_step(dtype: str) -> float:
    """A step with which levels next to the largest number of a dtype can be told apart."""
    return LARGEST[dtype] / 8


class Start(NamedTuple):
    """Where a search starts."""

    step: float
    slope: float  # of the excess, in bits over octaves of the step


class Survey:
    """What a quantiser without a trellis makes of an array: where searches start.

    The array is given as flat unsigned integers, with its largest magnitude; of it there is a histogram of integers of
    16 bits, `unit` each, which steps of a power of two units divide into cells around multiples of the step.
    """

    def __init__(self, source: np.ndarray, kind: int, largest: float) -> None:
        unit = np.float32(largest / (1 << FINEST))
        self.unit, self.size = float(unit), source.size
        self.counts = histogram(Numbers(source, kind, np.float32(1) / unit, np.float32((1 << FINEST) - 1)))

    def for_bits(self, bits: float) -> Start:
        """A step that takes about so many bits for each element."""
        return self._where(lambda k: self._rate(k) + DEARER, bits)

    def for_snr(self, snr: float) -> Start:
        """A step of about so many dB."""
        return self._where(lambda k: self._quality(k) + BETTER, snr / DB)

    def _where(self, curve: Callable[[int], float], target: float) -> Start:
        """Between powers of two units, where a falling curve passes a target; beyond the first and last it is a line.

        Its slope there is that between both.
        """
        low, high = 0, FINEST - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if curve(middle) >= target else (low, middle - 1)
        here = curve(low)
        slope = limited(curve(low + 1) - here) if here >= target else -1.0
        return Start(self.unit * 2 ** (low + (target - here) / slope), slope)

    def _rate(self, k: int) -> float:
        """The entropy of cells of 2^k units."""
        return int(entropy(self._cells(self.counts, k), logarithms())) / (self.size << FRACTION)

    def _quality(self, k: int) -> float:
        """The signal to noise, in bits, if elements were the means of their cells."""
        number = np.arange(-(1 << FINEST), 1 << FINEST)
        mass, moment = self._cells(self.counts, k), self._cells(self.counts * number, k)
        explained = int(np.rint(moment * (moment / np.maximum(mass, 1))).astype(np.int64).sum())
        signal = int((self.counts * number * number).sum())
        noise = max(signal - explained, 0) + self.size / 12  # within a unit
        return math.log2(max(signal, 1) / noise) / 2

    @staticmethod
    def _cells(counts: np.ndarray, k: int) -> np.ndarray:
        """The sums of these counts in cells of 2^k units."""
        spread, half = np.zeros(counts.size + (1 << k), np.int64), (1 << k) >> 1
        spread[half : half + counts.size] = counts
        return spread.reshape(-1, 1 << k).sum(1)


def limited(slope: float) -> float:
    """A slope that can be trusted."""
    return min(max(slope, SLOPES[0]), SLOPES[1])
