"""Encoding with a codebook that is given, in torch ops and jnp, beyond the suite: lengths of paths, states, weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.primitives.normal import integer_weights
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import Recipe

CASES = [
    (ac.TCQ(4, outliers=0.0), (2, 1030), False),  # paths of two lengths
    (ac.TCQ(4, 256, outliers=0.0), (2, 20), False),
    (ac.TCQ(1, 8, None, 0.0), (2, 3), True),  # shorter than what states remember
    (ac.TCQ(8, 64, (2, 32), 0.1), (3, 2, 70), True),
    (ac.TCQ(3), (), False),
    (ac.TCQ(3, outliers=0.1), (0, 9), False),
    (ac.TCQ(3), (4, 1), True),
]
ROTATED = [(ac.TCQ(7, rotate=16), (3, 1100)), (ac.TCQ(4, 8, 64, 0.02, 64), (700,)), (ac.TCQ(4, rotate=4), (5, 3))]
SPECIAL = [[1, 0.5, 0], [3e38, 1e38, 1e-40], [1e-42, 3e-45, 7e-43], [8190, 5, 4095], [-0.0, 2.5, 1e-3], [8190, 1, 3]]


def example(codec: ac.TCQ, shape: tuple[int, ...], weighted: bool) -> tuple[np.ndarray, Planes]:
    """An array, and what encoding it is given: also levels that are equal."""
    rng = np.random.default_rng(codec.bits)
    given = {"codebook": np.sort(rng.integers(-25, 26, 2 << codec.bits) * 1000).astype(np.int16)}
    if weighted:
        given["importance"] = np.square(rng.standard_normal(shape[-1:], np.float32))
    return Recipe(shape, "float32", "normal", 0, 1).array(), given


def compare(found: dict[str, Any], codec: ac.TCQ, x: np.ndarray, given: Planes) -> None:
    """The planes are those of the reference."""
    for name, plane in codec.encode(x, given).items():
        same_bits(np.asarray(found[name]).view(plane.dtype), plane, f"{codec}: {name}", x)


# -- torch


@pytest.mark.parametrize(("codec", "shape", "weighted"), [*CASES, *((*case, True) for case in ROTATED)], ids=str)
def test_torch(codec: ac.TCQ, shape: tuple[int, ...], weighted: bool) -> None:
    backend = pytest.importorskip("arraycodec_torch")
    x, given = example(codec, shape, weighted)
    own = {name: backend.from_numpy(array) for name, array in given.items()}
    planes = backend.IMPLEMENTATIONS["torch"].encode(backend.from_numpy(x), codec, own)
    compare({name: backend.to_numpy(plane) for name, plane in planes.items()}, codec, x, given)


def test_torch_searches_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from arraycodec_torch import tcq

    monkeypatch.setattr(tcq, "TILE", {"cpu": 64})
    test_torch(ac.TCQ(2, outliers=0.0), (5, 40), True)


def test_weights() -> None:
    """Half-way cases, subnormal numbers and the largest ones, without float64."""
    jax, torch = pytest.importorskip("jax"), pytest.importorskip("torch")
    from arraycodec_jax import normal as jax_normal
    from arraycodec_torch import normal as torch_normal

    in_jax = jax.jit(jax_normal.integer_weights, static_argnums=(0, 2))
    for own in np.array(SPECIAL, np.float32):
        want = integer_weights("tcq", own, own.size).tolist()
        assert np.asarray(in_jax("tcq", own, own.size)).tolist() == want
        assert torch_normal.integer_weights("tcq", torch.from_numpy(own), own.size).tolist() == want


# -- JAX


@pytest.mark.parametrize(
    ("codec", "shape", "weighted"),
    [CASES[0], *(pytest.param(*case, marks=pytest.mark.level("full")) for case in CASES[1:])],
    ids=str,
)
def test_jax(codec: ac.TCQ, shape: tuple[int, ...], weighted: bool) -> None:
    """As a part of a program, in which the codebook is an argument."""
    jax = pytest.importorskip("jax")
    x, given = example(codec, shape, weighted)
    enc = jax.jit(lambda x, given: ac.encode(x, codec, given=given))(x, given)
    compare(enc.planes, codec, x, given)


def test_jax_leaves_training_and_rotations_to_the_host() -> None:
    jax = pytest.importorskip("jax")
    x, given = example(ac.TCQ(2), (2, 16), False)
    with pytest.raises(ac.UnsupportedByBackend, match="tcq: codebooks are for the host"):
        jax.jit(lambda x: ac.encode(x, "tcq2"))(x)
    with pytest.raises(ac.UnsupportedByBackend, match="tcq: rotations are for the host"):
        jax.jit(lambda x: ac.encode(x, ac.TCQ(2, rotate=4), given=given))(x)
    with pytest.raises(ac.ArgumentError, match=r"tcq: importance must be float32\[16\], got float32\[3\]"):
        jax.jit(lambda x, w: ac.encode(x, ac.TCQ(2), given=given | {"importance": w}))(x, np.ones(3, np.float32))
    with pytest.raises(ac.ArgumentError, match="tcq: the levels of a codebook must be sorted"):
        jax.jit(lambda x: ac.encode(x, ac.TCQ(2), given={"codebook": given["codebook"][::-1]}))(x)
