"""A checkpoint on disk: one safetensors file, or a folder as the Hub lays it out (shards, index, configuration)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from arraycodec.containers.checks import shown
from arraycodec.containers.reader import Container, LazyTensor, open_file
from arraycodec.containers.shards import INDEX_SUFFIX, SUFFIX, pickles, read_index
from arraycodec.errors import ArgumentError, ArrayCodecError
from arraycodec.formats.gguf import model_in


@dataclass(frozen=True)
class Tree:
    """What a path given by the user holds; names are relative to `root`, with forward slashes, sorted.

    A single file is a tree of one name, whose root is the file's folder.
    """

    root: Path
    single: bool
    weights: tuple[str, ...]  # safetensors files, plain or native containers
    others: tuple[str, ...] = ()  # to be copied as they are
    indexes: tuple[str, ...] = ()  # to be copied last: a reader that finds one may rely on its shards

    def path(self, name: str) -> Path:
        """Where the file of this name is."""
        return self.root / name

    @property
    def where(self) -> Path:
        """The path of the whole: the file or the folder."""
        return self.root / self.weights[0] if self.single else self.root


def scan(path: str | os.PathLike[str]) -> Tree:
    """The checkpoint at `path`: a file, a folder (with its subfolders), or the `*.index.json` in a folder.

    Hidden folders (`.git`, `.cache`) are no part of it. A folder without safetensors that holds one GGUF model is it.
    """
    path = Path(path)
    if path.is_file() and path.name.endswith(INDEX_SUFFIX):
        path = path.parent
    if not path.is_dir():
        path.stat()  # FileNotFoundError and its like, with the path
        return Tree(path.parent, True, (path.name,))
    names = sorted(_files(path))
    weights = tuple(name for name in names if name.endswith(SUFFIX))
    indexes = tuple(name for name in names if name.endswith(SUFFIX + INDEX_SUFFIX))
    if not weights:
        if (model := model_in(path)) is not None:
            return Tree(path, True, (model.name,))
        raise ArgumentError(f"{path}: no {SUFFIX} file in this folder{pickles(names)}")
    others = tuple(name for name in names if name not in {*weights, *indexes})
    return Tree(path, False, weights, others, indexes)


def _files(root: Path) -> Iterator[str]:
    for folder, folders, files in os.walk(root, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders:
            if (link := Path(folder, name)).is_symlink():
                raise ArgumentError(f"{link}: is a link to a folder, which is not followed")
        yield from (Path(folder, name).relative_to(root).as_posix() for name in files)


def _raise(error: OSError) -> None:
    raise error


def label(file: str, name: str) -> str:
    """What patterns and reports call a tensor: its name, after the subfolder its file is in (`unet/conv.weight`)."""
    folder = file.rpartition("/")[0]
    return f"{folder}/{name}" if folder else name


@contextmanager
def opened(tree: Tree, base: Callable[[str], Mapping[str, Any]] | None = None) -> Iterator[dict[str, Container]]:
    """All files of a tree, by name; their headers are read and checked, and that shards are as their index says.

    base  the tensors that deltas of a file are to, by the file's name.
    """
    with ExitStack() as stack:
        files: dict[str, Container] = {}
        for name in tree.weights:
            with located(tree.path(name)):
                files[name] = stack.enter_context(open_file(tree.path(name), base=base and base(name)))
        for name in tree.indexes:
            index = read_index(tree.path(name))
            for shard in index.files():
                file = (PurePosixPath(name).parent / shard).as_posix()
                index.check(shard, files.get(file, ()))
        yield files


def tensors(files: dict[str, Container]) -> dict[str, tuple[str, LazyTensor]]:
    """label -> (file, tensor); a label that two files of a folder share is told apart by its file's name."""
    labels = Counter(label(file, name) for file, container in files.items() for name in container)
    found = {}
    for file, container in files.items():
        for name in container:
            own = label(file, name)
            found[own if labels[own] == 1 else f"{file}:{name}"] = (file, container[name])
    return found


@contextmanager
def located(path: Path, tensor: str | None = None) -> Iterator[None]:
    """Name the file and the tensor in errors from below, each once."""
    try:
        yield
    except ArrayCodecError as error:
        message = str(error)
        if tensor is not None and shown(tensor) not in message:
            message = f"tensor {shown(tensor)}: {message}"
        if str(path) not in message:
            message = f"{path}: {message}"
        if message == str(error):
            raise
        raise type(error)(message) from error
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
