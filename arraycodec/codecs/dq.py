"""`DQ`: dependent quantisation with an entropy coder, near the Shannon bound; experimental.

The specification is docs/format/dq.md; the kernels are in primitives/dependent.py and primitives/entropy. Encoding:
    1  a scale for the array: a step of 2^9 times it is what meets the target, found by trying;
    2  x = rint(element / scale), an integer;
    3  the path through the trellis with the least squared distance and cost, in segments: int16 codes;
    4  codes are coded as `lossless` codes integers: a window of them by tables of rows, the others as patches;
    5  the mean of the elements of each of the central levels, as an integer too.
Decoding an element: its code and those before it -> a level; its place, an integer, times the scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError
from arraycodec.primitives.dependent import (
    CENTRED,
    HIGHEST,
    NO_RATES,
    SEGMENT,
    UNIT,
    Numbers,
    Statistics,
    histogram_of_codes,
    rates_of,
    restored,
    searched,
    statistics,
)
from arraycodec.primitives.entropy.choice import choose_window
from arraycodec.primitives.entropy.costs import FRACTION, entropy, logarithms
from arraycodec.primitives.entropy.decoding import decode, read_words
from arraycodec.primitives.entropy.encoding import encode
from arraycodec.primitives.entropy.fitting import GAP_BITS
from arraycodec.primitives.entropy.layout import Layout, layout_of
from arraycodec.primitives.entropy.plan import PLANES, WORDS
from arraycodec.primitives.floats import INFINITY, KINDS, MIN_SCALE
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.scales import absmax_of_blocks
from arraycodec.primitives.steps import (
    CLOSE,
    DB,
    DIVISIONS,
    LARGEST,
    SLACK,
    Survey,
    least_step,
    most_step,
    nearest,
    places_for,
)
from arraycodec.spec import ArraySpec, spec_of

CODES = "int16"
FIXED = 118  # bytes of the planes scale, centroids and plan
SMALL = 1 << 12  # elements below which an array is not charged for
FREE = 144  # bytes: FIXED, and what fills up words
SHIFTS = range(6)  # bits of a code that may be stored raw
MOST_SNR = 150.0


@dataclass(frozen=True)
class DQ(Codec):
    """Trellis-dependent quantisation with an entropy coder: the best quality for its size, for archives. Experimental.

    bits   per element, from 1 to 12, that all planes together take at most: the smallest step that does it.
    snr    signal to noise in dB, up to 120, before values are rounded to the dtype: the largest step that reaches it.
    step   the step itself: twice the distance of levels.

    Exactly one of them is given; none means `bits=4`. Of arrays with fewer than 4096 elements 144 bytes do not count as
    `bits`: 118 are planes of fixed size, the others fill up words. A target beyond the largest or smallest step that an
    array can have gets that step. Arrays are float32, bfloat16 or float16 of any shape. Planes: float32 `scale` (1,),
    int16 `centroids` (25,), and `plan`, `tables`, `index`, `streams`, `raw` and `words` of the codes as `lossless` has
    them. Encoding runs on the host, and tries several steps.

    Planes may change in a later version without a way to read the old ones.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.random.default_rng(0).standard_normal((256, 256), np.float32)
    >>> enc = ac.encode(x, ac.DQ(bits=4))
    >>> enc.bits_per_element <= 4, ac.error(x, enc).snr_db > 22.9
    (True, True)
    """

    name: ClassVar[str] = "dq"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    computed: ClassVar[tuple[str, ...]] = ("scale", "centroids", *PLANES, "words")
    scale: ClassVar[str | None] = "scale"
    trained: ClassVar[bool] = True
    experimental: ClassVar[bool] = True

    bits: float | None = None
    snr: float | None = None
    step: float | None = None

    def __post_init__(self) -> None:
        if self.bits is self.snr is self.step is None:
            object.__setattr__(self, "bits", 4.0)
        limits = {"bits": (1, 12), "snr": (0, 120), "step": (2.0**-90, 2.0**120)}
        given = [name for name in limits if getattr(self, name) is not None]
        if len(given) > 1:
            got = ", ".join(f"{name}={getattr(self, name)!r}" for name in given)
            raise ArgumentError(f"dq: give one of bits, snr, step, got {got}")
        name, value = given[0], getattr(self, given[0])
        low, high = limits[name]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and low <= value <= high):
            raise self.fail(name, f"a number from {low:g} to {high:g}", value)
        object.__setattr__(self, name, float(value))

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        own = {"scale": ArraySpec((1,), "float32"), "centroids": ArraySpec((2 * CENTRED + 1,), "int16")}
        coded = {name: ArraySpec((None,), plane) for name, plane in PLANES.items()}
        return own | coded | {"plan": ArraySpec((WORDS,), "uint32"), "words": ArraySpec((None,), CODES)}

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        spec, source = spec_of(x), bits(x)
        self.supports(spec)
        kind = KINDS[spec.dtype]
        absmax = absmax_of_blocks(source, kind, source.size)[0] if source.size else np.uint32(0)
        if not MIN_SCALE <= absmax < INFINITY:
            codes = coded(np.zeros(source.size, np.int16), spec.known_shape)
            return _planes(absmax, np.zeros(2 * CENTRED + 1, np.int16), codes)
        largest, tried = float(absmax.view(np.float32)), partial(attempt, source, spec)
        if self.step is not None:
            if not least_step(largest) <= self.step <= most_step(spec.dtype):
                allowed = f"{least_step(largest):g} for elements up to {largest:g} to {most_step(spec.dtype):g}"
                raise ArgumentError(f"{self}: step must be from {allowed} for {spec.dtype}")
            return tried(np.float32(self.step / DIVISIONS).view(np.uint32)).planes(spec)
        places, survey = places_for(largest, spec.dtype), Survey(source, kind, largest)
        if self.snr is not None:
            ratio = self.snr
            return nearest(tried, places, survey.for_snr(ratio), lambda made: (made.snr - ratio) / DB, 1).planes(spec)
        room = (self.bits or 0.0) * spec.size + (8 * FREE if spec.size < SMALL else 0)
        first, close = survey.for_bits((room - 8 * FIXED) / spec.size), max(CLOSE, SLACK / spec.size)

        def excess(planes: Planes) -> float:
            return (8 * sum(plane.nbytes for plane in planes.values()) - room) / spec.size

        return nearest(lambda scale: tried(scale).planes(spec), places, first, excess, -1, close)

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        seen = {name: bits(plane) for name, plane in planes.items()}
        codes = np.empty(spec.size, np.int16)
        decode(_layout(seen, spec), seen["streams"], seen["raw"], seen["words"], codes.view(np.uint16))
        out = empty(spec) if out is None else out
        restored(codes, np.array(planes["centroids"]), seen["scale"][0], KINDS[spec.dtype], writable_bits(out))
        return out

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        """That the planes of the codes go together, as in `lossless`; a scale and centroids may be any."""
        _layout({name: bits(plane) for name, plane in planes.items()}, spec)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The streams that hold the segments around the range, and no others."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        first, last = start // SEGMENT * SEGMENT, min(-(-stop // SEGMENT) * SEGMENT, spec.size)
        codes = np.array(read_words(fetch, ArraySpec(spec.shape, CODES), first, last)).view(np.int16)
        scale, centroids = bits(fetch("scale", slice(None)))[0], np.array(fetch("centroids", slice(None)))
        out = empty(ArraySpec((last - first,), spec.dtype))
        restored(codes, centroids, scale, KINDS[spec.dtype], writable_bits(out))
        return out[start - first : stop - first]


class Attempt(NamedTuple):
    """An array quantised with some scale."""

    scale: np.uint32
    codes: np.ndarray
    found: Statistics

    @property
    def snr(self) -> float:
        """Signal to noise in dB; not more than is ever asked for."""
        return min(10 * math.log10(max(self.found.signal, 1) / max(self.found.error, 1)), MOST_SNR)

    def planes(self, spec: ArraySpec) -> Planes:
        """The planes, once the codes are coded: step 4."""
        return _planes(self.scale, self.found.centroids, coded(self.codes, spec.known_shape))


def attempt(source: np.ndarray, spec: ArraySpec, scale: np.uint32) -> Attempt:
    """Steps 2, 3 and 5 for a scale."""
    value = scale.view(np.float32)
    # Nothing may decode to infinity: the highest level that is tried is two above x.
    limit = UNIT * min(HIGHEST // UNIT, int(LARGEST[spec.dtype] / (UNIT * float(value))) - 3)
    numbers = Numbers(source, KINDS[spec.dtype], np.float32(1) / value, np.float32(limit))
    codes = searched(numbers, NO_RATES)
    if (rates := rates_of(histogram_of_codes(codes))).size > 1:
        del codes  # before there are others
        codes = searched(numbers, rates)
    return Attempt(scale, codes, statistics(numbers, codes))


def coded(codes: np.ndarray, shape: tuple[int, ...]) -> Planes:
    """Step 4: the planes of the codes."""
    counts = histogram_of_codes(codes)
    before = np.concatenate([[0], np.cumsum(counts)])
    best = None
    for shift in SHIFTS:  # the window with most of the codes, and what they cost in it
        inside = before[256 << shift :] - before[: -(256 << shift)]
        low = int(np.argmax(inside))
        symbols = counts[low : low + (256 << shift)].reshape(256, -1).sum(1)
        cost = (int(entropy(symbols, logarithms())) >> FRACTION) + shift * codes.size
        cost += (codes.size - int(inside[low])) * (GAP_BITS + 16) + 8 * int(np.count_nonzero(symbols))
        if best is None or cost < best[0]:
            best = cost, low - (1 << 15), shift
    _, low, shift = best or (0, 0, 0)
    words = codes.view(np.uint16)
    planes = encode(words, choose_window(words, low % (1 << 16), shift, shape))
    return planes | {"words": planes["words"].view(np.int16)}


def _planes(scale: np.uint32, centroids: np.ndarray, codes: Planes) -> Planes:
    return {"scale": np.array([scale], np.uint32).view(np.float32), "centroids": centroids} | codes


def _layout(planes: Planes, spec: ArraySpec) -> Layout:
    """The layout of the codes, once all their planes are found to be as long as it says."""
    found = layout_of(planes, spec.size, 16)
    found.check(planes["streams"].size, planes["raw"].size)
    return found
