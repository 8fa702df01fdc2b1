"""marlin-24: 2:4 sparse integers in the tiles of the kernel Marlin-24, as compressed-tensors wrote them until 0.14.

The specification is docs/format/marlin_24.md. A module with a weight (N, K) has, for integers of b bits:
    weight_packed  int32 (K / 32, N * b / 2)   codes of the values that are kept, u = q + 2^(b - 1)
    scale_packed   float16 (groups, N)
    meta           int16 (K / 32, 2 * N)       for each four columns the places of the two that are kept
Their orders do no more than exchange bits of positions: each is an array of small axes, which is put straight here.
Names of axes are bits of a row (n) or a column of values (k), the highest first: n54 has the bits 5 and 4.
"""

from __future__ import annotations

import numpy as np

from arraycodec.base import Planes, Then
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.two_four import TwoFour
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats.compressed_tensors import layouts, packing
from arraycodec.formats.compressed_tensors.args import Args
from arraycodec.formats.compressed_tensors.layouts import PACKED, Parts
from arraycodec.formats.translated import Weight

FORMAT = "marlin-24"
SCALE, META = ROLES = ("scale_packed", "meta")
GROUP = 128
ROWS, COLUMNS = 64, 32  # what N and K are multiples of
TILE = (4, 2, 4, 4, 2, 2, 2)  # axes of 64 rows times 16 values, of which these are rows and these columns, by bits
AXES = {
    4: ((0, 1, 5, 3), (6, 2, 4)),  # stored as n54 n3 k21 n10 k0 n2 k3
    8: ((0, 1, 4, 3), (6, 2, 5)),  # stored as n54 n3 k21 n10 n2 k0 k3
}


def weight(parts: Parts, args: Args) -> Weight:
    """The weight of a module; CorruptError where its tensors do not fit each other."""
    bits, grouped = args.num_bits, args.strategy == "group"
    if args.type != "int" or bits not in AXES or not args.symmetric or args.strategy not in ("group", "channel"):
        raise FormatError(f"{parts.where}: {FORMAT} has symmetric integers of 4 or 8 bits in groups or channels")
    if grouped and args.group_size != GROUP:
        raise FormatError(f"{parts.where}: {FORMAT} has groups of {GROUP}, got {args.group_size}")
    meta = parts.need(META, ("int16",))
    if len(meta.shape) != 2 or meta.shape[1] % (2 * ROWS):
        raise CorruptError(f"{parts.where}: {META} must be [inputs / 32, outputs * 2], got {list(meta.shape)}")
    shape = rows, columns = meta.shape[1] // 2, meta.shape[0] * COLUMNS
    groups = columns // GROUP if grouped else 1
    if grouped and columns % GROUP:
        raise CorruptError(f"{parts.where}: rows must be groups of {GROUP} codes, got {columns}")
    words = parts.need(PACKED, ("int32",), (columns // COLUMNS, rows * bits // 2))
    scale = parts.need(SCALE, ("float16",), (groups, rows))
    linear = Linear(bits, True, (1, GROUP // 2 if grouped else None), "compressed-tensors", "eager")
    kept = (rows, columns // 2)

    def planes(arrays: dict[str, np.ndarray]) -> Planes:
        codes = packing.codes_of_integers(integers_of(arrays[PACKED], bits, kept), bits)
        # The library leaves scales in their order where half a row is one group or less.
        interleaved = grouped and kept[1] > GROUP
        scales = np.ascontiguousarray((scales_of(arrays[SCALE]) if interleaved else arrays[SCALE]).T)
        return {"values.codes": codes, "values.scales": scales, "bitmask": bitmask_of(arrays[META], shape)}

    return Weight(
        parts.spec(shape, "float16"), Then(TwoFour(), values=linear), {PACKED: words, SCALE: scale, META: meta},
        planes, layouts.check_scales,
    )  # fmt: skip


def integers_of(words: np.ndarray, bits: int, shape: tuple[int, int]) -> np.ndarray:
    """int8 integers (N, K / 2) out of `weight_packed`."""
    rows, columns = shape
    stream = packing.integers_of_words(words.reshape(1, -1), bits, rows * columns)
    n, k = AXES[bits]
    tiles = stream.reshape(columns // 16, rows // ROWS, *TILE)
    return np.ascontiguousarray(tiles.transpose(1, *(2 + i for i in n), 0, *(2 + i for i in k))).reshape(shape)


def scales_of(stored: np.ndarray) -> np.ndarray:
    """Scales (groups, N) out of `scale_packed`, where bits n1 n0 n2 stand for n2 n1 n0."""
    groups, rows = stored.shape
    return stored.reshape(groups, rows // 8, 4, 2).swapaxes(-1, -2).reshape(groups, rows)


def bitmask_of(meta: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The bitmask (N, K / 8) out of `meta`: each four bits are two places of two bits, the lower one first."""
    rows, columns = shape
    tiles = meta.reshape(columns // COLUMNS, rows // ROWS, 2, 8, 2, 2, 2)  # n1 n543 n0 c0 n2, c being the word
    words = np.ascontiguousarray(tiles.transpose(1, 3, 6, 2, 4, 0, 5)).reshape(rows, columns // 16)
    found = PLACES[words.astype("<i2").view(np.uint8)]
    if not found.all():
        raise CorruptError(f"{META} must name two places of four, the lower one first")
    return found


def _places() -> np.ndarray:
    """A byte of `meta` -> a byte of the bitmask; 0 for one that cannot be."""
    first, second = np.arange(16) & 3, np.arange(16) >> 2
    four = np.where(first < second, 1 << first | 1 << second, 0).astype(np.uint8)
    low, high = four[np.arange(256) & 15], four[np.arange(256) >> 4]
    return np.where((low != 0) & (high != 0), low | high << np.uint8(4), 0).astype(np.uint8)


PLACES = _places()
