"""`Lut`: 2 to 256 levels that k-means finds for the array itself, times a scale per tile.

The specification is docs/format/lut.md; the kernels below are its pseudo-code and the fast CPU implementation.
Encoding, in the order in which every backend does it (step 3 in the reference only):
    1  scales: the largest magnitude of each tile, rounded up to bfloat16 (`primitives.normal`);
    2  q = rint(x * (32768 * recip_rn(scale))), an integer from -32767 to 32767;
    3  levels of each book from the histogram of its integers (`primitives.kmeans`);
    4  code: the nearest level of the book, of two the lower one; packed in a dense little-endian stream.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from threading import get_ident
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives import kmeans
from arraycodec.primitives.blocks import is_positive
from arraycodec.primitives.blockwise import PIECE, quantise_pieces, segments
from arraycodec.primitives.cells import BINS, LOWEST
from arraycodec.primitives.floats import BFLOAT16, KINDS
from arraycodec.primitives.grid import BlockSize, check_block_size, codes_shape, grid_of, surrounding
from arraycodec.primitives.jit import kernel
from arraycodec.primitives.kmeans import ROUNDS, bin_of, find_codes, key_of, train_keys
from arraycodec.primitives.memory import bits, empty, planes_of, writable_bits
from arraycodec.primitives.normal import (
    UNIT,
    count_tiles,
    find_scales,
    integer_weights,
    normal_scales,
    normalise_range,
    share_of,
    sizes_of,
)
from arraycodec.primitives.packing import load_dense, store_dense
from arraycodec.primitives.runs import buffers, multiplied_run
from arraycodec.primitives.scales import RUN
from arraycodec.primitives.small_blocks import load_values
from arraycodec.primitives.threads import split
from arraycodec.spec import ArraySpec, spec_of

TRAINING = ("lloyd", "optimum")


@dataclass(frozen=True)
class Lut(Codec):
    """Look-up tables: `x = codebook[code] * 2^-15 * scale`, with the levels that suit the array best.

    bits        1 to 8: 2 to 256 levels in a book.
    block_size  the tiles that share a scale (see `arraycodec.primitives.grid`): (1, None) per row, (1, 128) groups
                along rows, 64 consecutive elements, (128, 128) square blocks, None the whole array.
    scope       what shares a book: "tensor", the whole array; "row", each row (of the last axis); or an integer, so
                many consecutive elements of the flattened array.
    training    "lloyd", k-means by Lloyd's iteration, from whose end all cuts between levels are moved together; or
                "optimum", the least squared error that any levels can have, by dynamic programming, which for 256
                levels takes a second where the other takes a millisecond.

    Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes` uint8, packed; `scales` bfloat16; `codebook`
    int16 (books, 2^bits), each book sorted. `given` may hold scales, a codebook, and `importance`: float32 (columns,),
    how much the squared error of each index into the last axis counts in training.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.float32([[-1, -1, 0.25, 0.3, 0.35, 1, 1, 1]]), ac.Lut(2))
    >>> enc.planes["codebook"].tolist(), ac.decode(enc).round(3).tolist()[0][:5]
    ([[-32767, 9011, 11469, 32767]], [-1.0, -1.0, 0.2750000059604645, 0.2750000059604645, 0.3499999940395355])
    """

    name: ClassVar[str] = "lut"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    inputs: ClassVar[tuple[str, ...]] = ("importance",)
    scale: ClassVar[str | None] = "scales"
    trained: ClassVar[bool] = True

    bits: int = 8
    block_size: BlockSize = (1, None)
    scope: str | int = "tensor"
    training: str = "lloyd"

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise self.fail("bits", "an integer from 1 to 8", self.bits)
        check_block_size("lut", self.block_size)
        if self.scope not in ("tensor", "row") and not is_positive(self.scope):
            raise self.fail("scope", "'tensor', 'row' or an integer >= 1", self.scope)
        if self.training not in TRAINING:
            raise self.fail("training", " or ".join(map(repr, TRAINING)), self.training)

    @property
    def levels(self) -> int:
        """The entries of a book."""
        return 1 << self.bits

    def length(self, spec: ArraySpec) -> int:
        """The elements of a book, consecutive in the flattened array; the last book may have fewer."""
        row = spec.known_shape[-1] if spec.shape else 1
        wanted = self.scope if isinstance(self.scope, int) else row if self.scope == "row" else spec.size
        return max(min(wanted, spec.size), 1)

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        books = 1 if self.scope == "tensor" else -(-spec.size // self.length(spec))
        return {
            "codes": ArraySpec(codes_shape(spec, self.block_size, self.bits), "uint8"),
            "scales": normal_scales(spec, self.block_size, self.bits),
            "codebook": ArraySpec((books, self.levels), "int16"),
        }

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        grid, length = grid_of(spec, self.block_size), self.length(spec)
        planes = planes_of(self.planes(spec), given)
        if "codebook" in given:
            self._check_books(planes["codebook"], ArgumentError)
        columns = spec.known_shape[-1] if spec.shape else 1
        weights = integer_weights(self.name, given.get("importance"), columns)
        source, kind, scales = bits(x), KINDS[spec.dtype], writable_bits(planes["scales"])
        codes, books = writable_bits(planes["codes"]), planes["codebook"]
        exact = self.training == "optimum"

        def pieces(start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
            """The integers of a range, piece by piece: what is found at one place stays in a cache."""
            room = np.empty(min(PIECE, stop - start), np.int16)
            for at in range(start, stop, PIECE):
                q = room[: min(PIECE, stop - at)]
                normalise_range(source, kind, grid, scales, q, at)
                yield at, q

        if "scales" not in given:
            find_scales(source, kind, grid, scales)
        sizes = sizes_of(scales)
        counts = defaultdict(lambda: np.zeros(BINS, np.int64))  # of each thread

        def count(start: int, stop: int) -> None:
            for at, q in pieces(start, stop):
                count_tiles(q, at, grid, sizes, sizes.max(), weights, counts[get_ident()])

        def train(first: int, last: int) -> None:
            step = max(PIECE // length, 1)
            for book in range(first, last, step):
                own = books[book : min(book + step, last)]
                q = np.empty(min(len(own) * length, spec.size - book * length), np.int16)
                normalise_range(source, kind, grid, scales, q, book * length)
                train_range(q, book * length, length, grid, sizes, weights, exact, ROUNDS, own)

        if "codebook" not in given and self.scope == "tensor":
            quantise_pieces(grid.size, count)
            total = sum(counts.values(), np.zeros(BINS, np.int64))
            books[0] = (kmeans.optimum if exact else kmeans.settled)(total, self.levels)
        elif "codebook" not in given:
            split(train, len(books), spec.size)
        table = kmeans.nearest(books[0]) if self.scope == "tensor" else np.zeros(0, np.uint8)
        bounds = kmeans.bounds_of(books)

        def quantise(start: int, stop: int) -> None:
            for at, q in pieces(start, stop):
                encode_range(q, table, bounds, length, codes, self.bits, at)

        quantise_pieces(grid.size, quantise)
        return planes

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        self._decode(planes, spec, self.length(spec), 0, out)
        return out

    def _decode(self, planes: Planes, spec: ArraySpec, length: int, before: int, out: np.ndarray) -> None:
        """Decode what may be a part of an array, which begins so many elements behind the start of its first book."""
        grid, target, kind = grid_of(spec, self.block_size), writable_bits(out), KINDS[spec.dtype]
        codes, scales, books = bits(planes["codes"]), bits(planes["scales"]), planes["codebook"]
        values = np.ascontiguousarray(books.astype(np.float32) * UNIT)
        if self.bits == 4 and len(books) == 1:  # of both codes in each of the 256 bytes
            byte = np.arange(256)
            values = np.stack([values[0, byte & 15], values[0, byte >> 4]], axis=1).reshape(1, 512)

        def work(start: int, stop: int) -> None:
            decode_range(codes, self.bits, values, length, before, grid, scales, target, kind, start, stop)

        quantise_pieces(grid.size, work)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The whole tiles around the range, and the books of these."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        part, elements, tiles = surrounding(spec, self.block_size, start, stop)
        length, specs = self.length(spec), self.planes(part)
        first, last = elements.start // length, -(-elements.stop // length)
        pieces = {
            "codes": slice(elements.start * self.bits // 8, -(-elements.stop * self.bits // 8)),
            "scales": tiles,
            "codebook": slice(first * self.levels, last * self.levels),
        }
        specs["codebook"] = ArraySpec((last - first, self.levels), "int16")
        planes = {name: fetch(name, pieces[name]).reshape(own.known_shape) for name, own in specs.items()}
        out = empty(part)
        self._decode(planes, part, length, elements.start - first * length, out)
        return out.reshape(-1)[start - elements.start : stop - elements.start]

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        if "codebook" in planes:  # it may have a codec of its own
            self._check_books(planes["codebook"], CorruptError)

    def _check_books(self, books: np.ndarray, error: type[Exception]) -> None:
        """Levels are sorted, and none is below -32767."""
        if (books == -LOWEST).any() or (books[:, 1:] < books[:, :-1]).any():
            raise error("lut: the levels of a codebook must be sorted, from -32767 to 32767")


@kernel
def train_range(integers, start, length, grid, sizes, weights, exact, rounds, books):
    """Step 3 for some of many books, each of `length` elements, of which the first here is element `start`."""
    keys, (_, ends, tiles) = np.empty(length, np.int64), buffers()
    for book in range(len(books)):
        first, last = book * length, min((book + 1) * length, integers.size)
        largest = 0.0
        for at in range(first, last, RUN):
            for k in range(segments(grid, start + at, min(RUN, last - at), ends, tiles)):
                largest = max(largest, sizes[tiles[k]])
        for at in range(first, last, RUN):
            lo = 0
            for k in range(segments(grid, start + at, min(RUN, last - at), ends, tiles)):
                share = share_of(sizes[tiles[k]], largest)
                if weights.size == 1:
                    for i in range(at + lo, at + ends[k]):
                        keys[i - first] = key_of(integers[i], share)
                else:
                    for i in range(at + lo, at + ends[k]):
                        keys[i - first] = key_of(integers[i], share * weights[(start + i) % weights.size])
                lo = ends[k]
        train_keys(keys[: last - first], exact, rounds, books[book])


@kernel
def encode_range(integers, table, bounds, length, codes, bits, start):
    """Step 4 for the elements start..., a multiple of 8. Where there is one book, a table has the codes of all."""
    q = np.empty(RUN, np.uint8)
    for at in range(0, integers.size, RUN):
        run = integers[at : at + RUN]
        if table.size:
            for i in range(run.size):
                q[i] = table[bin_of(run[i])]
        else:
            lo = 0
            while lo < run.size:
                book = (start + at + lo) // length
                hi = min((book + 1) * length - start - at, run.size)
                find_codes(bounds[book], run[lo:hi], q[lo:hi])
                lo = hi
        store_dense(q, codes, bits, start + at, run.size)


@kernel
def decode_range(codes, bits, values, length, before, grid, scales, out, kind, start, stop):
    """Decode the elements start..stop; `start` is a multiple of 8. A single book of 4 bits is by byte."""
    y, q, (factors, ends, tiles) = np.empty(RUN, np.float32), np.empty(RUN, np.uint8), buffers()
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        if values.shape[0] == 1:
            load_values(codes, bits, at, count, values[0], q, y)
        else:
            load_dense(codes, bits, at, count, q)
            lo = 0
            while lo < count:
                book = (before + at + lo) // length
                hi = min((book + 1) * length - before - at, count)
                own = values[book]
                for i in range(lo, hi):
                    y[i] = own[q[i]]
                lo = hi
        segment = (ends, tiles, segments(grid, at, count, ends, tiles))
        multiplied_run(y, scales, BFLOAT16, segment, count, kind, out[at : at + count], factors)
