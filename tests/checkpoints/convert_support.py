"""What the tests of conversions share: a small model as the Hub lays it out, and how its weights are compared."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import arraycodec as ac
from tests.checkpoints.support import normal, write_folder

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}
QKV = [f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"]


def layer(i: int) -> dict[str, np.ndarray]:
    """The weights of one layer."""
    shapes = {f"self_attn.{part}_proj": (128, 128) for part in "qkvo"}
    shapes |= {"mlp.gate_proj": (256, 128), "mlp.up_proj": (256, 128), "mlp.down_proj": (128, 256)}
    found = {
        f"model.layers.{i}.{name}.weight": normal(*shape, dtype="bfloat16", seed=100 * i + k)
        for k, (name, shape) in enumerate(shapes.items())
    }
    return found | {f"model.layers.{i}.input_layernorm.weight": normal(128, dtype="bfloat16", seed=i)}


def llama() -> dict[str, dict[str, np.ndarray]]:
    """The weights of a small model, in two shards."""
    embed, head = (normal(100, 128, dtype="bfloat16", seed=seed) for seed in (98, 99))
    first = {"model.embed_tokens.weight": embed} | layer(0)
    return {SHARDS[0]: first, SHARDS[1]: layer(1) | {"lm_head.weight": head}}


def write_llama(folder: Path, shards: dict[str, dict[str, np.ndarray]] | None = None, **config: object) -> Path:
    """This model as a folder."""
    write_folder(folder, llama() if shards is None else shards)
    (folder / "config.json").write_text(json.dumps(CONFIG | config, indent=2))
    return folder


def bits(path: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Every weight of a checkpoint, decoded: its dtype, shape and bytes."""
    with ac.open_checkpoint(path) as model:
        return {name: (t.dtype, t.shape, t.decode().tobytes()) for name, t in model.items()}


def files(folder: Path, ending: str = ".safetensors") -> dict[str, bytes]:
    """Files of a folder, with their bytes."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name.endswith(ending)}
