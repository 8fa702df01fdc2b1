"""What changed between versions of compressed-tensors without a new name for the format, and how a reader can tell."""

from __future__ import annotations

import re

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.formats.compressed_tensors.packing import padded_words_per_row, words_per_row

Version = tuple[int, ...]

DENSE_WORDS = (0, 18)  # from here on codes of 3, 5, 6 and 7 bits are split between words
BIAS_127 = (0, 14)  # from here on the scales of MXFP4 have the bias of e8m0; before, 2 less
ALL_ZERO_POINTS = (0, 9, 3)  # from here on zero points are stored even where all are 0
UNSET = -1  # in g_idx: columns are in order


def version_of(text: str | None) -> Version | None:
    """The numbers that a version begins with; None where there are none.

    >>> version_of("0.13.1.a20260101")
    (0, 13, 1)
    """
    found = re.match(r"\d{1,9}(\.\d{1,9})*", text or "")
    return tuple(map(int, found[0].split("."))) if found else None


def is_padded(bits: int, columns: int, words: int, version: Version | None, where: str) -> bool:
    """Whether rows of so many words have codes that are not split between words, as until 0.17.

    The number of words tells, but for a few small arrays of which the version must.
    """
    dense, padded = words_per_row(columns, bits), padded_words_per_row(columns, bits)
    if words not in (dense, padded):
        told = f"{dense}" if dense == padded else f"{dense} (or {padded}, as until 0.17)"
        raise CorruptError(f"{where}: {columns} codes of {bits} bits are {told} words, got {words}")
    if dense != padded:
        return words == padded
    if 32 % bits == 0 or padded <= 1:  # both layouts are the same
        return False
    if version is None:
        raise CorruptError(
            f"{where}: {columns} codes of {bits} bits in {words} words may be packed as until 0.17 or as since: the "
            "quantization_config must have a version"
        )
    return version < DENSE_WORDS


def scale_shift(version: Version | None) -> int:
    """What to add to the scales of MXFP4."""
    return 2 if version is not None and version < BIAS_127 else 0


def with_bias(scales: np.ndarray, shift: int) -> np.ndarray:
    """Scales in e8m0 out of bytes that lack `shift`."""
    if not shift:
        return scales
    if scales.size and int(scales.max()) + shift > 254:
        raise CorruptError(f"scales of this version are at most {254 - shift}, got {int(scales.max())}")
    return scales + np.uint8(shift)


def lacks_zero_points(version: Version | None) -> bool:
    """Whether zero points that are not stored are all 0."""
    return version is not None and version < ALL_ZERO_POINTS


def order_of(g_idx: np.ndarray, group_size: int, where: str = "g_idx") -> np.ndarray:
    """For each column its place once the columns of a group stand together, where `g_idx` is the group of each.

    CorruptError, which begins with `where`, unless each group has as many columns. It is the plane `order` of
    `arraycodec.Permuted`.

    >>> order_of(np.array([1, 0, 1, 0], np.int32), 2).tolist()
    [2, 0, 3, 1]
    """
    order = np.arange(g_idx.size, dtype=np.int32)
    if (g_idx == UNSET).any():
        return order
    by_group = np.argsort(g_idx, kind="stable")
    if not np.array_equal(g_idx[by_group], order // group_size):
        raise CorruptError(f"{where}: must have {group_size} columns of each group")
    found = np.empty_like(order)
    found[by_group] = order
    return found
