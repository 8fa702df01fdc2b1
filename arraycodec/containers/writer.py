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
from arraycodec.containers import checks, checksums, frame, manifest, safetensors
from arraycodec.containers.atomic import AtomicFile
from arraycodec.containers.checksums import Buffer
from arraycodec.containers.manifest import Entry, Manifest, Source
from arraycodec.errors import ArgumentError
from arraycodec.spec import DTYPES, ArraySpec, spec_of

Planned = tuple[str, ArraySpec, Codec | None]  # name, spec of the decoded tensor, codec (None: stored plain)
Plan = Iterable[Planned]

LARGEST = 10**14 - 1  # an offset of 14 digits: 100 TB


class Writer:
    """Streams a container to disk, one tensor in memory at a time; the target appears whole or not at all.

    plan      every tensor up front: (name, spec of the decoded array, codec or None to store it plain). A sub-byte
              spec (float4_e2m1fn) is stored plain from packed uint8.
    metadata  str -> str entries kept beside the manifest ("format": "pt").
    source    what gives back the byte-identical original file.

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
        overwrite: bool = True,
    ) -> None:
        self.path = os.fspath(path)
        self._metadata, self._source = _checked_metadata(metadata), source
        planned = _planned(plan)
        self.order = tuple(planned)
        self._plan = list(reversed(planned.values()))
        self._entries: dict[str, Entry] = {}
        self._data_start = _room(planned, self._metadata, source)
        self._file = AtomicFile(path, overwrite=overwrite)
        with self._file.aborting():
            self._file.write(bytes(self._data_start))

    def add(self, name: str, value: Any, *, check: bool = True) -> int:
        """Write the next tensor of `order`, an Encoded or an array of any framework; returns the bytes it takes.

        check   raise NonFiniteError where a lossy scale is NaN.
        """
        where = f"{self.path}: tensor {checks.shown(name)}"
        with self._file.aborting():
            if not self._plan or self._plan[-1][0] != name:
                expected = checks.shown(self._plan[-1][0]) if self._plan else "no more"
                raise ArgumentError(f"{self.path}: next must be {expected}, got {checks.shown(name)}")
            _, spec, codec = self._plan.pop()
            if (codec is None) == isinstance(value, Encoded):
                raise ArgumentError(f"{where}: planned is {codec or 'a plain array'}, got {type(value).__name__}")
            if codec is None:
                data = safetensors.plain_bytes(name, value, spec)
                buffers, digest = [data], checksums.to_hex(checksums.chunks(data))
            else:
                buffers, number = self._frame(value, spec, codec, where, check)
                digest = f"{number:016x}"
            start = self._file.position - self._data_start
            nbytes = self._file.write(*buffers)
            self._entries[name] = Entry(name, spec, codec and codec.to_json(), start, start + nbytes, digest)
        return nbytes

    def close(self) -> None:
        """Fill in the header and put the file in its place; every planned tensor must have been added."""
        with self._file.aborting():
            if self._plan:
                missing = checks.shown(self._plan[-1][0])
                raise ArgumentError(f"{self.path}: {len(self._plan)} tensors are missing, next is {missing}")
            head = manifest.pack(Manifest(self._entries, self._source), self._metadata, self._data_start - 8)
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
    def _frame(value: Encoded, spec: ArraySpec, codec: Codec, where: str, check: bool) -> tuple[list[Buffer], int]:
        buffers, digest = frame.frame_digest(value)  # validates; batch_shape may be asked after it
        got = ArraySpec(value.batch_shape + value.spec.known_shape, value.spec.dtype)
        if value.codec != codec or got != spec:
            raise ArgumentError(
                f"{where}: planned is {codec} of {spec.dtype}{list(spec.shape)}, "
                f"got {value.codec} of {got.dtype}{list(got.shape)}"
            )
        if check:
            api.check_finite(value)
        return buffers, digest


def head_size(plan: Plan, metadata: Mapping[str, str] | None = None, source: Source | None = None) -> int:
    """The bytes before the data of the container that a Writer makes of this plan, known before any data is."""
    return _room(_planned(plan), _checked_metadata(metadata), source)


def _checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    checked = safetensors.checked_metadata(metadata)
    if manifest.KEY in checked:
        raise ArgumentError(f"metadata: {manifest.KEY!r} is the manifest's own key")
    return checked


def _planned(plan: Plan) -> dict[str, Planned]:
    """The plan in the order of the file: frames as planned, then plain tensors, those of the widest elements first."""
    planned: dict[str, Planned] = {}
    for name, spec, codec in plan:
        checks.name(name, "plan", ArgumentError)
        if name in planned:
            raise ArgumentError(f"plan: tensor {checks.shown(name)} is there twice")
        checks.spec(spec.dtype, list(spec.known_shape), f"tensor {checks.shown(name)}")
        planned[name] = (name, spec, codec)
    frames = {name: item for name, item in planned.items() if item[2] is not None}
    plain = sorted(planned.keys() - frames.keys(), key=lambda name: (-DTYPES[planned[name][1].dtype].bits, name))
    return frames | {name: planned[name] for name in plain}


def _room(planned: Mapping[str, Planned], metadata: Mapping[str, str], source: Source | None) -> int:
    """The bytes of a header in which every number that is not known yet is as long as it can be."""
    longest = {}
    for name, spec, codec in planned.values():
        if codec is None:
            longest[name] = Entry(name, spec, None, LARGEST, LARGEST, "0" * 16 * checksums.count(spec.nbytes))
        else:  # the size, which is in the header too, has 14 digits as well
            longest[name] = Entry(name, spec, codec.to_json(), 10**13, LARGEST, "0" * 16)
    return len(manifest.pack(Manifest(longest, source), metadata))


def save_file(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write Encoded values and plain arrays of any framework to one container file, atomically.

    The file is a valid safetensors file in which every tensor keeps its name. NonFiniteError where a lossy codec met
    NaN or infinity. overwrite=False raises FileExistsError instead of replacing.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/m.safetensors"
    >>> w = np.linspace(-1, 1, 256, dtype=np.float32)
    >>> ac.save_file({"w": ac.encode(w, "nf4"), "step": np.int64(7)}, path)
    >>> {name: array.shape for name, array in ac.load_file(path).items()}
    {'w': (256,), 'step': ()}
    """
    for value in tensors.values():
        if isinstance(value, Encoded):
            api.validate(value)
    plan = [
        (name, ArraySpec(value.batch_shape + value.spec.known_shape, value.spec.dtype), value.codec)
        if isinstance(value, Encoded)
        else (name, spec_of(api.to_numpy(value)), None)
        for name, value in tensors.items()
    ]
    with Writer(path, plan, metadata=metadata, overwrite=overwrite) as writer:
        for name in writer.order:
            writer.add(name, tensors[name])
