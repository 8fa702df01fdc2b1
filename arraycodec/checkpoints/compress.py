"""`compress`: a checkpoint's matrices encoded, everything else as it was, one tensor in memory at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec.base import Codec, Encoded, Then
from arraycodec.checkpoints.base_tensors import BaseTensors, opened_base
from arraycodec.checkpoints.coding import Coded, Ties, code, digest_of
from arraycodec.checkpoints.files import Hashing, check_target, copy, refuse_existing, undone_on_failure
from arraycodec.checkpoints.importance import Importance, Vectors, opened_importance
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, Progress, ordered, using
from arraycodec.checkpoints.policy import Decision, Policy
from arraycodec.checkpoints.report import Report, Row, codec_label, total
from arraycodec.checkpoints.scheme import Request, request
from arraycodec.checkpoints.tree import Tree, label, located, opened, scan
from arraycodec.checkpoints.weights import NATIVE, PLAIN, opened_weights
from arraycodec.codecs.tied import Tied
from arraycodec.containers.frame import frame_size
from arraycodec.containers.manifest import Source
from arraycodec.containers.safetensors import SafetensorsFile
from arraycodec.containers.writer import Stored, Writer, head_size
from arraycodec.errors import ArgumentError
from arraycodec.spec import ArraySpec


def compress(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    scheme: str | Codec | None = None,
    *,
    mode: str | None = None,
    base: str | os.PathLike[str] | None = None,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    importance: Vectors = None,
    jobs: int | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Compress a safetensors file, or a folder of shards as the Hub lays it out, into native containers.

    Checkpoints in other programs' formats are compressed losslessly only, as the tensors they are stored as.

    Tensors keep their names, shards theirs; other files are copied as they are, an index last. What `Policy` leaves
    alone, what holds NaN or infinity under a lossy scheme, and what does not shrink stays plain. The input is never
    touched, and `decompress` gives its layout back, and its very bytes where all was coded losslessly. Each file
    appears whole or not at all; the bytes written do not depend on `jobs`. Memory is that of the largest tensors.

    scheme      a scheme's name, or a codec; None is "nf4", or lossless where a mode or a base is given.
    mode        "balanced", "storage" or "inference": lossless coding of every tensor of at least 4 KB; with a lossy
                scheme, of its codes and scales. Tensors with the bytes of another one are stored once.
    base        a checkpoint, plain or compressed, that tensors of the same name, shape and dtype are stored as exact
                differences to, where that is smaller; needed again to read them.
    include     patterns of tensor names to encode beyond the default rule, `exclude` of those to leave plain.
    importance  how much the squared error of each column of a tensor counts, for the codecs `tcq`, `lut` and `pqr`:
                name -> float32 (columns,), finite, not negative, not all 0, as arrays or in a safetensors file, which
                `arraycodec_torch.nn.importance` finds. Tensors without a vector are encoded without; vectors are not
                stored. ArgumentError for a vector of no tensor or of another length, before anything is written.
    jobs        threads; None is as many as `get_num_threads()` says.
    dry_run     decide and predict sizes from the headers alone; nothing is written.
    overwrite   replace files that are there.
    progress    called with (bytes done, bytes in all, tensor at hand).

    >>> report = compress("model.safetensors", "model.nf4.safetensors", "nf4", exclude=["*embed*"])  # doctest: +SKIP
    >>> report.ratio, report.rows[0].reason  # doctest: +SKIP
    >>> compress("model.safetensors", "small.safetensors", "tcq4", importance="vectors.safetensors")  # doctest: +SKIP
    >>> compress("tuned.safetensors", "tuned.delta.safetensors", base="model.safetensors").ratio  # doctest: +SKIP
    """
    include, exclude = ((p,) if isinstance(p, str) else tuple(p) for p in (include, exclude))
    wanted = request(scheme, mode, base is not None)
    policy = Policy(wanted.scheme, include, exclude)
    tree = scan(src)
    targets = check_target(tree, Path(dst), None if base is None else scan(base))
    if not policy.codec.lossless:
        _refuse_foreign(tree)
    with opened_base(base) as tensors, opened_importance(importance, policy.codec) as vectors:
        rows = _decide(tree, policy, wanted, tensors, vectors)
        if not any(row.codec for row in rows) and not policy.codec.lossless:
            raise ArgumentError(f"{tree.where}: nothing to encode with {policy.label}: {_reasons(rows)}")
        if vectors is not None:
            vectors.check(tree, rows, targets.values(), policy.codec)
        if dry_run:
            sizes = [(name, _predict(tree.path(name), [r for r in rows if r.file == name])) for name in tree.weights]
        else:
            if not overwrite:
                refuse_existing(targets.values())
            rows = _compress_all(tree, targets, rows, policy.codec, tensors, vectors, jobs, overwrite, progress)
            sizes = [(name, targets[name].stat().st_size) for name in tree.weights]
    files = tuple((name, tree.path(name).stat().st_size, size) for name, size in sizes)
    where = None if tensors is None else str(tensors.tree.where)
    return Report(str(tree.where), str(dst), wanted.label, dry_run, tuple(rows), files, where)


def _refuse_foreign(tree: Tree) -> None:
    """ArgumentError where weights are in another program's format, whose scales a lossy scheme would encode too."""
    with opened_weights(tree, strict=False, bases=False) as folders:
        for folder in folders:
            if folder.unread or folder.format not in (PLAIN, NATIVE):
                told = folder.unread or f"{tree.root / folder.name}: is in the format {folder.format}"
                raise ArgumentError(f"{told}; a lossy scheme takes what convert to arraycodec or dense makes of it")


def _decide(
    tree: Tree, policy: Policy, wanted: Request, base: BaseTensors | None, importance: Importance | None
) -> list[Row]:
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
                    if base is not None and wanted.delta is not None and found.codec is not None:
                        unlike = base.of(file).unlike(name, tensor.spec, wanted.delta)
                        told = f"{found.reason}, {unlike or 'delta'}"
                        found = Decision(wanted.delta if unlike is None else found.codec, told)
                    if importance is not None and found.codec is not None and label(file, name) in importance:
                        found = Decision(found.codec, f"{found.reason}, with importance")
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
    if decision.codec.lossless:  # it may be tied to another one
        return None
    planes = decision.codec.planes(spec)
    return frame_size(decision.codec, spec, planes) if all(p.fixed for p in planes.values()) else None


def _predict(path: Path, rows: list[Row]) -> int | None:
    """The size of the file that these rows will make."""
    if (data := total([row.after for row in rows])) is None:
        return None
    with SafetensorsFile(path) as file:
        plan = [(row.name, file.tensors[row.name].spec, _allowed(row)) for row in rows]
        return head_size(plan, file.metadata, Source(file.header.raw, "0" * 64)) + data


def _allowed(row: Row, plain: Codec | None = None, tie: Tied | None = None) -> Stored:
    """The ways to store a tensor: as planned, in ways that its values may make better, or plain."""
    if (codec := row.codec) is None:
        return None
    ways: list[Codec | None] = [codec, None]
    if isinstance(codec, Then) and not codec.outer.lossless:
        lossy = {plane: part for plane, part in codec.parts if not part.lossless}
        own = [(plane, part) for plane, part in codec.parts if part.lossless]
        for kept in (subset for size in range(len(own)) for subset in combinations(own, size)):
            ways.append(Then(codec.outer, (*lossy.items(), *kept)) if lossy or kept else codec.outer)
    ways += [way for way in (plain, tie) if way is not None and way != codec]
    return tuple(ways)


@dataclass(frozen=True)
class _Work:
    """What all files of a checkpoint share while they are compressed."""

    plain: Codec  # of tensors that are no deltas
    base: BaseTensors | None
    importance: Importance | None
    hashing: Hashing  # of the base's files
    ties: Ties
    files: dict[str, SafetensorsFile]  # those of the checkpoint
    jobs: int
    overwrite: bool
    done: Done


def _compress_all(
    tree: Tree, targets: dict[str, Path], rows: list[Row], plain: Codec, base: BaseTensors | None,
    importance: Importance | None, jobs: int | None, overwrite: bool, progress: Progress | None,
) -> list[Row]:  # fmt: skip
    written: list[Row] = []
    unhashed = [path for _, path in base.unhashed()] if base is not None else []
    nbytes = sum(path.stat().st_size for path in unhashed) + 2 * sum(row.before for row in rows)  # hashed, then encoded
    with using(jobs) as threads, ExitStack() as stack:
        done, files = Done(nbytes, progress), {}
        for name in tree.weights:
            with located(tree.path(name)):
                files[name] = stack.enter_context(SafetensorsFile(tree.path(name)))
        hashing = stack.enter_context(Hashing(unhashed, done, threads > 1))
        work = _Work(plain, base, importance, hashing, Ties(), files, threads, overwrite, done)
        finished = stack.enter_context(undone_on_failure(overwrite))
        for name in tree.weights:
            with located(tree.path(name)):
                written += _compress_file(name, targets[name], {r.name: r for r in rows if r.file == name}, work)
            finished.append(targets[name])
        for name in (*tree.others, *tree.indexes):
            copy(tree.path(name), targets[name], overwrite)
            finished.append(targets[name])
    return written


def _compress_file(name: str, dst: Path, rows: dict[str, Row], work: _Work) -> list[Row]:
    """One file: its frames, then what is plain or turned out to be better left so; its hash is found meanwhile."""
    file, base = work.files[name], work.base
    ties = work.ties.widest(name, rows.values())
    plan = [
        (row.name, file.tensors[row.name].spec, _allowed(row, work.plain, ties.get(row.name))) for row in rows.values()
    ]
    dst.parent.mkdir(parents=True, exist_ok=True)
    with Hashing([Path(file.path)], work.done, work.jobs > 1) as hashing, Writer(
        dst, plan, metadata=file.metadata, source=Source(file.header.raw, "0" * 64),
        base=None if base is None else base.record(None), overwrite=work.overwrite,
    ) as writer:  # fmt: skip
        frames = [key for key in writer.order if rows[key].codec is not None]
        for key, coded in _in_order(lambda key: _code(file, rows[key], work), frames, rows, work):
            value, reason = _tied(file, rows[key], coded, work)
            row = rows[key] if reason is None else replace(rows[key], reason=reason)
            if value is None:
                writer.leave_plain(key)
                rows[key] = replace(row, codec=None)
            else:
                rows[key] = replace(row, codec=value.codec, after=writer.add(key, value, check=False))
                work.done.add(row.before, key)
            del coded, value
        for key, array in _in_order(file.array, writer.left, rows, work):
            rows[key] = replace(rows[key], after=writer.add(key, array))
            work.done.add(rows[key].before, key)
            del array
        writer.source = Source(file.header.raw, hashing.result()[0])
        writer.base = None if base is None else base.record(work.hashing.result())
    return list(rows.values())


def _in_order(run: Callable[[str], Any], names: Sequence[str], rows: dict[str, Row], work: _Work) -> Iterator[Any]:
    """`ordered` for tensors of a file, by the bytes that they take in memory."""
    arrays = 1 if work.base is None else 2
    budget = max([MIN_BUDGET, *(arrays * row.before for row in rows.values())])
    return ordered(run, names, lambda name: arrays * rows[name].before, work.jobs, budget)


def _code(file: SafetensorsFile, row: Row, work: _Work) -> Coded:
    with located(Path(file.path), row.name):
        array, digest = file.array(row.name), None
        if row.codec is not None and row.codec.lossless:
            digest = digest_of(array)
            if work.ties.seen(row.file, digest):
                return Coded(None, None, digest)  # which earlier one it is tied to is found in the order of the file
        importance = None if work.importance is None else work.importance.of(label(row.file, row.name))
        return code(array, row, work.plain, _base_array(row, work), importance)._replace(digest=digest)


def _base_array(row: Row, work: _Work) -> np.ndarray | None:
    if work.base is None or row.codec is None or row.codec == work.plain:
        return None
    tensor = work.base.of(row.file)[row.name]
    with located(Path(tensor.path), tensor.name):
        return tensor.decode()


def _tied(file: SafetensorsFile, row: Row, coded: Coded, work: _Work) -> tuple[Encoded | None, str | None]:
    """What is stored of a tensor and why: a tie where an earlier one has its bytes, else what it was encoded to."""
    if coded.digest is None:
        return coded.value, coded.reason
    if (tied := work.ties.tie(file, row, coded.digest, work.files)) is not None:
        other = label(row.file, tied.codec.tensor) if isinstance(tied.codec, Tied) else ""
        return tied, f"the same bytes as {other}"
    if coded.value is None and coded.reason is None:  # equal hashes of different bytes
        coded = code(file.array(row.name), row, work.plain, _base_array(row, work))
    return coded.value, coded.reason


def _reasons(rows: list[Row]) -> str:
    found: dict[str, int] = {}
    for row in rows:
        found[row.reason] = found.get(row.reason, 0) + 1
    return "; ".join(f"{reason} ({count})" for reason, count in found.items()) or "it holds no tensors"
