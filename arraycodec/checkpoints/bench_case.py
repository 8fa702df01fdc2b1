"""One scheme on some arrays: how long it takes beside a plain copy, what it loses, what it costs.

The yardstick is `numpy.copyto` of the same array into warm memory by one thread: a decode of ratio 1 costs what a copy
costs.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from arraycodec import api
from arraycodec.base import Codec
from arraycodec.checkpoints.measure import Difference, compare, finite
from arraycodec.checkpoints.peak import peak_bytes
from arraycodec.checkpoints.timing import medians
from arraycodec.primitives import threads
from arraycodec.spec import ArraySpec


@dataclass(frozen=True)
class Case:
    """One scheme on one dtype with so many threads; times are medians in seconds."""

    scheme: str
    dtype: str
    threads: int
    elements: int
    copy: float  # numpy.copyto of the array into warm memory
    encode: float  # planes are allocated; they are a fraction of the array
    decode: float  # into warm memory, with out=
    decode_allocating: float

    def to_json(self) -> dict[str, Any]:
        """Times in seconds, nanoseconds per element, and in copies."""
        data: dict[str, Any] = {k: getattr(self, k) for k in ("scheme", "dtype", "threads", "elements")}
        for name in ("copy", "encode", "decode", "decode_allocating"):
            seconds = getattr(self, name)
            data |= {f"{name}_s": seconds, f"{name}_ns_per_element": 1e9 * seconds / self.elements}
            data |= {f"{name}_in_copies": seconds / self.copy}
        return data


@dataclass(frozen=True)
class Quality:
    """What a scheme loses on the arrays measured, and what it costs."""

    scheme: str
    dtype: str
    mae: float
    max_abs: float  # the largest absolute error
    snr_db: float
    bits_per_element: float
    working_bytes: int | None  # the peak of memory while encoding, beside what encoding returns; None if not known

    @property
    def bytes_per_element(self) -> float:
        """Of the planes."""
        return self.bits_per_element / 8

    def to_json(self) -> dict[str, Any]:
        """Its fields, with None for what is infinite, such as the SNR of equal arrays: JSON has no such number."""
        return {name: finite(value) for name, value in asdict(self).items()}


def case(scheme: str, codec: Codec, arrays: list[np.ndarray], quick: bool = False) -> Case:
    """Measure the time of a codec on arrays of one dtype, with as many threads as are set."""
    encoded = [api.encode(array, codec, check=False) for array in arrays]
    outs = [api.empty(ArraySpec(array.shape, array.dtype.name)) for array in arrays]

    def copy() -> None:
        for array, out in zip(arrays, outs, strict=True):
            np.copyto(out, array)

    def decode_into() -> None:
        for value, out in zip(encoded, outs, strict=True):
            api.decode(value, out=out)

    times = medians(
        copy,
        lambda: [api.encode(array, codec, check=False) for array in arrays],
        decode_into,
        lambda: [api.decode(value) for value in encoded],
        quick=quick,
    )
    elements = sum(array.size for array in arrays)
    return Case(scheme, arrays[0].dtype.name, threads.get_num_threads(), elements, *times)


def quality(scheme: str, codec: Codec, arrays: list[np.ndarray]) -> Quality:
    """Measure the loss over all arrays together: errors add up by their squares."""
    differences, nbytes, working = [], 0, 0
    for array in arrays:
        api.decode(api.encode(array[:1], codec, check=False))  # whatever there is to compile is no memory of the call
        encoded, peak = peak_bytes(lambda array=array: api.encode(array, codec, check=False))
        differences.append(compare(array, api.decode(encoded)))
        nbytes += encoded.nbytes
        working = None if peak is None or working is None else max(working, peak - encoded.nbytes, 0)
    return combined(scheme, arrays, differences, nbytes, working)


def combined(
    scheme: str, arrays: list[np.ndarray], differences: list[Difference], nbytes: int, working: int | None
) -> Quality:
    """The quality that the differences of all arrays add up to."""
    elements = sum(array.size for array in arrays)
    noise, power, absolute, largest = 0.0, 0.0, 0.0, 0.0
    for array, found in zip(arrays, differences, strict=True):
        own = power_of(array)
        power, noise = power + own, noise + found.relative_rms**2 * own
        absolute, largest = absolute + found.mae * array.size, max(largest, found.max_abs)
    snr = 10 * math.log10(power / noise) if noise else math.inf
    bits = 8 * nbytes / elements
    return Quality(scheme, arrays[0].dtype.name, absolute / elements, largest, snr, bits, working)


def power_of(array: np.ndarray) -> float:
    """The sum of squares of the finite elements, in float64."""
    flat, total = array.reshape(-1), 0.0
    for start in range(0, flat.size, 1 << 13):
        piece = flat[start : start + (1 << 13)].astype(np.float64)
        total += float(np.square(piece, where=np.isfinite(piece), out=np.zeros_like(piece)).sum())
    return total
