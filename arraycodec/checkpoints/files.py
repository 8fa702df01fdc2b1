"""Where the files of a checkpoint go: never onto or into the input, never over others unless asked to."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from pathlib import Path

from arraycodec.checkpoints.pipeline import Done
from arraycodec.checkpoints.tree import Tree
from arraycodec.containers.atomic import AtomicFile
from arraycodec.errors import ArgumentError
from arraycodec.registry import SCHEMES

PIECE = 1 << 22  # bytes copied or hashed at a time


def check_target(tree: Tree, dst: Path) -> dict[str, Path]:
    """name -> where it goes, for all files of a tree; ArgumentError where `dst` is, or lies in, what is read."""
    if tree.single:
        src = tree.root / tree.weights[0]
        if dst.is_dir():
            raise ArgumentError(f"{dst}: is a folder, but {src} is a file: name the file to write")
        if dst.resolve() == src.resolve() or (dst.exists() and dst.samefile(src)):
            raise ArgumentError(f"{dst}: is the input itself")
        return {tree.weights[0]: dst}
    src, target = tree.root.resolve(), dst.resolve()
    if target == src or src in target.parents:
        raise ArgumentError(f"{dst}: is the input folder {tree.root} itself, or lies in it")
    if target in src.parents:
        raise ArgumentError(f"{dst}: holds the input folder {tree.root}: choose another place")
    if dst.exists() and not dst.is_dir():
        raise ArgumentError(f"{dst}: is a file, but {tree.root} is a folder: name a folder to write to")
    return {name: dst / name for name in (*tree.weights, *tree.others, *tree.indexes)}


def refuse_existing(targets: Iterable[Path]) -> None:
    """FileExistsError for the first target that is there, before anything is written."""
    for path in targets:
        if path.exists() or path.is_symlink():
            raise FileExistsError(errno.EEXIST, "exists already, and overwrite is not set", str(path))


def copy(src: Path, dst: Path, overwrite: bool) -> None:
    """The same bytes, whole or not at all."""
    dst.parent.mkdir(parents=True, exist_ok=True)
    with src.open("rb") as source, AtomicFile(dst, overwrite=overwrite) as target:
        while piece := source.read(PIECE):
            target.write(piece)


def sha256(path: Path, done: Done) -> str:
    """The hash of a whole file, by which anyone can prove later that a file is the original."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            done.add(len(piece), "sha256")
    return digest.hexdigest()


def default_target(src: Path, suffix: str) -> Path:
    """Where a result goes that was given no name: `model.nf4.safetensors` beside a file, `model-nf4` beside a folder.

    >>> default_target(Path("model.nf4.safetensors"), "decompressed").name
    'model.decompressed.safetensors'
    """
    if src.is_dir():
        src = src.resolve()
        stem, mark, last = src.name.rpartition("-")
        return src.parent / f"{stem if mark and last in SCHEMES else src.name}-{suffix}"
    stem, mark, last = src.name.removesuffix(".safetensors").rpartition(".")
    return (
        src.parent
        / f"{stem if mark and last in SCHEMES else src.name.removesuffix('.safetensors')}.{suffix}.safetensors"
    )
