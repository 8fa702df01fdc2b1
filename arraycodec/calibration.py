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


def shared_global_scale(arrays: Iterable[Any], arithmetic: str = "float32") -> Any:
    """The global scale with which `NVFP4` encodes a set of arrays: that of the largest magnitude among all of them.

    Kernels that fuse the projections of queries, keys and values, or gate and up, want one global scale for the set.

    arrays      float32, bfloat16 or float16 arrays of one framework, of which one at a time is held where they come
                from a generator; on other devices they are copied to the host.
    arithmetic  as in `NVFP4`; "eager" needs arrays of one dtype.

    Gives a float32 array of shape (1,) on the first array's device; ArgumentError for no arrays or mixed ones.

    >>> import numpy as np, arraycodec as ac
    >>> q, k = np.ones((2, 16), np.float32), np.full((2, 16), -3, np.float32)
    >>> shared = {"global_scale": ac.shared_global_scale([q, k])}
    >>> [ac.decode(ac.encode(x, "nvfp4", given=shared))[0, 0].item() for x in (q, k)]
    [0.9642857313156128, -3.0]
    """
    codec, specs, absmax, backend, device = NVFP4(arithmetic=arithmetic), [], np.uint32(0), None, None
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
    scale = np.array([global_scale(absmax, arithmetic_kind(codec, specs[0]))], np.uint32).view(np.float32)
    return backend.from_numpy(scale, None if hasattr(device, "device_set") else device)  # a sharded array has many
