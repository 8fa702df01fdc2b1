"""The weights of a checkpoint on disk by their names in the model, whatever format each folder of it is in."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Folder:
    """One folder of a checkpoint, which is what a config.json speaks of.

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


@contextmanager
def opened_weights(
    tree: Tree, *, config: Path_ | Mapping[str, Any] | None = None, base: Path_ | None = None, strict: bool = True,
    bases: bool = True,
) -> Iterator[list[Folder]]:  # fmt: skip
    """The folders of a tree; headers are read and checked.

    config  a quantization_config (or its file) to read the weights by, in place of what the folders say.
    base    the checkpoint that deltas are to.
    strict  FormatError where a configuration is needed to read weights and there is none; else they are stored tensors.
    bases   False: deltas are not going to be decoded, and no base is missed.
    """
    if tree.single and tree.weights[0].endswith(checkpoint.GGUF):
        model = checkpoint.open_checkpoint(tree.where, config=config)
        with model:
            tensors = {name: (tree.weights[0], tensor) for name, tensor in model.items()}
            yield [Folder("", model.format, model.config, {tree.weights[0]: model}, tensors)]
        return
    with opened_with(tree, base) if bases else opened(tree) as files:
        folders: dict[str, dict[str, Container]] = {}
        for name, container in files.items():
            folders.setdefault(name.rpartition("/")[0], {})[name] = container
        yield [_folder(tree, name, own, config, strict) for name, own in folders.items()]


def labelled(folders: list[Folder]) -> dict[str, tuple[str, TensorView]]:
    """label -> (file, tensor) for all tensors, as `tree.tensors` names the stored ones."""
    found = {}
    for folder in folders:
        for name, (file, tensor) in folder.tensors.items():
            shared = name != tensor.name  # told apart by its file's name already
            found[name if shared else label(file, name)] = (file, tensor)
    return found


def parts(tensor: TensorView) -> list[LazyTensor]:
    """The stored tensors that a tensor is made of: itself, where it is one."""
    if isinstance(tensor, Translated):
        return [*tensor.parts.values()]
    return [tensor] if isinstance(tensor, LazyTensor) else []


def _folder(
    tree: Tree, name: str, files: dict[str, Container], config: Path_ | Mapping[str, Any] | None, strict: bool
) -> Folder:
    folder = tree.root / name
    said = read_config(folder) if config is None else given_config(config, folder)
    names = Counter(key for container in files.values() for key in container)
    twice = any(count > 1 for count in names.values())
    groups = (
        [{file: files[file]} for file in files] if twice else [files]
    )  # files of equal names are read by themselves
    found, unread, formats = [], [], []
    for group in groups:
        raw = {key: tensor for container in group.values() for key, tensor in container.items()}
        told = None if strict else checkpoint.unconfigured(raw, said)
        format, tensors = (None, dict(raw)) if told else checkpoint.translated(raw, said, Reading())
        unread += [told] if told else []
        at = {str(Path(container.path)): file for file, container in group.items()}
        found += [(key, at[str(Path(tensor.path))], tensor) for key, tensor in tensors.items()]
        formats += [format] if format else []
    keys = Counter(key for key, _, _ in found)
    all_of_them = {(key if keys[key] == 1 else f"{file}:{key}"): (file, tensor) for key, file, tensor in found}
    native = all(container.native for container in files.values())
    return Folder(name, (formats or [NATIVE if native else PLAIN])[0], said, files, all_of_them, next(iter(unread), None))
