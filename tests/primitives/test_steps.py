"""The search for a step, on functions instead of arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from arraycodec.primitives.steps import DIVISIONS, OCTAVE, TRIES, nearest, place_of, places_for, scale_at

PLACES = places_for(1.0, "float32")


def octaves(scale: np.uint32) -> float:
    """log2 of a step."""
    return math.log2(float(scale.view(np.float32)) * DIVISIONS)


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("slope", [0.4, 1.0, 1.3])
@pytest.mark.parametrize("first", [2.0**-14, 0.03, 1.9])
def test_it_finds_the_step(sign: int, slope: float, first: float) -> None:
    tried: list[float] = []

    def trial(scale: np.uint32) -> float:
        tried.append(octaves(scale))
        return -slope * (tried[-1] + 5.0) + 0.01 * math.sin(40 * tried[-1])

    found = nearest(trial, PLACES, first, lambda made: made, sign)
    assert 0 <= found * sign < 0.05 and len(tried) <= TRIES + 3


@pytest.mark.parametrize("sign", [-1, 1])
def test_where_nothing_will_do(sign: int) -> None:
    """The last place on the side where it would."""
    found = nearest(octaves, PLACES, 0.1, lambda made: -3.0 * sign, sign)
    assert found == octaves(scale_at(PLACES[0] if sign > 0 else PLACES[-1]))


def test_a_leap_is_got_over() -> None:
    """A size that never comes near the target still ends below it."""
    found = nearest(octaves, PLACES, 2.0**-9, lambda made: 0.001 if made < -1 else -4.0, -1)
    assert found >= -1


def test_places() -> None:
    assert scale_at(place_of(1.0)).view(np.float32) == np.float32(1 / DIVISIONS)
    assert place_of(2.0) - place_of(1.0) == OCTAVE
    assert float(scale_at(PLACES[0]).view(np.float32)) * DIVISIONS > 1 / 32767
    assert len(places_for(2.0**-100, "float16")) == 1
