"""`ByteFile`: a file as an array of bytes that many threads may read at once.

Reads are `pread` into fresh memory aligned to 64 bytes: no shared position, no lock, and a file that another process
truncates gives an error here where a memory map would kill the process. A map is there for those who ask.
"""

from __future__ import annotations

import mmap as _mmap
import os
import stat
from threading import Lock
from typing import Any

import numpy as np

from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives import memory
from arraycodec.spec import ArraySpec

PIECE = 1 << 30  # Linux reads at most 2^31 - 4096 bytes at once


class ByteFile:
    """An open regular file: `path`, `size`, and `read(offset, nbytes)`.

    With `mmap=True` reads are views of a private map: nothing is copied until it is touched, what a caller writes
    stays in memory, and truncation by others ends the process.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = False) -> None:
        self.path = os.fspath(path)
        # O_NONBLOCK: opening a FIFO would wait for a writer, before we could see that it is one
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        self._file = open(os.open(self.path, flags), "rb", buffering=0)  # noqa: SIM115  # closed by close()
        status = os.fstat(self._file.fileno())
        if not stat.S_ISREG(status.st_mode):
            self._file.close()
            raise ArgumentError(f"{self.path}: must be a regular file")
        self.size = status.st_size
        self._lock = Lock()
        self._map: np.ndarray | None = None
        if mmap and self.size:
            self._map = np.frombuffer(_mmap.mmap(self._file.fileno(), 0, access=_mmap.ACCESS_COPY), np.uint8)

    def read(self, offset: int, nbytes: int) -> np.ndarray:
        """`nbytes` bytes at `offset` as a writable uint8 array."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.size:
            raise CorruptError(f"{self.path}: cannot read bytes {offset}..{offset + nbytes} of {self.size}")
        if self._file.closed:
            raise ArgumentError(f"{self.path}: is closed")
        if self._map is not None:
            return self._map[offset : offset + nbytes]
        buffer: Any = memory.empty(ArraySpec((nbytes,), "uint8"))
        view, at = memoryview(buffer), 0
        while at < nbytes:
            if not (count := self._read_into(view[at : at + PIECE], offset + at)):
                raise CorruptError(f"{self.path}: was truncated to {offset + at} bytes while it was read")
            at += count
        return buffer

    def _read_into(self, view: memoryview, offset: int) -> int:
        try:
            if hasattr(os, "preadv"):
                return os.preadv(self._file.fileno(), [view], offset)
            with self._lock:
                self._file.seek(offset)
                return self._file.readinto(view)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.path) from error

    def close(self) -> None:
        """Close the file; arrays already read stay valid."""
        self._file.close()
        self._map = None
