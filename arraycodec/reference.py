"""The backend of NumPy arrays: the codecs' own methods. The torch and JAX backends offer the same few functions.

A backend is a module with
    NAME, IMPLEMENTATIONS    its name; the ways it can compute, name -> module with `encode` and `decode` of one codec
    choose(x)                which implementation `arraycodec.encode(x)` uses
    spec(x)                  the ArraySpec of an array
    encode(x, codec, given), decode(codec, planes, spec, given, out)
    empty(spec, device), from_numpy(x, device), to_numpy(x)
and where one call for planes with leading axes beats a loop, decode_batch(codec, planes, spec, given, batch);
for caches (`arraycodec.append`), put(plane, part, position); where arrays lie on several devices (`arraycodec.load`),
sharded(spec, sharding, read) and fitting(sharding, axes, shape).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from arraycodec.base import Codec, Given, Planes
from arraycodec.errors import ArgumentError
from arraycodec.primitives import memory
from arraycodec.spec import ArraySpec, spec_of

NAME = "numpy"
IMPLEMENTATIONS = {"reference": sys.modules[__name__]}


def choose(x: Any) -> str:
    """NumPy arrays have one implementation."""
    return "reference"


def spec(x: Any) -> ArraySpec:
    """The spec of a NumPy array (or scalar)."""
    return spec_of(np.asarray(x))


def encode(x: Any, codec: Codec, given: Given) -> Planes:
    """The planes of `x`; given planes are converted to arrays, and `x` is left as it is."""
    return codec.encode(np.asarray(x), {name: np.asarray(plane) for name, plane in given.items()})


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: Any = None) -> np.ndarray:
    """The array of these planes, in `out` where it is passed."""
    if out is not None:
        memory.check_out(out, spec, planes)
    return codec.decode(planes, spec, given, out)


def concrete(x: Any) -> bool:
    """Whether the values can be looked at without a transfer or an error."""
    return True


def stack(arrays: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Arrays of one spec under new leading axes."""
    return np.stack(arrays).reshape(*shape, *arrays[0].shape)


def empty(spec: ArraySpec, device: Any = None) -> np.ndarray:
    """An uninitialised array, aligned to 64 bytes."""
    if device not in (None, "cpu"):
        raise ArgumentError(f"numpy: device must be None or 'cpu', got {device!r}")
    return memory.empty(spec)


def from_numpy(x: np.ndarray, device: Any = None) -> np.ndarray:
    """`x` itself."""
    if device not in (None, "cpu"):
        raise ArgumentError(f"numpy: device must be None or 'cpu', got {device!r}")
    return x


def to_numpy(x: Any) -> np.ndarray:
    """`x` itself."""
    return np.asarray(x)


def put(plane: np.ndarray, part: np.ndarray, position: Any) -> np.ndarray:
    """`plane` with the rows of `part` written into it from row `position` on."""
    plane[..., position : position + part.shape[-2], :] = part
    return plane
