"""The ways to compute on JAX arrays: the zero-copy reference for CPU arrays, plain jnp in a trace, and jitted jnp.

Each has `encode(x, codec, given)` and `decode(codec, planes, spec, given, out)`, and gives the same bits as the others.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from arraycodec.base import Codec, Given, Planes, decode_with, encode_with
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives import memory
from arraycodec.spec import ArraySpec
from arraycodec_jax import (
    arrays,
    bitmask,
    codebook,
    delta,
    dq,
    gguf,
    linear,
    llm_int8,
    lossless,
    lut,
    microscaling,
    minifloat,
    nvfp4,
    permuted,
    pqr,
    tcq,
    tied,
    two_four,
)

# codec name -> the module with `check(codec, given)`, `encode(x, codec, given)`, `decode(codec, planes, spec, given)`;
# where shapes follow from values, `prepared(codec, planes, spec, given)` too: planes, and what `decode` takes last; and
# `measured(codec, x)`: what `encode` takes last, or an error in a trace
CODECS: dict[str, ModuleType] = {
    "bitmask": bitmask,
    "codebook": codebook,
    "delta": delta,
    "dq": dq,
    "gguf": gguf,
    "linear": linear,
    "llm_int8": llm_int8,
    "lossless": lossless,
    "lut": lut,
    "microscaling": microscaling,
    "minifloat": minifloat,
    "nvfp4": nvfp4,
    "permuted": permuted,
    "pqr": pqr,
    "tcq": tcq,
    "tied": tied,
    "two_four": two_four,
}


class Reference:
    """The codecs' own NumPy methods, on the memory of CPU arrays."""

    def encode(self, x: Any, codec: Codec, given: Given) -> Planes:
        _on_one_cpu(codec, [x, *given.values()])
        planes = codec.encode(np.asarray(x), _numpy(given))
        return {name: _kept(given[name], x) if name in given else arrays.like(p, x) for name, p in planes.items()}

    def decode(self, codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: Any = None) -> jax.Array:
        _no_out(codec, out)
        _on_one_cpu(codec, [*planes.values(), *given.values()])
        return arrays.like(codec.decode(_numpy(planes), spec, _numpy(given)), next(iter(planes.values())))

    def decode_batch(
        self, codec: Codec, planes: Planes, spec: ArraySpec, given: Given, batch: tuple[int, ...]
    ) -> jax.Array:
        _on_one_cpu(codec, [*planes.values(), *given.values()])
        decoded, own, planes_of = memory.empty(ArraySpec(batch + spec.shape, spec.dtype)), _numpy(given), _numpy(planes)
        for i in np.ndindex(batch):
            # The ellipsis keeps a view where the array is 0-d.
            codec.decode({name: plane[i] for name, plane in planes_of.items()}, spec, own, decoded[(*i, ...)])
        return arrays.like(decoded, next(iter(planes.values())))


class Plain:
    """jnp operations: a part of the trace around them, or else done one by one."""

    def encode(self, x: Any, codec: Codec, given: Given) -> Planes:
        return encode_with(self._encode, codec, x, given)

    def decode(self, codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: Any = None) -> jax.Array:
        _no_out(codec, out)
        return decode_with(self._decode, codec, planes, spec, given, None, _values)

    def decode_batch(
        self, codec: Codec, planes: Planes, spec: ArraySpec, given: Given, batch: tuple[int, ...]
    ) -> jax.Array:
        def decode(planes: Planes) -> jax.Array:
            return self.decode(codec, planes, spec, given)

        for _ in batch:
            decode = jax.vmap(decode)
        return decode(planes)

    def _encode(self, codec: Codec, x: Any, given: Given) -> Planes:
        module = _module(codec)
        module.check(codec, given)
        known = (module.measured(codec, x),) if hasattr(module, "measured") else ()
        planes = self.run_encode(x, codec, dict(given), *known)
        return {name: planes[name] for name in codec.planes(arrays.spec(x))}  # jit sorts names

    def _decode(self, codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: None) -> jax.Array:
        if hasattr(module := _module(codec), "prepared"):
            planes, known = module.prepared(codec, planes, spec, given)
            return self.run_decode(codec, dict(planes), spec, dict(given), known)
        return self.run_decode(codec, dict(planes), spec, dict(given))

    @staticmethod
    def run_encode(x: Any, codec: Codec, given: Planes, *known: Any) -> Planes:
        return _module(codec).encode(x, codec, given, *known)

    @staticmethod
    def run_decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Planes, *known: Any) -> jax.Array:
        return _module(codec).decode(codec, planes, spec, given, *known)


class Jitted(Plain):
    """The same operations compiled by XLA, once for each codec and shape; they stay on the arrays' devices."""

    run_encode = staticmethod(jax.jit(Plain.run_encode, static_argnums=(1, 3)))
    run_decode = staticmethod(jax.jit(Plain.run_decode, static_argnums=(0, 2, 4)))


IMPLEMENTATIONS = {"reference": Reference(), "eager": Plain(), "jit": Jitted()}


def choose(*xs: Any) -> str:
    """The implementation for these arrays together; eager vmap and grad call the jitted one with their tracers."""
    if arrays.staged():
        return "eager"
    return "reference" if all(map(arrays.on_one_cpu, xs)) else "jit"


def _module(codec: Codec) -> ModuleType:
    if codec.name not in CODECS:
        raise UnsupportedByBackend(
            f"{codec.name}: the jax backend has no traceable form of this codec, only {', '.join(CODECS)}; outside of "
            "jit, on unsharded CPU arrays, every codec works"
        )
    return CODECS[codec.name]


def _values(plane: Any) -> np.ndarray:
    """A plane from which the lengths of others follow."""
    if isinstance(plane, Tracer):
        raise UnsupportedByBackend(
            "then: the jax backend cannot decode planes in a trace whose length depends on values of another plane, "
            "unless that one is a constant; outside of jit it can"
        )
    return arrays.to_numpy(plane)


def _numpy(planes: Given) -> Planes:
    return {name: np.asarray(plane) for name, plane in planes.items()}


def _kept(plane: Any, x: Any) -> jax.Array:
    """A given plane as a plane of the result: itself, or a copy of a NumPy array, which its owner may write to."""
    return plane if isinstance(plane, jax.Array) else arrays.like(np.array(plane), x)


def _place(x: Any) -> Any:
    return "a trace" if isinstance(x, Tracer) else x.sharding


def _no_out(codec: Codec, out: Any) -> None:
    if out is not None:
        raise UnsupportedByBackend(f"{codec.name}: the jax backend has no out=, since JAX arrays are immutable")


def _on_one_cpu(codec: Codec, xs: list[Any]) -> None:
    for x in xs:
        if not arrays.on_one_cpu(x):
            raise UnsupportedByBackend(
                f"{codec.name}: the jax backend's reference takes arrays on one CPU device, got one on {_place(x)}"
            )
