"""Numbers found from many arrays, which encoding is then given: what arrays share, and what a calibration found."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.codecs import linear, minifloat
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.nvfp4 import NVFP4, absmax_of, arithmetic_kind, global_scale
from arraycodec.errors import ArgumentError
from arraycodec.primitives.floats import INFINITY, KINDS, NAN
from arraycodec.primitives.formats import FORMATS
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.spec import ArraySpec


def shared_global_scale(arrays: Iterable[Any], arithmetic: str = "float32", flavour: str | None = None) -> Any:
    """The global scale with which `NVFP4` encodes a set of arrays: that of the largest magnitude among all of them.

    Kernels that fuse the projections of queries, keys and values, or gate and up, want one global scale for the set.

    arrays      float32, bfloat16 or float16 arrays of one framework, of which one at a time is held where they come
                from a generator; on other devices they are copied to the host.
    arithmetic  as in `NVFP4`; "eager" needs arrays of one dtype.
    flavour     as in `NVFP4`.

    Gives a float32 array of shape (1,) on the first array's device; ArgumentError for no arrays or mixed ones.

    >>> import numpy as np, arraycodec as ac
    >>> q, k = np.ones((2, 16), np.float32), np.full((2, 16), -3, np.float32)
    >>> shared = {"global_scale": ac.shared_global_scale([q, k])}
    >>> [ac.decode(ac.encode(x, "nvfp4", given=shared))[0, 0].item() for x in (q, k)]
    [0.9642857313156128, -3.0]
    """
    codec, specs, absmax, backend, device = NVFP4(arithmetic=arithmetic, flavour=flavour), [], np.uint32(0), None, None
    for x in arrays:
        if backend is None:
            backend, device = registry.backend(type(x)), getattr(x, "device", None)
        specs.append(spec := backend.spec(x))
        codec.supports(spec)
        absmax = max(absmax, absmax_of(bits(backend.to_numpy(x)), KINDS[spec.dtype]))
        del x  # the next one may be made when it is gone
    if backend is None:
        raise ArgumentError("shared_global_scale: arrays must hold at least one array, got none")
    dtypes = {spec.dtype for spec in specs}
    if arithmetic == "eager" and len(dtypes) > 1:
        raise ArgumentError(f"shared_global_scale: eager arithmetic needs arrays of one dtype, got {sorted(dtypes)}")
    scale = np.array([global_scale(absmax, arithmetic_kind(codec, specs[0]), codec.multiplies)], np.uint32)
    one = None if hasattr(device, "device_set") else device  # a sharded array has many
    return backend.from_numpy(scale.view(np.float32), one)


def activation_scales(low: Any, high: Any, codec: Codec) -> dict[str, Any]:
    """The planes that scale activations whose values lie from `low` to `high`, as a calibration found: to be `given`.

    low, high  float32, bfloat16 or float16 arrays of one framework, shape and dtype: a number of each for every scale.
    codec      a `Linear` or `Minifloat` with scales, or an `NVFP4`; its block size does not matter. In the flavour
               "compressed-tensors" the numbers are those of its `calculate_qparams`, and for NVFP4 with "eager"
               arithmetic of its `generate_gparam`, for numbers of those dtypes.

    Gives `scales`, with int8 `zero_points` if asymmetric, of the shape of `low` (of (1,) where that has no axes); for
    NVFP4 a float32 `global_scale` (1,), for the largest magnitude. Arrays of that framework, on the device of `low`.

    >>> import numpy as np, arraycodec as ac
    >>> low, high = np.float32([-1]), np.float32([3])
    >>> ac.activation_scales(low, high, ac.Linear(8, symmetric=False, block_size=None, flavour="compressed-tensors"))
    {'scales': array([0.01568628], dtype=float32), 'zero_points': array([-64], dtype=int8)}
    """
    backend = registry.backend(type(low))
    spec = backend.spec(low)
    if not isinstance(codec, Linear | Minifloat | NVFP4) or (isinstance(codec, Minifloat) and not codec.scaled):
        raise ArgumentError(
            f"activation_scales: codec must be a Linear or Minifloat with scales, or NVFP4, got {codec}"
        )
    codec.supports(spec)
    if backend.spec(high) != spec:
        raise ArgumentError(f"activation_scales: low and high must be alike, got {spec} and {backend.spec(high)}")
    extremes = _extremes(*(backend.to_numpy(x).astype(np.float32).reshape(-1) for x in (low, high)))
    found, device = _scales(extremes, codec, spec), getattr(low, "device", None)
    device = None if hasattr(device, "device_set") else device  # a sharded array has many
    shapes = {name: (1,) if name == "global_scale" else spec.known_shape or (1,) for name in found}
    return {name: backend.from_numpy(plane.reshape(shapes[name]), device) for name, plane in found.items()}


def _extremes(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The magnitudes above and below zero, as bits; what is subnormal is 0, and NaN in either is in both."""
    nan = np.isnan(low) | np.isnan(high)
    both = [np.where(nan, np.float32(np.nan), np.maximum(x, np.float32(0))) for x in (high, -low)]
    found = np.abs(np.stack(both)).view(np.uint32)
    return np.where(found & INFINITY, found, np.uint32(0))


def _scales(extremes: np.ndarray, codec: Linear | Minifloat | NVFP4, spec: ArraySpec) -> dict[str, np.ndarray]:
    if isinstance(codec, NVFP4):
        absmax = extremes.max(initial=np.uint32(0))
        divisor = global_scale(NAN if absmax >= INFINITY else absmax, arithmetic_kind(codec, spec), codec.multiplies)
        return {"global_scale": np.array([divisor], np.uint32).view(np.float32)}
    plane = ArraySpec((extremes.shape[1],), "float32" if codec.flavour is None else spec.dtype)
    scales, kind = empty(plane), KINDS[plane.dtype]
    if isinstance(codec, Minifloat):
        find = minifloat.own_scales if codec.flavour is None else minifloat.foreign_scales
        find(extremes.max(0)[None], np.float32(FORMATS[codec.format].largest), kind, writable_bits(scales))
        return {"scales": scales}
    zeros = np.zeros(0 if codec.symmetric else len(scales), np.int8)
    find = linear.own_scales if codec.flavour is None else linear.foreign_scales
    find(extremes, codec.bits, codec.symmetric, kind, writable_bits(scales), zeros)
    return {"scales": scales} if codec.symmetric else {"scales": scales, "zero_points": zeros}
