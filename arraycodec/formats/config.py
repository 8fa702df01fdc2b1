"""`Config`: what the JSON files of a checkpoint say about how it is quantised."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arraycodec.containers import checks, strict_json
from arraycodec.errors import FormatError
from arraycodec.spec import DTYPES

CONFIG = "config.json"
LIMIT = 16_000_000  # bytes of such a file
KEYS = ("quantization_config", "compression_config")  # of config.json; the second one until 2024
# Files of their own in which a quantiser described its result: name -> the quant_method that they stand for.
OWN_FILES = {"hf_quant_config.json": "modelopt", "quantize_config.json": "gptq", "quant_config.json": "awq"}


@dataclass(frozen=True)
class Config:
    """How a checkpoint is quantised.

    quantization  the quantization_config, or what stands for it; empty where there is none
    model         config.json without it; empty where there is none
    where         the file that says so, for errors
    """

    quantization: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    where: str = CONFIG

    @property
    def method(self) -> str | None:
        """The quant_method; None where nothing is said of a quantisation."""
        if not self.quantization:
            return None
        found = self.quantization.get("quant_method")
        if not isinstance(found, str):
            raise FormatError(f"{self.where}: quantization_config must have a string quant_method, got {found!r}")
        return found

    @property
    def dtype(self) -> str | None:
        """The dtype that the model computes in, by its NumPy name; None where config.json does not say."""
        for model in (self.model, self.model.get("text_config")):
            if isinstance(model, Mapping):
                for key in ("dtype", "torch_dtype"):
                    found = model.get(key)
                    if isinstance(found, str) and (name := found.removeprefix("torch.")) in DTYPES:
                        return name
        return None


def read_config(folder: str | os.PathLike[str]) -> Config:
    """What the JSON files in a folder say; an empty Config where there are none."""
    folder = Path(folder)
    main = folder / CONFIG
    found = _split(read_json(main), str(main)) if main.is_file() else Config(where=str(main))
    if found.quantization:
        return found
    for name, method in OWN_FILES.items():
        if (path := folder / name).is_file():
            data = read_json(path)
            return Config({"quant_method": method} | data, found.model, str(path))
    return found


def given_config(config: str | os.PathLike[str] | Mapping[str, Any], folder: Path | None) -> Config:
    """The Config of what a user names: a file or its content, a whole config.json or a quantization_config alone.

    folder  of the checkpoint, whose config.json tells about the model where the user's does not.
    """
    if isinstance(config, Mapping):
        data, where = dict(config), "config"
    else:
        path = Path(config)
        data, where = read_json(path), str(path)
    found = _split(data, where) if any(key in data for key in KEYS) else Config(data, {}, where)
    if found.model or folder is None or not (folder / CONFIG).is_file():
        return found
    return Config(found.quantization, _split(read_json(folder / CONFIG), where).model, found.where)


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A file that holds a JSON object."""
    return strict_json.read(path, LIMIT)


def _split(data: dict[str, Any], where: str) -> Config:
    model = {key: value for key, value in data.items() if key not in KEYS}
    for key in KEYS:
        if data.get(key) is not None:
            quantization = checks.member(data, key, dict, where)
            return Config(quantization, model, where)
    return Config({}, model, where)
