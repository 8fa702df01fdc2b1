"""Sharded checkpoints: a folder of safetensors files and an `*.index.json` that says which file holds which tensor.

The index comes from outside: what it names must be a safetensors file inside the folder, after symbolic links.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arraycodec.containers import checks, strict_json
from arraycodec.errors import FormatError

SUFFIX = ".safetensors"
INDEX_SUFFIX = ".index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")  # of torch.save
INDEX_LIMIT = 100_000_000  # bytes


@dataclass(frozen=True)
class Index:
    """A `*.index.json`: which file of the folder holds which tensor."""

    path: Path  # of the index itself
    weight_map: dict[str, str]  # tensor name -> file name, relative to the folder, as the index spells it
    metadata: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The folder that all file names are relative to."""
        return self.path.parent

    def files(self) -> dict[str, Path]:
        """File name -> checked path, each once, in sorted order; confined to the folder."""
        found: dict[str, Path] = {}
        real: dict[Path, str] = {}
        for name in sorted(set(self.weight_map.values())):
            found[name] = confined(self.folder, name)
            if not _is_file(found[name]):
                raise FormatError(f"{self.path}: shard {checks.shown(name)} is not in the folder")
            other = real.setdefault(found[name].resolve(), name)
            if other != name:
                raise FormatError(f"{self.path}: {checks.shown(name)} and {checks.shown(other)} are one file")
        return found

    def check(self, name: str, tensors: Any) -> None:
        """Raise FormatError unless the shard of this file name holds exactly the tensors that the index says."""
        want = {tensor for tensor, file in self.weight_map.items() if file == name}
        for tensor in sorted(want ^ set(tensors)):
            told = "which does not hold it" if tensor in want else f"and the index {self._says(tensor)}"
            verb = "is mapped to" if tensor in want else "is in"
            raise FormatError(f"{self.path}: tensor {checks.shown(tensor)} {verb} {checks.shown(name)}, {told}")

    def _says(self, tensor: str) -> str:
        file = self.weight_map.get(tensor)
        return "does not list it" if file is None else f"maps it to {checks.shown(file)}"


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read and check an index file."""
    path = os.fspath(path)
    data = strict_json.read(path, INDEX_LIMIT)
    weight_map = checks.member(data, "weight_map", dict, path)
    for tensor, name in weight_map.items():
        checks.name(tensor, path)
        if not isinstance(name, str):
            raise FormatError(f"{path}: tensor {checks.shown(tensor)} must map to a file, got {checks.shown(name)}")
    metadata = data.get("metadata", {})
    return Index(Path(path), weight_map, metadata if isinstance(metadata, dict) else {})


def find(path: str | os.PathLike[str]) -> Index | Path:
    """What a path given by a user stands for: the Index of a folder or `*.index.json`, or a single file."""
    path = Path(path)
    if not path.is_dir():
        return read_index(path) if path.name.endswith(INDEX_SUFFIX) else path
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    indexes = [name for name in names if name.endswith(SUFFIX + INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(SUFFIX)]
    if f"model{SUFFIX}{INDEX_SUFFIX}" in indexes or len(indexes) == 1:
        chosen = f"model{SUFFIX}{INDEX_SUFFIX}"
        return read_index(path / (chosen if chosen in indexes else indexes[0]))
    if not indexes and len(files) == 1:
        return path / files[0]
    raise FormatError(
        f"{path}: must hold one *{SUFFIX}{INDEX_SUFFIX} or one *{SUFFIX} file, got "
        f"{', '.join(map(checks.shown, (indexes or files)[:5])) or 'neither'}{'' if files else pickles(names)}"
    )


def pickles(names: Iterable[str]) -> str:
    """What an error adds about files of these names: that pickles are never opened; nothing where there are none."""
    found = next((name for name in names if name.endswith(PICKLES)), None)
    return (
        ""
        if found is None
        else f"; {checks.shown(found)}, if of torch.save, is a pickle, which is never opened: save it as safetensors"
    )


def confined(folder: str | os.PathLike[str], name: str) -> Path:
    """The path of a shard named by an index; FormatError where it would leave the folder.

    The cache of huggingface_hub keeps files as links from `snapshots/<revision>/` to `blobs/`: these may be followed.
    """
    parts = name.split("/")
    if not name.endswith(SUFFIX) or any(part in ("", ".", "..") for part in parts) or set(name) & set("\\:\0"):
        raise FormatError(
            f"{folder}: a shard must be a *{SUFFIX} file in the folder, named relative to it, got {checks.shown(name)}"
        )
    root = Path(folder).resolve()
    try:
        real = root.joinpath(*parts).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that the system cannot have
        raise FormatError(f"{folder}: shard {checks.shown(name)} cannot be resolved: {error}") from None
    in_cache = any(up.name == "snapshots" and real.parent == up.parent / "blobs" for up in root.parents)
    if not (real.is_relative_to(root) or in_cache):
        raise FormatError(f"{folder}: shard {checks.shown(name)} is a link out of the folder")
    return root.joinpath(*parts)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, or a folder on the way may not be entered
        return False
