"""`Delta` as torch ops on any device: the steps of `arraycodec.codecs.delta`, with every stream a lane.

The base is read on the host for its hash, and so are the planes but for `streams`, which are small. Encoding is for the
host.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.delta import Delta
from arraycodec.errors import CorruptError, UnsupportedByBackend
from arraycodec.primitives.entropy import difference_plan
from arraycodec.primitives.entropy.difference_plan import EQUAL, RAW, DifferencePlan, Model
from arraycodec.primitives.entropy.differences import Kind, kind_of, meaning_of
from arraycodec.primitives.entropy.plan import SLACK
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.scales import LARGE_TILE, TILE
from arraycodec_torch.streams import Streams, aligned, ans_tables, integers, look_up_words, read_small


class Job(NamedTuple):
    """A coded array and its base, on their device."""

    plan: DifferencePlan
    kind: Kind
    streams: Streams  # its `labels` are the first entry of each bucket's table: (G * E,)
    unit_labels: torch.Tensor  # uint8
    scales: torch.Tensor  # float32, one for each unit, or none
    curve_of: torch.Tensor  # uint8 (G,): a label's curve counted from 1, or 0
    curves: torch.Tensor  # int32 (C, 256)
    meaning: torch.Tensor  # int64 (256,): the smallest z of each symbol, and its raw bits << 32
    base: torch.Tensor  # integers, one after another


def encode(x: torch.Tensor, codec: Delta, given: Given) -> Planes:
    """Raises: choosing tables and coding are for the host."""
    raise UnsupportedByBackend(
        f"{codec.name}: the torch backend encodes on the host only, got a tensor on {x.device}; "
        "move it to the CPU, and decode on any device"
    )


def decode(codec: Delta, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    job = load(codec, planes, spec, given, out)
    if job is None:
        return
    z, right = decode_differences(job)
    words, step = integers(out, int(job.kind.bits)), TILE.get(out.device.type, LARGE_TILE)
    for start in range(0, spec.size, step):
        part = slice(start, min(start + step, spec.size))
        words[part] = restored(job, z.view(-1)[part], part).to(words.dtype)
    finish(right)


def load(codec: Delta, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> Job | None:
    """What decoding takes, once the base is the right one and the planes go together; None where `out` is filled."""
    if "base" not in given:
        codec.base(given)  # raises
    host = read_small({**planes, "streams": planes["streams"][-SLACK:]})
    codec.check_base(host, spec, arrays.to_numpy(given["base"]))
    end = host["streams"]
    host["streams"] = np.zeros(planes["streams"].numel(), np.uint8)  # of which only the end is looked at
    host["streams"][host["streams"].size - end.size :] = end
    codec.check(host, spec)
    plan, kind, base = DifferencePlan.of(host["plan"], spec), kind_of(spec.dtype), given["base"]
    n = int(kind.bits)
    if plan.coder == RAW:
        integers(out, 8).copy_(arrays.flat(planes["streams"]))
    elif plan.coder == EQUAL:
        integers(out, n).copy_(integers(base, n))
    else:
        model = difference_plan.unpack(plan, host["tables"], plan.number_of_units(spec.size))
        return coded(plan, kind, model, planes, host["index"], base)
    return None


def coded(plan: DifferencePlan, kind: Kind, model: Model, planes: Planes, index: np.ndarray, base: torch.Tensor) -> Job:
    """The tensors that decoding takes."""

    def own(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(base.device)

    places = own(np.concatenate([[0], np.cumsum(index, dtype=np.int64)]))
    table = ans_tables(own(model.frequencies.astype(np.int32)), plan.bits).view(-1)
    rows = own(model.table_of.astype(np.int32).reshape(-1) << plan.bits)
    streams = Streams(aligned(planes["streams"], 32), places[:-1] * 8, places[1:], table, rows)
    meaning = own(meaning_of(plan.direct, plan.leading, plan.symbols).astype(np.int64))
    return Job(
        plan, kind, streams, own(model.labels), arrays.flat(planes["scales"]), own(model.curve_of), own(model.curves),
        meaning, integers(base, int(kind.bits)),
    )  # fmt: skip


def decode_differences(job: Job) -> tuple[torch.Tensor, torch.Tensor]:
    """z of every element as int64 (stream, step), and whether all streams end where they should."""
    plan, streams = job.plan, job.streams
    count, length, n = streams.starts.numel(), min(plan.stream, job.base.numel()), job.base.numel()
    rows = torch.zeros((count, length), dtype=torch.int32, device=job.base.device)
    step = TILE.get(rows.device.type, LARGE_TILE)
    for start in range(0, n, step):
        part = slice(start, min(start + step, n))
        _, v, label = predicted(job, part)
        bucket = ((v >> plan.shift) - plan.first).clamp(0, plan.buckets - 1)
        rows.view(-1)[part] = streams.labels[label * plan.buckets + bucket]
    z = torch.zeros((count, length), dtype=torch.int64, device=rows.device)
    pairs = look_up_words(streams, (plan.bits + 31) * length + plan.bits)
    at = streams.starts.clone()
    state = (pairs[at >> 5] >> (at & 31)) & ((1 << plan.bits) - 1)
    at += plan.bits
    last = n - (count - 1) * length  # elements of the last stream
    for i in range(length):
        own = slice(count if i < last else count - 1)
        entry = streams.table[rows[own, i] + state[own]]
        taken, told = entry & 15, job.meaning[(entry >> 8) & 255]
        state[own] = (entry >> 16) + ((pairs[at[own] >> 5] >> (at[own] & 31)) & ((1 << taken) - 1))
        at[own] += taken
        raw = told >> 32
        z[own, i] = (told & 0xFFFFFFFF) + ((pairs[at[own] >> 5] >> (at[own] & 31)) & ((1 << raw) - 1))
        at[own] += raw
    return z, ((((at + 7) >> 3) == streams.ends) & (state == 0)).all()


def predicted(job: Job, part: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of elements of the base the word and what buckets are found from, and the label of the unit."""
    word = job.base[part].to(torch.int64) & int(job.kind.full)
    v = (word & ~int(job.kind.sign)) ^ int(job.kind.flip)
    unit = torch.arange(part.start, part.stop, device=word.device) // job.plan.unit
    return word, v, job.unit_labels[unit].to(torch.int64)


def restored(job: Job, z: torch.Tensor, part: slice) -> torch.Tensor:
    """The words of differences, as int64."""
    plan, sign, full = job.plan, int(job.kind.sign), int(job.kind.full)
    word, v, label = predicted(job, part)
    m = word & ~sign
    if plan.scaled:
        m = scaled(m, job.scales[torch.arange(part.start, part.stop, device=m.device) // plan.unit])
    if plan.curves:
        curve = job.curve_of[label].to(torch.int64)
        bend = job.curves[(curve - 1).clamp(min=0), (v >> plan.curve_shift) & 255]
        m = m + torch.where(curve > 0, bend, 0)
    found = (m + ((z >> 1) ^ -(z & 1))) & full
    found = torch.where((found & sign) != 0, found ^ (sign - 1), found)
    return found ^ (word & sign)


def scaled(m: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """The bits of float32 magnitudes times factors, where both are normal and the product is not the smallest such."""
    product = (m.to(torch.int32).view(torch.float32) * factor).view(torch.int32).to(torch.int64)
    field, product_field = m >> 23, product >> 23
    normal = (field >= 1) & (field <= 254) & (product_field >= 2) & (product_field <= 254)
    return torch.where(normal, product, m)


def finish(right: torch.Tensor) -> None:
    """Raise where a stream was wrong: here the host waits for the device."""
    if not right:
        raise CorruptError("delta: a stream does not end where the index says")
