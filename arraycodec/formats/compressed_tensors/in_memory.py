"""`to_compressed_tensors`: a state dict of any framework as compressed-tensors stores it, without a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arraycodec import api, calibration, registry
from arraycodec.base import Codec, Encoded
from arraycodec.containers import checks
from arraycodec.errors import ArgumentError, NonFiniteError
from arraycodec.formats import modules
from arraycodec.formats.compressed_tensors.described import Chosen
from arraycodec.formats.compressed_tensors.resolve import matches
from arraycodec.formats.compressed_tensors.target import CLASSES, CompressedTensors, Layers
from arraycodec.formats.layers import IGNORE, check_expressions, closest
from arraycodec.spec import ArraySpec


def to_compressed_tensors(
    tensors: Mapping[str, Any],
    scheme: str | Codec | Layers | Mapping[str, Any],
    *,
    ignore: Sequence[str] | None = None,
    scales: Mapping[str, Any] | None = None,
    arithmetic: str = "eager",
    kinds: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors that compressed-tensors stores for a model, and the quantization_config that goes with them.

    tensors     name -> array of any framework, or an Encoded: what a model's `state_dict()` gives.
    scheme      for every Linear, one of the library's presets ("W4A16"), one of our schemes or a codec; a mapping of
                targets (a module's name, "re:" and a regular expression, "Linear", "Embedding") to such, or to None;
                or a quantization_config.
    ignore      targets that stay as they are: "lm_head", or those of a quantization_config, where None.
    scales      more tensors, which a calibration gave: `X.input_scale` or `X.input_global_scale` of layers with static
                activations, `X.k_scale` and `X.v_scale` of attention with a quantised cache.
    arithmetic  "eager" for the codes that the library computes on a CPU, "float32" for those of its GPU kernels.
    kinds       module -> its class, where classes are known; else names tell.

    Results are of each array's framework and on its device; words are packed on the host. An int64 `X.weight_shape`
    is NumPy's beside JAX arrays. An Encoded whose planes
    such a scheme stores is taken as it is, any other is decoded and encoded. With NVFP4, projections that kernels fuse
    share a global scale. Nothing is quantised where the config is empty. ArgumentError, which names the tensor, for a
    shape or dtype that the scheme cannot have; NonFiniteError for infinity and NaN.

    >>> import numpy as np
    >>> model = {"up_proj.weight": np.ones((64, 256), np.float32), "lm_head.weight": np.ones((9, 256), np.float32)}
    >>> tensors, config = to_compressed_tensors(model, "W4A16")
    >>> {name: (tensor.dtype.name, tensor.shape) for name, tensor in tensors.items() if name.startswith("up_proj")}
    {'up_proj.weight_packed': ('int32', (64, 32)), 'up_proj.weight_scale': ('float32', (64, 2)), \
'up_proj.weight_shape': ('int64', (2,))}
    >>> config["format"], config["ignore"]
    ('pack-quantized', ['lm_head'])
    """
    target = target_for(scheme, ignore, arithmetic=arithmetic, kinds=kinds)
    tensors = {**tensors, **(scales or {})}
    decisions = {name: target.decide(name, *_spec(value)) for name, value in tensors.items()}
    for name in () if kinds is not None else modules.conv1d({name: _spec(tensors[name])[0] for name in tensors}, {}):
        if decisions[name].codec is not None and not isinstance(tensors[name], Encoded):
            told = "is of a Conv1D, (in, out), which compressed-tensors takes for a Linear, (out, in): ignore it"
            raise ArgumentError(f"tensor {checks.shown(name)}: {told}")
    config = target.quantization_config(decisions)
    if ignore is not None:
        _check_ignored([ignore] if isinstance(ignore, str) else ignore, decisions)
    shared = _shared(target, tensors, decisions)
    found: dict[str, Any] = {}
    for name, value in tensors.items():
        codec = decisions[name].codec
        made = {name: value} if codec is None else _stored(target, name, value, codec, shared.get(name))
        if codec is None and isinstance(value, Encoded):
            made = {name: api.decode(value)}
        if taken := found.keys() & made.keys():
            raise ArgumentError(f"compressed-tensors: two tensors would be called {checks.shown(min(taken))}")
        found |= made
    return found, config or {}


def target_for(
    scheme: str | Codec | Layers | Mapping[str, Any], ignore: Sequence[str] | None = None, **options: Any
) -> CompressedTensors:
    """The target for a scheme, a mapping of targets to schemes, or a quantization_config."""
    if isinstance(scheme, Mapping) and "config_groups" in scheme:
        if ignore is not None:
            raise ArgumentError("compressed-tensors: a quantization_config says itself what to ignore, got ignore too")
        return CompressedTensors.from_config(scheme, **options)
    layers = scheme if isinstance(scheme, Mapping) else {"Linear": scheme}
    if not layers:
        raise ArgumentError("compressed-tensors: scheme must name at least one target, got none")
    return CompressedTensors.of(layers, IGNORE if ignore is None else ignore, **options)


def _check_ignored(ignore: Sequence[str], decisions: Mapping[str, Chosen]) -> None:
    """ArgumentError for a target to be ignored that no module has: what it was meant for would be quantised."""
    check_expressions(ignore, "ignore")
    present = sorted({modules.module_of(name)[0] for name in decisions})
    for target in ignore:
        if target not in (*IGNORE, *CLASSES) and not any(matches(target, module) for module in present):
            told = f"matches none of {len(present)} modules{closest(target, present)}"
            raise ArgumentError(f"compressed-tensors: ignore: {checks.shown(target)} {told}")


def _spec(value: Any) -> tuple[ArraySpec, Codec | None]:
    """The spec of a weight, and the codec that it is in."""
    if isinstance(value, Encoded):
        return value.spec, value.codec
    return registry.backend(type(value)).spec(value), None


def _shared(target: CompressedTensors, tensors: Mapping[str, Any], decisions: Mapping[str, Chosen]) -> dict[str, Any]:
    """The global scale of each weight that shares one, and is not encoded already."""
    fresh = [
        name for name, decision in decisions.items() if decision.codec and not _holds(tensors[name], decision.codec)
    ]
    shared = {}
    for names in target.fused(fresh):
        scale = calibration.shared_global_scale((_array(tensors[name]) for name in names), target.arithmetic)
        shared |= dict.fromkeys(names, scale)
    return shared


def _holds(value: Any, codec: Codec) -> bool:
    return isinstance(value, Encoded) and value.codec == codec


def _array(value: Any) -> Any:
    return api.decode(value) if isinstance(value, Encoded) else value


def _stored(target: CompressedTensors, name: str, value: Any, codec: Codec, global_scale: Any) -> dict[str, Any]:
    if not _holds(value, codec):
        given = {} if global_scale is None else {"global_scale": global_scale}
        try:
            value = api.encode(_array(value), codec, given=given)
        except NonFiniteError:  # its advice is for `encode`
            raise NonFiniteError(
                f"tensor {checks.shown(name)}: must be finite, and fit the scales of {codec}"
            ) from None
    plane = next(iter(value.planes.values()))
    backend, device = registry.backend(type(plane)), getattr(plane, "device", None)
    if hasattr(device, "device_set"):  # a sharded array is on many
        device = None
    planes = {key: api.to_numpy(plane) for key, plane in value.planes.items()}
    stored = target.arrays(name, Encoded(codec, value.spec, planes))
    whole = {key: array for key, array in stored.items() if backend.NAME != "jax" or array.dtype != np.int64}
    return stored | {key: backend.from_numpy(array, device) for key, array in whole.items()}
