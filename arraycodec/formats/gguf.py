"""GGUF files of llama.cpp: every tensor under its name, quantised ones in the codec `Gguf`, the others plain."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np

from arraycodec.base import Planes
from arraycodec.codecs.gguf import Gguf
from arraycodec.containers import checks, safetensors
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.reader import Container
from arraycodec.containers.references import References
from arraycodec.containers.view import Reading, TensorView
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats.checkpoint import GGUF, Checkpoint
from arraycodec.formats.config import Config
from arraycodec.formats.gguf_file import PLAIN, GgufFile, Tensor
from arraycodec.formats.translated import Translated, Weight
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec.spec import ArraySpec

NAME = "gguf"
PART = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.gguf")


class Blocks(Translated):
    """A quantised tensor, of which a slice reads the blocks around it only."""

    def _elements(self, start: int, stop: int) -> np.ndarray:
        blocks = self.parts["blocks"]
        with checks.from_file(self.where):
            return self.codec.read(lambda _, piece: blocks._elements(piece.start, piece.stop), self.spec, start, stop)


def model_in(folder: Path) -> Path | None:
    """The GGUF file to open of a folder: its only one, or the first part of its only model; None where it has none.

    FormatError where there are several models, or parts without the first one.
    """
    files = sorted(path for path in folder.iterdir() if path.name.endswith(GGUF) and not path.name.startswith("."))
    matched = {path: PART.fullmatch(path.name) for path in files}
    models = {
        (found["stem"], found["count"]) if found else path.name: path for path, found in reversed(matched.items())
    }
    if len(models) > 1:
        told = ", ".join(checks.shown(path.name) for path in sorted(models.values()))
        raise FormatError(f"{folder}: must hold one model, or its file be named, got {told}")
    return next(iter(models.values()), None)


def open_gguf(path: str | os.PathLike[str], how: Reading) -> Checkpoint:
    """The tensors of a GGUF file by name, in its order; `metadata` holds what the file says of the model.

    Of a model that is split into several files any one may be named, and all are opened. Shapes are NumPy's: the
    reverse of what the file lists, rows last. Quantised tensors decode to float32, or to the dtype that is asked for.
    FormatError for a block type that `Gguf` does not have.
    """
    tensors: dict[str, TensorView] = {}
    with ExitStack() as opened:
        files = parts_of(os.fspath(path), opened)
        parts = [stored(file, Reading(verify=how.verify, max_bytes=how.max_bytes)) for file in files]
        for file, part in zip(files, parts, strict=True):
            for name, tensor in file.tensors.items():
                if name in tensors:
                    raise CorruptError(f"{file.path}: tensor {checks.shown(name)} stands in another part too")
                plain = tensor.type in PLAIN.values()
                found = part[name] if plain else Blocks(name, weight(tensor, part[name]), how)
                tensors[name] = found.placed(how.framework, how.device)
        raw = parts[0]
        if len(parts) > 1:
            every = {name: tensor for part in parts for name, tensor in part.items()}
            raw = Container(os.fspath(path), every, files[0].metadata, shards=tuple(parts))
        raw._opened = opened.pop_all()
    return Checkpoint(raw, NAME, tensors, Config(where=raw.path))


def parts_of(path: str, opened: ExitStack) -> list[GgufFile]:
    """The files of a model, opened: those that belong to the one that is named, in their order."""
    named = opened.enter_context(GgufFile(path))
    count = named.metadata.get("split.count", 1)
    if count in (0, 1):
        return [named]
    matched = PART.fullmatch(os.path.basename(path))
    if matched is None or int(matched["count"]) != count:
        raise FormatError(f"{path}: is a part of {checks.shown(count)}, and not named like model-00001-of-00003.gguf")
    files = []
    for number in range(count):
        name = f"{matched['stem']}-{number + 1:05}-of-{count:05}.gguf"
        file = opened.enter_context(GgufFile(os.path.join(os.path.dirname(path), name)))
        said = file.metadata.get("split.no"), file.metadata.get("split.count")
        if said != (number, count):
            raise CorruptError(f"{file.path}: must be part {number} of {count}, says it is {checks.shown(said)}")
        files.append(file)
    total, got = named.metadata.get("split.tensors.count"), sum(len(file.tensors) for file in files)
    if total not in (None, got):
        raise CorruptError(f"{path}: the parts must have {checks.shown(total)} tensors, got {got}")
    return files


def stored(file: GgufFile, how: Reading) -> Container:
    """The tensors as they are stored: arrays, and uint8 blocks of those that are quantised."""
    # A tensor in a file needs no more of the file than how to read it and where the data starts.
    source: Any = SimpleNamespace(
        path=file.path, read=file.read, close=file.close, header=SimpleNamespace(data_start=file.data_start)
    )
    references = References(file.path, _no_other_file, None, None)
    tensors = {}
    for name, tensor in file.tensors.items():
        part = safetensors.Tensor(name, stored_spec(tensor, file.path), tensor.start, tensor.stop)
        tensors[name] = LazyTensor(source, part, None, how, references)
    return Container(file.path, tensors, file.metadata, source)


def stored_spec(tensor: Tensor, path: str) -> ArraySpec:
    """The spec of a tensor as it is stored; FormatError for a block type that is not read."""
    if tensor.type in PLAIN.values():
        return ArraySpec(tensor.shape, tensor.type)
    if tensor.type not in TYPES:
        raise FormatError(
            f"{path}: tensor {checks.shown(tensor.name)}: is in {tensor.type}, which is not read; known are "
            f"{', '.join(TYPES)}"
        )
    return Gguf(tensor.type).planes(ArraySpec(tensor.shape, "float32"))["blocks"]


def weight(tensor: Tensor, part: LazyTensor) -> Weight:
    """A quantised tensor as the codec sees it."""
    spec, codec = ArraySpec(tensor.shape, "float32"), Gguf(tensor.type)
    return Weight(
        spec, codec, {"blocks": part}, lambda arrays: {"blocks": arrays["blocks"]}, partial(check_factors, codec)
    )


def check_factors(codec: Gguf, planes: Planes) -> None:
    """Raise CorruptError where a factor of a block is infinite or NaN, which the format allows and no writer means."""
    block = codec.block
    blocks = planes["blocks"].reshape(-1, block.nbytes)
    for name, at in (("d", block.d), ("m", block.m)):
        if at is not None and (bad := np.flatnonzero((blocks[:, at + 1] & 0x7C) == 0x7C)).size:
            raise CorruptError(f"{name} must be finite; it is not in {bad.size} blocks, first in block {bad[0]}")


def _no_other_file(path: Any) -> NoReturn:
    raise FormatError(f"{path}: a GGUF file refers to no other file")
