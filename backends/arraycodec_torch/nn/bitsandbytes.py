"""bitsandbytes' state dicts, both ways: the keys of its `Linear4bit` and `Linear8bitLt` as an Encoded and back.

What the keys hold is on the pages of the codecs, docs/format/codebook.md and llm_int8.md. Nothing here imports
bitsandbytes.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from arraycodec.base import Codec, Encoded, Then
from arraycodec.codecs.codebook import Codebook
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.containers import strict_json
from arraycodec.errors import ArgumentError, ArrayCodecError, FormatError
from arraycodec.primitives import codebooks
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays

STATE = "weight.quant_state.bitsandbytes__"  # followed by the quant_type
NESTED = Codebook("dynamic", block_size=256, offset=True)


def is_state(state: dict[str, Any], prefix: str) -> bool:
    """Whether a quantised weight of bitsandbytes is under this prefix."""
    return prefix + "SCB" in state or any(name.startswith(prefix + STATE) for name in state)


def from_state(state: dict[str, Any], prefix: str, bias: torch.Tensor | None) -> Encoded:
    """The encoded weight under this prefix, whose keys are taken out; the planes share the tensors' memory."""
    own = {name.removeprefix(prefix): state.pop(name) for name in list(state) if _is_own(name, prefix)}
    check_tensors(own)
    return _rows(own, bias) if "SCB" in own else _blocks(own)


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
            state |= {prefix + own: tensor for own, tensor in _to_state(module.encoded).items()}
    return state


def _is_own(name: str, prefix: str) -> bool:
    own = name.removeprefix(prefix)
    return name.startswith(prefix) and (own in ("weight", "SCB", "weight_format") or own.startswith("weight."))


def _rows(own: dict[str, torch.Tensor], bias: torch.Tensor | None) -> Encoded:
    """`Linear8bitLt`. It does not say which dtype the weight had; a bias has the same."""
    codes, scales, layout = own["weight"], own["SCB"], own.get("weight_format")
    if layout is not None and (layout.numel() != 1 or layout.item() != 0):
        got = layout.item() if layout.numel() == 1 else f"shape {list(layout.shape)}"
        raise FormatError(f"bitsandbytes: weight_format must be 0 (row), got {got}")
    if codes.dim() != 2 or scales.dim() != 1:
        got = f"{list(codes.shape)} and {list(scales.shape)}"
        raise FormatError(f"bitsandbytes: weight and SCB must have two axes and one, got shapes {got}")
    dtype = "float16" if bias is None else arrays.spec(bias).dtype
    return Encoded(LLMInt8(), ArraySpec(tuple(codes.shape), dtype), {"codes": codes, "scales": scales[:, None]})


def _blocks(own: dict[str, torch.Tensor]) -> Encoded:
    """`Linear4bit`: blocks of nf4 or fp4, perhaps with nested statistics."""
    packed, *others = (name for name in own if name.startswith(STATE))
    if others:
        raise FormatError(f"bitsandbytes: a weight must have one quant_state, got {[packed, *others]}")
    try:
        facts = read_json(own[packed])
        spec = ArraySpec(tuple(facts["shape"]), facts["dtype"])
        codec: Codec = Codebook(facts["quant_type"], facts["blocksize"])
        planes = {"codes": own["weight"].reshape(-1).view(torch.uint8), "absmax": own["weight.absmax"]}
        maps = {"weight.quant_map": codec}
        if "nested_blocksize" in facts:
            maps["weight.nested_quant_map"] = nested = Codebook("dynamic", facts["nested_blocksize"], offset=True)
            codec, planes["absmax.codes"] = Then(codec, absmax=nested), planes.pop("absmax")
            planes["absmax.absmax"] = own["weight.nested_absmax"]
            planes["absmax.offset"] = _offset(facts["nested_offset"], own["weight"].device)
    except (ArrayCodecError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"bitsandbytes: {packed} or what belongs to it is not as it should be: {error!r}") from None
    for name, table in maps.items():
        values = _map(table.table, own[name].device)
        if own[name].dtype != values.dtype or not torch.equal(own[name], values):
            raise FormatError(f"bitsandbytes: {name} must be the table of {table.table}, got another one")
    shaped = {}
    for name, want in codec.planes(spec).items():
        plane = planes[name]
        if arrays.spec(plane).dtype != want.dtype or plane.numel() != want.size:
            hint = (
                "; a Linear4bit of bitsandbytes that ran on a CPU with AVX512_BF16 saves such"
                if plane.dim() > 1
                else ""
            )
            raise FormatError(
                f"bitsandbytes: {name} must be {want.dtype} with {want.size} elements, "
                f"got {plane.dtype} {list(plane.shape)}{hint}"
            )
        shaped[name] = plane.reshape(want.known_shape)
    return Encoded(codec, spec, shaped)


def _to_state(encoded: Encoded) -> dict[str, torch.Tensor]:
    codec, spec, planes = encoded.codec, encoded.spec, encoded.planes
    if codec == LLMInt8():
        layout = torch.tensor(0, dtype=torch.uint8)
        return {"weight": planes["codes"], "SCB": planes["scales"].reshape(-1), "weight_format": layout}
    nested = isinstance(codec, Then) and dict(codec.parts) == {"absmax": NESTED}
    outer = codec.outer if isinstance(codec, Then) and nested else codec
    if not isinstance(outer, Codebook) or outer.table not in ("nf4", "fp4") or not outer.block_size or outer.offset:
        raise ArgumentError(f"bitsandbytes: has nf4, fp4 and llm_int8 weights, got {codec!r}")
    table, device = outer.table, planes["codes"].device
    facts = {"quant_type": table, "blocksize": outer.block_size, "dtype": spec.dtype, "shape": list(spec.known_shape)}
    state = {"weight": planes["codes"].reshape(-1, 1), "weight.quant_map": _map(table, device)}
    if nested:
        offset = planes["absmax.offset"].item()
        facts |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
        state["weight.absmax"] = planes["absmax.codes"].reshape(-1)
        state["weight.nested_absmax"] = planes["absmax.absmax"].reshape(-1)
        state["weight.nested_quant_map"] = _map("dynamic", device)
    else:
        state["weight.absmax"] = planes["absmax"].reshape(-1)
    state[STATE + table] = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8, device=device)
    return state


def _offset(number: Any, device: torch.device) -> torch.Tensor:
    return torch.tensor(float(number), dtype=torch.float32, device=device)


def _map(table: str, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(codebooks.table(table).values.copy()).to(device)


__all__ = ["check_tensors", "from_state", "is_state", "read_json", "to_bitsandbytes_state_dict"]
