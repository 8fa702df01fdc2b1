"""Arrays as kernels want them: aligned to 64 bytes, contiguous, in native byte order, seen as unsigned integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from arraycodec.errors import ArgumentError
from arraycodec.spec import ArraySpec, spec_of

ALIGNMENT = 64  # a cache line and an AVX-512 register; what JAX needs to take a buffer without copying it


def empty(spec: ArraySpec) -> np.ndarray:
    """An uninitialised array whose data starts at a multiple of 64 bytes."""
    raw = np.empty(spec.nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + spec.nbytes].view(spec.numpy_dtype).reshape(spec.known_shape)


def planes_of(specs: dict[str, ArraySpec], given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Planes to be written: copies of those that are given, uninitialised memory for the others."""
    return {name: np.array(given[name], spec.numpy_dtype, order="C") if name in given else empty(spec)
            for name, spec in specs.items()}  # fmt: skip


def native(x: np.ndarray) -> np.ndarray:
    """`x` itself, or a copy in C order and native byte order where it is not so already."""
    return np.ascontiguousarray(x, x.dtype.newbyteorder("=")).reshape(x.shape)  # ascontiguousarray makes 0-d 1-d


def bits(x: np.ndarray) -> np.ndarray[Any, np.dtype[np.unsignedinteger]]:
    """The flattened elements of `x` as unsigned integers to be read; a view where `x` is contiguous and native."""
    return read_only(native(x).reshape(-1).view(f"u{x.dtype.itemsize}"))


def read_only(x: np.ndarray) -> np.ndarray:
    """A view of `x` that is read-only whatever `x` is: Numba compiles a kernel again for arrays that are not."""
    view = x.view()
    view.flags.writeable = False
    return view


def writable_bits(x: np.ndarray) -> np.ndarray[Any, np.dtype[np.unsignedinteger]]:
    """The flattened elements of a contiguous array as unsigned integers to be written, always a view."""
    return x.reshape(-1).view(f"u{x.dtype.itemsize}")


def check_out(out: np.ndarray, spec: ArraySpec, planes: dict[str, np.ndarray]) -> None:
    """Raise unless `out` is exactly what a decode of `spec` may write into."""
    if not isinstance(out, np.ndarray):
        raise ArgumentError(f"decode: out must be a NumPy array, got {type(out).__name__}")
    if spec_of(out) != spec or not out.dtype.isnative:
        raise ArgumentError(f"decode: out must be {spec.dtype}{list(spec.shape)}, got {out.dtype}{list(out.shape)}")
    if not (out.flags.c_contiguous and out.flags.writeable):
        raise ArgumentError("decode: out must be writable and C-contiguous")
    for name, plane in planes.items():
        if np.may_share_memory(out, plane):
            raise ArgumentError(f"decode: out must not overlap the plane {name!r}")
