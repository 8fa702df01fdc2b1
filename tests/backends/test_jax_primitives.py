"""The jnp primitives against the reference's, and canaries: what XLA does that they are written around."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

from arraycodec.primitives.blocks import tree_sum  # noqa: E402
from arraycodec.primitives.floats import (  # noqa: E402
    INFINITY,
    KINDS,
    MAGNITUDE,
    SIGN,
    float32_to_bfloat16,
    float32_to_half,
    recip_rn,
)
from arraycodec.primitives.jit import kernel  # noqa: E402
from arraycodec.spec import numpy_dtype  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_jax import packing, primitives  # noqa: E402

EDGES = np.array(
    [0, 1, 0x7FFFFF, 0x800000, 0x0D800000, 0x33000000, 0x33000001, 0x337FFFFF, 0x38000000, 0x387FFFFF, 0x38800000,
     0x3F800000, 0x477FEFFF, 0x477FF000, 0x47800000, 0x7F7F7FFF, 0x7F7F8000, 0x7F7FFFFF, 0x7F800000, 0x7F800001,
     0x7FC00000, 0x7FFFFFFF],
    np.uint32,
)  # fmt: skip
SIZE = 1 << 20


@kernel
def narrow_all(bits, bfloat16, half):
    for i in range(bits.size):
        bfloat16[i] = float32_to_bfloat16(bits[i])
        half[i] = float32_to_half(bits[i])


@kernel
def recip_all(bits, out):
    for i in range(bits.size):
        out[i] = recip_rn(bits[i])


def patterns() -> np.ndarray:
    """Random float32 patterns, narrowing ties and their neighbours, and the edges with either sign."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, SIZE, np.uint32)
    near = rng.integers(-1, 2, SIZE // 4).astype(np.uint32)
    ties = [(bits[: SIZE // 4] & np.uint32(mask)) + near for mask in (0xFFFF8000, 0xFFFFF000)]
    return np.concatenate([bits, *ties, EDGES, EDGES | SIGN])


def normals(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(SIZE, np.float32)


@pytest.mark.parametrize("dtype", KINDS)
def test_widen_is_exact(dtype: str) -> None:
    """For every pattern of the narrow floats; a NaN stays one."""
    narrow = np.arange(2**16, dtype=np.uint16).view(numpy_dtype("float16" if dtype == "float32" else dtype))
    x = patterns().view(np.float32) if dtype == "float32" else narrow
    got = np.asarray(jax.jit(primitives.widen)(jnp.asarray(x)))
    with np.errstate(invalid="ignore"):
        wide = x.astype(np.float32)
    number = ~np.isnan(wide)
    same_bits(got[number], wide.view(np.uint32)[number], dtype)
    assert ((got[~number] & MAGNITUDE) > INFINITY).all()


def test_narrow_has_the_bits_of_the_reference() -> None:
    bits = patterns()
    want = {"bfloat16": np.empty(bits.size, np.uint16), "float16": np.empty(bits.size, np.uint16)}
    narrow_all(bits, *want.values())
    for dtype, narrowed in ({"float32": bits} | want).items():
        got = jax.jit(primitives.narrow, static_argnums=1)(jnp.asarray(bits), dtype)
        same_bits(np.asarray(got), narrowed.view(numpy_dtype(dtype)), dtype)


def test_recip_rn_is_correctly_rounded() -> None:
    """Every significand at one exponent, and all exponents 1..252."""
    bits = np.concatenate([np.uint32(0x3F800000) + np.arange(1 << 23, dtype=np.uint32), patterns() & MAGNITUDE])
    bits = bits[(bits >> 23 >= 1) & (bits >> 23 <= 252)]
    got = np.asarray(jax.jit(primitives.recip_rn)(jnp.asarray(bits)))
    same_bits(got, (np.float32(1) / bits.view(np.float32)).view(np.uint32), "1/x")
    want = np.empty(1000, np.uint32)
    recip_all(bits[-1000:], want)
    same_bits(got[-1000:], want, "the reference's recip_rn")


@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000, 4099])
def test_tree_sum_has_the_bits_of_the_reference(size: int) -> None:
    """Also where partial sums are subnormal, overflow or cancel."""
    for exponent in (0, -126, 127, -148):
        with np.errstate(over="ignore"):
            x = np.ldexp(normals(size)[:size], exponent).astype(np.float32)
        same_bits(np.asarray(jax.jit(primitives.tree_sum)(x)), np.asarray(tree_sum(x)), f"{size} at 2^{exponent}")


def test_pick_look_up_and_packing_are_inverses() -> None:
    table, index = np.arange(16, dtype=np.float32), np.arange(255, dtype=np.uint8) % 16
    digits = [(index & bit) != 0 for bit in (8, 4, 2, 1)]
    same_bits(np.asarray(packing.pick([jnp.asarray(d) for d in digits], table)), table[index], "pick")
    same_bits(np.asarray(packing.look_up(table, jnp.asarray(index))), table[index], "look_up")
    packed = np.asarray(packing.pack(jnp.asarray(index), 4, 7))
    assert packed[0] == 0x01 and packed[-1] == 0xE7
    same_bits(np.asarray(packing.unpack(jnp.asarray(packed), 4))[:-1], index, "unpack")


# -- Canaries. The second half of each says that we are safe; the first that the hazard is still there. Where only the
# first fails, XLA has changed for the better, and what we do about it may be simplified.

on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu" or jax.__version_info__ < (0, 10), reason="habits of today's XLA on CPUs"
)


@on_cpu
def test_xla_contracts_a_product_that_feeds_an_add() -> None:
    a, b, c = (normals(seed) for seed in range(3))
    want = a * b + c
    assert (np.asarray(jax.jit(lambda a, b, c: a * b + c)(a, b, c)) != want).any(), "XLA no longer contracts"
    same_bits(np.asarray(jax.jit(primitives.mul_add)(a, b, c)), want, "mul_add")


@on_cpu
def test_xla_flushes_subnormals_in_comparisons() -> None:
    bits = np.arange(1, 4097, dtype=np.uint32)
    x = bits.view(np.float32)
    assert not np.asarray(jax.jit(lambda x: x > 0)(x)).any(), "XLA no longer flushes"
    bits = np.concatenate([bits, bits + np.uint32(0x7FFFF0)])
    want = np.where(bits >> 23, bits, np.uint32(0))
    same_bits(np.asarray(jax.jit(primitives.flushed)(bits)), want, "flushed")


@on_cpu
def test_xla_hoists_the_reciprocal_of_a_broadcast_divisor() -> None:
    """Why the codec multiplies by recip_rn: a division by a block's scale is not a division under jit."""
    x, s = normals(0).reshape(-1, 64), np.abs(normals(1)[: SIZE // 64, None])
    assert (np.asarray(jax.jit(lambda x, s: x / s)(x, s)) != x / s).any(), "XLA no longer rewrites divisions"

    def scaled(x: jax.Array, s: jax.Array) -> jax.Array:
        return x * primitives.as_float(primitives.recip_rn(primitives.as_bits(s)))

    same_bits(np.asarray(jax.jit(scaled)(x, s)), x * (np.float32(1) / s), "x * recip_rn(s)")
