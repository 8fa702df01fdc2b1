"""`Bitmask` as torch ops on any device: the steps of `arraycodec.codecs.bitmask` in the same order.

The number of values is fetched from the device, since it is a shape.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.bitmask import Bitmask
from arraycodec.primitives.bitmasks import rows_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.sparse import pack_bits, unpack_bits, words_of


def encode(x: torch.Tensor, codec: Bitmask, given: Given) -> Planes:
    """The planes of `x`."""
    codec.supports(spec := arrays.spec(x))
    specs, rows, words = codec.planes(spec), rows_of(spec), words_of(x)
    mask = codec.mask(spec.dtype)
    kept = words != 0 if mask == (1 << 8 * words.element_size()) - 1 else (words & mask) != 0
    counts = kept.view(rows.rows, rows.columns).sum(1)
    return {
        "values": words[kept].view(x.dtype),
        "bitmask": pack_bits(kept, rows).view(specs["bitmask"].known_shape),
        "offsets": offsets_of(counts, specs["offsets"]),
    }


def decode(codec: Bitmask, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    rows, values = rows_of(spec), planes["values"]
    bits = unpack_bits(planes["bitmask"], rows, 8 * rows.width)
    codec.check_number(values.numel(), int(bits.sum()))
    kept = bits[:, : rows.columns].reshape(-1)
    words_of(out).zero_().masked_scatter_(kept, words_of(values))


def offsets_of(counts: torch.Tensor, spec: ArraySpec) -> torch.Tensor:
    """The number of values before each row."""
    return (counts.cumsum(0) - counts).to(arrays.dtype(spec.dtype)).view(spec.known_shape)
