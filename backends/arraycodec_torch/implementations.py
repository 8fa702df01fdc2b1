"""The ways to compute on tensors: the zero-copy reference for CPU tensors, plain torch ops anywhere, Triton on GPUs.

Each has `encode(x, codec, given)` and `decode(codec, planes, spec, given, out)`, and gives the same bits as the others.
"""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from typing import Any

import torch

from arraycodec.base import Codec, Given, Planes, decode_with, encode_with
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays

# codec name -> the module with `encode(x, codec, given)` and `decode(codec, planes, spec, given, out)` of that family
PLAIN = {
    "bitmask": "arraycodec_torch.bitmask",
    "codebook": "arraycodec_torch.codebook",
    "delta": "arraycodec_torch.delta",
    "dq": "arraycodec_torch.dq",
    "gguf": "arraycodec_torch.gguf",
    "linear": "arraycodec_torch.linear",
    "llm_int8": "arraycodec_torch.llm_int8",
    "lossless": "arraycodec_torch.lossless",
    "lut": "arraycodec_torch.lut",
    "microscaling": "arraycodec_torch.microscaling",
    "minifloat": "arraycodec_torch.minifloat",
    "nvfp4": "arraycodec_torch.nvfp4",
    "permuted": "arraycodec_torch.permuted",
    "pqr": "arraycodec_torch.pqr",
    "tcq": "arraycodec_torch.tcq",
    "tied": "arraycodec_torch.tied",
    "two_four": "arraycodec_torch.two_four",
}
TRITON = {
    "bitmask": "arraycodec_torch.triton_bitmask",
    "codebook": "arraycodec_torch.triton_codebook",
    "delta": "arraycodec_torch.triton_delta",
    "dq": "arraycodec_torch.triton_dq",
    "gguf": "arraycodec_torch.triton_gguf",
    "linear": "arraycodec_torch.triton_linear",
    "llm_int8": "arraycodec_torch.triton_llm_int8",
    "lossless": "arraycodec_torch.triton_lossless",
    "lut": "arraycodec_torch.triton_lut",
    "microscaling": "arraycodec_torch.triton_microscaling",
    "minifloat": "arraycodec_torch.triton_minifloat",
    "nvfp4": "arraycodec_torch.triton_nvfp4",
    "tcq": "arraycodec_torch.triton_tcq",
    "pqr": "arraycodec_torch.triton_pqr",
    "two_four": "arraycodec_torch.triton_two_four",
}


class Reference:
    """The codecs' own NumPy methods, on the memory of CPU tensors."""

    name = "reference"

    def encode(self, x: torch.Tensor, codec: Codec, given: Given) -> Planes:
        _on_cpu(codec, [x, *given.values()])
        planes = codec.encode(arrays.to_numpy(x), {name: arrays.to_numpy(plane) for name, plane in given.items()})
        return {name: arrays.from_numpy(plane) for name, plane in planes.items()}

    def decode(
        self,
        codec: Codec,
        planes: Planes,
        spec: ArraySpec,
        given: Given,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        _on_cpu(codec, [*planes.values(), *given.values(), *([] if out is None else [out])])
        target = None if out is None else arrays.to_numpy(out)
        decoded = codec.decode(
            {name: arrays.to_numpy(plane) for name, plane in planes.items()},
            spec,
            {name: arrays.to_numpy(plane) for name, plane in given.items()},
            target,
        )
        return arrays.from_numpy(decoded) if out is None else out


class Families:
    """Codecs computed on the tensors' own device by a module per family; `Then` composes them like any other."""

    def __init__(self, name: str, modules: dict[str, str], otherwise: dict[str, str] | None = None) -> None:
        self.name = name
        self.modules = (otherwise or {}) | modules

    def encode(self, x: torch.Tensor, codec: Codec, given: Given) -> Planes:
        return encode_with(self._encode, codec, x, given)

    def decode(
        self,
        codec: Codec,
        planes: Planes,
        spec: ArraySpec,
        given: Given,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return decode_with(self._decode, codec, planes, spec, given, out, arrays.to_numpy)

    def _encode(self, codec: Codec, x: torch.Tensor, given: Given) -> Planes:
        arrays.device_of(f"encode {codec.name}", [x, *given.values()])
        detached = {name: plane.detach() for name, plane in given.items()}
        with torch.no_grad():
            return self._family(codec, x.device).encode(x.detach(), codec, detached)

    def _decode(
        self,
        codec: Codec,
        planes: Planes,
        spec: ArraySpec,
        given: Given,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        device = arrays.device_of(f"decode {codec.name}", [*planes.values(), *given.values()])
        target = arrays.empty(spec, device) if out is None else out.detach()
        with torch.no_grad():
            self._family(codec, device).decode(codec, planes, spec, given, target)
        return target if out is None else out

    def _family(self, codec: Codec, device: torch.device) -> Any:
        if codec.name not in self.modules:
            raise UnsupportedByBackend(
                f"{codec.name}: the torch backend has no {self.name} implementation of this codec for tensors on "
                f"{device}; move them to the CPU, where every codec works"
            )
        return importlib.import_module(self.modules[codec.name])


@cache
def has_triton() -> bool:
    """Whether Triton is installed, without importing it."""
    return importlib.util.find_spec("triton") is not None


def _on_cpu(codec: Codec, tensors: list[torch.Tensor]) -> None:
    for x in tensors:
        if arrays.tensor(codec.name, x).device.type != "cpu":
            raise UnsupportedByBackend(
                f"{codec.name}: the torch backend's reference implementation takes CPU tensors, got one on {x.device}"
            )


IMPLEMENTATIONS = {
    "reference": Reference(),
    "torch": Families("plain torch", PLAIN),
    "triton": Families("Triton", TRITON),
}
_TRITON_WHERE_IT_CAN = Families("Triton or plain torch", TRITON, otherwise=PLAIN)


def choose(x: torch.Tensor) -> str:
    """The implementation for tensors on this device."""
    if x.device.type == "cpu":
        return "reference"
    return "triton" if x.device.type == "cuda" and has_triton() else "torch"


def chosen(x: torch.Tensor) -> Any:
    """What computes on `x`: on a GPU, a codec that has no Triton kernel yet runs as plain torch ops."""
    name = choose(x)
    return _TRITON_WHERE_IT_CAN if name == "triton" else IMPLEMENTATIONS[name]
