"""Reading containers, plain safetensors files and sharded folders, all through the same few names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Lock
from typing import Any, Self

from arraycodec import registry
from arraycodec.codecs.tied import Tied
from arraycodec.containers import checks, manifest, shards
from arraycodec.containers.frame_header import MAGIC
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.manifest import Base, Source
from arraycodec.containers.references import References
from arraycodec.containers.safetensors import SafetensorsFile
from arraycodec.containers.view import Reading
from arraycodec.errors import ArgumentError, CorruptError, FormatError
from arraycodec.primitives import threads


class Container(Mapping[str, LazyTensor]):
    """An open container, plain safetensors file or sharded folder: name -> LazyTensor.

    path      as it was given; `paths` those of the files
    metadata  without the manifest; where shards disagree, the first one's
    native    has a manifest in every file, so that all is checksummed
    source    what gives back the original file, or None; of a single file only
    made_with the checkpoint that its deltas are to, as the manifest records it, or None; of a single file only
    shards    the Container of each file: itself where there is one
    """

    def __init__(
        self,
        path: str,
        tensors: Mapping[str, LazyTensor],
        metadata: Mapping[str, str],
        file: SafetensorsFile | None = None,
        native: bool = False,
        source: Source | None = None,
        shards: tuple[Container, ...] = (),
    ) -> None:
        self.path, self.metadata, self.native, self.source = path, dict(metadata), native, source
        self.shards = shards or (self,)
        self.paths: tuple[str, ...] = tuple(shard.path for shard in self.shards)
        self.made_with: Base | None = None
        self._tensors, self._file, self._opened = dict(tensors), file, ExitStack()
        if file is not None:
            self._opened.callback(file.close)

    @property
    def file_bytes(self) -> int:
        """The bytes of its files."""
        return sum(os.stat(path).st_size for path in self.paths)

    def close(self) -> None:
        """Close the files; arrays already read stay valid, tensors not yet read cannot be read any more."""
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        kind = "container" if self.native else "plain safetensors"
        return f"<{kind} {checks.shown(self.path)}: {len(self)} tensors in {len(self.paths)} files>"


def open_file(
    path: str | os.PathLike[str],
    *,
    framework: str = "numpy",
    device: Any = None,
    verify: bool = True,
    mmap: bool = False,
    max_bytes: int | None = None,
    base: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> Container:
    """Open a container, a plain safetensors file, a folder of shards or its `*.index.json`; reads headers only.

    framework, device  of the arrays that tensors give: "numpy", "torch" or "jax".
    verify             check hashes of all that is read, and the codecs' own rules; headers must make sense in any case.
    mmap               views of a private memory map instead of reads: lazy, but a file truncated by another program
                       then ends this process.
    max_bytes          what one tensor may take, stored or decoded; None is the machine's memory.
    base               what deltas are to: the path of a checkpoint, which is closed with this one, or a Container or
                       other mapping of names to arrays.
    """
    registry.framework(framework)  # fail here, not at the first tensor
    checks.limit_bytes(max_bytes)
    with ExitStack() as opened:
        if isinstance(base, (str, os.PathLike)):
            base = opened.enter_context(
                open_file(base, framework=framework, device=device, verify=verify, mmap=mmap, max_bytes=max_bytes)
            )
        elif not (base is None or isinstance(base, Mapping)):
            raise ArgumentError(f"base must be a path or a mapping of names to arrays, got {type(base).__name__}")
        files = opened.enter_context(_Files(Reading(framework, device, verify, max_bytes), mmap, base))
        found = shards.find(path)
        container = files.open(found) if isinstance(found, Path) else _open_all(os.fspath(path), found, files)
        container._opened = opened.pop_all()
    return container


class _Files:
    """The files of one opening, each opened once: those it was asked for, and those that their tensors are tied to."""

    def __init__(self, how: Reading, mmap: bool, base: Mapping[str, Any] | None) -> None:
        self._how, self._mmap, self._base = how, mmap, base
        self._found: dict[str, Container] = {}
        self._lock, self._opened, self._closed = Lock(), ExitStack(), False

    def open(self, path: str | Path) -> Container:
        """The Container of this file."""
        with self._lock:
            real = os.path.realpath(path)
            if real not in self._found:
                self._found[real] = self._open(path)
            return self._found[real]

    def _open(self, path: str | Path) -> Container:
        if self._closed:
            raise ArgumentError(f"{path}: is closed")
        file = SafetensorsFile(path, mmap=self._mmap)
        self._opened.callback(file.close)
        found = manifest.unpack(file.header, file.path, self._how.verify)
        if found is None and self._how.verify:
            _check_no_frames(file)
        entries = found.entries if found else {}
        references = References(file.path, self.open, self._base, found.base if found else None)
        tensors = {
            name: LazyTensor(file, tensor, entries.get(name), self._how, references)
            for name, tensor in file.tensors.items()
        }
        metadata = {key: value for key, value in file.metadata.items() if key != manifest.KEY}
        container = Container(file.path, tensors, metadata, file, found is not None, found.source if found else None)
        container.made_with = found.base if found else None
        return container

    def __enter__(self) -> _Files:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._closed = True
            self._opened.close()


def _open_all(path: str, index: shards.Index, files: _Files) -> Container:
    """The Container of all shards of an index."""
    parts, tensors, metadata = [], {}, {}
    for name, file in index.files().items():
        parts.append(files.open(file))
        index.check(name, parts[-1])
        tensors |= parts[-1]
        metadata = parts[-1].metadata | metadata
    if not parts:
        raise FormatError(f"{path}: the index names no file")
    native = all(part.native for part in parts)
    return Container(path, tensors, metadata, native=native, shards=tuple(parts))


def _check_no_frames(file: SafetensorsFile) -> None:
    """Raise where a plain file holds frames: another program wrote it anew and dropped the manifest."""
    for tensor in file.tensors.values():
        spec, start = tensor.spec, file.header.data_start + tensor.start
        if spec.dtype != "uint8" or spec.shape[:-1] != (1, 1) or spec.nbytes < 64:
            continue
        if file.read(start, len(MAGIC)).tobytes() == MAGIC:
            raise CorruptError(
                f"{file.path}: tensor {checks.shown(tensor.name)} is a frame, but the file has no manifest; another "
                "program may have dropped it (verify=False gives the frame's bytes, for arraycodec.from_bytes)"
            )


def load_file(
    path: str | os.PathLike[str],
    *,
    decode: bool = True,
    framework: str = "numpy",
    device: Any = None,
    max_bytes: int | None = None,
    verify: bool = True,
    base: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All tensors of a file or sharded folder: arrays, or with `decode=False` an Encoded where one is stored.

    max_bytes  what all decoded arrays (or all stored planes) may take together; None is the machine's memory.

    The other arguments are those of `open_file`. Tensors are read and decoded by as many threads as
    `get_num_threads()` says; one that is tied to another is an array (or Encoded) of its own.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/m.safetensors"
    >>> ac.save_file({"w": np.arange(3)}, path)
    >>> ac.load_file(path)
    {'w': array([0, 1, 2])}
    """
    how = {"framework": framework, "device": device, "verify": verify, "max_bytes": max_bytes, "base": base}
    with open_file(path, **how) as file:
        total = sum(t.spec.nbytes if decode or isinstance(t.codec, Tied) else t.nbytes for t in file.values())
        checks.within(total, max_bytes, f"{file.path}: all tensors")
        load = LazyTensor.decode if decode else LazyTensor.stored
        if (jobs := min(threads.get_num_threads(), len(file))) <= 1:
            return {name: load(tensor) for name, tensor in file.items()}
        with ThreadPoolExecutor(jobs, "arraycodec-load") as pool:
            return dict(zip(file, pool.map(load, file.values()), strict=True))
