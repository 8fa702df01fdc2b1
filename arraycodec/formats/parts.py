"""What readers share whose weights are several tensors of a module: finding them, and requiring that they fit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from arraycodec.base import Planes
from arraycodec.codecs.linear import Linear
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats.config import Config
from arraycodec.primitives.floats import KINDS

Parts = dict[str, LazyTensor]


def modules(
    raw: Mapping[str, LazyTensor], main: str, others: Iterable[str], common: Iterable[str] = ()
) -> dict[str, Parts]:
    """module -> the stored tensors of it, by their last name, of all that have `main`, which comes first.

    others  what such modules may have besides; CorruptError where a module without `main` does
    common  of these, what modules of other kinds have too
    """
    found: dict[str, Parts] = {}
    for name, tensor in raw.items():
        module, _, parameter = name.rpartition(".")
        if parameter == main:
            found[module] = {main: tensor}
    for name, tensor in raw.items():
        module, _, parameter = name.rpartition(".")
        if parameter in others:
            if module in found:
                found[module][parameter] = tensor
            elif parameter not in common:
                raise CorruptError(f"{tensor.where}: belongs to {checks.shown(f'{module}.{main}')}, which is missing")
    return found


def fits(tensor: LazyTensor, shape: tuple[int, ...], dtypes: Iterable[str], why: str = "") -> None:
    """Raise CorruptError unless a tensor has this shape and one of these dtypes."""
    if tensor.dtype not in dtypes or tensor.shape != shape:
        want = f"{' or '.join(dtypes)}{list(shape)}"
        raise CorruptError(f"{tensor.where}: must be {want}{why}, got {tensor.dtype}{list(tensor.shape)}")


def part(parts: Parts, role: str) -> LazyTensor:
    """The part of this name; CorruptError where it is missing."""
    if role not in parts:
        main = next(iter(parts.values()))
        raise CorruptError(f"{main.where}: {role} of the same module is missing")
    return parts[role]


def number(settings: Mapping[str, Any], keys: tuple[str, ...], default: int | None, where: str) -> int:
    """The integer that the first of these keys has."""
    for key in keys:
        if (value := settings.get(key)) is not None:
            if type(value) is not int:
                raise FormatError(f"{where}: {key} must be an integer, got {checks.shown(value)}")
            return value
    if default is None:
        raise FormatError(f"{where}: {keys[0]} is missing, got {checks.shown(sorted(settings))}")
    return default


def flag(settings: Mapping[str, Any], key: str, default: bool, where: str) -> bool:
    """The boolean that this key has."""
    if (value := settings.get(key)) is None:
        return default
    if type(value) is not bool:
        raise FormatError(f"{where}: {key} must be true or false, got {checks.shown(value)}")
    return value


def group_columns(group_size: int, columns: int, where: str) -> int:
    """The columns of a group; -1 is all."""
    if group_size == -1:
        return max(columns, 1)
    if group_size < 1:
        raise FormatError(f"{where}: group_size must be -1 or an integer >= 1, got {group_size}")
    return group_size


def linear(scales: LazyTensor, bits: int, symmetric: bool, group: int, columns: int, config: Config) -> Linear:
    """The codec of integers with these stored scales; their dtype is that of the weight, unless it is float32."""
    flavour = "compressed-tensors" if weight_dtype(scales, config) == scales.dtype else None
    block = (1, None if group >= columns else group)
    return Linear(bits, symmetric, block, flavour, "eager" if flavour else "float32")


def weight_dtype(scales: LazyTensor, config: Config) -> str:
    """The dtype in which a weight with these scales decodes: theirs, in which its library multiplies.

    Scales of float32 say nothing of the weight; then it is that of the model.
    """
    if scales.dtype != "float32":
        return scales.dtype
    return config.dtype if config.dtype in KINDS else "float32"


def expression(text: str, where: str, said: str = "") -> re.Pattern[str]:
    """A regular expression of a configuration, compiled once; FormatError where it is none.

    said  what the configuration has, where the expression is a part of it
    """
    try:
        return _compiled(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise FormatError(f"{where}: {checks.shown(said or text)} is no regular expression: {error}") from None


@cache
def _compiled(text: str) -> re.Pattern[str]:
    return re.compile(text)


def check_finite(planes: Planes) -> None:
    """CorruptError where a scale or a float8 code is not finite: what `verify` finds.

    Negative scales are what some quantisers choose.
    """
    check_codes(planes)
    for name, plane in planes.items():
        if name.rpartition(".")[2] in ("scales", "global_scale"):
            wide = np.asarray(plane).astype(np.float32)
            if not np.isfinite(wide).all():
                raise CorruptError(f"{name} must be finite, got {wide[~np.isfinite(wide)][0]}")


def check_codes(planes: Planes) -> None:
    """CorruptError where a code of float8_e4m3fn is NaN, which no weight means."""
    for name, plane in planes.items():
        if name.partition(".")[0] == "codes" and plane.dtype.name == "float8_e4m3fn":
            bad = (plane.view(np.uint8) & np.uint8(0x7F)) == 0x7F
            if bad.any():
                raise CorruptError(f"{name} must be numbers, got NaN ({np.count_nonzero(bad)} such)")
