"""State dicts: the keys under which planes are saved, and the forms in which a weight may come back.

ours          weight_codes, weight_absmax and so on, and the codec as JSON in a uint8 tensor, weight_codec
nn.Linear     weight, dense: a module that is quantised encodes it with its codec
bitsandbytes  the keys of `Linear4bit` and `Linear8bitLt` (arraycodec_torch.nn.bitsandbytes)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

import arraycodec as ac
from arraycodec import api, registry
from arraycodec.base import Codec, Encoded
from arraycodec.errors import ArrayCodecError, FormatError
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.nn import bitsandbytes

if TYPE_CHECKING:
    from arraycodec_torch.nn.quantized import QuantizedLinear

CODEC = "weight_codec"


def key(plane: str) -> str:
    """The name of the parameter that holds a plane; modules allow no point in it."""
    return f"weight_{plane.replace('.', '_')}"


def pack(codec: Codec, spec: ArraySpec) -> torch.Tensor:
    """What planes do not say, as bytes: the codec, and the shape and dtype of the weight."""
    text = json.dumps({"codec": codec.to_json(), "shape": spec.shape, "dtype": spec.dtype}, sort_keys=True)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def unpack(packed: torch.Tensor) -> tuple[Codec, ArraySpec]:
    """The inverse of `pack`."""
    try:
        data = bitsandbytes.read_json(packed)
        codec, spec = registry.from_json(data["codec"]), ArraySpec(tuple(data["shape"]), data["dtype"])
        codec.supports(spec)  # before it is asked for planes
    except (ArrayCodecError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{CODEC}: must be JSON with codec, shape and dtype, got {error}") from None
    return codec, spec


def load_weight(module: QuantizedLinear, state: dict[str, Any], prefix: str) -> None:
    """Translate the weight in `state` to our planes, in `state` itself, and make room for them in the module."""
    encoded = _found(module, state, prefix)
    if encoded is None:  # a dense weight for a dense one, or nothing
        return
    bitsandbytes.check_tensors(encoded.planes)
    api.validate(encoded)
    if all(plane.device.type == "cpu" for plane in encoded.planes.values()):
        encoded.codec.check({name: arrays.to_numpy(plane) for name, plane in encoded.planes.items()}, encoded.spec)
    shapes = {name: plane.shape for name, plane in encoded.planes.items()}
    there = None if module.spec is None else module.encoded
    if (
        there is None
        or (there.codec, there.spec) != (encoded.codec, encoded.spec)
        or shapes != {name: plane.shape for name, plane in there.planes.items()}
    ):
        room = {name: torch.empty_like(plane, device=module.device) for name, plane in encoded.planes.items()}
        module.set_encoded(Encoded(encoded.codec, encoded.spec, room))
    state |= {prefix + key(name): plane for name, plane in encoded.planes.items()}


def _found(module: QuantizedLinear, state: dict[str, Any], prefix: str) -> Encoded | None:
    """The encoded weight that `state` holds in any form, whose keys are taken out; KeyError: the first it lacks."""
    if prefix + CODEC in state:
        codec, spec = unpack(state.pop(prefix + CODEC))
        names = {name: key(name) for name in codec.planes(spec)}
        if missing := [own for own in names.values() if prefix + own not in state]:
            raise KeyError(missing[0])
        return Encoded(codec, spec, {name: state.pop(prefix + own) for name, own in names.items()})
    if bitsandbytes.is_state(state, prefix):
        return bitsandbytes.from_state(state, prefix, module.bias)
    if module.spec is None or prefix + "weight" not in state:
        return None
    dense = state.pop(prefix + "weight")
    bitsandbytes.check_tensors({"weight": dense})
    return ac.encode(dense.detach().to(module.device), module.codec)
