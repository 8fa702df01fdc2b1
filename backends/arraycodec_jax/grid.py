"""Tiles in jnp: `arraycodec.primitives.grid`, as axes of an array on which tiles can be reduced and scaled.

Leading axes stay where they are, so a shard of whole tiles never needs another's data.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from arraycodec.primitives.blocks import keeps_axes
from arraycodec.primitives.floats import MAGNITUDE, SIGN
from arraycodec.primitives.grid import BlockSize
from arraycodec.spec import ArraySpec
from arraycodec_jax.packing import pack_dense, unpack_dense
from arraycodec_jax.scales import join_blocks, split_blocks


class Tiles(NamedTuple):
    """Tiles of `height` x `width` in an array of `shape`: the array's own, or flat where its blocks cross rows.

    Split in tiles, an array is (..., down, height, across, width); or (..., across, width) where tiles have one row; or
    as it was where the whole array is one tile.
    """

    shape: tuple[int, ...]
    height: int
    width: int | None  # None: the whole array

    def split(self, x: jax.Array) -> jax.Array:
        """The array, or one of its size, in tiles; those at the edges are filled up with zeros."""
        x = x.reshape(self.shape)
        if self.height == 1:
            return split_blocks(x, self.width)
        *leading, rows, _ = self.shape
        if missing := -rows % self.height:
            x = jnp.pad(x, [(0, 0)] * len(leading) + [(0, missing), (0, 0)])
        x = split_blocks(x, self.width)
        return x.reshape(*leading, (rows + missing) // self.height, self.height, *x.shape[-2:])

    def join(self, x: jax.Array) -> jax.Array:
        """The inverse of `split`."""
        if self.height == 1:
            return join_blocks(x, self.width, self.shape[-1])
        *leading, rows, columns = self.shape
        x = x.reshape(*leading, x.shape[-4] * self.height, *x.shape[-2:])
        x = join_blocks(x, self.width, columns)
        return x if x.shape[-2] == rows else lax.slice_in_dim(x, 0, rows, axis=x.ndim - 2)

    def spread(self, scales: jax.Array) -> jax.Array:
        """A number per tile in the shape in which it broadcasts over tiles; a single one does so already."""
        if self.width is None:
            return scales
        return scales[..., None] if self.height == 1 else scales[..., :, None, :, None]

    def largest(self, magnitudes: jax.Array) -> jax.Array:
        """The largest integer of each tile, in the shape of the planes of scales."""
        if self.width is None:
            return jnp.max(magnitudes, initial=0).reshape(1)
        return jnp.max(magnitudes, axis=-1 if self.height == 1 else (-3, -1), initial=0)

    def store(self, codes: jax.Array, bits: int, plane: ArraySpec) -> jax.Array:
        """Codes in the array's axes as their plane, in a dense stream."""
        return pack_dense(codes.reshape(codes.size) if len(plane.shape) == 1 else codes, bits)

    def load(self, plane: jax.Array, bits: int) -> jax.Array:
        """The inverse of `store`, though not in the array's axes where the plane is flat."""
        return unpack_dense(plane, bits, self.shape[-1] if plane.ndim == len(self.shape) else math.prod(self.shape))

    def absmax(self, run: jax.Array) -> jax.Array:
        """The bits of the largest magnitude in each tile: an integer maximum, since a float one drops NaN."""
        return self.largest(run & MAGNITUDE)

    def extremes(self, run: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The bits of the largest magnitude of the elements >= 0 of each tile, and of those < 0."""
        negative, zero = run >= SIGN, jnp.uint32(0)
        return self.largest(jnp.where(negative, zero, run)), self.largest(jnp.where(negative, run & MAGNITUDE, zero))


def tiles_of(spec: ArraySpec, block_size: BlockSize, bits: int) -> Tiles:
    """The tiles of an array whose codes have this many bits."""
    shape: Any = spec.known_shape
    if not isinstance(block_size, tuple):
        return Tiles(shape if keeps_axes(spec, block_size, bits) else (spec.size,), 1, block_size)
    rows, columns = (1, 1, *shape)[-2:]
    height, width = block_size[0] or max(rows, 1), block_size[1] or max(columns, 1)
    return Tiles(shape or (1,), height if len(shape) > 1 else 1, width)
