"""`Microscaling`: the MX formats, small floats or int8 times a power of two per 32 elements.

The specification is docs/format/microscaling.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding, in the order in which every backend does it:
    1  widen to float32 bits, reading elements with exponent field 0 as a zero of their sign;
    2  absmax of each block: an integer maximum of magnitudes;
    3  the scale, a byte that stands for 2^(byte - 127): the exponent of absmax less that of the largest number;
    4  y = x / 2^(byte - 127), by adding to exponents: what falls below 2^-126 is a zero, what exceeds float32 infinite;
    5  the code of y: rounded to nearest even and saturated; the sign is that of x, also where the code is a zero's;
    6  codes of 4 and 6 bits are packed in a dense little-endian stream.
A scale of 0 makes every y a zero, one of 255 every code 0. Decoding adds to exponents as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.primitives.blockwise import quantise_pieces
from arraycodec.primitives.casts import float32_to_small
from arraycodec.primitives.floats import (
    INFINITY,
    KINDS,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    SIGN,
    as_bits,
    as_float,
)
from arraycodec.primitives.formats import FORMATS, Casting, values
from arraycodec.primitives.grid import codes_shape, scales_shape
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits, empty, planes_of, writable_bits
from arraycodec.primitives.packing import store_dense
from arraycodec.primitives.runs import store_products
from arraycodec.primitives.scales import RUN, load
from arraycodec.primitives.small_blocks import ALLOWED, blocks_around, is_small, load_values, maxima, values_per_byte
from arraycodec.spec import ArraySpec, spec_of

INT8 = "int8"  # steps of 1/64: two's complement with six fractional bits
INT8_SHIFT = 6
FOREIGN = ("float4_e2m1fn", "float6_e2m3fn", "float8_e4m3fn")  # the formats of compressed-tensors
FORMAT_NAMES = (*FOREIGN, "float6_e3m2fn", "float8_e5m2", INT8)
NAN_BYTE, LAST_BYTE = 255, 254
SAFE_BYTE = 17  # from here on the smallest value of any format, 2^-16, has a normal product


class Rule(NamedTuple):
    """How the scale of a block follows from its absmax: integers only, so that kernels take it as the tuple it is."""

    emax: int  # the exponent of the format's largest number
    half: int  # added to the bits of absmax before its exponent is read
    floor: int  # the bits of the smallest absmax of a block that is not a zero block
    zero: int  # the scale of a zero block
    signed_zero: bool  # whether an element that is a zero keeps its sign


@dataclass(frozen=True)
class Microscaling(Codec):
    """The MX formats of the Open Compute Project: blocks of 32 elements that share a power of two.

    format      of the elements: "float4_e2m1fn" (MXFP4), "float6_e2m3fn" and "float6_e3m2fn" (MXFP6), "float8_e4m3fn"
                and "float8_e5m2" (MXFP8), or "int8" (MXINT8, steps of 1/64).
    block_size  elements of the flattened array per scale: a power of two from 8 to 1024.
    flavour     None for the scales of the OCP specification, floor(log2(absmax)) less the exponent of the format's
                largest number; "compressed-tensors" for those of that library, which rounds absmax up to the next power
                of two where elements would saturate otherwise. It has float4_e2m1fn, float6_e2m3fn and float8_e4m3fn.

    Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes` (for 8 bits of the format's own dtype, else
    packed uint8, the first element in the lowest bits) and `scales`, uint8 exponents in the format e8m0. `given` may
    hold the scales of a calibration.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.linspace(-1, 1, 64, dtype=np.float32), ac.Microscaling("float4_e2m1fn"))
    >>> enc.planes["scales"].tolist(), bytes(enc.planes["codes"][:3]).hex()
    ([125, 125], 'eeeedd')
    """

    name: ClassVar[str] = "microscaling"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    scale: ClassVar[str | None] = "scales"

    format: str = "float4_e2m1fn"
    block_size: int = 32
    flavour: str | None = None

    def __post_init__(self) -> None:
        if self.format not in FORMAT_NAMES:
            raise self.fail("format", f"one of {', '.join(FORMAT_NAMES)}", self.format)
        if not is_small(self.block_size):
            raise self.fail("block_size", ALLOWED, self.block_size)
        if self.flavour not in (None, "compressed-tensors"):
            raise self.fail("flavour", "None or 'compressed-tensors'", self.flavour)
        if self.flavour and self.format not in FOREIGN:
            raise self.fail("format of flavour 'compressed-tensors'", f"one of {', '.join(FOREIGN)}", self.format)

    @property
    def bits(self) -> int:
        """The width of a code."""
        return 8 if self.format == INT8 else FORMATS[self.format].bits

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        dtype = self.format if self.bits == 8 else "uint8"
        return {
            "codes": ArraySpec(codes_shape(spec, self.block_size, self.bits), dtype),
            "scales": ArraySpec(scales_shape(spec, self.block_size, self.bits), "uint8"),
        }

    def rule(self, dtype: str) -> Rule:
        """How scales follow from absmax, for arrays of this dtype."""
        emax = 0 if self.format == INT8 else math.frexp(FORMATS[self.format].largest)[1] - 1
        if self.flavour is None:
            return Rule(emax, 0, int(MIN_SCALE), 0, True)
        # compressed-tensors rounds at the first mantissa bit in MXFP4 and MXFP8, at the third in MXFP6. In float16 its
        # scale of a zero block underflows, and is then 1; so is that of blocks whose absmax is subnormal.
        half = 1 << (19 if self.format == "float6_e2m3fn" else 21)
        floor, zero = (0x38800000, 127) if dtype == "float16" else (int(MIN_SCALE), 0)
        return Rule(emax, half, floor, zero, self.format == "float6_e2m3fn")

    @property
    def casting(self) -> Casting | None:
        """The cast to the format of the elements, in which NaN has no sign; None for int8."""
        return None if self.format == INT8 else FORMATS[self.format].casting()._replace(signed_nan=False)

    def marked(self, scales: np.ndarray) -> np.ndarray:
        return scales == NAN_BYTE

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        specs = self.planes(spec)
        planes = planes_of(specs, given)
        source, kind, rule = bits(x), KINDS[spec.dtype], self.rule(spec.dtype)
        codes, scales = writable_bits(planes["codes"]), writable_bits(planes["scales"])
        casting, shift = self.casting or FORMATS["float8_e4m3fn"].casting(), INT8_SHIFT if self.casting is None else 0

        def quantise(start: int, stop: int) -> None:
            encode_range(
                source, kind, self.block_size, "scales" in given, scales, rule, casting, shift, codes, start, stop
            )

        quantise_pieces(spec.size, quantise)
        return planes

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        target, kind = writable_bits(out), KINDS[spec.dtype]
        codes, scales, table = bits(planes["codes"]), bits(planes["scales"]), _table(self.format)

        def work(start: int, stop: int) -> None:
            decode_range(codes, self.bits, scales, table, self.block_size, target, kind, start, stop)

        quantise_pieces(spec.size, work)
        return out

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """Whole blocks around the range; each begins at a byte."""
        first, part, pieces = blocks_around(spec, self.block_size, self.bits, start, stop)
        planes = {name: fetch(name, pieces[name]) for name in self.planes(spec)}
        planes = {name: planes[name].reshape(s.known_shape) for name, s in self.planes(part).items()}
        return self.decode(planes, part)[start - first : stop - first]


@cache
def _table(name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The value of every code of a format, for 4 bits of every byte."""
    if name == INT8:
        return np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float32) / np.float32(1 << INT8_SHIFT)
    return values_per_byte(name) if FORMATS[name].bits == 4 else values(name)


@kernel
def encode_range(source, kind, block, known, scales, rule, casting, int8_shift, codes, start, stop):
    """Encode the elements start..stop in runs; `start` is a multiple of RUN, and so of `block`."""
    run = np.empty(RUN, np.uint32)
    tree = np.empty(RUN >> 1, np.uint32)
    q = np.empty(RUN, np.uint8)
    y = run.view(np.float32)
    signed_zero = rule[4]
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        first, blocks = at // block, (count + block - 1) // block
        load(source, kind, at, count, run)
        if not known:
            maxima(run, count, block, tree)
            for b in range(blocks):
                scales[first + b] = scale_byte(tree[b], rule)
        shift_blocks(run[:count], scales[first : first + blocks], block, int8_shift, signed_zero)
        if int8_shift:
            for i in range(count):
                v = y[i] if y[i] == y[i] else np.float32(0)
                q[i] = np.uint8(np.int32(np.rint(min(max(v, np.float32(-127)), np.float32(127)))))
        else:
            for i in range(count):
                q[i] = np.uint8(float32_to_small(run[i], casting))
        store_dense(q, codes, casting[0], at, count)


@inlined
def scale_byte(absmax, rule):
    """Step 3."""
    emax, half, floor, zero, _ = rule
    if absmax >= INFINITY:
        return np.uint8(NAN_BYTE)
    if absmax < np.uint32(floor):
        return np.uint8(zero)
    exponent = np.int32((absmax + np.uint32(half)) >> np.uint32(23))
    return np.uint8(min(max(exponent - np.int32(emax), np.int32(0)), np.int32(LAST_BYTE)))


@inlined
def shift_blocks(run, scales, block, int8_shift, signed_zero):
    """Step 4 for each block of a run."""
    for b in range(scales.size):
        shift_exponents(run[b * block : (b + 1) * block], scales[b], int8_shift, signed_zero)


@inlined
def shift_exponents(run, byte, int8_shift, signed_zero):
    """Step 4 in place, for int8 times 64."""
    if byte == NAN_BYTE:
        run[:] = 0
        return
    delta = np.uint32(np.uint32(np.int32(byte) - np.int32(127) - np.int32(int8_shift)) << np.uint32(23))
    lowered = delta < SIGN  # exponents become smaller
    lowest = np.uint32(np.uint32(0x800000) + (delta if lowered else np.uint32(0)))
    lowest = lowest if byte else SIGN
    highest = INFINITY if lowered else np.uint32(INFINITY + delta)
    for i in range(run.size):
        a = np.uint32(run[i] & MAGNITUDE)
        shifted = np.uint32(a - delta) if a < highest else max(a, INFINITY)
        sign = np.uint32(run[i] & SIGN) if signed_zero or a else np.uint32(0)
        run[i] = np.uint32(sign | (shifted if a >= lowest else np.uint32(0)))


@kernel
def decode_range(codes, bits, scales, table, block, out, kind, start, stop):
    """Decode the elements start..stop; `start` is a multiple of RUN."""
    y, factors, q = np.empty(RUN, np.float32), np.empty(RUN, np.float32), np.empty(RUN, np.uint8)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        first, blocks = at // block, (count + block - 1) // block
        load_values(codes, bits, at, count, table, q, y)
        spread_scales(y, scales[first : first + blocks], block, factors)
        store_products(y, factors, kind, out[at : at + count])


@inlined
def spread_scales(y, scales, block, factors):
    """The scale of each element of a run; values for which that is no matter of a product are what they become."""
    for b in range(scales.size):
        part, byte = factors[b * block : (b + 1) * block], scales[b]
        scale = as_float(np.uint32(byte) << np.uint32(23))
        if byte == NAN_BYTE:
            y[b * block : (b + 1) * block] = as_float(NAN)
            scale = np.float32(1)
        elif byte < SAFE_BYTE:
            lower(y[b * block : (b + 1) * block], byte)
            scale = np.float32(1)
        for i in range(part.size):
            part[i] = scale


@inlined
def lower(y, byte):
    """Values times 2^(byte - 127) where products may be subnormal, in place; what falls below 2^-126 is a zero."""
    delta = np.uint32((np.uint32(127) - np.uint32(byte)) << np.uint32(23))
    for i in range(y.size):
        u = as_bits(y[i])
        a = np.uint32(u & MAGNITUDE)
        if a < INFINITY:
            y[i] = as_float(
                np.uint32(u - delta) if a >= np.uint32(delta + np.uint32(0x800000)) else np.uint32(u & SIGN)
            )
