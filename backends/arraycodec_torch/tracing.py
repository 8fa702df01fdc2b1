"""`arraycodec.encode` and `decode` as torch.compile traces them.

Dynamo follows Python line by line, and codecs may do in `planes` and `check` whatever they like. So it follows the two
functions below instead: all that depends on shapes is checked by the core on meta tensors, in functions that are
called once while tracing and count as constants; what remains for the graph is a call of an operator.
"""

from __future__ import annotations

import math
from operator import index
from typing import Any

import torch

from arraycodec import api, caches, registry
from arraycodec.base import Encoded
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, ops


def install() -> None:
    """Have Dynamo read the functions below in place of those of the core.

    What torch.compiler's decorators do is to set attributes or to fill tables of Dynamo; importing Dynamo takes a
    second, and so only the attributes are set here.
    """
    api._encode.__dict__["_torchdynamo_inline"] = _encode
    api._decode.__dict__["_torchdynamo_inline"] = _decode
    caches._append.__dict__["_torchdynamo_inline"] = _append
    for function in (_plan_encode, _plan_decode, _plan_append):
        function.__dict__["_dynamo_marked_constant"] = True


def _encode(backend: Any, x: Any, codec: Any, given: Any, check: Any) -> Encoded:
    if check:
        raise UnsupportedByBackend("encode: check=True needs values, and torch.compile has none while it traces")
    codec, like = registry.codec(codec), _like(x)
    # The codec goes there as plain data, so that an equal one needs no new trace.
    plan = _plan_encode(_constant(codec.to_json()), like, {name: _like(plane) for name, plane in given.items()})
    text, names, shape, dtype = plan
    extra = [plane.detach() for plane in given.values()]
    planes = torch.ops.arraycodec.encode(x.detach(), text, extra, ",".join(given))
    # What a constant function returns cannot be looked into, but for plain data: the values are made here.
    return Encoded(codec, ArraySpec(tuple(shape), dtype), dict(zip(names, planes)))  # noqa: B905  no `strict` in Dynamo


def _decode(backend: Any, encoded: Encoded, out: Any, dtype: Any, given: Any) -> torch.Tensor:
    likes = {name: _like(plane) for name, plane in encoded.planes.items()}
    shape, stored = [index(n) for n in encoded.spec.known_shape], encoded.spec.dtype
    like_out = None if out is None else _like(out)
    names, batch, rest = _plan_decode(_constant(encoded.codec.to_json()), shape, stored, likes, like_out, dtype)
    text, shape, dtype = rest
    extra = [plane.detach() for plane in given.values()]
    planes = [encoded.planes[name].detach() for name in names]
    if out is not None:
        torch.ops.arraycodec.decode_out(out, planes, text, shape, dtype, extra, ",".join(given))
        return out
    if not batch:
        return torch.ops.arraycodec.decode(planes, text, shape, dtype, extra, ",".join(given))
    if 0 in batch:
        return planes[0].new_empty((*batch, *shape), dtype=arrays.dtype(dtype))
    flat = [plane.reshape(-1, *plane.shape[len(batch) :]) for plane in planes]
    decoded = [
        torch.ops.arraycodec.decode([plane[i] for plane in flat], text, shape, dtype, extra, ",".join(given))
        for i in range(math.prod(batch))
    ]
    return torch.stack(decoded).reshape(*batch, *shape)


def _append(backend: Any, cache: Encoded, x: torch.Tensor, position: Any) -> Encoded:
    codec, spec, shape = cache.codec, cache.spec, [index(n) for n in cache.spec.known_shape]
    shared = _plan_append(_constant(codec.to_json()), shape, spec.dtype, _like(x))
    new = api.encode(x, codec, given={name: cache.planes[name] for name in shared}).planes
    planes = {
        name: plane if name in shared else arrays.put(plane, new[name], position)
        for name, plane in cache.planes.items()
    }
    return Encoded(codec, spec, planes)


def _constant(value: Any) -> Any:
    """A codec as JSON, with constants for the numbers that Dynamo takes for variables once it has seen two of them."""
    if isinstance(value, dict):
        return {key: _constant(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_constant(item) for item in value]
    if isinstance(value, float):
        return float.fromhex(value.hex())
    return index(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _like(x: torch.Tensor) -> tuple[list[int], list[int], str, bool]:
    """What may be checked of a tensor while its values are unknown; `index` makes a symbolic size a constant."""
    return [index(n) for n in x.shape], [index(n) for n in x.stride()], str(x.dtype), x.requires_grad


def _plan_encode(codec: Any, like: Any, given: dict[str, Any]) -> tuple[str, list[str], list[int], str]:
    x, metas = _meta(like), {name: _meta(plane) for name, plane in given.items()}
    found, spec = api._encoding(registry.backend(torch.Tensor), x, registry.from_json(codec), metas)
    return ops.to_text(found), list(found.planes(spec)), list(spec.known_shape), spec.dtype


def _plan_decode(codec: Any, shape: list[int], stored: str, planes: dict[str, Any], out: Any, dtype: str | None) -> Any:
    metas = {name: _meta(plane) for name, plane in planes.items()}
    encoded = Encoded(registry.from_json(codec), ArraySpec(tuple(shape), stored), metas)
    target = None if out is None else _meta(out)
    found, spec, batch = api._decoding(encoded, target, dtype)
    if target is not None:
        arrays.check_out(target, spec, metas)
    return list(found.planes(spec)), batch, (ops.to_text(found), list(spec.known_shape), spec.dtype)


def _plan_append(codec: Any, shape: list[int], dtype: str, like: Any) -> list[str]:
    backend, spec = registry.backend(torch.Tensor), ArraySpec(tuple(shape), dtype)
    # A position is not a part of the plan: a program is for all of them.
    return list(caches._appending(backend, registry.from_json(codec), spec, _meta(like), None))


def _meta(like: tuple[list[int], list[int], str, bool]) -> torch.Tensor:
    shape, stride, dtype, requires_grad = like
    meta = torch.empty_strided(shape, stride, dtype=getattr(torch, dtype.removeprefix("torch.")), device="meta")
    return meta.requires_grad_(requires_grad)
