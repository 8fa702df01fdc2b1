"""A transform_config of compressed-tensors: which matrices multiply which weights and activations; named recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arraycodec.containers import checks
from arraycodec.errors import ArgumentError, FormatError
from arraycodec.formats.compressed_tensors.args import is_integer, known, strings
from arraycodec.formats.compressed_tensors.resolve import matches
from arraycodec.spec import BY_TORCH

TYPES = ("hadamard", "random-hadamard", "random-matrix")
OFFLINE = {"weight_input": "input", "weight_output": "output"}  # location -> side of `rotate`
ONLINE = ("input", "output", "k_cache", "q_attn")
GROUP = ("type", "apply", "randomize", "requires_grad", "head_dim", "precision")
APPLY = ("targets", "location", "inverse", "ignore")

# Layers of Llama, Mistral, Qwen 2 and 3, Mixtral and their like, in files.
_MLP, _MIXTRAL = r"mlp\.(?:experts\.\d+\.|shared_expert\.)?", r"block_sparse_moe\.experts\.\d+\."
EMBEDDING, HEAD = r".*embed_tokens$", r"lm_head$"
ATTENTION_IN, MLP_IN = r".*self_attn\.[qkv]_proj$", rf".*(?:{_MLP}(?:gate|up)_proj|{_MIXTRAL}w[13])$"
ROUTERS = r".*(?:mlp|block_sparse_moe)\.(?:gate|shared_expert_gate)$"
VALUES, ATTENTION_OUT = r".*self_attn\.v_proj$", r".*self_attn\.o_proj$"
MLP_OUT = rf".*(?:{_MLP}down_proj|{_MIXTRAL}w2)$"

RECIPES = ("spinquant-r1", "spinquant-r1-r2", "quip")


@dataclass(frozen=True)
class Apply:
    """One use of a group's matrix: at a location of the modules that targets name, or its inverse there."""

    targets: tuple[str, ...]
    location: str
    inverse: bool
    ignore: tuple[str, ...]

    def takes(self, module: str, class_name: str | None) -> bool:
        """Whether a module of this class is targeted, and not ignored, by its name or its class."""
        targeted, ignored = (
            any(matches(entry, module) or entry == class_name for entry in entries)
            for entries in (self.targets, self.ignore)
        )
        return targeted and not ignored


@dataclass(frozen=True)
class Group:
    """A matrix, one for every size, and where it is used. `precision` is the dtype of it that runs with a model."""

    type: str
    apply: tuple[Apply, ...]
    head_dim: int | None
    precision: str


def groups_of(config: Mapping[str, Any], where: str) -> dict[str, Group]:
    """The groups of a transform_config; FormatError, which begins with `where`, for what the library would refuse."""
    groups = known(dict(config), ("config_groups",), where).get("config_groups") or {}
    if not isinstance(groups, Mapping):
        raise FormatError(f"{where}: config_groups must be an object, got {checks.shown(groups)}")
    return {label: _group(groups[label], f"{where}: config_groups.{checks.shown(label)}") for label in groups}


def online(config: Mapping[str, Any], where: str) -> list[str]:
    """The uses of matrices that a running model multiplies activations with: "u at output"; the others are in weights.

    >>> online(rotation_config("spinquant-r1"), "config"), online(rotation_config("quip"), "config")
    ([], ['v at input', 'u at output'])
    """
    groups = groups_of(config, where)
    return [f"{label} at {use.location}" for label in groups for use in groups[label].apply if use.location in ONLINE]


def _group(data: Any, where: str) -> Group:
    data = known(data, GROUP, where)
    if data.get("type") not in TYPES:
        raise FormatError(f"{where}: type must be one of {', '.join(TYPES)}, got {checks.shown(data.get('type'))}")
    if data.get("randomize"):
        raise FormatError(f"{where}: randomize must be false: permutations of matrices are not known here")
    head_dim = data.get("head_dim")
    if head_dim is not None and not is_integer(head_dim, 1):
        raise FormatError(f"{where}: head_dim must be a positive integer or null, got {checks.shown(head_dim)}")
    precision = str(data.get("precision", "float32")).removeprefix("torch.")
    if precision not in BY_TORCH:
        raise FormatError(f"{where}: precision must be a dtype such as 'torch.float64', got {checks.shown(precision)}")
    uses = data.get("apply") or []
    if not isinstance(uses, list):
        raise FormatError(f"{where}: apply must be a list, got {checks.shown(uses)}")
    return Group(
        data["type"], tuple(_use(use, f"{where}.apply[{i}]") for i, use in enumerate(uses)), head_dim, precision
    )


def _use(data: Any, where: str) -> Apply:
    data = known(data, APPLY, where)
    lists = {}
    for key in ("targets", "ignore"):
        value = data.get(key, [])
        lists[key] = strings([value] if isinstance(value, str) else value, f"{where}.{key}")
    if data.get("location") not in (*OFFLINE, *ONLINE):
        told = ", ".join((*OFFLINE, *ONLINE))
        raise FormatError(f"{where}: location must be one of {told}, got {checks.shown(data.get('location'))}")
    inverse = data.get("inverse", False)
    if not isinstance(inverse, bool):
        raise FormatError(f"{where}: inverse must be true or false, got {checks.shown(inverse)}")
    return Apply(lists["targets"], data["location"], inverse, lists["ignore"])


def rotation_config(recipe: str, *, head_dim: int | None = None, type: str = "hadamard") -> dict[str, Any]:
    """The transform_config of a named recipe, for Llama and models that name their layers alike.

    recipe    "spinquant-r1": one rotation of all that goes from layer to layer; "spinquant-r1-r2": another one within
              the heads of values too, for which `head_dim` is needed. Both are fused completely: running the model
              costs nothing. "quip": both sides of every linear layer but lm_head; inverses run with the model.
    head_dim  of the model; for "quip" the size of blocks, None for whole rows.
    type      "hadamard", of powers of two; "random-hadamard"; or "random-matrix", of matrices that `fuse` is given.

    >>> import arraycodec as ac
    >>> groups = ac.rotation_config("spinquant-r1")["config_groups"]
    >>> [(use["location"], use["inverse"], len(use["targets"])) for use in groups["R1"]["apply"]]
    [('weight_output', False, 3), ('weight_input', True, 4)]
    """
    for name, value, allowed in (("recipe", recipe, RECIPES), ("type", type, TYPES)):
        if value not in allowed:
            raise ArgumentError(f"rotation_config: {name} must be one of {', '.join(allowed)}, got {value!r}")
    if recipe == "spinquant-r1-r2" and head_dim is None:
        raise ArgumentError("rotation_config: head_dim must be given for spinquant-r1-r2")

    def group(size: int | None, *uses: tuple[str, bool, list[str]], ignore: tuple[str, ...] = ()) -> dict[str, Any]:
        apply = [
            {"targets": targets, "location": location, "inverse": inverse, "ignore": list(ignore)}
            for location, inverse, targets in uses
        ]
        members = {"type": type, "apply": apply, "randomize": False, "requires_grad": False}
        return members | {"head_dim": size, "precision": "torch.float64"}

    if recipe == "quip":
        into = (("input", False, ["Linear"]), ("weight_input", True, ["Linear"]))
        out = (("weight_output", False, ["Linear"]), ("output", True, ["Linear"]))
        ignore = ("lm_head",)
        return {
            "config_groups": {"v": group(head_dim, *into, ignore=ignore), "u": group(head_dim, *out, ignore=ignore)}
        }
    writing = [f"re:{pattern}" for pattern in (EMBEDDING, ATTENTION_OUT, MLP_OUT)]
    reading = [f"re:{pattern}" for pattern in (ATTENTION_IN, MLP_IN, ROUTERS, HEAD)]
    groups = {"R1": group(None, ("weight_output", False, writing), ("weight_input", True, reading))}
    if recipe == "spinquant-r1-r2":
        values, heads = ("weight_output", False, [f"re:{VALUES}"]), ("weight_input", True, [f"re:{ATTENTION_OUT}"])
        groups["R2"] = group(head_dim, values, heads)
    return {"config_groups": groups}
