"""`demo`: one checkpoint through every scheme, and what each of them costs and keeps."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from arraycodec import api, registry
from arraycodec.base import Codec
from arraycodec.checkpoints.bench_case import power_of
from arraycodec.checkpoints.compress import compress
from arraycodec.checkpoints.decompress import decompress
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.measure import finite
from arraycodec.checkpoints.tree import scan
from arraycodec.checkpoints.verify import Check, verify
from arraycodec.containers.reader import open_file
from arraycodec.errors import ArgumentError

SAMPLE = Path(__file__).parent.parent / "data" / "sample.safetensors"
ENOUGH = 0.02  # seconds of calls for one tensor: dozens of tensors
MOST = 0.5  # seconds of encoding for one scheme: those that take long to train
Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What one scheme made of the checkpoint."""

    scheme: str
    bytes_before: int
    bytes_after: int
    bits_per_weight: float  # of the whole file, plain tensors and headers included
    encoded_bits: float | None  # per weight that is encoded, all planes; None where nothing got smaller by it
    snr_db: float  # of all encoded tensors together
    encode_mb_s: float | None  # MB of the encoded tensors' original bytes per second, in memory, all threads
    decode_mb_s: float | None
    verified: bool  # every checksum holds, and every plain tensor is the original bit for bit
    tensors: dict[str, float]  # SNR of each encoded tensor

    def to_json(self) -> dict[str, Any]:
        """Its fields, with None for an SNR that is infinite: JSON has no such number."""
        tensors = {name: finite(value) for name, value in self.tensors.items()}
        return asdict(self) | {"snr_db": finite(self.snr_db), "tensors": tensors}


@dataclass(frozen=True)
class Demo:
    """The outcome of `demo`."""

    source: str
    folder: str | None  # where the files were kept
    tensors: int
    elements: int
    outcomes: tuple[Outcome, ...]
    plot: str | None
    note: str | None  # why there is no plot
    machine: dict[str, str | int]

    @property
    def ok(self) -> bool:
        """Whether all files verified."""
        return all(outcome.verified for outcome in self.outcomes)

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return asdict(self) | {"ok": self.ok, "outcomes": [outcome.to_json() for outcome in self.outcomes]}


def demo(
    file: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    *,
    plot: bool = True,
    say: Say = lambda what: None,
) -> Demo:
    """Compress, verify and decompress a safetensors file with every scheme.

    file    any plain safetensors file; the small trained model of this package if not given.
    folder  where files and plot are kept (files of that name are replaced); without it all but a plot called
            `arraycodec-demo.png` in the working folder is thrown away.
    """
    source = SAMPLE if file is None else Path(file)
    if not scan(source).single:
        raise ArgumentError(f"{source}: demo takes one file, not a folder")
    outcomes, tensors, elements = [], 0, 0
    with ExitStack() as stack:
        if folder is None:
            target = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arraycodec-demo-")))
        else:
            target = Path(folder)
            target.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(target).free < 2 * source.stat().st_size:
            raise ArgumentError(f"{target}: too little space for a compressed and a decompressed copy of {source}")
        for scheme, codec in registry.SCHEMES.items():
            say(scheme)
            outcome, tensors, elements = _outcome(source, target, scheme, codec, keep=folder is not None)
            outcomes.append(outcome)
    picture, note = None, None
    if plot:
        say("plot")
        picture, note = _plot(outcomes, source, Path("." if folder is None else folder) / "arraycodec-demo.png")
    kept = None if folder is None else str(folder)
    return Demo(str(source), kept, tensors, elements, tuple(outcomes), picture, note, machine())


def _outcome(source: Path, target: Path, scheme: str, codec: Codec, keep: bool) -> tuple[Outcome, int, int]:
    stem = source.name.removesuffix(".safetensors")
    packed, back = target / f"{stem}.{scheme}.safetensors", target / f"{stem}.{scheme}.decoded.safetensors"
    report = compress(source, packed, scheme, overwrite=True)
    found = verify(packed, against=source)
    decompress(packed, back, overwrite=True)
    names = [row.name for row in report.encoded]
    speed = _speed(source, packed, names, codec)
    size = packed.stat().st_size
    if not keep:
        packed.unlink()
        back.unlink()
    lossy = {row.name: row for row in found.rows if row.codec is not None}
    snr = _overall(lossy, speed.power)
    return (
        Outcome(
            scheme,
            report.before,
            size,
            8 * size / max(report.elements, 1),
            8 * speed.encoded / speed.elements if names else None,
            snr,
            speed.timed / speed.encode / 1e6 if names else None,
            speed.nbytes / speed.decode / 1e6 if names else None,
            found.ok,
            {name: row.difference.snr_db for name, row in lossy.items() if row.difference},
        ),
        len(report.rows),
        report.elements,
    )


@dataclass
class _Speed:
    """Of the encoded tensors: seconds, sizes before and after, and their sums of squares."""

    encode: float
    decode: float
    nbytes: int
    timed: int  # of these bytes, those of the tensors whose encoding was timed
    elements: int
    encoded: int
    power: dict[str, float]


def _speed(source: Path, packed: Path, names: list[str], codec: Codec) -> _Speed:
    """Each tensor by itself in memory, the best of some calls: what the codec does, without the file system.

    Where encoding takes long, it is timed on the first tensors; the others are taken from the compressed file.
    """
    found, spent = _Speed(0.0, 0.0, 0, 0, 0, 0, {}), 0.0
    with open_file(source) as file, open_file(packed) as made:
        for name in names:
            array = file[name].decode()
            if spent < MOST:
                start = time.perf_counter()
                seconds, encoded = _best(lambda array=array: api.encode(array, codec, check=False))
                spent += time.perf_counter() - start
                found.encode += seconds
                found.timed += array.nbytes
            else:
                encoded = made[name].encoded()
            out = api.empty(encoded)
            found.decode += _best(lambda encoded=encoded, out=out: api.decode(encoded, out=out))[0]
            found.nbytes += array.nbytes
            found.elements += array.size
            found.encoded += encoded.nbytes
            found.power[name] = power_of(array)
    return found


def _best(run: Callable[[], T]) -> tuple[float, T]:
    """Seconds of the fastest of four calls, of fewer where they take long, and what the last one returned."""
    times: list[float] = []
    while True:  # the first fills caches and is rarely the best
        start = time.perf_counter()
        value = run()
        times.append(time.perf_counter() - start)
        if len(times) == 4 or sum(times) > ENOUGH:
            return min(times), value


def _overall(rows: dict[str, Check], power: dict[str, float]) -> float:
    """The SNR of all these tensors as if they were one."""
    signal = sum(power.values())
    noise = sum(
        row.difference.relative_rms**2 * power[name] for name, row in rows.items() if row.difference and name in power
    )
    return 10 * math.log10(signal / noise) if noise and signal else math.inf


def _plot(outcomes: list[Outcome], source: Path, path: Path) -> tuple[str | None, str | None]:
    try:
        from arraycodec.checkpoints.demo_plot import draw
    except ModuleNotFoundError as error:
        return None, f'no plot: {error.name} is not installed (pip install "arraycodec[plot]")'
    try:
        draw(outcomes, source.name, path)
    except OSError as error:  # the figures are made: a folder that cannot be written to must not lose them
        return None, f"no plot: {path}: {error.strerror or error}; -o names another folder"
    return str(path), None
