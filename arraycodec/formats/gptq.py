"""GPTQ: the checkpoints of AutoGPTQ, GPTQModel and optimum, with or without activation order.

The specification is docs/format/gptq.md. A linear module stores its weight transposed, inputs first:
    qweight  int32 (inputs * bits / 32, outputs)   codes in a dense little-endian stream down each column
    qzeros   int32 (groups, outputs * bits / 32)   zero points along the rows; in v1 each is stored minus 1
    scales   float (groups, outputs)
    g_idx    int32 (inputs,)                       the group of each input
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from arraycodec.base import Codec, Planes, Then
from arraycodec.codecs.permuted import Permuted
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats import parts as stored
from arraycodec.formats.compressed_tensors import packing
from arraycodec.formats.compressed_tensors.legacy import order_of
from arraycodec.formats.config import Config
from arraycodec.formats.translated import Weight
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec

BITS = (2, 3, 4, 8)
LAYOUTS = ("gptq", "gptq_v2")  # the first is v1
OTHERS = ("qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class Settings:
    """How modules are quantised: v1 has zero points stored minus 1, `act_order` groups that are not neighbours."""

    bits: int
    group_size: int
    act_order: bool
    symmetric: bool
    v1: bool

    @classmethod
    def of(cls, said: Mapping[str, Any], where: str) -> Settings:
        """Those of a quantization_config, with the defaults that the libraries have."""
        layout = said.get("checkpoint_format") or said.get("format") or LAYOUTS[0]
        if said.get("is_marlin_format"):
            layout = "marlin"
        if layout not in LAYOUTS:
            raise FormatError(f"{where}: the format must be one of {', '.join(LAYOUTS)}, got {checks.shown(layout)}")
        if (word := said.get("pack_dtype")) not in (None, "int32"):
            raise FormatError(f"{where}: pack_dtype must be 'int32', got {checks.shown(word)}")
        bits = stored.number(said, ("bits",), None, where)
        if bits not in BITS:
            raise FormatError(f"{where}: bits must be one of {', '.join(map(str, BITS))}, got {bits}")
        group_size = stored.number(said, ("group_size",), 128, where)
        act_order, symmetric = (stored.flag(said, *key, where) for key in (("desc_act", False), ("sym", True)))
        return cls(bits, group_size, act_order, symmetric, layout == LAYOUTS[0])


def read(raw: Mapping[str, LazyTensor], config: Config) -> dict[str, Weight]:
    """The weights of a GPTQ checkpoint by name, `(outputs, inputs)` as those of nn.Linear.

    FormatError where the configuration cannot be read, CorruptError where tensors are missing or do not fit it.
    """
    said, where = config.quantization, f"{config.where}: quantization_config"
    common, weights = Settings.of(said, where), {}
    for module, parts in stored.modules(raw, "qweight", OTHERS, ("scales",)).items():
        own = _override(said, module, where)
        settings = common if own is None else Settings.of({**said, **own}, f"{where}: dynamic")
        weights[f"{module}.weight".removeprefix(".")] = _weight(parts, settings, config)
    return weights


def _override(said: Mapping[str, Any], module: str, where: str) -> Mapping[str, Any] | None:
    """What GPTQModel's `dynamic` says of a module: the first pattern that matches; None where there is none."""
    dynamic = said.get("dynamic") or {}
    if not isinstance(dynamic, Mapping):
        raise FormatError(f"{where}: dynamic must be an object, got {checks.shown(dynamic)}")
    for pattern, own in dynamic.items():
        if stored.expression(pattern.removeprefix("+:").removeprefix("-:"), where).match(module):
            if pattern.startswith("-:"):
                raise FormatError(f"{where}: dynamic says that {checks.shown(module)} is not quantised, but it is")
            if not isinstance(own, Mapping):
                raise FormatError(f"{where}: dynamic: {checks.shown(pattern)} must be an object")
            return own
    return None


def _weight(parts: stored.Parts, settings: Settings, config: Config) -> Weight:
    """The weight of a module, once its tensors are found to fit each other and the settings."""
    qweight, qzeros, scales = (stored.part(parts, role) for role in ("qweight", "qzeros", "scales"))
    bits, where = settings.bits, qweight.where
    if qweight.dtype != "int32" or len(qweight.shape) != 2 or (qweight.shape[0] % bits and bits == 3):
        raise CorruptError(
            f"{where}: must be int32 of two axes, the first whole codes of {bits} bits, got "
            f"{qweight.dtype}{list(qweight.shape)}"
        )
    columns, rows = qweight.shape[0] * 32 // bits, qweight.shape[1]
    group = stored.group_columns(settings.group_size, columns, config.where)
    told = f" for {rows} outputs of {columns} inputs in groups of {group} with {bits} bits"
    groups = -(-columns // group)
    stored.fits(qzeros, (groups, packing.words_per_row(rows, bits)), ("int32",), told)
    stored.fits(scales, (groups, rows), tuple(KINDS), told)
    if "g_idx" in parts:
        stored.fits(parts["g_idx"], (columns,), ("int32",), told)
    elif settings.act_order:
        raise CorruptError(f"{where}: g_idx of the same module is missing, which desc_act needs")
    linear = stored.linear(scales, bits, settings.symmetric, group, columns, config)
    codec: Codec = Then(Permuted(), values=linear) if settings.act_order else linear
    spec = ArraySpec((rows, columns), stored.weight_dtype(scales, config))
    ordered = replace(settings, group_size=group)
    return Weight(spec, codec, parts, partial(_planes, settings=ordered, shape=(rows, columns)), stored.check_finite)


def _planes(arrays: dict[str, np.ndarray], settings: Settings, shape: tuple[int, int]) -> Planes:
    """The planes of a weight out of its stored tensors."""
    bits, group = settings.bits, settings.group_size
    codes = packing.codes_of(np.ascontiguousarray(arrays["qweight"].T), bits, shape)
    planes = {"codes": codes, "scales": np.ascontiguousarray(arrays["scales"].T)}
    zeros = zero_points(arrays["qzeros"], bits, shape[0], settings.v1)
    if not settings.symmetric:
        planes["zero_points"] = np.ascontiguousarray(zeros.T)
    elif zeros.any():
        want = (1 << (bits - 1)) - settings.v1
        got = want + int(zeros[zeros != 0][0])
        raise CorruptError(
            f"qzeros must be {want} throughout, as the quantization_config has sym, got {got}; config= with sym false "
            "reads it all the same"
        )
    if settings.act_order:
        order = _order(arrays["g_idx"], group)
        integers = packing.integers_of(codes, bits, shape)
        together = np.empty_like(integers)
        together[:, order] = integers
        planes["codes"] = packing.codes_of_integers(together, bits)
        return {"order": order, **{f"values.{name}": plane for name, plane in planes.items()}}
    if "g_idx" in arrays and not _in_order(arrays["g_idx"], group):
        raise CorruptError("g_idx must count groups in order, as the quantization_config has no desc_act")
    return planes


def zero_points(words: np.ndarray, bits: int, rows: int, v1: bool) -> np.ndarray:
    """int8 zero points (groups, rows), less half of the range as the integers themselves are.

    v1 stores them minus 1. It is added to whole words, with carries, as GPTQModel does: so a zero point of 0, which was
    stored as the largest code and borrowed from its neighbour, comes out right too. Codes of 3 bits carry nothing.
    """
    if v1 and bits != 3:
        one_each = sum(1 << place for place in range(0, 32, bits))
        words = (words.view(np.uint32) + np.uint32(one_each)).view(np.int32)
    found = packing.integers_of_words(words, bits, rows)
    if v1 and bits == 3:
        found = np.where(found == 3, np.int8(-4), found + np.int8(1)).astype(np.int8)
    return found


def _order(g_idx: np.ndarray, group: int) -> np.ndarray:
    """For each column its place when they are sorted by group; CorruptError where groups are not full."""
    if g_idx.size and (g_idx.min() < 0 or g_idx.max() >= -(-g_idx.size // group)):
        raise CorruptError(f"g_idx must be in 0..{-(-g_idx.size // group) - 1}, got {g_idx.min()}..{g_idx.max()}")
    return order_of(g_idx, group)


def _in_order(g_idx: np.ndarray, group: int) -> bool:
    """Whether groups are neighbours in their order; all zeros is what the first versions stored for that."""
    return not g_idx.any() or np.array_equal(g_idx, np.arange(g_idx.size) // group)
