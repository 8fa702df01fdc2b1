"""Sharded arrays: the same bits on eight devices, outputs sharded like inputs, and no device asks another for data.

A process has as many CPU devices as XLA_FLAGS says when JAX starts, so this file runs itself again in another one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec  # noqa: E402

import arraycodec as ac  # noqa: E402
from arraycodec.base import Planes  # noqa: E402
from arraycodec_conformance.cases import RISING256  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_conformance.strategies import Recipe  # noqa: E402
from arraycodec_jax import choose, dequant_matmul  # noqa: E402

FLAG = "ARRAYCODEC_TEST_SHARDING"
COLLECTIVES = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
ROWS, COLUMNS = PartitionSpec("d", None), PartitionSpec(None, "d")
HUNDRED = {"global_scale": np.full(1, 100, np.float32)}
CODECS: dict[str, tuple[ac.Codec, Planes]] = {
    "nf4": (ac.codec("nf4"), {}),
    "user8": (ac.Codebook("user8"), {"codebook": RISING256}),
    "w4a16": (ac.codec("w4a16"), {}),
    "float6_e3m2fn": (ac.codec("float6_e3m2fn"), {}),
    "mxfp4": (ac.codec("mxfp4"), {}),
    "nvfp4": (ac.codec("nvfp4"), HUNDRED),  # its own global scale would be found in all shards
}
X = Recipe((16, 1024), "float32", "log-normal", 0, 0, ((77, 0x7F800000), (9000, 0x7FC00000))).array()


def test_on_eight_devices() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", FLAG: "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"{__file__}::TestSharding"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout, run.stdout


def mesh(kind: AxisType) -> Mesh:
    return jax.make_mesh((8,), ("d",), axis_types=(kind,))


def compiled(function: Any, *args: Any) -> Any:
    """The outputs of the jitted function, which must need no communication."""
    program = jax.jit(function).lower(*args).compile()
    assert not [word for word in COLLECTIVES if word in program.as_text()]
    return program(*args)


class TestSharding:
    """Collected only in the process that has eight devices."""

    __test__ = FLAG in os.environ

    @pytest.mark.parametrize(
        ("kind", "spec"), [(AxisType.Auto, COLUMNS), (AxisType.Explicit, ROWS)], ids=["auto-columns", "explicit-rows"]
    )
    @pytest.mark.parametrize("name", CODECS)
    def test_jit_of_block_aligned_shards(self, name: str, kind: AxisType, spec: PartitionSpec) -> None:
        codec, given = CODECS[name]
        sharding = NamedSharding(mesh(kind), spec)
        x = jax.device_put(X, sharding)
        want = codec.encode(X, given)
        enc = compiled(lambda x: ac.encode(x, codec, given=given), x)
        for plane, array in want.items():
            same_bits(np.asarray(enc.planes[plane]), array, f"{codec}: {plane}")
            assert plane in given or enc.planes[plane].sharding.is_equivalent_to(sharding, 2)
        for dtype in ("float32", "bfloat16"):
            decoded = compiled(lambda enc, dtype=dtype: ac.decode(enc, dtype=dtype), enc)
            same_bits(np.asarray(decoded), codec.decode(want, ac.ArraySpec(X.shape, dtype)), f"{codec}: {dtype}")
            assert decoded.sharding.is_equivalent_to(sharding, 2)

    @pytest.mark.parametrize("spec", [ROWS, COLUMNS], ids=["rows", "columns"])
    def test_shard_map(self, spec: PartitionSpec) -> None:
        """Each device encodes and decodes what it has, with a spec of its own part."""

        def there_and_back(x: jax.Array) -> tuple[Planes, jax.Array]:
            enc = ac.encode(x, "nf4")
            return enc.planes, ac.decode(enc)

        devices = mesh(AxisType.Auto)
        mapped = jax.shard_map(there_and_back, mesh=devices, in_specs=spec, out_specs=spec)
        planes, decoded = compiled(mapped, jax.device_put(X, NamedSharding(devices, spec)))
        want = ac.codec("nf4").encode(X)
        for plane, array in want.items():
            same_bits(np.asarray(planes[plane]), array, plane)
        same_bits(np.asarray(decoded), ac.decode(ac.encode(X, "nf4", check=False)), "decoded")

    @pytest.mark.parametrize("name", ["w4a16", "nvfp4"])
    def test_products_of_shards_of_a_weight(self, name: str) -> None:
        """Each device has some of the rows, and gives as many elements of the product."""
        codec, given = CODECS[name]
        weight = np.where(np.isfinite(X), X, 1)
        enc = ac.Encoded(codec, ac.ArraySpec(X.shape, "float32"), codec.encode(weight, given))
        specs = {plane: PartitionSpec() if plane in given else ROWS for plane in enc.planes}

        def product(x: jax.Array, planes: Planes) -> jax.Array:
            return dequant_matmul(x, ac.Encoded(codec, ac.ArraySpec((2, 1024), "float32"), planes), band=1)

        mapped = jax.shard_map(
            product, mesh=mesh(AxisType.Auto), in_specs=(PartitionSpec(), specs), out_specs=COLUMNS, check_vma=False
        )
        got = compiled(mapped, np.eye(1024, dtype=np.float32), enc.planes)
        same_bits(np.asarray(got), ac.decode(enc).T + np.float32(0), "weights")

    def test_sharded_arrays_stay_sharded_without_jit_around_them(self) -> None:
        sharding = NamedSharding(mesh(AxisType.Auto), ROWS)
        x = jax.device_put(np.where(np.isfinite(X), X, 0), sharding)
        enc = ac.encode(x, "nf4")
        decoded = ac.decode(enc)
        assert choose(x) == "jit"
        assert all(p.sharding.is_equivalent_to(sharding, 2) for p in (*enc.planes.values(), decoded))
        same_bits(np.asarray(decoded), ac.decode(ac.encode(np.asarray(x), "nf4")), "decoded")
        with pytest.raises(ac.NonFiniteError, match="2 of 256 blocks"):
            ac.encode(jax.device_put(X, sharding), "nf4")

    def test_shards_that_are_not_whole_blocks_have_the_same_bits(self) -> None:
        x = jax.device_put(X, NamedSharding(mesh(AxisType.Auto), COLUMNS))
        for codec in (ac.codec("nf4", block_size=512), ac.codec("nf4", block_size=5), ac.codec("nf4-double")):
            enc = ac.encode(x, codec, check=False)
            for plane, array in codec.encode(X).items():
                same_bits(np.asarray(enc.planes[plane]), array, f"{codec}: {plane}")

    def test_arrays_on_another_device_stay_there(self) -> None:
        for device in (jax.devices()[0], jax.devices()[5]):
            x = jax.device_put(X[:8], device)
            enc = ac.encode(x, "nf4", check=False)
            assert choose(x) == "reference"
            assert all(plane.devices() == {device} and plane.committed for plane in enc.planes.values())
            assert ac.decode(enc).devices() == {device}
        with jax.default_device(jax.devices()[3]):
            free = jax.numpy.ones((4, 64))
        assert not free.committed
        plane = ac.encode(free, "nf4").planes["codes"]
        assert plane.devices() == {jax.devices()[3]} and not plane.committed

    def test_stacked_layers_on_their_own_devices(self) -> None:
        """Planes with a leading axis that is sharded: one layer, or expert, per device."""
        sharding = NamedSharding(mesh(AxisType.Auto), PartitionSpec("d"))
        stacked = np.stack([np.where(np.isfinite(X), X, 1) * (i + 1) for i in range(8)])
        enc = compiled(jax.vmap(lambda x: ac.encode(x, "nf4")), jax.device_put(stacked, sharding))
        decoded = compiled(ac.decode, enc)
        assert decoded.sharding.is_equivalent_to(sharding, 3)
        want = np.stack([ac.decode(ac.encode(x, "nf4")) for x in stacked])
        same_bits(np.asarray(decoded), want, "decoded")
