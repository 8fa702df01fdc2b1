"""The weights of a checkpoint on disk by their names in the model, whatever format each folder of it is in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arraycodec.base import Codec
from arraycodec.checkpoints.decompress import opened_with
from arraycodec.checkpoints.tree import Tree, label, opened
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.reader import Container
from arraycodec.containers.view import Reading, TensorView
from arraycodec.formats import checkpoint
from arraycodec.formats.config import Config, given_config, read_config
from arraycodec.formats.translated import Translated

PLAIN, NATIVE = "plain", "arraycodec"
Path_ = str | os.PathLike[str]
Given = Path_ | Mapping[str, Any] | None  # a quantization_config, or the file that holds it


@dataclass(frozen=True)
class Folder:
    """One folder of a checkpoint, which is what a config.json speaks of; of files that share names each is one.

    name     relative to the checkpoint, "" for itself
    format   of its weights: "plain", "arraycodec", or that of another program
    config   what its JSON files say
    files    its safetensors or GGUF files, by name
    tensors  name -> (file, tensor): weights of foreign formats are one tensor each
    unread   why weights are seen as the tensors they are stored as: nothing says how to read them; None where they are
    """

    name: str
    format: str
    config: Config
    files: Mapping[str, Container]
    tensors: Mapping[str, tuple[str, TensorView]]
    unread: str | None = None

    @property
    def views(self) -> dict[str, TensorView]:
        """The tensors by name."""
        return {name: tensor for name, (_, tensor) in self.tensors.items()}


@contextmanager
def opened_weights(
    tree: Tree, *, config: Given = None, hint: Given = None, base: Path_ | None = None, strict: bool = True,
    bases: bool = True,
) -> Iterator[list[Folder]]:  # fmt: skip
    """The folders of a tree; headers are read and checked.

    config  a quantization_config (or its file) to read the weights by, in place of what the folders say.
    hint    the same, for folders that say nothing and have weights which cannot be read without.
    base    the checkpoint that deltas are to.
    strict  FormatError where a configuration is needed to read weights and there is none; else they are stored tensors.
    bases   False: deltas are not going to be decoded, and no base is missed.
    """
    if tree.single and tree.weights[0].endswith(checkpoint.GGUF):
        model = checkpoint.open_checkpoint(tree.where)
        with model:
            tensors = {name: (tree.weights[0], tensor) for name, tensor in model.items()}
            yield [Folder("", model.format, model.config, {tree.weights[0]: model}, tensors)]
        return
    with opened_with(tree, base) if bases else opened(tree) as files:
        folders: dict[str, dict[str, Container]] = {}
        for name, container in files.items():
            folders.setdefault(name.rpartition("/")[0], {})[name] = container
        found = []
        for name, own in folders.items():
            names = Counter(key for container in own.values() for key in container)
            alone = any(count > 1 for count in names.values())
            said = read_config(tree.root / name) if config is None else given_config(config, tree.root / name)
            for group in [{file: own[file]} for file in own] if alone else [own]:
                found.append(_folder(name, group, said, lambda at=tree.root / name: _given(hint, at), strict))
        yield found


def labelled(folders: list[Folder]) -> dict[str, tuple[str, TensorView]]:
    """label -> (file, tensor) for all tensors; a label that two files share is told apart by its file's name."""
    found = [(label(file, key), file, t) for folder in folders for key, (file, t) in folder.tensors.items()]
    labels = Counter(own for own, _, _ in found)
    return {own if labels[own] == 1 else f"{file}:{tensor.name}": (file, tensor) for own, file, tensor in found}


def held(tensor: TensorView) -> Codec | None:
    """The codec whose planes a tensor gives; None for a plain one, and one that is the difference to a base."""
    if isinstance(tensor, LazyTensor):
        return None if tensor.codec is None or tensor.reads_base else tensor.kept_codec
    return getattr(tensor, "codec", None)


def parts(tensor: TensorView) -> list[LazyTensor]:
    """The stored tensors that a tensor is made of: itself, where it is one."""
    if isinstance(tensor, Translated):
        return [*tensor.parts.values()]
    return [tensor] if isinstance(tensor, LazyTensor) else []


def _folder(
    name: str, files: Mapping[str, Container], said: Config, hint: Callable[[], Config | None], strict: bool
) -> Folder:
    raw = {key: tensor for container in files.values() for key, tensor in container.items()}
    if checkpoint.unconfigured(raw, said):
        said = hint() or said
    told = None if strict else checkpoint.unconfigured(raw, said)
    format, tensors = (None, dict(raw)) if told else checkpoint.translated(raw, said, Reading())
    if format is None:
        format = NATIVE if all(container.native for container in files.values()) else PLAIN
    at = {str(Path(container.path)): file for file, container in files.items()}
    found = {key: (at[str(Path(tensor.path))], tensor) for key, tensor in tensors.items()}
    return Folder(name, format, said, files, found, told)


def _given(config: Given, folder: Path) -> Config | None:
    return None if config is None else given_config(config, folder)
