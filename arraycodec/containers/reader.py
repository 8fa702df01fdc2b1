"""Reading containers, plain safetensors files and sharded folders, all through the same few names."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from arraycodec import registry
from arraycodec.containers import checks, manifest, shards
from arraycodec.containers.frame_header import MAGIC
from arraycodec.containers.lazy import LazyTensor, Reading
from arraycodec.containers.manifest import Source
from arraycodec.containers.safetensors import SafetensorsFile
from arraycodec.errors import CorruptError, FormatError


class Container(Mapping[str, LazyTensor]):
    """An open container, plain safetensors file or sharded folder: name -> LazyTensor.

    path      as it was given; `paths` those of the files
    metadata  without the manifest; where shards disagree, the first one's
    native    has a manifest in every file, so that all is checksummed
    source    what gives back the original file, or None; of a single file only
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
        self._tensors, self._file = dict(tensors), file

    def close(self) -> None:
        """Close the files; arrays already read stay valid, tensors not yet read cannot be read any more."""
        for shard in self.shards:
            if shard._file is not None:
                shard._file.close()

    def __enter__(self) -> Container:
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
) -> Container:
    """Open a container, a plain safetensors file, a folder of shards or its `*.index.json`; reads headers only.

    framework, device  of the arrays that tensors give: "numpy", "torch" or "jax".
    verify             check hashes of all that is read, and the codecs' own rules; headers must make sense in any case.
    mmap               views of a private memory map instead of reads: lazy, but a file truncated by another program
                       then ends this process.
    max_bytes          what one tensor may take, stored or decoded; None is the machine's memory.
    """
    registry.framework(framework)  # fail here, not at the first tensor
    checks.limit_bytes(max_bytes)
    how = Reading(framework, device, verify, max_bytes)
    found = shards.find(path)
    if isinstance(found, Path):
        return _open_one(found, how, mmap)
    with ExitStack() as opened:
        parts, tensors, metadata = [], {}, {}
        for name, file in found.files().items():
            parts.append(opened.enter_context(_open_one(file, how, mmap)))
            found.check(name, parts[-1])
            tensors |= parts[-1]
            metadata = parts[-1].metadata | metadata
        if not parts:
            raise FormatError(f"{os.fspath(path)}: the index names no file")
        opened.pop_all()
    native = all(part.native for part in parts)
    return Container(os.fspath(path), tensors, metadata, native=native, shards=tuple(parts))


def _open_one(path: str | os.PathLike[str], how: Reading, mmap: bool) -> Container:
    file = SafetensorsFile(path, mmap=mmap)
    try:
        found = manifest.unpack(file.header, file.path, how.verify)
        if found is None and how.verify:
            _check_no_frames(file)
    except BaseException:
        file.close()
        raise
    entries = found.entries if found else {}
    tensors = {name: LazyTensor(file, tensor, entries.get(name), how) for name, tensor in file.tensors.items()}
    metadata = {key: value for key, value in file.metadata.items() if key != manifest.KEY}
    return Container(file.path, tensors, metadata, file, found is not None, found.source if found else None)


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
) -> dict[str, Any]:
    """All tensors of a file or sharded folder: arrays, or with `decode=False` an Encoded where one is stored.

    max_bytes  what all decoded arrays (or all stored planes) may take together; None is the machine's memory.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/m.safetensors"
    >>> ac.save_file({"w": np.arange(3)}, path)
    >>> ac.load_file(path)
    {'w': array([0, 1, 2])}
    """
    with open_file(path, framework=framework, device=device, verify=verify, max_bytes=max_bytes) as file:
        total = sum(tensor.spec.nbytes if decode else tensor.nbytes for tensor in file.values())
        checks.within(total, max_bytes, f"{file.path}: all tensors")
        return {
            name: tensor.decode() if decode or tensor.codec is None else tensor.encoded()
            for name, tensor in file.items()
        }
