"""The quantization_config that describes what was decided about each tensor of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from arraycodec.containers import checks
from arraycodec.errors import ArgumentError
from arraycodec.formats import modules
from arraycodec.formats.compressed_tensors.args import MIXED, Args, Scheme
from arraycodec.formats.compressed_tensors.resolve import Quantization, matches
from arraycodec.formats.layers import IGNORE, closest
from arraycodec.formats.target import Decision

VERSION = "0.20.0"  # of the library whose files these are
# A router of a mixture of experts counts as a Linear that is not quantised: engines load it as one.
COUNTS_AS = {"Router": "Linear"}
DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Chosen(Decision):
    """A Decision, the class of the weight's module (None: of none here), and the scheme that it is quantised with."""

    kind: str | None = None
    scheme: Scheme | None = None


def quantization_config(said: Quantization | None, chosen: Mapping[str, Chosen]) -> dict[str, Any] | None:
    """What the library would write for these weights; None where none is quantised.

    Only groups in use are left, numbered, each with its format. `ignore` names every other module of a class that has
    quantised ones, and what it named of modules that are not here (a tied lm_head).

    said  what was asked for; None for groups made from the schemes of the weights
    """
    taken = {_module(name): decision for name, decision in chosen.items() if decision.scheme is not None}
    if not taken:
        return None
    said = said or Quantization(_groups_of(taken), IGNORE)
    in_use = [decision.scheme for decision in taken.values()]
    # Without weights a group is about activations alone, of modules that no file shows.
    schemes = [scheme for scheme in said.groups.values() if scheme.weights is None or _of(scheme, in_use)]
    schemes = [replace(scheme, format=scheme.stored_format()) for scheme in schemes]
    formats = {scheme.format for scheme in schemes if scheme.weights is not None}
    classes = {_counts_as(decision.kind) for decision in taken.values()}
    present = {_module(name): decision for name, decision in chosen.items() if decision.kind is not None}
    plain = [module for module, found in present.items() if not found.scheme and _counts_as(found.kind) in classes]
    known = {*present, *classes}
    absent = [name for name in said.ignore if not name.startswith("re:") and name not in known]
    return replace(
        said,
        groups={f"group_{i}": scheme for i, scheme in enumerate(schemes)},
        ignore=(*sorted(plain, key=_order), *absent),
        format=formats.pop() if len(formats) == 1 else MIXED,
        status="compressed",
        version=VERSION,
        sparsity_config={},
    ).to_json()


def check_targets(expected: tuple[str, ...], chosen: Mapping[str, Chosen]) -> None:
    """Raise ArgumentError for a target that is no module's: it would otherwise do nothing in silence."""
    present = [_module(name) for name, decision in chosen.items() if decision.kind is not None]
    for target in expected:
        if not any(matches(target, module) for module in present):
            raise ArgumentError(
                f"compressed-tensors: target {checks.shown(target)} matches none of {len(present)} modules"
                f"{closest(target, present)}; it must be the whole name of one, without .weight, such as "
                "'model.layers.0.mlp.up_proj', 're:' and a regular expression, or a class (Linear, Embedding)"
            )


def check_calibrated(said: Quantization | None, chosen: Mapping[str, Chosen], names: Collection[str]) -> None:
    """Raise ArgumentError where scales of activations or of a cache are not among the tensors, but were asked for."""
    cache = said.kv_cache_scheme if said else None
    for name, decision in chosen.items():
        module, scheme = _module(name), decision.scheme or Scheme()
        wanted = _static("input", scheme.input_activations) + _static("output", scheme.output_activations)
        parent, _, leaf = module.rpartition(".")
        wanted = [f"{module}.{key}" for key in wanted]
        if leaf == "k_proj" and decision.kind:
            wanted += [f"{parent}.{key}" for role in ("k", "v") for key in _static(role, cache)]
        for key in wanted:
            if key not in names:
                raise ArgumentError(
                    f"compressed-tensors: {checks.shown(key)} is missing, which a calibration gives; a scheme with "
                    "dynamic activations, or for weights alone, needs none"
                )


def describes(said: Quantization | None, chosen: Mapping[str, Chosen], name: str) -> bool:
    """Whether the configuration speaks of a scale of activations or of a cache: else no loader expects the tensor."""
    module, parameter = modules.module_of(name)
    # Groups without weights are about activations of modules that no file shows.
    if said is not None and any(scheme.weights is None for scheme in said.groups.values()):
        return True
    role = parameter.partition("_")[0]
    if role not in ("input", "output"):
        return said is not None and said.kv_cache_scheme is not None
    found = chosen.get(f"{module}.{modules.WEIGHT}")
    if found is None or found.scheme is None:
        return False
    args = found.scheme.input_activations if role == "input" else found.scheme.output_activations
    return args is not None and args.dynamic is not True


def _static(role: str, args: Args | None) -> list[str]:
    """The tensors that hold what is known of activations before a model runs."""
    if args is None or args.dynamic is True:
        return []
    if args.strategy == "tensor_group":
        return [f"{role}_global_scale"]
    return [f"{role}_scale"] if args.symmetric else [f"{role}_scale", f"{role}_zero_point"]


def _groups_of(taken: Mapping[str, Chosen]) -> dict[str, Scheme]:
    """Groups for weights that stay in their codecs: the largest of a class has all of it, others name their modules."""
    found: list[tuple[Scheme, str, list[str]]] = []
    for module, decision in taken.items():
        scheme, kind = decision.scheme or Scheme(), decision.kind or ""
        members = next((names for other, of, names in found if (other, of) == (scheme, kind)), None)
        if members is None:
            found.append((scheme, kind, [module]))
        else:
            members.append(module)
    largest: dict[str, int] = {}
    for _, kind, names in found:
        largest[kind] = max(largest.get(kind, 0), len(names))
    groups = {}
    for i, (scheme, kind, names) in enumerate(found):
        whole = largest.get(kind) == len(names)
        if whole:
            largest[kind] = 0  # of two as large the second names its modules
        groups[f"group_{i}"] = replace(scheme, targets=(kind,) if whole else tuple(names))
    return groups


def _of(scheme: Scheme, in_use: list[Scheme | None]) -> bool:
    """Whether it is that of a weight; where weights stay in their codecs, schemes have no targets."""
    return any(found is not None and (found == scheme or not found.targets) for found in in_use)


def _module(name: str) -> str:
    return modules.module_of(name)[0]


def _counts_as(kind: str | None) -> str | None:
    return COUNTS_AS.get(kind or "", kind)


def _order(module: str) -> tuple[bool, list[int | str]]:
    """Sorts layer 2 before layer 10, and a head that stands beside the layers behind them, as models have it."""
    return "." not in module, [int(part) if part.isdecimal() else part for part in DIGITS.split(module)]
