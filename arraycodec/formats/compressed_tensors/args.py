"""How compressed-tensors describes one quantisation: `Args` of a tensor, `Scheme` of the modules of a group.

Both are read as strictly as the library reads them, and written with exactly the members that it writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from arraycodec.base import Codec
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.microscaling import Microscaling
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.containers import checks
from arraycodec.errors import FormatError
from arraycodec.primitives.grid import BlockSize
from arraycodec.spec import BY_TORCH

FLAVOUR = "compressed-tensors"
TYPES = ("int", "float")
STRATEGIES = ("tensor", "channel", "group", "block", "token", "tensor_group", "attn_head")
GROUPED = ("group", "tensor_group")
DYNAMIC = ("token", "tensor", "tensor_group", "group")  # strategies whose scales may be found while a model runs
INPUTS = ("token", "tensor", "group", "tensor_group", "attn_head")
ACTORDERS = ("weight", "static", "group", "dynamic")  # the last two stored g_idx, until 0.18
# The formats of a group, and what stands for several of them or was given up in 0.15.
FORMATS = (
    "dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mxfp6-pack-quantized", "mxfp8-quantized",
)  # fmt: skip
MIXED = "mixed-precision"
LEGACY = ("sparse-bitmask", "sparse-24-bitmask", "marlin-24")
MX_FORMATS = {4: "float4_e2m1fn", 6: "float6_e2m3fn", 8: "float8_e4m3fn"}
MX_GROUP, NV_GROUP = 32, 16


@dataclass(frozen=True)
class Args:
    """How one tensor of a module is quantised: the library's `QuantizationArgs`.

    num_bits, type ("int" or "float"), symmetric
    strategy          which elements share a scale; inferred from group_size where a file does not say
    group_size        consecutive elements of a row, for the strategies group and tensor_group
    block_structure   (rows, columns), for the strategy block
    dynamic           scales are found while the model runs: True, or "local" for those below a global scale
    actorder          None, or in which order GPTQ went through the columns
    scale_dtype, zp_dtype  by their NumPy names; observer, observer_kwargs  of the calibration

    >>> Args.from_json({"num_bits": 4, "group_size": 128}, "weights").strategy
    'group'
    """

    num_bits: int = 8
    type: str = "int"
    symmetric: bool = True
    group_size: int | None = None
    strategy: str = "tensor"
    block_structure: tuple[int, int] | None = None
    dynamic: bool | str = False
    actorder: str | None = None
    scale_dtype: str | None = None
    zp_dtype: str | None = None
    observer: str | None = None
    observer_kwargs: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any, where: str) -> Args:
        """The Args that a file holds; FormatError, which begins with `where`, for what the library would refuse.

        Read besides are orders of columns that it read until 0.18 ("group", "dynamic", true).
        """
        data = known(data, tuple(f.name for f in fields(cls)), where)

        def get(key: str, default: Any, allowed: str, valid: Any) -> Any:
            value = data.get(key, default)
            if not valid(value):
                raise FormatError(f"{where}: {key} must be {allowed}, got {checks.shown(value)}")
            return value

        def one_of(key: str, default: Any, options: tuple[Any, ...]) -> Any:
            value = data.get(key, default)
            lowered = value.lower() if isinstance(value, str) else value
            # `in` alone would take 1 for True.
            if not any(type(lowered) is type(option) and lowered == option for option in options):
                told = ", ".join(map(repr, options))
                raise FormatError(f"{where}: {key} must be one of {told}, got {checks.shown(value)}")
            return lowered

        symmetric = get("symmetric", True, "true or false", lambda v: isinstance(v, bool))
        actorder = one_of("actorder", None, (*ACTORDERS, True, False, None))
        args = cls(
            num_bits=get("num_bits", 8, "an integer from 1 to 32", lambda v: is_integer(v, 1, 32)),
            type=one_of("type", "int", TYPES),
            symmetric=symmetric,
            group_size=get(
                "group_size", None, "a positive integer, -1 or null",
                lambda v: v is None or is_integer(v, 1) or (is_integer(v, -1) and v == -1),
            ),
            strategy=_strategy(one_of("strategy", None, (*STRATEGIES, None)), data.get("group_size")),
            block_structure=_block_structure(data.get("block_structure"), where),
            dynamic=one_of("dynamic", False, ("local", True, False)),
            actorder="group" if actorder is True else actorder or None,
            scale_dtype=_dtype(data, "scale_dtype", where),
            zp_dtype=_dtype(data, "zp_dtype", where),
            observer=get("observer", None, "a string or null", lambda v: v is None or isinstance(v, str)),
            observer_kwargs=get("observer_kwargs", {}, "an object", lambda v: isinstance(v, dict)),
        )  # fmt: skip
        args._check(where)
        return args._with_zero_points() if "zp_dtype" in data else args

    def to_json(self) -> dict[str, Any]:
        """The members that the library writes: some always, others only where they say something."""
        data: dict[str, Any] = {
            "num_bits": self.num_bits,
            "type": self.type,
            "symmetric": self.symmetric,
            "group_size": self.group_size,
            "strategy": self.strategy,
            "block_structure": list(self.block_structure) if self.block_structure else None,
            "dynamic": self.dynamic,
            "actorder": self.actorder,
            "scale_dtype": self.scale_dtype and f"torch.{self.scale_dtype}",
            "zp_dtype": None if self.symmetric else self.zp_dtype and f"torch.{self.zp_dtype}",
            "observer": self.observer,
            "observer_kwargs": dict(self.observer_kwargs) or None,
        }
        return {key: value for key, value in data.items() if value is not None or key == "group_size"}

    @property
    def block_size(self) -> BlockSize:
        """The tiles of a weight that share a scale."""
        if self.strategy == "tensor":
            return None
        if self.strategy == "channel":
            return (1, None)
        if self.strategy == "block":
            return self.block_structure
        return (1, self.group_size)

    def codec(self) -> Codec:
        """The codec of weights that are quantised so; FormatError where there is none."""
        if self.type == "int" and self.num_bits <= 8 and self.strategy in ("tensor", "channel", "group", "block"):
            return Linear(self.num_bits, self.symmetric, self.block_size, FLAVOUR, "eager")
        if self.type == "float" and self.symmetric:
            if self.is_mx:
                return Microscaling(MX_FORMATS[self.num_bits], MX_GROUP, FLAVOUR)
            if self.is_nvfp4:
                return NVFP4(NV_GROUP, "eager")
            if self.num_bits == 8 and self.strategy in ("tensor", "channel", "group", "block"):
                return Minifloat("float8_e4m3fn", self.block_size, flavour=FLAVOUR, arithmetic="eager")
        raise FormatError(f"weights: no stored format has such weights, got {self.to_json()}")

    @property
    def is_mx(self) -> bool:
        """Whether groups share a power of two."""
        if self.type != "float" or self.group_size != MX_GROUP:
            return False
        return self.num_bits in (4, 6) or (self.num_bits == 8 and self.scale_dtype == "uint8")

    @property
    def is_nvfp4(self) -> bool:
        """Whether groups share a float8 scale under a global one."""
        return self.type == "float" and self.num_bits == 4 and self.group_size == NV_GROUP

    def _check(self, where: str) -> None:
        """The rules that several members obey together."""
        size = self.group_size
        if self.strategy == "token" and not self.dynamic:
            raise FormatError(f"{where}: the strategy token needs dynamic = true")
        if (self.strategy in GROUPED) != (size is not None and size > 0):
            told = "group_size > 0 goes with the strategies group and tensor_group"
            raise FormatError(f"{where}: {told}, got {size} with {self.strategy}")
        if (self.strategy == "block") != (self.block_structure is not None):
            raise FormatError(f"{where}: block_structure goes with the strategy block, got {self.strategy}")
        if self.dynamic and self.strategy not in DYNAMIC:
            raise FormatError(f"{where}: dynamic goes with {', '.join(DYNAMIC)}, got {self.strategy}")
        if self.dynamic == "local" and self.strategy != "tensor_group":
            raise FormatError(f"{where}: dynamic 'local' goes with tensor_group, got {self.strategy}")

    def _with_zero_points(self) -> Args:
        """With the dtype of zero points that the library takes where one is named as null."""
        if self.zp_dtype is not None:
            return self
        wide = "int8" if self.num_bits <= 8 else "int16" if self.num_bits <= 16 else "int32"
        return replace(self, zp_dtype="float8_e4m3fn" if self.type == "float" else wide)


@dataclass(frozen=True)
class Scheme:
    """How the modules of a group are quantised: the library's `QuantizationScheme`.

    targets             names of modules, "re:" and a regular expression, names of classes
    weights, input_activations, output_activations   Args, or None for what stays as it is
    format              in which weights are stored; None where that follows from the others

    >>> Scheme.from_json({"targets": ["Linear"], "weights": {"num_bits": 4}}, "group_0").stored_format()
    'pack-quantized'
    """

    targets: tuple[str, ...] = ()
    weights: Args | None = None
    input_activations: Args | None = None
    output_activations: Args | None = None
    format: str | None = None

    @classmethod
    def from_json(cls, data: Any, where: str) -> Scheme:
        """The Scheme that a file holds; FormatError, which begins with `where`, for what the library would refuse."""
        data = known(data, tuple(f.name for f in fields(cls)), where)
        format = data.get("format")
        if format is not None and format not in (*FORMATS, *LEGACY):
            told = ", ".join((*FORMATS, *LEGACY))
            raise FormatError(f"{where}: format must be one of {told} or null, got {checks.shown(format)}")
        args = {
            key: None if data.get(key) is None else Args.from_json(data[key], f"{where}.{key}")
            for key in ("weights", "input_activations", "output_activations")
        }
        inputs, outputs = args["input_activations"], args["output_activations"]
        if inputs and inputs.strategy not in INPUTS:
            told = ", ".join(INPUTS)
            raise FormatError(f"{where}.input_activations: strategy must be one of {told}, got {inputs.strategy}")
        if (inputs and inputs.actorder) or (outputs and outputs.actorder):
            raise FormatError(f"{where}: actorder is a member of weights, not of activations")
        return cls(strings(data.get("targets"), f"{where}.targets"), **args, format=format)

    def to_json(self) -> dict[str, Any]:
        """All five members, null where there is nothing."""
        args = {key: getattr(self, key) for key in ("weights", "input_activations", "output_activations")}
        written = {key: value.to_json() if value else None for key, value in args.items()}
        return {"targets": list(self.targets)} | written | {"format": self.format}

    def stored_format(self) -> str:
        """The format that weights are stored in: the one that is named, else the one that the library would choose."""
        weights = self.weights
        if self.format is not None or weights is None:
            return self.format or "dense"
        if weights.is_mx:
            return "mxfp8-quantized" if weights.num_bits == 8 else f"mxfp{weights.num_bits}-pack-quantized"
        if weights.is_nvfp4:
            return "nvfp4-pack-quantized"
        if weights.type == "int":
            return "int-quantized" if self.input_activations else "pack-quantized"
        return "float-quantized" if self.input_activations else "naive-quantized"


def known(data: Any, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """`data` where it is an object with no members but these."""
    if not isinstance(data, dict):
        raise FormatError(f"{where}: must be an object, got {checks.shown(data)}")
    if unknown := sorted(set(data) - set(keys)):
        raise FormatError(f"{where}: {checks.shown(unknown[0])} is not known, allowed are {', '.join(keys)}")
    return data


def strings(value: Any, where: str) -> tuple[str, ...]:
    """`value` where it is a list of strings."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(f"{where}: must be a list of strings, got {checks.shown(value)}")
    return tuple(value)


def is_integer(value: object, least: int, most: int = 2**31) -> bool:
    """Whether this is an int in least..most, and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _strategy(strategy: str | None, group_size: Any) -> str:
    if strategy is not None:
        return strategy
    return "tensor" if group_size is None else "channel" if group_size == -1 else "group"


def _block_structure(value: Any, where: str) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value
    if isinstance(value, str):  # "128x128", as until 2025
        sides = [int(side) for side in value.split("x") if side.isdecimal() and len(side) < 10]
    if not isinstance(sides, list) or len(sides) != 2 or not all(is_integer(side, 1) for side in sides):
        raise FormatError(f"{where}: block_structure must be [rows, columns], got {checks.shown(value)}")
    return (sides[0], sides[1])


def _dtype(data: dict[str, Any], key: str, where: str) -> str | None:
    value = data.get(key)
    if value is None:
        return None
    name = value.removeprefix("torch.") if isinstance(value, str) else ""
    if name not in BY_TORCH:
        raise FormatError(f"{where}: {key} must be a dtype such as 'torch.uint8', got {checks.shown(value)}")
    return BY_TORCH[name].name
