"""`diff`: what differs between two checkpoints, tensor by tensor, whatever each is stored as."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arraycodec.base import Codec
from arraycodec.checkpoints.measure import Difference, compare
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, Progress, ordered, using
from arraycodec.checkpoints.report import codec_label
from arraycodec.checkpoints.tree import located, scan
from arraycodec.checkpoints.weights import Given, Path_, labelled, opened_weights
from arraycodec.containers.view import TensorView

STATUS = ("same", "changed", "incompatible", "removed", "added")


@dataclass(frozen=True)
class Side:
    """A tensor as one of the two checkpoints has it."""

    dtype: str
    shape: tuple[int, ...]
    codec: Codec | None

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        return {"dtype": self.dtype, "shape": list(self.shape), "scheme": codec_label(self.codec)}


@dataclass(frozen=True)
class Change:
    """One tensor: `status` is one of STATUS; "incompatible" are those whose shapes differ."""

    name: str
    status: str
    a: Side | None
    b: Side | None
    difference: Difference | None

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values."""
        return {
            "name": self.name,
            "status": self.status,
            "a": self.a and self.a.to_json(),
            "b": self.b and self.b.to_json(),
            "difference": self.difference and self.difference.to_json(),
        }


@dataclass(frozen=True)
class Diff:
    """The outcome of `diff`: a row for every tensor of either checkpoint."""

    a: str
    b: str
    rows: tuple[Change, ...]
    notes: tuple[str, ...] = ()  # why weights are compared as the tensors they are stored as

    @property
    def equal(self) -> bool:
        """Whether both hold the same tensors with the same bits."""
        return all(row.status == "same" for row in self.rows)

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors have each status."""
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in STATUS}

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "a": self.a,
            "b": self.b,
            "equal": self.equal,
            "counts": self.counts,
            "notes": list(self.notes),
            "tensors": [row.to_json() for row in self.rows],
        }


def diff(
    a: Path_,
    b: Path_,
    *,
    config: Given = None,
    base: Path_ | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Diff:
    """Compare two checkpoints by the names of their weights; files and folders, of any two formats.

    Errors are relative to `a`. Only two tensors at a time are in memory.

    config  a quantization_config, or its file, for the one whose folder does not hold it.
    base    the checkpoint that deltas of either are to.

    >>> diff("model.safetensors", "model.nf4.safetensors").counts  # doctest: +SKIP
    {'same': 65, 'changed': 36, 'incompatible': 0, 'removed': 0, 'added': 0}
    """
    first, second = scan(a), scan(b)
    how: dict[str, Any] = {"hint": config, "base": base, "strict": False}
    with opened_weights(first, **how) as left, opened_weights(second, **how) as right, using(jobs) as threads:
        mine = {name: tensor for name, (_, tensor) in labelled(left).items()}
        other = {name: tensor for name, (_, tensor) in labelled(right).items()}
        both = [name for name in mine if name in other and mine[name].shape == other[name].shape]
        cost = {
            name: sum(t.spec.nbytes + (t.nbytes if t.codec else 0) for t in (mine[name], other[name])) for name in both
        }
        done, found = Done(sum(cost.values()), progress), {}
        budget = max([MIN_BUDGET, *cost.values()])
        for name, difference in ordered(
            lambda name: of_two(mine[name], other[name]), both, cost.__getitem__, threads, budget
        ):
            found[name] = difference
            done.add(cost[name], name)
        rows = [_change(name, mine.get(name), other.get(name), found.get(name)) for name in mine | other]
    notes = (folder.unread for folder in (*left, *right) if folder.unread)
    return Diff(str(first.where), str(second.where), tuple(rows), tuple(notes))


def of_two(a: TensorView, b: TensorView) -> Difference:
    """The difference of two tensors of the same shape, decoded where they are encoded."""
    with located(Path(a.path), a.name):
        x = a.decode()
    with located(Path(b.path), b.name):
        y = b.decode()
    if x.shape != y.shape:  # sub-byte dtypes of different widths: what is in memory is not comparable
        return Difference(False, a.spec.size, float("inf"), float("inf"), float("inf"), float("-inf"))
    return compare(x, y)


def _change(name: str, a: TensorView | None, b: TensorView | None, difference: Difference | None) -> Change:
    if a is None or b is None:
        status = "removed" if b is None else "added"
    elif difference is None:
        status = "incompatible"
    else:
        status = "same" if difference.identical and a.dtype == b.dtype else "changed"
    return Change(name, status, _side(a), _side(b), difference)


def _side(tensor: TensorView | None) -> Side | None:
    return None if tensor is None else Side(tensor.dtype, tensor.shape, tensor.codec)
