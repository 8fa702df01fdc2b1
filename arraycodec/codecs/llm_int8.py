"""`LLMInt8`: the int8 rows of LLM.int8(), with columns of outliers kept as they are.

The specification is docs/format/llm_int8.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding, in the order in which every backend does it:
    0  with a threshold: find the columns with outliers, keep them, and read outliers as +0 from here on;
    1  widen to float32 bits, reading elements with exponent field 0 as +0;
    2  absmax: the largest magnitude of each row;
    3  the stored scale: absmax, NaN where that is not finite, 0 where it is below 2^-100;
    4  y = x * (127 * recip_rn(absmax)), exponents lowered where absmax is huge;
    5  q = y rounded to nearest even and clamped to -127..127; 0 in the columns of step 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import CorruptError
from arraycodec.primitives.blockwise import Extremes, encode_tiles, quantise_pieces, segments
from arraycodec.primitives.floats import (
    INFINITY,
    KINDS,
    MAGNITUDE,
    MIN_SCALE,
    ONE,
    as_float,
    narrow,
    widen,
)
from arraycodec.primitives.grid import BlockSize, grid_of, scales_shape
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.scales import RUN, load, multiply, scale_run, settle, stored_scale, used_scale
from arraycodec.primitives.threads import split
from arraycodec.spec import ArraySpec, spec_of

ROWS: BlockSize = (1, None)
STEPS = 127
# Decoding multiplies with absmax / 256 and then with 256 / 127, so that no product in between can overflow.
EIGHT = np.uint32(8 << 23)
UNIT = np.uint32(0x3C010204) + EIGHT  # of 1/127, rounded to float32


@dataclass(frozen=True)
class LLMInt8(Codec):
    """int8 rows as bitsandbytes stores those of LLM.int8(): `x = q * absmax / 127`, with one absmax per row.

    threshold   0.0, or the magnitude from which an element is an outlier, as 6.0 for activations. A column with an
                outlier in any row has zero codes and is stored whole, in the array's dtype.

    Arrays are float32, bfloat16 or float16 of any shape; rows are along the last axis. Planes: int8 `codes` of the
    array's shape, float32 `scales` (the absmax of each row, bitsandbytes' SCB); with a threshold also int32
    `outlier_columns`, which rise, and `outliers`, these columns. `given` may hold the scales of a calibration.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.array([[1, -2, 0.5], [4, 8, 20]], np.float32)
    >>> ac.encode(x, "llm_int8").planes["codes"].tolist()
    [[64, -127, 32], [25, 51, 127]]
    >>> enc = ac.encode(x, ac.LLMInt8(threshold=10.0))
    >>> enc.planes["outlier_columns"].tolist(), enc.planes["outliers"].tolist(), enc.planes["codes"][1].tolist()
    ([2], [[0.5], [20.0]], [64, 127, 0])
    """

    name: ClassVar[str] = "llm_int8"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    computed: ClassVar[tuple[str, ...]] = ("codes", "outlier_columns", "outliers")
    scale: ClassVar[str | None] = "scales"

    threshold: float = 0.0

    def __post_init__(self) -> None:
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if not number or not (self.threshold == 0 or 2.0**-100 <= self.threshold < 2.0**127):
            raise self.fail("threshold", "0.0, or a number from 2^-100 to 2^127", self.threshold)
        object.__setattr__(self, "threshold", float(self.threshold) + 0.0)

    def threshold_bits(self, spec: ArraySpec) -> int:
        """The threshold rounded to the array's dtype, as float32 bits; elements are compared with it after widening."""
        with np.errstate(over="ignore"):
            return int(np.float32(np.array(self.threshold, np.float32).astype(spec.numpy_dtype)).view(np.uint32))

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        planes = {
            "codes": ArraySpec(spec.shape, "int8"),
            "scales": ArraySpec(scales_shape(spec, ROWS, 8), "float32"),
        }
        if self.threshold:
            planes["outlier_columns"] = ArraySpec((None,), "int32")
            planes["outliers"] = ArraySpec((*spec.shape[:-1], None), spec.dtype)
        return planes

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        specs, grid, kind = self.planes(spec), grid_of(spec, ROWS), KINDS[spec.dtype]
        source = bits(x)
        outliers, columns = source[:0], np.zeros(0, np.int32)
        if self.threshold:
            kept, columns = without_outliers(source, kind, grid.columns, self.threshold_bits(spec))
            outliers, source = source.reshape(-1, max(grid.columns, 1)).take(columns, axis=1), bits(kept)
        codes = empty(specs["codes"])
        scales = np.array(given["scales"], np.float32) if "scales" in given else empty(specs["scales"])
        found = writable_bits(scales)

        def rule(first: int, last: int, extremes: Extremes) -> None:
            row_scales(extremes, found[first:last])

        def quantise(start: int, stop: int) -> None:
            encode_range(source, kind, grid, found, codes.reshape(-1), start, stop)

        encode_tiles(source, kind, grid, None if "scales" in given else rule, quantise, signed=False)
        planes: Planes = {"codes": codes, "scales": scales}
        if self.threshold:
            codes.reshape(-1, max(grid.columns, 1))[:, columns] = 0
            shape = (*spec.known_shape[:-1], columns.size)
            planes |= {"outlier_columns": columns, "outliers": outliers.view(spec.numpy_dtype).reshape(shape)}
        return planes

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        grid, target, kind = grid_of(spec, ROWS), writable_bits(out), KINDS[spec.dtype]
        codes, scales = bits(planes["codes"]).view(np.int8), bits(planes["scales"])

        def work(start: int, stop: int) -> None:
            decode_range(codes, grid, scales, target, kind, start, stop)

        quantise_pieces(grid.size, work)
        if self.threshold and planes["outlier_columns"].size and spec.size:
            self.check(planes, spec)
            columns, outliers = np.ascontiguousarray(planes["outlier_columns"]), bits(planes["outliers"])
            place_outliers(outliers, KINDS[spec_of(planes["outliers"]).dtype], columns, grid.columns, target, kind)
        return out

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        if not self.threshold:
            return
        columns, outliers = planes["outlier_columns"], planes["outliers"]
        width = grid_of(spec, ROWS).columns
        if columns.size and not (columns[0] >= 0 and columns[-1] < width and (columns[1:] > columns[:-1]).all()):
            raise CorruptError(f"llm_int8: outlier_columns must rise from at least 0 to below {width}, got {columns}")
        if outliers.shape[-1] != columns.size:
            raise CorruptError(f"llm_int8: outliers must have {columns.size} columns, got {outliers.shape[-1]}")

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The rows around the range."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        width = grid_of(spec, ROWS).columns
        first, last = start // width, -(-stop // width)
        part = ArraySpec((last - first, width), spec.dtype)
        planes: Planes = {"codes": fetch("codes", slice(first * width, last * width)).reshape(part.known_shape)}
        planes["scales"] = fetch("scales", slice(first, last)).reshape(-1, 1)
        if self.threshold:
            columns = planes["outlier_columns"] = fetch("outlier_columns", slice(None))
            pieces = fetch("outliers", slice(first * columns.size, last * columns.size))
            planes["outliers"] = pieces.reshape(last - first, columns.size)
        return self.decode(planes, part).reshape(-1)[start - first * width : stop - first * width]


def without_outliers(source: np.ndarray, kind: int, width: int, threshold: int) -> tuple[np.ndarray, np.ndarray]:
    """Step 0: the elements with outliers replaced by 0, and the columns that have any."""
    kept, parts = np.empty_like(source), [np.zeros(width, np.bool_)]

    def work(first: int, last: int) -> None:
        found = np.zeros(width, np.bool_)
        drop_outliers(source, kind, width, np.uint32(threshold), kept, found, first, last)
        parts.append(found)

    split(work, source.size // max(width, 1), source.size)
    return kept, np.flatnonzero(np.logical_or.reduce(parts)).astype(np.int32)


@kernel
def drop_outliers(source, kind, width, threshold, kept, found, first, last):
    """Step 0 for the rows first..last."""
    for row in range(first, last):
        x, k = source[row * width : (row + 1) * width], kept[row * width : (row + 1) * width]
        for i in range(width):
            magnitude = np.uint32(widen(x[i], kind) & MAGNITUDE)
            outlier = magnitude >= threshold and magnitude <= INFINITY
            k[i] = 0 if outlier else x[i]
            found[i] = found[i] or outlier


@kernel
def row_scales(extremes, scales):
    """Step 3."""
    for i in range(scales.size):
        scales[i] = stored_scale(extremes[0, i])


@kernel
def encode_range(source, kind, grid, scales, codes, start, stop):
    """Steps 4 and 5 for the elements start..stop."""
    run = np.empty(RUN, np.uint32)
    y = run.view(np.float32)
    ends, tiles = np.empty(RUN, np.int64), np.empty(RUN, np.int64)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        load(source, kind, at, count, run)
        lo = 0
        for k in range(segments(grid, at, count, ends, tiles)):
            scale_run(run[lo : ends[k]], np.uint32(scales[tiles[k]]), np.float32(STEPS))
            lo = ends[k]
        target = codes[at : at + count]
        for i in range(count):
            v = y[i] if y[i] == y[i] else np.float32(0)
            target[i] = np.int8(np.rint(min(max(v, np.float32(-STEPS)), np.float32(STEPS))))


@kernel
def decode_range(codes, grid, scales, out, kind, start, stop):
    """Decode the elements start..stop: q * absmax, then * 1/127, each rounded once; a zero is +0, a NaN canonical."""
    y = np.empty(RUN, np.float32)
    ends, tiles = np.empty(RUN, np.int64), np.empty(RUN, np.int64)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        source, target = codes[at : at + count], out[at : at + count]
        for i in range(count):
            y[i] = np.float32(source[i])
        lo = 0
        for k in range(segments(grid, at, count, ends, tiles)):
            scale, unit = used_scale(np.uint32(scales[tiles[k]])), as_float(UNIT)
            part = y[lo : ends[k]]
            if scale < MIN_SCALE or scale >= INFINITY:
                usable = np.uint32(scale & MAGNITUDE) < INFINITY and scale != np.uint32(0)
                settle(part, as_float(np.uint32(scale - EIGHT) if usable else scale), np.float32(0), False)
                unit = unit if usable else as_float(ONE)
            else:
                absmax = as_float(np.uint32(scale - EIGHT))
                for i in range(part.size):
                    part[i] = part[i] * absmax
            multiply(part, unit, kind, target[lo : ends[k]])
            lo = ends[k]


@kernel
def place_outliers(outliers, kind, columns, width, out, out_kind):
    """Columns of outliers over decoded rows; another dtype than their own is one rounding away."""
    for i in range(outliers.size):
        row, k = divmod(i, columns.size)
        same = kind == out_kind
        out[row * width + columns[k]] = outliers[i] if same else narrow(widen(outliers[i], kind), out_kind)
