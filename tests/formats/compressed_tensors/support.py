"""A tiny Llama, as transformers saves it and as compressed-tensors does: the judge of what we read and write.

Third-party libraries are imported inside functions: only tests at level full have them.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec_conformance import compressed_tensors as oracle

PROMPT = tuple(5 * i % 256 for i in range(48))
# What a calibration finds, and the same for every layer here.
INPUT_SCALE, INPUT_GLOBAL_SCALE = 0.03125, 512.0
# Projections whose inputs are the same, which kernels fuse.
FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def llama(**changes: Any) -> Any:
    """A LlamaForCausalLM of a million random parameters in bfloat16, the same in every call.

    Its projections hold what is rare besides: zeros of both signs, a group of zeros, rows of other magnitudes.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(20)
    common = {
        "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "vocab_size": 256, "tie_word_embeddings": False,
    }  # fmt: skip
    dtype = changes.pop("dtype", "bfloat16")
    config = LlamaConfig(**(common | changes), dtype=dtype)
    model = LlamaForCausalLM(config).to(getattr(torch, dtype)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("_proj.weight"):
            rows = parameter.data
            rows[0, :128], rows[1, ::3], rows[2, ::5] = 0, -0.0, 0
            rows[3], rows[4], rows[5] = rows[3] * 2**-12, rows[4] * 16, rows[5].abs()
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


def presets(without: Collection[str] = ("UNQUANTIZED",)) -> list[str]:
    """The names of all presets of the library that is installed."""
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    return [name for name in PRESET_SCHEMES if name not in without]


def quantization(folder: Path) -> dict[str, Any]:
    """The quantization_config of a checkpoint."""
    return json.loads((folder / "config.json").read_text())["quantization_config"]


def header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file."""
    data = path.read_bytes()
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def write(source: Path, folder: Path, target: Any) -> Path:
    """A dense checkpoint of one file, written in a target's format with nothing but the target's own functions."""
    import arraycodec as ac
    from arraycodec.containers import safetensors
    from arraycodec.spec import spec_of

    found = ac.load_file(source / "model.safetensors")
    decisions = {name: target.decide(name, spec_of(array), None) for name, array in found.items()}
    model = json.loads((source / "config.json").read_text())
    config = target.config(model, decisions)
    encoded = {name for name, decision in decisions.items() if decision.codec is not None}
    given: dict[str, Any] = {}
    for names in target.fused(sorted(encoded)):
        shared = ac.shared_global_scale([found[name] for name in names], arithmetic="eager")
        given |= {name: {"global_scale": shared} for name in names}
    specs: dict[str, Any] = {}
    tensors: dict[str, Any] = {}
    for name, array in found.items():
        codec, spec = decisions[name].codec, spec_of(array)
        if codec is None:
            specs[name], tensors[name] = spec, array
        else:
            specs |= target.layout(name, spec, codec)
            tensors |= target.arrays(name, ac.encode(array, codec, given=given.get(name)))
    folder.mkdir(parents=True)
    made = safetensors.make_header(specs, target.metadata, align=target.align)
    with safetensors.SafetensorsWriter(folder / "model.safetensors", made) as writer:
        for name, array in tensors.items():
            writer.add(name, array)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    return folder
