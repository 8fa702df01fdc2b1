"""Two operators for every codec: `arraycodec::encode` and `arraycodec::decode` (and its out variant).

A codec is an argument, as the JSON that files hold, and the shapes of the outputs follow from `codec.planes(spec)`:
so a new codec works under torch.compile, export, vmap and FakeTensorMode without a registration. Compilers see
neither the arithmetic nor a reason to change it; a compiled program gives the bits of an eager one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from arraycodec import registry
from arraycodec.base import Codec, Encoded, Given, Planes
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.implementations import chosen


def to_text(codec: Codec) -> str:
    """A codec as the operators take it."""
    return _text(codec.to_json())


@cache
def from_text(text: str) -> Codec:
    """The codec that `to_text` wrote."""
    return registry.from_json(json.loads(text))


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, separators=(",", ":"), sort_keys=True)


_text.__dict__["_dynamo_marked_constant"] = True  # as torch.compiler.assume_constant_result does


def encode(x: torch.Tensor, codec: Codec, given: Given) -> Planes:
    """The planes of `x`, through the operator."""
    given = {name: plane.detach() for name, plane in given.items()}
    planes = torch.ops.arraycodec.encode(x.detach(), to_text(codec), list(given.values()), ",".join(given))
    return dict(zip(codec.planes(arrays.spec(x)), planes, strict=True))


def decode(codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor | None) -> torch.Tensor:
    """The tensor of these planes, through the operator."""
    ordered = [planes[name].detach() for name in codec.planes(spec)]
    given = {name: plane.detach() for name, plane in given.items()}
    arguments = (ordered, to_text(codec), spec.known_shape, spec.dtype, list(given.values()), ",".join(given))
    if out is None:
        return torch.ops.arraycodec.decode(*arguments)
    torch.ops.arraycodec.decode_out(out, *arguments)
    return out


# The schemas are spelt out because torch before 2.7 cannot read them off annotations such as list[Tensor].
_ENCODE = "(Tensor x, str codec, Tensor[] given, str given_names) -> Tensor[]"
_DECODE = "(Tensor[] planes, str codec, SymInt[] shape, str dtype, Tensor[] given, str given_names) -> Tensor"
_DECODE_OUT = _DECODE.replace("(Tensor[] planes", "(Tensor(a!) out, Tensor[] planes").replace("-> Tensor", "-> ()")


@torch.library.custom_op("arraycodec::encode", mutates_args=(), schema=_ENCODE)
def _encode(x: torch.Tensor, codec: str, given: Sequence[torch.Tensor], given_names: str) -> list[torch.Tensor]:
    found = from_text(codec)
    planes = chosen(x).encode(x, found, _named(given_names, given))
    taken = {plane.untyped_storage().data_ptr() for plane in (x, *given)}
    return [
        plane.clone() if plane.untyped_storage().data_ptr() in taken else plane
        for plane in (planes[name] for name in found.planes(arrays.spec(x)))
    ]


@torch.library.custom_op("arraycodec::decode", mutates_args=(), schema=_DECODE)
def _decode(
    planes: Sequence[torch.Tensor],
    codec: str,
    shape: Sequence[int],
    dtype: str,
    given: Sequence[torch.Tensor],
    given_names: str,
) -> torch.Tensor:
    found, spec = from_text(codec), ArraySpec(tuple(map(int, shape)), dtype)
    named = dict(zip(found.planes(spec), planes, strict=True))
    return chosen(planes[0]).decode(found, named, spec, _named(given_names, given), None)


@torch.library.custom_op("arraycodec::decode_out", mutates_args=("out",), schema=_DECODE_OUT)
def _decode_out(
    out: torch.Tensor,
    planes: Sequence[torch.Tensor],
    codec: str,
    shape: Sequence[int],
    dtype: str,
    given: Sequence[torch.Tensor],
    given_names: str,
) -> None:
    found, spec = from_text(codec), ArraySpec(tuple(map(int, shape)), dtype)
    named = dict(zip(found.planes(spec), planes, strict=True))
    arrays.check_out(out, spec, named)
    chosen(planes[0]).decode(found, named, spec, _named(given_names, given), out)


@_encode.register_fake
def _(x: torch.Tensor, codec: str, given: Sequence[torch.Tensor], given_names: str) -> list[torch.Tensor]:
    return [
        x.new_empty([_unknown() if n is None else n for n in plane.shape], dtype=arrays.dtype(plane.dtype))
        for plane in from_text(codec).planes(arrays.spec(x)).values()
    ]


@_decode.register_fake
def _(
    planes: Sequence[torch.Tensor],
    codec: str,
    shape: Sequence[int],
    dtype: str,
    given: Sequence[torch.Tensor],
    given_names: str,
) -> torch.Tensor:
    return planes[0].new_empty(tuple(shape), dtype=arrays.dtype(dtype))


@_decode_out.register_fake
def _(*arguments: Any) -> None:
    return None


@_encode.register_vmap
def _(info: Any, in_dims: Any, x: Any, codec: str, given: Any, given_names: str) -> Any:
    batches = [
        _encode(_at(x, in_dims[0], i), codec, _each(given, in_dims[2], i), given_names) for i in range(info.batch_size)
    ]
    return [torch.stack(planes) for planes in zip(*batches, strict=True)], [0] * len(batches[0])


@_decode.register_vmap
def _(info: Any, in_dims: Any, planes: Any, codec: str, shape: Any, dtype: str, given: Any, given_names: str) -> Any:
    batches = [
        _decode(_each(planes, in_dims[0], i), codec, shape, dtype, _each(given, in_dims[4], i), given_names)
        for i in range(info.batch_size)
    ]
    return torch.stack(batches), 0


def _at(x: torch.Tensor, dim: int | None, i: int) -> torch.Tensor:
    return x if dim is None else x.select(dim, i)


def _each(tensors: Sequence[torch.Tensor], dims: Sequence[int | None], i: int) -> list[torch.Tensor]:
    return [_at(x, dim, i) for x, dim in zip(tensors, dims, strict=True)]


def _named(names: str, tensors: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    return dict(zip(names.split(",") if names else (), tensors, strict=True))


def _unknown() -> torch.SymInt:
    """A length that only the data can tell."""
    return torch.library.get_ctx().new_dynamic_size()


def register_encoded() -> None:
    """Make Encoded a pytree whose leaves are its planes, so that programs with it can be exported and vmapped."""
    pytree.register_pytree_node(
        Encoded,
        lambda encoded: (list(encoded.planes.values()), _context(encoded)),
        _unflatten,
        serialized_type_name="arraycodec.Encoded",
        to_dumpable_context=list,
        from_dumpable_context=lambda data: (data[0], tuple(data[1]), data[2], tuple(data[3])),
        flatten_with_keys_fn=_flatten_with_keys,
    )


def _flatten_with_keys(encoded: Encoded) -> Any:
    return [(pytree.MappingKey(name), plane) for name, plane in encoded.planes.items()], _context(encoded)


def _context(encoded: Encoded) -> tuple[dict[str, Any], tuple[int | None, ...], str, tuple[str, ...]]:
    # Plain data: torch.export in its strict mode follows these two functions line by line.
    return encoded.codec.to_json(), encoded.spec.shape, encoded.spec.dtype, tuple(encoded.planes)


def _unflatten(planes: Any, context: tuple[dict[str, Any], tuple[int | None, ...], str, tuple[str, ...]]) -> Encoded:
    codec, shape, dtype, names = context
    return Encoded(registry.from_json(codec), ArraySpec(shape, dtype), dict(zip(names, planes)))  # noqa: B905
