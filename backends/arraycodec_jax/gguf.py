"""`Gguf` in plain jnp: the steps of `arraycodec.codecs.gguf` in the same order, traceable and shardable."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec.base import Given, Planes
from arraycodec.codecs.gguf import Gguf
from arraycodec.primitives import gguf_blocks
from arraycodec.primitives.floats import NAN
from arraycodec.primitives.gguf_blocks import SMALLEST_NORMAL, TRITS, BlockType, Field, Integers
from arraycodec.spec import ArraySpec
from arraycodec_jax.packing import look_up
from arraycodec_jax.primitives import as_bits, as_float, is_nan, narrow, widen


def check(codec: Gguf, given: Given) -> None:
    """Raise ArgumentError: the codec does not encode."""
    raise codec.no_encoder


def encode(x: jax.Array, codec: Gguf, given: Given) -> Planes:
    """Nothing: `check` comes before, and refuses."""
    return {}


def decode(codec: Gguf, planes: Planes, spec: ArraySpec, given: Given) -> jax.Array:
    """The array of these blocks."""
    block, stream = codec.block, planes["blocks"]
    blocks = stream.reshape(*stream.shape[:-1], stream.shape[-1] // block.nbytes, block.nbytes)
    u = load_blocks(blocks, block)
    y = narrow(u.reshape(*stream.shape[:-1], blocks.shape[-2] * block.elements), spec.dtype)
    return (y if y.size == spec.size else y[: spec.size]).reshape(spec.known_shape)


def load_blocks(blocks: jax.Array, block: BlockType) -> jax.Array:
    """Steps 1 to 4: float32 bits (..., blocks, sub-blocks, elements)."""
    codes = load_integers(blocks, block.codes)
    codes = codes.reshape(*blocks.shape[:-1], block.elements // block.sub, block.sub)
    scales = load_integers(blocks, block.scales)[..., None]
    if block.steps is None:
        step = as_float(load_halves(blocks, block.d)) * scales.astype(jnp.float32)
    else:
        step = as_float(look_up(gguf_blocks.steps(block.steps), scales))
    values = np.array(block.values, np.float32) if block.values else None
    y = step * (codes.astype(jnp.float32) if values is None else look_up(values, codes))
    if block.m is not None:
        minima = load_integers(blocks, block.minima)[..., None]
        y = y - as_float(load_halves(blocks, block.m)) * minima.astype(jnp.float32)
    u = as_bits(y)
    if block.steps == "e8m0":  # products that hardware might flush
        rare = look_up(gguf_blocks.small_products(), jnp.minimum(scales, SMALLEST_NORMAL - 1) * 16 + codes)
        u = jnp.where(scales < SMALLEST_NORMAL, rare, u)
    return jnp.where(is_nan(u), NAN, u)


def load_integers(blocks: jax.Array, integers: Integers) -> jax.Array:
    """Integers of blocks as int32 (..., count)."""
    if not integers.low:
        return jnp.full_like(blocks[..., :1], -integers.zero, dtype=jnp.int32)
    parts = [load_field(blocks, field) for field in integers.low]
    found = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
    if integers.high is not None:
        found = found | load_field(blocks, integers.high) << integers.low[0].bits
    return (found ^ integers.flip) - integers.zero


def load_field(blocks: jax.Array, field: Field) -> jax.Array:
    """The numbers of a field as int32 (..., count)."""
    turns, size = [], field.chunks * field.run
    for turn in range(field.turns):
        at, digit = field.at + turn * field.stride, field.first + turn * field.step
        part = blocks[..., at : at + size].astype(jnp.int32)
        part = part.reshape(*blocks.shape[:-1], field.chunks, field.run)
        turns.append((part * 3**digit & 255) * 3 >> 8 if field.bits == TRITS else part >> digit & field.mask)
    return jnp.stack(turns, axis=-2).reshape(*blocks.shape[:-1], field.size)


def load_halves(blocks: jax.Array, at: int | None) -> jax.Array:
    """The float32 bits of the float16 at a byte of each block."""
    assert at is not None  # every type without a table of steps has d
    return widen(lax.bitcast_convert_type(blocks[..., at : at + 2], jnp.float16))[..., None, None]
