"""Reading the weights that bitsandbytes stored: every member checked against headers, known damage named.

Its files tell all that is needed by the names of their tensors and the JSON beside each 4-bit weight, so a config.json
only adds the dtype of int8 weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from arraycodec.base import Codec, Planes, Then
from arraycodec.codecs.codebook import Codebook
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.containers import checks, strict_json
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import ArgumentError, CorruptError, FormatError
from arraycodec.formats.bitsandbytes.layout import STATE, TYPES, Stored, module_of, seen_as
from arraycodec.formats.config import Config
from arraycodec.formats.translated import Weight
from arraycodec.primitives import codebooks
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec

PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")  # whose keys begin with the weight's name
LAYOUTS = ("row", "col32", "col_turing", "col_ampere")  # of int8 weights, by weight_format
SAME = 1e-6  # by how much tables may differ that bitsandbytes takes for the same
FACTS: dict[str, Any] = {"quant_type": str, "blocksize": int, "dtype": str, "shape": list}
NESTED_FACTS: dict[str, Any] = {"nested_blocksize": int, "nested_dtype": str, "nested_offset": (int, float)}
MAX_FACTS = 1 << 16  # bytes
DAMAGED = (
    "; a Linear4bit of bitsandbytes that ran on a CPU with AVX512_BF16 saves such: it had packed its weight anew, and "
    "the statistics are not those that the codes were made with any more; quantise the original weight again"
)


def read(raw: Mapping[str, LazyTensor], config: Config) -> dict[str, Weight]:
    """The weights of a checkpoint of bitsandbytes by name; FormatError and CorruptError begin with the tensor."""
    weights: dict[str, Weight] = {}
    for name, own in _grouped(raw).items():
        views = {part: raw[key] for part, key in own.items()}
        specs, where = {part: view.spec for part, view in views.items()}, views["weight"].where
        arrays = partial(_array, views)
        if "SCB" in own:
            stored = rows(specs, arrays, _dtype(raw.get(f"{module_of(name)}bias"), config), where)
        else:
            stored = blocks(specs, arrays, where)
        planes = partial(stored.planes, seen=seen_as, made=np.asarray)
        weights[name] = Weight(stored.spec, stored.codec, views, planes, check_statistics)
    _check_rest(raw, {view.name for weight in weights.values() for view in weight.parts.values()})
    return weights


def blocks(own: Mapping[str, ArraySpec], array: Callable[[str], np.ndarray], where: str) -> Stored:
    """How a 4-bit weight is stored.

    own    the spec of each part: "weight", "absmax", "quant_map", "quant_state.bitsandbytes__nf4" ...
    array  gives the small ones: tables and JSON

    FormatError where a part is missing or is not what it must be, CorruptError where bitsandbytes itself damages it.
    """
    state, *others = (part for part in own if part.startswith(STATE))
    if others:
        raise FormatError(f"{where}: a weight must have one quant_state, got {[state, *others]}")
    told = f"{where}: {state} or what belongs to it is not as it should be"
    facts = _facts(own, state, array, told)
    nested = "nested_offset" in facts
    if missing := [part for part in ("weight", *PARTS[: 4 if nested else 2]) if part not in own]:
        raise FormatError(f"{told}: {missing[0]} is missing")
    _check_undamaged(own, facts, where)
    spec = checks.spec(facts["dtype"], facts["shape"], told)
    _check_table(own, array, facts["quant_type"], where)
    try:
        codec: Codec = Codebook(facts["quant_type"], facts["blocksize"])
        if nested:
            table = _nested_table(own, array, where)
            codec = Then(codec, absmax=Codebook(table, facts["nested_blocksize"], offset=True))
        codec.supports(spec)
        offset = _float32(facts["nested_offset"], f"{told}: nested_offset") if nested else None
        stored = Stored.of(codec, spec, own["weight"].dtype, offset)
    except ArgumentError as error:  # the file's fault
        raise FormatError(f"{told}: {error}") from None
    for part, (_, want) in stored.parts.items():
        got = own[part]
        flat = part == "weight" and got.shape == want.shape[:1]
        if got.dtype != want.dtype or not (flat or got.shape == want.shape):
            size = f"{want.dtype} with {want.size} elements, {list(want.shape)}"
            raise CorruptError(f"{where}: {part} must be {size}, got {got.dtype}{list(got.shape)}")
    return stored


def check_statistics(planes: Planes) -> None:
    """CorruptError where a statistic is not the largest absolute value of anything: NaN, infinite or negative."""
    for name, plane in planes.items():
        part = name.rpartition(".")[2]
        if part in ("absmax", "scales", "offset") and plane.dtype == np.float32:
            bad = plane[~np.isfinite(plane) | (plane < 0)] if part != "offset" else plane[~np.isfinite(plane)]
            if bad.size:
                raise CorruptError(f"{name} must be finite and >= 0, got {bad.reshape(-1)[0]} ({bad.size} such)")


def rows(own: Mapping[str, ArraySpec], array: Callable[[str], np.ndarray], dtype: str, where: str) -> Stored:
    """How an int8 weight is stored.

    own    the spec of each part: "weight", "SCB" and perhaps "weight_format"
    array  gives the last
    dtype  of the weight that it stands for, which these do not say
    """
    codes, scales, layout = own["weight"], own["SCB"], own.get("weight_format")
    if layout is not None:
        number = array("weight_format").reshape(-1)[0] if layout.size == 1 else -1
        if number != 0:
            known = f" ({LAYOUTS[int(number)]})" if number in range(1, len(LAYOUTS)) else ""
            got = f"{number}{known}" if layout.size == 1 else f"shape {list(layout.shape)}"
            raise FormatError(f"{where}: weight_format must be 0 (row), got {got}")
    if len(codes.shape) != 2 or len(scales.shape) != 1:
        got = f"{list(codes.shape)} and {list(scales.shape)}"
        raise FormatError(f"{where}: weight and SCB must have two axes and one, got shapes {got}")
    stored = Stored.of(LLMInt8(), ArraySpec(codes.shape, dtype))
    for part, (_, want) in stored.parts.items():
        if (got := own[part]) != want:
            told = f"{want.dtype}{list(want.shape)}, got {got.dtype}{list(got.shape)}"
            raise CorruptError(f"{where}: {part} must be {told}")
    return stored


def _float32(number: float, where: str) -> float:
    with np.errstate(over="ignore"):
        value = np.float32(number)
    if not np.isfinite(value):
        raise FormatError(f"{where} must be a float32 number, got {number}")
    return float(value)


def _array(views: Mapping[str, LazyTensor], part: str) -> np.ndarray:
    return np.asarray(views[part])


def _grouped(raw: Mapping[str, LazyTensor]) -> dict[str, dict[str, str]]:
    """weight -> part -> its key, of all weights that have a quant_state or SCB; "weight" comes first."""
    groups: dict[str, dict[str, str]] = {}
    for key, tensor in raw.items():
        name, found, quant_type = key.rpartition(f".{STATE}")
        if found:
            own = {STATE + quant_type: key, **{part: f"{name}.{part}" for part in PARTS}}
        elif key.rpartition(".")[2] == "SCB":
            module = key.removesuffix("SCB")
            name, own = f"{module}weight", {"SCB": key, "weight_format": f"{module}weight_format"}
        else:
            continue
        if name not in raw:
            raise FormatError(f"{tensor.where}: belongs to {checks.shown(name)}, which is missing")
        own = {part: key for part, key in own.items() if key in raw}
        groups[name] = {"weight": name} | groups.get(name, {}) | own
        if "SCB" in groups[name] and len(groups[name].keys() - {"weight", "SCB", "weight_format"}):
            raise FormatError(f"{tensor.where}: a weight must have a quant_state or SCB, not both")
    return groups


def _facts(own: Mapping[str, ArraySpec], state: str, array: Callable[[str], np.ndarray], told: str) -> dict[str, Any]:
    """The JSON of a quant_state, once every member that it must have is there, and no other."""
    spec = own[state]
    if spec.dtype != "uint8" or len(spec.shape) != 1 or spec.size > MAX_FACTS:
        got = f"{spec.dtype}{list(spec.shape)}"
        raise FormatError(f"{told}: must be uint8 with one axis of at most {MAX_FACTS} bytes of JSON, got {got}")
    facts = strict_json.loads(array(state).tobytes(), told)
    if not isinstance(facts, dict):
        raise FormatError(f"{told}: must be a JSON object, got {checks.shown(facts)}")
    known = FACTS | (NESTED_FACTS if any(part.startswith("nested_") for part in (*own, *facts)) else {})
    if set(facts) != set(known):
        raise FormatError(f"{told}: must hold {', '.join(known)}, got {checks.shown(sorted(facts))}")
    for name, kind in known.items():
        if not isinstance(facts[name], kind) or isinstance(facts[name], bool):
            raise FormatError(f"{told}: {name} may not be {checks.shown(facts[name])}")
    if facts["quant_type"] not in TYPES or state != STATE + facts["quant_type"]:
        allowed = f"{' or '.join(TYPES)}, and that of the name"
        raise FormatError(f"{told}: quant_type must be {allowed}, got {checks.shown(facts['quant_type'])}")
    return facts


def _check_undamaged(own: Mapping[str, ArraySpec], facts: Mapping[str, Any], where: str) -> None:
    """Raise where the weight was packed anew for a CPU's matrix instructions before it was saved."""
    weight, absmax = own["weight"], own["absmax"]
    if len(weight.shape) == 2 and 1 not in weight.shape:
        raise CorruptError(f"{where}: weight must have one column, got {list(weight.shape)}{DAMAGED}")
    if absmax.dtype == "bfloat16" or len(absmax.shape) == 2:
        want = "float32" if facts.keys() == FACTS.keys() else "uint8"
        got = f"{absmax.dtype}{list(absmax.shape)}"
        raise CorruptError(f"{where}: absmax must be {want} with one axis, got {got}{DAMAGED}")
    if (dtype := facts.get("nested_dtype", "float32")) != "float32":
        raise CorruptError(f"{where}: nested_dtype must be float32, got {checks.shown(dtype)}{DAMAGED}")


def _check_table(own: Mapping[str, ArraySpec], array: Callable[[str], np.ndarray], table: str, where: str) -> None:
    """Raise where a 4-bit table is not the one that bitsandbytes decodes with, whatever the file says."""
    want, got = codebooks.table(table).values, own["quant_map"]
    fits = got == ArraySpec((16,), "float32")
    if not fits or not (np.abs(array("quant_map") - want) <= SAME).all():
        raise FormatError(f"{where}: quant_map must be the table of {table}, with which it is decoded, got another one")


def _nested_table(own: Mapping[str, ArraySpec], array: Callable[[str], np.ndarray], where: str) -> str:
    """The name of a table of 8 bits, which, unlike that of 4, bitsandbytes decodes with as it stands in the file."""
    where = f"{where}: nested_quant_map"
    if (got := own["nested_quant_map"]) != ArraySpec((256,), "float32"):
        raise FormatError(f"{where} must be float32[256], got {got.dtype}{list(got.shape)}")
    values = array("nested_quant_map")
    for name in codebooks.NAMES:
        if name not in codebooks.USER and np.array_equal(codebooks.table(name).values, values):
            return name
    with checks.from_file(where):
        Codebook("user8").check({"codebook": values}, ArraySpec((), "float32"))
    return "user8"


def _dtype(bias: LazyTensor | None, config: Config) -> str:
    """The dtype that an int8 weight stands for: that of the model or its bias; float16 is what was quantised."""
    told = (config.dtype, None if bias is None else bias.spec.dtype)
    return next((dtype for dtype in told if dtype in KINDS), "float16")


def _check_rest(raw: Mapping[str, LazyTensor], used: set[str]) -> None:
    """Raise for what looks like a part of a quantised weight and is of none: a truncated state is no dense weight."""
    for key, tensor in raw.items():
        name, _, last = key.rpartition(".")
        if key in used:
            continue
        if name in used or last in (*PARTS, "SCB", "weight_format") or f".{STATE}" in key:
            raise FormatError(f"{tensor.where}: is no part of a weight that has a quant_state or SCB")
        if tensor.dtype == "uint8" and tensor.shape[1:] == (1,):
            raise FormatError(f"{tensor.where}: looks like packed codes, but has no quant_state")
        if tensor.dtype == "int8" and len(tensor.shape) == 2 and last == "weight":
            raise FormatError(f"{tensor.where}: looks like codes of int8 rows, but has no SCB")
