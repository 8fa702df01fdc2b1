"""`TwoFour` as torch ops on any device: the steps of `arraycodec.codecs.two_four` in the same order.

Unless it prunes, the number of groups with more than two elements is fetched from the device.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.two_four import TwoFour, values_per_row
from arraycodec.primitives.bitmasks import kind_of, rows_of
from arraycodec.primitives.sparse import FLOAT, FNUZ, SIGNED
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.sparse import pack_bits, unpack_bits, words_of


def encode(x: torch.Tensor, codec: TwoFour, given: Given) -> Planes:
    """The planes of `x`."""
    codec.supports(spec := arrays.spec(x))
    specs, rows, words = codec.planes(spec), rows_of(spec), words_of(x)
    keys = rank_keys(words, kind_of(spec.dtype), not codec.drop_negative_zero)
    groups = torch.nn.functional.pad(keys.view(rows.rows, rows.columns), (0, -rows.columns % 4), value=least(words))
    kept, crowded = choose(groups.view(-1, 4), least(words))
    if not codec.prune:
        codec.refuse(int(crowded), spec)
    kept = kept.view(rows.rows, groups.shape[1])[:, : rows.columns].reshape(-1)
    return {
        "values": words[kept].view(x.dtype).view(specs["values"].known_shape),
        "bitmask": pack_bits(kept, rows).view(specs["bitmask"].known_shape),
    }


def decode(codec: TwoFour, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`; a third bit of a group reads zero."""
    rows = rows_of(spec)
    if not spec.size:
        return
    groups, number = -(-rows.columns // 4), values_per_row(rows.columns)
    values = words_of(planes["values"]).view(rows.rows, number)
    pairs = torch.nn.functional.pad(values, (0, 2 * groups - number)).view(-1, 2)
    bits = unpack_bits(planes["bitmask"], rows, 4 * groups).reshape(-1, 4)
    rank = bits.cumsum(1) - 1
    found = torch.where(bits & (rank < 2), pairs.gather(1, rank.clamp(0, 1)), 0)
    words_of(out).copy_(found.view(rows.rows, -1)[:, : rows.columns].reshape(-1))


def least(words: torch.Tensor) -> int:
    """The key of a zero, below all others."""
    return torch.iinfo(words.dtype).min


def rank_keys(words: torch.Tensor, kind: int, negative_zeros: bool) -> torch.Tensor:
    """Integers in the order of magnitudes, with NaN above all numbers; compared as they are, signed or not."""
    sign = 128 if words.dtype == torch.uint8 else least(words)
    if kind == SIGNED:
        words = torch.where(words >= 128 if words.dtype == torch.uint8 else words < 0, -words, words)
    elif kind == FLOAT:
        words = (words << 1) | ((words == sign) & negative_zeros).to(words.dtype)
    elif kind == FNUZ:
        words = torch.where(words == sign, 255, words << 1)
    return words if words.dtype == torch.uint8 else words ^ least(words)


def choose(keys: torch.Tensor, zero: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which two of each group of four rank first, and how many groups have more that are not zero."""
    k0, k1, k2, k3 = keys.unbind(1)
    b01, b02, b03, b12, b13, b23 = ((b > a).to(torch.int8) for a, b in _pairs(k0, k1, k2, k3))
    before = torch.stack([b01 + b02 + b03, 1 - b01 + b12 + b13, 2 - b02 - b12 + b23, 3 - b03 - b13 - b23], dim=1)
    return before < 2, ((keys != zero).sum(1) > 2).sum()


def _pairs(*keys: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each two, the former one first."""
    return [(a, b) for i, a in enumerate(keys) for b in keys[i + 1 :]]
