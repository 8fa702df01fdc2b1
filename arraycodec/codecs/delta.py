"""`Delta`: the exact difference of an array to a base array of the same spec, such as that of a fine-tuned weight.

The specification is docs/format/delta.md; kernels, plan and the choice of both are in primitives/entropy/difference*.py.
Decoding an element, in the order in which every backend does it:
    1  the base's word -> its sign and magnitude m, its bucket; bucket and the label of the unit -> a table;
    2  the entry of the ANS state -> a symbol and the next state;
    3  the symbol and raw bits -> the difference;
    4  m, times the unit's factor, plus the label's curve, plus the difference -> the word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives.content import HASH, content_hash, shown_hash
from arraycodec.primitives.entropy import ans, difference_plan
from arraycodec.primitives.entropy.difference_choice import EFFORTS, Choice, choose
from arraycodec.primitives.entropy.difference_plan import (
    CODED,
    EQUAL,
    RAW,
    SLACK,
    WORDS,
    DifferencePlan,
    Model,
)
from arraycodec.primitives.entropy.differences import (
    STEP_BYTES,
    Tools,
    decode_streams,
    encode_streams,
    kind_of,
    meaning_of,
)
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.threads import split
from arraycodec.spec import DTYPES, ArraySpec, spec_of

PIECE = 1 << 19  # elements that one call of the encoding kernel has room for


@dataclass(frozen=True)
class Delta(Codec):
    """The exact difference to a base array of the same shape and dtype: small where few elements changed, or by little.

    mode    "balanced", or "storage" for more tables and a longer search, which makes smaller planes.

    Arrays are of any shape and of every dtype with elements of 8, 16 or 32 bits. Encoding and decoding need
    `given={"base": array}`, the same array; decoding compares its hash first, and raises CorruptError where it is another.
    Planes: `hash` uint32[4], `plan` uint32[16], `tables` uint8, `scales` float32, `index` uint16, `streams` uint8.

    >>> import numpy as np, arraycodec as ac
    >>> base = np.linspace(-1, 1, 65536, dtype=np.float32).reshape(256, 256)
    >>> tuned = base * np.float32(1.001)
    >>> enc = ac.encode(tuned, "delta", given={"base": base})
    >>> enc.bits_per_element < 1, bool((ac.decode(enc, given={"base": base}) == tuned).all())
    (True, True)
    """

    name: ClassVar[str] = "delta"
    lossless: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = tuple(name for name, row in DTYPES.items() if row.bits in (8, 16, 32))
    computed: ClassVar[tuple[str, ...]] = ("hash", "plan", "tables", "scales", "index", "streams")
    inputs: ClassVar[tuple[str, ...]] = ("base",)

    mode: str = "balanced"

    def __post_init__(self) -> None:
        if self.mode not in EFFORTS:
            raise self.fail("mode", " or ".join(map(repr, EFFORTS)), self.mode)

    def supports(self, spec: ArraySpec) -> None:
        if spec.dtype not in self.dtypes:
            raise self.fail("dtype", "one with elements of 8, 16 or 32 bits, for others there is 'lossless'", spec.dtype)

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        return {
            "hash": HASH,
            "plan": ArraySpec((WORDS,), "uint32"),
            "tables": ArraySpec((None,), "uint8"),
            "scales": ArraySpec((None,), "float32"),
            "index": ArraySpec((None,), "uint16"),
            "streams": ArraySpec((None,), "uint8"),
        }

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        spec, base = spec_of(x), self.base(given)
        self.supports(spec)
        if spec_of(base) != spec:
            got = spec_of(base)
            raise self.fail("base", f"{spec.dtype}{list(spec.shape)}", f"{got.dtype}{list(got.shape)}")
        words, against = bits(x), bits(base)
        raw = {
            "hash": content_hash(base),
            "plan": DifferencePlan().to_array(),
            "tables": np.zeros(0, np.uint8),
            "scales": np.zeros(0, np.float32),
            "index": np.zeros(0, np.uint16),
            "streams": words.view(np.uint8).copy(),
        }
        if not words.size:
            return raw
        if np.array_equal(words, against):
            return raw | {"plan": DifferencePlan(EQUAL).to_array(), "streams": np.zeros(0, np.uint8)}
        choice = choose(words, against, spec.dtype, spec.known_shape, self.mode)
        if choice.bits >> 11 >= spec.nbytes:
            return raw
        coded = raw | self._coded(words, against, choice, spec)
        return coded if _nbytes(coded) < _nbytes(raw) else raw

    def _coded(self, words: np.ndarray, base: np.ndarray, choice: Choice, spec: ArraySpec) -> Planes:
        plan, model = choice.plan, choice.model
        tools = _tools(plan, model, choice.scales, spec)
        made = [ans.encoding_tables(table, plan.bits) for table in model.frequencies]
        drops, firsts, states = (np.stack(part) for part in zip(*made, strict=True))
        index = np.zeros(plan.number_of_streams(words.size), np.uint16)
        together = max(1, PIECE // plan.stream)
        parts: list[Any] = [None] * -(-len(index) // together)

        def work(first: int, last: int) -> None:
            out = np.empty(min(together * plan.stream, words.size) * STEP_BYTES + 2 * SLACK, np.uint8)
            for part in range(first, last):
                start, stop = part * together, min((part + 1) * together, len(index))
                end = encode_streams(words, base, plan.stream, tools, drops, firsts, states, index, out, start, stop)
                parts[part] = out[:end].copy()

        split(work, len(parts), words.size)
        return {
            "plan": plan.to_array(),
            "tables": difference_plan.pack(plan, model),
            "scales": choice.scales,
            "index": index,
            "streams": np.concatenate([*parts, np.zeros(SLACK, np.uint8)]),
        }

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        base = self.base(given)
        self.check_base(planes, spec, base)
        out = empty(spec) if out is None else out
        self._decode(planes, spec, bits(base), writable_bits(out))
        return out

    def _decode(self, planes: Planes, spec: ArraySpec, base: np.ndarray, target: np.ndarray) -> None:
        plan, model = self._checked(planes, spec)
        if plan.coder == RAW:
            target[:] = np.ascontiguousarray(planes["streams"]).view(target.dtype)
        elif plan.coder == EQUAL:
            target[:] = base
        else:
            places = _places(np.asarray(planes["index"]))
            decode_coded(plan, model, planes["scales"], np.asarray(planes["streams"]), places, spec, base, 0, target)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """Whole streams around the range; `fetch` gives elements of the flattened base by the name "base".

        The hash of the base is not compared, since only a part of the base is looked at.
        """
        target = empty(ArraySpec((stop - start,), spec.dtype))
        plan = DifferencePlan.of(fetch("plan", slice(None)), spec)
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        if plan.coder != CODED:
            size = target.itemsize
            name, piece = ("base", slice(start, stop)) if plan.coder == EQUAL else ("streams", slice(start * size, stop * size))
            writable_bits(target)[:] = bits(fetch(name, piece)).view(f"u{size}")
            return target
        model = difference_plan.unpack(plan, np.asarray(fetch("tables", slice(None))), plan.number_of_units(spec.size))
        first, last = start // plan.stream, -(-stop // plan.stream)
        lo, hi = first * plan.stream, min(last * plan.stream, spec.size)
        units = slice(lo // plan.unit, -(-hi // plan.unit))
        places = _places(fetch("index", slice(None)))[first : last + 1]
        scales = fetch("scales", units) if plan.scaled else np.zeros(0, np.float32)
        _check_scales(scales)
        data = np.asarray(fetch("streams", slice(int(places[0]), int(places[-1]))))
        if data.size != places[-1] - places[0]:
            raise CorruptError(f"delta: plane 'streams' must have at least {places[-1] + SLACK} bytes")
        part = ArraySpec((hi - lo,), spec.dtype)
        target = empty(part)
        model = model._replace(labels=model.labels[units])
        decode_coded(plan, model, scales, data, places - places[0], part, bits(fetch("base", slice(lo, hi))), 0, writable_bits(target))
        return target[start - lo : stop - lo]

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        self._checked(planes, spec)

    def _checked(self, planes: Planes, spec: ArraySpec) -> tuple[DifferencePlan, Model | None]:
        """The plan and, of a coded array, the model; CorruptError where the planes break a rule of the format."""
        plan = DifferencePlan.of(planes["plan"], spec)
        index, streams, scales = (np.asarray(planes[name]) for name in ("index", "streams", "scales"))
        units = plan.number_of_units(spec.size)
        want = {
            "index": plan.number_of_streams(spec.size),
            "scales": units if plan.scaled else 0,
            "streams": [spec.nbytes, 0, int(index.sum(dtype=np.int64)) + SLACK][plan.coder],
        }
        if plan.coder != CODED:
            want["tables"] = 0
        for name, size in want.items():
            if (got := np.asarray(planes[name]).size) != size:
                raise CorruptError(f"delta: plane {name!r} must have {size} elements, got {got}")
        if plan.coder != CODED:
            return plan, None
        _check_scales(scales)
        if streams[-SLACK:].any():
            raise CorruptError(f"delta: plane 'streams' must end with {SLACK} zero bytes")
        return plan, difference_plan.unpack(plan, np.ascontiguousarray(planes["tables"]), units)

    def base(self, given: Given | None) -> np.ndarray:
        """The base among the inputs."""
        if not given or "base" not in given:
            raise ArgumentError("delta: given must hold 'base', the array that this one is the difference to")
        return np.asarray(given["base"])

    def check_base(self, planes: Planes, spec: ArraySpec, base: np.ndarray) -> None:
        """Raise CorruptError where `base` is not that of the encoded array, by its shape, dtype and hash."""
        if (got := spec_of(base)) != spec:
            raise CorruptError(
                f"delta: the base must be {spec.dtype}{list(spec.shape)}, got {got.dtype}{list(got.shape)}"
            )
        want = np.asarray(planes["hash"])
        if not np.array_equal(found := content_hash(base), want):
            raise CorruptError(f"delta: the base must have the hash {shown_hash(want)}, got one with {shown_hash(found)}")


def decode_coded(
    plan: DifferencePlan, model: Model, scales: np.ndarray, streams: np.ndarray, places: np.ndarray, spec: ArraySpec,
    base: np.ndarray, first_unit: int, target: np.ndarray,
) -> None:  # fmt: skip
    """Decode whole streams, which lie at `places` in `streams`; CorruptError where one does not end at its place."""
    tools, count = _tools(plan, model, scales, spec), len(places) - 1
    tables = np.stack([ans.decoding_table(table, plan.bits) for table in model.frequencies])
    # A stream that is not what the index says may go on for so long. The last ones are decoded from a copy with zeros.
    room = plan.stream * STEP_BYTES + 2 * SLACK
    safe = int(np.searchsorted(places[:-1], streams.size - room, "right"))
    cut = int(places[safe])
    ending = np.concatenate([streams[cut:], np.zeros(room, np.uint8)])
    data, good = np.ascontiguousarray(streams), []
    shifted = places - cut

    def work(first: int, last: int) -> None:
        middle = min(max(safe, first), last)
        args = base, plan.stream, tools, tables, first_unit, target
        good.append(decode_streams(data, places, *args, first, middle) if first < middle else True)
        good.append(decode_streams(ending, shifted, *args, middle, last) if middle < last else True)

    split(work, count, target.size)
    if not all(good):
        raise CorruptError("delta: a stream does not end where the index says")


def _tools(plan: DifferencePlan, model: Model, scales: np.ndarray, spec: ArraySpec) -> Tools:
    # Read-only or not, aligned or not: kernels are compiled for one kind of array.
    owned = [np.array(part) for part in (model.table_of, model.labels, model.curve_of, model.curves.view(np.uint32))]
    return Tools(
        kind_of(spec.dtype), plan.unit, plan.bits, np.uint32(plan.direct), np.uint32(plan.leading),
        np.uint32(plan.shift), np.uint32(plan.first), np.uint32(plan.curve_shift), bool(plan.scaled), *owned,
        np.array(scales, np.float32), meaning_of(plan.direct, plan.leading, plan.symbols),
    )  # fmt: skip


def _places(index: np.ndarray) -> np.ndarray:
    """Where each stream starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(index, dtype=np.int64)])


def _check_scales(scales: np.ndarray) -> None:
    words = np.asarray(scales, np.float32).view(np.uint32)
    if ((words < 0x800000) | (words >= 0x7F800000)).any():
        raise CorruptError("delta: scales must be positive normal floats")


def _nbytes(planes: Planes) -> int:
    return sum(plane.nbytes for plane in planes.values())
