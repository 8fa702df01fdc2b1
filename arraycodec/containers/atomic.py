"""`AtomicFile`: a new file that takes the target's place whole, or not at all.

The temporary lies in the target's folder (a rename across file systems is not atomic) and holds a lock for as long as
its writer lives: the next writer of the same target removes those that nobody holds, which a crash left behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import xxhash

from arraycodec.containers.checksums import Buffer
from arraycodec.errors import ArgumentError

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, which serves as the lock
    fcntl = None

PIECE = 1 << 30  # Linux writes at most 2^31 - 4096 bytes at once


class AtomicFile:
    """Write with `write` and `write_at`, then `commit()` or `abort()`; as a context manager it does one of them.

    overwrite  False: FileExistsError where the target exists, also where it appears while we write.

    A target that is a symbolic link is replaced itself, not the file it points to. The new file has the old one's
    mode, or what the umask says.
    """

    def __init__(self, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
        self.path = Path(path)
        self.overwrite = overwrite
        self.position = 0
        self._pending = False  # whether there is a temporary
        old = _lstat(self.path)
        if old and stat.S_ISDIR(old.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        if old and not (stat.S_ISREG(old.st_mode) or stat.S_ISLNK(old.st_mode)):
            raise ArgumentError(f"{self.path}: must be a regular file, it cannot be replaced atomically")
        if old and not overwrite:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self.path))
        with _naming(self.path):
            sweep(self.path)
            self.temporary, self._file = _create(self.path)
        self._pending = True
        if old and stat.S_ISREG(old.st_mode) and hasattr(os, "fchmod"):
            with self.aborting():
                os.fchmod(self._file.fileno(), stat.S_IMODE(old.st_mode) & 0o777)

    def write(self, *buffers: Buffer) -> int:
        """Append these buffers; returns their bytes."""
        self._check_pending()
        start = self.position
        with _naming(self.path):
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                while view:
                    count = self._file.write(view[:PIECE])
                    self.position += count
                    view = view[count:]
        return self.position - start

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write at a place of the file: over what is there, or beyond it. What `write` appends to stays where it is."""
        self._check_pending()
        with _naming(self.path):
            self._file.seek(offset)
            view = memoryview(data).cast("B")
            while view:
                view = view[self._file.write(view[:PIECE]) :]
            self._file.seek(self.position)

    def commit(self) -> None:
        """Make the file durable and put it in the target's place."""
        self._check_pending()
        with self.aborting(), _naming(self.path):
            os.fsync(self._file.fileno())
            if fcntl is None:
                self._file.close()  # Windows renames closed files only
            if self.overwrite:
                os.replace(self.temporary, self.path)
            else:
                _rename_new(self.temporary, self.path)
            self._pending = False
            self._file.close()
            _fsync_folder(self.path.parent)

    def abort(self) -> None:
        """Remove the temporary; the target stays as it was."""
        if self._pending:
            self._pending = False
            with contextlib.suppress(OSError):
                os.unlink(self.temporary)
            self._file.close()

    @contextlib.contextmanager
    def aborting(self) -> Iterator[None]:
        """Remove the temporary where the block fails, for whatever reason, KeyboardInterrupt included."""
        try:
            yield
        except BaseException:
            self.abort()
            raise

    def _check_pending(self) -> None:
        if not self._pending:
            raise ArgumentError(f"{self.path}: was committed or aborted already")

    def __enter__(self) -> AtomicFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.commit() if kind is None else self.abort()


def sweep(path: Path) -> list[str]:
    """Remove the temporaries of this target whose writers have died; returns their names."""
    prefix, removed = _prefix(path), []
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(prefix) and entry.name.endswith(".tmp")]
    for name in names:
        with contextlib.suppress(OSError):  # its writer lives, or another sweeper was faster
            file = os.open(path.parent / name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(path.parent / name)
            finally:
                os.close(file)
            if fcntl is None:
                os.unlink(path.parent / name)
            removed.append(name)
    return removed


def _prefix(path: Path) -> str:
    # a hash: the target's own name may already have as many bytes as a file system allows
    return f".arraycodec-{xxhash.xxh3_64_hexdigest(os.fsencode(path.name))}-"


def _create(path: Path):
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    while True:
        temporary = path.parent / f"{_prefix(path)}{os.getpid()}-{secrets.token_hex(8)}.tmp"
        file = open(os.open(temporary, flags, 0o666), "r+b", buffering=0)  # noqa: SIM115  # the caller closes it
        if fcntl is None:
            return temporary, file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # a sweeper took it for an orphan in the instant before this lock
            file.close()
            continue
        except OSError:  # this file system has no locks, so nobody can sweep here either
            return temporary, file
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()


def _rename_new(temporary: Path, path: Path) -> None:
    """Rename, or FileExistsError where the target exists; a hard link is the portable way to have both at once."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        if _lstat(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)
    else:
        os.unlink(temporary)


def _fsync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of the system name the target, and stay what they are (an OSError of their errno)."""
    try:
        yield
    except OSError as error:
        if error.filename == str(path):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
