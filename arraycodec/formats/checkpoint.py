"""`open_checkpoint`: any checkpoint as a mapping of its weights, whatever format they are stored in."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from arraycodec import registry
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.reader import Container, open_file
from arraycodec.containers.shards import SUFFIX
from arraycodec.containers.view import Reading, TensorView
from arraycodec.errors import FormatError
from arraycodec.formats import leftover
from arraycodec.formats.config import Config, given_config, read_config
from arraycodec.formats.translated import Translated

# quant_method -> the module whose `read` makes weights of stored tensors. Only these are ever imported.
FORMATS = {
    "awq": "awq",
    "bitsandbytes": "bitsandbytes.reader",
    "compressed-tensors": "compressed_tensors.reader",
    "fp8": "block_fp8",
    "gptq": "gptq",
    "modelopt": "modelopt",
}
ALIASES = {"compressed_tensors": "compressed-tensors"}
# What names of tensors tell where no configuration does: the end of one -> a format that needs none, or a hint.
SELF_DESCRIBING = {
    ".quant_state.bitsandbytes__nf4": "bitsandbytes",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes",
    ".quant_map": "bitsandbytes",
    ".SCB": "bitsandbytes",
    ".weight_format": "bitsandbytes",
    ".compressed": "compressed-tensors",  # sparse weights
    ".bitmask": "compressed-tensors",
}
SCALE = ".weight_scale"  # which is refused beside floats too, where no configuration says what it is for
GGUF = ".gguf"


class Checkpoint(Container):
    """An open checkpoint: name -> tensor, with weights of foreign formats as one tensor each (`Translated`).

    format  "arraycodec" (native containers), "plain", or the foreign format
    config  what its JSON files say: `config.model` is config.json, `config.quantization` what was taken out of it
    """

    def __init__(self, raw: Container, format: str, tensors: Mapping[str, Any], config: Config) -> None:
        super().__init__(raw.path, tensors, raw.metadata, native=raw.native, shards=raw.shards)
        self.format, self.config = format, config
        self._opened.callback(raw.close)

    def __repr__(self) -> str:
        return f"<{self.format} checkpoint {checks.shown(self.path)}: {len(self)} tensors in {len(self.paths)} files>"


def open_checkpoint(
    path: str | os.PathLike[str],
    *,
    framework: str = "numpy",
    device: Any = None,
    verify: bool = True,
    max_bytes: int | None = None,
    base: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Open a checkpoint that any of the known formats wrote; reads headers and configuration only.

    Weights that are stored as several tensors (packed integers, scales, zero points) are one tensor each, under the
    name they had in the model: it decodes, gives an Encoded, and is sliced like any other. FormatError for a format
    that is not known: never a tensor that is not the weight.

    path    a folder, a safetensors file, its `*.index.json`, or a GGUF file; a folder without safetensors may hold
            one GGUF model
    config  a quantization_config, a config.json that holds one, or the path of either; by default that of the folder.

    The other arguments are those of `open_file`, which gives stored tensors as they are.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> ac.save_file({"w": np.ones((2, 2), np.float32)}, path)
    >>> with ac.open_checkpoint(path) as model:
    ...     model.format, model["w"].decode().sum()
    ('arraycodec', np.float32(4.0))
    """
    registry.framework(framework)  # fail here, not at the first tensor
    path = Path(path)
    how = Reading(framework, device, verify, max_bytes)
    gguf: Any = importlib.import_module("arraycodec.formats.gguf")
    if path.is_dir() and not any(path.glob(f"*{SUFFIX}")):
        model: Path | None = gguf.model_in(path)
        path = model or path
    if path.name.endswith(GGUF) and not path.is_dir():
        return gguf.open_gguf(path, how)
    folder = path if path.is_dir() else path.parent
    with ExitStack() as opened:
        raw = opened.enter_context(open_file(path, verify=verify, max_bytes=max_bytes, base=base))
        said = read_config(folder) if config is None else given_config(config, folder)
        name, tensors = translated(raw, said, how)
        if name is None:
            name = "arraycodec" if raw.native else "plain"
        tensors = {key: tensor.placed(framework, device) for key, tensor in tensors.items()}
        found = Checkpoint(raw, name, tensors, said)
        opened.pop_all()
    return found


def translated(raw: Mapping[str, LazyTensor], config: Config, how: Reading) -> tuple[str | None, dict[str, TensorView]]:
    """The format of these stored tensors, and the checkpoint's tensors: weights translated, the others as they are.

    None and the tensors themselves where they are in no foreign format. Weights stand where their main part did.
    FormatError where a tensor that no weight has taken is a part of one in another format: it is no weight itself.
    """
    name = format_of(raw, config)
    if name is None:
        return None, dict(raw)
    weights = importlib.import_module(f"arraycodec.formats.{FORMATS[name]}").read(raw, config)
    at = {next(iter(weight.parts.values())).name: key for key, weight in weights.items()}
    used = {part.name for weight in weights.values() for part in weight.parts.values()}
    tensors: dict[str, TensorView] = {}
    for key, tensor in raw.items():
        if key in at:
            tensors[at[key]] = Translated(at[key], weights[at[key]], how)
        elif key not in used:
            if key in weights:
                raise FormatError(f"{tensor.where}: stands beside the parts of the same weight")
            tensors[key] = tensor
    if found := leftover.seen({key: tensor for key, tensor in raw.items() if key not in used}):
        tensor, looks = found
        said = f"{config.where} says {name}" if config.method else f"others are of {name}"
        raise FormatError(f"{tensor.where}: is of a quantised checkpoint ({looks}), but {said}, which has no such part")
    return name, tensors


def format_of(raw: Mapping[str, LazyTensor], config: Config) -> str | None:
    """The foreign format that stored tensors are in; None where they are the weights themselves.

    FormatError where a format is named that is not known, or names of tensors show one that needs a configuration.
    """
    if (method := config.method) is not None:
        method = ALIASES.get(method, method)
        if method not in FORMATS:
            known = ", ".join(sorted(FORMATS))
            raise FormatError(f"{config.where}: quant_method must be one of {known}, got {checks.shown(method)}")
        return method
    for ending, name in SELF_DESCRIBING.items():
        if any(f".{key}".endswith(ending) for key in raw):
            return name
    if told := unconfigured(raw, config):
        raise FormatError(told)
    return None


def unconfigured(raw: Mapping[str, LazyTensor], config: Config) -> str | None:
    """Why these stored tensors cannot be read as weights though nothing is wrong with them: no configuration says how.

    None where one does, or where they need none.
    """
    if config.method is not None or any(f".{key}".endswith(ending) for key in raw for ending in SELF_DESCRIBING):
        return None
    scales = next((tensor for key, tensor in raw.items() if f".{key}".endswith(SCALE)), None)
    found = leftover.seen(raw) or (scales and (scales, leftover.SCALED))
    if not found:
        return None
    return (
        f"{found[0].where}: is of a quantised checkpoint ({found[1]}), but {config.where} has no "
        "quantization_config; --config (in Python config=), of convert --source-config, may name one"
    )
