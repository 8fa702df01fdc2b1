"""compressed-tensors at work on one module, so that its files are cheap to make: what it stores, and what that is.

The library is imported inside functions: only tests at level full have it, and the script of the fixtures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec.containers import safetensors
from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance.oracles import to_torch

Arrays = dict[str, np.ndarray[Any, Any]]


def stored(x: np.ndarray, scheme: Any) -> tuple[Arrays, np.ndarray[Any, Any]]:
    """What the library stores for a weight, under the names of its parameters, and the weight it makes of that."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    import arraycodec_torch

    weight, args = to_torch(x), scheme.weights
    shared = None
    if args.strategy == "tensor_group":
        tiles = weight.unflatten(-1, (-1, args.group_size))
        shared, extremes = generate_gparam(*torch.aminmax(weight)), (tiles.amin(-1), tiles.amax(-1))
    else:
        extremes = oracle.extremes(weight, args)
    scale, zero = calculate_qparams(*extremes, args, shared)
    if args.strategy == "tensor":
        scale, zero = scale.reshape(1), zero.reshape(1)
    state = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero.to(args.zp_dtype)}
    if shared is not None:
        state["weight_global_scale"] = shared.reshape(1)
    format = scheme.format or infer_module_format(torch.nn.Linear, scheme).value
    compressor: Any = BaseCompressor.get_value_from_registry(format)
    found = compressor.compress(state, scheme)
    decoded = compressor.decompress(found, scheme)["weight"]
    return {name: of_torch(value) for name, value in found.items()}, arraycodec_torch.to_numpy(decoded.contiguous())


def of_torch(tensor: Any) -> np.ndarray[Any, Any]:
    """A torch tensor as an array."""
    import arraycodec_torch

    return arraycodec_torch.to_numpy(tensor.detach().contiguous())


def quantization(groups: Mapping[str, Any], format: str, **more: Any) -> dict[str, Any]:
    """The quantization_config of these schemes, as the library writes it."""
    from compressed_tensors.quantization import QuantizationConfig

    config = QuantizationConfig(config_groups=dict(groups), format=format, quantization_status="compressed", **more)
    head = {"version": version("compressed-tensors"), "quant_method": "compressed-tensors"}
    return head | {"sparsity_config": {}, "transform_config": {}} | config.model_dump(exclude=["quant_method"])


def save(
    folder: Path, modules: Mapping[str, Arrays], quantization: Mapping[str, Any] | None, dtype: str = "bfloat16"
) -> Path:
    """A checkpoint of these modules: name -> parameter -> array."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.{role}": array for name, parts in modules.items() for role, array in parts.items()}
    safetensors.save(tensors, folder / "model.safetensors")
    model = {"dtype": dtype} | ({"quantization_config": quantization} if quantization is not None else {})
    (folder / "config.json").write_text(json.dumps(model, indent=2, sort_keys=True))
    return folder
