"""A live model as compressed-tensors stores it: `arraycodec.to_compressed_tensors` with classes instead of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import arraycodec as ac
from arraycodec.base import Codec
from arraycodec_torch.nn.quantized import QuantizedLinear

CLASSES = {"Linear": (nn.Linear, QuantizedLinear), "Embedding": (nn.Embedding,)}


def to_compressed_tensors(
    model: nn.Module,
    scheme: str | Codec | Mapping[str, Any],
    *,
    ignore: Sequence[str] | None = None,
    scales: Mapping[str, torch.Tensor] | None = None,
    arithmetic: str = "eager",
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state dict of a model as compressed-tensors stores it, and its quantization_config.

    The arguments are those of `arraycodec.to_compressed_tensors`, but what is a Linear or an Embedding is read from the
    modules. The model stays as it is. Quantised modules of this package give their planes where the scheme stores such.
    Of a model of transformers, the two make a checkpoint that it and vLLM load:

        state, config = to_compressed_tensors(model, "W4A16")
        model.config.quantization_config = config
        model.save_pretrained(folder, state_dict=state)

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(256, 64), torch.nn.Linear(64, 8))
    >>> state, config = to_compressed_tensors(model, "W8A8", ignore=["1"])
    >>> {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in state.items() if name.startswith("0.weight")}
    {'0.weight': (torch.int8, (64, 256)), '0.weight_scale': (torch.float32, (64, 1))}
    >>> config["ignore"]
    ['1']
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    kinds = {
        path: kind for path, module in modules.items() for kind, types in CLASSES.items() if isinstance(module, types)
    }
    return ac.to_compressed_tensors(
        _state(model, modules), scheme, ignore=ignore, scales=scales, arithmetic=arithmetic, kinds=kinds
    )


def _state(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Its state dict, with one Encoded for the planes of each quantised module."""
    state = model.state_dict()
    for path, module in modules.items():
        if isinstance(module, QuantizedLinear) and module.spec is not None:
            prefix = f"{path}." if path else ""
            for key in [key for key in state if key.startswith(prefix) and key != f"{prefix}bias"]:
                del state[key]
            state[f"{prefix}weight"] = module.encoded
    return state
