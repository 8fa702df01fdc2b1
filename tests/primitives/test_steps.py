"""The search for a step, on functions instead of arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arraycodec.primitives.floats import KINDS
from arraycodec.primitives.steps import (
    CLOSE,
    DIVISIONS,
    OCTAVE,
    SLOPES,
    TRIES,
    Start,
    Survey,
    nearest,
    place_of,
    places_for,
    scale_at,
    step_at,
)

PLACES = places_for(1.0, "float32")


def octaves(scale: np.uint32) -> float:
    """log2 of a step."""
    return math.log2(float(scale.view(np.float32)) * DIVISIONS)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("slope", [0.4, 1.0, 1.3])
@pytest.mark.parametrize("first", [2.0**-14, 0.03, 1.9])
def test_it_finds_the_step(sign: int, slope: float, first: float) -> None:
    """From far away, where the slope is not as it was said to be, and waves."""
    tried: list[float] = []

    def trial(scale: np.uint32) -> float:
        tried.append(octaves(scale))
        return -slope * (tried[-1] + 5.0) + 0.01 * math.sin(40 * tried[-1])

    found = nearest(trial, PLACES, Start(first, -1.0), lambda made: made, sign)
    assert 0 <= found * sign < 0.05 and len(tried) <= TRIES + 3


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_line_takes_two_tries(sign: int) -> None:
    """Wherever in an octave: steps are compared by their logarithms."""
    for first in np.geomspace(0.01, 0.04, 9):
        tried: list[float] = []

        def trial(scale: np.uint32, tried: list[float] = tried) -> float:
            tried.append(octaves(scale))
            return -0.9 * (tried[-1] + 5.0)

        found = nearest(trial, PLACES, Start(first, -0.9), lambda made: made, sign)
        assert 0 <= found * sign <= CLOSE and len(tried) <= 2


@pytest.mark.parametrize("sign", [-1, 1])
def test_where_nothing_will_do(sign: int) -> None:
    """The last place on the side where it would."""
    found = nearest(octaves, PLACES, Start(0.1, -1.0), lambda made: -3.0 * sign, sign)
    assert found == octaves(scale_at(PLACES[0] if sign > 0 else PLACES[-1]))


def test_a_leap_is_got_over() -> None:
    """A size that never comes near the target still ends below it."""
    found = nearest(octaves, PLACES, Start(2.0**-9, -1.0), lambda made: 0.001 if made < -1 else -4.0, -1)
    assert found >= -1


def test_places() -> None:
    assert scale_at(place_of(1.0)).view(np.float32) == np.float32(1 / DIVISIONS)
    assert place_of(2.0) - place_of(1.0) == OCTAVE
    assert step_at(PLACES[0]) > 1 / 32767 and place_of(1e60) == place_of(1e99)
    assert len(places_for(2.0**-100, "float16")) == 1


def test_a_survey_is_a_plain_quantiser() -> None:
    """The entropy and the noise of rint(x / step), on a bell curve, between steps too; and beyond the finest a line."""
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    survey = Survey(x.view(np.uint32), KINDS["float32"], float(np.abs(x).max()))
    for bits in (1.5, 3.0, 7.3):
        first = survey.for_bits(bits)
        share = np.unique(np.rint(x / first.step), return_counts=True)[1] / x.size
        assert -float((share * np.log2(share)).sum()) == pytest.approx(bits - 0.04, abs=0.03)
        assert SLOPES[0] <= first.slope <= SLOPES[1]
    for snr in (15.0, 42.0, 60.0):
        first = survey.for_snr(snr)
        noise = float(np.mean((x - np.rint(x / first.step) * first.step) ** 2, dtype=np.float64))
        assert -10 * math.log10(noise) == pytest.approx(snr - 0.18 * 6.02, abs=0.3)
    assert survey.for_snr(110.0).step == pytest.approx(survey.for_snr(104.0).step * 10**-0.3, rel=1e-3)
