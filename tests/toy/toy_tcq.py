"""The tcq codec in plain NumPy, written from docs/format/tcq.md; its codebooks are trained by the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
from toy_linear import NAN, pack, tile_numbers, times_reciprocal, unpack, without_subnormals

from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, spec_of

PATH, MIN_SCALE = 1024, np.float32(2**-100)
TAPS = {8: "2212", 64: "2210102", 256: "212211312"}  # what a set bit adds to the subset, the newest first
CLIP = {8: 16383, 64: 11585, 256: 8191}
LARGEST = {"float32": 0x7F7F, "bfloat16": 0x7F7F, "float16": 0x477F}


def encode(codec: Any, array: np.ndarray, given: Planes) -> Planes:
    specs, planes = codec.planes(spec_of(array)), {n: p for n, p in given.items() if n != "importance"}
    if "codebook" not in planes:
        planes["codebook"] = codec.encode(array, given)["codebook"]
    with np.errstate(all="ignore"):
        x, kind = without_subnormals(array.astype(np.float32)).ravel(), array.dtype.name
        if codec.outliers:
            outliers(codec, array, x, specs, planes)
        if codec.rotate:
            x, kind = rotated(codec, x, array.shape), "float32"
        tile, count = tile_numbers(array.shape, codec.block_size)
        if "scales" not in planes:
            absmax = np.zeros(count, np.float32)
            np.maximum.at(absmax, tile, np.abs(x))
            up = np.minimum((absmax.view(np.uint32).astype(np.int64) + 0xFFFF) >> 16, LARGEST[kind])
            up = np.where(absmax < MIN_SCALE, 0, np.where(np.isfinite(absmax), up, 0x7FC0))
            planes["scales"] = up.astype(np.uint16).view(specs["scales"].numpy_dtype)
        scale = planes["scales"].astype(np.float32).ravel()[tile]
        usable = np.isfinite(scale) & (scale >= MIN_SCALE)
        y = np.where(usable, times_reciprocal(x, scale) * np.float32(32768), np.float32(0))
    q = np.rint(np.clip(np.where(np.isnan(y), 0, y), -32767, 32767)).astype(np.int64)
    weights = weights_of(given, array)
    codes = np.zeros(q.size, np.uint8)
    for at in paths(codec, array.shape):
        codes[at] = search(codec, q[at], planes["codebook"].astype(np.int64), weights[at])
    planes["codes"] = codes if codec.bits == 8 else pack(codes, codec.bits)
    return {name: np.asarray(planes[name]).reshape(spec.known_shape) for name, spec in specs.items()}


def decode(codec: Any, planes: Planes, spec: ArraySpec) -> np.ndarray:
    packed = planes["codes"].ravel()
    codes = (packed if codec.bits == 8 else unpack(packed, codec.bits, spec.size)).astype(np.int64)
    level = np.zeros(spec.size, np.int64)
    for at in paths(codec, spec.known_shape):
        bits, index = codes[at] >> (codec.bits - 1), codes[at] % 2 ** (codec.bits - 1)
        subset = np.zeros_like(bits)
        for d, tap in enumerate(map(int, TAPS[codec.states])):
            subset[:, d:] ^= bits[:, : max(bits.shape[1] - d, 0)] * tap
        level[at] = planes["codebook"].astype(np.int64)[4 * index + subset]
    unit = 2**15
    if codec.rotate:
        root = int(codec.rotate**0.5)
        level, unit = turned(codec, level * root, spec.known_shape, lambda y, h, s: y // root @ h * s), unit * root
    tile, _ = tile_numbers(spec.known_shape, codec.block_size)
    with np.errstate(all="ignore"):
        scale = planes["scales"].astype(np.float32).ravel()
        scale = np.where(np.abs(scale) < MIN_SCALE, np.float32(0), scale)[tile]
        value = level.astype(np.float32) * (scale / np.float32(unit))
        value = np.where((value == 0) & ~(scale > 0), np.float32(0), value)
        integer, nan = NAN[spec.dtype]
        canonical = np.array(nan, integer).view(spec.numpy_dtype)
        value = np.where(np.isfinite(scale), value.astype(spec.numpy_dtype), canonical)
        if codec.outliers:
            kept = planes["outliers"].astype(np.float32).astype(spec.numpy_dtype)
            value[planes["outlier_positions"]] = np.where(np.isnan(planes["outliers"]), canonical, kept)
    return value.reshape(spec.known_shape)


def rows(codec: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of the elements, a row of paths in each row."""
    number = np.arange(int(np.prod(shape, dtype=int)))
    return number.reshape(
        -1,
        max((*shape, 1)[len(shape) - 1], 1) if isinstance(codec.block_size, tuple) and shape else max(number.size, 1),
    )


def paths(codec: Any, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The elements of the paths of each length: at most two matrices with a path in each row."""
    number = rows(codec, shape) if np.prod(shape, dtype=int) else np.zeros((0, 1), int)
    whole = number.shape[1] // PATH * PATH
    parts = [number[:, :whole].reshape(-1, PATH), number[:, whole:]]
    return [part for part in parts if part.size]


def search(codec: Any, q: np.ndarray, levels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Viterbi's algorithm for paths (n, length), one state after another."""
    (n, length), states = q.shape, codec.states
    taps = [int(tap) for tap in TAPS[states]]
    window = np.arange(2 * states)
    subset = np.bitwise_xor.reduce([(window >> d & 1) * tap for d, tap in enumerate(taps)])
    coarse, clip = max(0, 4 - codec.bits), CLIP[states]
    middles = (levels[:-4] + levels[4:]) >> 1
    first = (middles < q[..., None]).sum(axis=-1)  # of the four levels, one of each subset
    cost = np.full((states, n), 1 << 60)
    cost[0] = 0
    before, choices = np.arange(states) >> 1, np.zeros((length, states, n), bool)
    for t in range(length):
        level = first[:, t] + (np.arange(4)[:, None] - first[:, t]) % 4
        error = np.clip((q[:, t] - levels[level]) >> coarse, -clip, clip) ** 2 * weight[:, t]
        ways = [cost[p] + error[subset[2 * p + np.arange(states) % 2]] for p in (before, before + states // 2)]
        choices[t] = ways[1] < ways[0]
        cost = np.where(choices[t], ways[1], ways[0])
    state, codes = cost.argmin(axis=0), np.zeros((n, length), np.uint8)
    for t in range(length - 1, -1, -1):
        bit, path = state & 1, np.arange(n)
        old = state // 2 + states // 2 * choices[t, state, path]
        index = (first[:, t] + (subset[2 * old + bit] - first[:, t]) % 4) // 4
        codes[:, t], state = bit << (codec.bits - 1) | index, old
    return codes


def weights_of(given: Planes, array: np.ndarray) -> np.ndarray:
    """The integer weight of each element."""
    if "importance" not in given or not array.size:
        return np.ones(array.size, np.int64)
    importance = given["importance"].astype(np.float64)
    weights = np.rint(importance * 4095 / importance.max()).astype(np.int64)
    return np.resize(weights if weights.min() < 4095 else 1, array.size)


def outliers(codec: Any, array: np.ndarray, x: np.ndarray, specs: dict[str, ArraySpec], planes: Planes) -> None:
    """Move the largest elements from x to planes."""
    spec = specs["outliers"]
    size = np.where(np.isfinite(x), np.abs(array.astype(np.float32)).ravel(), np.float32(0))
    positions = np.sort(np.argsort(-size, kind="stable")[: spec.size])
    kept = array.ravel()[positions].astype(np.float32)
    finite = np.isfinite(kept)
    largest = np.float32(np.uint32(0x7F7F0000).view(np.float32))
    kept = np.where(finite, np.clip(kept, -largest, largest), np.float32(0)).astype(spec.numpy_dtype)
    nan = np.array(NAN[spec.dtype][1], np.uint16).view(spec.numpy_dtype)
    planes["outliers"], planes["outlier_positions"] = np.where(finite, kept, nan), positions.astype(np.int32)
    x[positions[finite]] = 0


def rotated(codec: Any, x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rotated elements; sums in float64 by halves, neighbours first."""
    root = codec.rotate**0.5
    return turned(codec, x, shape, lambda y, h, s: (walsh(y.astype(np.float64) * s) / root).astype(np.float32))


def turned(codec: Any, x: np.ndarray, shape: tuple[int, ...], rule: Any) -> np.ndarray:
    """`rule(blocks, matrix, signs)` of every whole block of each path."""
    n, out = codec.rotate, x.copy()
    for at in paths(codec, shape):
        whole = at.shape[1] // n * n
        block = at[:, :whole].reshape(at.shape[0] * whole // n, n)
        out[block] = rule(x[block], walsh(np.eye(n, dtype=np.int64)), signs(n))
    return out


def walsh(y: np.ndarray) -> np.ndarray:
    """Rows times Sylvester's matrix."""
    n = y.shape[1]
    step = 1
    while step < n:
        pairs = y.reshape(len(y), n // (2 * step), 2, step)
        y = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], 2).reshape(len(y), n)
        step *= 2
    return y


def signs(n: int) -> np.ndarray:
    """-1 where the highest bit of a number of splitmix64, from seed 0, is set."""
    found, mask = [], 2**64 - 1
    for i in range(1, n + 1):
        z = i * 0x9E3779B97F4A7C15 & mask
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        found.append(-1 if (z ^ z >> 31) >> 63 else 1)
    return np.array(found)
