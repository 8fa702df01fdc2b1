"""`quantize_model`: replace the nn.Linear modules of a model, as the same patterns choose tensors of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.checkpoints.policy import Decision, Policy
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.errors import ArgumentError
from arraycodec_torch import arrays
from arraycodec_torch.nn.quantized import QuantizedLinear
from arraycodec_torch.nn.variants import Linear4bit, Linear8bitLt, code_bits


def quantize_model(
    model: nn.Module, scheme: str | Codec, include: Iterable[str] | str = (), exclude: Iterable[str] | str = ()
) -> dict[str, Decision]:
    """Replace nn.Linear modules by quantised ones, in place, and return what became of each parameter and why.

    scheme   a scheme's name or a codec. 4-bit codes make a `Linear4bit`, llm_int8 and w8a8 a `Linear8bitLt`, which
             quantises its input too, all else a `QuantizedLinear`.
    include  patterns of parameter names ("*.mlp.*.weight") to quantise whatever their size.
    exclude  patterns of names to leave. Patterns and their precedence are those of `arraycodec.compress`.

    Weights under 4 KB and tied ones stay as they are unless included; modules with hooks, and what is quantised
    already, stay. Errors: ArgumentError for a pattern that matches nothing or includes only what must stay.

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
    decisions = {full: _decide(policy, full, *owner, users) for full, owner in owners.items()}
    _check_included(policy, decisions)
    if isinstance(model, nn.Linear) and decisions["weight"].codec:
        raise ArgumentError("quantize_model: the model is a Linear itself and cannot be replaced: use from_float")
    made: dict[int, QuantizedLinear] = {}
    for full, decision in decisions.items():
        if decision.codec:
            linear, path = owners[full][0], full.rpartition(".")[0]
            assert isinstance(linear, nn.Linear)
            if id(linear) not in made:
                made[id(linear)] = _quantised(linear, decision.codec)
            parent, _, child = path.rpartition(".")
            setattr(model.get_submodule(parent), child, made[id(linear)])
    return decisions


def _names(module: nn.Module) -> list[str]:
    """The names of its parameters; a quantised weight has the name that it had before."""
    own = [name for name, parameter in module._parameters.items() if parameter is not None]
    if not isinstance(module, QuantizedLinear) or module.spec is None:
        return own
    return ["weight", *(name for name in own if name not in module.plane_keys)]


def _decide(policy: Policy, full: str, module: nn.Module, name: str, users: dict[int, dict[int, str]]) -> Decision:
    """The policy's decision, where the parameter is a weight that can be replaced."""
    parameter = module._parameters[name]
    if parameter is None:
        assert isinstance(module, QuantizedLinear)
        return Decision(None, f"quantised already, with {module.codec!r}")
    spec = arrays.spec(parameter)
    decision = policy.decide(full, spec.dtype, spec.known_shape)
    if decision.codec is None:
        return decision
    tied = [other for user, other in users[id(parameter)].items() if user != id(module)]
    if type(module) is not nn.Linear:  # a subclass may do something else with its weight
        return Decision(None, f"{type(module).__name__}: not an nn.Linear")
    if name == "bias":
        return Decision(None, "bias")
    if tied and not decision.reason.startswith("included"):
        return Decision(None, f"shared with {tied[0]}")
    if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
        return Decision(None, "has hooks, which a new module would not")
    return decision


def _check_included(policy: Policy, decisions: dict[str, Decision]) -> None:
    """Raise for a pattern all of whose parameters were refused: it would otherwise do nothing in silence."""
    for pattern in policy.include:
        own = [name for name in decisions if policy.deciding_pattern(name) == (pattern, True)]
        if own and not any(decisions[name].codec for name in own):
            raise ArgumentError(f"include: {pattern!r} quantises nothing: {own[0]}: {decisions[own[0]].reason}")


def _quantised(linear: nn.Linear, codec: Codec) -> QuantizedLinear:
    if isinstance(codec, LLMInt8):  # its threshold is one for inputs
        return Linear8bitLt.from_float(linear, threshold=codec.threshold)
    if codec == registry.codec("w8a8"):
        return Linear8bitLt.from_float(linear, quant_type=codec)
    if code_bits(codec) == 4:
        return Linear4bit.from_float(linear, quant_type=codec)
    return QuantizedLinear.from_float(linear, codec)
