"""Arrays on which jnp might differ from the reference, and the comparison of both."""

from __future__ import annotations

from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import PATTERNS, Recipe
from arraycodec_jax import IMPLEMENTATIONS

SCALES = np.array([*PATTERNS, 0x0D900000, 0x0D7FFFFF, 0x7E000000, 0xBF800000, 0x00400000, 0x7FFFFFFF], np.uint32).view(
    np.float32
)
# Of all kinds; those without elements are much alike, and so left to more thorough runs.
SHAPES = [(), (7,), (2, 3, 64), (0, 64), *(pytest.param(s, marks=pytest.mark.level("full")) for s in [(0,), (3, 0)])]


@cache
def arrays(shape: tuple[int, ...], dtype: str) -> list[np.ndarray]:
    """Arrays of every kind that has its own branch, or once had a bug: tiny, huge, zero, subnormal, not finite."""
    exponents = [0, -100, -101, -124, -126, 100, 124] if dtype != "float16" else [0, -14, -24, 14]
    found = [Recipe(shape, dtype, "normal", exponent, 1).array() for exponent in exponents]
    found += [
        Recipe(shape, dtype, name, 0, 2).array() for name in ("thresholds", "ties", "bits", "integers", "log-normal")
    ]
    found += [np.zeros(shape, numpy_dtype(dtype)), np.full(shape, -0.0, numpy_dtype(dtype))]
    for pattern in PATTERNS:  # one special element among ordinary ones
        found.append(Recipe(shape, dtype, "normal", 0, 3, ((11, pattern),)).array())
    return found


def compare(codec: ac.Codec, x: np.ndarray, given: Planes, implementation: str = "jit") -> None:
    """Encode and decode `x` in jnp and in the reference; training is the reference's alone."""
    how = IMPLEMENTATIONS[implementation]
    with np.errstate(all="ignore"):
        want = codec.encode(x, given)
        if codec.trained and "codebook" not in given:
            with pytest.raises(ac.UnsupportedByBackend, match="on the host"):
                how.encode(jnp.asarray(x), codec, given)
            got = want
        else:
            got = how.encode(jnp.asarray(x), codec, given)
    for name, plane in want.items():
        same_bits(np.asarray(got[name]), plane, f"{codec}: {name} of {x.dtype}{list(x.shape)}", x)
    compare_decoded(codec, want, spec_of(x), implementation)


def compare_decoded(codec: ac.Codec, planes: Planes, spec: ac.ArraySpec, implementation: str = "jit") -> None:
    """Decode planes in jnp and in the reference."""
    own = {name: jnp.asarray(plane) for name, plane in planes.items()}
    decoded = IMPLEMENTATIONS[implementation].decode(codec, own, spec, {})
    same_bits(np.asarray(decoded), codec.decode(planes, spec), f"{codec}: decoded to {spec.dtype}{list(spec.shape)}")
