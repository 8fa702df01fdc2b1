"""What sources in other formats quantise of a layer's inputs, as compressed-tensors says and stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from arraycodec.base import Codec, Encoded, Given
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.containers import checks
from arraycodec.containers.view import TensorView
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.formats import modules
from arraycodec.formats.compressed_tensors.args import Args
from arraycodec.formats.compressed_tensors.presets import PRESETS
from arraycodec.formats.config import Config
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec

SOURCES = ("modelopt", "fp8")  # formats that have `input_scale`, one number that inputs are divided by
SCALE, GLOBAL_SCALE = "input_scale", "input_global_scale"


class InputScale(TensorView):
    """The scale of a layer's inputs in an array of one element; `inverted`: its reciprocal, as NVFP4 has it there."""

    codec = None
    needs_base = reads_base = False

    def __init__(self, part: TensorView, name: str, inverted: bool) -> None:
        self.name, self.spec, self.inverted = name, ArraySpec((1,), part.dtype), inverted
        self.path, self.where, self.nbytes = part.path, part.where, part.nbytes
        self._part, self._how = part, part._how

    def encoded(self) -> Encoded:
        """Nothing: it is plain."""
        raise ArgumentError(f"{self.where}: is stored plain")

    def stored(self) -> Any:
        """The array."""
        return self.decode()

    def decode(self, out: Any = None, *, given: Given | None = None) -> Any:
        """The array; CorruptError where inputs cannot be divided by the number."""
        value = self._numpy()
        return self._placed(value) if out is None else self._copied(value, out)

    def verify(self) -> int:
        """Read and check what is stored."""
        return self._part.verify()

    def _numpy(self) -> np.ndarray:
        value = self._part._numpy().reshape(1)
        if not self.inverted:
            return value
        with np.errstate(all="ignore"):
            found = np.float32(1) / value.astype(np.float32)
        if not np.isfinite(found[0]) or not found[0]:
            raise CorruptError(f"{self.where}: must be a number whose reciprocal is finite, got {value[0]}")
        return found.astype(value.dtype)

    def _elements(self, start: int, stop: int) -> np.ndarray:
        return self._numpy()[start:stop]


def as_stored(format: str, tensors: Mapping[str, TensorView]) -> dict[str, TensorView]:
    """The tensors of a checkpoint, scales of inputs under the names and as the numbers of compressed-tensors."""
    found = {}
    for name, tensor in tensors.items():
        module, parameter = modules.module_of(name)
        weight = tensors.get(f"{module}.{modules.WEIGHT}")
        if parameter == SCALE and format in SOURCES and weight is not None:
            if tensor.dtype not in KINDS or tensor.spec.size != 1:
                told = f"{tensor.dtype}{list(tensor.shape)}"
                raise CorruptError(f"{tensor.where}: must be one number, {' or '.join(KINDS)}, got {told}")
            inverted = isinstance(weight.codec, NVFP4)
            name = f"{module}.{GLOBAL_SCALE if inverted else SCALE}"
            if inverted and name in tensors:
                raise CorruptError(f"{tensor.where}: stands beside {checks.shown(name)}")
            tensor = InputScale(tensor, name, inverted)
        found[name] = tensor
    return found


def inputs(format: str, config: Config, tensors: Mapping[str, TensorView]) -> dict[str, Args]:
    """module -> how its inputs are quantised, of those whose weights are; the tensors are those of `as_stored`."""
    found = {}
    for name, tensor in tensors.items():
        module, parameter = modules.module_of(name)
        if format not in SOURCES or parameter != modules.WEIGHT or tensor.codec is None:
            continue
        if isinstance(tensor.codec, NVFP4):
            args = PRESETS["NVFP4"].input_activations if f"{module}.{GLOBAL_SCALE}" in tensors else None
        elif f"{module}.{SCALE}" in tensors:
            args = PRESETS["FP8"].input_activations
        else:
            args = _dynamic(format, config, tensor.codec)
        if args:
            found[module] = args
    return found


def _dynamic(format: str, config: Config, codec: Codec) -> Args | None:
    """How activations are quantised whose scales are found while a model runs."""
    block = codec.block_size if isinstance(codec, Minifloat) else None
    if format == "modelopt":
        return PRESETS["FP8_DYNAMIC"].input_activations if block == (1, None) else None
    if config.quantization.get("activation_scheme") != "dynamic":
        return None
    groups = PRESETS["FP8_BLOCK"].input_activations
    return (
        replace(groups, group_size=block[1])
        if groups and isinstance(block, tuple)
        else PRESETS["FP8_DYNAMIC"].input_activations
    )
