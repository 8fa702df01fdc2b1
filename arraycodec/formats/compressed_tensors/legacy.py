"""What changed between versions of compressed-tensors without a new name for the format, and how a reader can tell."""

from __future__ import annotations

import re
from collections.abc import Mapping

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


def is_padded(bits: int, runs: Mapping[str, tuple[int, int]], version: Version | None, where: str) -> bool:
    """Whether codes are not split between words, as until 0.17.

    runs  tensor -> how many codes it packs along an axis, in how many words. The words tell, but for a few short runs;
          then those of the other tensor do, or the version must.

    >>> is_padded(3, {"weight_packed": (64, 6)}, None, "w"), is_padded(3, {"weight_packed": (64, 7)}, None, "w")
    (False, True)
    """
    possible = [False, True]
    for name, (count, words) in runs.items():
        fits = {False: words_per_row(count, bits), True: padded_words_per_row(count, bits)}
        if words not in fits.values():
            told = " or, as until 0.17, ".join(str(n) for n in dict.fromkeys(fits.values()))
            raise CorruptError(f"{where}: {name} must have {told} words for {count} codes of {bits} bits, got {words}")
        possible = [padded for padded in possible if fits[padded] == words]
    if not possible:
        raise CorruptError(f"{where}: {' and '.join(runs)} must be packed alike, as until 0.17 or as since")
    if len(possible) == 1:
        return possible[0]
    if 32 % bits == 0 or all(words <= 1 for _, words in runs.values()):  # both are the same
        return False
    if version is None:
        raise CorruptError(
            f"{where}: {' and '.join(runs)} may be packed as until 0.17 or as since; the quantization_config must have "
            "a version"
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
