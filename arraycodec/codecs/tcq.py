"""`TCQ`: trellis-coded quantisation, at a fixed rate above every table of as many levels.

The specification is docs/format/tcq.md; the kernels below and in `primitives.paths` are its pseudo-code and the fast
CPU implementation. Encoding, which is done in the reference only:
    1  outliers: the largest magnitudes are put aside, and are 0 from here on (`primitives.outliers`);
    2  rotation of every n elements of a path (`primitives.rotated`);
    3  scales: the largest magnitude of each tile, rounded up to bfloat16 (`primitives.normal`);
    4  q = rint(x * (32768 * recip_rn(scale))), an integer from -32767 to 32767;
    5  levels of the array from the histogram of its integers, refined on a sample of paths (`primitives.levels`);
    6  codes: the path of the least squared error through the trellis and the nearest levels along it
       (`primitives.paths`), packed in a dense little-endian stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives.blockwise import quantise_pieces, segments
from arraycodec.primitives.floats import BFLOAT16, KINDS
from arraycodec.primitives.grid import BlockSize, check_block_size, codes_shape, grid_of, surrounding
from arraycodec.primitives.hadamard import signs
from arraycodec.primitives.jit import inlined, kernel
from arraycodec.primitives.kmeans import LOWEST
from arraycodec.primitives.levels import integers_of, load_subsets, taps, train
from arraycodec.primitives.memory import bits, empty, planes_of, writable_bits
from arraycodec.primitives.normal import UNIT, find_scales, integer_weights, normal_scales
from arraycodec.primitives.outliers import check_positions, largest, put_outliers, scales_of_rest, take_outliers
from arraycodec.primitives.packing import store_dense
from arraycodec.primitives.paths import HALO, PATH, bands, paths_of, search
from arraycodec.primitives.rotated import SIZES, root_bits, rotated, turn_back
from arraycodec.primitives.runs import buffers, multiplied_run
from arraycodec.primitives.scales import RUN
from arraycodec.primitives.threads import split
from arraycodec.primitives.trellis import MASKS
from arraycodec.spec import ArraySpec, spec_of

MAX_OUTLIERS = 0.125


@dataclass(frozen=True)
class TCQ(Codec):
    """Trellis-coded quantisation: `x = codebook[4 * index + subset] * 2^-15 * scale`, with one codebook for the array.

    A code is a bit and an index of `bits` - 1 bits; the subset follows from the bit and those of a few elements before
    it, so that a choice is from twice as many levels as a code has values, and every element is decoded by itself.

    bits        1 to 8.
    states      8, 64 or 256 of the trellis: how far bits reach, 3, 6 or 8 elements. More are better, by 0.1 to 0.3 dB,
                and take 3 and 9 times as long to encode, but not to decode.
    block_size  the tiles that share a scale (see `arraycodec.primitives.grid`): (1, None) per row, (1, 128) groups
                along rows, 64 consecutive elements, None the whole array.
    outliers    the fraction of elements, 0.0 to 0.125, that is stored besides, the largest ones, in 48 bits each. The
                default, 0.024 bits a weight, pays from 2 bits on; 0.001 is better where a layer is at its worst. 0.0
                can spoil a row, whose scale is its outlier's.
    rotate      0, 4, 16, 64 or 256: rotate as many neighbours by a Hadamard matrix first, so that outliers are shared.
                Tiles must be whole rows, or a multiple of it wide.

    Paths, of at most 1024 elements, lie along rows of the last axis where block_size is a tile, else along the
    flattened array. Arrays are float32, bfloat16 or float16 of any shape. Planes: `codes` uint8, packed; `scales`
    bfloat16; `codebook` int16 (2^(bits + 1),), sorted; with outliers `outliers` (bfloat16, or float16 if that is the
    array's dtype) and `outlier_positions`. `given` may hold scales, the codebook, and `importance`: float32 (columns,),
    how much the squared error of each index into the last axis counts.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.random.default_rng(0).standard_normal((256, 1024), np.float32)
    >>> [round(ac.error(x, ac.encode(x, scheme)).snr_db, 1) for scheme in ("tcq2", "tcq4", "tcq8", "nf4")]
    [10.8, 22.2, 46.2, 20.7]
    """

    name: ClassVar[str] = "tcq"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    computed: ClassVar[tuple[str, ...]] = ("codes", "outliers", "outlier_positions")
    inputs: ClassVar[tuple[str, ...]] = ("importance",)
    scale: ClassVar[str | None] = "scales"
    trained: ClassVar[bool] = True

    bits: int = 4
    states: int = 8
    block_size: BlockSize = (1, None)
    outliers: float = 0.0005
    rotate: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not 1 <= self.bits <= 8:
            raise self.fail("bits", "an integer from 1 to 8", self.bits)
        if not isinstance(self.states, int) or self.states not in MASKS:
            raise self.fail("states", "8, 64 or 256", self.states)
        check_block_size("tcq", self.block_size)
        number = isinstance(self.outliers, (int, float)) and not isinstance(self.outliers, bool)
        if not number or not 0 <= self.outliers <= MAX_OUTLIERS:
            raise self.fail("outliers", f"a number from 0.0 to {MAX_OUTLIERS}", self.outliers)
        object.__setattr__(self, "outliers", float(self.outliers) + 0.0)
        if isinstance(self.rotate, bool) or not isinstance(self.rotate, int) or self.rotate not in SIZES:
            raise self.fail("rotate", f"one of {', '.join(map(str, SIZES))}", self.rotate)
        width = self.block_size[1] if isinstance(self.block_size, tuple) else self.block_size
        if self.rotate and width is not None and width % self.rotate:
            raise self.fail("block_size", f"whole rows or multiples of rotate={self.rotate} wide", self.block_size)

    def outliers_of(self, spec: ArraySpec) -> int:
        """The number of outliers of an array."""
        return int(self.outliers * spec.size)

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        planes = {
            "codes": ArraySpec(codes_shape(spec, self.block_size, self.bits), "uint8"),
            "scales": normal_scales(spec, self.block_size, self.bits),
            "codebook": ArraySpec((2 << self.bits,), "int16"),
        }
        if self.outliers:
            count = self.outliers_of(spec)
            planes["outliers"] = ArraySpec((count,), "float16" if spec.dtype == "float16" else "bfloat16")
            planes["outlier_positions"] = ArraySpec((count,), "int32" if spec.size < 1 << 31 else "int64")
        return planes

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        given, spec = given or {}, spec_of(x)
        self.supports(spec)
        specs, grid, kind = self.planes(spec), grid_of(spec, self.block_size), KINDS[spec.dtype]
        planes = planes_of(specs, given)
        if "codebook" in given:
            self._check_levels(planes["codebook"], ArgumentError)
        weights = integer_weights(self.name, given.get("importance"), spec.known_shape[-1] if spec.shape else 1)
        source, scales, taken = bits(x), writable_bits(planes["scales"]), np.zeros(0, np.int64)
        if self.outliers:
            taken = self._take_outliers(source, kind, planes)
        if self.rotate:
            rest = source.copy()
            rest[taken] = 0
            source, kind = bits(rotated(rest.view(spec.numpy_dtype), grid, self.rotate)), KINDS["float32"]
            taken = taken[:0]
        if "scales" not in given:
            if taken.size:
                scales_of_rest(source, kind, grid, taken, scales)
            else:
                find_scales(source, kind, grid, scales)
        if "codebook" not in given:
            planes["codebook"][:] = train(source, kind, grid, scales, taken, self.bits, self.states, weights)
        packed = writable_bits(planes["codes"])
        parts = bands(grid)

        def work(first: int, last: int) -> None:
            for start, band in parts[first:last]:
                integers = integers_of(source, kind, grid, scales, taken, start, band.size)
                stream = packed[start * self.bits // 8 : -(-(start + band.size) * self.bits // 8)]
                codes = stream if self.bits == 8 else np.empty(band.size, np.uint8)
                for paths in paths_of(band):
                    search(integers, paths, planes["codebook"], self.states, np.roll(weights, -start), codes)
                if self.bits < 8:
                    pack_range(codes, stream, self.bits, 0, band.size)

        split(work, len(parts), grid.size)
        return planes

    def _take_outliers(self, source: np.ndarray, kind: int, planes: Planes) -> np.ndarray:
        """Step 1: write outliers to their planes; returned are the positions of those that are 0 from here on."""
        outliers = planes["outliers"]
        positions = largest(source, kind, outliers.size)
        planes["outlier_positions"][:] = positions
        take_outliers(source, kind, positions, KINDS[outliers.dtype.name], writable_bits(outliers))
        return positions[np.isfinite(outliers.astype(np.float32))]

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        self._decode(planes, spec, 0, out)
        return out

    def _decode(self, planes: Planes, spec: ArraySpec, first: int, out: np.ndarray) -> None:
        """Decode what may be a part of an array, which begins at this element."""
        grid, target, kind = grid_of(spec, self.block_size), writable_bits(out), KINDS[spec.dtype]
        codes, scales, levels = bits(planes["codes"]), bits(planes["scales"]), planes["codebook"]
        if self.rotate:
            root, turn = root_bits(self.rotate), signs(self.rotate, 0).astype(np.int32)
            wide, unit = levels.astype(np.int32), UNIT / np.float32(1 << root)
            for paths in paths_of(grid):
                common = (codes, self.bits, grid, tuple(paths), taps(self.states), wide, turn, root, unit, scales)

                def path_work(start: int, stop: int, common: tuple = common) -> None:
                    decode_paths(*common, target, kind, start, stop)

                split(path_work, paths.number, paths.number * paths.length)
        else:
            values = levels.astype(np.float32) * UNIT

            def work(start: int, stop: int) -> None:
                decode_range(codes, self.bits, grid, taps(self.states), values, scales, target, kind, start, stop)

            quantise_pieces(grid.size, work)
        if self.outliers:
            outliers, positions = planes["outliers"], np.ascontiguousarray(planes["outlier_positions"])
            put_outliers(bits(outliers), KINDS[outliers.dtype.name], positions, first, target, kind)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The whole rows around the range, or of a flat array the whole paths and blocks."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        if isinstance(self.block_size, tuple):
            part, elements, tiles = surrounding(spec, self.block_size, start, stop)
        else:
            unit = math.lcm(self.block_size or 1, PATH)
            elements = slice(start // unit * unit, min(-(-stop // unit) * unit, spec.size))
            part = ArraySpec((elements.stop - elements.start,), spec.dtype)
            block = self.block_size or spec.size
            tiles = slice(elements.start // block, -(-elements.stop // block))
        pieces = {
            "codes": slice(elements.start * self.bits // 8, -(-elements.stop * self.bits // 8)),
            "scales": tiles,
        }
        specs = self.planes(part)
        planes = {name: fetch(name, pieces[name]).reshape(specs[name].known_shape) for name in pieces}
        planes |= {name: fetch(name, slice(None)) for name in specs if name not in pieces}
        out = empty(part)
        self._decode(planes, part, elements.start, out)
        return out.reshape(-1)[start - elements.start : stop - elements.start]

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        """The levels and positions; what has a codec of its own is not among the planes, and not looked at."""
        if "codebook" in planes:
            self._check_levels(planes["codebook"], CorruptError)
        if "outlier_positions" in planes:
            check_positions(self.name, planes["outlier_positions"], spec.size)

    def _check_levels(self, levels: np.ndarray, error: type[Exception]) -> None:
        """Levels are sorted, and none is below -32767."""
        if (levels == -LOWEST).any() or (levels[1:] < levels[:-1]).any():
            raise error("tcq: the levels of a codebook must be sorted, from -32767 to 32767")


@kernel
def pack_range(codes, packed, bits, start, stop):
    """Pack the codes start..stop; `start` is a multiple of 8."""
    q = np.empty(RUN, np.uint8)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        for i in range(count):
            q[i] = codes[at + i]
        store_dense(q, packed, bits, at, count)


@kernel
def decode_range(codes, bits, grid, taps, values, scales, out, kind, start, stop):
    """Decode the elements start..stop."""
    y, (factors, ends, tiles) = np.empty(RUN, np.float32), buffers()
    q, three, subset = np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN, np.uint8)
    for at in range(start, stop, RUN):
        count = min(RUN, stop - at)
        lead = load_subsets(codes, bits, bits, grid[2], taps, at, count, q, three, subset)
        look_up_levels(q[lead : lead + count], subset, bits, values, y)
        segment = (ends, tiles, segments(grid, at, count, ends, tiles))
        multiplied_run(y, scales, BFLOAT16, segment, count, kind, out[at : at + count], factors)


@kernel
def decode_paths(codes, bits, grid, paths, taps, levels, turn, root, unit, scales, out, kind, start, stop):
    """Decode the paths start..stop, which are rotated."""
    _, length, origin, beside, apart = paths
    y, z, (factors, ends, tiles) = np.empty(RUN, np.float32), np.empty(RUN, np.int32), buffers()
    q, three, subset = np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN + 3 * HALO, np.uint8), np.empty(RUN, np.uint8)
    for path in range(start, stop):
        at = origin + path // beside * apart + path % beside * PATH
        lead = load_subsets(codes, bits, bits, grid[2], taps, at, length, q, three, subset)
        look_up_levels(q[lead : lead + length], subset, bits, levels, z)
        turn_back(z[:length], turn, root)
        for i in range(length):
            y[i] = np.float32(z[i]) * unit  # exact
        segment = (ends, tiles, segments(grid, at, length, ends, tiles))
        multiplied_run(y, scales, BFLOAT16, segment, length, kind, out[at : at + length], factors)


@inlined
def look_up_levels(q, subset, bits, values, y):
    """The values of the levels of a run."""
    mask = np.uint32((1 << (bits - 1)) - 1)
    for i in range(q.size):
        y[i] = values[np.uint32(np.uint32(np.uint32(q[i]) & mask) << np.uint32(2)) | np.uint32(subset[i])]
