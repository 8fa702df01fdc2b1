"""`quantize_model`: quantise the linear modules of a model, as the same patterns choose tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, cast

from torch import nn

import arraycodec as ac
from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.checkpoints.policy import Decision, Policy
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.errors import ArgumentError
from arraycodec_torch import arrays
from arraycodec_torch.nn.quantized import QuantizedLinear
from arraycodec_torch.nn.variants import Linear4bit, Linear8bitLt, code_bits

REPLACED = (nn.Linear, QuantizedLinear, Linear4bit, Linear8bitLt)  # modules that another may stand for


def quantize_model(
    model: nn.Module, scheme: str | Codec, include: Iterable[str] | str = (), exclude: Iterable[str] | str = ()
) -> dict[str, Decision]:
    """Replace nn.Linear modules by quantised ones, in place, and return what became of each parameter and why.

    scheme   a scheme's name or a codec. 4-bit codes make a `Linear4bit`, llm_int8 and w8a8 a `Linear8bitLt`, which
             quantises its input too, all else a `QuantizedLinear`.
    include  patterns of parameter names ("*.mlp.*.weight") to quantise whatever their size.
    exclude  patterns of names to leave. Patterns and their precedence are those of `arraycodec.compress`.

    Modules of this package that are not quantised yet, as a new `Linear4bit`, are too: in place, with this scheme,
    where their class takes it (a `Linear8bitLt` with a threshold takes llm_int8 alone); else as an nn.Linear would be.

    Weights under 4 KB and tied ones stay as they are unless included; modules with hooks, the linear modules of an
    nn.TransformerEncoderLayer, and what is quantised already, stay.

    Errors: ArgumentError for a pattern that matches nothing or includes only what must stay.

    >>> import torch
    >>> model = nn.Sequential(nn.Embedding(100, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> for name, decision in quantize_model(model, "nf4").items():
    ...     print(name, "nf4" if decision.codec else decision.reason)
    0.weight Embedding: not an nn.Linear
    1.weight nf4
    1.bias 1-D: norms and biases stay plain
    3.weight smaller than 4 KB
    3.bias 1-D: norms and biases stay plain
    """
    policy = Policy(scheme, include, exclude)  # type: ignore[arg-type]  # it makes tuples of patterns
    owners = {
        f"{path}.{name}" if path else name: (module, name)
        for path, module in model.named_modules(remove_duplicate=False)
        for name in _names(module)
    }
    policy.check_patterns(owners)
    users: dict[int, dict[int, str]] = {}  # of a parameter: its modules, each with a name
    for full, (module, name) in owners.items():
        if (parameter := module._parameters[name]) is not None:
            users.setdefault(id(parameter), {}).setdefault(id(module), full)
    read = _read_from_outside(model)
    decisions = {full: _decide(policy, full, *owner, users, read) for full, owner in owners.items()}
    _check_included(policy, decisions)
    if "weight" in decisions and (codec := decisions["weight"].codec) and not _holds(model, codec):
        raise ArgumentError("quantize_model: the model is a Linear itself and cannot be replaced: use from_float")
    made: dict[int, QuantizedLinear] = {}
    for full, decision in decisions.items():
        if decision.codec:
            module, path = owners[full][0], full.rpartition(".")[0]
            if id(module) not in made:
                made[id(module)] = _quantised(module, decision.codec)
            if made[id(module)] is not module:
                parent, _, child = path.rpartition(".")
                setattr(model.get_submodule(parent), child, made[id(module)])
    return decisions


def _names(module: nn.Module) -> list[str]:
    """The names of its parameters; a quantised weight has the name that it had before."""
    own = [name for name, parameter in module._parameters.items() if parameter is not None]
    if not isinstance(module, QuantizedLinear) or module.spec is None:
        return own
    return ["weight", *(name for name in own if name not in module.plane_keys)]


def _read_from_outside(model: nn.Module) -> set[int]:
    """The modules whose weight torch reads itself, instead of calling them, on its fast path for inference."""
    layers = [module for module in model.modules() if isinstance(module, nn.TransformerEncoderLayer)]
    return {id(layer._modules.get(name)) for layer in layers for name in ("linear1", "linear2")}


def _decide(
    policy: Policy, full: str, module: nn.Module, name: str, users: dict[int, dict[int, str]], read: set[int]
) -> Decision:
    """The policy's decision, where the parameter is a weight that can be replaced."""
    parameter = module._parameters[name]
    if parameter is None:
        return Decision(None, f"quantised already, with {cast(QuantizedLinear, module).codec!r}")  # see _names
    spec = arrays.spec(parameter)
    decision = policy.decide(full, spec.dtype, spec.known_shape)
    if decision.codec is None:
        return decision
    tied = [other for user, other in users[id(parameter)].items() if user != id(module)]
    holds = _holds(module, decision.codec)
    if not holds and type(module) not in REPLACED:  # a subclass may do something else with its weight
        return Decision(None, f"{type(module).__name__}: not an nn.Linear")
    if name != "weight":
        return Decision(None, "bias" if name == "bias" else "not the weight")
    if id(module) in read:
        return Decision(None, "nn.TransformerEncoderLayer reads its weight")
    if tied and not decision.reason.startswith("included"):
        return Decision(None, f"shared with {tied[0]}")
    if isinstance(module, QuantizedLinear):
        decision = replace(decision, reason=f"{decision.reason}, of a {type(module).__name__} not quantised yet")
    if holds:
        return decision
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return Decision(None, "has hooks, which a new module would not")
    return decision


def _check_included(policy: Policy, decisions: dict[str, Decision]) -> None:
    """Raise for a pattern all of whose parameters were refused: it would otherwise do nothing in silence."""
    for pattern in policy.include:
        own = [name for name in decisions if policy.deciding_pattern(name) == (pattern, True)]
        if own and not any(decisions[name].codec for name in own):
            raise ArgumentError(f"include: {pattern!r} quantises nothing: {own[0]}: {decisions[own[0]].reason}")


def _holds(module: nn.Module, codec: Codec) -> bool:
    """Whether the module is one of ours and can be quantised in place with this codec."""
    if not isinstance(module, QuantizedLinear):
        return False
    if isinstance(codec, LLMInt8) and codec.threshold:  # one for inputs, which a module is made with
        return False
    if isinstance(module, Linear8bitLt) and module.threshold and not isinstance(codec, LLMInt8):
        return False
    try:
        return module.checked(codec) == codec
    except ArgumentError:
        return False


def _quantised(module: nn.Module, codec: Codec) -> QuantizedLinear:
    """The module itself with an encoded weight, where it can hold it, or one for its place."""
    if isinstance(module, QuantizedLinear) and _holds(module, codec):
        module.set_encoded(ac.encode(cast(nn.Parameter, module.weight).detach(), codec))
        return module
    linear: Any = module  # what from_float reads of an nn.Linear, ours have too
    own: dict[str, Any] = {"compute_dtype": getattr(module, "compute_dtype", None)}
    int8 = own | {"int8_matmul": getattr(module, "int8_matmul", True)}
    if isinstance(codec, LLMInt8):  # its threshold is one for inputs
        return Linear8bitLt.from_float(linear, threshold=codec.threshold, **int8)
    if codec == registry.codec("w8a8"):
        return Linear8bitLt.from_float(linear, quant_type=codec, **int8)
    if code_bits(codec) == 4:
        return Linear4bit.from_float(linear, quant_type=codec, **own)
    return QuantizedLinear.from_float(linear, codec, **own)
