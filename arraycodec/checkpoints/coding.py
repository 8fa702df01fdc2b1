"""How one tensor of a checkpoint is encoded: the smallest of what its row allows, decided by its values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from arraycodec import api
from arraycodec.base import Codec, Encoded, Given, Then
from arraycodec.checkpoints.report import Row
from arraycodec.codecs.tied import Tied
from arraycodec.containers.frame import frame_size
from arraycodec.containers.safetensors import SafetensorsFile
from arraycodec.errors import NonFiniteError
from arraycodec.primitives.content import content_hash
from arraycodec.spec import ArraySpec, spec_of

SMALL = 4  # a delta of less than a quarter of the array is taken without looking for something better
PIECE = 1 << 24  # bytes of two tensors that are compared at a time

LARGER = "the codec makes it larger"
NOT_SMALLER = "does not shrink: stays plain"
NOT_FINITE = "holds NaN or infinity: stays plain"


class Coded(NamedTuple):
    """What became of a tensor; `value` is None where it stays plain (or is tied), `reason` where the row's holds."""

    value: Encoded | None
    reason: str | None = None
    digest: bytes | None = None  # of its content, where it may be tied


def code(
    array: np.ndarray, row: Row, plain: Codec, base: np.ndarray | None, importance: np.ndarray | None = None
) -> Coded:
    """Encode a tensor as its row plans, or leave it plain where that is no larger or cannot hold its values.

    plain       what encodes it without a base.
    importance  of its columns, which its codec takes.
    """
    if row.codec is None:
        return Coded(None)
    given = {} if importance is None else {"importance": importance}
    if base is not None:
        found, reason = _delta(array, plain, row.codec, base)
    elif isinstance(row.codec, Then) and not row.codec.outer.lossless:
        found, reason = _parts(array, row.codec, given), None
    else:
        found, reason = api.encode(array, row.codec, given=given, check=False), None
    try:
        api.check_finite(found)
    except NonFiniteError:
        return Coded(None, NOT_FINITE)
    if not row.reason.startswith("included"):
        if found.codec.lossless and not found.codec.fixed_size(found.spec) and stored(found) >= row.before:
            return Coded(None, NOT_SMALLER)
        if found.nbytes > row.before:
            return Coded(None, LARGER)
    return Coded(found, reason)


def stored(encoded: Encoded) -> int:
    """The bytes of its frame."""
    planes = {name: spec_of(api.to_numpy(plane)) for name, plane in encoded.planes.items()}
    return frame_size(encoded.codec, encoded.spec, planes)


def _delta(array: np.ndarray, plain: Codec, delta: Codec, base: np.ndarray) -> tuple[Encoded, str | None]:
    """The difference to the base, or the array by itself where that is smaller."""
    found = api.encode(array, delta, given={"base": base})
    if SMALL * found.nbytes < array.nbytes:
        return found, None
    alone = api.encode(array, plain)
    return (alone, "smaller than its delta") if stored(alone) <= stored(found) else (found, None)


def _parts(array: np.ndarray, codec: Then, given: Given) -> Encoded:
    """Encode with those of the lossless parts that make the frame smaller, and with all that are lossy."""
    kept = tuple((plane, part) for plane, part in codec.parts if not part.lossless)
    found = api.encode(array, Then(codec.outer, kept) if kept else codec.outer, given=given, check=False)
    planes = dict(found.planes)
    for plane, part in codec.parts:
        if not part.lossless:
            continue
        own = api.encode(found.planes[plane], part)
        tried = {name: p for name, p in planes.items() if name != plane}
        tried |= {f"{plane}.{name}": p for name, p in own.planes.items()}
        larger = Then(codec.outer, (*kept, (plane, part)))
        ordered = Encoded(larger, found.spec, {name: tried[name] for name in larger.planes(found.spec)})
        if stored(ordered) < stored(found := Encoded(found.codec, found.spec, planes)):
            kept, planes, found = larger.parts, ordered.planes, ordered
    return found


@dataclass
class Ties:
    """The tensors of a checkpoint that hold what an earlier one does, by the hashes of their content.

    The first is stored and the others are tied to it, within one folder. Equal hashes are not trusted: the bytes are
    compared, a piece at a time.
    """

    first: dict[tuple[str, bytes], tuple[str, str]] = field(default_factory=dict)  # (folder, hash) -> (file, name)
    named: dict[tuple[str, ArraySpec], tuple[str, str]] = field(default_factory=dict)  # the longest names so far

    def widest(self, file: str, rows: Iterable[Row]) -> dict[str, Tied]:
        """name -> the tie with the longest text that each of these tensors of a file may come to have, if any."""
        found = {}
        for row in rows:
            if row.codec is None or not row.codec.lossless:
                continue
            key = _folder(file), ArraySpec(row.shape, row.dtype)
            others = self.named.get(key)
            if others:
                found[row.name] = Tied(*others)
            self.named[key] = (
                max(row.name, others[0] if others else "", key=_text),
                max(PurePosixPath(file).name, others[1] if others else "", key=_text),
            )
        return found

    def seen(self, file: str, digest: bytes) -> bool:
        """Whether an earlier tensor has this content."""
        return (_folder(file), digest) in self.first

    def tie(
        self, source: SafetensorsFile, row: Row, digest: bytes, files: dict[str, SafetensorsFile]
    ) -> Encoded | None:
        """The tensor as tied to an earlier one with these bytes; None, and it is the first itself, if there is none.

        files  the files of the checkpoint read so far, by name.
        """
        file, name = self.first.setdefault((_folder(row.file), digest), (row.file, row.name))
        other = files[file]
        if (file, name) == (row.file, row.name) or not _equal(source, row.name, other, name):
            return None
        tied = Tied(name, "" if file == row.file else PurePosixPath(file).name)
        words = np.frombuffer(digest, "<u4").astype(np.uint32)
        return Encoded(tied, source.tensors[row.name].spec, {"hash": words})


def digest_of(array: np.ndarray) -> bytes:
    """The hash of an array's content, as the plane of a tie holds it."""
    return content_hash(array).astype("<u4").tobytes()


def _folder(file: str) -> str:
    return file.rpartition("/")[0]


def _text(name: str) -> int:
    """The length of a name in the JSON of a manifest, which is a string in JSON itself."""
    return len(json.dumps(json.dumps(name, ensure_ascii=False), ensure_ascii=False).encode())


def _equal(a: SafetensorsFile, name: str, b: SafetensorsFile, other: str) -> bool:
    x, y = a.tensors[name], b.tensors[other]
    if x.spec != y.spec:
        return False
    starts = a.header.data_start + x.start, b.header.data_start + y.start
    pieces = ((at, min(PIECE, x.spec.nbytes - at)) for at in range(0, x.spec.nbytes, PIECE))
    return all(np.array_equal(a.read(starts[0] + at, n), b.read(starts[1] + at, n)) for at, n in pieces)
