"""`calibrate` and `importance`: scales of activations and of caches, and weights of columns, by running a model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

import arraycodec as ac
from arraycodec.base import Codec
from arraycodec.errors import ArgumentError, NonFiniteError
from arraycodec.formats.compressed_tensors.args import Args
from arraycodec.formats.compressed_tensors.presets import PRESETS, preset
from arraycodec.formats.compressed_tensors.resolve import Quantization, matches

CACHED = "re:.*(self_attn|attention)$"  # modules whose keys and values are cached, by name
PROJECTIONS = {"k_proj": "k", "v_proj": "v"}
STORED = {"scales": "scale", "zero_points": "zero_point", "global_scale": "global_scale"}
# What becomes of an extreme that was found before; with the function that takes the larger (or smaller) of two, and the
# share that a moving average gives to what is new.
UPDATES: dict[str, Callable[[torch.Tensor, torch.Tensor, Any, float], torch.Tensor]] = {
    "static_minmax": lambda past, now, extreme, share: extreme(past, now),
    "minmax": lambda past, now, extreme, share: past * (1.0 - share) + now * share,
    "memoryless_minmax": lambda past, now, extreme, share: now,
}


def calibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    scheme: str | Mapping[str, Any] | Quantization | None = None,
    kv_cache: Mapping[str, Any] | Args | None = None,
    ignore: Iterable[str] = ("lm_head",),
) -> dict[str, torch.Tensor]:
    """Run a model over batches and return the scales of its activations that are not found while it runs.

    model     its nn.Linear modules are observed, in evaluation mode and without gradients; afterwards it is as it was.
    batches   what the model is called with: tensors, dicts of keyword arguments, or tuples of positional ones. One at
              a time is held, and of it two numbers for every scale are kept.
    scheme    the name of a preset of compressed-tensors ("W8A8", "FP8", "NVFP4") for all nn.Linear but those of
              `ignore`; or a quantization_config, which names its modules itself; or None for caches alone.
    kv_cache  how keys and values are quantised, as in its kv_cache_scheme, which counts where this is None. They are
              taken from k_proj and v_proj of modules called self_attn or attention: keys before rotary embedding,
              which may make one larger by up to a factor of the square root of 2 where the library sees it behind.

    Observers are "static_minmax", the extremes of all batches, which is the default; "minmax", their moving average;
    and "memoryless_minmax", those of the last one.

    Gives the tensors as checkpoints hold them: name -> `X.input_scale` of shape (1,), `X.input_zero_point` (int8) if
    asymmetric, `X.input_global_scale` for NVFP4, `X.output_scale` alike, `X.self_attn.k_scale` and `v_scale`, of shape
    (heads, 1, 1) with one scale per head. Bits are those of compressed-tensors for the same extremes. A warning names
    modules that no batch has reached. A scheme that needs no such scales ("W4A16", "W8A8") gives none: the model is not
    run. ArgumentError where it needs some and no module has them; NonFiniteError for infinite activations and NaN.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4))
    >>> calibrate(model, (torch.full((2, 4), float(i)) for i in range(3)), scheme="FP8")
    {'0.input_scale': tensor([0.0045])}
    """
    config = _configuration(scheme, tuple(ignore))
    cache = config.kv_cache_scheme if kv_cache is None else kv_cache
    if cache is not None and not isinstance(cache, Args):
        cache = Args.from_json(dict(cache), "kv_cache")
    observers = dict(_observers(model, config)) | (dict(_cache_observers(model, cache)) if cache else {})
    if not observers and scheme is not None and not _has_static(config):
        return {}
    if not observers:
        raise ArgumentError("calibrate: no module has activations with scales of their own: there is nothing to find")
    _run("calibrate", model, batches, ((observer.module, observer.hook) for observer in observers.values()))
    if missed := [name for name, observer in observers.items() if observer.low is None]:
        warnings.warn(f"calibrate: no batch reached {', '.join(missed)}: they have no scales", stacklevel=2)
    return {key: value for name, observer in observers.items() for key, value in observer.scales(name)}


def importance(
    model: nn.Module, batches: Iterable[Any], *, ignore: Iterable[str] = ("lm_head",)
) -> dict[str, torch.Tensor]:
    """Run a model over batches and return how much each column of its nn.Linear weights matters, for `ac.compress`.

    That is the mean square of what a layer multiplies the column with: an error there counts as much in its output.

    model    as for `calibrate`, in evaluation mode, without gradients and afterwards as it was.
    batches  as for `calibrate`, best without padding, which would count too. A few thousand rows do; one batch at a
             time is held, and a float64 number for each column is kept.
    ignore   the modules that are left out, by name or "re:EXPRESSION".

    Gives name -> float32 (columns,) on the weight's device, by the first name of each weight, which checkpoints have;
    modules that share one add up. A warning names weights that no batch has reached, or only with zeros: they are left
    out. ArgumentError where there is no nn.Linear or no batch; NonFiniteError for infinite inputs and NaN.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4))
    >>> importance(model, (torch.tensor([[1.0, float(i)]]) for i in range(3)))
    {'0.weight': tensor([1.0000, 1.6667])}
    """
    ignored = tuple(ignore)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers: dict[nn.Module, str] = {
        module: names[id(module.weight)]
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear)
        and id(module.weight) in names  # which a parametrised weight is not
        and not any(matches(entry, path) for entry in ignored)
    }
    if not layers:
        raise ArgumentError("importance: the model has no nn.Linear that is not ignored")
    sums: dict[str, torch.Tensor] = {}
    rows = dict.fromkeys(layers.values(), 0)

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        value = args[0] if args else kwargs["input"]
        if not value.numel():
            return
        squares = value.detach().reshape(-1, value.shape[-1]).double().square().sum(0)
        name = layers[module]
        sums[name] = sums[name] + squares if name in sums else squares
        rows[name] += value.numel() // value.shape[-1]

    _run("importance", model, batches, ((module, hook) for module in layers))
    if infinite := [name for name, total in sums.items() if not torch.isfinite(total).all()]:
        raise NonFiniteError(f"importance: the inputs of {', '.join(infinite)} hold infinite numbers or NaN")
    found = {name: (sums[name] / count).float() for name, count in rows.items() if count}
    if missed := [name for name in rows if name not in found or not found[name].any()]:
        warnings.warn(f"importance: no batch reached {', '.join(missed)}, or only with zeros", stacklevel=2)
    return {name: vector for name, vector in found.items() if name not in missed}


def _run(
    caller: str, model: nn.Module, batches: Iterable[Any], hooks: Iterable[tuple[nn.Module, Callable[..., None]]]
) -> None:
    """Call the model with every batch, in evaluation mode, without gradients, with a hook on each of these modules."""
    with ExitStack() as stack:
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.no_grad())
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        count = 0
        for count, batch in enumerate(batches, 1):  # noqa: B007
            _call(model, batch)
    if count == 0:
        raise ArgumentError(f"{caller}: batches must hold at least one batch")


def _has_static(config: Quantization) -> bool:
    """Whether any group has activations whose scales are not found while the model runs."""
    found = (args for group in config.groups.values() for args in (group.input_activations, group.output_activations))
    return any(args is not None and args.dynamic is not True for args in found)


def _configuration(scheme: str | Mapping[str, Any] | Quantization | None, ignore: tuple[str, ...]) -> Quantization:
    if isinstance(scheme, str):
        if scheme.upper() not in PRESETS:
            raise ArgumentError(f"calibrate: scheme must be one of {', '.join(PRESETS)}, got {scheme!r}")
        return Quantization({"group_0": preset(scheme, ("Linear",))}, ignore)
    if isinstance(scheme, Quantization):
        return scheme
    return Quantization({}) if scheme is None else Quantization.from_json(scheme, "calibrate: scheme")


def _observers(model: nn.Module, config: Quantization) -> Iterator[tuple[str, _Observer]]:
    """One for the input, and one for the output, of each module whose scheme has static scales there."""
    for name, module in model.named_modules(remove_duplicate=False):
        found = config.scheme_of(name, "Linear") if isinstance(module, nn.Linear) else None
        for what, args in (
            ("input", found and found.input_activations),
            ("output", found and found.output_activations),
        ):
            if args is None or args.dynamic is True:
                continue
            if args.strategy not in ("tensor", "tensor_group") or (args.strategy != "tensor" and not args.is_nvfp4):
                raise ArgumentError(
                    f"calibrate: {name}: static scales are one for a tensor, got strategy {args.strategy}"
                )
            if args.is_nvfp4 and args.dynamic != "local":
                raise ArgumentError(f"calibrate: {name}: NVFP4 activations must have dynamic = 'local'")
            yield f"{name}.{what}".removeprefix("."), _Observer(module, args, what, next(module.parameters()).dtype)


def _cache_observers(model: nn.Module, args: Args) -> Iterator[tuple[str, _Observer]]:
    """One for the output of every projection of keys and of values."""
    if args.strategy not in ("tensor", "attn_head") or args.dynamic:
        raise ArgumentError(
            f"calibrate: kv_cache must have the strategy tensor or attn_head and static scales, got {args.to_json()}"
        )
    found = False
    for name, module in model.named_modules(remove_duplicate=False):
        for projection, what in PROJECTIONS.items():
            linear = getattr(module, projection, None) if matches(CACHED, name) else None
            if not isinstance(linear, nn.Module):
                continue
            found, head_dim = True, None
            if args.strategy == "attn_head":
                head_dim = getattr(module, "head_dim", None)
                if not isinstance(head_dim, int):
                    raise ArgumentError(f"calibrate: {name} has no head_dim, which scales of heads need")
            dtype = next(module.parameters()).dtype
            yield f"{name}.{what}", _Observer(linear, args, "output", dtype, head_dim)
    if not found:
        raise ArgumentError(
            f"calibrate: kv_cache: no module called self_attn or attention has {' or '.join(PROJECTIONS)}"
        )


@dataclass(eq=False)
class _Observer:
    """The extremes of the input or output of a module, on the module's device."""

    module: nn.Module
    args: Args
    what: str
    dtype: torch.dtype
    head_dim: int | None = None
    low: torch.Tensor | None = None
    high: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.observer = self.args.observer or "static_minmax"
        if self.observer not in UPDATES:
            raise ArgumentError(f"calibrate: observer must be one of {', '.join(UPDATES)}, got {self.observer!r}")
        one = self.args if self.args.is_nvfp4 else replace(self.args, strategy="tensor")
        self.codec: Codec = one.codec()

    def hook(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        value = output if self.what == "output" else args[0] if args else kwargs["input"]
        if not value.numel():
            return
        if self.head_dim is None:
            low, high = torch.aminmax(value.detach())
        else:
            heads = (
                value.detach().reshape(-1, value.shape[-1] // self.head_dim, self.head_dim).transpose(0, 1).flatten(1)
            )
            low, high = torch.aminmax(heads, dim=1)
        update, share = UPDATES[self.observer], self.args.observer_kwargs.get("averaging_constant", 0.01)
        self.low = low if self.low is None else update(self.low, low, torch.minimum, share)
        self.high = high if self.high is None else update(self.high, high, torch.maximum, share)

    def scales(self, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        if self.low is None or self.high is None:
            return
        if not (torch.isfinite(self.low).all() and torch.isfinite(self.high).all()):
            raise NonFiniteError(f"calibrate: {name} holds infinite numbers or NaN")
        shape = (1,) if self.head_dim is None else (self.low.numel(), 1, 1)
        for plane, value in ac.activation_scales(self.low.reshape(-1), self.high.reshape(-1), self.codec).items():
            scale = value if plane != "scales" else value.to(self.dtype)
            yield f"{name}_{STORED[plane]}", scale.reshape(shape)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _call(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**batch)
    elif isinstance(batch, tuple | list):
        model(*batch)
    else:
        model(batch)
