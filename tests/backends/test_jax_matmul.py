"""`dequant_matmul`: the weights it multiplies with bit for bit, its memory, and what JAX does with it.

Sums are in no order that is promised. So they are tested with numbers whose sums are exact in any order: rows of the
identity, which give the weights themselves, and small integers.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

import arraycodec as ac  # noqa: E402
from arraycodec.base import Encoded, Planes  # noqa: E402
from arraycodec.spec import spec_of  # noqa: E402
from arraycodec_conformance.cases import CASES, NESTED, RISING16, Case  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_conformance.strategies import Recipe  # noqa: E402
from arraycodec_jax import dequant_matmul  # noqa: E402
from arraycodec_jax.matmul import bands_of  # noqa: E402

WHOLE = ac.Linear(8, block_size=None)
UNIT: Planes = {"scales": np.ones(1, np.float32)}  # with which integers are stored as they are


def encoded(w: np.ndarray, codec: ac.Codec, given: Planes | None = None) -> Encoded:
    planes = codec.encode(w, given or {})
    return Encoded(codec, spec_of(w), {name: jnp.asarray(plane) for name, plane in planes.items()})


def integers(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 10, shape).astype(np.float32)


def compare(case: Case, shape: tuple[int, int], band: int, axis: int) -> None:
    """The product with the identity is the decoded weight."""
    w = Recipe(shape, "float32", "normal", 0, 0).array()
    enc = encoded(w, case.codec, case.encoding(w))
    got = dequant_matmul(np.eye(shape[axis], dtype=np.float32), enc, axis=axis, band=band)
    want = np.asarray(ac.decode(enc)) + np.float32(0)  # a sum with zeros has no -0
    same_bits(np.asarray(got), want if axis == 0 else want.T, f"{case}, axis {axis}")


# -- the weights

# codec and what it is given, columns of 70 rows -> the rows of a band when 9 are asked for
BANDS: dict[str, tuple[ac.Codec, Planes, int, int]] = {
    "rows of blocks": (ac.codec("nf4"), {}, 64, 9),
    "blocks across rows": (ac.codec("nf4"), {}, 48, 8),
    "blocks of many rows": (ac.Codebook("fp4", block_size=256), {}, 64, 8),
    "half bytes": (ac.codec("w4a16"), {}, 25, 8),
    "three bits": (ac.Linear(3, False, (1, None)), {}, 25, 8),
    "one scale": (WHOLE, {}, 25, 9),
    "a scale per column": (ac.Linear(8, block_size=(None, 1)), {}, 25, 9),
    "tiles": (ac.Minifloat("float6_e3m2fn", block_size=(6, 10)), {}, 32, 6),
    "larger tiles": (ac.Minifloat(block_size=(20, None)), {}, 32, 20),
    "double": (ac.Then(ac.codec("nf4"), absmax=NESTED), {}, 256, 64),
    "nothing fits": (ac.Then(ac.codec("nf4"), absmax=NESTED), {}, 64, 70),
    "user's table": (ac.Codebook("user4", block_size=16), {"codebook": RISING16}, 32, 9),
    "global scale": (ac.codec("nvfp4"), {}, 32, 9),
    "bytes of scales": (ac.codec("mxfp6"), {}, 64, 9),
    "columns of outliers": (ac.LLMInt8(threshold=2.0), {}, 25, 9),
}
MORE = {
    "half bytes",
    "one scale",
    "larger tiles",
    "user's table",
    "bytes of scales",
}  # to be compiled when there is time


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.level("full") if n in MORE else ()) for n in BANDS])
def test_bands_hold_the_decoded_weight(name: str) -> None:
    codec, given, columns, rows = BANDS[name]
    found = bands_of(codec, ac.ArraySpec((70, columns), "float32"), 9)
    assert (found.height, found.number * rows + found.rest) == (rows, 70)
    compare(Case(codec, given), (70, columns), 9, len(name) % 2)


@pytest.mark.level("exhaustive")
@pytest.mark.parametrize("shape", [(300, 256), (96, 50)])
@pytest.mark.parametrize("case", [case for case in CASES if case.written is None], ids=str)
def test_every_case(case: Case, shape: tuple[int, int]) -> None:
    for axis in (0, 1):
        compare(case, shape, 7, axis)


def test_bands_are_found_only_where_blocks_end() -> None:
    """Sizes of planes can agree by chance: 2 rows of 48 have two blocks of 64, and each row alone has one."""
    for rows in (2, 3, 5):
        assert bands_of(ac.codec("nf4"), ac.ArraySpec((rows, 48), "float32"), 1).height == min(rows, 4)
    assert bands_of(ac.Codebook("nf4", block_size=2**30), ac.ArraySpec((2**16, 2**12), "float32"), 1).number == 1


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [("bfloat16", "float32"), ("float16", "float32"), ("float32", "bfloat16"), ("float16", "bfloat16")],
)
def test_weights_in_the_dtype_of_x(dtype: str, stored: str) -> None:
    """float32 weights are decoded to it, with one rounding; others to their own dtype and then converted."""
    enc = encoded(Recipe((24, 64), stored, "normal", 0, 0).array(), ac.codec("nf4"))
    got = dequant_matmul(jnp.eye(24, dtype=dtype), enc, axis=0, band=5)
    want = ac.decode(enc, dtype=dtype) if stored == "float32" else ac.decode(enc).astype(dtype)
    assert got.dtype == dtype
    same_bits(np.asarray(got), np.asarray(want + jnp.zeros((), dtype)), f"{stored} to {dtype}")


# -- the sums


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(50,), (2, 3, 50), (0, 50)])
def test_products_of_integers_are_exact(shape: tuple[int, ...], axis: int) -> None:
    x, w = integers(shape, 0), integers((50, 30), 1)
    enc = encoded(w if axis == 0 else np.ascontiguousarray(w.T), WHOLE, UNIT)
    same_bits(np.asarray(dequant_matmul(x, enc, axis=axis, band=7)), x @ w, f"axis {axis}")


@pytest.mark.parametrize("axis", [0, 1])
def test_narrow_floats_are_summed_in_float32(axis: int) -> None:
    """A bfloat16 sum of ones stays at 256; and the sum of bands is rounded once."""
    enc = encoded(np.ones((1000, 1000), np.float32), WHOLE, UNIT)
    assert (dequant_matmul(jnp.ones(1000, jnp.bfloat16), enc, axis=axis, band=10) == 1000).all()


@pytest.mark.parametrize("shape", [(0, 8), (8, 0)])
def test_without_elements(shape: tuple[int, int]) -> None:
    enc = encoded(np.zeros(shape, np.float32), ac.codec("nf4"))
    for axis in (0, 1):
        y = dequant_matmul(jnp.ones((2, shape[axis])), enc, axis=axis)
        assert y.shape == (2, shape[1 - axis]) and not y.any()


# -- memory


@pytest.mark.parametrize("name", ["nf4-double", "w4a16"])
def test_memory_is_that_of_a_band(name: str) -> None:
    """What XLA says a program needs besides arguments and results: forward, and for the gradient, both ways."""
    shape, dense = (8192, 2048), 8192 * 2048 * 2
    enc = jax.eval_shape(lambda x: ac.encode(x, name), jax.ShapeDtypeStruct(shape, jnp.bfloat16))

    def needed(function: Any, columns: int) -> int:
        x = jax.ShapeDtypeStruct((4, columns), jnp.bfloat16)
        return jax.jit(function).lower(x, enc).compile().memory_analysis().temp_size_in_bytes

    assert needed(lambda x, enc: x @ ac.decode(enc).T, 2048) >= dense
    assert needed(jax.grad(lambda x, enc: jnp.square(dequant_matmul(x, enc)).sum()), 2048) < dense / 8


# -- transformations


@pytest.mark.parametrize(("axis", "wrap"), [(0, lambda f: f), (1, jax.jit)], ids=["eager", "jit"])
def test_gradients(axis: int, wrap: Any) -> None:
    """Of x, exactly; twice; and under vmap. Planes are constants."""
    x, w, g = integers((4, 50), 0), integers((50, 30), 1), integers((4, 30), 2)
    enc = encoded(w if axis == 0 else np.ascontiguousarray(w.T), WHOLE, UNIT)

    def loss(x: Any, g: Any, enc: Encoded) -> Any:
        return (jnp.square(dequant_matmul(x, enc, axis=axis, band=7)) * g).sum()

    gradient = wrap(jax.grad(loss))
    same_bits(np.asarray(gradient(x, g, enc)), 2 * ((x @ w) * g) @ w.T, "gradient")
    each = wrap(jax.vmap(jax.grad(loss), in_axes=(0, 0, None)))
    same_bits(np.asarray(each(x, g, enc)), 2 * ((x @ w) * g) @ w.T, "gradients of rows")
    twice = wrap(jax.grad(lambda x: jax.grad(loss)(x, g, enc).sum()))
    same_bits(np.asarray(twice(x)), 2 * ((np.ones_like(x) @ w) * g) @ w.T, "gradient of the gradient's sum")
    scales = jax.grad(lambda s: loss(x, g, replace(enc, planes=enc.planes | {"scales": s})))(enc.planes["scales"])
    assert not scales.any()


def test_vmap_and_scan_over_stacked_weights() -> None:
    """Experts at once, and layers one after another, each product with its own weight."""
    w, x = integers((3, 40, 40), 0), integers((3, 2, 40), 1)
    enc = jax.vmap(lambda w: ac.encode(w, WHOLE, given=UNIT))(w)
    got = jax.jit(jax.vmap(dequant_matmul))(x, enc)
    same_bits(np.asarray(got), x @ w.transpose(0, 2, 1), "experts")
    same_bits(np.asarray(jax.vmap(dequant_matmul, (None, 0))(x[0], enc)), x[0] @ w.transpose(0, 2, 1), "one x")

    def layer(x: Any, enc: Encoded) -> tuple[Any, None]:
        return dequant_matmul(x, enc, axis=0, band=16), None

    same_bits(np.asarray(lax.scan(layer, x[0], enc)[0]), x[0] @ w[0] @ w[1] @ w[2], "layers")


def test_with_64_bit_types_enabled() -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        compare(Case(ac.codec("nf4-double")), (70, 256), 9, 0)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_what_is_refused() -> None:
    enc, x = encoded(np.ones((8, 64), np.float32), ac.codec("nf4")), jnp.ones((2, 64))
    stacked = jax.tree.map(lambda plane: jnp.stack([plane, plane]), enc)
    with pytest.raises(ac.ArgumentError, match=r"x must be \(\.\.\., 8\), got \[2, 64\]"):
        dequant_matmul(x, enc, axis=0)
    with pytest.raises(ac.ArgumentError, match="x must be float32, bfloat16, float16, got int32"):
        dequant_matmul(x.astype(jnp.int32), enc)
    with pytest.raises(ac.ArgumentError, match="axis must be 0 or 1, got -1"):
        dequant_matmul(x, enc, axis=-1)
    with pytest.raises(ac.ArgumentError, match="band must be an integer >= 1 or None, got 0"):
        dequant_matmul(x, enc, band=0)
    with pytest.raises(ac.ArgumentError, match=r"two axes \(vmap over others\), got \[2, 8, 64\]"):
        dequant_matmul(x, stacked)
    with pytest.raises(ac.FormatError, match="plane 'absmax' must be"):
        dequant_matmul(x, replace(enc, planes=enc.planes | {"absmax": enc.planes["absmax"][:4]}))
