"""What the backend needs to know of a JAX array: its spec, where it is, and its memory shared with NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.primitives import memory
from arraycodec.spec import DTYPES, ArraySpec


def spec(x: Any) -> ArraySpec:
    """The spec of an array or tracer."""
    name = getattr(getattr(x, "dtype", None), "name", type(x).__name__)
    if name not in DTYPES:
        raise ArgumentError(f"array: dtype must be one of {', '.join(DTYPES)}, got {name}")
    if not all(isinstance(axis, int) for axis in x.shape):
        raise ArgumentError(f"array: every axis must have a known length, got shape {x.shape}")
    return ArraySpec(tuple(x.shape), name)


def at_hand(x: Any) -> bool:
    """Whether `x` has values now, on a CPU that belongs to this process."""
    if isinstance(x, Tracer):
        return False
    return not isinstance(x, jax.Array) or (
        x.is_fully_addressable and all(device.platform == "cpu" for device in x.sharding.device_set)
    )


def on_one_cpu(x: Any) -> bool:
    """Whether NumPy can look at the memory of `x`: that of a single CPU device."""
    return at_hand(x) and (not isinstance(x, jax.Array) or len(x.sharding.device_set) == 1)


def staged() -> bool:
    """Whether operations on arrays at hand are recorded rather than done, because `jit` or `scan` is tracing."""
    return isinstance(lax.iota(np.uint8, 1), Tracer)  # the least operation that moves nothing to a device


def concrete(x: Any) -> bool:
    """Whether the values can be looked at without a transfer or an error."""
    return at_hand(x) and not staged()


def to_numpy(x: Any) -> np.ndarray:
    """The values of `x`: a read-only view of a CPU array, a copy from elsewhere."""
    if isinstance(x, Tracer):
        raise UnsupportedByBackend(
            f"jax: a traced array has no values to look at (nor to check, by check=True), got {type(x).__name__}"
        )
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        raise UnsupportedByBackend(f"jax: the array lies partly in other processes, its sharding is {x.sharding}")
    return np.asarray(x)


def from_numpy(x: np.ndarray, device: Any = None) -> jax.Array:
    """A JAX array on the memory of `x` where that is aligned to 64 bytes, else a copy; do not write to `x` any more.

    device   a JAX device or sharding, the name of a platform, or None for the default device.
    """
    _check_dtype(x.dtype)
    where = jax.local_devices(backend=device)[0] if isinstance(device, str) else device
    return jax.device_put(memory.native(x), where, may_alias=True)


def sharded(spec: ArraySpec, sharding: Any, read: Callable[[Any], np.ndarray]) -> jax.Array:
    """An array whose parts lie on the devices of a sharding.

    read   the slices of a part, one for each axis -> the part; devices of this process ask in the sharding's order
    """
    if not isinstance(sharding, jax.sharding.Sharding):
        raise ArgumentError(f"sharding: must be a jax.sharding.Sharding or None, got {type(sharding).__name__}")
    _check_dtype(spec.numpy_dtype)
    try:
        sharding.shard_shape(spec.known_shape)
    except ValueError as error:
        raise ArgumentError(f"sharding: {error}") from None
    return jax.make_array_from_callback(spec.known_shape, sharding, read, dtype=spec.numpy_dtype)


def fitting(sharding: Any, axes: int, shape: tuple[int, ...]) -> Any:
    """The sharding of a plane beside an array of so many axes: the array's where it fits, else copies everywhere."""
    if not isinstance(sharding, NamedSharding) or (len(shape) == axes and _fits(sharding, shape)):
        return sharding
    return NamedSharding(sharding.mesh, PartitionSpec(), memory_kind=sharding.memory_kind)


def _fits(sharding: NamedSharding, shape: tuple[int, ...]) -> bool:
    try:
        sharding.shard_shape(shape)
    except ValueError:
        return False
    return True


def _check_dtype(dtype: np.dtype[Any]) -> None:
    if dtype.name.startswith("float6_"):
        raise UnsupportedByBackend(f"jax: has no {dtype.name} arrays; dtype= gives one of a wider float")
    if jax.dtypes.canonicalize_dtype(dtype) != dtype.newbyteorder("="):
        raise UnsupportedByBackend(f"jax: {dtype} arrays need jax.config.update('jax_enable_x64', True)")


def like(x: np.ndarray, other: Any) -> jax.Array:
    """A JAX array on the fresh memory of `x`, on the device of `other`, and committed to it if `other` is."""
    if not isinstance(other, jax.Array):
        return from_numpy(x)
    (device,) = other.sharding.device_set
    if other.committed:
        return from_numpy(x, device)
    with jax.default_device(device):
        return from_numpy(x)


def stack(arrays: list[jax.Array], shape: tuple[int, ...]) -> jax.Array:
    """Arrays of one spec under new leading axes."""
    return jnp.stack(arrays).reshape(*shape, *arrays[0].shape)


def put(plane: Any, part: Any, position: Any) -> jax.Array:
    """A copy of `plane` with the rows of `part` from row `position` on, which may be traced."""
    return lax.dynamic_update_slice_in_dim(jnp.asarray(plane), part, position, axis=-2)


def empty(spec: ArraySpec, device: Any = None) -> jax.Array:
    """An array without elements: JAX arrays are immutable, so there is nothing to be written into any other."""
    if spec.size:
        raise UnsupportedByBackend("jax: arrays are immutable: decode has no out=, and no empty array for it")
    return from_numpy(memory.empty(spec), device)
