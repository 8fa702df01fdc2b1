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
AIM = 1 / 1024  # bits of an element on the right side of a target, which a try is for,
CLOSE = 1 / 400  # and with which the search ends
NOISE = 0.065  # of a step, squared: the mean squared error at 3 bits and more
LARGEST = {"float32": 3.4028234663852886e38, "bfloat16": 3.3895313892515355e38, "float16": 65504.0}

T = TypeVar("T")


def nearest(trial: Callable[[np.uint32], T], places: range, first: float, excess: Callable[[T], float], sign: int) -> T:
    """The trial whose excess is nearest to 0 and has this sign, or is 0; the last one where no scale has such.

    trial   what comes of a scale, given by its bits
    places  of scales, see `scale_at`
    first   the step of the first trial
    excess  in bits of an element; it falls by about one from one power of two to the next
    """
    best, before, slope = None, None, -1.0
    k = clamped(place_of(first), places)
    for _ in range(TRIES):
        made = trial(scale_at(k))
        e = excess(made)
        if e * sign >= 0 and (best is None or abs(e) < abs(best[0])):
            best = e, made
        if e * sign >= 0 and abs(e) <= CLOSE:
            break
        if before:
            slope = min(max((e - before[1]) / (k - before[0]) * OCTAVE, -1.5), -0.3)
        before = k, e
        move = round((sign * AIM - e) / slope * OCTAVE)
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
    return int(np.float32(step / DIVISIONS).view(np.uint32)) >> GRID


def scale_at(place: int) -> np.uint32:
    """The bits of a scale that is tried."""
    return np.uint32(place << GRID)


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


class Moments(NamedTuple):
    """What first steps follow from: of elements as 16-bit integers, `unit` each."""

    unit: float
    entropy: float  # bits
    power: float  # the mean of their squares

    @classmethod
    def of(cls, source: np.ndarray, kind: int, largest: float) -> Moments:
        """Those of an array, given as flat unsigned integers, and its largest magnitude."""
        unit = np.float32(largest / (1 << 15))
        counts = histogram(Numbers(source, kind, np.float32(1) / unit, np.float32((1 << 15) - 1)))
        ideal = int(entropy(counts, logarithms())) / (source.size << FRACTION)
        number = np.arange(-(1 << 15), 1 << 15)
        return cls(float(unit), ideal, int((counts * number * number).sum()) / source.size)

    def step_for_bits(self, bits: float) -> float:
        """The step that takes so many bits for each element of a smooth distribution."""
        return self.unit * 2 ** (self.entropy - bits)

    def step_for_snr(self, snr: float) -> float:
        """The step of so many dB."""
        return self.unit * math.sqrt(self.power / NOISE) * 10 ** (-snr / 20)
