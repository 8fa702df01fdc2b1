"""The other libraries and array types that `bench` measures beside NumPy arrays, where they are installed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from arraycodec import api
from arraycodec.base import Encoded
from arraycodec.checkpoints.timing import medians
from arraycodec.primitives import threads

SCHEMES = ("nf4", "fp4")  # what bitsandbytes has too
JIT_ELEMENTS = 1 << 22  # XLA keeps every intermediate of the whole array: a part is enough, times are per element


@dataclass(frozen=True)
class Peer:
    """One operation elsewhere; `ours` is the time of the same operation on a NumPy array (both allocating)."""

    name: str  # "bitsandbytes", "torch", "jax", "jax.jit"
    operation: str  # "encode", "decode"
    scheme: str
    threads: int
    elements: int
    seconds: float
    ours: float

    def to_json(self) -> dict[str, Any]:
        """Times in seconds, per element, and against NumPy arrays."""
        return {
            "name": self.name,
            "operation": self.operation,
            "scheme": self.scheme,
            "threads": self.threads,
            "elements": self.elements,
            "seconds": self.seconds,
            "ns_per_element": 1e9 * self.seconds / self.elements,
            "numpy_seconds": self.ours,
            "times_numpy": self.seconds / self.ours,
        }


def peers(x: np.ndarray, schemes: list[str], say: Callable[[str], None]) -> tuple[list[Peer], list[str]]:
    """The peers that are installed, on a float32 matrix; and notes about those that are not."""
    found: list[Peer] = []
    notes: list[str] = []
    for scheme in schemes:
        for name, measure in (("torch", _torch), ("bitsandbytes", _bitsandbytes), ("jax", _jax), ("jax.jit", _jit)):
            if find_spec(name.partition(".")[0]) is None:
                notes.append(f"{name}: not installed")
                continue
            say(f"{name} {scheme}")
            try:
                found += measure(x, scheme)
            except Exception as error:  # whatever another library raises must not end a benchmark of ours
                notes.append(f"{name} {scheme}: {type(error).__name__}: {str(error).partition(chr(10))[0]:.120}")
    return found, list(dict.fromkeys(notes))


def _torch(x: np.ndarray, scheme: str) -> list[Peer]:
    """Torch CPU tensors through the same functions: what the framework around the array costs."""
    import torch

    tensor = torch.from_numpy(x)
    encoded = api.encode(tensor, scheme)
    return _pair("torch", x, scheme, lambda: api.encode(tensor, scheme), lambda: api.decode(encoded))


def _jax(x: np.ndarray, scheme: str) -> list[Peer]:
    """Concrete JAX arrays on the CPU through the same functions."""
    import jax

    array = jax.device_put(x, jax.devices("cpu")[0])
    encoded = api.encode(array, scheme)
    return _pair(
        "jax", x, scheme,
        lambda: jax.block_until_ready(api.encode(array, scheme).planes),
        lambda: jax.block_until_ready(api.decode(encoded)),
    )  # fmt: skip


def _jit(x: np.ndarray, scheme: str) -> list[Peer]:
    """The same functions inside `jax.jit`, where XLA compiles the arithmetic."""
    import jax

    rows = max(1, min(len(x), JIT_ELEMENTS // x.shape[1]))
    part = x[:rows]
    array = jax.device_put(part, jax.devices("cpu")[0])
    encoded = api.encode(array, scheme)
    encode = jax.jit(lambda a: api.encode(a, scheme).planes)
    decode = jax.jit(lambda planes: api.decode(Encoded(encoded.codec, encoded.spec, planes)))
    return _pair(
        "jax.jit", part, scheme,
        lambda: jax.block_until_ready(encode(array)),
        lambda: jax.block_until_ready(decode(encoded.planes)),
    )  # fmt: skip


def _bitsandbytes(x: np.ndarray, scheme: str) -> list[Peer]:
    """bitsandbytes' own CPU kernels, with as many threads.

    Its AVX-512 kernel decodes wrongly where rows are no whole number of blocks; such matrices are not measured.
    """
    if math.prod(x.shape[1:]) % 64:
        raise ValueError(f"rows of {x.shape[1]} elements are no whole number of blocks of 64")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of optional kernels on import
    import torch
    from bitsandbytes import functional

    before = torch.get_num_threads()
    torch.set_num_threads(threads.get_num_threads())
    try:
        tensor = torch.from_numpy(x)
        codes, state = functional.quantize_4bit(tensor, blocksize=64, quant_type=scheme)
        return _pair(
            "bitsandbytes", x, scheme,
            lambda: functional.quantize_4bit(tensor, blocksize=64, quant_type=scheme),
            lambda: functional.dequantize_4bit(codes, state),
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)


def _pair(
    name: str, x: np.ndarray, scheme: str, encode: Callable[[], object], decode: Callable[[], object]
) -> list[Peer]:
    encoded, count = api.encode(x, scheme), threads.get_num_threads()
    runs = {"encode": (encode, lambda: api.encode(x, scheme)), "decode": (decode, lambda: api.decode(encoded))}
    return [
        Peer(name, operation, scheme, count, x.size, *medians(theirs, ours))
        for operation, (theirs, ours) in runs.items()
    ]
