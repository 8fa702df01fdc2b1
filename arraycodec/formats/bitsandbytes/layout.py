"""`Stored`: in which tensors bitsandbytes stores a weight, and how they are the planes of a codec of ours.

The keys and what they hold are specified in docs/format/bitsandbytes.md. Nothing here moves data: the translation is
one of specs, and arrays of any framework can follow it (arraycodec_torch.nn.bitsandbytes does).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec.base import Codec, Planes, Then
from arraycodec.codecs.codebook import Codebook
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.errors import ArgumentError
from arraycodec.primitives import codebooks, memory
from arraycodec.spec import DTYPES, ArraySpec

TYPES = ("nf4", "fp4")
STATE = "quant_state.bitsandbytes__"  # followed by the type
STORAGES = ("uint8", "int8", "float16", "bfloat16", "float32", "float64")  # as which packed codes may be stored
NESTED = Codebook("dynamic", block_size=256, offset=True)  # of statistics, as bitsandbytes makes them


@dataclass(frozen=True)
class Stored:
    """How bitsandbytes stores a weight.

    parts   part -> the plane whose bytes it holds, and the spec it is stored with; the first is "weight"
    offset  that of nested statistics, which stands in the JSON; None where there are none

    >>> Stored.of(Codebook("nf4"), ArraySpec((32, 64), "bfloat16")).parts["weight"]
    ('codes', ArraySpec(shape=(1024, 1), dtype='uint8'))
    """

    codec: Codec
    spec: ArraySpec
    parts: Mapping[str, tuple[str, ArraySpec]]
    offset: float | None = None

    @classmethod
    def of(cls, codec: Codec, spec: ArraySpec, storage: str = "uint8", offset: float | None = None) -> Stored:
        """How a weight in this codec is stored; ArgumentError where bitsandbytes has no such weight.

        storage  the dtype that packed 4-bit codes are stored as, the `quant_storage` of bitsandbytes
        """
        planes = codec.planes(spec)
        if codec == LLMInt8():
            if len(spec.shape) != 2:
                raise ArgumentError(f"bitsandbytes: an int8 weight must have two axes, got {list(spec.shape)}")
            parts = {"weight": ("codes", planes["codes"]), "SCB": ("scales", ArraySpec(spec.shape[:1], "float32"))}
            return cls(codec, spec, parts)
        nested = levels(codec)[1]
        count, width = planes["codes"].size, DTYPES[storage].bits // 8 if storage in STORAGES else 0
        if not width or count % width:
            allowed = f"one of {', '.join(STORAGES)} of which {count} bytes are a whole number"
            raise ArgumentError(f"bitsandbytes: quant_storage must be {allowed}, got {storage!r}")
        held = {"absmax": "absmax"}
        if nested is not None:
            held = {"absmax": "absmax.codes", "nested_absmax": "absmax.absmax"}
            if nested.table in codebooks.USER:
                held["nested_quant_map"] = "absmax.codebook"
        parts = {"weight": ("codes", ArraySpec((count // width, 1), storage))}
        parts |= {part: (name, ArraySpec((planes[name].size,), planes[name].dtype)) for part, name in held.items()}
        return cls(codec, spec, parts, None if nested is None else offset)

    def key(self, name: str, part: str) -> str:
        """The name of the tensor that is this part of the weight `name`."""
        if part == "weight":
            return name
        return module_of(name) + part if isinstance(self.codec, LLMInt8) else f"{name}.{part}"

    def constants(self) -> dict[str, np.ndarray]:
        """The parts that hold no plane: tables, and what the codec says as JSON; for int8 the layout, 0."""
        if isinstance(self.codec, LLMInt8):
            return {"weight_format": np.zeros((), np.uint8)}
        outer, nested = levels(self.codec)
        shape = list(self.spec.known_shape)
        facts = {"quant_type": outer.table, "blocksize": outer.block_size, "dtype": self.spec.dtype, "shape": shape}
        made = {"quant_map": codebooks.table(outer.table).values}
        if nested is not None:
            facts |= {"nested_blocksize": nested.block_size, "nested_dtype": "float32", "nested_offset": self.offset}
            if nested.table not in codebooks.USER:
                made["nested_quant_map"] = codebooks.table(nested.table).values
        return made | {STATE + outer.table: np.frombuffer(json.dumps(facts).encode(), np.uint8)}

    def planes(
        self, arrays: Mapping[str, Any], seen: Callable[[Any, ArraySpec], Any], made: Callable[[np.ndarray], Any]
    ) -> Planes:
        """The planes in the arrays of all parts.

        seen  (array, spec) -> the bytes of the array with the dtype and axes of the spec
        made  an array of NumPy's -> one of the same framework, on the same device
        """
        specs = self.codec.planes(self.spec)
        planes = {name: seen(arrays[part], specs[name]) for part, (name, _) in self.parts.items()}
        if self.offset is not None:
            planes["absmax.offset"] = made(np.array(self.offset, np.float32))
        return {name: planes[name] for name in specs}

    def arrays(
        self, planes: Planes, seen: Callable[[Any, ArraySpec], Any], made: Callable[[np.ndarray], Any]
    ) -> dict[str, Any]:
        """The inverse: all parts, of planes."""
        found = {part: seen(planes[name], spec) for part, (name, spec) in self.parts.items()}
        return found | {part: made(value) for part, value in self.constants().items()}


def levels(codec: Codec) -> tuple[Codebook, Codebook | None]:
    """The codec of a 4-bit weight and that of its statistics; ArgumentError where bitsandbytes has no such weight."""
    outer, parts = (codec.outer, dict(codec.parts)) if isinstance(codec, Then) else (codec, {})
    if isinstance(outer, Codebook) and outer.table in TYPES and outer.block_size and not outer.offset:
        if not parts:
            return outer, None
        nested = parts.pop("absmax", None)
        if isinstance(nested, Codebook) and nested.bits == 8 and nested.block_size and nested.offset and not parts:
            return outer, nested
    raise ArgumentError(f"bitsandbytes: has nf4, fp4 and llm_int8 weights, got {codec!r}")


def module_of(name: str) -> str:
    """What stands before the `weight` of a module in names of its tensors: its own name and a dot, or nothing."""
    return name.removesuffix("weight")


def seen_as(array: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """The bytes of an array with the dtype and axes of a spec."""
    return memory.native(array).reshape(-1).view(spec.numpy_dtype).reshape(spec.known_shape)
