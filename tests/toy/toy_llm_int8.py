"""docs/format/llm_int8.md, step by step, in plain NumPy: the witness of `arraycodec_toy` for this codec."""

from __future__ import annotations

from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of

NAN = {"float32": 0x7FC00000, "bfloat16": 0x7FC0, "float16": 0x7E00}


def encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    specs = codec.planes(spec_of(x))
    columns = x.shape[-1] if x.ndim else 1
    rows = x.reshape(-1, columns) if columns else x.reshape(x.size, 0)
    with np.errstate(all="ignore"):
        wide = rows.astype(np.float32)
        outlier = np.zeros(rows.shape, bool)
        if codec.threshold:
            outlier = np.abs(wide) >= np.float32(np.float32(codec.threshold).astype(x.dtype))
        kept = np.flatnonzero(outlier.any(axis=0))
        wide = np.where(outlier | (np.abs(wide) < np.float32(2.0**-126)), np.float32(0), wide)
        absmax = np.abs(wide).max(axis=1, initial=0)
        absmax = np.where(np.isfinite(absmax), absmax, np.float32(np.nan))
        absmax = np.where(absmax < np.float32(2.0**-100), np.float32(0), absmax)
        scale = given["scales"].ravel() if "scales" in given else absmax
        if not columns:
            scale = np.zeros(0, np.float32)
        codes = np.zeros(rows.shape, np.int8)
        for r, s in enumerate(scale):
            if not (np.float32(2.0**-100) <= s < np.inf):
                continue
            row = wide[r]
            if s >= np.float32(2.0**126):
                bits = row.view(np.uint32)
                exponent = bits >> np.uint32(23) & np.uint32(255)
                row = np.where(exponent > 4, bits - np.uint32(4 << 23), np.uint32(0))
                row = np.where(exponent == 255, bits, row).view(np.float32)
                s = s * np.float32(0.0625)
            y = row * (np.float32(127) * (np.float32(1) / s))
            y = np.where(np.isnan(y), np.float32(0), y)
            codes[r] = np.rint(np.clip(y, -127, 127)).astype(np.int8)
        codes[:, kept] = 0
    planes = {"codes": codes, "scales": scale.astype(np.float32)}
    planes = {n: plane.reshape(specs[n].known_shape) for n, plane in planes.items()}
    if codec.threshold:
        planes["outlier_columns"] = kept.astype(np.int32)
        planes["outliers"] = rows[:, kept].reshape(*x.shape[:-1], kept.size)
    return planes


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    columns = spec.shape[-1] if spec.shape else 1
    codes = planes["codes"].reshape(-1, columns) if columns else planes["codes"].reshape(spec.size, 0)
    with np.errstate(all="ignore"):
        scale = planes["scales"].ravel().astype(np.float64)
        scale = np.where(np.isfinite(scale), scale, np.nan)
        scale = np.where(np.abs(scale) < 2.0**-100, 0, scale)[:, None]
        if not columns:
            scale = np.zeros((codes.shape[0], 1))
        # Products of float32 numbers are exact in float64: to round them after a division by 256 is to have 8 more
        # exponents above, and so what overflows is only what the last product makes too large.
        y = (codes.astype(np.float64) * scale / 256).astype(np.float32).astype(np.float64)
        y = (y * (float(np.float32(1) / np.float32(127)) * 256)).astype(np.float32)
        y = np.where(y == 0, np.float32(0), y)
        out = narrow(y, spec)
        if codec.threshold and planes["outlier_columns"].size:
            outliers = planes["outliers"].reshape(codes.shape[0], -1)
            same = outliers.dtype == spec.numpy_dtype
            out[:, planes["outlier_columns"]] = outliers if same else narrow(outliers.astype(np.float32), spec)
    return out.reshape(spec.known_shape)


def narrow(y: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """float32 in the dtype of the spec; products that are NaN are the canonical one."""
    integer = f"u{spec.numpy_dtype.itemsize}"
    bits = np.ascontiguousarray(y.astype(spec.numpy_dtype)).view(integer)
    return np.where(np.isnan(y), np.array(NAN[spec.dtype], integer), bits).astype(integer).view(spec.numpy_dtype)
