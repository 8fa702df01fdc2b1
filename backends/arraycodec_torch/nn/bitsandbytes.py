"""bitsandbytes' state dicts, both ways: the keys of its `Linear4bit` and `Linear8bitLt` as an Encoded and back.

The translation is arraycodec.formats.bitsandbytes, for tensors on any device; nothing here imports bitsandbytes.
"""

from __future__ import annotations

from typing import Any

import torch

from arraycodec.base import Encoded
from arraycodec.containers import strict_json
from arraycodec.errors import FormatError
from arraycodec.formats.bitsandbytes.layout import STATE, Stored
from arraycodec.formats.bitsandbytes.reader import blocks, rows
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays


def is_state(state: dict[str, Any], prefix: str) -> bool:
    """Whether a quantised weight of bitsandbytes is under this prefix."""
    return prefix + "SCB" in state or any(name.startswith(f"{prefix}weight.{STATE}") for name in state)


def from_state(state: dict[str, Any], prefix: str, bias: torch.Tensor | None) -> Encoded:
    """The encoded weight under this prefix, whose keys are taken out; the planes share the tensors' memory."""
    own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if _is_own(name, prefix)}
    check_tensors(own)
    if "weight" not in own:
        raise KeyError("weight")
    own = {name.removeprefix("weight."): tensor for name, tensor in own.items()}
    specs, where = {part: arrays.spec(tensor) for part, tensor in own.items()}, "bitsandbytes"

    def small(part: str) -> Any:
        if own[part].is_meta:
            raise FormatError(f"bitsandbytes: {part} has no values, it is on the device meta")
        return arrays.to_numpy(own[part])

    if "SCB" in own:  # they do not say which dtype the weight had; a bias has the same
        stored = rows(specs, small, "float16" if bias is None else arrays.spec(bias).dtype, where)
    else:
        stored = blocks(specs, small, where)
    planes = stored.planes(own, _seen, lambda value: arrays.from_numpy(value, own["weight"].device))
    return Encoded(stored.codec, stored.spec, planes)


def check_tensors(state: dict[str, Any]) -> None:
    """Raise FormatError for what is not a tensor: a state dict may hold anything."""
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise FormatError(f"{name}: must be a tensor, got {type(value).__name__}")


def read_json(packed: torch.Tensor) -> Any:
    """What a tensor of bytes says as JSON; FormatError or LimitError where it does not."""
    check_tensors({"JSON": packed})
    if packed.dtype != torch.uint8 or packed.dim() != 1 or packed.is_meta:
        raise FormatError(f"a tensor of {packed.dtype}{list(packed.shape)} on {packed.device}, not the bytes of JSON")
    return strict_json.loads(arrays.to_numpy(packed).tobytes(), "JSON")


def to_bitsandbytes_state_dict(model: torch.nn.Module) -> dict[str, Any]:
    """The state dict of a model with the quantised weights under the keys and in the layout of bitsandbytes.

    Errors: ArgumentError for a weight in a format that bitsandbytes does not have.

    >>> from arraycodec_torch.nn import Linear4bit
    >>> sorted(to_bitsandbytes_state_dict(Linear4bit(64, 64, bias=False).quantize_weight()))
    ['weight', 'weight.absmax', 'weight.quant_map', 'weight.quant_state.bitsandbytes__nf4']
    """
    from arraycodec_torch.nn.quantized import QuantizedLinear

    state = dict(model.state_dict())
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizedLinear) and module.spec is not None:
            prefix = f"{name}." if name else ""
            for saved in (*module.plane_keys, "weight_codec"):
                del state[prefix + saved]
            state |= _to_state(module.encoded, f"{prefix}weight")
    return state


def _is_own(name: str, prefix: str) -> bool:
    own = name.removeprefix(prefix)
    return name.startswith(prefix) and (own in ("weight", "SCB", "weight_format") or own.startswith("weight."))


def _seen(tensor: torch.Tensor, spec: ArraySpec) -> torch.Tensor:
    """The bytes of a tensor with the dtype and axes of a spec."""
    return tensor.reshape(-1).view(arrays.dtype(spec.dtype)).reshape(spec.known_shape)


def _to_state(encoded: Encoded, name: str) -> dict[str, torch.Tensor]:
    planes, offset = encoded.planes, encoded.planes.get("absmax.offset")
    stored = Stored.of(encoded.codec, encoded.spec, offset=None if offset is None else offset.item())
    device = planes["codes"].device
    parts = stored.arrays(planes, _seen, lambda value: arrays.from_numpy(value, device))
    return {stored.key(name, part): tensor for part, tensor in parts.items()}


__all__ = ["check_tensors", "from_state", "is_state", "read_json", "to_bitsandbytes_state_dict"]
