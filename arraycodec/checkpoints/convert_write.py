"""Writing the files of a conversion, each one tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from arraycodec.base import Encoded
from arraycodec.checkpoints.conversion import Converted
from arraycodec.checkpoints.convert_tensor import Item, made
from arraycodec.checkpoints.pipeline import MIN_BUDGET, Done, ordered
from arraycodec.checkpoints.tree import located
from arraycodec.containers.reader import Container
from arraycodec.containers.safetensors import SafetensorsWriter, make_header
from arraycodec.containers.writer import Writer, head_size
from arraycodec.errors import ArgumentError
from arraycodec.formats.checkpoint import GGUF
from arraycodec.formats.native import Native
from arraycodec.formats.target import Target
from arraycodec.spec import ArraySpec


@dataclass
class Shard:
    """One file of the result: `file` of the source becomes `name`; rows and sizes are found while it is written."""

    file: str
    name: str
    container: Container
    target: Target
    items: list[Item]
    rows: list[Converted] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=dict)  # stored tensor -> bytes

    @property
    def kept(self) -> list[Item]:
        """The items that something is stored of."""
        return [item for item in self.items if item.how != "dropped"]

    @property
    def metadata(self) -> dict[str, str]:
        """Of the safetensors file: that of the source's where the target is one of ours and does not set it."""
        kept = self.target.name in ("dense", "arraycodec") and not self.file.endswith(GGUF)
        return (dict(self.container.metadata) if kept else {}) or dict(self.target.metadata)

    @property
    def specs(self) -> dict[str, ArraySpec]:
        """name -> spec of all tensors in the file, once every layout is known."""
        return {name: spec for item in self.kept for name, spec in (item.layout or {}).items()}


def head_bytes(shard: Shard) -> int:
    """The bytes before the data of the file, in a dry run of which every size is known."""
    if not shard.kept:
        return 0
    if isinstance(shard.target, Native):
        return head_size([(item.name, item.spec, item.codec) for item in shard.kept], shard.metadata)
    return make_header(shard.specs, shard.metadata, align=shard.target.align).data_start


def write_shard(shard: Shard, path: Path, jobs: int, overwrite: bool, done: Done) -> bool:
    """Write one file; False where nothing is to be stored in it."""
    kept = {item.name: item for item in shard.kept}
    rows = {item.name: item.row(0, ()) for item in shard.items if item.how == "dropped"}
    if kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        write = _native if isinstance(shard.target, Native) else _foreign
        for item, stored in write(shard, kept, path, jobs, overwrite):
            shard.sizes |= stored
            rows[item.name] = item.row(sum(stored.values()), tuple(stored))
            done.add(item.tensor.spec.nbytes, item.name)
    shard.rows = [rows[item.name] for item in shard.items]
    return bool(kept)


Written = Iterator[tuple[Item, dict[str, int]]]  # what was written, and the tensors it is stored as with their bytes


def _native(shard: Shard, items: dict[str, Item], path: Path, jobs: int, overwrite: bool) -> Written:
    plan = [(item.name, item.spec, item.codec) for item in items.values()]
    with Writer(path, plan, metadata=shard.metadata, overwrite=overwrite) as writer:
        for item, value in _made(items, writer.order, jobs):
            with located(path, item.name):
                nbytes = writer.add(item.name, value)
            del value
            yield item, {item.name: nbytes}


def _foreign(shard: Shard, items: dict[str, Item], path: Path, jobs: int, overwrite: bool) -> Written:
    header = make_header(shard.specs, shard.metadata, align=shard.target.align)
    with SafetensorsWriter(path, header, overwrite=overwrite) as writer:
        for item, value in _made(items, [*items], jobs):
            with located(Path(item.tensor.path), item.name):
                stored = {item.name: value} if isinstance(value, np.ndarray) else shard.target.arrays(item.name, value)
            del value  # its arrays are gone as soon as they are written
            if set(stored) != set(item.layout or {}):
                raise ArgumentError(f"{path}: {item.name}: planned are {[*(item.layout or {})]}, got {[*stored]}")
            for name in item.layout or {}:
                writer.add(name, stored.pop(name))
            yield item, {name: spec.nbytes for name, spec in (item.layout or {}).items()}


def _made(items: dict[str, Item], order: Sequence[str], jobs: int) -> Iterator[tuple[Item, Encoded | np.ndarray]]:
    """What is stored of each item, in order; those in flight take no more memory than the largest does."""
    budget = max([MIN_BUDGET, *(item.cost for item in items.values())])
    for name, value in ordered(lambda name: made(items[name]), order, lambda name: items[name].cost, jobs, budget):
        yield items[name], value
        del value
