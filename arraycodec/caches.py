"""Caches of keys and values: an `Encoded` with room for all positions, whose planes are written a few rows at a time.

A cache is an array of shape (..., positions, width), and needs no type of its own: `decode` reads it, files hold it,
JAX and torch know it as a pytree. A plane either grows with the positions and is written by `append`, or all positions
share it (a static scale) and it is given once. Encoding a token is that of `encode`, so the bits are too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.base import Codec, Encoded, Given
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.spec import ArraySpec


def kv_cache(
    spec: ArraySpec, codec: str | Codec, *, given: Given | None = None, framework: str = "numpy", device: Any = None
) -> Encoded:
    """An empty cache of keys or values, which holds zeros, encoded as `append` would encode them.

    spec    of the whole cache: (..., positions, width), such as (batch, heads, positions, head width).
    codec   one whose scales are per token, as `Linear(8, block_size=(1, None))`, and found anew for each; or shared by
            all positions, as with the tiles (None, None) per head and None for the whole cache, and then given.
    given   the planes that all positions share: `{"scales": ...}`. What fits by broadcasting is copied to the shape.
            Their values are looked at, to encode the zeros with, so they must not be traced or on torch's meta device.

    Errors: ArgumentError for tiles of several positions, where `given` is not exactly the shared planes, and for one
    that is no array (`np.float32(0.1)` is).

    >>> import numpy as np, arraycodec as ac
    >>> cache = ac.kv_cache(ac.ArraySpec((1, 8, 1024, 64), "float16"), ac.Linear(8, block_size=(1, None)))
    >>> cache = ac.append(cache, np.ones((1, 8, 5, 64), np.float16), 0)
    >>> cache.planes["scales"].shape, ac.decode(ac.tokens(cache, 3, 5))[0, 0, :, 0]
    ((1, 8, 1024, 1), array([1., 1.], dtype=float16))
    """
    if not isinstance(spec, ArraySpec):
        raise ArgumentError(
            f'kv_cache: spec must be an ArraySpec, as ArraySpec((1, 8, 1024, 64), "float16"), got {spec!r:.60}'
        )
    codec, backend, given = registry.codec(codec), registry.framework(framework), given or {}
    codec.supports(spec)
    shared = shared_planes(codec, spec)
    if set(given) != set(shared):
        raise ArgumentError(f"kv_cache: given must hold {list(shared)}, which all positions share, got {list(given)}")
    specs = codec.planes(spec)
    planes = {name: _fitted(backend, name, given[name], specs[name]) for name in shared}
    own = {name: registry.backend(type(plane)).to_numpy(plane) for name, plane in planes.items()}
    one = _with_positions(spec, 1)
    token = api.encode(np.zeros(one.known_shape, one.numpy_dtype), codec, given=own, check=False).planes
    for name, plane in specs.items():
        if name not in planes:
            planes[name] = _repeated(token[name], plane)
        if isinstance(planes[name], np.ndarray):
            planes[name] = backend.from_numpy(planes[name], device)
    return Encoded(codec, spec, {name: planes[name] for name in specs})


def append(cache: Encoded, x: Any, position: Any) -> Encoded:
    """Encode the tokens `x` and write them into the cache from `position` on.

    x         (..., tokens, width), the array that is cached, of the dtype and framework of the cache.
    position  where the first goes: an integer, or for JAX and torch an integer array without axes, which `jit` and
              `compile` need not know. Such a position is not checked: JAX moves one that does not fit until it does.

    Gives the cache to go on with. NumPy and torch planes are written in place, and are those of the cache passed; JAX
    makes new ones, in the same memory if the old cache is donated to `jax.jit`.
    """
    return _append(registry.backend(type(x)), cache, x, position)


def _append(backend: Any, cache: Encoded, x: Any, position: Any) -> Encoded:
    # A function of its own, as api._encode is: a backend may have its tracer read another in its place.
    shared = _appending(backend, cache.codec, cache.spec, x, position)
    owners = {registry.backend(type(plane)).NAME for plane in cache.planes.values()}
    if owners != {backend.NAME}:
        raise ArgumentError(f"append: x must be of the cache's framework {', '.join(owners)}, got {backend.NAME}")
    new = api.encode(x, cache.codec, given={name: cache.planes[name] for name in shared}).planes
    planes = {
        name: plane if name in shared else backend.put(plane, new[name], position)
        for name, plane in cache.planes.items()
    }
    return Encoded(cache.codec, cache.spec, planes)


def _appending(backend: Any, codec: Codec, spec: ArraySpec, x: Any, position: Any) -> tuple[str, ...]:
    """The planes that all positions share, once everything but the values of `x` is checked."""
    got, length = backend.spec(x), spec.known_shape[-2]
    new = got.known_shape[-2] if len(got.shape) > 1 else 0
    if not new or got != _with_positions(spec, new):
        wanted = ", ".join(map(str, (*spec.shape[:-2], "tokens", spec.shape[-1])))
        raise ArgumentError(f"append: x must be {spec.dtype}[{wanted}], got {got.dtype}{list(got.shape)}")
    if isinstance(position, (int, np.integer)) and not 0 <= position <= length - new:
        raise ArgumentError(
            f"append: position must be from 0 to {length - new} for {new} of {length} positions, got {position}"
        )
    if not hasattr(backend, "put"):
        raise UnsupportedByBackend(f"append: the {backend.NAME} backend cannot write into planes: it has no `put`")
    return shared_planes(codec, spec)


def tokens(cache: Encoded, start: int, stop: int) -> Encoded:
    """The positions from `start` to before `stop`, as an Encoded on the same memory: what `decode` is to read."""
    length = cache.spec.known_shape[-2]
    if not 0 <= start < stop <= length:
        raise ArgumentError(f"tokens: must be 0 <= start < stop <= {length}, got start={start}, stop={stop}")
    shared = shared_planes(cache.codec, cache.spec)
    planes = {name: plane if name in shared else plane[..., start:stop, :] for name, plane in cache.planes.items()}
    return Encoded(cache.codec, _with_positions(cache.spec, stop - start), planes)


def shared_planes(codec: Codec, spec: ArraySpec) -> tuple[str, ...]:
    """The planes that do not grow with the positions; ArgumentError where one neither grows by rows nor stays."""
    if len(spec.shape) < 2 or not spec.size:
        raise ArgumentError(f"kv_cache: spec must be (..., positions, width), not empty, got {list(spec.shape)}")
    length, shared = spec.known_shape[-2], []
    longer = codec.planes(_with_positions(spec, length + 1))
    for name, plane in codec.planes(spec).items():
        own, other = plane.shape, longer[name].shape
        if own == other and None not in own:
            shared.append(name)
        elif len(own) < 2 or (*own[:-2], own[-2] + 1, own[-1]) != other or own[-2] != length:  # type: ignore[operator]
            raise ArgumentError(f"kv_cache: blocks must lie within a row and rows be whole bytes, such as Linear(8, "
                                f"block_size=(1, None)), or all positions share a scale; plane {name!r} of {codec!r} "
                                f"has shape {list(own)}")  # fmt: skip
    return tuple(shared)


def _with_positions(spec: ArraySpec, positions: int) -> ArraySpec:
    return replace(spec, shape=(*spec.shape[:-2], positions, spec.shape[-1]))


def _repeated(row: np.ndarray, wanted: ArraySpec) -> np.ndarray:
    """The plane all of whose positions are that of `row`."""
    plane = np.zeros(wanted.known_shape, wanted.numpy_dtype)
    if row.tobytes().strip(b"\0"):  # else the zeros will do, whose memory the system gives when it is written
        plane[...] = row
    return plane


def _fitted(backend: Any, name: str, plane: Any, wanted: ArraySpec) -> Any:
    """A given plane in the shape wanted: itself, or broadcast as a NumPy array."""
    try:
        owner = registry.backend(type(plane))
    except UnsupportedByBackend:
        raise ArgumentError(
            f"kv_cache: given plane {name!r} must be an array or a NumPy scalar of {wanted.dtype}, "
            f"got {type(plane).__name__}"
        ) from None
    got = owner.spec(plane)
    if owner is backend and got == wanted:
        return plane
    try:
        if got.dtype != wanted.dtype:
            raise ValueError
        return np.broadcast_to(owner.to_numpy(plane), wanted.known_shape).copy()
    except ValueError:
        raise ArgumentError(
            f"kv_cache: given plane {name!r} must be {wanted.dtype}{list(wanted.known_shape)} or broadcast to it, "
            f"got {got.dtype}{list(got.shape)}"
        ) from None


__all__ = ["append", "kv_cache", "shared_planes", "tokens"]
