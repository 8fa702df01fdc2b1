"""`Lossless` as torch ops on any device: streams side by side, then symbols and rests merged to words, then patches.

The planes `plan`, `tables` and `index`, about a thousandth of the array, are read and checked on the host, and what
follows from them goes back to the device; whether streams end where they should is read once more at the end. Encoding
is for the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from arraycodec.base import Codec, Given, Planes
from arraycodec.codecs.lossless import Lossless
from arraycodec.errors import CorruptError, UnsupportedByBackend
from arraycodec.primitives.entropy.layout import Layout, layout_of
from arraycodec.primitives.entropy.plan import FLOAT, NONE, PALETTE, SIGNED, Plan
from arraycodec.primitives.entropy.rest import chunk_bytes, section_bytes
from arraycodec.spec import ArraySpec
from arraycodec_torch.scales import LARGE_TILE, TILE
from arraycodec_torch.streams import INTEGERS, Streams, aligned, decode_streams, integers, read_small, tables


class Band(NamedTuple):
    """Streams of one height beside and below each other; a flat array is a matrix of one column."""

    first: int  # stream
    number: int  # of streams
    height: int  # elements of each
    start: int  # the first element in the array


class Job(NamedTuple):
    """An encoded array on its device, and its layout, which has been read on the host."""

    layout: Layout
    bits: int  # of a word
    columns: int
    bands: list[Band]  # at most one whole and one lower
    streams: Streams | None
    raw: torch.Tensor  # int64
    chunks: torch.Tensor  # int64: the byte in `raw` at which the rest of each stream starts
    words: torch.Tensor  # integers: the palette and the patches

    @property
    def plan(self) -> Plan:
        """The scalars of the layout."""
        return self.layout.plan

    @property
    def number(self) -> int:
        """Of streams."""
        return self.layout.streams.starts.size

    @property
    def whole(self) -> tuple[int, int]:
        """The number of streams with all elements, and the elements of the others."""
        last = self.bands[-1]
        return (self.number if last.height == self.plan.stream else last.first), last.height


def encode(x: torch.Tensor, codec: Lossless, given: Given) -> Planes:
    """Raises: choosing tables and coding are for the host."""
    raise UnsupportedByBackend(
        f"{codec.name}: the torch backend encodes on the host only, got a tensor on {x.device}; "
        "move it to the CPU, and decode on any device"
    )


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    if not spec.size:
        return
    job = load(planes, spec)
    words = integers(out, job.bits)
    symbols, right = None, torch.ones((), dtype=torch.bool, device=out.device)
    if job.streams is not None:
        symbols, right = decode_streams(job.plan, job.streams, *job.whole)
    for band in job.bands:
        right = right & merge(job, band, symbols, words)
    finish(job, right, words)


def load(planes: Planes, spec: ArraySpec) -> Job:
    """What decoding takes, once the layout and the lengths of planes are found to go together."""
    n, device = spec.numpy_dtype.itemsize * 8, planes["plan"].device
    small = read_small({name: planes[name] for name in ("plan", "tables", "index")})
    words = np.broadcast_to(np.uint8(0), planes["words"].shape)  # of which only the number is looked at
    layout = layout_of(small | {"words": words}, spec.size, n)
    layout.check(planes["streams"].numel(), planes["raw"].numel())
    plan, streams = layout.plan, None
    if plan.coder != NONE:
        table = tables(plan, torch.from_numpy(layout.tables.astype(np.int32)).to(device))
        places = torch.from_numpy(layout.places).to(device)
        labels = torch.from_numpy(layout.labels.astype(np.int32)).to(device) << plan.bits
        streams = Streams(aligned(planes["streams"], 32), places[:-1] * 8, places[1:], table, labels)
    columns = max(plan.columns, 1)
    return Job(
        layout, n, columns, bands_of(plan, spec.size // columns, columns), streams, aligned(planes["raw"], 64),
        torch.from_numpy(layout.chunks).to(device), integers(planes["words"], n),
    )  # fmt: skip


def bands_of(plan: Plan, rows: int, columns: int) -> list[Band]:
    """The streams of a matrix: those of whole bands, then those of what is left below."""
    down, left = divmod(rows, plan.stream)
    whole = Band(0, down * columns, plan.stream, 0)
    rest = Band(whole.number, columns, left, down * plan.stream * columns)
    return [band for band in (whole, rest) if band.number * band.height]


def merge(job: Job, band: Band, symbols: torch.Tensor | None, words: torch.Tensor) -> torch.Tensor:
    """Write the words of these streams; whether a palette has all of them. Tiles bound the memory that this takes."""
    device, plan = words.device, job.plan
    target = words[band.start : band.start + band.number * band.height]
    target = target.view(-1, band.height, job.columns).transpose(1, 2)
    right = torch.ones((), dtype=torch.bool, device=device)
    for zeros, tile in tiles(job, band, device):
        u = load_rest(job.raw, job.chunks[tile], plan.rest - zeros, band.height) << min(zeros, 63)
        symbol = None if symbols is None else symbols[: band.height, tile].t().to(torch.int64)
        if symbol is not None and plan.rest < job.bits:
            u += symbol << plan.rest
        u = modulo(u + signed(plan.offset), job.bits)
        if plan.arrangement == PALETTE:
            inside = (u >= 0) & (u < plan.palette)
            right, w = right & inside.all(), job.words[torch.where(inside, u, 0)]
        else:
            w = arranged_back(u, plan, job.bits).to(words.dtype)  # which drops what is above
            if plan.lone and symbol is not None:
                w = torch.where(symbol == plan.lone_symbol, job.words[0], w)
        stream = tile - band.first
        target[stream // job.columns, stream % job.columns] = w
    return right


def tiles(job: Job, band: Band, device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
    """Streams that dropped the same number of zeros, and that number."""
    own = job.layout.zeros[band.first : band.first + band.number]
    rows = max(1, TILE.get(device.type, LARGE_TILE) // band.height)
    for zeros in np.unique(own).tolist():
        found = torch.from_numpy(np.flatnonzero(own == zeros) + band.first).to(device)
        yield from ((zeros, tile) for tile in found.split(rows))


def load_rest(raw: torch.Tensor, places: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """int64 (streams, count): the rest of each word, from chunks that start at these bytes."""
    step = torch.arange(chunk_bytes(bits, count) // 8, device=raw.device)
    chunks = raw[(places >> 3)[:, None] + step]
    rest = chunks.new_zeros((len(places), count))
    at = low = 0
    for log in range(6, -1, -1):
        width = 1 << log
        if bits & width:
            end = at + section_bytes(width, count) // 8
            rest |= unpack(chunks[:, at:end], width, count) << low
            at, low = end, low + width
    return rest


def unpack(section: torch.Tensor, width: int, count: int) -> torch.Tensor:
    """The integers of a section as int64; of less than a byte, one from each byte, then the next one from each."""
    if width >= 8:
        return modulo(section.view(INTEGERS[width])[:, :count].to(torch.int64), width)
    part = section.view(torch.uint8)[:, None, : -(-count * width // 8)]
    shift = torch.arange(0, 8, width, dtype=torch.uint8, device=section.device)[:, None]
    return ((part >> shift) & ((1 << width) - 1)).flatten(1)[:, :count].to(torch.int64)


def arranged_back(u: torch.Tensor, plan: Plan, n: int) -> torch.Tensor:
    """Words of their arranged bits; above n bits anything may stand."""
    if plan.arrangement == SIGNED:
        return u ^ signed(1 << (n - 1))
    if plan.arrangement == FLOAT:
        low = (1 << plan.sign) - 1
        above = ((u >> 1) & ((1 << (n - 1)) - 1)) & ~low  # a shift of int64 copies the sign down
        return above | (u & low) | ((u >> plan.sign) & 1) << (n - 1)
    return u


def finish(job: Job, right: torch.Tensor, words: torch.Tensor) -> None:
    """Place the patches, and raise where something was not right: here the host waits for the device."""
    if job.layout.patches.size:
        words[torch.from_numpy(job.layout.patches).to(words.device)] = job.words[job.plan.palette :]
    if not right:
        raise CorruptError("lossless: a stream is not what its table and its length in the index say")


def modulo(x: torch.Tensor, n: int) -> torch.Tensor:
    """int64 modulo 2^n."""
    return x if n == 64 else x & ((1 << n) - 1)


def signed(x: int) -> int:
    """The int64 with the bits of an integer below 2^64."""
    return x - (1 << 64) if x >> 63 else x
