"""Hadamard matrices of every order there is, rotations of weights by them, and what rotations do to outliers."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.primitives import hadamard as primitive
from arraycodec.rotations import round_once
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compare import same_bits

# Sylvester; Paley I of primes and of 3^3 and 7^3; Paley II of primes and of 3^2 and 5^2; products.
ORDERS = [1, 2, 4, 16, 12, 20, 24, 28, 36, 40, 52, 76, 108, 148, 344, 172 * 2]
NONE = [92, 116, 156, 172, 184, 188, 232, 236, 260, 268]  # the orders below 270 that Paley and Sylvester do not give


@pytest.mark.parametrize("n", ORDERS)
def test_rows_are_orthogonal(n: int) -> None:
    for h in (ac.hadamard(n), ac.hadamard(n, seed=5)):
        assert h.dtype == np.int8 and set(np.unique(h)) <= {-1, 1}
        wide = h.astype(np.int64)
        assert (wide @ wide.T == n * np.eye(n, dtype=np.int64)).all()


def test_which_orders_there_are() -> None:
    missing = [n for n in range(4, 270, 4) if primitive._base(n) is None]
    assert missing == NONE
    assert all(primitive._base(n) is None for n in range(3, 270) if n % 4)


@pytest.mark.parametrize(("n", "near"), [(92, "88 and 96"), (3, "2 and 4"), (11, "8 and 12")])
def test_an_order_that_there_is_not(n: int, near: str) -> None:
    with pytest.raises(ac.ArgumentError, match=f"got {n}; the nearest are {near}"):
        ac.hadamard(n)


@pytest.mark.parametrize("n", [0, -4, True, 4.0])
def test_an_order_that_is_no_size(n: Any) -> None:
    with pytest.raises(ac.ArgumentError, match="positive integer"):
        ac.hadamard(n)


@pytest.mark.parametrize("n", [2560, 3584, 5120, 8960, 11008, 13824, 14336, 18944, 27648, 28672, 29568])
def test_sizes_of_models(n: int) -> None:
    assert n // primitive.base_of(n) >= 32


def test_signs_are_those_of_splitmix64() -> None:
    """Its first numbers for the seed 1234567, as published with the algorithm."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431,
                 16408922859458223821]  # fmt: skip
    assert primitive.signs(5, 1234567).tolist() == [-1 if z >> 63 else 1 for z in published]
    assert primitive.signs(3, -1).tolist() == primitive.signs(3, 2**64 - 1).tolist()
    assert ac.hadamard(8, seed=3)[0].tolist() == primitive.signs(8, 3).tolist()


def dense(n: int, how: dict[str, Any]) -> np.ndarray:
    """V, from a matrix of all its entries."""
    if "matrix" in how:
        return np.asarray(how["matrix"], np.float64)
    return ac.hadamard(n, seed=how.get("seed")).astype(np.float64) / np.sqrt(n)


@pytest.mark.parametrize("embedding", [False, True])
@pytest.mark.parametrize("head_dim", [None, 4])
@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("how", ["plain", "seed", "matrix"])
def test_rotation_is_the_product(how: str, side: str, inverse: bool, head_dim: int | None, embedding: bool) -> None:
    w = np.random.default_rng(0).standard_normal((3, 24, 40))
    axis = -1 if (side == "input") != embedding else -2
    n = head_dim or w.shape[axis]
    matrix = np.random.default_rng(1).standard_normal((n, n))
    options: dict[str, Any] = {"plain": {}, "seed": {"seed": 9}, "matrix": {"matrix": matrix}}[how]
    v = np.linalg.inv(dense(n, options)) if inverse else dense(n, options)
    v = np.kron(np.eye(w.shape[axis] // n), v)
    layer = w if embedding else w.swapaxes(-1, -2)  # x -> x @ layer
    want = v @ layer if side == "input" else layer @ v
    got = ac.rotate(w, side, inverse=inverse, head_dim=head_dim, embedding=embedding, **options)
    np.testing.assert_allclose(got if embedding else got.swapaxes(-1, -2), want, atol=1e-11)
    back = ac.rotate(got, side, inverse=not inverse, head_dim=head_dim, embedding=embedding, **options)
    np.testing.assert_allclose(back, w, atol=1e-9)


def test_a_bias_turns_with_the_output() -> None:
    rng = np.random.default_rng(0)
    w, b, x = rng.standard_normal((8, 4)), rng.standard_normal(8), rng.standard_normal((5, 4))
    v = dense(8, {"seed": 1})
    got = x @ ac.rotate(w, "output", seed=1).T + ac.rotate(b, "output", seed=1)
    np.testing.assert_allclose(got, (x @ w.T + b) @ v, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_integers_are_exact(dtype: str) -> None:
    """Sums of small integers over a square root of 64: what comes out is known to the bit."""
    w = np.random.default_rng(0).integers(-8, 8, (5, 64))
    got = ac.rotate(w.astype(numpy_dtype(dtype)), "input")
    same_bits(got, (w @ ac.hadamard(64) / 8).astype(np.float32).astype(numpy_dtype(dtype)), dtype)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_frameworks_keep_their_arrays(framework: str) -> None:
    pytest.importorskip(framework)
    w = np.random.default_rng(0).standard_normal((4, 12)).astype(numpy_dtype("bfloat16"))
    backend = registry.framework(framework)
    got = ac.rotate(backend.from_numpy(w, None), "input", seed=2)
    assert registry.backend(type(got)) is backend
    same_bits(backend.to_numpy(got), ac.rotate(w, "input", seed=2), framework)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rounding_happens_once(dtype: str) -> None:
    """Numbers beside the middle of two, which float32 would take for the middle itself."""
    digits = {"bfloat16": 8, "float16": 11, "float32": 24}[dtype]
    unit = 2.0 ** (1 - digits)
    x = np.array([1 + unit * (k + 0.5) + s * 2.0**-40 for k in range(8) for s in (-1, 0, 1)] + [0, 1e300, -np.inf])
    got = round_once(np.concatenate([x, -x]), dtype).astype(np.float64)
    for value, near in zip(np.concatenate([x, -x]), got, strict=True):
        if abs(value) < 2:
            exact = Fraction(float(value)) / Fraction(unit)
            assert Fraction(float(near)) == round(exact) * Fraction(unit)  # `round` is half-even
    assert np.isinf(got[len(x) - 2]) and np.isinf(got[len(x) - 1])


def test_int4_gains_by_a_rotation_of_weights_with_outliers() -> None:
    """A hundredth of the channels a hundred times as large, as in language models: the error falls, the bits do not."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((512, 1024)).astype(np.float32) * 0.02
    w[:, rng.choice(1024, 10, replace=False)] *= 30
    x = rng.standard_normal((64, 1024)).astype(np.float32)
    turned = ac.rotate(w, "input", inverse=True)
    snr = [ac.error(y, ac.encode(y, "w4a16")).snr_db for y in (w, turned)]
    assert snr[1] > snr[0] + 2, snr
    # And so does that of what the layer computes, where the channels with outliers are not the ones that matter.
    exact = x.astype(np.float64) @ w.T
    plain = x @ ac.decode(ac.encode(w, "w4a16")).T
    rotated = ac.rotate(x, "input") @ ac.decode(ac.encode(turned, "w4a16")).T
    assert np.linalg.norm(rotated - exact) < np.linalg.norm(plain - exact)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((4, 92), {}, "nearest are 88 and 96"),
        ((4, 96), {"head_dim": 5}, "head_dim must divide 96"),
        ((4, 96), {"head_dim": 0}, "head_dim must divide 96"),
        ((4, 8), {"matrix": np.eye(4)}, r"shape \(8, 8\)"),
        ((4, 8), {"matrix": np.eye(8), "seed": 1}, "together"),
        ((8,), {}, "a bias for the output"),
        ((), {}, "must be a matrix"),
    ],
)
def test_refusals(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=message):
        ac.rotate(np.zeros(shape, np.float32), "input", **options)


def test_more_refusals() -> None:
    with pytest.raises(ac.ArgumentError, match="side must be"):
        ac.rotate(np.zeros((4, 4), np.float32), "left")
    with pytest.raises(ac.ArgumentError, match="got int8"):
        ac.rotate(np.zeros((4, 4), np.int8), "input")
    assert ac.rotate(np.zeros((4, 0), np.float32), "input").shape == (4, 0)
