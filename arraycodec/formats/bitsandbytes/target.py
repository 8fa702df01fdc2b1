"""`Bitsandbytes`: the target that writes what transformers loads with bitsandbytes, and the config.json to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec, Encoded, Then
from arraycodec.codecs.codebook import Codebook
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.containers import checks
from arraycodec.errors import ArgumentError, FormatError, UnknownCodecError
from arraycodec.formats.bitsandbytes.layout import NESTED, STORAGES, TYPES, Stored, levels, seen_as
from arraycodec.formats.config import Config
from arraycodec.formats.layers import IGNORE, Layers
from arraycodec.formats.modules import EXPERTS, kind, module_of
from arraycodec.formats.target import Decision
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec

BLOCK_SIZES = tuple(32 << i for i in range(8))  # that its kernels take
NAMES = ("nf4", "fp4", "nf4-double", "fp4-double", "llm_int8")  # of schemes that its files hold
MATRIX = ArraySpec((1, 1), "float32")  # stands for the weight of a module of which only the name is known


@dataclass(frozen=True)
class Bitsandbytes:
    """A target in bitsandbytes' format; one model has weights of 4 bits or of 8, not of both.

    layers         codecs of weights. Without any, weights stay in the codec they are in, where bitsandbytes has it, and
                   plain ones plain
    storage        the dtype that packed codes are stored as, `bnb_4bit_quant_storage`
    compute_dtype  of products, `bnb_4bit_compute_dtype`; None is the model's own
    threshold      of outliers in the inputs of int8 weights, `llm_int8_threshold`

    >>> target = Bitsandbytes.of({"Linear": "nf4-double"})
    >>> target.decide("model.layers.0.mlp.up_proj.weight", ArraySpec((128, 64), "bfloat16"), None).reason
    'Linear'
    >>> target.decide("lm_head.weight", ArraySpec((128, 64), "bfloat16"), None).reason
    'ignored: lm_head'
    """

    name: ClassVar[str] = "bitsandbytes"
    metadata: ClassVar[Mapping[str, str]] = {"format": "pt"}
    align: ClassVar[int] = 8

    layers: Layers
    storage: str = "uint8"
    compute_dtype: str | None = None
    threshold: float = 6.0

    @classmethod
    def of(
        cls, layers: Mapping[str, str | Codec | None], ignore: tuple[str, ...] = IGNORE, **options: Any
    ) -> Bitsandbytes:
        """The target for these layers; schemes are nf4, fp4, nf4-double, fp4-double, llm_int8 (or int8), and codecs."""
        codecs = {target: None if scheme is None else _codec(scheme) for target, scheme in layers.items()}
        if fault := next(filter(None, map(_fault, filter(None, codecs.values()))), None):
            raise ArgumentError(f"bitsandbytes: {fault}")
        if len({isinstance(codec, LLMInt8) for codec in codecs.values() if codec}) > 1:
            raise ArgumentError("bitsandbytes: a model has weights of 4 bits or int8, got schemes of both")
        return cls(Layers(codecs, tuple(ignore)), **options)

    @classmethod
    def from_config(cls, quantization: Mapping[str, Any], where: str = "config") -> Bitsandbytes:
        """The target that a quantization_config of transformers asks for; FormatError where it asks for none."""
        said = dict(quantization)
        double, kind_ = said.get("bnb_4bit_use_double_quant", False), said.get("bnb_4bit_quant_type", "fp4")
        if said.get("load_in_4bit", False) == said.get("load_in_8bit", False) or kind_ not in TYPES:
            allowed = f"one of load_in_4bit and load_in_8bit, and bnb_4bit_quant_type {' or '.join(TYPES)}"
            raise FormatError(f"{where}: must have {allowed}, got {checks.shown(said)}")
        codec = LLMInt8() if said.get("load_in_8bit") else registry.codec(f"{kind_}-double" if double else kind_)
        skipped = said.get("llm_int8_skip_modules")
        skipped = IGNORE if skipped is None else skipped
        if not isinstance(skipped, (list, tuple)) or not all(isinstance(key, str) for key in skipped):
            raise FormatError(f"{where}: llm_int8_skip_modules must be a list of names, got {checks.shown(skipped)}")
        ignore = tuple(f"re:{_boundary(key)}|.*{re.escape(key)}$" for key in skipped)
        return cls(
            Layers({"Linear": codec}, ignore), said.get("bnb_4bit_quant_storage", "uint8"),
            said.get("bnb_4bit_compute_dtype"), said.get("llm_int8_threshold", 6.0),
        )  # fmt: skip

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise ArgumentError(f"bitsandbytes: storage must be one of {', '.join(STORAGES)}, got {self.storage!r}")
        if self.compute_dtype is not None and self.compute_dtype not in KINDS:
            allowed = f"{', '.join(KINDS)} or None"
            raise ArgumentError(f"bitsandbytes: compute_dtype must be {allowed}, got {self.compute_dtype!r}")
        if isinstance(self.threshold, bool) or not isinstance(self.threshold, int | float) or not self.threshold >= 0:
            raise ArgumentError(f"bitsandbytes: threshold must be a number >= 0, got {self.threshold!r}")

    def decide(self, name: str, spec: ArraySpec, codec: Codec | None) -> Decision:
        """The codec of a weight, which is the one it is in where that gives the same kind of weight."""
        if not self.layers.schemes:
            fault = "plain" if codec is None else _fault(codec) or _unfit(codec, spec)
            return Decision(None, fault) if fault else Decision(codec, "as it was")
        if (entry := self.layers.ignored(name, spec)) is not None:
            return Decision(None, f"ignored: {entry}")
        if (found := self.layers.find(name, spec)) is None:
            return Decision(None, f"{kind(name, spec) or 'no weight'}: in no target")
        target, chosen = found
        if not isinstance(chosen, Codec):
            return Decision(None, f"plain: {target}")
        if unfit := _unfit(chosen, spec):
            return Decision(None, unfit)
        if codec is not None and _alike(codec, chosen):
            return Decision(codec, f"{target}: as it was")
        if target == "Linear" and EXPERTS.search(name):
            return Decision(None, "Experts: transformers loads them plain")
        return Decision(chosen, target, "float16" if isinstance(chosen, LLMInt8) else None)

    def carries(self, name: str, decisions: Mapping[str, Decision]) -> bool:
        """No: it finds them while a model runs."""
        return False

    def fused(self, names: list[str]) -> list[tuple[str, ...]]:
        """None: no scale is shared."""
        return []

    def layout(self, name: str, spec: ArraySpec, codec: Codec, encoded: Callable[[], Encoded]) -> dict[str, ArraySpec]:
        """The stored tensors; with nested statistics the length of the JSON depends on their offset."""
        nested = not isinstance(codec, LLMInt8) and levels(codec)[1] is not None
        stored = self._stored(Encoded(codec, spec, encoded().planes if nested else {}))
        parts = {part: spec for part, (_, spec) in stored.parts.items()}
        parts |= {part: ArraySpec(value.shape, value.dtype.name) for part, value in stored.constants().items()}
        return {stored.key(name, part): spec for part, spec in parts.items()}

    def arrays(self, name: str, encoded: Encoded) -> dict[str, np.ndarray]:
        """The stored tensors, which share the memory of the planes."""
        stored = self._stored(encoded)
        parts = stored.arrays(encoded.planes, seen_as, np.asarray)
        return {stored.key(name, part): array for part, array in parts.items()}

    def config(self, model: dict[str, Any], decisions: Mapping[str, Decision]) -> dict[str, Any]:
        """config.json with the quantization_config that transformers writes; without one where nothing is quantised."""
        quantised = {module_of(name)[0]: d.codec for name, d in decisions.items() if d.codec is not None}
        int8 = {isinstance(codec, LLMInt8) for codec in quantised.values()}
        if not int8:
            return dict(model)
        if len(int8) > 1:
            raise ArgumentError("bitsandbytes: weights of a model must be of 4 bits or int8, got both")
        plain = [module_of(name)[0] for name, d in decisions.items() if d.codec is None and _is_linear(name)]
        skip = [entry for entry in self.layers.ignore if entry in IGNORE]
        skip += [module for module in plain if module not in skip]
        for key in skip:
            pattern = re.compile(f"{_boundary(key)}|.*{re.escape(key)}$")
            if taken := next(filter(pattern.match, quantised), None):
                raise ArgumentError(
                    f"bitsandbytes: llm_int8_skip_modules cannot name {key!r}, which stays plain, and not {taken!r}"
                )
        four = [] if int8 == {True} else [levels(codec) for codec in quantised.values()]
        compute = self.compute_dtype or Config(model=model).dtype or "float32"
        found = model | {
            "quantization_config": {
                "_load_in_4bit": bool(four),
                "_load_in_8bit": not four,
                "bnb_4bit_compute_dtype": compute if four else "float32",
                "bnb_4bit_quant_storage": self.storage if four else "uint8",
                "bnb_4bit_quant_type": four[0][0].table if four else "fp4",
                "bnb_4bit_use_double_quant": bool(four) and four[0][1] is not None,
                "llm_int8_enable_fp32_cpu_offload": False,
                "llm_int8_has_fp16_weight": False,
                "llm_int8_skip_modules": skip,
                "llm_int8_threshold": self.threshold,
                "load_in_4bit": bool(four),
                "load_in_8bit": not four,
                "quant_method": self.name,
            }
        }
        return dict(sorted(found.items()))  # as transformers writes it

    def _stored(self, encoded: Encoded) -> Stored:
        offset = encoded.planes.get("absmax.offset")
        return Stored.of(encoded.codec, encoded.spec, self.storage, None if offset is None else float(offset))


def _codec(scheme: str | Codec) -> Codec:
    """The codec of a scheme; of names those of `NAMES`, `int8`, which is llm_int8 here, and codecs' own."""
    try:
        return registry.codec("llm_int8" if scheme == "int8" else scheme)
    except UnknownCodecError as error:
        allowed = f"{', '.join(NAMES)} or a codec"
        raise UnknownCodecError(f"bitsandbytes: scheme must be {allowed}, got {scheme!r}") from error


def _fault(codec: Codec) -> str | None:
    """Why bitsandbytes cannot compute with weights in this codec; None where it can."""
    if codec == LLMInt8():
        return None
    try:
        outer, nested = levels(codec)
    except ArgumentError as error:
        return str(error).removeprefix("bitsandbytes: ")
    if outer.block_size not in BLOCK_SIZES:
        return f"block_size must be one of {', '.join(map(str, BLOCK_SIZES))}, got {outer.block_size}"
    if nested is not None and nested.block_size != NESTED.block_size:
        return f"nested statistics must have blocks of {NESTED.block_size}, got {nested.block_size}"
    return None


def _unfit(codec: Codec, spec: ArraySpec) -> str | None:
    """Why an array of this spec stays plain."""
    if spec.dtype not in KINDS:
        return f"{spec.dtype} is not one of {', '.join(KINDS)}"
    if not spec.size:
        return "empty"
    return "not a matrix" if isinstance(codec, LLMInt8) and len(spec.shape) != 2 else None


def _alike(codec: Codec, chosen: Codec) -> bool:
    """Whether weights in both codecs are decoded alike, and nothing was asked for that planes at hand do not have."""

    def decoding(codec: Codec) -> Codec:
        if isinstance(codec, Codebook):
            return replace(codec, flavour=None)
        if isinstance(codec, Then):  # nested statistics hold their own table
            parts = ((plane, replace(part, table=NESTED.table, flavour=None)) for plane, part in codec.parts)
            return Then(decoding(codec.outer), tuple(parts))
        return codec

    return _fault(codec) is None and decoding(codec) == decoding(chosen)


def _is_linear(name: str) -> bool:
    """Whether transformers may take the module of this weight for one to be replaced."""
    return kind(name, MATRIX) in ("Linear", "Router")


def _boundary(key: str) -> str:
    """The expression by which transformers matches a key of llm_int8_skip_modules at the start of a name."""
    return rf"(?:{key})(?:(?<=\.)|(?=\.|$))"
