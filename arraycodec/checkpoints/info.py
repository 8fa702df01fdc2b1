"""`info`: what a checkpoint holds, from headers alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from arraycodec.checkpoints.floor import Floor, floors
from arraycodec.checkpoints.pipeline import Progress
from arraycodec.checkpoints.report import Row, codec_label
from arraycodec.checkpoints.tree import scan
from arraycodec.checkpoints.weights import PLAIN, Given, Path_, opened_weights
from arraycodec.containers.manifest import VERSION

SCALARS = (str, bool, int, float)  # of a file's metadata; GGUF files also have long lists of tokens


@dataclass(frozen=True)
class File:
    """One file: its size, whether it is a native container, and what it says about its origin."""

    name: str
    nbytes: int
    native: bool
    sha256: str | None  # of the file it was compressed from
    metadata: dict[str, str]
    base: str | None = None  # the name of the checkpoint that its deltas are to; None where it holds none
    format: str = PLAIN  # that its weights are in: "plain", "arraycodec" or that of another program


@dataclass(frozen=True)
class Info:
    """The outcome of `info`; in its rows `before` is a tensor's decoded size and `after` its stored one."""

    path: str
    files: tuple[File, ...]
    rows: tuple[Row, ...]
    floors: tuple[Floor, ...] | None = None  # where they were asked for; of what is plain or lossless
    notes: tuple[str, ...] = ()  # why weights are seen as the tensors they are stored as

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats of the weights, each once."""
        return tuple(dict.fromkeys(file.format for file in self.files))

    @property
    def native(self) -> bool:
        """Whether every file is a native container, hence every byte under a checksum."""
        return all(file.native for file in self.files)

    @property
    def elements(self) -> int:
        """The number of weights."""
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def decoded(self) -> int:
        """The bytes of all tensors decoded."""
        return sum(row.before for row in self.rows)

    @property
    def stored(self) -> int:
        """The bytes of the files."""
        return sum(file.nbytes for file in self.files)

    @property
    def bits_per_element(self) -> float:
        """Bits of the files per weight."""
        return 8 * self.stored / self.elements if self.elements else 0.0

    @property
    def schemes(self) -> dict[str, int]:
        """How many tensors each scheme encodes; "plain" counts the others."""
        return dict(Counter(codec_label(row.codec) or "plain" for row in self.rows))

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "path": self.path,
            "formats": list(self.formats),
            "native": self.native,
            "format_version": VERSION if any(file.native for file in self.files) else None,
            "checksums": "xxh3-64 per 1 MiB" if self.native else None,
            "elements": self.elements,
            "bytes_decoded": self.decoded,
            "bytes_stored": self.stored,
            "ratio": self.decoded / self.stored if self.stored else None,
            "bits_per_element": self.bits_per_element,
            "schemes": self.schemes,
            "notes": list(self.notes),
            "files": [
                {
                    "name": file.name,
                    "bytes": file.nbytes,
                    "native": file.native,
                    "format": file.format,
                    "source_sha256": file.sha256,
                    "base": file.base,
                    "metadata": file.metadata,
                }
                for file in self.files
            ],
            "tensors": [
                {
                    "file": row.file,
                    "name": row.name,
                    "dtype": row.dtype,
                    "shape": list(row.shape),
                    "scheme": codec_label(row.codec),
                    "codec": row.codec and row.codec.to_json(),
                    "bytes_decoded": row.before,
                    "bytes_stored": row.after,
                }
                for row in self.rows
            ],
        } | ({} if self.floors is None else {"floors": [floor.to_json() for floor in self.floors]})


def info(
    path: Path_,
    *,
    floor: bool = False,
    config: Given = None,
    base: Path_ | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Info:
    """What the file or folder at `path` holds, in whatever format; only headers are read.

    Weights of other programs' formats are one row each, with the codec that they are in.

    floor   read and decode every stored tensor too that is plain or lossless, and find how few bits they could take by
            their entropies: see `arraycodec.checkpoints.floor`. `base`, `jobs` and `progress` are for this;
            `base` is what deltas are to.
    config  a quantization_config, or its file, where the folder does not hold it.

    >>> info("model.nf4.safetensors").schemes  # doctest: +SKIP
    {'nf4': 36, 'plain': 65}
    """
    tree, files, rows, notes = scan(path), [], [], []
    with opened_weights(tree, config=config, strict=False, bases=False) as folders:
        for folder in folders:
            notes += [folder.unread] if folder.unread else []
            for name, container in folder.files.items():
                sha256 = container.source.sha256 if container.source else None
                size = container.file_bytes
                deltas = any(tensor.needs_base for tensor in container.values())
                made_with = container.made_with.name if container.made_with and deltas else None
                told = {key: str(value) for key, value in container.metadata.items() if isinstance(value, SCALARS)}
                files.append(File(name, size, container.native, sha256, told, made_with, folder.format))
            for key, (file, tensor) in folder.tensors.items():
                reason, size = "encoded" if tensor.codec else "plain", tensor.spec.nbytes
                rows.append(Row(file, key, tensor.dtype, tensor.shape, tensor.codec, reason, size, tensor.nbytes))
    found = floors(path, base=base, jobs=jobs, progress=progress) if floor else None
    return Info(str(tree.where), tuple(files), tuple(rows), found, tuple(notes))
