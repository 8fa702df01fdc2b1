"""`Delta`: the exact difference of an array to a base array of the same spec, such as that of a fine-tuned weight.

The specification is docs/format/delta.md; its kernels and plans are in primitives/entropy/difference*.py.
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
    WORDS,
    DifferencePlan,
    Model,
)
from arraycodec.primitives.entropy.differences import (
    STEP_BYTES,
    SYMBOLS,
    Tools,
    decode_streams,
    encode_streams,
    kind_of,
    meaning_of,
)
from arraycodec.primitives.entropy.plan import SLACK
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.threads import split
from arraycodec.spec import DTYPES, ArraySpec, spec_of

PIECE = 1 << 19  # elements that one call of the encoding kernel has room for


@dataclass(frozen=True)
class Delta(Codec):
    """The exact difference to a base array of the same shape and dtype: small where few elements changed, or by little.

    mode    "balanced", or "storage" for more tables and a longer search, which makes smaller planes.

    Arrays are of any shape and of every dtype with elements of 8, 16 or 32 bits. Encoding and decoding need
    `given={"base": array}`; decoding compares its hash first, and raises CorruptError where it is another array.
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
            raise self.fail(
                "dtype", "one with elements of 8, 16 or 32 bits, for others there is 'lossless'", spec.dtype
            )

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
            raise ArgumentError(
                f"delta: the base must be {spec.dtype}{list(spec.shape)}, got {got.dtype}{list(got.shape)}"
            )
        words, against = bits(x), bits(base)
        planes = {
            "hash": content_hash(base),
            "plan": DifferencePlan().to_array(),
            "tables": np.zeros(0, np.uint8),
            "scales": np.zeros(0, np.float32),
            "index": np.zeros(0, np.uint16),
            "streams": np.zeros(0, np.uint8),
        }
        if words.size and np.array_equal(words, against):
            return planes | {"plan": DifferencePlan(EQUAL).to_array()}
        if words.size:
            choice = choose(words, against, spec.dtype, spec.known_shape, self.mode)
            if choice.bits >> 3 < words.nbytes:
                coded = self._coded(words, against, choice, spec)
                if sum(plane.nbytes for plane in coded.values()) - coded["plan"].nbytes < words.nbytes:
                    return planes | coded
        return planes | {"streams": words.view(np.uint8).copy()}

    def _coded(self, words: np.ndarray, base: np.ndarray, choice: Choice, spec: ArraySpec) -> Planes:
        plan, model = choice.plan, choice.model
        tools = _tools(plan, model, choice.scales, spec, SYMBOLS)
        drops, firsts = np.zeros((plan.tables, SYMBOLS), np.uint32), np.zeros((plan.tables, SYMBOLS), np.int64)
        states = np.zeros((plan.tables, 1 << plan.bits), np.uint16)
        for k, table in enumerate(model.frequencies):
            drops[k, : plan.symbols], firsts[k, : plan.symbols], states[k] = ans.encoding_tables(table, plan.bits)
            firsts[k] += k << plan.bits
        tables = drops.reshape(-1), firsts.reshape(-1), states.reshape(-1)
        index = np.zeros(plan.number_of_streams(words.size), np.uint16)
        together = max(1, PIECE // plan.stream)
        parts: list[Any] = [None] * -(-len(index) // together)

        def work(first: int, last: int) -> None:
            out = np.empty(min(together * plan.stream, words.size) * STEP_BYTES + 2 * SLACK, np.uint8)
            for part in range(first, last):
                start, stop = part * together, min((part + 1) * together, len(index))
                end = encode_streams(words, base, plan.stream, tools, *tables, index, out, start, stop)
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
        plan = self._plan(planes, spec)
        if plan.coder == RAW:
            target[:] = np.ascontiguousarray(planes["streams"]).view(target.dtype)
        elif plan.coder == EQUAL:
            target[:] = base
        else:
            places, model = _places(np.asarray(planes["index"])), self._model(plan, planes, spec)
            decode_coded(plan, model, planes["scales"], np.asarray(planes["streams"]), places, spec, base, target)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """Whole streams around the range; `fetch` gives elements of the flattened base by the name "base".

        The hash of the base is not compared, since only a part of the base is looked at.
        """
        plan = DifferencePlan.of(fetch("plan", slice(None)), spec)
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        if plan.coder != CODED:
            size = spec.numpy_dtype.itemsize
            piece = slice(start, stop) if plan.coder == EQUAL else slice(start * size, stop * size)
            found = np.array(fetch("base" if plan.coder == EQUAL else "streams", piece)).view(np.uint8)
            _check_size("streams", found, (stop - start) * size)
            return found.view(spec.numpy_dtype)
        index = np.asarray(fetch("index", slice(None)))
        _check_size("index", index, plan.number_of_streams(spec.size))
        model = difference_plan.unpack(plan, np.asarray(fetch("tables", slice(None))), plan.number_of_units(spec.size))
        first, last = start // plan.stream, -(-stop // plan.stream)
        lo, hi = first * plan.stream, min(last * plan.stream, spec.size)
        units = slice(lo // plan.unit, -(-hi // plan.unit))
        scales = np.asarray(fetch("scales", units)) if plan.scaled else np.zeros(0, np.float32)
        _check_scales(scales)
        _check_size("scales", scales, (units.stop - units.start) * plan.scaled)
        places = _places(index)[first : last + 1]
        data = np.asarray(fetch("streams", slice(int(places[0]), int(places[-1]))))
        _check_size("streams", data, int(places[-1] - places[0]))
        part = ArraySpec((hi - lo,), spec.dtype)
        target, base = empty(part), bits(np.asarray(fetch("base", slice(lo, hi))))
        _check_size("base", base.view(np.uint8), part.nbytes)
        model = model._replace(labels=model.labels[units])
        decode_coded(plan, model, scales, data, places - places[0], part, base, writable_bits(target))
        return target[start - lo : stop - lo]

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        plan = self._plan(planes, spec)
        if plan.coder == CODED:
            self._model(plan, planes, spec)

    def _plan(self, planes: Planes, spec: ArraySpec) -> DifferencePlan:
        """The plan, in agreement with the sizes of all planes but `tables`."""
        plan = DifferencePlan.of(planes["plan"], spec)
        streams = [spec.nbytes, 0, int(np.asarray(planes["index"]).sum(dtype=np.int64)) + SLACK][plan.coder]
        _check_size("index", planes["index"], plan.number_of_streams(spec.size))
        _check_size("scales", planes["scales"], plan.number_of_units(spec.size) * plan.scaled)
        _check_size("streams", planes["streams"], streams)
        if plan.coder != CODED:
            _check_size("tables", planes["tables"], 0)
        elif np.asarray(planes["streams"])[-SLACK:].any():
            raise CorruptError(f"delta: plane 'streams' must end with {SLACK} zero bytes")
        return plan

    def _model(self, plan: DifferencePlan, planes: Planes, spec: ArraySpec) -> Model:
        """What the plane `tables` of a coded array holds; the factors are looked at, too."""
        _check_scales(planes["scales"])
        return difference_plan.unpack(plan, np.ascontiguousarray(planes["tables"]), plan.number_of_units(spec.size))

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
            raise CorruptError(
                f"delta: the base must have the hash {shown_hash(want)}, got one with {shown_hash(found)}"
            )


def decode_coded(
    plan: DifferencePlan, model: Model, scales: np.ndarray, streams: np.ndarray, places: np.ndarray, spec: ArraySpec,
    base: np.ndarray, target: np.ndarray,
) -> None:  # fmt: skip
    """Decode whole streams, which lie at `places` in `streams`; CorruptError where one does not end at its place."""
    tools, count = _tools(plan, model, scales, spec, 1 << plan.bits), len(places) - 1
    tables = np.concatenate([ans.decoding_table(table, plan.bits) for table in model.frequencies])
    # A stream that is not what the index says may go on for so long. The last ones are decoded from a copy with zeros.
    room = plan.stream * STEP_BYTES + 2 * SLACK
    safe = int(np.searchsorted(places[:-1], streams.size - room, "right"))
    cut = int(places[safe])
    ending = np.concatenate([streams[cut:], np.zeros(room, np.uint8)])
    data, ending, shifted, good = bits(streams), bits(ending), places - cut, []

    def work(first: int, last: int) -> None:
        middle = min(max(safe, first), last)
        args = base, plan.stream, tools, tables, target
        good.append(decode_streams(data, places, *args, first, middle) if first < middle else True)
        good.append(decode_streams(ending, shifted, *args, middle, last) if middle < last else True)

    split(work, count, target.size)
    if not all(good):
        raise CorruptError("delta: a stream does not end where the index says")


def _tools(plan: DifferencePlan, model: Model, scales: np.ndarray, spec: ArraySpec, entries: int) -> Tools:
    """What the kernels take; `entries` is what each table has of them."""
    rows = model.table_of.astype(np.uint32) * np.uint32(entries)
    # Copies: kernels are compiled again for arrays that are read-only or not aligned.
    labels, curve_of, curves = (np.array(part) for part in (model.labels, model.curve_of, model.curves.view(np.uint32)))
    return Tools(
        kind_of(spec.dtype), plan.unit, plan.bits, np.uint32(plan.direct), np.uint32(plan.leading),
        np.uint32(plan.shift), np.uint32(plan.first), np.uint32(plan.curve_shift), bool(plan.scaled),
        rows, labels, curve_of, curves, np.array(scales, np.float32),
        meaning_of(plan.direct, plan.leading, plan.symbols),
    )  # fmt: skip


def _places(index: np.ndarray) -> np.ndarray:
    """Where each stream starts, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(index, dtype=np.int64)])


def _check_scales(scales: np.ndarray) -> None:
    words = np.asarray(scales, np.float32).view(np.uint32)
    if ((words < 0x800000) | (words >= 0x7F800000)).any():
        raise CorruptError("delta: scales must be positive normal floats")


def _check_size(name: str, plane: np.ndarray, size: int) -> None:
    if (got := np.asarray(plane).size) != size:
        raise CorruptError(f"delta: plane {name!r} must have {size} elements, got {got}")
