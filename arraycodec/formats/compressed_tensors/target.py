"""`CompressedTensors`: checkpoints as compressed-tensors writes them, which transformers and vLLM load."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec, Encoded
from arraycodec.codecs.microscaling import Microscaling
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.containers import checks
from arraycodec.errors import ArgumentError, UnknownCodecError
from arraycodec.formats import modules
from arraycodec.formats.compressed_tensors import described, stored
from arraycodec.formats.compressed_tensors.args import Args, Scheme
from arraycodec.formats.compressed_tensors.described import Chosen
from arraycodec.formats.compressed_tensors.presets import PRESETS
from arraycodec.formats.compressed_tensors.resolve import METHOD, Quantization
from arraycodec.formats.config import KEYS
from arraycodec.formats.layers import IGNORE, check_expressions
from arraycodec.formats.target import Decision
from arraycodec.spec import ArraySpec

ROUTER = "Router"
CLASSES = ("Linear", "Embedding", ROUTER)  # of modules whose weights may be quantised
STORED_ORDERS = ("group", "dynamic")
ARITHMETIC = ("eager", "float32")
Layers = Mapping[str, "str | Codec | None"]


@dataclass(frozen=True)
class CompressedTensors:
    """The format compressed-tensors as a target; `of` and `from_config` make it.

    quantization  which modules are quantised, and how; None: weights stay in the codecs that the source has them in
    arithmetic    "eager" for the codes that the library computes on a CPU, "float32" for those of its kernels
    inputs        module -> how its inputs are quantised, of weights that stay in the codecs of the source
    kinds         module -> its class, where that is known; else names tell ("Linear", "Embedding", "Router" or other)
    expected      targets that must match a module, since a user wrote them
    """

    name: ClassVar[str] = METHOD
    metadata: ClassVar[Mapping[str, str]] = {"format": "pt"}
    align: ClassVar[int] = 8

    quantization: Quantization | None
    arithmetic: str = "eager"
    kinds: Mapping[str, str] | None = None
    expected: tuple[str, ...] = ()
    inputs: Mapping[str, Args] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.arithmetic not in ARITHMETIC:
            raise ArgumentError(f"arithmetic must be one of {', '.join(ARITHMETIC)}, got {self.arithmetic!r}")
        for name, scheme in (self.quantization.groups if self.quantization else {}).items():
            stored.check_format(scheme, f"config_groups.{checks.shown(name)}")

    @classmethod
    def of(
        cls,
        layers: Layers,
        ignore: Sequence[str] = IGNORE,
        *,
        arithmetic: str = "eager",
        kinds: Mapping[str, str] | None = None,
    ) -> CompressedTensors:
        """A target for these layers.

        layers  target -> scheme. A target is the name of a module, "re:" and a regular expression, or "Linear" or
                "Embedding"; names come before expressions, and these, sorted, before classes. Only its name is a target
                for a router of experts. A scheme is one of the library's presets ("W4A16", in any case), one of ours, a
                codec, or None for what stays plain whatever else matches. No layers: all weights stay in the codecs
                that they are in.
        ignore  targets that stay plain, whatever `layers` says.

        >>> CompressedTensors.of({"Linear": "W4A16"}).quantization.groups["group_0"].weights.num_bits
        4
        """
        if not layers:
            return cls(None, arithmetic, kinds)
        ignore = (ignore,) if isinstance(ignore, str) else tuple(ignore)
        check_expressions((*layers, *ignore), "compressed-tensors")
        schemes: list[Scheme] = []
        for target, scheme in layers.items():
            if scheme is None:
                ignore = (*ignore, target)
                continue
            found = scheme_of(scheme)
            for i, other in enumerate(schemes):
                if replace(other, targets=()) == found:
                    schemes[i] = replace(found, targets=(*other.targets, target))
                    break
            else:
                schemes.append(replace(found, targets=(target,)))
        groups = {f"group_{i}": scheme for i, scheme in enumerate(schemes)}
        return cls(
            Quantization(groups, tuple(ignore)),
            arithmetic,
            kinds,
            tuple(target for target in layers if target not in CLASSES),
        )

    @classmethod
    def from_config(
        cls,
        quantization: Mapping[str, Any],
        where: str = "quantization_config",
        *,
        arithmetic: str = "eager",
        kinds: Mapping[str, str] | None = None,
    ) -> CompressedTensors:
        """A target for a quantization_config; caches, transforms and what else it says are kept."""
        found = Quantization.from_json(quantization, where)
        groups = {name: _in_order(scheme) for name, scheme in found.groups.items()}
        return cls(replace(found, groups=groups), arithmetic, kinds)

    def decide(self, name: str, spec: ArraySpec, codec: Codec | None) -> Chosen:
        """The codec of a tensor: that of its module's scheme, or the source's where its planes are stored alike.

        ArgumentError, which names the tensor, where its scheme cannot be that of a tensor of this shape or dtype.
        """
        module, kind = self._module(name, spec)
        scheme = self._scheme(module, kind, spec, codec)
        if kind is None or scheme is None or scheme.weights is None:
            return Chosen(None, self._why_plain(module, kind, codec), kind=kind)
        label = f"{scheme.stored_format()}: {label_of(scheme.weights)}"
        held = None if codec is None else stored.args_of(codec, spec)
        if held is not None and stored.same_planes(held, scheme.weights):
            inverted = isinstance(codec, NVFP4) and codec.multiplies
            told = f"{label}, as the source has it" + (", its global scale inverted" if inverted else "")
            return Chosen(codec, told, rounds=inverted, kind=kind, scheme=scheme)
        wanted = self._codec(scheme.weights)
        where, group = f"tensor {checks.shown(name)}", scheme.weights.group_size
        if group and spec.known_shape[-1] % group:
            raise ArgumentError(
                f"{where}: rows must be whole groups of {group} elements, got {spec.known_shape[-1]}; "
                "ignore it, or give it a scheme of another group_size"
            )
        try:
            wanted.supports(spec)
        except ArgumentError as error:
            raise ArgumentError(f"{where}: {error}") from None
        return Chosen(wanted, label, kind=kind, scheme=scheme)

    def carries(self, name: str, decisions: Mapping[str, Decision]) -> bool:
        """Whether the result's configuration speaks of a scale of activations or of a cache."""
        chosen = {key: decision for key, decision in decisions.items() if isinstance(decision, Chosen)}
        return described.describes(self.quantization, chosen, name)

    def fused(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The sets of weights among these that must share a global scale."""
        found = self.quantization

        def shares(name: str) -> bool:
            module, _ = modules.module_of(name)
            scheme = found.targeting(module, (self.kinds or {}).get(module)) if found else None
            return scheme is not None and scheme.weights is not None and scheme.weights.is_nvfp4

        return modules.fused_sets([name for name in names if shares(name)])

    def layout(
        self, name: str, spec: ArraySpec, codec: Codec, encoded: Callable[[], Encoded] | None = None
    ) -> dict[str, ArraySpec]:
        """name -> spec of the tensors that a weight is stored as; none of them depends on data."""
        module, format = self._stored(name, spec, codec)
        return {f"{module}.{key}".removeprefix("."): value for key, value in stored.layout(format, spec, codec).items()}

    def arrays(self, name: str, encoded: Encoded) -> dict[str, np.ndarray]:
        """These tensors."""
        module, format = self._stored(name, encoded.spec, encoded.codec)
        return {f"{module}.{key}".removeprefix("."): value for key, value in stored.arrays(format, encoded).items()}

    def config(self, model: Mapping[str, Any], decisions: Mapping[str, Decision]) -> dict[str, Any]:
        """config.json of the result, sorted by key; indented by 2 it is the library's own, byte for byte.

        decisions  of all tensors, as `decide` returned them; ArgumentError where one is missing that a scheme needs,
                   such as the scale of a layer's inputs.
        """
        found = self.quantization_config(decisions)
        model = {key: value for key, value in model.items() if key not in KEYS}
        return _sorted(model if found is None else model | {KEYS[0]: found})

    def quantization_config(self, decisions: Mapping[str, Decision]) -> dict[str, Any] | None:
        """The quantization_config of `config`; None where no weight is quantised."""
        chosen = {name: decision for name, decision in decisions.items() if isinstance(decision, Chosen)}
        described.check_targets(self.expected, chosen)
        described.check_calibrated(self.quantization, chosen, decisions)
        return described.quantization_config(self.quantization, chosen)

    def _module(self, name: str, spec: ArraySpec) -> tuple[str, str | None]:
        """The module of a weight and its class; None where the library quantises no such module."""
        module, parameter = modules.module_of(name)
        kind = modules.kind(name, spec)
        if self.kinds is not None:
            kind = self.kinds.get(module) if parameter == modules.WEIGHT else None
        return module, kind if kind in CLASSES else None

    def _scheme(self, module: str, kind: str | None, spec: ArraySpec, codec: Codec | None) -> Scheme | None:
        if kind is None:
            return None
        if self.quantization is not None:
            scheme = self.quantization.scheme_of(module, kind)
            # Engines load a router as it is, so an expression that happens to match its name is not about it.
            meant = scheme is None or kind != ROUTER or module in scheme.targets
            return scheme if meant else None
        args = None if codec is None else stored.args_of(codec, spec)
        return None if args is None else Scheme((), args, self.inputs.get(module))

    def _stored(self, name: str, spec: ArraySpec, codec: Codec) -> tuple[str, str]:
        """The module of a weight that is quantised, and its format."""
        module, kind = self._module(name, spec)
        scheme = self._scheme(module, kind, spec, codec)
        if scheme is None:
            raise ArgumentError(f"tensor {checks.shown(name)}: compressed-tensors stores it plain, got {codec}")
        return module, scheme.stored_format()

    def _codec(self, args: Args) -> Codec:
        codec = args.codec()
        return codec if isinstance(codec, Microscaling) else replace(codec, arithmetic=self.arithmetic)  # type: ignore[call-arg]

    def _why_plain(self, module: str, kind: str | None, codec: Codec | None) -> str:
        decoded = "" if codec is None else ", decoded"
        if kind is None:
            return f"no weight of a Linear or an Embedding{decoded}"
        if self.quantization is None:
            return "plain in the source" if codec is None else f"no format has {codec}{decoded}"
        return f"ignored{decoded}" if self.quantization.ignores(module, kind) else f"{kind}: no scheme{decoded}"


def scheme_of(scheme: str | Codec) -> Scheme:
    """The Scheme, without targets, of one of the library's presets, one of our schemes, or a codec of weights."""
    if isinstance(scheme, str) and scheme.upper() in PRESETS:
        return PRESETS[scheme.upper()]
    try:
        codec = registry.codec(scheme)
    except UnknownCodecError as error:
        close = get_close_matches(str(scheme).upper(), PRESETS, 3)
        if not close:
            raise
        message = f"compressed-tensors: scheme {scheme!r} is not known, closest are {', '.join(close)}"
        raise UnknownCodecError(f"{message}; `arraycodec list` shows all") from error
    args = stored.args_of(codec)
    if args is None:
        presets = ", ".join(PRESETS)
        raise ArgumentError(
            f"compressed-tensors: scheme must be one of {presets}, or a codec of integers, float8, MX or NVFP4 that "
            f"it has a format for, got {scheme}"
        )
    return Scheme((), args)


def _in_order(scheme: Scheme) -> Scheme:
    """Without an order of columns that is stored, which the library gave up in 0.19: our columns stand as they are."""
    if scheme.weights is None or scheme.weights.actorder not in STORED_ORDERS:
        return scheme
    return replace(scheme, weights=replace(scheme.weights, actorder=None))


def _sorted(value: Any) -> Any:
    """JSON with the members of objects in the order of their names."""
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value


def label_of(args: Args) -> str:
    """Args in a few words.

    >>> label_of(PRESETS["W4A16_ASYM"].weights)
    'int4, asymmetric, group of 128'
    """
    tile = {"group": args.group_size, "tensor_group": args.group_size, "block": args.block_structure}.get(args.strategy)
    words = [f"{args.type}{args.num_bits}", "" if args.symmetric else "asymmetric"]
    words.append(args.strategy if tile is None else f"group of {tile}" if args.group_size else f"block of {tile}")
    return ", ".join(word for word in words if word)
