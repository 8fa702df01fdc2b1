"""Measures other libraries, and our functions on other arrays than NumPy's, in turns with ours on a NumPy array."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.checkpoints.bench_case import Quality, combined
from arraycodec.checkpoints.measure import compare
from arraycodec.checkpoints.peak import peak_bytes
from arraycodec.checkpoints.peers import LIBRARIES, Entry, entries, frameworks
from arraycodec.checkpoints.peers.tensors import torch_threads
from arraycodec.checkpoints.timing import medians
from arraycodec.primitives import threads
from arraycodec.spec import ArraySpec

Say = Callable[[str], None]
JIT_ELEMENTS = 1 << 22  # XLA keeps every intermediate of the whole array: a part is enough, times are per element
WARM_ROWS = 128  # of a first call, after which everything is loaded and compiled


@dataclass(frozen=True)
class Peer:
    """Another implementation of a scheme, and ours on the same NumPy array; they allocate what they return."""

    name: str  # the distribution, or "torch", "jax", "jax.jit"
    format: str  # what it calls the scheme
    likeness: str  # "same", or in what the format is another one
    scheme: str  # ours, with its parameters
    threads: int
    elements: int
    encode: float  # seconds
    our_encode: float
    decode: float
    our_decode: float
    our_decode_out: float  # into warm memory, which the others do not offer
    copy: float  # numpy.copyto of the array into warm memory
    quality: Quality
    differing: float  # the share of its decoded elements that are not ours, bit for bit

    @property
    def times_encode(self) -> float:
        """How often ours encodes in its time."""
        return self.encode / self.our_encode

    @property
    def times_decode(self) -> float:
        """How often ours decodes in its time."""
        return self.decode / self.our_decode

    @property
    def times_decode_out(self) -> float:
        """How often ours decodes in its time, with `out=`."""
        return self.decode / self.our_decode_out

    def to_json(self) -> dict[str, Any]:
        """Times in seconds, per element, and against NumPy arrays."""
        data = {k: getattr(self, k) for k in ("name", "format", "likeness", "scheme", "threads", "elements")}
        for operation in ("encode", "decode"):
            theirs, ours = getattr(self, operation), getattr(self, f"our_{operation}")
            data |= {f"{operation}_s": theirs, f"{operation}_ns_per_element": 1e9 * theirs / self.elements}
            data |= {f"our_{operation}_s": ours, f"{operation}_times_ours": theirs / ours}
        data |= {"our_decode_out_s": self.our_decode_out, "decode_times_ours_out": self.times_decode_out}
        return data | {"copy_s": self.copy} | {"quality": self.quality.to_json(), "differing": self.differing}


def peers(
    x: np.ndarray, schemes: Iterable[str], say: Say, libraries: Iterable[str] = LIBRARIES
) -> tuple[list[Peer], list[str]]:
    """The libraries that are installed, on a matrix; and notes about those that are not."""
    wanted = set(libraries)
    return _all(x, [entry for entry in entries(list(schemes)) if entry.library in wanted], say)


def frameworks_of(x: np.ndarray, schemes: Iterable[str], say: Say) -> tuple[list[Peer], list[str]]:
    """Our own functions on the arrays of other frameworks: one scheme of every codec will do."""
    first = {registry.codec(scheme).name: scheme for scheme in reversed(list(schemes))}
    return _all(x, [entry for scheme in reversed(first.values()) for entry in frameworks.entries(scheme)], say)


def _all(x: np.ndarray, wanted: list[Entry], say: Say) -> tuple[list[Peer], list[str]]:
    found: list[Peer] = []
    notes: list[str] = []
    for entry in wanted:
        if not installed(entry.library):
            notes.append(f"{entry.library}: not installed")
            continue
        say(f"{entry.library} {entry.format}")
        try:
            found.append(measured(entry, x))
        except Exception as error:  # whatever another library raises must not end a benchmark of ours
            reason = str(error).partition("\n")[0]
            notes.append(f"{entry.library} {entry.format}: {type(error).__name__}: {reason:.120}")
    return found, list(dict.fromkeys(notes))


def installed(library: str) -> bool:
    """Whether the distribution that the library (or a part of it, after a dot) comes from is there."""
    try:
        metadata.version(library.partition(".")[0])
    except metadata.PackageNotFoundError:
        return False
    return True


def measured(entry: Entry, x: np.ndarray) -> Peer:
    """Measure one entry, with as many threads as ours."""
    if entry.library == "jax.jit":
        x = x[: max(1, min(len(x), JIT_ELEMENTS // x.shape[1]))]
    codec = entry.codec
    with torch_threads(threads.get_num_threads()):
        first = entry.prepare(x[:WARM_ROWS])
        first.decode(first.encode())
        calls = entry.prepare(x)
        encoded, peak = peak_bytes(calls.encode)
        values = api.to_numpy(calls.decode(encoded)).reshape(x.shape)
        nbytes, dtype = calls.nbytes(encoded), values.dtype.name
        working = None if peak is None else max(peak - nbytes, 0)
        quality = combined(entry.label, [x], [compare(x, values)], nbytes, working)
        ours, out = api.encode(x, codec), api.empty(ArraySpec(x.shape, dtype))
        differing = compare(values, api.decode(ours, out=out, dtype=dtype)).elements / x.size
        target = np.array(x)
        encode, our_encode = medians(calls.encode, lambda: api.encode(x, codec), warm=True)
        decode, our_decode, our_decode_out, copy = medians(
            lambda: calls.decode(encoded),
            lambda: api.decode(ours, dtype=dtype),
            lambda: api.decode(ours, out=out, dtype=dtype),
            lambda: np.copyto(target, x),
            warm=True,
        )
    return Peer(
        entry.library, entry.format, entry.likeness, entry.label, threads.get_num_threads(), x.size,
        encode, our_encode, decode, our_decode, our_decode_out, copy, quality, differing,
    )  # fmt: skip
