"""`Lossless` as torch ops on any device: streams side by side, then symbols and rests merged to words, then patches.

The plan and the tables, a few KB that say how large everything is, are read on the host in one transfer; whether all
streams end where they should is read at the end. Encoding is for the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.lossless import Lossless
from arraycodec.errors import CorruptError, UnsupportedByBackend
from arraycodec.primitives.entropy import tables as tables_plane
from arraycodec.primitives.entropy.plan import FLOAT, NONE, PALETTE, SIGNED, SLACK, Plan
from arraycodec.primitives.entropy.rest import chunk_bytes, section_bytes
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.scales import LARGE_TILE, TILE
from arraycodec_torch.streams import Streams, decode_streams, tables

INTEGERS = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}  # words, and sections of whole bytes


class Band(NamedTuple):
    """Streams of one height beside and below each other; a flat array is a matrix of one column."""

    first: int  # stream
    count: int  # of streams
    height: int  # elements of each
    start: int  # the first element in the array


class Job(NamedTuple):
    """An encoded array on its device, with what has been read of it on the host."""

    plan: Plan
    bits: int  # of a word
    columns: int
    bands: list[Band]  # at most one whole and one lower
    streams: Streams | None
    raw: torch.Tensor  # int64
    places: torch.Tensor  # int64: the byte in `raw` at which the rest of each stream starts
    zeros: np.ndarray  # uint8: low zero bits that each stream dropped
    palette: torch.Tensor  # integers
    patches: torch.Tensor  # integers
    gaps: torch.Tensor  # int64: from one patch to the next

    @property
    def count(self) -> int:
        """The number of streams."""
        return self.bands[-1].first + self.bands[-1].count

    @property
    def whole(self) -> tuple[int, int]:
        """The number of streams with all elements, and the elements of the others."""
        last = self.bands[-1]
        return (self.count if last.height == self.plan.stream else last.first), last.height


def encode(x: torch.Tensor, codec: Lossless, given: Given) -> Planes:
    """Raises: choosing tables and coding are for the host."""
    raise UnsupportedByBackend(
        f"{codec.name}: the torch backend encodes on the host only, got a tensor on {x.device}; "
        "move it to the CPU, and decode on any device"
    )


def decode(codec: Lossless, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
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
    """Everything that decoding takes, checked as far as it can be without looking at the device again."""
    n = spec.numpy_dtype.itemsize * 8
    head = arrays.to_numpy(torch.cat([arrays.flat(planes[name]).view(torch.uint8) for name in ("plan", "tables")]))
    plan = Plan.of(head[:64].view(np.uint32), n, spec.size)
    columns = max(plan.columns, 1)
    bands = bands_of(plan, spec.size // columns, columns)
    heights = np.concatenate([np.full(band.count, band.height) for band in bands])
    count = int((-(-heights // plan.unit)).sum())
    own, labels, zeros = tables_plane.unpack(plan, head[64:], count, heights.size)
    device = planes["plan"].device
    words = integers(planes["words"], n)
    index = integers(planes["index"], 16).to(torch.int64) & 0xFFFF
    coded = heights.size if plan.coder != NONE else 0
    places = places_of(plan, heights, zeros)
    require("index", index.numel() >= coded, f"at least {coded} elements", index.numel())
    require("words", words.numel() >= plan.palette, f"at least {plan.palette} elements", words.numel())
    require("raw", planes["raw"].numel() == places[-1], f"{places[-1]} bytes", planes["raw"].numel())
    streams = None
    if plan.coder != NONE:
        plane = planes["streams"]
        require("streams", plane.numel() >= SLACK, f"at least {SLACK} bytes", plane.numel())
        ends = index[:coded].cumsum(0)
        starts = (ends - index[:coded]).clamp(max=plane.numel() - SLACK)  # whatever the index says
        table = tables(plan, torch.from_numpy(own.astype(np.int32)).to(device))
        first = torch.from_numpy(labels.astype(np.int32) << plan.bits).to(device)
        streams = Streams(aligned(plane, 32), starts * 8, ends, table, first)
    else:
        require("streams", planes["streams"].numel() == 0, "no bytes", planes["streams"].numel())
    return Job(
        plan, n, columns, bands, streams, aligned(planes["raw"], 64),
        torch.from_numpy(places[:-1]).to(device), zeros, words[: plan.palette], words[plan.palette :], index[coded:],
    )  # fmt: skip


def require(plane: str, holds: bool, allowed: str, got: int) -> None:
    """Raise unless a plane has the length that the plan gives it."""
    if not holds:
        raise CorruptError(f"lossless: plane {plane!r} must have {allowed}, got {got}")


def bands_of(plan: Plan, rows: int, columns: int) -> list[Band]:
    """The streams of a matrix: those of whole bands, then those of what is left below."""
    down, left = divmod(rows, plan.stream)
    whole = Band(0, down * columns, plan.stream, 0)
    rest = Band(whole.count, columns, left, down * plan.stream * columns)
    return [band for band in (whole, rest) if band.count * band.height]


def places_of(plan: Plan, heights: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """int64: the byte at which the rest of each stream starts, and the byte after the last."""
    sizes = np.zeros(heights.size + 1, np.int64)
    for height in np.unique(heights):
        by_zeros = np.array([chunk_bytes(plan.rest - z, int(height)) for z in range(plan.rest + 1)])
        sizes[1:][heights == height] = by_zeros[zeros[heights == height]]
    return sizes.cumsum()


def merge(job: Job, band: Band, symbols: torch.Tensor | None, words: torch.Tensor) -> torch.Tensor:
    """Write the words of these streams; whether a palette has all of them. Tiles bound the memory that this takes."""
    device, plan = words.device, job.plan
    target = words[band.start : band.start + band.count * band.height]
    target = target.view(-1, band.height, job.columns).transpose(1, 2)
    right = torch.ones((), dtype=torch.bool, device=device)
    for zeros, tile in tiles(job, band, device):
        u = load_rest(job.raw, job.places[tile], plan.rest - zeros, band.height) << min(zeros, 63)
        if symbols is not None and plan.rest < job.bits:
            u += symbols[: band.height, tile].t().to(torch.int64) << plan.rest
        u = modulo(u + signed(plan.offset), job.bits)
        if plan.arrangement == PALETTE:
            inside = (u >= 0) & (u < plan.palette)
            right, w = right & inside.all(), job.palette[torch.where(inside, u, 0)]
        else:
            w = arranged_back(u, plan, job.bits).to(words.dtype)  # which drops what is above
        stream = tile - band.first
        target[stream // job.columns, stream % job.columns] = w
    return right


def tiles(job: Job, band: Band, device: torch.device) -> Iterator[tuple[int, torch.Tensor]]:
    """Streams that dropped the same number of zeros, and that number."""
    own = job.zeros[band.first : band.first + band.count]
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
    """Place the patches, and raise where something was not right; here the host waits for the device."""
    if job.gaps.numel():
        some = job.gaps > 0  # a gap of 0 goes on by 65535 and has no patch
        at = (torch.where(some, job.gaps, 0xFFFF).cumsum(0) - 1)[some]
        require("words", at.numel() == job.patches.numel(), f"{at.numel()} patches", job.patches.numel())
        inside = at < words.numel()
        right = right & inside.all()
        words[torch.where(inside, at, 0)] = job.patches
    else:
        require("words", job.patches.numel() == 0, "no patches", job.patches.numel())
    if not right:
        raise CorruptError("lossless: a stream, a palette or a patch does not end where it should")


def modulo(x: torch.Tensor, n: int) -> torch.Tensor:
    """int64 modulo 2^n."""
    return x if n == 64 else x & ((1 << n) - 1)


def signed(x: int) -> int:
    """The int64 with the bits of an integer below 2^64."""
    return x - (1 << 64) if x >> 63 else x


def integers(x: torch.Tensor, n: int) -> torch.Tensor:
    """The elements one after another, as integers of n bits; of the same memory where they lie so."""
    return arrays.flat(x).view(INTEGERS[n]) if x.numel() else x.new_empty(0, dtype=INTEGERS[n])


def aligned(plane: torch.Tensor, n: int) -> torch.Tensor:
    """Bytes as integers of n bits, without the bytes left over at the end; copied where no such integer can start."""
    size = n // 8
    plane = arrays.flat(plane)[: plane.numel() // size * size]
    at_one = plane.storage_offset() % size == 0 and plane.data_ptr() % size == 0
    return integers(plane if at_one else plane.clone(), n)
