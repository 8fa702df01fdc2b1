"""`PQR`: residual stages of k-means, each element a sum of one entry of every stage (PQ-R, and what it generalises to).

The specification is docs/format/pqr.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding, in the order in which every backend would do it (steps 3 and 4 in the reference only):
    1  scales: the largest magnitude of each tile, rounded up to bfloat16 (`primitives.normal`); with float32 books the
       tiles are what a book is of, and their scales go into the book;
    2  q = rint(x * (32768 * recip_rn(scale))), an integer from -32767 to 32767;
    3  stage by stage: entries from the integers that a book is of (`primitives.stages`), the nearest of them for each
       vector, and what it leaves, which the next stage takes; with gains, shifted to the left;
    4  the indices of all stages as one code, the first stage in the highest bits, in a dense little-endian stream.
Decoding is a look-up per stage, a sum of integers and one multiplication; with float32 books, a sum of floats.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import CorruptError
from arraycodec.primitives import stages
from arraycodec.primitives.blocks import is_positive, without_subnormals
from arraycodec.primitives.blockwise import quantise_pieces, segments
from arraycodec.primitives.floats import BFLOAT16, KINDS, NAN
from arraycodec.primitives.grid import BlockSize, check_block_size, grid_of, scales_shape, surrounding
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.memory import bits, empty, planes_of, read_only, writable_bits
from arraycodec.primitives.normal import UNIT, find_scales, integer_weights, normal_scales, normalise_range
from arraycodec.primitives.runs import buffers, multiplied_run, store_products
from arraycodec.primitives.scales import RUN
from arraycodec.primitives.sums import (
    FINE,
    add_all,
    add_vectors,
    group_of,
    load_codes,
    shifts,
    starts,
)
from arraycodec.spec import ArraySpec, spec_of

DIMS = (1, 2, 4, 8)
BOOKS = ("int16", "float32")
LARGEST_STAGE, LARGEST_CODE = 12, 56  # bits


class Place(NamedTuple):
    """Where a part begins: its first element, and the vector and the book that its planes begin with."""

    element: int = 0
    vector: int = 0
    book: int = 0


@dataclass(frozen=True)
class PQR(Codec):
    """Residual k-means: `x = (book[i] + book[j] + ...) * 2^-15 * scale`, with books found for the array itself.

    stages      the bits of each stage's index, the first stage first: (4, 4) are 16 + 16 entries, and codes of a byte.
    dim         1, 2, 4 or 8: an index is of so many consecutive elements of the flattened array.
    scope       what shares a book: "tensor", the whole array; "row", each row (of the last axis); or an integer, so
                many consecutive elements of the flattened array.
    block_size  the tiles that share a scale (see `arraycodec.primitives.grid`); None the whole array.
    gain        a power of two for each entry of the first stage, by which those of the later stages are multiplied.
    codebook    "int16"; or "float32", PQ-R as it was asked for: the entries are values, and there are no scales.

    Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes` uint8, a bit stream; `scales` bfloat16 with
    int16 books; `codebook` (books, entries, dim); `gains` uint8 (books, entries of the first stage) where asked for.
    `given` may hold scales, and `importance`: float32 (columns,), how much the squared error of each index into the
    last axis counts in training. A warning says where the planes are larger than the array.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    >>> enc = ac.encode(x, ac.PQR((4, 4), codebook="float32"))
    >>> enc.planes["codebook"].shape, enc.bits_per_element
    ((1, 32, 1), 8.0625)
    """

    name: ClassVar[str] = "pqr"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    computed: ClassVar[tuple[str, ...]] = ("codes", "codebook", "gains")
    inputs: ClassVar[tuple[str, ...]] = ("importance",)
    trained: ClassVar[bool] = True

    stages: tuple[int, ...] = (5, 3)
    dim: int = 1
    scope: str | int = "tensor"
    block_size: BlockSize = None
    gain: bool = False
    codebook: str = "int16"

    def __post_init__(self) -> None:
        widths = self.stages if isinstance(self.stages, tuple) else ()
        if not widths or not all(is_positive(width) and width <= LARGEST_STAGE for width in widths):
            raise self.fail("stages", f"a tuple of widths, each an integer from 1 to {LARGEST_STAGE}", self.stages)
        if sum(widths) > LARGEST_CODE:
            raise self.fail("stages", f"of at most {LARGEST_CODE} bits together", self.stages)
        if not is_positive(self.dim) or self.dim not in DIMS:
            raise self.fail("dim", "1, 2, 4 or 8", self.dim)
        whole = is_positive(self.scope) and isinstance(self.scope, int) and self.scope % self.dim == 0
        if self.scope not in ("tensor", "row") and not whole:
            raise self.fail("scope", "'tensor', 'row' or a multiple of dim", self.scope)
        check_block_size("pqr", self.block_size)
        if not isinstance(self.gain, bool):
            raise self.fail("gain", "True or False", self.gain)
        if self.codebook not in BOOKS:
            raise self.fail("codebook", " or ".join(map(repr, BOOKS)), self.codebook)
        if not self.scaled and (self.gain or self.block_size is not None):
            raise self.fail("gain and block_size", "False and None with float32 books", (self.gain, self.block_size))

    @property
    def scaled(self) -> bool:
        """Whether there are scales, which there are with books of integers."""
        return self.codebook == "int16"

    @property
    def scale(self) -> str:  # type: ignore[override]  # a fact of the parameters, not of the class
        return "scales" if self.scaled else "codebook"

    @property
    def bits(self) -> int:
        """The width of the code of a vector."""
        return sum(self.stages)

    @property
    def entries(self) -> int:
        """The entries of a book."""
        return sum(1 << width for width in self.stages)

    @property
    def unit(self) -> np.float32:
        """What the sum of entries is multiplied with besides the scale."""
        return np.float32(UNIT / (1 << FINE)) if self.gain else UNIT

    def length(self, spec: ArraySpec) -> int:
        """The elements of a book, consecutive in the flattened array; a vector is of the book of its first element."""
        row, whole = spec.known_shape[-1] if spec.shape else 1, -(-max(spec.size, 1) // self.dim) * self.dim
        return (
            min(self.scope, whole) if isinstance(self.scope, int) else max(row if self.scope == "row" else spec.size, 1)
        )

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        columns, books = spec.known_shape[-1] if spec.shape else 1, -(-spec.size // self.length(spec))
        books = 1 if self.scope == "tensor" else books
        own = self.block_size if isinstance(self.block_size, int) else 1
        count, (row, rest) = -(-spec.size // self.dim), divmod(columns // self.dim * self.bits, 8)
        if spec.shape and not (columns % self.dim or columns % own or rest):
            shape = (*spec.known_shape[:-1], row)  # whole bytes in every row
        else:
            shape = (-(-count * self.bits // 8),)
        planes = {"codes": ArraySpec(shape, "uint8")}
        if self.scaled:
            planes["scales"] = normal_scales(spec, self.block_size, 8)
        planes["codebook"] = ArraySpec((books, self.entries, self.dim), self.codebook)
        if self.gain:
            planes["gains"] = ArraySpec((books, 1 << self.stages[0]), "uint8")
        return planes

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        specs = self.planes(spec)
        self._warn_if_larger(specs, spec)
        planes = planes_of(specs, given)
        tiles: BlockSize = {"tensor": None, "row": (1, None)}.get(self.scope, self.scope)  # type: ignore[assignment]
        tiles = self.block_size if self.scaled else tiles
        source, kind, grid = bits(x), KINDS[spec.dtype], grid_of(spec, tiles)
        scales = planes["scales"] if self.scaled else empty(ArraySpec(scales_shape(spec, tiles, 8), "bfloat16"))
        found = writable_bits(scales)
        if "scales" not in given:
            find_scales(source, kind, grid, found)
        columns = spec.known_shape[-1] if spec.shape else 1
        weights = integer_weights(self.name, given.get("importance"), columns)

        def integers(start: int, stop: int) -> np.ndarray:
            part = np.empty(stop - start, np.int16)
            normalise_range(source, kind, grid, found, part, start)
            return part

        books = planes["codebook"]

        def keep(first: int, entries: np.ndarray, gains: np.ndarray) -> None:
            own = slice(first, first + len(entries))
            books[own] = entries if self.scaled else valued(entries, scales.reshape(-1)[own])
            if self.gain:
                planes["gains"][own] = gains

        how = stages.Stages(self.stages, self.gain, self.dim, self.length(spec), spec.size, len(books))
        stages.encode(integers, weights, how, keep, planes["codes"].reshape(-1))
        return planes

    def _warn_if_larger(self, specs: dict[str, ArraySpec], spec: ArraySpec) -> None:
        """Say so where the planes, codebooks included, take more than the array itself."""
        own = sum(plane.nbytes for plane in specs.values())
        if own > spec.nbytes > 0:
            wide, count = 8 * spec.nbytes // spec.size, specs["codebook"].known_shape[0]
            warnings.warn(
                f"{self}: {8 * own / spec.size:.4g} bits per element, more than the {wide} of {spec.dtype}: "
                f"{specs['codebook'].nbytes} of {own} bytes are codebooks, {count} for {spec.size} elements",
                stacklevel=frames_of_package(),
            )

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        self._decode(planes, spec, self.length(spec), Place(), out)
        return out

    def _decode(self, planes: Planes, spec: ArraySpec, length: int, place: Place, out: np.ndarray) -> None:
        """Decode what may be a part of an array."""
        grid, target, kind = grid_of(spec, self.block_size), writable_bits(out), KINDS[spec.dtype]
        codes, scales = bits(planes["codes"]), bits(planes["scales"] if self.scaled else np.zeros(0, np.uint16))
        entries, none = planes["codebook"].reshape(-1, self.entries * self.dim), np.zeros((0, 0))
        integers = read_only(np.ascontiguousarray(entries) if self.scaled else none.astype(np.int16))
        values = none.astype(np.float32) if self.scaled else without_subnormals(entries)
        gains = np.minimum(planes["gains"], FINE) if self.gain else np.zeros((len(entries), 0), np.uint8)
        layout = np.array([shifts(self.stages), self.stages, starts(self.stages)], np.int64)
        books = (integers, values, gains, layout, self.unit)
        table = np.zeros((0, self.dim), np.float32)
        if len(entries) == 1 and self.bits <= 8:
            table = np.empty((1 << self.bits, self.dim), np.float32)
            add_all(books, table)

        def work(start: int, stop: int) -> None:
            decode_range(
                codes, self.bits, books, table, self.dim, length, place, grid, scales, target, kind, start, stop
            )

        quantise_pieces(grid.size, work)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The whole tiles around the range, the vectors these are of, and the books of those."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        part, elements, tiles = surrounding(spec, self.block_size, start, stop)
        group, length, cells = group_of(self.bits), self.length(spec), 1 << self.stages[0]
        first, last = elements.start // self.dim, -(-elements.stop // self.dim)
        own = slice(first * self.dim // length, (last - 1) * self.dim // length + 1)
        first, count = first // group * group, own.stop - own.start
        size = self.entries * self.dim
        planes = {
            "codes": fetch("codes", slice(first * self.bits // 8, -(-last * self.bits // 8))),
            "codebook": fetch("codebook", slice(own.start * size, own.stop * size)).reshape(count, -1, self.dim),
        }
        if self.scaled:
            planes["scales"] = fetch("scales", tiles)
        if self.gain:
            planes["gains"] = fetch("gains", slice(own.start * cells, own.stop * cells)).reshape(count, cells)
        out = empty(part)
        self._decode(planes, part, length, Place(elements.start, first, own.start), out)
        return out.reshape(-1)[start - elements.start : stop - elements.start]

    def marked(self, scales: np.ndarray) -> np.ndarray:
        return np.isnan(scales if self.scaled else scales[..., 0, 0])

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        if "gains" in planes and (largest := int(np.max(planes["gains"], initial=0))) > FINE:
            raise CorruptError(f"pqr: gains must be from 0 to {FINE}, got {largest}")


def frames_of_package() -> int:
    """The stack level, for a function that warns, of the line outside of arraycodec and its backends that led to it."""
    frame, level = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith("arraycodec"):
        frame, level = frame.f_back, level + 1
    return level


def valued(books: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Books of integers as float32 values, exact products: those of a scale that is NaN are all NaN."""
    with np.errstate(invalid="ignore"):
        values = books.astype(np.float32) * (scales.astype(np.float32).reshape(-1, 1, 1) * UNIT)
    return np.where(np.isnan(values), NAN.view(np.float32), values + 0)  # no -0


@kernel
def decode_range(codes, bits, books, table, dim, length, place, grid, scales, out, kind, start, stop):
    """Decode the elements start..stop; `table`: the vectors of all codes, where a single book has few."""
    (factors, ends, tiles), room = buffers(), RUN + 2 * dim
    q, sums, totals = np.empty(room, np.int64), np.empty(room, np.float32), np.empty(room, np.int32)
    element, vector, book = place
    for at in range(start, stop, RUN):
        count, first = min(RUN, stop - at), (element + at) // dim
        number = (element + at + count + dim - 1) // dim - first  # of vectors
        lo = 0
        if table.size and bits == 8 and dim == 1:
            piece, lo = codes[first - vector : first - vector + number], number
            for i in range(number):
                sums[i] = table[piece[i], 0]
        else:
            load_codes(codes, bits, first - vector, q[:number])
        while lo < number:
            own = 0 if table.size else (first + lo) * dim // length
            hi = number if table.size else min(((own + 1) * length + dim - 1) // dim - first, number)
            target = sums[lo * dim : hi * dim]
            if table.size:
                for i in range(number):
                    for e in range(dim):
                        target[i * dim + e] = table[q[i], e]
            else:
                add_vectors(books, own - book, dim, q[lo:hi], target, totals)
            lo = hi
        y, part = sums[element + at - first * dim :], out[at : at + count]
        if scales.size:
            segment = (ends, tiles, segments(grid, at, count, ends, tiles))
            multiplied_run(y, scales, BFLOAT16, segment, count, kind, part, factors)
        else:
            factors[:] = 1
            store_products(y, factors, kind, part)
