"""`Codebook`: a table of floats times one float32 scale per block (nf4, nf8, bitsandbytes' tables, user tables).

The specification is docs/format/codebook.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding a block, in the order in which every backend does it:
    1  widen to float32 bits, reading elements with exponent field 0 as +0;
    2  absmax = integer maximum of bits & 0x7fffffff;
    3  absmax NaN or infinite -> the canonical NaN; absmax below the table's smallest scale, which is 2^-100 in all but
       two tables -> 0; in both cases all codes are the zero code;
    4  absmax >= 2^126: lower the exponents of absmax and elements by 4, so that the reciprocal is a normal number;
    5  y = x * recip_rn(absmax), one rounding;
    6  the rank of y is the number of bounds strictly below it; the code is codes[rank].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives import codebooks
from arraycodec.primitives.blocks import (
    block_length,
    check_block_size,
    codes_spec,
    scales_spec,
    tree_sum,
    without_subnormals,
)
from arraycodec.primitives.floats import (
    INFINITY,
    KINDS,
    MAGNITUDE,
    MIN_SCALE,
    ONE,
    as_float,
    recip_rn,
)
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.memory import bits, empty, planes_of, writable_bits
from arraycodec.primitives.packing import look_up, store_codes, values_per_byte
from arraycodec.primitives.ranks import rank16, rank256, rank_in_cells
from arraycodec.primitives.scales import (
    RUN,
    absmax_of_blocks,
    largest,
    load,
    multiply,
    scale_run,
    settle,
    stored_scale,
    used_scale,
)
from arraycodec.primitives.threads import split
from arraycodec.spec import ArraySpec, spec_of

CELLS_PAY = 1 << 18  # elements; for fewer, making the cells of a user's table takes longer than they save


@dataclass(frozen=True)
class Codebook(Codec):
    """Blockwise absmax quantisation to a table of 16 or 256 floats, in bitsandbytes' layout.

    table       4 bits: "nf4", "fp4", "af4"; 8 bits: "nf8" and bitsandbytes' maps "dynamic", "dynamic-unsigned",
                "linear", "linear-unsigned", "fp8-e5m2", "fp8-e4m3", "fp8-e3m4"; or "user4"/"user8": then
                `given={"codebook": values}` holds the rising float32 table, which becomes a plane; `bounds` go with
                it where they are not the midpoints.
    block_size  elements of the flattened array per scale; None is one scale for the whole array.
    flavour     None, or "bnb-cpu" for the codes that bitsandbytes' CPU kernels choose (fp4 and the maps).
    offset      subtract the mean first, and keep it as the plane `offset`: bitsandbytes' nested statistics.

    Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes` uint8 (4-bit codes two to a byte, the first
    in the high nibble), `absmax` float32, and `codebook`, `offset` where the parameters ask for them.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.linspace(-1, 1, 128, dtype=np.float32), ac.Codebook("nf4", block_size=64))
    >>> enc.planes["absmax"].tolist(), bytes(enc.planes["codes"][:3]).hex()
    ([1.0, 1.0], '000000')
    """

    name: ClassVar[str] = "codebook"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    inputs: ClassVar[tuple[str, ...]] = ("bounds",)
    scale: ClassVar[str | None] = "absmax"

    table: str = "nf4"
    block_size: int | None = 64
    flavour: str | None = None
    offset: bool = False

    def __post_init__(self) -> None:
        if self.table not in codebooks.NAMES:
            raise self.fail("table", f"one of {', '.join(codebooks.NAMES)}", self.table)
        if self.flavour not in codebooks.flavours(self.table):
            allowed = ", ".join(map(repr, codebooks.flavours(self.table)))
            raise self.fail(f"flavour of {self.table}", allowed, self.flavour)
        check_block_size(f"codebook {self.table}", self.block_size)
        if not isinstance(self.offset, bool):
            raise self.fail("offset", "True or False", self.offset)

    @property
    def bits(self) -> int:
        """The width of a code."""
        return codebooks.USER.get(self.table) or codebooks.table(self.table, self.flavour).bits

    @property
    def min_scale(self) -> np.uint32:
        """The bits of the smallest scale in use: one below it is 0."""
        return MIN_SCALE if self.table in codebooks.USER else codebooks.table(self.table, self.flavour).min_scale

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        planes = {
            "codes": codes_spec(spec, self.block_size, self.bits),
            "absmax": scales_spec(spec, self.block_size, self.bits),
        }
        if self.table in codebooks.USER:
            planes["codebook"] = ArraySpec((1 << self.bits,), "float32")
        if self.offset:
            planes["offset"] = ArraySpec((), "float32")
        return planes

    def tables(self, planes: Given) -> codebooks.Table:
        """The table in force: a built-in one, or the user's among the planes (or `given`)."""
        if self.table not in codebooks.USER:
            return codebooks.table(self.table, self.flavour)
        if "codebook" not in planes:
            raise ArgumentError(f"codebook {self.table}: given must hold the plane 'codebook', got {sorted(planes)}")
        return codebooks.user_table(planes["codebook"], planes.get("bounds"))

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        table, specs = self.tables(given), self.planes(spec)
        if self.table in codebooks.USER:
            self._check_table(table, ArgumentError)
        planes = planes_of({name: plane for name, plane in specs.items() if name in given}, given)
        if self.offset:
            x = without_subnormals(np.ascontiguousarray(x, np.float32).reshape(x.shape))
            planes.setdefault("offset", mean(x))
            with np.errstate(invalid="ignore", over="ignore"):
                x = x - without_subnormals(np.asarray(planes["offset"], np.float32))
        source, kind = bits(x), KINDS[spec_of(x).dtype]
        codes, absmax = empty(specs["codes"]), planes.get("absmax")
        block = block_length(spec, self.block_size)
        # A tile of whole blocks finds its own scales; where a block is larger than a tile they come first.
        known = absmax is not None or block > RUN
        if absmax is not None:
            scales = writable_bits(absmax)
        elif known:
            scales = absmax_of_blocks(source, kind, block)
            scales[scales < self.min_scale] = 0
        else:
            scales = writable_bits(empty(specs["absmax"]))
            if not source.size:
                scales[:] = 0  # the whole of an empty array has a scale too
        # Threads share no byte of codes and no scale that is still to be found: an even number of blocks, or of runs.
        unit = 2 * RUN if known else block * (1 + block % 2)
        pays = self.bits == 8 and (self.table not in codebooks.USER or source.size >= CELLS_PAY)
        cells = table.cells if pays else codebooks.NO_CELLS

        def work(first: int, last: int) -> None:
            encode_range(
                source, kind, block, known, scales, codes.reshape(-1), self.bits,
                self.min_scale, table.bounds, table.codes, table.steps, cells, np.uint8(table.zero),
                first * unit, min(last * unit, source.size),
            )  # fmt: skip

        split(work, -(-source.size // unit), source.size)
        planes |= {"codes": codes, "absmax": scales.view(np.float32).reshape(specs["absmax"].known_shape)}
        return {name: planes[name] for name in specs}

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        target, kind = writable_bits(out), KINDS[spec.dtype]
        codes, scales = bits(planes["codes"]), bits(planes["absmax"])
        values = np.ascontiguousarray(self.tables(planes).values)
        offset = without_subnormals(np.asarray(planes["offset"] if self.offset else 0, np.float32))[()]
        block = block_length(spec, self.block_size)

        def work(first: int, last: int) -> None:
            decode_range(
                codes, scales, self.min_scale, values, offset, self.offset, target, kind, block, self.bits,
                2 * first, min(2 * last, target.size),
            )  # fmt: skip

        split(work, -(-target.size // 2), target.size)
        return out

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """Whole blocks around the range, an even number of them, so that the codes start at a byte."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        block = block_length(spec, self.block_size)
        unit = 2 * block if self.block_size else 2
        first, last = start // unit * unit, min(-(-stop // unit) * unit, spec.size)
        part = ArraySpec((last - first,), spec.dtype)
        blocks = slice(first // block, -(-last // block)) if self.block_size else slice(0, 1)
        pieces = {"codes": slice(first * self.bits // 8, -(-last * self.bits // 8)), "absmax": blocks}
        planes = {name: fetch(name, pieces.get(name, slice(None))) for name in self.planes(spec)}
        planes = {name: planes[name].reshape(s.known_shape) for name, s in self.planes(part).items()}
        return self.decode(planes, part)[start - first : stop - first]

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        if self.table in codebooks.USER:
            self._check_table(self.tables(planes), CorruptError)

    def _check_table(self, table: codebooks.Table, error: type[Exception]) -> None:
        """A user's table is rising; what is not zero in it keeps a product with any allowed scale normal."""
        for name, entries, size in (("codebook", table.values, 1 << self.bits), ("bounds", table.bounds, None)):
            size = size or (1 << self.bits) - 1
            magnitude = np.abs(entries[(entries != 0) & ((name != "bounds") | (entries != codebooks.JUST_ABOVE_ZERO))])
            if entries.shape != (size,):
                raise error(f"codebook {self.table}: {name} must have shape ({size},), got {entries.shape}")
            if not (np.isfinite(entries).all() and (np.diff(entries) > 0).all()):
                raise error(f"codebook {self.table}: {name} must be finite and strictly rising, got {entries}")
            if ((magnitude < codebooks.MIN_ENTRY) | (magnitude > codebooks.MAX_ENTRY)).any():
                raise error(f"codebook {self.table}: {name} must be 0 or in 2^-24..2^24 in magnitude, got {entries}")


def mean(x: np.ndarray) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The mean as float32, by halves and a reciprocal; 0 where it is not finite or below 2^-100."""
    if not x.size:
        return np.zeros((), np.float32)
    count = np.array(x.size, np.float32).view(np.uint32)
    with np.errstate(over="ignore", invalid="ignore"):
        value = tree_sum(x.reshape(-1)) * np.float32(as_float(recip_rn(count[()])))
    return np.array(value if MIN_SCALE <= (value.view(np.uint32) & MAGNITUDE) < INFINITY else 0, np.float32)


@kernel
def encode_range(
    source, kind, block, known, absmax, codes, bits, min_scale, bounds, order, steps, cells, zero, start, stop
):
    """Encode the elements start..stop in tiles: as many whole blocks as fit a run, or a run of a larger block."""
    tile = RUN // block * block if block <= RUN else RUN
    run = np.empty(tile, np.uint32)
    y = run.view(np.float32)
    ranked = np.empty(tile, np.uint8)
    edges = np.full(256, np.inf, np.float32)
    edges[: bounds.size] = bounds
    for at in range(start, stop, tile):
        count = min(tile, stop - at)
        load(source, kind, at, count, run)
        lo = 0
        while lo < count:
            b = (at + lo) // block
            hi = min((b + 1) * block - at, count)
            if not known:
                absmax[b] = usable(stored_scale(largest(run[lo:hi])), min_scale)
            scale_run(run[lo:hi], usable(absmax[b], min_scale), np.float32(1))
            lo = hi
        if bits == 4:
            rank16(y[:count], ranked, bounds, steps, order[0])
            store_codes(ranked[:count], codes, bits, at, zero)
        elif cells.size:
            rank_in_cells(y[:count], run, codes[at : at + count], cells, edges)
        else:
            rank256(y[:count], codes[at : at + count], bounds)


@inlined
def usable(scale, min_scale):
    """0 for a scale whose products with the smallest entries of the table might be subnormal."""
    return scale if (scale & MAGNITUDE) >= min_scale else np.uint32(0)


@kernel
def decode_range(codes, scales, min_scale, values, offset, has_offset, out, kind, block, bits, start, stop):
    """Decode the elements start..stop in runs; `start` is even, so each run starts at a byte."""
    y = np.empty(RUN, np.float32)
    per_byte = values_per_byte(values, bits)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        look_up(codes, bits, at, count, per_byte, y)
        lo = 0
        while lo < count:
            b = (at + lo) // block
            hi = min((b + 1) * block - at, count)
            scale = usable(used_scale(scales[b]), min_scale)
            if has_offset or scale < MIN_SCALE or scale >= INFINITY:
                settle(y[lo:hi], as_float(scale), offset, has_offset)
                scale = ONE
            multiply(y[lo:hi], as_float(scale), kind, out[at + lo : at + hi])
            lo = hi
