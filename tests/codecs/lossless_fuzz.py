"""Planes of `lossless` that lie, between pages that nobody may touch: run as a script, a crash is its exit status.

`python tests/codecs/lossless_fuzz.py COUNT SEED`: decode, check and read COUNT mutations of the planes of small arrays.
What comes out must be an error of our own tree or an array of the spec.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from dataclasses import replace

import numpy as np

import arraycodec as ac
from arraycodec.primitives.entropy.choice import choose
from arraycodec.primitives.entropy.encoding import encode
from arraycodec.primitives.memory import bits
from arraycodec.spec import numpy_dtype, spec_of

PAGE = mmap.PAGESIZE
NUMBERS = (*range(18), 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257, 4096, 32767, 32768, 32769, 65535)
WORDS = (*NUMBERS, 2**31, 2**32 - 1)
libc = ctypes.CDLL(None, use_errno=True)


class Guard:
    """Room for an array between two pages that can be neither read nor written."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // PAGE) * PAGE
        self.map = mmap.mmap(-1, self.size + 2 * PAGE)
        self.bytes = np.frombuffer(self.map, np.uint8)
        start = self.bytes.ctypes.data
        for page in (start, start + PAGE + self.size):
            assert libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0) == 0, "mprotect failed"

    def place(self, x: np.ndarray, at_end: bool) -> np.ndarray:
        """A copy of `x` that ends where the room ends, or starts where it starts."""
        start = PAGE + (self.size - x.nbytes) * at_end
        room = self.bytes[start : start + x.nbytes].view(x.dtype)
        room[:] = x.reshape(-1)
        return room.reshape(x.shape)


def bases() -> list[tuple[ac.Lossless, np.ndarray]]:
    """Small arrays in which every part of the format occurs but columns."""
    rng = np.random.default_rng(0)
    normal = (rng.standard_normal((40, 50)) * 0.02).astype(np.float32)
    bfloat = normal.astype(numpy_dtype("bfloat16"))
    spread = np.where(rng.random((40, 50)) < 0.005, 1e30, normal).astype(numpy_dtype("bfloat16"))
    lineage = np.resize(normal, (30, 100)).copy()
    lineage[:12] = lineage[:12].astype(numpy_dtype("bfloat16"))
    skewed = rng.choice(np.array([0, 5, 9, 77], np.uint16), 2000, p=[0.8, 0.1, 0.05, 0.05])
    return [
        (ac.Lossless(), bfloat),
        (ac.Lossless("storage"), bfloat),
        (ac.Lossless("inference"), spread),
        (ac.Lossless(), spread),
        (ac.Lossless("storage"), skewed),
        (ac.Lossless(), skewed),
        (ac.Lossless(), lineage),
        (ac.Lossless(), np.where(rng.random((40, 50)) < 0.6, np.float32(0), normal).astype(bfloat.dtype)),
        (ac.Lossless(), np.full(3000, 7, np.uint16)),
        (ac.Lossless("inference"), skewed),
        (ac.Lossless(), np.resize(bfloat, 8500)),  # four streams at once
        (ac.Lossless("storage"), np.resize(bfloat, 8500)),
    ]


def in_columns(codec: ac.Lossless, x: np.ndarray) -> dict[str, np.ndarray]:
    """The planes of a matrix with a stream for each column, which an encoder only makes of larger ones."""
    choice = choose(bits(x), x.dtype.name, x.shape, codec.mode, codec.field)
    plan = choice.plan._replace(columns=x.shape[1], stream=x.shape[0], unit=x.shape[0], tables=1, zeros=0)
    none = np.zeros(0, np.uint8)
    planes = encode(bits(x), choice._replace(plan=plan, tables=choice.tables[:1], labels=none, zeros=none))
    return planes | {"words": planes["words"].view(x.dtype)}


def mutated(rng: np.random.Generator, planes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Planes of which one has a few bits or words changed, is cut or longer, or is noise."""
    names = ["plan"] * 4 + ["tables"] * 3 + ["index"] * 3 + ["streams"] * 3 + ["raw", "words"]
    name, how = names[rng.integers(len(names))], rng.integers(6)
    x = planes[name].copy()
    raw = x.view(np.uint8)
    if name == "plan" and how < 5:
        word = rng.integers(16)
        x[word] = rng.choice(WORDS) if how < 3 else (int(x[word]) + int(rng.choice([1, -1, 2, -8]))) % 2**32
    elif how < 3 and raw.size:
        for _ in range(rng.integers(1, 4)):
            raw[rng.integers(raw.size)] ^= np.uint8(1 << rng.integers(8))
    elif how == 3 and raw.size:
        raw[:] = rng.integers(0, 256, raw.size, np.uint8)
    elif name != "plan":
        more = int(rng.choice([-1000, -9, -8, -1, 1, 7, 8, 1000]))
        x = x[:more] if more < 0 else np.append(x, rng.integers(0, 256, more * x.itemsize, np.uint8).view(x.dtype))
    return planes | {name: x}


def run(count: int, seed: int) -> tuple[int, int]:
    """Decode so many mutations; how many gave an array, and how many an error."""
    rng, arrays, errors = np.random.default_rng(seed), 0, 0
    starts = [(codec, spec_of(x), codec.encode(x)) for codec, x in bases()]
    starts += [(codec, spec_of(x), in_columns(codec, x)) for codec, x in bases()[:2]]
    rooms = {name: Guard(1 << 16) for name in starts[0][2]} | {"out": Guard(1 << 18)}
    for _ in range(count):
        codec, spec, planes = starts[rng.integers(len(starts))]
        for _ in range(rng.integers(1, 3)):
            planes = mutated(rng, planes)
        if rng.random() < 0.1:
            spec = replace(spec, shape=(int(rng.choice([0, 1, spec.size - 1, spec.size + 1, 31, 2 * spec.size])),))
        at_end = rng.random() < 0.8
        placed = {name: rooms[name].place(plane, at_end) for name, plane in planes.items()}
        out = rooms["out"].place(np.zeros(spec.known_shape, spec.numpy_dtype), at_end)
        try:
            assert codec.decode(placed, spec, None, out) is out
            arrays += 1
        except ac.ArrayCodecError:
            errors += 1
        start, stop = sorted(rng.integers(0, spec.size + 1, 2).tolist())
        try:
            part = codec.read(lambda n, piece, own=placed: own[n][piece], spec, start, stop)
            assert part.shape == (stop - start,)
        except ac.ArrayCodecError:
            pass
    return arrays, errors


if __name__ == "__main__":
    print("{} arrays, {} errors".format(*run(int(sys.argv[1]), int(sys.argv[2]))))
