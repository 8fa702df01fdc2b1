"""`DQ` in jnp: bits where the plan is at hand and where it is traced, stored scales, arrays under leading axes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import arraycodec as ac  # noqa: E402
from arraycodec.base import Encoded, Planes  # noqa: E402
from arraycodec.codecs.dq import coded  # noqa: E402
from arraycodec.errors import UnsupportedByBackend  # noqa: E402
from arraycodec.spec import numpy_dtype, spec_of  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_conformance.plugin import Level  # noqa: E402
from arraycodec_jax import IMPLEMENTATIONS  # noqa: E402

FULL = pytest.mark.level("full")
JIT = IMPLEMENTATIONS["jit"]
traced = jax.jit(ac.decode)


def normal(shape: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32).astype(numpy_dtype(dtype))


def on_jax(planes: Planes) -> Planes:
    return {name: jnp.asarray(plane) for name, plane in planes.items()}


@pytest.mark.parametrize(
    ("codec", "shape", "dtype"),
    [
        (ac.DQ(bits=4), (3, 700), "float32"),
        pytest.param(ac.DQ(bits=2), (50, 300), "bfloat16", marks=FULL),
        pytest.param(ac.DQ(snr=50.0), (5000,), "float16", marks=FULL),
        pytest.param(ac.DQ(step=0.25), (2, 448), "bfloat16", marks=FULL),
        pytest.param(ac.DQ(bits=3), (1, 0), "float32", marks=FULL),
    ],
)
def test_bits(codec: ac.Codec, shape: tuple[int, ...], dtype: str, level: Level) -> None:
    x = normal(shape, dtype)
    planes = codec.encode(x)
    want = codec.decode(planes, spec_of(x))
    same_bits(np.asarray(JIT.decode(codec, on_jax(planes), spec_of(x), {})), want, "the plan at hand")
    if level >= Level.full:  # a program for every plan takes long to compile
        same_bits(np.asarray(traced(Encoded(codec, spec_of(x), on_jax(planes)))), want, "the plan traced")


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("bfloat16", marks=FULL), pytest.param("float16", marks=FULL)]
)
def test_any_stored_scale_and_code_decodes(dtype: str) -> None:
    codes = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, 2000).astype(np.int16)
    codes[::3] >>= 12
    spec, planes = ac.ArraySpec(codes.shape, dtype), coded(codes, codes.shape)
    planes["centroids"] = np.linspace(-32768, 32767, 25).astype(np.int16)
    for scale in (1.0, -0.25, 0.0, -0.0, 2.0**-101, 2.0**-100, 2.0**127, np.inf, np.nan, 1e-40):
        planes["scale"] = np.array([scale], np.float32)
        got = JIT.decode(ac.DQ(), on_jax(planes), spec, {})
        same_bits(np.asarray(got), ac.DQ().decode(planes, spec), f"scale {scale}")


@FULL
def test_leading_axes_are_mapped_over() -> None:
    codec, x = ac.DQ(bits=4), normal((2, 500))
    planes, other = codec.encode(x), codec.encode(-x)
    size = {name: max(plane.size, other[name].size) for name, plane in planes.items()}

    def padded(own: Planes) -> Planes:
        return {name: np.pad(plane, (0, size[name] - plane.size)) for name, plane in own.items()}

    both = [padded(planes), padded(other)]
    enc: Any = Encoded(codec, spec_of(x), {name: jnp.stack([own[name] for own in both]) for name in planes})
    want = np.stack([codec.decode(own, spec_of(x)) for own in (planes, other)])
    same_bits(np.asarray(jax.jit(jax.vmap(ac.decode))(enc)), want, "mapped")


def test_encoding_is_for_the_host() -> None:
    x = jnp.ones((4, 64))
    assert ac.encode(x, "dq4").planes
    with pytest.raises(UnsupportedByBackend, match="dq: the encoder runs on the host"):
        jax.jit(lambda x: ac.encode(x, "dq4"))(x)
