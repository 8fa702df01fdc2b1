"""`verify`: every checksum of a checkpoint, and on request every tensor against the original."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arraycodec.base import Codec
from arraycodec.checkpoints.decompress import lossless
from arraycodec.checkpoints.decompress import original as original_tensors
from arraycodec.checkpoints.diff import of_two
from arraycodec.checkpoints.files import sha256
from arraycodec.checkpoints.measure import EXACT, Difference
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, Progress, ordered, using
from arraycodec.checkpoints.report import codec_label
from arraycodec.checkpoints.tree import Tree, located, scan
from arraycodec.checkpoints.weights import Given, Path_, labelled, opened_weights, parts
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.reader import Container
from arraycodec.containers.view import TensorView
from arraycodec.errors import ArgumentError, FormatError
from arraycodec.formats.modules import calibrated


@dataclass(frozen=True)
class Check:
    """One tensor: the bytes under a checksum that holds, what is wrong with it, and how far it is from the original."""

    file: str
    name: str
    codec: Codec | None
    nbytes: int  # 0 where the file has no checksums
    problem: str | None
    difference: Difference | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        return {
            "file": self.file,
            "name": self.name,
            "scheme": codec_label(self.codec),
            "bytes_checked": self.nbytes,
            "problem": self.problem,
            "difference": self.difference and self.difference.to_json(),
        }


@dataclass(frozen=True)
class Verification:
    """The outcome of `verify`: a row for every tensor, and problems that are no single tensor's."""

    path: str
    against: str | None
    rows: tuple[Check, ...]
    problems: tuple[str, ...]
    unchecked: tuple[str, ...]  # files without checksums: only their structure could be checked
    rebuilt: tuple[str, ...] = ()  # files that were made again in memory, and have the sha256 of the original
    uncompared: tuple[str, ...] = ()  # tensors that only a base could give: their hashes were compared with nothing
    notes: tuple[str, ...] = ()  # why weights were checked as the tensors they are stored as

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong (files without checksums are not wrong)."""
        return not self.problems and not any(row.problem for row in self.rows)

    @property
    def nbytes(self) -> int:
        """The bytes under checksums that hold."""
        return sum(row.nbytes for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "path": self.path,
            "against": self.against,
            "ok": self.ok,
            "bytes_checked": self.nbytes,
            "problems": list(self.problems),
            "files_without_checksums": list(self.unchecked),
            "files_rebuilt": list(self.rebuilt),
            "tensors_without_base": list(self.uncompared),
            "notes": list(self.notes),
            "tensors": [row.to_json() for row in self.rows],
        }


def verify(
    path: Path_,
    *,
    against: Path_ | None = None,
    config: Given = None,
    base: Path_ | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Read every byte of a checkpoint and check it against its checksums; never stops at the first bad tensor.

    Weights in other programs' formats have none: their codes, scales and shapes are checked, and each is decoded.

    against  the original checkpoint. Its files must be those that the containers were made from (by their sha256).
             Where all of a container is lossless, the whole file is made again in memory, and its sha256 must be that
             of the original too; else plain and losslessly coded tensors must equal the original's bit for bit, and for
             lossy ones the error is reported.
    config   a quantization_config, or its file, for the one whose folder does not hold it.
    base     the checkpoint that deltas are to; needed to compare them. Without an original deltas, and what is tied to
             them, are decoded with it, so that a base which is not that of the hashes is found. Without either only
             their stored bytes are checked.

    A header that makes no sense raises CorruptError: then there are no tensors to report on.

    >>> verify("model.nf4.safetensors", against="model.safetensors").ok  # doctest: +SKIP
    True
    """
    tree, original = scan(path), None if against is None else scan(against)
    bases = original is not None or base is not None  # else nothing that takes a base is decoded, and none is missed
    how: dict[str, Any] = {"hint": config, "strict": False}
    with opened_weights(tree, base=base, bases=bases, **how) as folders, using(jobs) as threads:
        files = {name: container for folder in folders for name, container in folder.files.items()}
        notes = [folder.unread for folder in folders if folder.unread]
        unchecked = tuple(name for name, container in files.items() if not container.native)
        mine = labelled(folders)
        lacking = _reading_base(mine)
        readable = mine.keys() if base is not None else mine.keys() - lacking
        decoded = lacking if base is not None and original is None else set()
        decoded |= {name for name in readable if not isinstance(mine[name][1], LazyTensor)}
        cost = {name: tensor.nbytes + (name in decoded) * 2 * tensor.spec.nbytes for name, (_, tensor) in mine.items()}
        hashed = 0 if original is None else sum(original.path(name).stat().st_size for name in original.weights)
        more = 0 if original is None else sum(tensor.spec.nbytes for _, tensor in mine.values())
        done = Done(sum(cost.values()) + more + hashed, progress)
        budget = max([MIN_BUDGET, *cost.values()])
        rows = {}

        def work(name: str) -> Check:
            return _check(*mine[name], name in decoded)

        for name, check in ordered(work, [*mine], cost.__getitem__, threads, budget):
            rows[name] = check
            done.add(cost[name], name)
        problems: list[str] = []
        rebuilt: list[str] = []
        if original is not None:
            with opened_weights(original, bases=False, **how) as theirs:
                same = {name: _same_source(tree, name, container, original, done) for name, container in files.items()}
                problems += [problem for problem in same.values() if problem]
                whole = {name for name, problem in same.items() if problem is None and lossless(files[name])}
                for name in sorted(whole):
                    if any(rows[label].problem for label, (file, _) in mine.items() if file == name):
                        continue  # what is wrong is known already; the others are compared one by one
                    if problem := _rebuild(files[name], threads, done):
                        problems.append(problem)
                        continue
                    rebuilt.append(name)
                good = {files[name].path for name in rebuilt}
                for name, (_, tensor) in mine.items():
                    if rows[name].problem is None and all(part.path in good for part in parts(tensor)):
                        rows[name] = _with(rows[name], None, EXACT)
                left = {label: found for label, found in mine.items() if rows[label].difference is None}
                problems += _compare(left, labelled(theirs), rows, threads, done)
    where = None if original is None else str(original.where)
    uncompared = tuple(name for name in rows if name in lacking and base is None)
    return Verification(
        str(tree.where),
        where,
        tuple(rows.values()),
        tuple(problems),
        unchecked,
        tuple(rebuilt),
        uncompared,
        tuple(notes),
    )


def _reading_base(mine: dict[str, tuple[str, TensorView]]) -> set[str]:
    """The names of tensors that take a base; a tie to what is not there is found later."""
    found = set()
    for name, (_, tensor) in mine.items():
        with suppress(FormatError):
            if tensor.reads_base:
                found.add(name)
    return found


def _check(file: str, tensor: TensorView, decoded: bool) -> Check:
    """Check the stored bytes; `decoded`: decode too, which shows what no checksum does, and compares a base."""
    try:
        if isinstance(tensor, LazyTensor):
            nbytes = tensor.verify()
        else:
            nbytes = sum(part.verify() for part in parts(tensor)) + (tensor.verify() if decoded else 0)
        if decoded:
            with located(Path(tensor.path), tensor.name):
                tensor.decode()
        return Check(file, tensor.name, tensor.codec, nbytes, None)
    except (FormatError, ArgumentError) as error:
        return Check(file, tensor.name, None, 0, str(error))


def _same_source(tree: Tree, name: str, container: Container, original: Tree, done: Done) -> str | None:
    """What is wrong where the original is not, byte for byte, the file that the container was made from.

    "" where there is nothing to compare with.
    """
    twin = original.weights[0] if tree.single and original.single else name
    if container.source is None or twin not in original.weights:
        return ""
    if sha256(original.path(twin), done) == container.source.sha256:
        return None
    return f"{original.path(twin)}: is not the file that {tree.path(name)} was made from: its sha256 differs"


def _rebuild(container: Container, jobs: int, done: Done) -> str | None:
    """Make the whole original file again, in memory; None where its sha256 is that of the original."""
    try:
        for tensor, array in original_tensors(container, jobs):
            del array  # hashed where it comes from, and gone before the next one is decoded
            done.add(tensor.spec.nbytes, tensor.name)
    except FormatError as error:
        return str(error)
    return None


def _compare(
    mine: dict[str, tuple[str, TensorView]],
    theirs: dict[str, tuple[str, TensorView]],
    rows: dict[str, Check],
    jobs: int,
    done: Done,
) -> list[str]:
    """Fill in the differences of `rows`; the problems that have no row."""
    both = [name for name in mine if name in theirs and rows[name].problem is None]
    cost = {name: mine[name][1].spec.nbytes + theirs[name][1].spec.nbytes for name in both}

    def work(name: str) -> Check:
        a, b = theirs[name][1], mine[name][1]
        if a.spec != b.spec:
            told = f"{b.dtype}{list(b.shape)}, in the original {a.dtype}{list(a.shape)}"
            return _with(rows[name], f"is {told}", None)
        try:
            with located(Path(b.path), b.name):
                found = of_two(a, b)
        except FormatError as error:  # a delta that is read with another base
            return _with(rows[name], str(error), None)
        exact = b.codec is None or b.codec.lossless or a.codec == b.codec
        return _with(rows[name], "differs from the original" if exact and not found.identical else None, found)

    for name, check in ordered(work, both, cost.__getitem__, jobs, max([MIN_BUDGET, *cost.values()])):
        rows[name] = check
        done.add(mine[name][1].spec.nbytes, name)
    for name in mine.keys() - theirs.keys():
        if calibrated(name) and mine[name][1].codec is None:
            continue  # a scale of activations, which no plain original has
        rows[name] = _with(rows[name], rows[name].problem or "is not in the original", None)
    return [f"tensor {name!r} of the original is missing" for name in theirs if name not in rows]


def _with(check: Check, problem: str | None, difference: Difference | None) -> Check:
    return Check(check.file, check.name, check.codec, check.nbytes, problem, difference)
