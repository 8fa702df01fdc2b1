"""`Linear`: integers of 1 to 8 bits times a scale per tile, with or without a zero point.

The specification is docs/format/linear.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding, in the order in which every backend does it:
    1  widen to float32 bits, reading elements with exponent field 0 as +0;
    2  extremes of each tile: the largest magnitude of elements above zero, and of those below;
    3  scale and zero point from them (`scales_of`);
    4  y = x * recip_rn(scale), or in compressed-tensors' flavour x / scale (`load_run` gives x and the factor);
    5  q = y rounded to nearest even, plus the zero point, clamped (`integers`, `foreign_integers`);
    6  codes: q in two's complement for 8 bits; else q + 2^(bits - 1), packed in a dense little-endian stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.primitives.blockwise import Extremes, encode_tiles, quantise_pieces, segments
from arraycodec.primitives.floats import (
    BFLOAT16,
    BIG_SCALE,
    EPSILON,
    FLOAT32,
    INFINITY,
    KINDS,
    LOWER,
    MIN_SCALE,
    NAN,
    as_bits,
    as_float,
    narrow,
    rounded,
)
from arraycodec.primitives.grid import BlockSize, check_block_size, codes_shape, grid_of, scales_shape, surrounding
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits, empty, planes_of, writable_bits
from arraycodec.primitives.packing import load_dense, store_dense
from arraycodec.primitives.runs import DIVISOR, INVERSE, buffers, load_run, multiplied_run, spread_integers
from arraycodec.primitives.scales import RUN, lowered, scaled
from arraycodec.spec import ArraySpec, spec_of

FLAVOURS = (None, "compressed-tensors")
ARITHMETIC = ("float32", "eager")


@dataclass(frozen=True)
class Linear(Codec):
    """Integer quantisation: `x = (q - zero_point) * scale`, with one scale per tile.

    bits        2 to 8; in compressed-tensors' flavour 1 as well.
    symmetric   True: no zero points, and q from -(2^(bits-1) - 1) to 2^(bits-1) - 1. False: all 2^bits integers, with
                a zero point that lets a tile's range lie anywhere around 0.
    block_size  the tiles that share a scale (see `arraycodec.primitives.grid`): 64 consecutive elements, None the whole
                array, (1, 128) groups along rows, (1, None) per channel or token, (128, 128) square blocks.
    flavour     None; "compressed-tensors" for the scales, zero points and codes that library computes.
    arithmetic  of that flavour: "float32" divides in float32, as its Triton kernels do; "eager" rounds every step to
                the array's dtype, as its CPU path does.

    Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes` (int8 for 8 bits, else packed uint8),
    `scales` (float32; in the flavour the array's dtype), and int8 `zero_points` unless symmetric. `given` may hold the
    scales of a calibration, with zero points unless symmetric.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), ac.Linear(8, block_size=(1, None)))
    >>> enc.planes["codes"][0, :3].tolist(), enc.planes["scales"].shape
    ([-127, -125, -123], (2, 1))
    """

    name: ClassVar[str] = "linear"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    scale: ClassVar[str | None] = "scales"

    bits: int = 8
    symmetric: bool = True
    block_size: BlockSize = 64
    flavour: str | None = None
    arithmetic: str = "float32"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise self.fail("bits", "an integer from 1 to 8", self.bits)
        if not isinstance(self.symmetric, bool):
            raise self.fail("symmetric", "True or False", self.symmetric)
        check_block_size("linear", self.block_size)
        if self.flavour not in FLAVOURS:
            raise self.fail("flavour", " or ".join(map(repr, FLAVOURS)), self.flavour)
        if self.bits == 1 and self.flavour is None:  # a symmetric integer of one bit is 0
            raise self.fail("bits", "2 to 8 without a flavour", self.bits)
        if self.arithmetic not in ARITHMETIC[: 1 if self.flavour is None else 2]:
            raise self.fail("arithmetic", "'float32', or with the flavour 'eager'", self.arithmetic)

    @property
    def lowest(self) -> int:
        """The smallest integer that encoding gives."""
        return -(1 << (self.bits - 1)) + (self.symmetric and self.flavour is None)

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        tiles = scales_shape(spec, self.block_size, self.bits)
        planes = {
            "codes": ArraySpec(codes_shape(spec, self.block_size, self.bits), "int8" if self.bits == 8 else "uint8"),
            "scales": ArraySpec(tiles, "float32" if self.flavour is None else spec.dtype),
        }
        if not self.symmetric:
            planes["zero_points"] = ArraySpec(tiles, "int8")
        return planes

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        specs, grid = self.planes(spec), grid_of(spec, self.block_size)
        if not self.symmetric and ("scales" in given) != ("zero_points" in given):
            raise self.fail("given", "scales and zero_points together", sorted(given))
        planes = planes_of(specs, given)
        source, kind, scale_kind = bits(x), KINDS[spec.dtype], KINDS[specs["scales"].dtype]
        codes, scales = writable_bits(planes["codes"]), writable_bits(planes["scales"])
        zeros = planes["zero_points"].reshape(-1) if not self.symmetric else np.zeros(0, np.int8)
        native, arithmetic = self.flavour is None, kind if self.arithmetic == "eager" else FLOAT32
        find = own_scales if native else foreign_scales
        common = (source, kind, grid, scales, scale_kind, zeros, native, arithmetic, self.bits, self.lowest, codes)

        def rule(first: int, last: int, extremes: Extremes) -> None:
            find(extremes, self.bits, self.symmetric, scale_kind, scales[first:last], zeros[first:last])

        def quantise(start: int, stop: int) -> None:
            encode_range(*common, start, stop)

        known = "scales" in given
        if not spec.size and not known:
            scales[:], zeros[:] = 0, 0  # the whole of an empty array has a scale too
        encode_tiles(source, kind, grid, None if known else rule, quantise, not self.symmetric)
        return planes

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        grid, target, kind = grid_of(spec, self.block_size), writable_bits(out), KINDS[spec.dtype]
        codes, scales = bits(planes["codes"]), bits(planes["scales"])
        scale_kind = KINDS[spec_of(planes["scales"]).dtype]
        zeros = bits(np.zeros(0, np.int8) if self.symmetric else planes["zero_points"]).view(np.int8)

        def work(start: int, stop: int) -> None:
            decode_range(codes, self.bits, grid, scales, scale_kind, zeros, target, kind, start, stop)

        quantise_pieces(grid.size, work)
        return out

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The whole tiles around the range."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        part, elements, tiles = surrounding(spec, self.block_size, start, stop)
        pieces = {"codes": slice(elements.start * self.bits // 8, -(-elements.stop * self.bits // 8))}
        planes = {n: fetch(n, pieces.get(n, tiles)).reshape(s.known_shape) for n, s in self.planes(part).items()}
        return self.decode(planes, part).reshape(-1)[start - elements.start : stop - elements.start]


@kernel
def own_scales(extremes, bits, symmetric, kind, scales, zeros):
    """Step 3: the scale is the range times 1 / (number of steps in it); a scale below 2^-100 is 0."""
    steps = (1 << (bits - 1)) - 1 if symmetric else (1 << bits) - 1
    lowest = np.float32(-(1 << (bits - 1)))
    unit = np.float32(1) / np.float32(steps)
    for i in range(scales.size):
        above, below = extremes[0, i], extremes[1, i]
        absmax = max(above, below)
        lower = LOWER if absmax >= BIG_SCALE else np.uint32(0)  # so that the sum of both does not overflow
        extent = as_float(lowered(absmax, lower))
        if not symmetric:
            extent = as_float(lowered(above, lower)) + as_float(lowered(below, lower))
        scale = np.uint32(as_bits(extent * unit) + lower)
        scale = NAN if absmax >= INFINITY else scale if scale >= MIN_SCALE else np.uint32(0)
        scales[i] = scale
        if not symmetric:
            zeros[i] = np.int8(np.rint(scaled(below, scale)) + lowest) if scale != 0 and scale != NAN else np.int8(0)


@kernel
def foreign_scales(extremes, bits, symmetric, kind, scales, zeros):
    """Step 3 in compressed-tensors' flavour: the range divided by its steps, every operation rounded to the dtype."""
    steps = np.float32((1 << bits) - 1)
    lowest, highest = np.float32(-(1 << (bits - 1))), np.float32((1 << (bits - 1)) - 1)
    for i in range(scales.size):
        above, below = extremes[0, i], extremes[1, i]
        absmax = max(above, below)
        if symmetric:
            scale = rounded(as_bits(as_float(absmax) / (steps / np.float32(2))), kind)
        else:
            extent = rounded(as_bits(as_float(above) + as_float(below)), kind)
            scale = rounded(as_bits(as_float(extent) / steps), kind)
        zero = np.float32(0)
        if scale >= INFINITY:
            scale = NAN
        elif absmax < MIN_SCALE:
            scale = EPSILON[kind]
        else:
            if not symmetric and (scale or below):  # without a scale the quotient is infinite
                quotient = rounded(as_bits(as_float(below) / as_float(scale)), kind) if scale else INFINITY
                zero = as_float(rounded(as_bits(lowest + as_float(quotient)), kind))
            scale = scale if scale else EPSILON[kind]
        scales[i] = narrow(scale, kind)
        if not symmetric:
            zeros[i] = np.int8(np.rint(min(max(zero, lowest), highest)))


@kernel
def encode_range(source, kind, grid, scales, scale_kind, zeros, native, arithmetic, bits, lowest, codes, start, stop):
    """Steps 4 to 6 for the elements start..stop; `start` is a multiple of 8."""
    run, shifts = np.empty(RUN, np.uint32), np.empty(RUN if zeros.size else 0, np.int8)
    q, (factors, ends, tiles) = np.empty(RUN, np.uint8), buffers()
    x = run.view(np.float32)
    offset = 0 if bits == 8 else 1 << (bits - 1)
    low, high = np.float32(lowest), np.float32((1 << (bits - 1)) - 1)
    use = INVERSE if native else DIVISOR
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        segment = (ends, tiles, segments(grid, at, count, ends, tiles))
        load_run(source, kind, scales, scale_kind, use, segment, at, count, run, factors)
        if zeros.size:
            spread_integers(zeros, segment, count, shifts)
        target = codes[at : at + count] if bits == 8 else q[:count]
        if native:
            integers(x, factors, shifts, low, high, offset, target)
        else:
            foreign_integers(x, factors, shifts, arithmetic, low, high, offset, target)
        if bits < 8:
            store_dense(q, codes, bits, at, count)


@inlined
def integers(x, factors, shifts, low, high, offset, q):
    """Steps 4 and 5, rounding before the zero point is added, and the offset of step 6."""
    if not shifts.size:
        for i in range(q.size):
            y = x[i] * factors[i]
            y = y if y == y else np.float32(0)
            q[i] = np.uint8(np.int32(np.rint(min(max(y, low), high))) + np.int32(offset))
        return
    for i in range(q.size):
        y = x[i] * factors[i]
        y = y if y == y else np.float32(0)
        y = np.rint(min(max(y, np.float32(-1024)), np.float32(1024))) + np.float32(shifts[i])
        q[i] = np.uint8(np.int32(min(max(y, low), high)) + np.int32(offset))


@inlined
def foreign_integers(x, factors, shifts, arithmetic, low, high, offset, q):
    """Steps 4 and 5 in the flavour, rounding after the zero point is added, and the offset of step 6."""
    drop = np.uint32(0 if arithmetic == FLOAT32 else 16 if arithmetic == BFLOAT16 else 13)
    unit = np.uint32(np.uint32(1) << drop)  # of the last bit that stays
    for i in range(q.size):
        y = x[i] / factors[i]
        y = shortened(y if y == y else np.float32(0), unit)
        if shifts.size:
            y = shortened(y + np.float32(shifts[i]), unit)
        q[i] = np.uint8(np.int32(np.rint(min(max(y, low), high))) + np.int32(offset))


@inlined
def shortened(x, unit):
    """A float32 that is not NaN, rounded to nearest even so that `unit` is that of its last bit.

    It stands for `rounded` where an integer is wanted: what bfloat16 and float16 round otherwise, numbers too small or
    too large for them, becomes the same integer after clamping.
    """
    u = as_bits(x)
    half = np.uint32((unit - np.uint32(1)) >> np.uint32(1))
    odd = np.uint32(unit >> np.uint32(1) != 0 and (u & unit) != 0)
    return as_float(np.uint32(np.uint32(u + np.uint32(half + odd)) & np.uint32(np.uint32(0) - unit)))


@kernel
def decode_range(codes, bits, grid, scales, scale_kind, zeros, out, kind, start, stop):
    """Decode the elements start..stop; `start` is a multiple of 8."""
    y, shifts = np.empty(RUN, np.float32), np.empty(RUN, np.int8)
    q, (factors, ends, tiles) = np.empty(RUN, np.uint8), buffers()
    offset = np.float32(0 if bits == 8 else 1 << (bits - 1))
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        load_dense(codes, bits, at, count, q)
        if bits == 8:
            signed = q.view(np.int8)
            for i in range(count):
                y[i] = np.float32(signed[i])
        else:
            for i in range(count):
                y[i] = np.float32(q[i]) - offset
        segment = (ends, tiles, segments(grid, at, count, ends, tiles))
        if zeros.size:
            spread_integers(zeros, segment, count, shifts)
            for i in range(count):
                y[i] -= np.float32(shifts[i])  # a difference of small integers, exact
        multiplied_run(y, scales, scale_kind, segment, count, kind, out[at : at + count], factors)
