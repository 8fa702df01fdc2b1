"""docs/format/delta.md, element by element in Python integers: the witness of `arraycodec_toy` for decoding.

Encoding is on the host only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xxhash
from toy_lossless import ans_table, dense

from arraycodec.base import Planes
from arraycodec.errors import CorruptError
from arraycodec.spec import ArraySpec, spec_of


def encode(codec: Any, x: np.ndarray, given: Planes) -> Planes:
    return codec.encode(x, given)


def decode(codec: Any, planes: Planes, spec: ArraySpec, base: np.ndarray) -> np.ndarray:
    digest = np.frombuffer(xxhash.xxh3_128_digest(base.tobytes())[::-1], "<u4")
    if spec_of(base) != spec or digest.tolist() != planes["hash"].tolist():
        raise CorruptError("delta: the base is another array")
    n, integer = 8 * spec.numpy_dtype.itemsize, np.dtype(f"u{spec.numpy_dtype.itemsize}")
    coder, S, U, B, T, A, k, h, shift, first, E, G, C, curve_shift, scaled = (int(word) for word in planes["plan"][:15])
    if coder < 2:
        data = base.tobytes() if coder else planes["streams"].tobytes()
        return np.frombuffer(data, integer).view(spec.numpy_dtype).reshape(spec.known_shape)
    tables, curve_of, curves, table_of, labels = model(planes["tables"], B, T, A, E, G, C, -(-spec.size // U))
    top, found = 1 << n - 1, []
    magnitude = "float" in spec.dtype and not spec.dtype.endswith("e8m0fnu")
    olds = [int(word) for word in base.reshape(-1).view(integer)]
    ends = np.cumsum(planes["index"].astype(int))
    for i, end in enumerate(ends):
        bits = Bits(planes["streams"][end - int(planes["index"][i]) : end])
        x = bits.take(B)
        for e in range(i * S, min(i * S + S, spec.size)):
            a, label = olds[e], int(labels[e // U])
            sign = a & top if magnitude else 0
            m, v = a ^ sign, a ^ sign ^ (top if spec.dtype.startswith("int") else 0)
            symbols, counts, following = tables[table_of[label][min(max((v >> shift) - first, 0), E - 1)]]
            symbol, x = symbols[x], following[x] + bits.take(counts[x])
            z, t = symbol, symbol - 2**k
            if t >= 0:
                r = (t >> h) + k - h
                z = ((2**h + t % 2**h) << r) + bits.take(r)
            d = (z >> 1) ^ -(z & 1)
            if scaled:
                with np.errstate(all="ignore"):
                    p = int((np.uint32(m).view(np.float32) * planes["scales"][e // U]).view(np.uint32))
                if 1 <= m >> 23 <= 254 and 2 <= p >> 23 <= 254:
                    m = p
            if curve_of[label]:
                d += int(curves[curve_of[label] - 1][(v >> curve_shift) & 255])
            w = (m + d) % 2**n
            if magnitude and w & top:
                w ^= top - 1
            found.append(w ^ sign)
        assert x == 0 and bits.bytes() == planes["index"][i]
    return np.array(found, integer).view(spec.numpy_dtype).reshape(spec.known_shape)


def model(plane: np.ndarray, B: int, T: int, A: int, E: int, G: int, C: int, units: int) -> Any:
    """The tables, the curve of each label, the curves, the tables of each label's buckets, the label of each unit."""
    at, tables = 0, []
    for _ in range(T):
        lengths, at = dense(plane, at, [4] * A)
        low, at = dense(plane, at, [max(int(length) - 1, 0) for length in lengths])
        tables.append(ans_table(np.where(lengths > 0, (1 << np.maximum(lengths - 1, 0)) + low, 0)))
        assert len(tables[-1][0]) == 1 << B
    curves = plane[at : at + 1024 * C].view("<i4").reshape(C, 256)
    at += 1024 * C
    curve_of = plane[at : at + G] if C else np.zeros(G, int)
    at += G if C else 0
    table_of, at = dense(plane, at, [(T - 1).bit_length()] * (G * E)) if T > 1 else (np.zeros(G * E, int), at)
    labels, at = dense(plane, at, [(G - 1).bit_length()] * units) if G > 1 else (np.zeros(units, int), at)
    assert at == plane.size
    return tables, curve_of, curves, table_of.reshape(G, E), labels


class Bits:
    """The bits of a stream, from the lowest of each byte up."""

    def __init__(self, piece: np.ndarray) -> None:
        self.number, self.at = int.from_bytes(piece.tobytes(), "little"), 0

    def take(self, count: int) -> int:
        taken = self.number >> self.at & (1 << count) - 1
        self.at += count
        return taken

    def bytes(self) -> int:
        return -(-self.at // 8)
