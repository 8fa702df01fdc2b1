"""Atomic writes: whatever happens, the target is the old file or the whole new one."""

import contextlib
import errno
import os
import resource
import signal
import stat
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import atomic
from arraycodec.containers.writer import Writer
from tests.containers.support import weights

posix = pytest.mark.skipif(os.name == "nt", reason="locks, modes and limits of POSIX")


def leftovers(folder):
    return [name for name in os.listdir(folder) if name.startswith(".arraycodec-")]


def test_replaces_whole(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with atomic.AtomicFile(path) as file:
        file.write(b"new", memoryview(b" and"), np.frombuffer(b" more", np.uint8), b"")
        file.write_at(0, b"N")
        assert path.read_bytes() == b"old" and len(leftovers(tmp_path)) == 1
    assert path.read_bytes() == b"New and more" and not leftovers(tmp_path)
    for use in (file.commit, lambda: file.write(b"x"), lambda: file.write_at(0, b"x")):
        with pytest.raises(ac.ArgumentError, match="already"):
            use()
    file.abort()
    assert path.read_bytes() == b"New and more"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_exceptions_leave_nothing(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(error), atomic.AtomicFile(path) as file:
        file.write(b"new")
        raise error
    assert path.read_bytes() == b"old" and not leftovers(tmp_path)
    plan = [("a", ac.ArraySpec((4,), "float32"), None)]
    with pytest.raises(error), Writer(path, plan):
        raise error
    assert path.read_bytes() == b"old" and not leftovers(tmp_path)


def test_overwrite_false(tmp_path):
    path = tmp_path / "x"
    with atomic.AtomicFile(path, overwrite=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError, match="x"):
        atomic.AtomicFile(path, overwrite=False)
    late = tmp_path / "late"
    with pytest.raises(FileExistsError), atomic.AtomicFile(late, overwrite=False) as file:
        file.write(b"mine")
        late.write_bytes(b"theirs")
    assert late.read_bytes() == b"theirs" and not leftovers(tmp_path)
    with pytest.raises(FileExistsError):
        ac.save_file({"a": weights(3)}, path, overwrite=False)


@posix
def test_modes(tmp_path):
    path = tmp_path / "x"
    old = os.umask(0o027)
    try:
        ac.save_file({"a": weights(3)}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        path.chmod(0o604)
        ac.save_file({"a": weights(4)}, path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o604
    finally:
        os.umask(old)


@posix
def test_odd_targets(tmp_path):
    with pytest.raises(IsADirectoryError):
        ac.save_file({}, tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        ac.save_file({}, tmp_path / "no" / "x")
    assert str(tmp_path / "no" / "x") in str(caught.value)
    with pytest.raises(ac.ArgumentError, match="regular"):
        ac.save_file({}, "/dev/null")
    blob, link = tmp_path / "blob", tmp_path / "link"
    blob.write_bytes(b"shared")
    link.symlink_to(blob)
    ac.save_file({"a": weights(3)}, link)
    assert blob.read_bytes() == b"shared" and not link.is_symlink()
    name = tmp_path / ("n" * 255)
    ac.save_file({"a": weights(3)}, name)
    assert ac.load_file(name).keys() == {"a"}


@posix
def test_two_writers_both_whole(tmp_path):
    path = tmp_path / "x"
    first, second = atomic.AtomicFile(path), atomic.AtomicFile(path)
    assert len(leftovers(tmp_path)) == 2  # the second has not swept the first, which lives
    first.write(b"1" * 1000)
    second.write(b"2" * 2000)
    second.commit()
    assert path.read_bytes() == b"2" * 2000
    first.commit()
    assert path.read_bytes() == b"1" * 1000 and not leftovers(tmp_path)


@posix
def test_disk_full_keeps_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    ac.save_file({"a": weights(8)}, path)
    old = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        for most in (0, 100, 5_000, 50_000, 200_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
            with pytest.raises(OSError) as caught:
                ac.save_file({"a": ac.encode(weights(256, 1024), "nf4"), "b": weights(64, 1024)}, path)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            assert caught.value.errno == errno.EFBIG and str(path) in str(caught.value)
            assert path.read_bytes() == old and not leftovers(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_errors_of_fsync_and_rename(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    for name in ("fsync", "replace"):

        def fail(*args, name=name):
            raise OSError(errno.EIO, "input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="output error"):
                ac.save_file({"a": weights(3)}, path)
        assert path.read_bytes() == b"old" and not leftovers(tmp_path)


WRITERS = """
    import itertools, os, signal, sys, numpy as np, arraycodec as ac
    ac.save_file({"c": np.array(-1)}, sys.argv[1])  # everything is imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for target in sys.stdin:
        if pid := os.fork():
            print(pid, flush=True)
            continue
        for i in itertools.count():
            big = np.full(1 << 18, i, np.int64)
            ac.save_file({"a": big, "b": big, "c": np.array(i)}, target.rstrip())
"""


@posix
def test_kill_at_50_random_moments(tmp_path):
    """Old file or whole new one after SIGKILL; what is left over goes at the next write."""
    rng, orphans, path = np.random.default_rng(0), 0, tmp_path / "x.safetensors"
    ac.save_file({"c": np.array(-2)}, path)
    command = [sys.executable, "-c", textwrap.dedent(WRITERS), str(tmp_path / "first")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as parent:
        for _ in range(50):
            parent.stdin.write(f"{path}\n")
            pid = int(parent.stdout.readline())
            time.sleep(rng.uniform(0, 0.04))
            os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ProcessLookupError):
                while True:
                    os.kill(pid, 0)
                    time.sleep(0.001)
            loaded = ac.load_file(path)
            assert loaded["c"] == -2 or all((loaded[name] == loaded["c"]).all() for name in "abc")
            assert len(leftovers(tmp_path)) <= 1  # the next writer has swept the last one's
            orphans += len(leftovers(tmp_path))
        parent.stdin.close()
    assert orphans > 5  # or nobody was killed while writing
    ac.save_file({"c": np.array(9)}, path)
    assert not leftovers(tmp_path)


@posix
def test_sweep_takes_only_dead_ones_of_this_target(tmp_path):
    path = tmp_path / "x"
    living = atomic.AtomicFile(path)
    other = atomic.AtomicFile(tmp_path / "y")
    dead = [f"{atomic._prefix(target)}1-00.tmp" for target in (path, tmp_path / "y")]
    for name in dead:
        (tmp_path / name).write_bytes(b"x")
    assert atomic.sweep(path) == dead[:1]
    assert set(leftovers(tmp_path)) == {living.temporary.name, other.temporary.name, dead[1]}
    living.abort()
    other.abort()
