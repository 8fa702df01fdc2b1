"""`Tied` in JAX: the base itself, since arrays are immutable.

Its hash is compared where it lies on a CPU, outside of traces; elsewhere the base is taken on trust.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from arraycodec.base import Given, Planes
from arraycodec.codecs.tied import Tied
from arraycodec.spec import ArraySpec
from arraycodec_jax.data_dependent import check, check_base, encode

__all__ = ["check", "decode", "encode", "prepared"]


def prepared(codec: Tied, planes: Planes, spec: ArraySpec, given: Given) -> tuple[Planes, Any]:
    """The planes, once the base is found to be right as far as it can be looked at."""
    check_base(codec, planes, spec, given)
    return planes, None


def decode(codec: Tied, planes: Planes, spec: ArraySpec, given: Given, known: None = None) -> jax.Array:
    """The base."""
    return jnp.asarray(given["base"])
