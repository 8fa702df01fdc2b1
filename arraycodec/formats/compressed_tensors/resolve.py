"""`Quantization`: a whole quantization_config, and which of its schemes is that of a module."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from arraycodec.containers import checks
from arraycodec.errors import FormatError
from arraycodec.formats.compressed_tensors.args import FORMATS, LEGACY, MIXED, Args, Scheme, strings
from arraycodec.formats.compressed_tensors.presets import preset
from arraycodec.formats.modules import WEIGHT, kind
from arraycodec.formats.parts import expression
from arraycodec.spec import ArraySpec

METHOD = "compressed-tensors"
METHODS = (METHOD, "compressed_tensors")  # the library reads both, and writes the first
STATUSES = ("initialized", "calibration", "frozen", "compressed", "decompressed")
FAKEQUANT = "fakequant"  # what the library calls the format of a config that names none
EXPRESSION = "re:"
_MATRIX = ArraySpec((1, 1), "bfloat16")
KEYS = (
    "version", "quant_method", "sparsity_config", "transform_config", "config_groups", "kv_cache_scheme", "format",
    "quantization_status", "global_compression_ratio", "ignore", "moe_sparsity_config",
)  # fmt: skip


@dataclass(frozen=True)
class Quantization:
    """A quantization_config of compressed-tensors.

    groups    name -> Scheme; a preset that a file gives by its name is its Scheme here
    ignore    modules that no group holds, named like targets
    format    of all groups that name none; "mixed-precision" where they differ; None where a file does not say
    status    "compressed" for stored codes; None where a file does not say
    version   of the library that wrote the file
    rest      members that are not known, kept as they are

    kv_cache_scheme, global_compression_ratio, sparsity_config, transform_config, moe_sparsity_config: as in files.

    >>> config = Quantization.from_json({"config_groups": {"W4A16": ["Linear"]}, "ignore": ["lm_head"]}, "config")
    >>> config.scheme_of("model.layers.0.mlp.up_proj").weights.num_bits, config.scheme_of("lm_head")
    (4, None)
    """

    groups: Mapping[str, Scheme]
    ignore: tuple[str, ...] = ()
    format: str | None = None
    status: str | None = None
    version: str | None = None
    kv_cache_scheme: Args | None = None
    global_compression_ratio: float | None = None
    sparsity_config: Mapping[str, Any] = field(default_factory=dict)
    transform_config: Mapping[str, Any] = field(default_factory=dict)
    moe_sparsity_config: Mapping[str, Any] | None = None
    rest: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any], where: str) -> Quantization:
        """The Quantization that a file holds; FormatError, which begins with `where`, for what cannot be one."""

        def optional(key: str, kind: type | tuple[type, ...], allowed: str) -> Any:
            value = data.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kind)):
                raise FormatError(f"{where}: {key} must be {allowed} or null, got {checks.shown(value)}")
            return value

        if data.get("quant_method", METHOD) not in METHODS:
            raise FormatError(f"{where}: quant_method must be {METHOD!r}, got {checks.shown(data['quant_method'])}")
        format = optional("format", str, "a string")
        if format not in (*FORMATS, *LEGACY, MIXED, FAKEQUANT, None):
            told = ", ".join((*FORMATS, MIXED, *LEGACY))
            raise FormatError(f"{where}: format must be one of {told}, got {checks.shown(format)}")
        status = optional("quantization_status", str, "a string")
        if status not in (*STATUSES, None):
            told = ", ".join(STATUSES)
            raise FormatError(f"{where}: quantization_status must be one of {told}, got {checks.shown(status)}")
        groups = optional("config_groups", dict, "an object") or {}
        cache = optional("kv_cache_scheme", dict, "an object")
        ignore = strings(data.get("ignore") or [], f"{where}: ignore")
        config = cls(
            {name: _group(name, groups[name], f"{where}: config_groups.{checks.shown(name)}") for name in groups},
            ignore,
            None if format == FAKEQUANT else format,
            status,
            optional("version", str, "a string"),
            None if cache is None else Args.from_json(cache, f"{where}: kv_cache_scheme"),
            optional("global_compression_ratio", (int, float), "a number"),
            optional("sparsity_config", dict, "an object") or {},
            optional("transform_config", dict, "an object") or {},
            optional("moe_sparsity_config", dict, "an object"),
            {key: value for key, value in data.items() if key not in KEYS},
        )
        for names in (ignore, *(scheme.targets for scheme in config.groups.values())):
            for name in names:
                _pattern(name, where)
        return config

    def to_json(self) -> dict[str, Any]:
        """What the library writes into config.json, with `rest` behind it; the library sorts it by key in the file."""
        return {
            "version": self.version,
            "quant_method": METHOD,
            "sparsity_config": dict(self.sparsity_config),
            "transform_config": dict(self.transform_config),
            "config_groups": {name: scheme.to_json() for name, scheme in self.groups.items()},
            "kv_cache_scheme": self.kv_cache_scheme.to_json() if self.kv_cache_scheme else None,
            "format": self.format or FAKEQUANT,
            "quantization_status": self.status or STATUSES[0],
            "global_compression_ratio": self.global_compression_ratio,
            "ignore": list(self.ignore),
            "moe_sparsity_config": self.moe_sparsity_config,
        } | dict(self.rest)

    def scheme_of(self, module: str, class_name: str | None = None) -> Scheme | None:
        """The scheme of a module that is not ignored; None where no group has it.

        class_name  of the module; where it is not known, that of its name (`class_of`).
        """
        class_name = class_name or class_of(module)
        return None if self.ignores(module, class_name) else self.targeting(module, class_name)

    def targeting(self, module: str, class_name: str | None = None) -> Scheme | None:
        """The scheme of a module, ignored or not.

        A target that is the module's name comes before regular expressions, these before the name of its class; among
        themselves they are sorted as the library sorts them. Of groups with the same target the last one counts.
        """
        by_target, expressions = self._targets
        if module in by_target:
            return by_target[module]
        matching = (target for target in expressions if matches(target, module))
        return by_target.get(next(matching, class_name or class_of(module)))

    def ignores(self, module: str, class_name: str | None = None) -> bool:
        """Whether a module is on the list of those that no group holds."""
        names, expressions = self._ignored
        return module in names or (class_name or class_of(module)) in names or any(
            matches(entry, module) for entry in expressions
        )  # fmt: skip

    @cached_property
    def _targets(self) -> tuple[dict[str, Scheme], list[str]]:
        """The scheme of each target, and the targets that are expressions, in order."""
        by_target = {target: scheme for scheme in self.groups.values() for target in scheme.targets}
        return by_target, sorted(filter(is_expression, by_target))

    @cached_property
    def _ignored(self) -> tuple[set[str], list[str]]:
        """What is ignored by its name, and by expressions."""
        return set(self.ignore), list(filter(is_expression, self.ignore))


def is_expression(target: str) -> bool:
    """Whether a target is a regular expression, and not a name."""
    return target.startswith(EXPRESSION)


def matches(target: str, module: str) -> bool:
    """Whether a target names this module: as it is, or by a regular expression that matches from its start.

    >>> matches("re:.*mlp.*", "model.layers.0.mlp.up_proj"), matches("lm_head", "model.lm_head")
    (True, False)
    """
    pattern = _pattern(target, "target")
    return target == module if pattern is None else pattern.match(module) is not None


def class_of(module: str) -> str:
    """The class that a module with a quantised weight has by its name: "Embedding" or "Linear"."""
    return "Embedding" if kind(f"{module}.{WEIGHT}", _MATRIX) == "Embedding" else "Linear"


def _group(name: str, data: Any, where: str) -> Scheme:
    if isinstance(data, list):  # the targets of a preset
        targets = strings(data, where)
        with checks.from_file(where):
            return preset(name, targets)
    return Scheme.from_json(data, where)


def _pattern(target: str, where: str) -> re.Pattern[str] | None:
    """The compiled expression of a target; None for one that is a name."""
    if not is_expression(target):
        return None
    return expression(target.removeprefix(EXPRESSION), where, target)
