"""Paths through a trellis in plain jnp: the search of `arraycodec.primitives.paths`, of all paths side by side.

A cost is a tuple of int32: the number itself; or where squares are weighted, which takes more than 32 bits, its part
from bit LIMB on and the bits below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arraycodec.primitives.cells import LOWEST
from arraycodec.primitives.levels import taps
from arraycodec.primitives.normal import MAX_IMPORTANCE
from arraycodec.primitives.paths import CLIPS, PATH
from arraycodec.primitives.trellis import subsets
from arraycodec_jax.packing import look_up, pick

LIMB = 14
BELOW = (1 << LIMB) - 1

Cost = tuple[Any, ...]


def search(q: jax.Array, levels: jax.Array, states: int, weights: jax.Array | None) -> jax.Array:
    """The codes, int32, of integers whose last axis is the rows that paths lie along; weights are int32 like them."""
    levels = levels.astype(jnp.int32)
    first, columns = first_levels(levels), q.shape[-1]
    whole, found = columns // PATH * PATH, []
    for start, stop in ((0, whole), (whole, columns)):
        if length := min(stop - start, PATH):
            shape = (*q.shape[:-1], (stop - start) // length, length)
            own = [x[..., start:stop].reshape(shape) for x in (q, weights) if x is not None]
            steps = [jnp.moveaxis(x, (-1, -2), (0, 1)) for x in own]  # rows are side by side in memory
            found.append(search_paths(steps, first, levels, states).reshape(*q.shape[:-1], stop - start))
    bit = jnp.concatenate(found, axis=-1) if found else q
    level = look_up(first, q + LOWEST)
    return bit * (levels.size // 4) | (level + ((subsets_of(bit, states) - level) & 3)) >> 2


def subsets_of(bits: jax.Array, states: int) -> jax.Array:
    """The subset of each element, from its bit and those of the elements before it in its path."""
    columns = bits.shape[-1]
    column, subset = jnp.arange(columns, dtype=jnp.int32) % PATH, jnp.zeros_like(bits)
    for d, tap in enumerate(taps(states).tolist()):
        if tap and d < columns:
            before = jnp.pad(bits[..., : columns - d], [(0, 0)] * (bits.ndim - 1) + [(d, 0)])
            subset = subset ^ jnp.where(column >= d, before, 0) * tap
    return subset


def first_levels(levels: jax.Array) -> jax.Array:
    """For each of the 65,536 numbers the first of the four levels that it may become, int32, by v + 32768."""
    numbers = jnp.arange(-LOWEST, LOWEST, dtype=jnp.int32)
    return jnp.searchsorted((levels[:-4] + levels[4:]) >> 1, numbers).astype(jnp.int32)


def search_paths(steps: list[jax.Array], first: jax.Array, levels: jax.Array, states: int) -> jax.Array:
    """The bits, int32, of paths by Viterbi's algorithm: their elements, and weights if any, come step by step."""
    number, weighted = steps[0], len(steps) > 1
    # What a path costs that does not begin in state 0: more than any that does, until all paths have forgotten it.
    far = (states.bit_length() - 1) * CLIPS[states] ** 2 * (MAX_IMPORTANCE if weighted else 1) + 1
    other = np.arange(states).reshape(states, *([1] * (number.ndim - 1))) > 0
    limbs = (far >> LIMB, far & BELOW) if weighted else (far,)
    # What is added is 0, but sharded as the paths are.
    cost = tuple(jnp.where(other, np.int32(limb), np.int32(0)) + (number[0] & 0)[None] for limb in limbs)

    def forward(cost: Cost, own: list[jax.Array]) -> tuple[Cost, jax.Array]:
        return step(cost, distances(own, first, levels, states), states)

    cost, chosen = lax.scan(forward, cost, steps)
    return jnp.moveaxis(trace(cost, chosen, states), (0, 1), (-1, -2))


def distances(own: list[jax.Array], first: jax.Array, levels: jax.Array, states: int) -> list[Cost]:
    """The squared error of each number, weighted if there are weights, with the one level of each subset."""
    number, clip, coarse = own[0], CLIPS[states], max(0, 6 - levels.size.bit_length())  # few levels lie far apart
    at, found = look_up(first, number + LOWEST), []
    for subset in range(4):
        level = look_up(levels, at + ((subset - at) & 3))
        e = jnp.clip((number - level) >> coarse, -clip, clip)
        if len(own) == 1:
            found.append((e * e,))
        else:
            high, low = e * e >> LIMB, e * e & BELOW
            found.append(carried(high * own[1], low * own[1]))
    return lax.optimization_barrier(found)  # else XLA looks them up again for every state


def step(cost: Cost, distance: list[Cost], states: int) -> tuple[Cost, jax.Array]:
    """One step of all paths: the costs of states, and which came from the predecessor with the highest bit set."""
    half, ways = states >> 1, []  # barriers: selects in the midst of a sum took ten times as long
    for old, window in enumerate(subsets(states).reshape(2, states)):
        before = (jnp.repeat(c[old * half : (old + 1) * half], 2, axis=0) for c in cost)
        own = zip(*(distance[subset] for subset in window.tolist()), strict=True)
        ways.append(carried(*(b + lax.optimization_barrier(jnp.stack(d)) for b, d in zip(before, own, strict=True))))
    zero, one = ways
    took = one[0] < zero[0]
    if len(cost) > 1:
        took = took | (one[0] == zero[0]) & (one[1] < zero[1])
    after = [jnp.where(took, b, a) for a, b in zip(zero, one, strict=True)]
    # Costs are those beyond that of state 0, which stay below what 31 bits hold.
    return carried(*(c - c[:1] for c in after)), packed(took)


def carried(*limbs: jax.Array) -> Cost:
    """A cost of which the lower limb may be too large, or negative."""
    return limbs if len(limbs) == 1 else (limbs[0] + (limbs[1] >> LIMB), limbs[1] & BELOW)


def packed(took: jax.Array) -> jax.Array:
    """Booleans along the first axis as bits of uint8, the first lowest."""
    groups = took.reshape(took.shape[0] // 8, 8, *took.shape[1:])
    return sum((groups[:, i].astype(jnp.uint8) << i for i in range(1, 8)), groups[:, 0].astype(jnp.uint8))


def trace(cost: Cost, chosen: jax.Array, states: int) -> jax.Array:
    """Back from the cheapest state, the first of equals: the newest bit at each step."""
    key = cost[0]
    if len(cost) > 1:
        key = jnp.where(cost[0] == jnp.min(cost[0], axis=0), cost[1], BELOW + 1)
    state = jnp.argmin(key, axis=0).astype(jnp.int32)

    def back(state: jax.Array, bits: jax.Array) -> tuple[jax.Array, jax.Array]:
        digits: Sequence[jax.Array] = [(state >> k & 1) == 1 for k in range(states.bit_length() - 2, 2, -1)]
        took = pick(digits, list(bits)).astype(jnp.int32) >> (state & 7) & 1
        return state >> 1 | took * (states >> 1), state & 1

    return lax.scan(back, state, chosen, reverse=True)[1]
