"""`Minifloat`: FP8, FP6 and FP4 numbers times a scale per tile, or without scales as a plain cast.

The specification is docs/format/minifloat.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding, in the order in which every backend does it:
    1  widen to float32 bits, reading elements with exponent field 0 as a zero of their sign;
    2  absmax of each tile;
    3  scale = absmax * fl(1 / largest), or in compressed-tensors' flavour absmax / largest (`own_scales`,
       `foreign_scales`);
    4  y = x * recip_rn(scale), or in the flavour x / scale, where what has exponent field 0 becomes +0;
    5  code = y in the format, rounded to nearest even (`float32_to_small`);
    6  codes of fewer than 8 bits are packed in a dense little-endian stream.
A cast is steps 1, 5 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.primitives.blockwise import Extremes, encode_tiles, quantise_pieces, segments
from arraycodec.primitives.casts import float32_to_small, small_to_float32
from arraycodec.primitives.floats import (
    EPSILON,
    FLOAT32,
    INFINITY,
    KINDS,
    MIN_SCALE,
    NAN,
    ONE,
    as_bits,
    as_float,
    flushed,
    narrow,
    rounded,
)
from arraycodec.primitives.formats import FORMATS, Casting
from arraycodec.primitives.grid import BlockSize, check_block_size, codes_shape, grid_of, scales_shape, surrounding
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits, empty, planes_of, writable_bits
from arraycodec.primitives.packing import load_dense, store_dense
from arraycodec.primitives.runs import DIVISOR, INVERSE, buffers, load_run, multiplied_run, round_run
from arraycodec.primitives.scales import RUN, load, multiply
from arraycodec.spec import ArraySpec, spec_of

FLAVOURS = (None, "compressed-tensors")
ARITHMETIC = ("float32", "eager")
OVERFLOW = ("saturate", "nonfinite")


@dataclass(frozen=True)
class Minifloat(Codec):
    """Small floats: `x = value * scale` with one scale per tile, or `x = value`.

    format      "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float6_e2m3fn", "float6_e3m2fn"
                or "float4_e2m1fn".
    block_size  the tiles that share a scale (see `arraycodec.primitives.grid`): 64 consecutive elements, None the whole
                array, (1, 128) groups along rows, (1, None) per channel or token, (128, 128) square blocks.
    scaled      False: no scales, the elements themselves are cast.
    overflow    what becomes of a number that is too large: "saturate", the largest of the format (NaN stays NaN where
                the format has one); "nonfinite", infinity, or NaN where there is none.
    flavour     None; "compressed-tensors" for the scales and codes that library computes (float8_e4m3fn only).
    arithmetic  of that flavour: "float32" divides in float32, as its Triton kernels do; "eager" rounds the quotient to
                the array's dtype, as its CPU path does.

    Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes` (of the dtype `format` where it has 8 bits,
    else packed uint8) and, if scaled, `scales` (float32; the array's dtype in the flavour). `given` may hold the scales
    of a calibration.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), ac.Minifloat(block_size=(1, None)))
    >>> enc.planes["codes"].dtype, enc.planes["codes"][0, :3].astype(float).tolist(), enc.planes["scales"].shape
    (dtype(float8_e4m3fn), [-448.0, -448.0, -448.0], (2, 1))
    """

    name: ClassVar[str] = "minifloat"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    scale: ClassVar[str | None] = "scales"

    format: str = "float8_e4m3fn"
    block_size: BlockSize = 64
    scaled: bool = True
    overflow: str = "saturate"
    flavour: str | None = None
    arithmetic: str = "float32"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise self.fail("format", f"one of {', '.join(FORMATS)}", self.format)
        check_block_size("minifloat", self.block_size)
        if not isinstance(self.scaled, bool):
            raise self.fail("scaled", "True or False", self.scaled)
        if self.overflow not in OVERFLOW[: 1 if FORMATS[self.format].nan_code is None else 2]:
            raise self.fail(
                "overflow", "'saturate', or 'nonfinite' for formats that have infinity or NaN", self.overflow
            )
        if self.flavour not in FLAVOURS[: 2 if self.format == "float8_e4m3fn" else 1]:
            raise self.fail("flavour", "None, or 'compressed-tensors' for float8_e4m3fn", self.flavour)
        if self.arithmetic not in ARITHMETIC[: 1 if self.flavour is None else 2]:
            raise self.fail("arithmetic", "'float32', or with the flavour 'eager'", self.arithmetic)
        if self.flavour is not None and self.overflow != "saturate":
            raise self.fail("overflow", "'saturate' with the flavour", self.overflow)
        plain = {"block_size": 64, "flavour": None}
        for parameter, default in plain.items():
            if not self.scaled and getattr(self, parameter) != default:
                raise self.fail(parameter, f"{default} where scaled is False", getattr(self, parameter))

    @property
    def bits(self) -> int:
        """The width of a code."""
        return FORMATS[self.format].bits

    @property
    def casting(self) -> Casting:
        """Step 5. The sign of a product's NaN is not certain, so there NaN has none."""
        casting = FORMATS[self.format].casting(self.overflow == "saturate")
        return casting._replace(signed_nan=False) if self.scaled else casting

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        block = self.block_size if self.scaled else (1, 1)
        codes = codes_shape(spec, block, self.bits)
        planes = {"codes": ArraySpec(codes, self.format if self.bits == 8 else "uint8")}
        if self.scaled:
            scale_dtype = "float32" if self.flavour is None else spec.dtype
            planes["scales"] = ArraySpec(scales_shape(spec, block, self.bits), scale_dtype)
        return planes

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        specs, grid = self.planes(spec), grid_of(spec, self.block_size)
        planes = planes_of(specs, given)
        source, kind, codes = bits(x), KINDS[spec.dtype], writable_bits(planes["codes"])
        scales, scale_kind = np.zeros(0, np.uint32), FLOAT32
        if self.scaled:
            scales, scale_kind = writable_bits(planes["scales"]), KINDS[specs["scales"].dtype]
        find = own_scales if self.flavour is None else foreign_scales
        unit = np.float32(FORMATS[self.format].largest)
        arithmetic, casting = kind if self.arithmetic == "eager" else FLOAT32, self.casting

        def rule(first: int, last: int, extremes: Extremes) -> None:
            find(extremes, unit, scale_kind, scales[first:last])

        def quantise(start: int, stop: int) -> None:
            encode_range(
                source, kind, grid, scales, scale_kind, self.flavour is None, arithmetic, casting, codes, start, stop
            )

        known = not self.scaled or "scales" in given
        if not spec.size and not known:
            scales[:] = 0  # the whole of an empty array has a scale too
        encode_tiles(source, kind, grid, None if known else rule, quantise, signed=False)
        return planes

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        grid, kind = grid_of(spec, self.block_size), KINDS[spec.dtype]
        target, codes = writable_bits(out), bits(planes["codes"])
        scales, scale_kind = bits(np.zeros(0, np.float32)), FLOAT32
        if self.scaled:
            scales, scale_kind = bits(planes["scales"]), KINDS[spec_of(planes["scales"]).dtype]
        widening = FORMATS[self.format].widening

        def work(start: int, stop: int) -> None:
            decode_range(codes, self.bits, widening, grid, scales, scale_kind, target, kind, start, stop)

        quantise_pieces(grid.size, work)
        return out

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The whole tiles around the range."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        part, elements, tiles = surrounding(spec, self.block_size if self.scaled else 1, start, stop)
        pieces = {"codes": slice(elements.start * self.bits // 8, -(-elements.stop * self.bits // 8))}
        planes = {n: fetch(n, pieces.get(n, tiles)).reshape(s.known_shape) for n, s in self.planes(part).items()}
        return self.decode(planes, part).reshape(-1)[start - elements.start : stop - elements.start]


@kernel
def own_scales(extremes, largest, kind, scales):
    """Step 3: absmax times the reciprocal of the format's largest number; a scale below 2^-100 is 0."""
    unit = np.float32(1) / largest
    for i in range(scales.size):
        absmax = extremes[0, i]
        scale = as_bits(as_float(absmax) * unit)
        scales[i] = NAN if absmax >= INFINITY else scale if scale >= MIN_SCALE else np.uint32(0)


@kernel
def foreign_scales(extremes, largest, kind, scales):
    """Step 3 in compressed-tensors' flavour: the quotient rounded to the dtype, and its eps where that is too small."""
    for i in range(scales.size):
        absmax = extremes[0, i]
        scale = rounded(as_bits(as_float(absmax) / largest), kind)
        scale = NAN if absmax >= INFINITY else scale if scale >= MIN_SCALE else EPSILON[kind]
        scales[i] = narrow(scale, kind)


@kernel
def encode_range(source, kind, grid, scales, scale_kind, native, arithmetic, casting, codes, start, stop):
    """Steps 4 to 6 for the elements start..stop; `start` is a multiple of 8."""
    run, (factors, ends, tiles) = np.empty(RUN, np.uint32), buffers()
    y, q = run.view(np.float32), np.empty(RUN, np.uint8)
    scaled, use = scales.size > 0, INVERSE if native else DIVISOR
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        if scaled:
            segment = (ends, tiles, segments(grid, at, count, ends, tiles))
            load_run(source, kind, scales, scale_kind, use, segment, at, count, run, factors)
        else:
            load(source, kind, at, count, run)
        if scaled and native:
            for i in range(count):
                q[i] = np.uint8(float32_to_small(as_bits(y[i] * factors[i]), casting))
        else:
            if scaled:
                divide_run(y[:count], factors, arithmetic)
            for i in range(count):
                q[i] = np.uint8(float32_to_small(run[i], casting))
        store_dense(q, codes, casting.bits, at, count)


@inlined
def divide_run(y, factors, arithmetic):
    """Step 4 in the flavour."""
    run = y.view(np.uint32)
    for i in range(y.size):
        y[i] = y[i] / factors[i]
    round_run(run, arithmetic)
    for i in range(y.size):
        run[i] = flushed(run[i])


@kernel
def decode_range(codes, bits, widening, grid, scales, scale_kind, out, kind, start, stop):
    """Decode the elements start..stop; `start` is a multiple of 8."""
    run = np.empty(RUN, np.uint32)
    y = run.view(np.float32)
    q = np.empty(RUN, np.uint8)
    factors, ends, tiles = buffers()
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        load_dense(codes, bits, at, count, q)
        for i in range(count):
            run[i] = q[i]  # first, since the compiler would take 64 bits to compute with bytes
        for i in range(count):
            run[i] = small_to_float32(run[i], widening)
        if scales.size:
            segment = (ends, tiles, segments(grid, at, count, ends, tiles))
            multiplied_run(y, scales, scale_kind, segment, count, kind, out[at : at + count], factors)
        else:
            multiply(y[:count], as_float(ONE), kind, out[at : at + count])
