"""The other libraries that `bench` measures, where they are installed: a module and a few entries for each.

Third-party imports are inside functions. Whether a peer's decoded values are ours is not stated here but measured.
"""

from __future__ import annotations

from collections.abc import Collection

from arraycodec.checkpoints.peers import bitsandbytes, compressed_tensors, gguf, quanto, torchao
from arraycodec.checkpoints.peers.entry import Calls, Entry

LIBRARIES = tuple(module.NAME for module in (bitsandbytes, compressed_tensors, torchao, quanto, gguf))
ENTRIES: tuple[Entry, ...] = (
    *bitsandbytes.ENTRIES, *compressed_tensors.ENTRIES, *torchao.ENTRIES, *quanto.ENTRIES, *gguf.ENTRIES,
)  # fmt: skip


def entries(schemes: Collection[str]) -> list[Entry]:
    """The entries for these schemes."""
    return [entry for entry in ENTRIES if entry.scheme in schemes]


__all__ = ["ENTRIES", "LIBRARIES", "Calls", "Entry", "entries"]
