"""What a tensor of a file refers to: another tensor of the folder (a tie), the array of its name in a base (a delta).

Both are found when they are asked for. A tie names a file of its own folder and nothing outside of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arraycodec.codecs.tied import Tied
from arraycodec.containers import checks, shards
from arraycodec.containers.manifest import Base
from arraycodec.errors import ArgumentError, CorruptError

if TYPE_CHECKING:
    from arraycodec.containers.lazy import LazyTensor


class References:
    """What the tensors of one file refer to.

    path  of the file.
    open  gives the tensors of a file by its path.
    base  name -> LazyTensor or array that deltas are to, or None.
    made  the checkpoint that the file's manifest says they are to.
    """

    def __init__(
        self,
        path: str,
        open: Callable[[str | Path], Mapping[str, LazyTensor]],
        base: Mapping[str, Any] | None,
        made: Base | None = None,
    ) -> None:
        self._path = Path(os.path.abspath(path))  # now: the working folder may change
        self._open, self._base, self._made = open, base, made

    def target(self, tied: LazyTensor) -> LazyTensor:
        """The tensor that another one is tied to: there, of the same spec, and not tied itself."""
        if not isinstance(codec := tied.codec, Tied):
            return tied
        where = f"{tied.where}: is tied to {checks.shown(codec.tensor)}"
        where += f" of {checks.shown(codec.file)}" if codec.file else ""
        with checks.from_file(tied.where):
            path = shards.confined(self._path.parent, codec.file) if codec.file else self._path
        there = not codec.file or os.path.isfile(path)
        if not there or (found := self._open(path).get(codec.tensor)) is None:
            raise CorruptError(f"{where}, which is not there")
        if isinstance(found.codec, Tied):
            raise CorruptError(f"{where}, which is tied itself")
        if found.spec != tied.spec:
            raise CorruptError(f"{where}, which is {checks.spec_text(found.spec)}, not {checks.spec_text(tied.spec)}")
        return found

    def base(self, delta: LazyTensor) -> Any:
        """The LazyTensor or array that a delta is to, by its name."""
        if self._base is None:
            raise ArgumentError(
                f"{delta.where}: is stored as the difference to a base: base= must be the checkpoint, or the arrays by "
                "name, that it was made with"
            )
        if delta.name not in self._base:
            raise ArgumentError(f"{delta.where}: the base must have a tensor of this name, it has none")
        return self._base[delta.name]

    def told(self, tensor: LazyTensor) -> str:
        """What errors call a tensor: of a delta with the base that it was made with, and the one that is there."""
        if not tensor.needs_base:
            return tensor.where
        made = "another array"
        if self._made is not None:
            files = "; ".join(f"{checks.shown(name)} sha256 {digest}" for name, digest in self._made.files.items())
            made = f"{checks.shown(self._made.name)} ({files})"
        path = getattr((self._base or {}).get(tensor.name), "path", "the base given")
        return f"{tensor.where}: a difference to {made}, read with {path}"
