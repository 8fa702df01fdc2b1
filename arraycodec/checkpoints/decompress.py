"""`decompress`: plain safetensors again, in the layout that the checkpoint had before it was compressed."""

from __future__ import annotations

import os
from pathlib import Path

from arraycodec.checkpoints.files import check_target, copy, refuse_existing
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, Progress, ordered, using
from arraycodec.checkpoints.report import Report, Row, codec_label
from arraycodec.checkpoints.tree import located, opened, scan
from arraycodec.containers.checks import shown
from arraycodec.containers.reader import Container
from arraycodec.containers.safetensors import Header, SafetensorsWriter, make_header, parse_header
from arraycodec.errors import ArgumentError, CorruptError


def decompress(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    *,
    jobs: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Decode a container, or a folder of them, to plain safetensors files; checksums are checked on the way.

    Each file gets the header of the file it was compressed from, byte for byte, so where all codecs are lossless
    the whole file is the original. Arguments are those of `compress`.

    >>> decompress("model.nf4.safetensors", "model.safetensors")  # doctest: +SKIP
    """
    tree = scan(src)
    targets = check_target(tree, Path(dst))
    rows, sizes = [], []
    with opened(tree) as files, using(jobs) as threads:
        if not any(container.native for container in files.values()):
            raise ArgumentError(f"{tree.where}: is not compressed: no arraycodec container is here")
        if not overwrite:
            refuse_existing(targets.values())
        done = Done(sum(t.spec.nbytes for c in files.values() if c.native for t in c.values()), progress)
        for name, container in files.items():
            if container.native:
                with located(tree.path(name)):
                    rows += _decompress_file(name, container, targets[name], threads, overwrite, done)
            else:
                copy(tree.path(name), targets[name], overwrite)
            sizes.append((name, tree.path(name).stat().st_size, targets[name].stat().st_size))
    for name in (*tree.others, *tree.indexes):
        copy(tree.path(name), targets[name], overwrite)
    return Report(str(tree.where), str(dst), "plain", False, tuple(rows), tuple(sizes))


def _decompress_file(file: str, container: Container, dst: Path, jobs: int, overwrite: bool, done: Done) -> list[Row]:
    header, rows = original_header(container), []
    dst.parent.mkdir(parents=True, exist_ok=True)
    with SafetensorsWriter(dst, header, overwrite=overwrite) as writer:
        cost = {name: tensor.spec.nbytes for name, tensor in container.items()}
        budget = max([MIN_BUDGET, *cost.values()])
        for name, array in ordered(
            lambda name: container[name].decode(), [*header.tensors], cost.__getitem__, jobs, budget
        ):
            writer.add(name, array)
            del array  # so that it is gone before the next one is decoded
            tensor = container[name]
            reason = f"decoded from {codec_label(tensor.codec)}" if tensor.codec else "plain"
            rows.append(Row(file, name, tensor.dtype, tensor.shape, tensor.codec, reason, tensor.nbytes, cost[name]))
            done.add(cost[name], name)
    return rows


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
