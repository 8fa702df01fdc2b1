"""The checkpoint that deltas are to: its tensors by the names of the other checkpoint, and what it is known by."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from arraycodec.base import Codec
from arraycodec.checkpoints.tree import Tree, label, opened, scan, tensors
from arraycodec.containers.manifest import Base
from arraycodec.containers.reader import Container, LazyTensor
from arraycodec.spec import ArraySpec


@dataclass(frozen=True)
class BaseTensors(Mapping[str, LazyTensor]):
    """The tensors of a base by their labels; with `of` by the names that a file of the other checkpoint has."""

    tree: Tree
    files: Mapping[str, Container]
    found: Mapping[str, LazyTensor]
    file: str = ""

    def of(self, file: str) -> BaseTensors:
        """The same for a file in a subfolder, whose names stand there without the folder's."""
        return BaseTensors(self.tree, self.files, self.found, file)

    def unlike(self, name: str, spec: ArraySpec, delta: Codec) -> str | None:
        """Why a tensor is no delta: what the base has instead; None where it has one of this shape and dtype."""
        if label(self.file, name) not in self.found:
            return "not in the base"
        if (other := self[name].spec) != spec:
            return f"{other.dtype}{list(other.shape)} in the base"
        return None if spec.dtype in delta.dtypes else "no deltas of this dtype"

    def unhashed(self) -> list[tuple[str, Path]]:
        """The files whose sha256 is not known from their manifests."""
        return [(name, self.tree.path(name)) for name, container in self.files.items() if _sha256(container) is None]

    def record(self, hashes: list[str] | None) -> Base:
        """What a manifest keeps of it; `hashes` are those of `unhashed`, None stands for what is not known yet."""
        missing = iter(hashes or ["0" * 64] * len(self.files))
        files = {name: _sha256(container) or next(missing) for name, container in self.files.items()}
        return Base(self.tree.where.resolve().name, files)

    def __getitem__(self, name: str) -> LazyTensor:
        return self.found[label(self.file, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)


def _sha256(container: Container) -> str | None:
    """That of the file a container was made from, where it holds all of it; None: the file itself is to be hashed."""
    exact = all(tensor.codec is None or tensor.codec.lossless for tensor in container.values())
    return container.source.sha256 if container.source and exact else None


@contextmanager
def opened_base(path: str | os.PathLike[str] | None) -> Iterator[BaseTensors | None]:
    """The base at this path, a file or folder, plain or compressed; None where none is given."""
    if path is None:
        yield None
        return
    tree = scan(path)
    with opened(tree) as files:
        yield BaseTensors(tree, files, {name: tensor for name, (_, tensor) in tensors(files).items()})
