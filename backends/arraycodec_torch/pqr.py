"""`PQR` as torch ops on any device: the decoder of `arraycodec.codecs.pqr`; encoding trains, which is the host's."""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.pqr import PQR
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.grid import grid_of
from arraycodec.primitives.sums import FINE, shifts, starts
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.grid import pieces
from arraycodec_torch.primitives import INFINITY, MAGNITUDE, NAN, as_bits, narrow, widen, without_subnormals
from arraycodec_torch.scales import decoded


def encode(x: torch.Tensor, codec: PQR, given: Given) -> Planes:
    """Raises: books are trained on the host."""
    codec.supports(arrays.spec(x))
    raise UnsupportedByBackend(
        f"{codec.name}: the torch backend encodes on the host only, got a tensor on {x.device}; "
        "move it to the CPU, and decode on any device"
    )


def decode(codec: PQR, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`, in pieces."""
    stream, target, dim = arrays.flat(planes["codes"]), out.view(-1), codec.dim
    length, size = codec.length(spec), len(planes["codebook"]) * codec.length(spec)
    scales = arrays.flat(planes["scales"]) if codec.scaled else None
    entries = planes["codebook"].reshape(-1, dim)
    entries = entries.to(torch.int32) if codec.scaled else without_subnormals(entries)
    gains = arrays.flat(planes["gains"]).clamp(max=FINE).to(torch.int32) if codec.gain else None
    for piece in pieces(grid_of(spec, codec.block_size), out.device):
        first, last = piece.start // dim, -(-piece.stop // dim)
        vector = torch.arange(first, last, device=out.device)
        book = vector * dim // length if size > length else torch.zeros_like(vector)
        code = load_codes(stream, codec.bits, vector)
        y = add_integers(codec, code, book, entries, gains) if codec.scaled else add_floats(codec, code, book, entries)
        y = y.view(-1)[piece.start - first * dim :][: piece.stop - piece.start].view(piece.rows, -1)
        u = as_bits(y) if scales is None else decoded(y, piece.spread(widen(scales[piece.tiles])))
        target[piece.start : piece.stop] = narrow(u, out.dtype).view(-1)


def load_codes(stream: torch.Tensor, bits: int, number: torch.Tensor) -> torch.Tensor:
    """The codes with these numbers, as int64."""
    if bits == 8:
        return stream.index_select(0, number).to(torch.int64)
    start = number * bits
    code = torch.zeros_like(number)
    for k in range(bits // 8 if bits % 8 == 0 else (bits + 14) // 8):
        place = ((start >> 3) + k).clamp(max=stream.numel() - 1)  # what is read beyond the end is masked
        code |= stream.index_select(0, place).to(torch.int64) << 8 * k
    return (code >> (start & 7)) & ((1 << bits) - 1)


def places_of(codec: PQR, code: torch.Tensor, book: torch.Tensor) -> list[torch.Tensor]:
    """The entry of each stage."""
    layout = zip(shifts(codec.stages), codec.stages, starts(codec.stages), strict=True)
    return [book * codec.entries + start + (code >> shift & (1 << width) - 1) for shift, width, start in layout]


def add_integers(
    codec: PQR, code: torch.Tensor, book: torch.Tensor, entries: torch.Tensor, gains: torch.Tensor | None
) -> torch.Tensor:
    """The vectors of codes from books of integers."""
    first, *rest = places_of(codec, code, book)
    total = entries.index_select(0, first)
    later = torch.zeros_like(total)
    for place in rest:
        later += entries.index_select(0, place)
    if gains is not None:
        cell = book * (1 << codec.stages[0]) + (code >> shifts(codec.stages)[0])
        total, later = total << FINE, later << gains.index_select(0, cell)[:, None]
    return (total + later).to(torch.float32) * float(codec.unit)


def add_floats(codec: PQR, code: torch.Tensor, book: torch.Tensor, entries: torch.Tensor) -> torch.Tensor:
    """The vectors of codes from books of floats, added in the order of the stages."""
    first, *rest = places_of(codec, code, book)
    value = entries.index_select(0, first)
    for place in rest:
        value = without_subnormals(value + entries.index_select(0, place))
    bits = as_bits(value)
    return torch.where((bits & MAGNITUDE) > INFINITY, NAN, bits).view(torch.float32)
