"""The files of a conversion: where each goes, and what is in those that hold no weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from arraycodec.checkpoints.files import check_target
from arraycodec.checkpoints.tree import Tree
from arraycodec.containers.atomic import AtomicFile
from arraycodec.containers.shards import SUFFIX, read_index
from arraycodec.errors import ArgumentError
from arraycodec.formats.config import CONFIG, KEYS, OWN_FILES, read_json

MODEL = f"model{SUFFIX}"  # what loaders look for in a folder without an index
# The same weights once more, in formats that are not read here: they would tell another model than the result.
WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".bin.index.json")


@dataclass
class Files:
    """Where the files of a source go.

    weights  file of the source -> file of the result, relative to `root`
    copied   files that stay as they are: name in the source -> name in the result
    left     files that are not copied, since they are weights in other formats
    alone    the result is one file and no folder: there is no place for a config.json
    """

    root: Path
    weights: dict[str, str]
    copied: dict[str, Path] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    alone: bool = False

    def path(self, name: str) -> Path:
        """Where a file of the result is."""
        return self.root / name


def files_of(tree: Tree, dst: Path, needs_folder: str | None) -> Files:
    """Where all files go; ArgumentError where `dst` is, lies in, or holds what is read.

    needs_folder  the format that says in config.json how to read it, if it is such a one.
    """
    if not tree.single:
        check_target(tree, dst)
        own = {str(PurePosixPath(name).parent) for name in tree.weights}
        ours = {str(PurePosixPath(folder, name)) for folder in own for name in (CONFIG, *OWN_FILES)}
        others = [name for name in tree.others if name not in ours]
        left = [name for name in others if name.endswith(WEIGHTS)]
        copied = {name: tree.path(name) for name in others if name not in left}
        return Files(dst, {name: name for name in tree.weights}, copied, left)
    src = tree.path(tree.weights[0])
    if dst.name.endswith(SUFFIX) and not dst.is_dir():
        if needs_folder is not None:
            raise ArgumentError(f"{dst}: {needs_folder} needs a config.json beside the weights: name a folder")
        check_target(tree, dst)
        return Files(dst.parent, {tree.weights[0]: dst.name}, alone=True)
    if dst.exists() and not dst.is_dir():
        raise ArgumentError(f"{dst}: is a file: name a folder, or a {SUFFIX} file")
    if dst.resolve() == src.parent.resolve():
        raise ArgumentError(f"{dst}: is the folder of the input {src}: choose another place")
    return Files(dst, {tree.weights[0]: MODEL})


def config_bytes(path: Path, config: Mapping[str, Any], target: str) -> bytes | None:
    """config.json of a result; the source's own bytes where nothing in it changes, None where there is none.

    path  of the source's.
    """
    if path.is_file() and read_json(path) == config:
        return path.read_bytes()
    if not config and not path.is_file():
        return None
    end = "" if target == "compressed-tensors" else "\n"  # where that library writes none, transformers writes one
    return (json.dumps(config, indent=2) + end).encode()


def model_of(path: Path) -> dict[str, Any]:
    """A config.json without what it says about quantisation; empty where there is no such file."""
    if not path.is_file():
        return {}
    return {key: value for key, value in read_json(path).items() if key not in KEYS}


def index_bytes(path: Path, files: Mapping[str, Mapping[str, int]]) -> bytes:
    """The index of the result from that of the source.

    files  file, relative to the index's folder -> the tensors in it, and the bytes of each.
    """
    index = read_index(path)
    covered = {name: files.get(name, {}) for name in index.files()}
    weight_map = {tensor: name for name, tensors in covered.items() for tensor in tensors}
    total = sum(sum(tensors.values()) for tensors in covered.values())
    data = {"metadata": index.metadata | {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(data, indent=2) + "\n").encode()


def write(path: Path, data: bytes, overwrite: bool) -> None:
    """A small file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with AtomicFile(path, overwrite=overwrite) as file:
        file.write(data)
