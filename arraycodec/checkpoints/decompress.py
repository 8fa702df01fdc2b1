"""`decompress`: plain safetensors again, in the layout that the checkpoint had before it was compressed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, overload

import numpy as np

from arraycodec.checkpoints.base_tensors import opened_base
from arraycodec.checkpoints.files import check_target, copy, refuse_existing, undone_on_failure
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, Progress, ordered, using
from arraycodec.checkpoints.report import Report, Row, codec_label
from arraycodec.checkpoints.tree import Tree, located, opened, scan, tensors
from arraycodec.containers.checks import limit_bytes, shown, within
from arraycodec.containers.reader import Container, LazyTensor
from arraycodec.containers.safetensors import Header, SafetensorsWriter, make_header, parse_header, plain_bytes
from arraycodec.errors import ArgumentError, CorruptError

Path_ = str | os.PathLike[str]


@overload
def decompress(
    src: Path_,
    dst: Path_,
    *,
    base: Path_ | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report: ...


@overload
def decompress(
    src: Path_,
    dst: None = None,
    *,
    base: Path_ | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]: ...


def decompress(
    src: Path_,
    dst: Path_ | None = None,
    *,
    base: Path_ | None = None,
    jobs: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report | dict[str, np.ndarray]:
    """Decode a container, or a folder of them, to plain safetensors files; checksums are checked on the way.

    Each file gets the header of the file it was compressed from, byte for byte. Where all codecs are lossless the whole
    file is the original: its sha256 is compared before it appears, and CorruptError raised where it is another.

    dst   None: nothing is written; the arrays are returned, by name, as NumPy arrays.
    base  the checkpoint that deltas are to, plain or compressed; a wrong one is refused by its tensors' hashes.

    Other arguments are those of `compress`.

    >>> decompress("model.nf4.safetensors", "model.safetensors")  # doctest: +SKIP
    >>> decompress("model.nf4.safetensors")["embed.weight"].shape  # doctest: +SKIP
    """
    tree = scan(src)
    with opened_with(tree, base) as files, using(jobs) as threads:
        if not any(container.native for container in files.values()):
            raise ArgumentError(f"{tree.where}: is not compressed: no arraycodec container is here")
        if dst is None:
            return _arrays(tree, files, threads, progress)
        targets = check_target(tree, Path(dst), None if base is None else scan(base))
        return _files(tree, files, targets, Path(dst), threads, overwrite, progress)


@contextmanager
def opened_with(tree: Tree, base: Path_ | None) -> Iterator[dict[str, Container]]:
    """The files of a tree, whose deltas are decoded with a base, if one is given."""
    with opened_base(base) as found, opened(tree, None if found is None else found.of) as files:
        for container in files.values():
            if found is None and any(tensor.needs_base for tensor in container.values()):
                made = f" ({shown(container.made_with.name)})" if container.made_with else ""
                raise ArgumentError(
                    f"{container.path}: holds differences to a base{made}: --base (in Python base=) must name it"
                )
        yield files


def _arrays(tree: Tree, files: dict[str, Container], jobs: int, progress: Progress | None) -> dict[str, np.ndarray]:
    found = tensors(files)
    place = {(file, name): i for file, c in files.items() for i, name in enumerate(original_header(c).tensors)}
    found = dict(sorted(found.items(), key=lambda item: (item[1][0], place[item[1][0], item[1][1].name])))
    cost = {name: tensor.spec.nbytes for name, (_, tensor) in found.items()}
    within(sum(cost.values()), limit_bytes(None), f"{tree.where}: all tensors")
    done, arrays = Done(sum(cost.values()), progress), {}

    def work(name: str) -> np.ndarray:
        file, tensor = found[name]
        with located(tree.path(file), tensor.name):
            return tensor.decode()

    for name, array in ordered(work, [*found], cost.__getitem__, jobs, sum(cost.values())):
        arrays[name] = array
        done.add(cost[name], name)
    return arrays


def _files(
    tree: Tree, files: dict[str, Container], targets: dict[str, Path], dst: Path,
    jobs: int, overwrite: bool, progress: Progress | None,
) -> Report:  # fmt: skip
    rows, sizes = [], []
    if not overwrite:
        refuse_existing(targets.values())
    done = Done(sum(t.spec.nbytes for c in files.values() if c.native for t in c.values()), progress)
    with undone_on_failure(overwrite) as written:
        for name, container in files.items():
            if container.native:
                with located(tree.path(name)):
                    rows += _decompress_file(name, container, targets[name], jobs, overwrite, done)
            else:
                copy(tree.path(name), targets[name], overwrite)
            written.append(targets[name])
            sizes.append((name, tree.path(name).stat().st_size, targets[name].stat().st_size))
        for name in (*tree.others, *tree.indexes):
            copy(tree.path(name), targets[name], overwrite)
            written.append(targets[name])
    return Report(str(tree.where), str(dst), "plain", False, tuple(rows), tuple(sizes))


def _decompress_file(file: str, container: Container, dst: Path, jobs: int, overwrite: bool, done: Done) -> list[Row]:
    rows = []
    dst.parent.mkdir(parents=True, exist_ok=True)
    with SafetensorsWriter(dst, original_header(container), overwrite=overwrite) as writer:
        for tensor, array in original(container, jobs):
            writer.add(tensor.name, array)
            del array  # so that it is gone before the next one is decoded
            size, reason = tensor.spec.nbytes, f"decoded from {codec_label(tensor.codec)}" if tensor.codec else "plain"
            rows.append(Row(file, tensor.name, tensor.dtype, tensor.shape, tensor.codec, reason, tensor.nbytes, size))
            done.add(size, tensor.name)
    return rows


def original(container: Container, jobs: int) -> Iterator[tuple[LazyTensor, np.ndarray]]:
    """The tensors of the file that a container was made from, in the order of its data, decoded.

    After the last one CorruptError where the file would not be the original though all codecs are lossless: its sha256,
    which is found while the caller works on each tensor, is another.
    """
    header = original_header(container)
    cost = {name: tensor.spec.nbytes for name, tensor in container.items()}
    budget = max([MIN_BUDGET, *cost.values()])
    check = lossless(container)
    digest = hashlib.sha256(header.head)
    with ExitStack() as stack:
        hashing = stack.enter_context(ThreadPoolExecutor(1)) if check and jobs > 1 else None
        arrays = ordered(lambda name: container[name].decode(), [*header.tensors], cost.__getitem__, jobs, budget)
        for name, array in arrays:
            with _hashed(digest, plain_bytes(name, array, container[name].spec), hashing) if check else nullcontext():
                yield container[name], array
            del array
    if check and container.source and digest.hexdigest() != container.source.sha256:
        raise CorruptError(
            f"{container.path}: the decoded file is not the original: its sha256 is {digest.hexdigest()}, "
            f"that of the original {container.source.sha256}"
        )


@contextmanager
def _hashed(digest: Any, data: np.ndarray, pool: ThreadPoolExecutor | None) -> Iterator[None]:
    """Hash while the block runs, or before it."""
    wait: Callable[[], None] = pool.submit(digest.update, data).result if pool else lambda: digest.update(data)
    if pool is None:
        wait()
    try:
        yield
    finally:
        if pool:
            wait()


def lossless(container: Container) -> bool:
    """Whether the very bytes of the file that it was made from come back."""
    return container.source is not None and all(t.codec is None or t.codec.lossless for t in container.values())


def original_header(container: Container) -> Header:
    """The header that the container's file had before; a new one where it was never a plain file."""
    specs = {name: tensor.spec for name, tensor in container.items()}
    if container.source is None:
        return make_header(specs, container.metadata)
    header = parse_header(container.source.header, f"{container.path}: source header")
    want = {name: tensor.spec for name, tensor in header.tensors.items()}
    if want != specs:
        name = min(n for n in want.keys() | specs.keys() if want.get(n) != specs.get(n))
        raise CorruptError(f"{container.path}: tensor {shown(name)} is not what the source header says")
    return header
