"""`bench --formats`: a weight to and from the stored tensors of others' formats, beside the libraries they come from.

One process, calls in turns, medians. Ours is what converting and opening a checkpoint do, less the file: encode and
make the stored tensors; make planes of these and decode. The peer allocates what it returns, ours but for `out=` too.
Before anything is timed, stored tensors and decoded values are compared with the peer's, bit for bit.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arraycodec import api
from arraycodec.base import Encoded
from arraycodec.checkpoints import sparse_files
from arraycodec.checkpoints.bench_peers import installed
from arraycodec.checkpoints.machine import machine
from arraycodec.checkpoints.peers import Calls
from arraycodec.checkpoints.peers import compressed_tensors as peer_presets
from arraycodec.checkpoints.peers import gguf as peer_gguf
from arraycodec.checkpoints.peers.tensors import torch_threads
from arraycodec.checkpoints.timing import medians
from arraycodec.codecs.gguf import Gguf
from arraycodec.codecs.two_four import TwoFour
from arraycodec.containers import safetensors
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.reader import open_file
from arraycodec.errors import ArgumentError
from arraycodec.formats import sparse
from arraycodec.formats.compressed_tensors import reader
from arraycodec.formats.compressed_tensors.target import CompressedTensors
from arraycodec.formats.config import given_config
from arraycodec.formats.translated import Weight
from arraycodec.primitives import threads
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec.primitives.memory import bits
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of

FORMATS_SHAPE = (4096, 4096)
DTYPE = "bfloat16"  # of the weights, but for GGUF's, which gguf-py decodes to float32
PRESETS = (
    "W4A16", "W4A16_ASYM", "W3A16", "W8A16", "W8A8", "FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16", "MXFP6A16",
    "MXFP8A16",
)  # fmt: skip
ZEROS = (50, 90)  # percent of the elements of a sparse matrix
GROUPS = (PRESET, GGUF, SPARSE) = ("presets", "GGUF", "sparse")
MODULE = "up_proj"
Stored = Mapping[str, np.ndarray]
Say = Callable[[str], None]


class Work(NamedTuple):
    """One format at work on one array."""

    spec: ArraySpec
    encode: Callable[[], Stored] | None  # None: the format is only read
    stored: Stored  # what `encode` returns
    decode: Callable[[np.ndarray | None], np.ndarray]  # `stored` -> the array, into `out` where one is given
    peer: Callable[[], Calls]  # imports the library


class Format(NamedTuple):
    """A format that is measured."""

    group: str
    library: str  # the distribution that is measured beside it
    label: str
    prepare: Callable[[tuple[int, int]], Work]
    threaded: bool = True  # the peer; one that is not is measured with one thread only

    @property
    def name(self) -> str:
        """What it is chosen by: the format alone."""
        return self.label.partition(",")[0]


@dataclass(frozen=True)
class FormatSpeed:
    """A format with so many threads; times in seconds."""

    group: str
    format: str
    threads: int
    nbytes: int  # of the dense array, which speeds are about
    stored: int  # bytes
    encode: float | None
    decode: float
    decode_into: float  # into warm memory
    peer_encode: float | None
    peer_decode: float | None
    differs: str | None  # "stored", "values" or both, where not every bit is the peer's; None: nothing to compare with

    @property
    def times_encode(self) -> float | None:
        """How often ours encodes in the peer's time."""
        return self.peer_encode / self.encode if self.peer_encode and self.encode else None

    @property
    def times_decode(self) -> float | None:
        """How often ours decodes in the peer's time, allocating as it does."""
        return self.peer_decode / self.decode if self.peer_decode else None

    def gb_s(self, seconds: float | None) -> float | None:
        """GB (10^9 bytes) of the dense array a second."""
        return self.nbytes / seconds / 1e9 if seconds else None

    def to_json(self) -> dict[str, Any]:
        """Its fields, GB/s, and the ratios."""
        rates = {f"{name}_gb_s": self.gb_s(getattr(self, name))
                 for name in ("encode", "decode", "decode_into", "peer_encode", "peer_decode")}  # fmt: skip
        return asdict(self) | rates | {"times_encode": self.times_encode, "times_decode": self.times_decode}


@dataclass(frozen=True)
class FormatBench:
    """The outcome of `bench_formats`."""

    machine: dict[str, str | int]
    date: str  # year-month-day, UTC
    load: tuple[float, ...]  # of the machine before and after: how many processes wanted a CPU, over a minute
    shape: tuple[int, int]
    rows: tuple[FormatSpeed, ...]
    notes: tuple[str, ...]  # what was not measured, and why

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "machine": self.machine,
            "date": self.date,
            "load": list(self.load),
            "shape": list(self.shape),
            "rows": [row.to_json() for row in self.rows],
            "notes": list(self.notes),
        }


def bench_formats(
    shape: tuple[int, int] = FORMATS_SHAPE,
    names: Sequence[str] | None = None,
    *,
    quick: bool = False,
    say: Say = lambda what: None,
) -> FormatBench:
    """Measure formats (all, if none are named) on a random matrix of this shape.

    quick  ours only, all threads only.
    say    called with what is measured next.

    >>> bench_formats((64, 256), ["Q4_0"], quick=True).rows[0].stored
    9216
    """
    if unknown := sorted(set(names or ()) - {format.name for format in FORMATS}):
        known = ", ".join(dict.fromkeys(format.name for format in FORMATS))
        raise ArgumentError(f"bench: formats must be among {known}, got {', '.join(unknown)}")
    load, rows, notes = _load(), [], []
    for format in FORMATS:
        if names and format.name not in names:
            continue
        say(format.label)
        try:
            work = format.prepare(shape)
        except ArgumentError as error:
            notes.append(f"{format.label}: {error}")
            continue
        calls = None if quick else _calls(format, work, notes)
        rows += _measured(format, work, calls, [threads.available_cpus()] if quick else counts())
    if not rows:
        raise ArgumentError(f"bench: nothing to measure: {'; '.join(notes)}")
    date = time.strftime("%Y-%m-%d", time.gmtime())
    return FormatBench(machine(), date, (*load, *_load()), shape, tuple(rows), tuple(dict.fromkeys(notes)))


def counts() -> list[int]:
    """How many threads: one, and as many as there are CPUs."""
    return sorted({1, threads.available_cpus()})


def _load() -> tuple[float, ...]:
    return (round(os.getloadavg()[0], 2),) if hasattr(os, "getloadavg") else ()


def _calls(format: Format, work: Work, notes: list[str]) -> tuple[Calls, Any, str] | None:
    """The peer's calls, what it stores, and in what it differs; None, and a note, where it cannot be measured."""
    if not installed(format.library):
        notes.append(f"{format.library}: not installed")
        return None
    try:
        calls = work.peer()
        stored = calls.encode()
        values = api.to_numpy(calls.decode(stored))
        theirs = {_role(name): api.to_numpy(value) for name, value in stored.items()}
    except Exception as error:  # whatever another library raises must not end a benchmark of ours
        what = f"{format.library}, {format.group}" if isinstance(error, ImportError) else format.label
        notes.append(f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]:.120}")
        return None
    ours = {_role(name): value for name, value in work.stored.items()}
    differs = [] if ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours) else ["stored"]
    differs += [] if same(work.decode(None), values) else ["values"]
    return calls, stored, ", ".join(differs)


def _role(name: str) -> str:
    return name.rpartition(".")[2]


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays are alike in shape, dtype and every bit."""
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(bits(a), bits(b))


def _measured(
    format: Format, work: Work, peer: tuple[Calls, Any, str] | None, counted: Sequence[int]
) -> list[FormatSpeed]:
    """A row for each count of threads."""
    rows, out, peer_decode = [], api.empty(work.spec), None
    nbytes = sum(value.nbytes for value in work.stored.values())
    for count in counted:
        encode = peer_encode = None
        timed = peer if count == counted[0] or format.threaded else None
        with threads.limited(count), torch_threads(count):
            if work.encode:
                encode, *other = medians(work.encode, *([timed[0].encode] if timed else []), quick=True, warm=True)
                peer_encode = other[0] if other else None
            others = [partial(timed[0].decode, timed[1])] if timed else []
            decode, into, *other = medians(
                lambda: work.decode(None), lambda: work.decode(out), *others, quick=True, warm=True
            )
            peer_decode = other[0] if other else peer_decode if peer else None
        rows.append(FormatSpeed(format.group, format.label, count, work.spec.nbytes, nbytes, encode, decode, into,
                                peer_encode, peer_decode, peer[2] if peer else None))  # fmt: skip
    return rows


# ---------------------------------------------------------------- the formats


@lru_cache(maxsize=1)
def _matrix(shape: tuple[int, int]) -> np.ndarray:
    """Normal numbers of the size of weights; not to be written to."""
    return (np.random.default_rng(0).standard_normal(shape, np.float32) * np.float32(0.02)).astype(numpy_dtype(DTYPE))


def _preset(name: str, shape: tuple[int, int]) -> Work:
    x, weight = _matrix(shape), f"{MODULE}.weight"
    target = CompressedTensors.of({"Linear": name})
    chosen = target.decide(weight, spec_of(x), None)
    if chosen.codec is None:
        raise ArgumentError(chosen.reason)
    codec = chosen.codec
    config = given_config(target.config({"dtype": DTYPE}, {weight: chosen}), None)

    def encode() -> Stored:
        return target.arrays(weight, api.encode(x, codec))

    stored = encode()
    read = _weight(stored, lambda raw: reader.read(raw, config)[weight])
    return Work(spec_of(x), encode, stored, _decoder(read, stored), lambda: peer_presets.preset(name, x))


def _sparse(format: str, zeros: int, shape: tuple[int, int]) -> Work:
    codec = sparse_files.CODECS[format]
    two_four = isinstance(codec, TwoFour)
    x = _matrix(shape)
    if two_four:  # which leaves half of them, of which others go
        x = api.decode(api.encode(x, TwoFour(prune=True)))
    dropped = (zeros / 100 - 0.5) / 0.5 if two_four else zeros / 100
    x = np.where(np.random.default_rng(1).random(shape, np.float32) < dropped, x.dtype.type(0), x)

    def encode() -> Stored:
        return {f"{MODULE}.{role}": array for role, array in sparse.arrays(api.encode(x, codec)).items()}

    stored = encode()
    read = _weight(stored, lambda raw: sparse.weights(raw)[MODULE])
    return Work(spec_of(x), encode, stored, _decoder(read, stored), lambda: peer_presets.sparse(format, x))


def _weight(stored: Stored, read: Callable[[Mapping[str, LazyTensor]], Weight]) -> Weight:
    """What a reader makes of stored tensors, from their headers."""
    with tempfile.TemporaryDirectory(prefix="arraycodec-bench-") as folder:
        path = Path(folder) / "model.safetensors"
        safetensors.save(stored, path)
        with open_file(path) as raw:
            return read(raw)


def _decoder(weight: Weight, stored: Stored) -> Callable[[np.ndarray | None], np.ndarray]:
    arrays = {role: stored[part.name] for role, part in weight.parts.items()}
    return lambda out: api.decode(Encoded(weight.codec, weight.spec, weight.planes(arrays)), out=out)


def _gguf(kind: str, shape: tuple[int, int]) -> Work:
    """Random blocks, whose scales are finite numbers."""
    codec, block, spec = Gguf(kind), TYPES[kind], ArraySpec(shape, "float32")
    blocks = np.random.default_rng(0).integers(0, 256, codec.planes(spec)["blocks"].known_shape, np.uint8)
    each = blocks.reshape(-1, block.nbytes)
    if block.d is None:
        each[:, :4] &= 0x3F  # the scales come first
    else:
        for at in (block.d, *(() if block.m is None else (block.m,))):
            each[:, at + 1] &= 0x3F
    encoded = Encoded(codec, spec, {"blocks": blocks})
    return Work(spec, None, encoded.planes, lambda out: api.decode(encoded, out=out),
                lambda: peer_gguf.blocks(kind, blocks))  # fmt: skip


FORMATS = (
    *(Format(PRESET, peer_presets.NAME, name, partial(_preset, name)) for name in PRESETS),
    *(Format(GGUF, peer_gguf.NAME, kind, partial(_gguf, kind), threaded=False) for kind in TYPES),
    *(
        Format(SPARSE, peer_presets.NAME, f"{format}, {zeros} % zeros", partial(_sparse, format, zeros))
        for format in sparse_files.CODECS
        for zeros in ZEROS
    ),
)
