"""Where the files of a checkpoint go: never onto or into the input, never over others unless asked to."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event

from arraycodec.checkpoints.pipeline import Done
from arraycodec.checkpoints.scheme import LABELS
from arraycodec.checkpoints.tree import Tree
from arraycodec.containers.atomic import AtomicFile
from arraycodec.containers.shards import SUFFIX
from arraycodec.errors import ArgumentError
from arraycodec.registry import SCHEMES

PIECE = 1 << 22  # bytes copied or hashed at a time


def check_target(tree: Tree, dst: Path, base: Tree | None = None) -> dict[str, Path]:
    """name -> where it goes, for all files of a tree; ArgumentError where `dst` is, or lies in, what is read.

    base  another checkpoint that is read, and needed later: none of its files may be replaced.
    """
    targets = _targets(tree, dst)
    files = () if base is None else (base.path(name).stat() for name in (*base.weights, *base.others, *base.indexes))
    kept = {(file.st_dev, file.st_ino) for file in files}
    for path in targets.values():
        if path.exists() and ((found := path.stat()).st_dev, found.st_ino) in kept:
            raise ArgumentError(f"{path}: is a file of the base, which is needed to read the deltas")
    return targets


def _targets(tree: Tree, dst: Path) -> dict[str, Path]:
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


@contextmanager
def undone_on_failure(overwrite: bool) -> Iterator[list[Path]]:
    """A list for the files that the block has written; where it fails they are removed again, unless it overwrites.

    So that the same call can be made once more. What was overwritten cannot come back: there the new files stay.
    """
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for path in () if overwrite else written:
            path.unlink(missing_ok=True)
        raise


def copy(src: Path, dst: Path, overwrite: bool) -> None:
    """The same bytes, whole or not at all."""
    dst.parent.mkdir(parents=True, exist_ok=True)
    with src.open("rb") as source, AtomicFile(dst, overwrite=overwrite) as target:
        while piece := source.read(PIECE):
            target.write(piece)


def sha256(path: Path, done: Done, stop: Event | None = None) -> str:
    """The hash of a whole file, by which anyone can prove later that a file is the original."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while (piece := file.read(PIECE)) and not (stop and stop.is_set()):
            digest.update(piece)
            done.add(len(piece), "sha256")
    return digest.hexdigest()


class Hashing:
    """The sha256 of files, found while other work goes on; as a context manager it stops where that work fails.

    background  False: the files are hashed at once, by the caller's own thread.
    """

    def __init__(self, paths: Iterable[Path], done: Done, background: bool) -> None:
        self._stop = Event()
        self._pool = ThreadPoolExecutor(1, "arraycodec-sha256") if background else None
        self._found: list[Callable[[], str]] = []
        for path in paths:
            if self._pool:
                self._found.append(self._pool.submit(sha256, path, done, self._stop).result)
            else:
                self._found.append(partial(str, sha256(path, done)))

    def result(self) -> list[str]:
        """The hashes, once they are there, in the order of the paths."""
        return [found() for found in self._found]

    def __enter__(self) -> Hashing:
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)


def default_target(src: Path, suffix: str) -> Path:
    """Where a result goes that was given no name: `model.nf4.safetensors` beside a file, `model-nf4` beside a folder.

    >>> default_target(Path("model.nf4.safetensors"), "decompressed").name
    'model.decompressed.safetensors'
    """
    mark = "-" if src.is_dir() else "."
    name = src.resolve().name if src.is_dir() else src.name.removesuffix(SUFFIX)
    for ending in sorted({*SCHEMES, *LABELS}, key=len, reverse=True):  # of a compressed checkpoint: what it is called
        stem, found, rest = name.rpartition(f"{mark}{ending}")
        if found and stem and (not rest or rest.startswith("+")):
            name = stem
            break
    return (src.resolve() if src.is_dir() else src).parent / f"{name}{mark}{suffix}{'' if src.is_dir() else SUFFIX}"
