"""`bench FILE`, the lossless part: every mode and the peers that are installed on the user's own file, in one process.

Ours are frames in memory, tensor by tensor: encoding hashes what it makes, decoding checks the hashes. Peers are called
as peers/lossless.py says. Each has run on a small part of the file before, so that nothing is left to compile. Round
trips are compared bit for bit.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec import __version__, api, registry
from arraycodec.base import Codec
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.peak import peak_bytes
from arraycodec.checkpoints.peers.lossless import PEERS, FileCalls, FilePeer
from arraycodec.checkpoints.peers.tensors import torch_threads
from arraycodec.checkpoints.pipeline import ordered
from arraycodec.checkpoints.policy import MIN_BYTES
from arraycodec.checkpoints.scheme import MODES
from arraycodec.checkpoints.tree import scan
from arraycodec.containers.frame import FrameReader, frame_buffers
from arraycodec.containers.reader import open_file
from arraycodec.containers.safetensors import SafetensorsFile, SafetensorsWriter, make_header
from arraycodec.errors import ArgumentError
from arraycodec.primitives import memory, threads
from arraycodec.spec import ArraySpec, spec_of

RUNS, ENOUGH = 5, 3.0  # a median of so many runs, or fewer where they take so many seconds together
WARM = 1 << 17  # elements of each dtype in the file that everything runs on first
OWN = "arraycodec"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Speed:
    """Seconds with so many threads; medians. `decode_into` is into warm memory, which no peer offers."""

    threads: int
    encode: float
    decode: float
    decode_into: float | None


@dataclass(frozen=True)
class Contender:
    """One mode of ours or one peer on the file."""

    name: str
    setting: str
    version: str
    raw: int  # the bytes encoded: those of all tensors, or of the file
    nbytes: int
    exact: bool  # whether what came back was compared and is the same
    encode_peak: int | None  # bytes of memory at the peak of encoding, what it returns included; None: not known here
    decode_peak: int | None
    speeds: tuple[Speed, ...]

    @property
    def ratio(self) -> float:
        """Bytes after to bytes before; smaller is better."""
        return self.nbytes / self.raw if self.raw else 1.0

    def to_json(self) -> dict[str, Any]:
        """Its fields, and MB (10^6 bytes) a second."""
        data: dict[str, Any] = asdict(self) | {"ratio": self.ratio}
        for speed in data["speeds"]:
            for name in ("encode", "decode", "decode_into"):
                seconds = speed.pop(name)
                speed |= {f"{name}_s": seconds, f"{name}_mb_s": seconds and self.raw / seconds / 1e6}
        return data


@dataclass(frozen=True)
class LosslessBench:
    """The outcome of `bench_lossless`."""

    file: str
    machine: dict[str, str | int]
    contenders: tuple[Contender, ...]
    notes: tuple[str, ...]  # what was not measured, and why

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "file": self.file,
            "machine": self.machine,
            "contenders": [contender.to_json() for contender in self.contenders],
            "notes": list(self.notes),
        }


def bench_lossless(file: str | os.PathLike[str], *, quick: bool = False, say: Say = lambda what: None) -> LosslessBench:
    """Measure every lossless mode, and the peers that are installed, on a plain safetensors file.

    quick  our modes only, all threads only.
    say    called with what is measured next.

    >>> bench_lossless("model.safetensors").contenders[0].ratio  # doctest: +SKIP
    """
    if (reason := unfit(file)) is not None:
        raise ArgumentError(f"{file}: {reason}")
    path, found, notes = Path(file), [], []
    counts = [threads.available_cpus()] if quick else sorted({1, threads.available_cpus()})
    own = [FilePeer(OWN, mode, True, _ours(scheme)) for mode, scheme in MODES.items()]
    with tempfile.TemporaryDirectory(prefix="arraycodec-bench-") as folder:
        small = _small(path, Path(folder) / "small.safetensors")
        for peer in (*own, *(() if quick else PEERS)):
            try:
                version = __version__ if peer.distribution == OWN else metadata.version(peer.distribution)
            except metadata.PackageNotFoundError:
                notes.append(f"{peer.distribution}: not installed")
                continue
            say(f"{peer.distribution} {peer.setting}".strip())
            try:
                found.append(_measured(peer, version, path, small, Path(folder), counts))
            except Exception as error:  # whatever another library raises must not end a benchmark of ours
                if peer.distribution == OWN:
                    raise
                notes.append(f"{peer.distribution}: {type(error).__name__}: {str(error).partition(chr(10))[0]:.120}")
    return LosslessBench(str(path), machine(), tuple(found), tuple(dict.fromkeys(notes)))


def unfit(file: str | os.PathLike[str]) -> str | None:
    """Why a path cannot be measured; None where it is one plain file."""
    if not scan(file).single:
        return "bench measures lossless coding on one file, not on a folder"
    with open_file(file) as container:
        return "is compressed already; decompress it first" if container.native else None


def _measured(peer: FilePeer, version: str, path: Path, small: Path, folder: Path, counts: list[int]) -> Contender:
    warm = peer.prepare(small, folder, 1)
    warm.decode(warm.encode(warm.fresh()))
    speeds, exact, nbytes, raw = [], True, 0, 0
    peaks: tuple[int | None, int | None] = (None, None)
    for count in counts if peer.threaded else counts[:1]:
        with threads.limited(count), torch_threads(count):
            calls = peer.prepare(path, folder, count)
            data = calls.fresh()
            (coded, first), encode_peak = peak_bytes(lambda calls=calls, data=data: _timed(calls.encode, data))
            (back, second), decode_peak = peak_bytes(lambda calls=calls, coded=coded: _timed(calls.decode, coded))
            exact, nbytes, raw = exact and calls.same(back), calls.nbytes(coded), calls.raw
            peaks = peaks if speeds else (encode_peak, decode_peak)
            del back, data
            # A first call of ours may compile what the small file had no use for; of others it may take minutes.
            slow = peer.distribution != OWN
            encode = _median(calls.encode, calls.fresh, first if slow else None)
            decode = _median(calls.decode, lambda coded=coded: coded, second if slow else None)
            into = None if calls.into is None else _median(calls.into, lambda coded=coded: coded, None)
            speeds.append(Speed(count if peer.threaded else 1, encode, decode, into))
    if not exact:
        raise ArgumentError("what it decodes is not the original")
    return Contender(peer.distribution, peer.setting, version, raw, nbytes, exact, *peaks, tuple(speeds))


def _timed(run: Callable[[Any], Any], data: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = run(data)
    return result, time.perf_counter() - start


def _median(run: Callable[[Any], Any], fresh: Callable[[], Any], first: float | None) -> float:
    """The median time; `first` is that of a run before, which counts only where it took long."""
    times = [] if first is None or first < ENOUGH else [first]
    while len(times) < RUNS and sum(times) < ENOUGH:
        data = fresh()
        times.append(_timed(run, data)[1])
    return statistics.median(times)


def _ours(scheme: str) -> Callable[[Path, Path, int], FileCalls]:
    """A mode of ours: a frame for each tensor that shrinks, the bytes of each other one; tensors side by side."""
    codec = registry.codec(scheme)

    def prepare(path: Path, folder: Path, count: int) -> FileCalls:
        with SafetensorsFile(path) as file:
            arrays = {name: file.array(name) for name in file.tensors}
        total = sum(x.nbytes for x in arrays.values())
        outs = {name: memory.empty(spec_of(x)) for name, x in arrays.items()}

        def each(work: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
            return dict(ordered(work, [*arrays], lambda name: arrays[name].nbytes, count, total))

        def decode(coded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return each(lambda name: _decoded(coded[name], arrays[name].nbytes, None))

        def into(coded: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            return each(lambda name: _decoded(coded[name], arrays[name].nbytes, outs[name]))

        return FileCalls(
            lambda _: each(lambda name: _encoded(arrays[name], codec)),
            decode,
            lambda coded: sum(data.nbytes for data in coded.values()),
            lambda back: all(np.array_equal(memory.bits(back[name]), memory.bits(x)) for name, x in arrays.items()),
            total,
            into=into,
        )

    return prepare


def _encoded(x: np.ndarray, codec: Codec) -> np.ndarray:
    """The frame as bytes, or the array itself where that is no larger."""
    if x.nbytes < MIN_BYTES:
        return x
    buffers = frame_buffers(api.encode(x, codec))
    if (nbytes := sum(map(len, buffers))) >= x.nbytes:
        return x
    frame, at = memory.empty(ArraySpec((nbytes,), "uint8")), 0
    for buffer in buffers:
        frame[at : at + len(buffer)] = np.frombuffer(buffer, np.uint8)
        at += len(buffer)
    return frame


def _decoded(data: np.ndarray, nbytes: int, out: np.ndarray | None) -> np.ndarray:
    if data.nbytes == nbytes:
        if out is None:
            return data.copy()
        np.copyto(out, data)
        return out
    return api.decode(FrameReader(lambda at, count: data[at : at + count], data.nbytes).encoded(), out=out)


def _small(path: Path, target: Path) -> Path:
    """A file with the first rows of the largest tensor of each dtype."""
    with SafetensorsFile(path) as file:
        largest = {t.spec.dtype: t.name for t in sorted(file.tensors.values(), key=lambda t: t.spec.nbytes)}
        arrays = {name: _rows(file.array(name)) for name in largest.values()}
    header = make_header({name: spec_of(array) for name, array in arrays.items()})
    with SafetensorsWriter(target, header) as writer:
        for name in header.tensors:
            writer.add(name, arrays[name])
    return target


def _rows(array: np.ndarray) -> np.ndarray:
    array = array if array.ndim > 1 else array.reshape(1, -1)
    return array[: max(1, WARM // max(1, array[0].size))] if len(array) else array
