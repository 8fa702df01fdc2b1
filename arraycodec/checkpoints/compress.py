"""`compress`: a checkpoint's matrices encoded, everything else as it was, one tensor in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from arraycodec import api
from arraycodec.base import Codec, Encoded
from arraycodec.checkpoints.files import check_target, copy, refuse_existing, sha256
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, Progress, ordered, using
from arraycodec.checkpoints.policy import Decision, Policy
from arraycodec.checkpoints.report import Report, Row, codec_label, total
from arraycodec.checkpoints.tree import Tree, label, located, opened, scan
from arraycodec.containers.frame import frame_size
from arraycodec.containers.manifest import Source
from arraycodec.containers.safetensors import SafetensorsFile
from arraycodec.containers.writer import Writer, head_size
from arraycodec.errors import ArgumentError, NonFiniteError
from arraycodec.spec import ArraySpec


def compress(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    scheme: str | Codec = "nf4",
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    jobs: int | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Compress a safetensors file, or a folder of shards as the Hub lays it out, into native containers.

    Tensors keep their names, shards theirs; other files are copied as they are, an index last. What `Policy` leaves
    alone and what holds NaN or infinity stays plain. The input is never touched, and `decompress` gives its layout
    back. Each file appears whole or not at all; the bytes written do not depend on `jobs`.

    scheme     a scheme's name, or a codec.
    include    patterns of tensor names to encode beyond the default rule, `exclude` of those to leave plain.
    jobs       threads; None is as many as `get_num_threads()` says.
    dry_run    decide and predict sizes from the headers alone; nothing is written.
    overwrite  replace files that are there.
    progress   called with (bytes done, bytes in all, tensor at hand).

    >>> report = compress("model.safetensors", "model.nf4.safetensors", "nf4", exclude=["*embed*"])  # doctest: +SKIP
    >>> report.ratio, report.rows[0].reason  # doctest: +SKIP
    """
    include, exclude = ((p,) if isinstance(p, str) else tuple(p) for p in (include, exclude))
    policy = Policy(scheme, include, exclude)
    tree = scan(src)
    targets = check_target(tree, Path(dst))
    rows = _decide(tree, policy)
    if not any(row.codec for row in rows):
        raise ArgumentError(f"{tree.where}: nothing to encode with {policy.label}: {_reasons(rows)}")
    if not dry_run and not overwrite:
        refuse_existing(targets.values())
    files = []
    with using(jobs) as threads:
        done = Done(2 * sum(row.before for row in rows), progress)  # hashed, then encoded
        written: list[Row] = []
        for name in tree.weights:
            own = [row for row in rows if row.file == name]
            if dry_run:
                size = _predict(tree.path(name), own)
            else:
                own = _compress_file(tree.path(name), targets[name], own, threads, overwrite, done)
                size = targets[name].stat().st_size
            written += own
            files.append((name, tree.path(name).stat().st_size, size))
    if not dry_run:
        for name in (*tree.others, *tree.indexes):
            copy(tree.path(name), targets[name], overwrite)
    return Report(str(tree.where), str(dst), policy.label, dry_run, tuple(written), tuple(files))


def _decide(tree: Tree, policy: Policy) -> list[Row]:
    """The row of every tensor, in the order of files and of data, from headers alone."""
    rows = []
    with opened(tree) as files:
        for file, container in files.items():
            if container.native:
                codecs = {codec_label(t.codec) for t in container.values() if t.codec}
                held = f" (holds {', '.join(sorted(map(str, codecs)))})" if codecs else ""
                raise ArgumentError(f"{tree.path(file)}: is compressed already{held}; decompress it first")
            with located(tree.path(file)):
                for name, tensor in container.items():
                    found = policy.decide(label(file, name), tensor.dtype, tensor.spec.known_shape)
                    after = _size(tensor.spec, found)
                    rows.append(
                        Row(file, name, tensor.dtype, tensor.shape, found.codec, found.reason, tensor.nbytes, after)
                    )
    policy.check_patterns(label(row.file, row.name) for row in rows)
    return rows


def _size(spec: ArraySpec, decision: Decision) -> int | None:
    """The bytes a tensor will take, where they do not depend on its data."""
    if decision.codec is None:
        return spec.nbytes
    planes = decision.codec.planes(spec)
    return frame_size(decision.codec, spec, planes) if all(p.fixed for p in planes.values()) else None


def _predict(path: Path, rows: list[Row]) -> int | None:
    """The size of the file that these rows will make."""
    if (data := total([row.after for row in rows])) is None:
        return None
    with SafetensorsFile(path) as file:
        plan = [(row.name, file.tensors[row.name].spec, row.codec) for row in rows]
        return head_size(plan, file.metadata, Source(file.header.raw, "0" * 64)) + data


def _compress_file(src: Path, dst: Path, rows: list[Row], jobs: int, overwrite: bool, done: Done) -> list[Row]:
    """One file; once more where tensors turned out to be better left plain, since a container's plan comes first."""
    with located(src), SafetensorsFile(src) as file:
        source = Source(file.header.raw, sha256(src, done))
        start = done.bytes
        try:
            return _write(file, dst, rows, source, jobs, overwrite, done)
        except _StayPlain as found:
            done.bytes = start
            plain = {
                row.name: replace(row, codec=None, reason=found.reasons[row.name], after=row.before)
                for row in rows
                if row.name in found.reasons
            }
            rows = [plain.get(row.name, row) for row in rows]
            return _write(file, dst, rows, source, jobs, overwrite, done)


class _StayPlain(Exception):
    """Tensors that a codec cannot or should not encode, which only their values show; name -> reason."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self.reasons = reasons


def _write(
    file: SafetensorsFile, dst: Path, rows: list[Row], source: Source, jobs: int, overwrite: bool, done: Done
) -> list[Row]:
    by_name = {row.name: row for row in rows}
    plan = [(row.name, file.tensors[row.name].spec, row.codec) for row in rows]
    sizes: dict[str, int] = {}
    reasons: dict[str, str] = {}
    dst.parent.mkdir(parents=True, exist_ok=True)
    with Writer(dst, plan, metadata=file.metadata, source=source, overwrite=overwrite) as writer:

        def work(name: str) -> Any:
            with located(Path(file.path), name):
                array, codec = file.array(name), by_name[name].codec
                return array if codec is None else api.encode(array, codec, check=False)

        budget = max([MIN_BUDGET, *(row.before for row in rows)])
        for name, value in ordered(work, writer.order, lambda name: by_name[name].before, jobs, budget):
            if reason := _refused(value, by_name[name]):
                reasons[name] = reason
            elif not reasons:  # otherwise this pass only goes on to find all such tensors
                sizes[name] = writer.add(name, value, check=False)
            del value
            done.add(by_name[name].before, name)
        if reasons:
            raise _StayPlain(reasons)
    return [replace(row, after=sizes[row.name]) for row in rows]


def _refused(value: Any, row: Row) -> str | None:
    """Why a tensor that was encoded had better stay plain after all."""
    if not isinstance(value, Encoded):
        return None
    try:
        api.check_finite(value)
    except NonFiniteError:
        return "holds NaN or infinity: stays plain"
    if value.nbytes > row.before and not row.reason.startswith("included"):
        return "the codec makes it larger"
    return None


def _reasons(rows: list[Row]) -> str:
    found: dict[str, int] = {}
    for row in rows:
        found[row.reason] = found.get(row.reason, 0) + 1
    return "; ".join(f"{reason} ({count})" for reason, count in found.items()) or "it holds no tensors"
