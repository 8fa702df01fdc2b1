"""`dequant_matmul`: the product with a matrix that stays encoded, of which a band of rows is decoded at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arraycodec.api import validate
from arraycodec.base import Codec, Encoded
from arraycodec.errors import ArgumentError
from arraycodec.primitives.blocks import is_positive
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec
from arraycodec_jax import arrays
from arraycodec_jax.implementations import IMPLEMENTATIONS

BAND = 1 << 18  # elements that are decoded at a time, unless the caller wants it otherwise
# A band that stands by itself is looked for among those of so many rows and elements, as a part of MANY elements.
SEARCHED = 1 << 12
LARGEST = 1 << 23
MANY = 1 << 47


def dequant_matmul(x: Any, weight: Encoded, *, axis: int = 1, band: int | None = None) -> jax.Array:
    """The product of `x` with an encoded matrix, which is decoded a band of rows at a time and never as a whole.

    x       (..., k), float32, bfloat16 or float16; the result is (..., n) of the same dtype.
    weight  an Encoded of (n, k); of (k, n) with axis=0. For stacked weights, `jax.vmap` this function.
    axis    the weight's axis of length k: 1 where it is (out, in), as torch has it; 0 where (in, out), as Flax has it.
    band    the rows to decode at a time, rounded to what the codec's blocks allow; by default 2^18 elements. How
            many are fastest depends on the device: those that its caches hold, on a CPU.

    Elements of the weight are those of `arraycodec.decode`, in the dtype of `x`; products are summed in float32, and
    the sum is rounded once. The order of a sum is XLA's, as in any product. The gradient with respect to `x` decodes
    anew; planes are constants. Errors: ArgumentError, and FormatError for planes that are not the codec's.

    >>> import jax.numpy as jnp, arraycodec as ac
    >>> weight = ac.encode(jnp.eye(64), "nf4")
    >>> dequant_matmul(jnp.arange(128.0).reshape(2, 64), weight)[1, :3]
    Array([64., 65., 66.], dtype=float32)
    """
    dtype, shape = arrays.spec(x).dtype, weight.spec.known_shape
    if dtype not in KINDS:
        raise ArgumentError(f"dequant_matmul: x must be {', '.join(KINDS)}, got {dtype}")
    if axis not in (0, 1):
        raise ArgumentError(f"dequant_matmul: axis must be 0 or 1, got {axis!r}")
    if band is not None and not is_positive(band):
        raise ArgumentError(f"dequant_matmul: band must be an integer >= 1 or None, got {band!r}")
    validate(weight)
    if len(shape) != 2 or weight.batch_shape:
        own = [*weight.batch_shape, *shape]
        raise ArgumentError(f"dequant_matmul: weight must have two axes (vmap over others), got {own}")
    if not x.ndim or x.shape[-1] != shape[axis]:
        raise ArgumentError(f"dequant_matmul: x must be (..., {shape[axis]}), got {list(x.shape)}")
    return _compiled(x, weight, axis, band)


class Bands(NamedTuple):
    """A matrix as `number` bands of `height` rows and one of `rest` rows, and what of its planes belongs to each.

    lengths   plane -> how much of its first axis belongs to a band; planes that are not in it belong to all.
    """

    number: int
    height: int
    rest: int
    lengths: dict[str, int]

    def decode(self, weight: Encoded, i: Any, rows: int, dtype: str) -> jax.Array:
        """The first `rows` rows of band i, in the weight's own dtype if that is narrow, else rounded to `dtype`."""
        spec = replace(weight.spec, shape=(rows, weight.spec.shape[1]))
        sizes: Any = {name: plane.shape[0] for name, plane in weight.codec.planes(spec).items() if plane.shape}
        planes = dict(weight.planes)
        for name, length in self.lengths.items():
            planes[name] = lax.dynamic_slice_in_dim(planes[name], i * length, sizes[name])
        if spec.dtype == "float32" and weight.codec.decodes_to(spec, dtype):
            spec = replace(spec, dtype=dtype)
        return IMPLEMENTATIONS["eager"].decode(weight.codec, planes, spec, {})


@cache
def bands_of(codec: Codec, spec: ArraySpec, height: int | None) -> Bands:
    """The bands of a matrix: of about `height` rows, or `BAND` elements; of all rows where none stands by itself."""
    rows, columns = spec.known_shape
    for unit in range(1, min(rows, SEARCHED + 1, LARGEST // columns + 1)):
        # What is a part of its own in planes of any length is so in these. Many are enough for a fraction of a block,
        # or of a byte, to show.
        many = MANY // (unit * columns)
        one, all_ = (codec.planes(replace(spec, shape=(unit * times, columns))) for times in (1, many))
        own: dict[str, Any] = {name: plane.shape[0] for name, plane in one.items() if plane.shape != all_[name].shape}
        if all(all_[name].shape == (length * many, *one[name].shape[1:]) for name, length in own.items()):
            times = max(min(height or BAND // columns, rows) // unit, 1)
            number, rest = divmod(rows, unit * times)
            return Bands(number, unit * times, rest, {name: length * times for name, length in own.items()})
    return Bands(1, rows, 0, {})


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _product(x: Any, weight: Encoded, axis: int, band: int | None) -> jax.Array:
    if not weight.spec.size:
        return jnp.zeros((*x.shape[:-1], weight.spec.known_shape[1 - axis]), x.dtype)
    bands, last = bands_of(weight.codec, weight.spec, band), x.ndim - 1

    def part(i: Any, rows: int) -> jax.Array:
        """The columns of the result that band i gives; with axis=0 the summand."""
        decoded = bands.decode(weight, i, rows, x.dtype.name).astype(x.dtype)
        if axis == 1:
            return _dot(x, decoded, axis).astype(x.dtype)
        return _dot(lax.dynamic_slice_in_dim(x, i * bands.height, rows, last), decoded, axis)

    if axis == 1:
        y = jnp.moveaxis(lax.map(lambda i: part(i, bands.height), jnp.arange(bands.number)), 0, last)
        y = y.reshape(*x.shape[:-1], bands.number * bands.height)
        return jnp.concatenate([y, part(bands.number, bands.rest)], last) if bands.rest else y
    # A loop must begin with a part of the sum: only that has the type which it has in a shard_map.
    others = bands.number if bands.rest else bands.number - 1
    first = part(others, bands.rest or bands.height)
    return lax.fori_loop(0, others, lambda i, y: y + part(i, bands.height), first).astype(x.dtype)


def _dot(x: jax.Array, w: jax.Array, axis: int) -> jax.Array:
    """The last axis of `x` times that axis of `w`, summed in float32."""
    return lax.dot_general(x, w, (((x.ndim - 1,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


def _forward(x: Any, weight: Encoded, axis: int, band: int | None) -> tuple[jax.Array, Encoded]:
    return _product(x, weight, axis, band), weight


def _backward(axis: int, band: int | None, weight: Encoded, grad: jax.Array) -> tuple[jax.Array, None]:
    return _product(grad, weight, 1 - axis, band), None


_product.defvjp(_forward, _backward)
_compiled = jax.jit(_product, static_argnums=(2, 3))
