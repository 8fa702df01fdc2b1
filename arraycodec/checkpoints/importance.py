"""Importance of columns: a vector for some tensors of a checkpoint, from a mapping or a file, read when it is used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.base import Codec
from arraycodec.checkpoints.policy import closest, outermost
from arraycodec.checkpoints.report import Row
from arraycodec.checkpoints.tree import Tree, label, located
from arraycodec.containers.checks import shown, spec_text
from arraycodec.containers.reader import open_file
from arraycodec.containers.view import TensorView
from arraycodec.errors import ArgumentError
from arraycodec.primitives.normal import integer_weights
from arraycodec.spec import ArraySpec

GIVEN = "importance"  # what codecs call the input

Vectors = str | os.PathLike[str] | Mapping[str, Any] | None


@dataclass(frozen=True)
class Importance:
    """The vectors of a checkpoint's tensors by their labels; `path` is that of their file, None for a mapping."""

    vectors: Mapping[str, Any]
    path: Path | None = None

    def __contains__(self, name: str) -> bool:
        return name in self.vectors

    def of(self, name: str) -> np.ndarray | None:
        """The vector of a tensor; None where it has none."""
        if name not in self.vectors:
            return None
        vector = self.vectors[name]
        return api.to_numpy(vector.decode() if isinstance(vector, TensorView) else vector)

    def check(self, tree: Tree, rows: Iterable[Row], targets: Iterable[Path], codec: Codec) -> None:
        """ArgumentError for a vector of no tensor or that its tensor cannot take; all are read, one at a time.

        And where the file of the vectors is a part of the checkpoint, or of what is going to be written.
        """
        if self.path is not None:
            self._check_apart(self.path, tree, targets)
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(label(row.file, row.name), []).append(row)
        for name in self.vectors:
            if name not in found:
                near = f", closest are {', '.join(map(shown, closest(name, list(found))))}" if found else ""
                raise ArgumentError(f"{self.path or GIVEN}: {shown(name)} is no tensor of {tree.where}{near}")
            for row in found[name]:
                with located(self.path or tree.path(row.file), name):
                    self._check_vector(name, row.shape[-1] if row.shape else 1, outermost(codec))

    def _check_vector(self, name: str, columns: int, codec: Codec) -> None:
        vector, want = self.vectors[name], ArraySpec((columns,), "float32")
        got = vector.spec if isinstance(vector, TensorView) else registry.backend(type(vector)).spec(vector)
        if got != want:  # before it is read: it may be a matrix
            raise ArgumentError(f"{GIVEN} must be {spec_text(want)}, got {spec_text(got)}")
        integer_weights(codec.name, self.of(name), columns)

    @staticmethod
    def _check_apart(path: Path, tree: Tree, targets: Iterable[Path]) -> None:
        if any(path.samefile(tree.path(name)) for name in tree.weights):
            raise ArgumentError(f"{path}: is a file of the input, and would be compressed with it: keep it elsewhere")
        if any(target.exists() and path.samefile(target) for target in targets):
            raise ArgumentError(f"{path}: holds the importance that is read, and cannot be written to")


@contextmanager
def opened_importance(given: Vectors, codec: Codec) -> Iterator[Importance | None]:
    """The vectors in this mapping or safetensors file; ArgumentError for a codec that takes none."""
    if given is None:
        yield None
        return
    if GIVEN not in outermost(codec).inputs:
        able = ", ".join(sorted(name for name, cls in registry.CODECS.items() if GIVEN in cls.inputs))
        raise ArgumentError(f"compress: {GIVEN} is for the codecs {able}, got {codec}")
    if isinstance(given, Mapping):
        yield Importance(given)
        return
    if Path(given).is_dir():
        raise ArgumentError(f"{given}: is a folder: the {GIVEN} must be in one safetensors file")
    with located(Path(given)):
        file = open_file(given)
    with file:
        yield Importance(file, Path(given))
