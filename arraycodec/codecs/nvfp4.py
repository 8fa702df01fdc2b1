"""`NVFP4`: 4-bit floats times a float8 scale per 16 elements, over one float32 scale for the whole array.

The specification is docs/format/nvfp4.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding, in the order in which every backend does it:
    1  widen to float32 bits, reading elements with exponent field 0 as a zero;
    2  the global scale, about 2688 / absmax of the array (`global_scale`): a divisor, in ModelOpt's flavour a factor;
    3  absmax of each block, and from it the scale of the block in float8_e4m3fn (`block_scale`);
    4  the step of the block, d = scale / global scale (the flavour: a product), and y = x / d, an IEEE quotient;
    5  the code of |y| in float4_e2m1fn, rounded to nearest even and saturated; the sign is that of x, a zero has none;
    6  the codes two to a byte, the first in the low nibble.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.primitives.blockwise import quantise_pieces
from arraycodec.primitives.casts import float32_to_small
from arraycodec.primitives.floats import (
    BIG_SCALE,
    FLOAT32,
    INFINITY,
    KINDS,
    LOWER,
    MAGNITUDE,
    MIN_SCALE,
    NAN,
    ONE,
    as_bits,
    as_float,
    rounded,
)
from arraycodec.primitives.formats import FORMATS, values
from arraycodec.primitives.grid import codes_shape, scales_shape
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits, empty, planes_of, writable_bits
from arraycodec.primitives.packing import store_dense
from arraycodec.primitives.runs import store_products
from arraycodec.primitives.scales import RUN, absmax_of_blocks, load, settle
from arraycodec.primitives.small_blocks import ALLOWED, blocks_around, is_small, load_values, maxima, values_per_byte
from arraycodec.spec import ArraySpec, spec_of

ARITHMETIC = ("float32", "eager")
LARGEST = 6.0  # of float4_e2m1fn
TOP = 2688.0  # 448 * 6: what the largest element becomes
EPSILON = 0x20  # 0.125, the scale of a block that rounds to 0
NAN_SCALE = 0x7F
FLAVOURS = (None, "modelopt")
UNIT, SMALLEST = 0x38, 0x01  # in the flavour: 1, the scale of a block of zeros, and 2^-9, of others that round to 0
# Global scales in use: then no step, and no product of a step with a value, is subnormal or infinite by itself.
LOWEST_GLOBAL, HIGHEST_GLOBAL = np.uint32(10 << 23), np.uint32(242 << 23)  # 2^-117 and 2^115
LOWEST_FACTOR, HIGHEST_FACTOR = np.uint32(11 << 23), np.uint32(244 << 23)  # the same of factors: 2^-116 and 2^117
E2M1, E4M3 = FORMATS["float4_e2m1fn"].casting(), FORMATS["float8_e4m3fn"].casting()


@dataclass(frozen=True)
class NVFP4(Codec):
    """NVIDIA's FP4: `x = value * scale / global_scale`, with a float8 scale per 16 elements.

    block_size  elements of the flattened array per scale: a power of two from 8 to 1024.
    arithmetic  "float32", or "eager" to round the reciprocal and the product that make the global scale, and a sixth of
                each block's absmax, to the array's dtype, as compressed-tensors does.
    flavour     None; "modelopt" for a global scale that is a factor, `x = value * scale * global_scale`, and the scales
                that ModelOpt computes; arithmetic is "float32" then.

    Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes`, packed uint8, the first element of a pair in
    the low nibble; float8_e4m3fn `scales`; float32 `global_scale` of shape (1,). `given` may hold the global
    scale, so that arrays share it (`arraycodec.shared_global_scale`), and with it the scales.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.linspace(-1, 1, 32, dtype=np.float32), ac.NVFP4())
    >>> enc.planes["scales"].tolist(), enc.planes["global_scale"].tolist()
    ([448.0, 448.0], [2688.0])
    """

    name: ClassVar[str] = "nvfp4"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    scale: ClassVar[str | None] = "scales"

    block_size: int = 16
    arithmetic: str = "float32"
    flavour: str | None = None

    def __post_init__(self) -> None:
        if not is_small(self.block_size):
            raise self.fail("block_size", ALLOWED, self.block_size)
        if self.arithmetic not in ARITHMETIC:
            raise self.fail("arithmetic", " or ".join(map(repr, ARITHMETIC)), self.arithmetic)
        if self.flavour not in FLAVOURS:
            raise self.fail("flavour", " or ".join(map(repr, FLAVOURS)), self.flavour)
        if self.flavour is not None and self.arithmetic != "float32":
            raise self.fail("arithmetic", "'float32' with the flavour", self.arithmetic)

    @property
    def multiplies(self) -> bool:
        """Whether the global scale is a factor."""
        return self.flavour is not None

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        return {
            "codes": ArraySpec(codes_shape(spec, self.block_size, 4), "uint8"),
            "scales": ArraySpec(scales_shape(spec, self.block_size, 4), "float8_e4m3fn"),
            "global_scale": ArraySpec((1,), "float32"),
        }

    def marked(self, scales: np.ndarray) -> np.ndarray:
        return (scales.view(np.uint8) & NAN_SCALE) == NAN_SCALE

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        if "scales" in given and "global_scale" not in given:
            raise self.fail("given", "a global_scale together with scales", sorted(given))
        planes = planes_of(self.planes(spec), given)
        source, kind = bits(x), KINDS[spec.dtype]
        arithmetic = arithmetic_kind(self, spec)
        if "global_scale" not in given:
            planes["global_scale"].view(np.uint32)[:] = global_scale(
                absmax_of(source, kind), arithmetic, self.multiplies
            )
        codes, scales = writable_bits(planes["codes"]), writable_bits(planes["scales"])
        divisor = planes["global_scale"].view(np.uint32)[0]

        def quantise(start: int, stop: int) -> None:
            encode_range(
                source, kind, self.block_size, "scales" in given, scales, divisor, arithmetic, self.multiplies, _scales,
                codes, start, stop,
            )  # fmt: skip

        quantise_pieces(spec.size, quantise)
        return planes

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        target, kind = writable_bits(out), KINDS[spec.dtype]
        codes, scales, divisor = bits(planes["codes"]), bits(planes["scales"]), bits(planes["global_scale"])[0]

        def work(start: int, stop: int) -> None:
            decode_range(
                codes, scales, divisor, self.multiplies, _scales, values_per_byte("float4_e2m1fn"), self.block_size,
                target, kind, start, stop,
            )  # fmt: skip

        quantise_pieces(spec.size, work)
        return out

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """Whole blocks around the range; each begins at a byte."""
        first, part, pieces = blocks_around(spec, self.block_size, 4, start, stop)
        planes = {name: fetch(name, pieces.get(name, slice(None))) for name in self.planes(spec)}
        planes = {name: planes[name].reshape(s.known_shape) for name, s in self.planes(part).items()}
        return self.decode(planes, part)[start - first : stop - first]


_scales = values("float8_e4m3fn")


def arithmetic_kind(codec: NVFP4, spec: ArraySpec) -> int:
    """The format to which the arithmetic of scales is rounded."""
    return KINDS[spec.dtype] if codec.arithmetic == "eager" else FLOAT32


def absmax_of(source: np.ndarray, kind: int) -> np.uint32:
    """The bits of the largest magnitude of an array: the canonical NaN where it is not finite, 0 below 2^-100."""
    return absmax_of_blocks(source, kind, source.size)[0] if source.size else np.uint32(0)


@kernel
def global_scale(absmax, arithmetic, multiplies):
    """Step 2: 2688 times the reciprocal, both rounded to the arithmetic's dtype; 1 where that is no finite number."""
    if absmax >= INFINITY or absmax < MIN_SCALE:
        return ONE
    if multiplies:
        return as_bits(as_float(absmax) / np.float32(TOP))
    # So that the reciprocal is a normal number.
    lower, top = (LOWER, np.float32(TOP / 16)) if absmax >= BIG_SCALE else (np.uint32(0), np.float32(TOP))
    reciprocal = rounded(as_bits(np.float32(1) / as_float(np.uint32(absmax - lower))), arithmetic)
    scale = rounded(as_bits(as_float(reciprocal) * top), arithmetic)
    return scale if scale < INFINITY else ONE


@kernel
def encode_range(source, kind, block, known, scales, divisor, arithmetic, multiplies, table, codes, start, stop):
    """Steps 3 to 6 for the elements start..stop in runs; `start` is a multiple of RUN, and so of `block`."""
    run, tree = np.empty(RUN, np.uint32), np.empty(RUN >> 1, np.uint32)
    steps, q = np.empty(RUN, np.float32), np.empty(RUN, np.uint8)
    x = run.view(np.float32)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        first, blocks = at // block, (count + block - 1) // block
        load(source, kind, at, count, run)
        if not known:
            maxima(run, count, block, tree)
            for b in range(blocks):
                scales[first + b] = block_scale(tree[b], divisor, arithmetic, multiplies)
        spread_steps(run, scales[first : first + blocks], divisor, multiplies, table, block, steps)
        for i in range(count):
            y = as_bits(x[i] / steps[i]) if run[i] & MAGNITUDE else np.uint32(0)
            q[i] = np.uint8(float32_to_small(y, E2M1))
        store_dense(q, codes, 4, at, count)


@inlined
def spread_steps(run, scales, divisor, multiplies, table, block, steps):
    """The step of each element of a run; elements whose step is 0 or NaN become 0."""
    for b in range(scales.size):
        part, step = steps[b * block : (b + 1) * block], step_of(table[scales[b]], divisor, multiplies)
        if not step > np.float32(0):
            run[b * block : (b + 1) * block] = 0
            step = np.float32(1)
        for i in range(part.size):
            part[i] = step


@inlined
def in_range(divisor, multiplies):
    """Whether a global scale is in use, by its bits."""
    if multiplies:
        return divisor >= LOWEST_FACTOR and divisor < HIGHEST_FACTOR
    return divisor >= LOWEST_GLOBAL and divisor < HIGHEST_GLOBAL


@inlined
def block_scale(absmax, divisor, arithmetic, multiplies):
    """Step 3: the code of absmax / 6 * global scale, 0.125 where it is a zero's; NaN where either is out of range.

    In the flavour of absmax / (6 * global scale): 1 for a block of zeros, and 2^-9 where it is a zero's otherwise.
    """
    if absmax >= INFINITY or not in_range(divisor, multiplies):
        return np.uint8(NAN_SCALE)
    if multiplies:
        code = float32_to_small(as_bits(as_float(absmax) / (np.float32(LARGEST) * as_float(divisor))), E4M3)
        return np.uint8(UNIT) if absmax == 0 else np.uint8(code) if code else np.uint8(SMALLEST)
    sixth = rounded(as_bits(as_float(absmax) / np.float32(LARGEST)), arithmetic)
    code = float32_to_small(as_bits(as_float(sixth) * as_float(divisor)), E4M3)
    return np.uint8(code) if code else np.uint8(EPSILON)


@inlined
def step_of(scale, divisor, multiplies):
    """What a value is multiplied with: scale / global scale, NaN where a global scale is out of range."""
    if not in_range(divisor, multiplies):
        return as_float(NAN)
    return scale * as_float(divisor) if multiplies else scale / as_float(divisor)


@kernel
def decode_range(codes, scales, divisor, multiplies, table, pairs, block, out, kind, start, stop):
    """Decode the elements start..stop; `start` is a multiple of RUN."""
    y, steps, q = np.empty(RUN, np.float32), np.empty(RUN, np.float32), np.empty(RUN, np.uint8)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        first, blocks = at // block, (count + block - 1) // block
        load_values(codes, 4, at, count, pairs, q, y)
        settle_steps(y, scales[first : first + blocks], divisor, multiplies, table, block, steps)
        store_products(y, steps, kind, out[at : at + count])


@inlined
def settle_steps(y, scales, divisor, multiplies, table, block, steps):
    """The step of each element of a run; values whose step is not positive are multiplied with it here."""
    for b in range(scales.size):
        part, step = steps[b * block : (b + 1) * block], step_of(table[scales[b]], divisor, multiplies)
        if not step > np.float32(0):
            settle(y[b * block : (b + 1) * block], step, np.float32(0), False)
            step = np.float32(1)
        for i in range(part.size):
            part[i] = step
