"""Our own functions on the arrays of other frameworks: what the framework around the array costs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from arraycodec import api
from arraycodec.base import Encoded
from arraycodec.checkpoints.peers.entry import Calls, Entry
from arraycodec.checkpoints.peers.tensors import tensor

FRAMEWORKS = ("torch", "jax", "jax.jit")


def entries(scheme: str) -> list[Entry]:
    """The frameworks as if they were peers."""
    prepare: tuple[Callable[[str, np.ndarray], Calls], ...] = (_torch, _jax, _jit)
    return [
        Entry(name, scheme, scheme, {}, "same", partial(calls, scheme))
        for name, calls in zip(FRAMEWORKS, prepare, strict=True)
    ]


def _torch(scheme: str, x: np.ndarray) -> Calls:
    """Torch CPU tensors."""
    array = tensor(x)
    return Calls(lambda: api.encode(array, scheme), api.decode, _bytes)


def _jax(scheme: str, x: np.ndarray) -> Calls:
    """Concrete JAX arrays on the CPU."""
    import jax

    array = jax.device_put(x, jax.devices("cpu")[0])

    def encode() -> Encoded:
        encoded = api.encode(array, scheme)
        jax.block_until_ready(encoded.planes)
        return encoded

    return Calls(encode, lambda encoded: jax.block_until_ready(api.decode(encoded)), _bytes)


def _jit(scheme: str, x: np.ndarray) -> Calls:
    """Inside `jax.jit`, where XLA compiles the arithmetic."""
    import jax

    array = jax.device_put(x, jax.devices("cpu")[0])
    frame = api.encode(array, scheme)
    encode = jax.jit(lambda a: api.encode(a, scheme).planes)
    decode = jax.jit(lambda planes: api.decode(Encoded(frame.codec, frame.spec, planes)))
    return Calls(
        lambda: jax.block_until_ready(encode(array)),
        lambda planes: jax.block_until_ready(decode(planes)),
        lambda planes: Encoded(frame.codec, frame.spec, planes).nbytes,
    )


def _bytes(encoded: Any) -> int:
    return encoded.nbytes
