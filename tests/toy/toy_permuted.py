"""docs/format/permuted.md, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec


def encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    order = given["order"]
    values = np.empty_like(np.atleast_1d(x))
    np.moveaxis(values, codec.axis, 0)[order] = np.moveaxis(np.atleast_1d(x), codec.axis, 0)
    return {"order": order, "values": values.reshape(x.shape)}


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    columns = np.moveaxis(np.atleast_1d(planes["values"]), codec.axis, 0)
    return np.moveaxis(columns[planes["order"]], 0, codec.axis).reshape(spec.known_shape).copy()
