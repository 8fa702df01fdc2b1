"""Writing the native container. The specification is docs/format/container.md.

The header comes first in the file but is known last, since sizes and hashes are. So a header with the longest numbers
there could be is measured, its room left free, and the real one, padded with spaces, written there before the rename.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from arraycodec import api
from arraycodec.base import Codec, Encoded
from arraycodec.codecs.tied import Tied
from arraycodec.containers import checks, checksums, frame, manifest, safetensors
from arraycodec.containers.atomic import AtomicFile
from arraycodec.containers.checksums import Buffer
from arraycodec.containers.manifest import Base, Entry, Manifest, Source
from arraycodec.errors import ArgumentError
from arraycodec.spec import DTYPES, ArraySpec, spec_of

# How a tensor is stored: with a codec, plain (None), or in one of several ways that its values decide between.
Stored = Codec | None | tuple[Codec | None, ...]
Plan = Iterable[tuple[str, ArraySpec, Stored]]  # name, spec of the decoded tensor, how it is stored
Planned = tuple[str, ArraySpec, tuple[Codec | None, ...]]

LARGEST = 10**14 - 1  # an offset of 14 digits: 100 TB


class Writer:
    """Streams a container to disk, one tensor in memory at a time; the target appears whole or not at all.

    plan      every tensor up front: (name, spec of the decoded array, codec or None to store it plain, or a tuple of
              these, of which `add` may take any; a tie stands for every one with names no longer than its own). A
              sub-byte spec (float4_e2m1fn) is stored plain from packed uint8.
    metadata  str -> str entries kept beside the manifest ("format": "pt").
    source    what gives back the byte-identical original file; its sha256 may be set before `close`.
    base      the checkpoint that deltas are to, as the manifest records it.

    `order` lists the names in the order in which `add` takes them: encoded ones as planned, then plain ones by falling
    alignment. Use as a context manager, or call `close()` (commit) / `abort()`.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/m.safetensors"
    >>> x, bias = np.ones((4, 64), np.float32), np.zeros(4, np.float32)
    >>> plan = [("b", ac.ArraySpec((4,), "float32"), None), ("w", ac.ArraySpec((4, 64), "float32"), ac.codec("nf4"))]
    >>> with Writer(path, plan) as writer:
    ...     writer.order, writer.add("w", ac.encode(x, "nf4")), writer.add("b", bias)
    (('w', 'b'), 448, 16)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        plan: Plan,
        *,
        metadata: Mapping[str, str] | None = None,
        source: Source | None = None,
        base: Base | None = None,
        overwrite: bool = True,
    ) -> None:
        self.path = os.fspath(path)
        self.source, self.base = source, base
        self._metadata = _checked_metadata(metadata)
        planned = _planned(plan)
        self._left = list(reversed(planned.values()))  # the next one last
        self._entries: dict[str, Entry] = {}
        self._data_start = _room(planned, self._metadata, source, base)
        self._file = AtomicFile(path, overwrite=overwrite)
        with self._file.aborting():
            self._file.write(bytes(self._data_start))

    @property
    def order(self) -> tuple[str, ...]:
        """All names in the order of the file, which is that in which `add` takes them."""
        return (*self._entries, *self.left)

    @property
    def left(self) -> tuple[str, ...]:
        """Those that have not been added yet."""
        return tuple(name for name, _, _ in reversed(self._left))

    def add(self, name: str, value: Any, *, check: bool = True) -> int:
        """Write the next tensor of `order`, an Encoded or an array of any framework; returns the bytes it takes.

        check   raise NonFiniteError where a lossy scale is NaN.
        """
        where = f"{self.path}: tensor {checks.shown(name)}"
        with self._file.aborting():
            _, spec, allowed = self._next(name)
            encoded = isinstance(value, Encoded)
            if encoded == (allowed == (None,)):
                raise ArgumentError(f"{where}: planned is {_told(allowed)}, got {type(value).__name__}")
            self._left.pop()
            if encoded:
                buffers, number = self._frame(value, spec, allowed, where, check)
                digest, codec = f"{number:016x}", value.codec.to_json()
            else:
                data = safetensors.plain_bytes(name, value, spec)
                buffers, digest, codec = [data], checksums.to_hex(checksums.chunks(data)), None
            start = self._file.position - self._data_start
            nbytes = self._file.write(*buffers)
            self._entries[name] = Entry(name, spec, codec, start, start + nbytes, digest)
        return nbytes

    def leave_plain(self, name: str) -> None:
        """Store the next tensor of `order` plain after all, which its plan must allow: it moves behind the frames."""
        with self._file.aborting():
            _, spec, allowed = self._next(name)
            if None not in allowed:
                raise ArgumentError(f"{self.path}: tensor {checks.shown(name)}: planned is {_told(allowed)}")
            if allowed != (None,):
                self._left[-1] = (name, spec, (None,))
                self._left.sort(key=_place, reverse=True)

    def _next(self, name: str) -> Planned:
        if not self._left or self._left[-1][0] != name:
            expected = checks.shown(self._left[-1][0]) if self._left else "no more"
            raise ArgumentError(f"{self.path}: next must be {expected}, got {checks.shown(name)}")
        return self._left[-1]

    def close(self) -> None:
        """Fill in the header and put the file in its place; every planned tensor must have been added."""
        with self._file.aborting():
            if self._left:
                missing = checks.shown(self._left[-1][0])
                raise ArgumentError(f"{self.path}: {len(self._left)} tensors are missing, next is {missing}")
            found = Manifest(self._entries, self.source, self.base)
            head = manifest.pack(found, self._metadata, self._data_start - 8)
            if len(head) != self._data_start:
                raise ArgumentError(f"{self.path}: the header outgrew its room, offsets must be below {LARGEST}")
            self._file.write_at(0, head)
            self._file.commit()

    def abort(self) -> None:
        """Remove what was written; the target stays as it was."""
        self._file.abort()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.close() if kind is None else self.abort()

    @staticmethod
    def _frame(
        value: Encoded, spec: ArraySpec, allowed: tuple[Codec | None, ...], where: str, check: bool
    ) -> tuple[list[Buffer], int]:
        buffers, digest = frame.frame_digest(value)  # validates; batch_shape may be asked after it
        got = ArraySpec(value.batch_shape + value.spec.known_shape, value.spec.dtype)
        tied = isinstance(value.codec, Tied) and any(isinstance(codec, Tied) for codec in allowed)
        if not (tied or value.codec in allowed) or got != spec:
            raise ArgumentError(
                f"{where}: planned is {_told(allowed)} of {spec.dtype}{list(spec.shape)}, "
                f"got {value.codec} of {got.dtype}{list(got.shape)}"
            )
        if check:
            api.check_finite(value)
        return buffers, digest


def head_size(plan: Plan, metadata: Mapping[str, str] | None = None, source: Source | None = None) -> int:
    """The bytes before the data of the container that a Writer makes of this plan, known before any data is."""
    return _room(_planned(plan), _checked_metadata(metadata), source, None)


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    checked = safetensors.checked_metadata(metadata)
    if manifest.KEY in checked:
        raise ArgumentError(f"metadata: {manifest.KEY!r} is the manifest's own key")
    return checked


def _planned(plan: Plan) -> dict[str, Planned]:
    """The plan in the order of the file."""
    planned: dict[str, Planned] = {}
    for name, spec, stored in plan:
        checks.name(name, "plan", ArgumentError)
        if name in planned:
            raise ArgumentError(f"plan: tensor {checks.shown(name)} is there twice")
        checks.spec(spec.dtype, list(spec.known_shape), f"tensor {checks.shown(name)}")
        planned[name] = (name, spec, stored if isinstance(stored, tuple) else (stored,))
    return {item[0]: item for item in sorted(planned.values(), key=_place)}


def _place(item: Planned) -> tuple[bool, int, str]:
    """What the order of the file goes by: frames as planned, then plain tensors, those of the widest elements first."""
    name, spec, allowed = item
    return (True, -DTYPES[spec.dtype].bits, name) if allowed == (None,) else (False, 0, "")


def _told(allowed: tuple[Codec | None, ...]) -> str:
    return " or ".join(str(codec or "a plain array") for codec in allowed)


def _room(planned: Mapping[str, Planned], metadata: Mapping[str, str], source: Source | None, base: Base | None) -> int:
    """The bytes of a header in which every number that is not known yet is as long as it can be."""
    longest = {}
    for name, spec, allowed in planned.values():
        entries = [_longest(name, spec, codec) for codec in allowed]
        longest[name] = max(entries, key=manifest.entry_size) if len(entries) > 1 else entries[0]
    return len(manifest.pack(Manifest(longest, source, base), metadata))


def _longest(name: str, spec: ArraySpec, codec: Codec | None) -> Entry:
    if codec is None:
        return Entry(name, spec, None, LARGEST, LARGEST, "0" * 16 * checksums.count(spec.nbytes))
    return Entry(name, spec, codec.to_json(), 10**13, LARGEST, "0" * 16)  # the size, too, has 14 digits


def save_file(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write Encoded values and plain arrays of any framework to one container file, atomically.

    The file is a valid safetensors file in which every tensor keeps its name. A mapping that makes its values when they
    are asked for is asked for each of them twice, and one is held at a time: for its shape, and to store it.
    NonFiniteError where a lossy codec met NaN or infinity. overwrite=False raises FileExistsError instead of replacing.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/m.safetensors"
    >>> w = np.linspace(-1, 1, 256, dtype=np.float32)
    >>> ac.save_file({"w": ac.encode(w, "nf4"), "step": np.int64(7)}, path)
    >>> {name: array.shape for name, array in ac.load_file(path).items()}
    {'w': (256,), 'step': ()}
    """
    plan: list[tuple[str, ArraySpec, Stored]] = []
    for name, value in tensors.items():
        if isinstance(value, Encoded):
            api.validate(value)
            plan.append((name, ArraySpec(value.batch_shape + value.spec.known_shape, value.spec.dtype), value.codec))
        else:
            plan.append((name, spec_of(api.to_numpy(value)), None))
    with Writer(path, plan, metadata=metadata, overwrite=overwrite) as writer:
        for name in writer.order:
            writer.add(name, tensors[name])
