"""compressed-tensors: scales from the extremes of the weights, and the compressor of each format, on a CPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from arraycodec.checkpoints.peers.entry import Calls, Entry
from arraycodec.checkpoints.peers.tensors import stored, tensor

NAME = "compressed-tensors"


def preset(name: str, x: np.ndarray) -> Calls:
    """The calls that store a matrix as one of its presets has it."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    scheme, weight = preset_name_to_scheme(name, ["Linear"]), tensor(x)
    compressor = BaseCompressor.get_value_from_registry(infer_module_format(torch.nn.Linear, scheme).value)

    def encode() -> dict[str, Any]:
        state = {"weight": weight}
        if scheme.weights.strategy == "tensor_group":
            state["weight_global_scale"] = generate_gparam(*weight.aminmax())
        scales, zeros = calculate_qparams(
            *_extremes(weight, scheme.weights), scheme.weights, state.get("weight_global_scale")
        )
        if not scheme.weights.symmetric:
            zeros = zeros.to(scheme.weights.zp_dtype)
        return compressor.compress(state | {"weight_scale": scales, "weight_zero_point": zeros}, scheme)

    return Calls(
        encode,
        lambda state: compressor.decompress(dict(state), scheme)["weight"],
        lambda state: sum(stored(value) for value in state.values()),
    )


def sparse(format: str, x: np.ndarray) -> Calls:
    """The calls that store a matrix sparse; releases up to 0.14 have them."""
    from compressed_tensors.compressors import BaseCompressor, sparse_compressors  # noqa: F401  # later ones lack it
    from compressed_tensors.config import SparsityCompressionConfig

    config: Any = SparsityCompressionConfig.load_from_registry(format)
    compressor: Any = BaseCompressor.load_from_registry(format, config=config)
    weight = tensor(x)
    return Calls(
        lambda: compressor.compress({"module.weight": weight}),
        lambda state: dict(compressor.decompress_from_state_dict(state))["module.weight"],
        lambda state: sum(stored(value) for value in state.values()),
    )


def _extremes(weight: Any, args: Any) -> tuple[Any, Any]:
    """The smallest and the largest element of every tile, as llm-compressor's observer finds them."""
    from compressed_tensors.quantization.utils import maybe_pad_tensor_for_block_quant

    if args.strategy == "block":
        high, wide = args.block_structure
        padded = maybe_pad_tensor_for_block_quant(weight, (high, wide))
        tiles = padded.unflatten(0, (-1, high)).unflatten(2, (-1, wide))
        return tiles.amin((1, 3)), tiles.amax((1, 3))
    groups = weight if args.strategy == "channel" else weight.unflatten(1, (-1, args.group_size))
    return groups.aminmax(dim=-1, keepdim=args.strategy == "channel")


OURS = {"flavour": "compressed-tensors"}

ENTRIES = tuple(
    Entry(NAME, name, scheme, params, "same", partial(preset, name))
    for name, scheme, params in (
        ("W4A16", "w4a16", {}),
        ("W8A8", "w8a8", {}),
        ("FP8_DYNAMIC", "fp8-channel", {}),
        ("FP8_BLOCK", "fp8-block", {}),
        ("NVFP4A16", "nvfp4", {"arithmetic": "eager"}),
        ("MXFP4A16", "mxfp4", OURS),
        ("MXFP6A16", "mxfp6", OURS),
        ("MXFP8A16", "mxfp8", OURS),
    )
)
