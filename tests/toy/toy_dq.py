"""docs/format/dq.md in plain NumPy: the witness of `arraycodec_toy` for decoding; encoding is on the host only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import toy_lossless

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec

SEGMENT = 896


def encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    return codec.encode(x, given)  # a backend may hand its arrays to the reference, if they are in its memory


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    codes = toy_lossless.decode(codec, planes, replace(spec, dtype="int16")).reshape(-1).astype(int)
    places = np.empty(spec.size, np.int64)
    b = [0, 0, 0]  # of the three codes before, the newest last
    for i, m in enumerate(codes):
        if i % SEGMENT == 0:
            b = [0, 0, 0]
        level = 2 * m + b[1]
        places[i] = 256 * level + (planes["centroids"][level + 12] if -12 <= level <= 12 else 0)
        b = [b[1], b[2], (m & 1) ^ b[2] ^ b[0]]
    scale = planes["scale"][0]
    if not np.isfinite(scale):
        scale = np.float32(np.nan)
    elif abs(scale) < 2.0**-100:
        return np.zeros(spec.known_shape, spec.numpy_dtype)
    with np.errstate(all="ignore"):
        found = places.astype(np.float32) * scale
        found[np.isnan(found)] = np.float32(np.nan)
        return found.astype(spec.numpy_dtype).reshape(spec.known_shape)
