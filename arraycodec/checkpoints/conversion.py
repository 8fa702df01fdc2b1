"""What converting did, or would do: one row per tensor of the source, totals, and the same as JSON."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from arraycodec.base import Codec
from arraycodec.checkpoints.report import Outcome, codec_label

# What becomes of a tensor. All but the last four are exact: the numbers are those that the source stands for.
HOW = {
    "copied": "plain before and after",
    "kept": "its codes and scales are passed on as they are",
    "decoded": "stored as the array that its codes stand for",
    "encoded": "was plain",
    "inverted": "passed on, but for a scale that is stored as its reciprocal, rounded",
    "re-encoded": "decoded, then encoded with another codec",
    "cast": "rounded to another dtype",
    "dropped": "belongs to the source's quantisation alone",
}
EXACT = ("copied", "kept", "decoded")


@dataclass(frozen=True)
class Converted:
    """One tensor of the source: what it was, what became of it, how (a key of `HOW`) and why, and its stored bytes."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Codec | None
    codec: Codec | None
    how: str
    reason: str
    before: int
    after: int | None  # None: a dry run cannot know the size, since it depends on the data
    stored: tuple[str, ...] = ()  # the tensors that hold it now

    @property
    def exact(self) -> bool:
        """Whether it stands for the same numbers as before."""
        return self.how in EXACT

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values; codecs by their schemes' names, the new one also in full."""
        return {
            "file": self.file,
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "from": codec_label(self.source),
            "to": codec_label(self.codec),
            "codec": self.codec and self.codec.to_json(),
            "how": self.how,
            "reason": self.reason,
            "bytes_before": self.before,
            "bytes_after": self.after,
            "stored_as": list(self.stored),
        }


@dataclass(frozen=True)
class Conversion(Outcome):
    """The outcome of `convert`; rows, and every byte written, are the same whatever `jobs` was."""

    src: str
    dst: str
    source: str  # the format of the source, or its formats
    to: str
    dry_run: bool
    rows: tuple[Converted, ...]
    files: tuple[tuple[str, int, int | None], ...]  # name, bytes before, bytes after
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """How many tensors were copied, kept, decoded, ...: the keys of `HOW` that there are."""
        found = Counter(row.how for row in self.rows)
        return {how: found[how] for how in HOW if found[how]}

    @property
    def exact(self) -> bool:
        """Whether every tensor that is kept stands for the same numbers as before."""
        return all(row.exact for row in self.rows if row.how != "dropped")

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "src": self.src,
            "dst": self.dst,
            "from": self.source,
            "to": self.to,
            "dry_run": self.dry_run,
            "exact": self.exact,
            "counts": self.counts,
            "schemes": dict(Counter(codec_label(row.codec) for row in self.rows if row.codec)),
            "elements": self.elements,
            "bytes_before": self.before,
            "bytes_after": self.after,
            "notes": list(self.notes),
            "files": [{"name": n, "bytes_before": b, "bytes_after": a} for n, b, a in self.files],
            "tensors": [row.to_json() for row in self.rows],
        }
