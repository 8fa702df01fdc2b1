"""A tiny Llama, as transformers saves it and as compressed-tensors does: the judge of what we read and write.

Third-party libraries are imported inside functions: only tests at level full have them.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance.oracles import to_torch

PROMPT = tuple(5 * i % 256 for i in range(48))
# What a calibration finds, and the same for every layer here.
INPUT_SCALE, INPUT_GLOBAL_SCALE = 0.03125, 512.0
# sha256 of the model.safetensors that compressed-tensors 0.20.0 and transformers 5.23 make of `tensors()`.
FILES = {
    "FP8": "e5c5ba0b032e", "FP8_BLOCK": "85692e13da4b", "FP8_DYNAMIC": "9f71057288f1", "INT8": "5eed8870ec6f",
    "MXFP4": "a33e0516a374", "MXFP4A16": "a33e0516a374", "MXFP4XFP8": "a33e0516a374", "MXFP6A16": "912e14191131",
    "MXFP6A8": "912e14191131", "MXFP8": "9d79851f28e0", "MXFP8A16": "9d79851f28e0", "NVFP4": "e6859e8cb014",
    "NVFP4A16": "c34168e22efd", "W2A16": "0e5461b8bdc2", "W2A4": "2754564725d1", "W2A8": "2754564725d1",
    "W3A16": "0d3e84a0ca2c", "W3A4": "2f0629eb90c0", "W3A8": "2f0629eb90c0", "W4A16": "6cea14c6f626",
    "W4A16_ASYM": "dcfc796e475b", "W4A4": "22873d76f7aa", "W4A8": "22873d76f7aa", "W4AFP8": "22873d76f7aa",
    "W5A16": "fbda6fee0964", "W5A8": "da5049a3e3d8", "W6A16": "fe06aede6417", "W6A8": "de39cce72999",
    "W7A16": "ca2d6b3b0466", "W7A8": "637b97cd8339", "W8A16": "1e9b7aeddf97", "W8A8": "5eed8870ec6f",
}  # fmt: skip
# Projections whose inputs are the same, which kernels fuse.
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def tensors(dtype: str = "bfloat16") -> dict[str, np.ndarray[Any, Any]]:
    """The weights of a tiny Llama: a hash of their positions, and in projections what is rare besides.

    That is zeros of both signs, whole groups of them, and rows of other magnitudes.
    """
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
             "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
    rows = dict(zip(names, (256, 128, 128, 256, 512, 512, 256), strict=True))
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (256, 256)}
    for layer in range(2):
        of = f"model.layers.{layer}."
        shapes |= {f"{of}{name}.weight": (rows[name], 512 if "down" in name else 256) for name in names}
        shapes |= {f"{of}{name}_layernorm.weight": (256,) for name in ("input", "post_attention")}
    shapes |= {"model.norm.weight": (256,), "lm_head.weight": (256, 256)}
    sizes = [int(np.prod(shape)) for shape in shapes.values()]
    hashed = oracle.hashed_input(1, sum(sizes), dtype)[0].astype(np.float32) * 16
    found = {}
    for (name, shape), part in zip(shapes.items(), np.split(hashed, np.cumsum(sizes)[:-1]), strict=True):
        x = part.reshape(shape).copy()
        if name.endswith("norm.weight"):
            x[:] = 1
        elif name.endswith("_proj.weight"):
            x[0, :128], x[1, ::3], x[2, ::5] = 0, -0.0, 0
            x[3], x[4], x[5] = x[3] * 2**-12, x[4] * 16, abs(x[5])
        found[name] = x.astype(numpy_dtype(dtype))
    return found


def llama(**changes: Any) -> Any:
    """A LlamaForCausalLM with these weights; `changes` are of its config."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    common = {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 256, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    config = LlamaConfig(**(common | changes))
    dtype = str(config.dtype).removeprefix("torch.")
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()
    state = {name: to_torch(value) for name, value in tensors(dtype).items() if name in model.state_dict()}
    model.load_state_dict(state, strict=False)
    return model


def dense(folder: Path, **changes: Any) -> Path:
    """The model as transformers saves it."""
    llama(**changes).save_pretrained(folder)
    return folder


def twin(
    folder: Path,
    groups: Mapping[str, Any],
    ignore: Sequence[str] = ("lm_head",),
    *,
    fused: bool = True,
    force_format: str | None = None,
    config: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """The model as compressed-tensors saves it, with scales from the extremes of the weights.

    groups        as in a quantization_config: {"group_0": {...}}, or {"W4A16": ["Linear"]}
    fused         projections of one input share a global scale, as llm-compressor has it
    force_format  the library's `quantization_format`
    config        more members of the quantization_config
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    model = llama(**changes)
    found = QuantizationConfig(config_groups=dict(groups), ignore=list(ignore), **(config or {}))
    apply_quantization_config(model, found, show_progress=False)
    calibrate(model, fused)
    compressor = ModelCompressor.from_pretrained_model(model, force_format)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    return folder


def calibrate(model: Any, fused: bool) -> None:
    """Fill the scales and zero points that `apply_quantization_config` made room for."""
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

    modules = {name: module for name, module in model.named_modules() if hasattr(module, "weight_scale")}
    globals_: dict[str, Any] = {}
    for name, module in modules.items():
        if hasattr(module, "weight_global_scale"):
            parent, _, own = name.rpartition(".")
            names = next((names for names in FUSED if fused and own in names), (own,))
            partners = [m for n in names if (m := modules.get(f"{parent}.{n}")) is not None]
            globals_[name] = min(generate_gparam(*torch.aminmax(m.weight.data)) for m in partners)
    for name, module in modules.items():
        args, weight = module.quantization_scheme.weights, module.weight.data
        if args.strategy == "tensor_group":
            tiles = weight.unflatten(-1, (-1, args.group_size))
            extremes = tiles.amin(-1), tiles.amax(-1)
        else:
            extremes = oracle.extremes(weight, args)
        scale, zero = calculate_qparams(*extremes, args, globals_.get(name))
        found = {"weight_scale": scale, "weight_zero_point": zero, "weight_global_scale": globals_.get(name)}
        found |= {"input_scale": torch.tensor(INPUT_SCALE), "input_global_scale": torch.tensor(INPUT_GLOBAL_SCALE)}
        for key, value in found.items():
            if (parameter := getattr(module, key, None)) is not None:
                parameter.data.copy_(value.reshape(-1).expand(parameter.numel()).reshape(parameter.shape))


def logits(folder: Path, *, dequantize: bool = False) -> np.ndarray[Any, Any]:
    """What a checkpoint predicts for PROMPT, as transformers loads it; `dequantize` is its option."""
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    import arraycodec_torch

    more = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    model = AutoModelForCausalLM.from_pretrained(folder, **more).eval()
    with torch.no_grad():
        return arraycodec_torch.to_numpy(model(torch.tensor([PROMPT])).logits.contiguous())


def weights(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The state dict of the model that transformers loads and the library decompresses."""
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    import arraycodec_torch

    more = CompressedTensorsConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=more)
    return {name: arraycodec_torch.to_numpy(value.contiguous()) for name, value in model.state_dict().items()}


def sha(folder: Path) -> str:
    """The first 12 digits of the SHA-256 of a checkpoint's one file."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:12]


def quantization(folder: Path) -> dict[str, Any]:
    """The quantization_config of a checkpoint."""
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def write(folder: Path, arrays: Mapping[str, Any], target: Any, model: Mapping[str, Any] | None = None) -> Path:
    """A checkpoint of one file in a target's format, with nothing but the target's own functions.

    model   the source's config.json
    """
    decisions = {name: target.decide(name, spec_of(array), None) for name, array in arrays.items()}
    config = target.config(dict(model or {}), decisions)
    given: dict[str, Any] = {}
    for names in target.fused([name for name, decision in decisions.items() if decision.codec]):
        shared = ac.shared_global_scale([arrays[name] for name in names], target.arithmetic)
        given |= {name: {"global_scale": shared} for name in names}
    specs: dict[str, Any] = {}
    stored: dict[str, Any] = {}
    for name, array in arrays.items():
        codec, spec = decisions[name].codec, spec_of(array)
        if codec is None:
            specs[name], stored[name] = spec, array
        else:
            specs |= target.layout(name, spec, codec)
            stored |= target.arrays(name, ac.encode(array, codec, given=given.get(name)))
    folder.mkdir(parents=True, exist_ok=True)
    made = safetensors.make_header(specs, target.metadata, align=target.align)
    with safetensors.SafetensorsWriter(folder / "model.safetensors", made) as writer:
        for name, array in stored.items():
            writer.add(name, array)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def calibrated(preset: str, dtype: str = "bfloat16") -> dict[str, np.ndarray[Any, Any]]:
    """The scales of activations that a preset needs beside the weights, as `calibrate` below fills them in."""
    projections = [name.removesuffix(".weight") for name in tensors(dtype) if name.endswith("_proj.weight")]
    if preset == "FP8":
        return {f"{name}.input_scale": np.full(1, INPUT_SCALE, numpy_dtype(dtype)) for name in projections}
    if preset == "NVFP4":
        return {f"{name}.input_global_scale": np.full(1, INPUT_GLOBAL_SCALE, np.float32) for name in projections}
    return {}
