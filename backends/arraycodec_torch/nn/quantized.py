"""`QuantizedLinear`: nn.Linear whose weight is the planes of any codec.

A new module has a dense `weight` like nn.Linear. `quantize_weight` puts the planes in its place, as the parameters
`weight_codes`, `weight_absmax` and so on, and from then on `weight` is None. Nothing but `quantize_weight`,
`load_state_dict` and a move to another device ever changes the planes.

The planes are parameters that need no gradient, as in bitsandbytes, and not buffers: DistributedDataParallel
broadcasts buffers before every forward pass, which would send the whole model each time and touch what autograd has
saved; parameters it sends once, when it wraps the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import nn

import arraycodec as ac
from arraycodec import api, registry
from arraycodec.base import Codec, Encoded, Given
from arraycodec.spec import ArraySpec
from arraycodec_torch import ops
from arraycodec_torch.nn import functional, states


class QuantizedLinear(nn.Module):
    """`y = x @ weight.T + bias` with an encoded weight, which is decoded for each product and not kept.

    in_features, out_features, bias, device, dtype   as for nn.Linear, whose dense weight a new module has.
    codec          a scheme's name or a codec: how `quantize_weight` encodes the weight.
    compute_dtype  what the product is computed in, as in bitsandbytes; None is the dtype of the input, or autocast's.

    Errors: ArgumentError for a codec that takes no such weight, and for an input of another width or of integers;
    NonFiniteError where the weight holds NaN or infinity.

    >>> layer = QuantizedLinear.from_float(nn.Linear(64, 32, dtype=torch.bfloat16), "fp8")
    >>> ac.decode(layer.encoded).dtype, layer(torch.ones(2, 64)).dtype
    (torch.bfloat16, torch.float32)
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        codec: str | Codec,
        bias: bool = True,
        compute_dtype: torch.dtype | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.codec = self.checked(registry.codec(codec))
        self.compute_dtype = compute_dtype
        self.spec: ArraySpec | None = None  # of the encoded weight
        self.plane_keys: tuple[str, ...] = ()  # the names of the parameters that hold its planes
        self._operands: tuple[str, list[int], str] = ("", [], "")  # what the operator wants besides: for compilers
        dense = nn.Linear(in_features, out_features, bias, device, dtype)  # for its initial values
        self.register_parameter("weight", dense._parameters["weight"])
        self.register_parameter("bias", dense._parameters["bias"])

    @classmethod
    def from_float(cls, linear: nn.Linear, *args: Any, **kwargs: Any) -> Self:
        """A quantised module with the weight of `linear` and its bias itself; further arguments as for the class."""
        kwargs |= {"bias": False, "device": "meta", "dtype": linear.weight.dtype}
        module = cls(linear.in_features, linear.out_features, *args, **kwargs)
        module.bias = cast("nn.Parameter | None", linear.bias)
        module.set_encoded(ac.encode(linear.weight.detach(), module.codec))
        return module.train(linear.training)

    @classmethod
    def checked(cls, codec: Codec) -> Codec:
        """The codec, where modules of this class can have it."""
        return codec

    # -- the weight

    @property
    def encoded(self) -> Encoded:
        """The encoded weight: `ac.decode(layer.encoded)` is the dense one. Its planes are the module's own."""
        if self.spec is None:
            raise ac.ArgumentError(f"{type(self).__name__}: the weight is not quantised yet: call quantize_weight()")
        return Encoded(self.codec, self.spec, dict(zip(self.codec.planes(self.spec), self._planes(), strict=True)))

    def quantize_weight(self, given: Given | None = None, **params: Any) -> Self:
        """Encode the weight in place and return the module.

        given   planes to take as they are, such as the scales of a calibration.
        params  replace parameters of the codec: `quantize_weight(block_size=128)`.
        """
        if self.weight is None:
            raise ac.ArgumentError(f"{type(self).__name__}: the weight is quantised already, with {self.codec!r}")
        codec = self.checked(registry.codec(self.codec, **params))
        self.set_encoded(ac.encode(self.weight.detach(), codec, given=given))
        return self

    def set_encoded(self, encoded: Encoded) -> None:
        """Take these planes, torch tensors of an (out, in) array, for the weight that is there."""
        for name, plane in encoded.planes.items():
            if not isinstance(plane, torch.Tensor):
                raise ac.ArgumentError(f"weight: plane {name!r} must be a torch tensor, got {type(plane).__name__}")
        shape = (self.out_features, self.in_features)
        if (got := encoded.batch_shape + encoded.spec.shape) != shape:
            raise ac.ArgumentError(f"weight: must have shape {list(shape)}, got {list(got)}")
        codec = self.checked(encoded.codec)
        api.validate(encoded)
        for name in self.plane_keys:
            del self._parameters[name]
        self.register_parameter("weight", None)
        self.codec, self.spec = codec, encoded.spec
        planes = {states.key(name): encoded.planes[name] for name in codec.planes(encoded.spec)}
        for name, plane in planes.items():
            self.register_parameter(name, _frozen(plane))
        self.plane_keys, self._operands = tuple(planes), (ops.to_text(codec), list(shape), encoded.spec.dtype)

    def _planes(self) -> list[torch.Tensor]:
        return [cast(torch.Tensor, self._parameters[name]) for name in self.plane_keys]

    @property
    def device(self) -> torch.device:
        """Where the weight is."""
        return next(tensor.device for tensor in (self.weight, *self._planes()) if tensor is not None)

    # -- nn.Module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        functional.check_input(self._get_name(), x, self.in_features)
        dtype = self.compute_dtype or x.dtype
        if self.compute_dtype is None and torch.is_autocast_enabled(x.device.type):
            dtype = torch.get_autocast_dtype(x.device.type)
        y = self.product(x.to(dtype))
        return y if self.compute_dtype is None else y.to(x.dtype)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """The product with the weight and the bias, in the dtype of `x`."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.weight is not None:
            return F.linear(x, self.weight.to(x.dtype), bias)
        return torch.ops.arraycodec.linear(x, self._planes(), bias, *self._operands, False)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        """`.to(device)` moves the planes; `.half()` and `.to(dtype)` leave them alone and convert all else."""
        planes = dict(zip(self.plane_keys, self._planes(), strict=True))
        for name in planes:
            del self._parameters[name]
        try:
            super()._apply(fn, recurse)
            for name, plane in planes.items():
                moved = fn(plane.detach())
                planes[name] = _frozen(moved if moved.dtype == plane.dtype else plane.detach().to(moved.device))
        finally:
            for name, plane in planes.items():
                self.register_parameter(name, cast(nn.Parameter, plane))
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.spec is not None:
            destination[prefix + states.CODEC] = states.pack(self.codec, self.spec)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Load planes, a dense weight (into a quantised module: encoded), or what bitsandbytes saved."""
        try:
            states.load_weight(self, state_dict, prefix)
        except (ac.ArrayCodecError, KeyError) as error:
            reason = f"key {prefix}{error.args[0]} is missing" if isinstance(error, KeyError) else error
            error_msgs.append(f"{prefix}weight: {reason}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def extra_repr(self) -> str:
        """Sizes, bits per weight and the codec."""
        size = "not quantised" if self.spec is None else f"{self.encoded.bits_per_element:g} bits per weight"
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, {size}, {self.codec!r}"


def _frozen(plane: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(plane.detach(), requires_grad=False)
