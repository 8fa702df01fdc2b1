"""Every bit of jitted codecs against the reference: special values for every case; the codebook's tables and planes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import arraycodec as ac  # noqa: E402
from arraycodec.base import Planes  # noqa: E402
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of  # noqa: E402
from arraycodec_conformance.cases import NESTED, RISING16, RISING256, UNEVEN16, Case, any_bytes  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_conformance.strategies import Recipe  # noqa: E402
from arraycodec_jax import IMPLEMENTATIONS  # noqa: E402
from tests.backends.jax_compare import SCALES, SHAPES, arrays, compare, compare_decoded  # noqa: E402
from tests.backends.test_jax import FIXED  # noqa: E402

DTYPES = ("float32", "bfloat16", "float16")
EVEN16 = np.linspace(-7.5, 7.5, 16).astype(np.float32)  # no zero: the middle bound is one
CODECS: dict[str, tuple[ac.Codec, Planes]] = {
    "nf4": (ac.codec("nf4"), {}),
    "fp4": (ac.codec("fp4"), {}),
    "fp4-cpu": (ac.Codebook("fp4", block_size=6, flavour="bnb-cpu"), {}),
    "dynamic": (ac.codec("dynamic", block_size=32), {}),
    "whole": (ac.Codebook("nf4", block_size=None), {}),
    "whole-8": (ac.Codebook("dynamic", block_size=None, offset=True), {}),
    "odd": (ac.Codebook("fp4", block_size=5), {}),
    "offset": (ac.Codebook("nf4", block_size=16, offset=True), {}),
    "offset-given": (ac.Codebook("nf4", block_size=16, offset=True), {"offset": np.float32(0.25)}),
    "user4": (ac.Codebook("user4", block_size=16), {"codebook": EVEN16}),
    "user4-bounds": (ac.Codebook("user4"), {"codebook": RISING16, "bounds": UNEVEN16}),
    "user8": (ac.Codebook("user8"), {"codebook": RISING256}),
    "double": (ac.Then(ac.Codebook("fp4", block_size=8), absmax=NESTED), {}),
}


@pytest.mark.parametrize("name", ["Q5_0", "Q4_K", "IQ4_XS", "MXFP4"])
def test_any_blocks(name: str) -> None:
    """Of a codec that only decodes: any bytes. Every type is compiled at level full (test_jax.py)."""
    codec, spec = ac.Gguf(name), ac.ArraySpec((3, 512), "float32")
    planes = any_bytes(codec.planes(spec), 0)
    blocks = planes["blocks"].reshape(-1, codec.block.nbytes)
    blocks[:, 0] = np.arange(len(blocks))  # scale bytes 0 and 1 of MXFP4 make subnormal numbers
    compare_decoded(codec, planes, spec)


@pytest.mark.parametrize("case", [case for case in FIXED if case.written is None], ids=str)
def test_special_values(case: Case) -> None:
    for x in arrays((6, 192), "float32"):
        if case.host_encoded:
            compare_decoded(case.codec, case.planes(x), spec_of(x))
        else:
            compare(case.codec, x, case.encoding(x))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["odd", "double"])
def test_special_values_of_narrow_floats(name: str, dtype: str) -> None:
    codec, given = CODECS[name]
    for x in arrays((6, 192), dtype):
        compare(codec, x, given)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["odd", "whole-8"])
def test_shapes(name: str, shape: tuple[int, ...]) -> None:
    codec, given = CODECS[name]
    for seed in range(3):
        compare(codec, Recipe(shape, "float32", "normal", 0, seed).array(), given)


@pytest.mark.parametrize(("name", "dtype"), [("nf4", "bfloat16"), ("dynamic", "float16")])
def test_every_pattern(name: str, dtype: str) -> None:
    """All 2^16 inputs in blocks of their neighbours, and each alone in a block with 1.0."""
    codec, given = CODECS[name]
    x = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
    compare(codec, x.reshape(-1, 64), given)
    alone = np.zeros((2**16, 2), x.dtype)
    alone[:, 0], alone[:, 1] = x, 1
    compare(ac.Codebook(codec.table, block_size=2), alone.reshape(64, -1), given)


@pytest.mark.parametrize("name", ["nf4", "fp4-cpu", "dynamic", "user4"])
def test_given_scales_are_taken_as_they_are(name: str) -> None:
    """Also negative, tiny, huge and not finite ones; elements may then be beyond the scale, or not finite."""
    codec, given = CODECS[name]
    rng = np.random.default_rng(0)
    for x in arrays((6, 192), "float32"):
        shape = codec.planes(spec_of(x))["absmax"].known_shape
        compare(codec, x, given | {"absmax": rng.choice(SCALES, shape)})


@pytest.mark.parametrize("name", ["nf4", "dynamic", "whole", "odd", "offset", "user8", "double"])
def test_any_planes_decode(name: str) -> None:
    """Codes, scales and offsets that no encoder writes, to every dtype."""
    codec, given = CODECS[name]
    rng = np.random.default_rng(1)
    spec = ArraySpec((6, 320), "float32")
    planes = codec.encode(np.ones(spec.known_shape, np.float32), given)
    for offset in (0.25, 2.0**-127, -(2.0**-126), np.nan, np.inf):
        for plane, values in planes.items():
            if plane.endswith("codes"):
                planes[plane] = rng.integers(0, 256, values.shape, np.uint8)
            elif plane.endswith("absmax"):
                planes[plane] = rng.choice(SCALES, values.shape)
            elif plane.endswith("offset"):
                planes[plane] = np.array(offset, np.float32)
        for dtype in DTYPES:
            own = ArraySpec(spec.shape, dtype)
            got = IMPLEMENTATIONS["jit"].decode(codec, {n: jnp.asarray(p) for n, p in planes.items()}, own, {})
            same_bits(np.asarray(got), codec.decode(planes, own), f"{codec} to {dtype}")


def test_large_arrays_take_other_paths_through_xla() -> None:
    """From some thousand elements on, reductions are handed to a library that drops NaN from float maxima."""
    x = Recipe((256, 4096), "float32", "bits", 0, 5).array()
    for codec in (ac.codec("nf4"), ac.Codebook("dynamic", block_size=None), ac.Codebook("nf4", block_size=4096)):
        compare(codec, x, {})
        compare(codec, np.where(np.isfinite(x) & (np.abs(x) < 1e30), x, 1).astype(np.float32), {})


def test_with_64_bit_types_enabled() -> None:
    jax.config.update("jax_enable_x64", True)
    try:
        for name in ("double", "user8"):
            codec, given = CODECS[name]
            compare(codec, arrays((6, 192), "float32")[0], given)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_the_table_may_be_traced_and_mapped_over() -> None:
    """A user's codebook as an argument of a jitted function, and a different one for each of several arrays."""
    codec, bounds = ac.Codebook("user4", block_size=16), (EVEN16[1:] + EVEN16[:-1]) * np.float32(0.5)
    x = np.stack(arrays((6, 192), "float32")[:3])
    tables = np.stack([EVEN16, RISING16, EVEN16 * 2])

    def planes(x: Any, **given: Any) -> Planes:
        return ac.encode(x, codec, given=given).planes

    got = jax.jit(planes)(x[0], codebook=tables[0], bounds=bounds)
    for name, plane in codec.encode(x[0], {"codebook": tables[0], "bounds": bounds}).items():
        same_bits(np.asarray(got[name]), plane, name)
    mapped = jax.vmap(lambda x, table: ac.encode(x, codec, given={"codebook": table}))(x, tables)
    decoded = ac.decode(mapped)
    for i in range(3):
        want = codec.encode(x[i], {"codebook": tables[i]})
        for name, plane in want.items():
            same_bits(np.asarray(mapped.planes[name][i]), plane, name)
        same_bits(np.asarray(decoded[i]), codec.decode(want, spec_of(x[i])), "decoded")
