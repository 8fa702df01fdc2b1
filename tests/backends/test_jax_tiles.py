"""Every bit of the jitted quantisers of tiles against the reference: shapes, given scales, fusion, without jit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import arraycodec as ac  # noqa: E402
from arraycodec.spec import spec_of  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_conformance.strategies import Recipe  # noqa: E402
from tests.backends.jax_compare import SCALES, SHAPES, arrays, compare  # noqa: E402

FULL = pytest.mark.level("full")
FOREIGN: dict[str, Any] = {"flavour": "compressed-tensors", "arithmetic": "eager"}
CODECS: dict[str, ac.Codec] = {
    "linear": ac.Linear(5, symmetric=False, block_size=(4, 50)),
    "linear-foreign": ac.Linear(4, symmetric=False, block_size=(1, None), **FOREIGN),
    "minifloat": ac.Minifloat("float6_e3m2fn", block_size=(None, 40)),
    "minifloat-foreign": ac.Minifloat(block_size=(1, None), **FOREIGN),
    "cast": ac.Minifloat("float8_e5m2", scaled=False, overflow="nonfinite"),
    "microscaling": ac.Microscaling("float6_e2m3fn", block_size=16),
    "microscaling-int8": ac.Microscaling("int8"),
    "nvfp4": ac.NVFP4(arithmetic="eager"),
}


@pytest.mark.parametrize(
    ("name", "dtype"), [("linear-foreign", "float16"), ("minifloat-foreign", "bfloat16"), ("nvfp4", "float16")]
)
def test_special_values_of_narrow_floats(name: str, dtype: str) -> None:
    """Where every step is rounded to the array's dtype."""
    for x in arrays((6, 192), dtype):
        compare(CODECS[name], x, {})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "codec",
    [
        ac.Linear(3, symmetric=False, block_size=5),
        ac.Linear(8, symmetric=False, block_size=(2, None), **FOREIGN),
        ac.Minifloat(block_size=None, **FOREIGN),
    ],
    ids=repr,
)
def test_shapes(codec: ac.Codec, shape: tuple[int, ...]) -> None:
    compare(codec, Recipe(shape, "float32", "normal", 0, 0).array(), {})


def test_large_arrays_take_other_paths_through_xla() -> None:
    """From some thousand elements on, reductions are handed to a library that drops NaN from float maxima."""
    x = Recipe((256, 4096), "float32", "bits", 0, 5).array()
    finite = np.where(np.isfinite(x) & (np.abs(x) < 1e30), x, 1).astype(np.float32)
    for codec in (ac.Linear(8, symmetric=False, block_size=(128, 128)), ac.Microscaling(), ac.NVFP4()):
        compare(codec, x, {})
        compare(codec, finite, {})


@pytest.mark.parametrize("name", ["linear", "linear-foreign", "minifloat", "minifloat-foreign"])
def test_given_scales_are_taken_as_they_are(name: str) -> None:
    """Also negative, tiny, huge and not finite ones; elements may then be beyond the scale, or not finite."""
    codec, rng = CODECS[name], np.random.default_rng(0)
    for x in arrays((6, 192), "float32"):
        given = {}
        for plane, spec in codec.planes(spec_of(x)).items():
            if plane != "codes":
                values = SCALES if plane == "scales" else np.arange(-128, 128, dtype=np.int8)
                given[plane] = rng.choice(values, spec.known_shape)
        compare(codec, x, given)


@pytest.mark.parametrize("name", ["microscaling", "microscaling-int8", "nvfp4"])
def test_given_bytes_of_scales_are_taken_as_they_are(name: str) -> None:
    codec, rng = CODECS[name], np.random.default_rng(0)
    for i, x in enumerate(arrays((6, 192), "float32")):
        specs = codec.planes(spec_of(x))
        byte = rng.integers(0, 256, specs["scales"].known_shape, np.uint8)
        given = {"scales": byte.view(specs["scales"].numpy_dtype)}
        if "global_scale" in specs:
            given["global_scale"] = SCALES[[i % SCALES.size]] if i % 2 else np.float32([2.0 ** (i - 20)])
            compare(codec, x, {"global_scale": given["global_scale"]})
        compare(codec, x, given)


@pytest.mark.parametrize("name", ["linear", "minifloat", "microscaling", "nvfp4"])
def test_fusion_with_what_comes_before_and_after_changes_no_bit(name: str) -> None:
    """A product that becomes the input, and a sum that takes the output, in one program."""
    a, b = (Recipe((64, 1000), "float32", "normal", 0, seed).array() for seed in (1, 2))
    codec, x = CODECS[name], a * b

    @jax.jit
    def program(a: Any, b: Any) -> tuple[ac.Encoded, Any]:
        enc = ac.encode(a * b, codec)
        return enc, ac.decode(enc) + b

    enc, added = program(a, b)
    want = codec.encode(x)
    for plane, values in want.items():
        same_bits(np.asarray(enc.planes[plane]), values, f"{codec}: {plane}", x)
    same_bits(np.asarray(added), codec.decode(want, spec_of(x)) + b, "decoded + b")
    alone = jax.jit(lambda enc, b: ac.decode(enc) + b)(
        jax.tree.map(jnp.asarray, ac.Encoded(codec, spec_of(x), want)), b
    )
    same_bits(np.asarray(alone), np.asarray(added), "decoded + b, of planes from elsewhere")


def test_with_64_bit_types_enabled() -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        for name in ("linear-foreign", "nvfp4"):
            compare(CODECS[name], arrays((6, 192), "float32")[0], {})
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("name", [pytest.param(n, marks=FULL if n != "microscaling-int8" else ()) for n in CODECS])
def test_without_jit(name: str) -> None:
    """Operation by operation, which is slow and what `jax.disable_jit` does."""
    compare(CODECS[name], arrays((6, 192), "bfloat16")[0], {}, "eager")


def test_what_cannot_be_given_alone() -> None:
    x = jnp.ones((2, 64))
    with pytest.raises(ac.ArgumentError, match="scales and zero_points together"):
        given = {"scales": np.ones((2, 1), np.float32)}
        jax.jit(lambda x: ac.encode(x, ac.Linear(8, symmetric=False), given=given))(x)
    with pytest.raises(ac.ArgumentError, match="global_scale together with scales"):
        scales = ac.NVFP4().encode(np.ones((2, 64), np.float32))["scales"]
        jax.jit(lambda x: ac.encode(x, "nvfp4", given={"scales": scales}))(x)
