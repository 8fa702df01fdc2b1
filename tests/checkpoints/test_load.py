"""`load`: arrays of every format, dtype and framework, in their places; peak memory; what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints.peak import peak_bytes
from arraycodec.containers import safetensors
from arraycodec.formats.bitsandbytes.target import Bitsandbytes
from arraycodec.spec import spec_of
from arraycodec_conformance.compare import same_bits
from tests.checkpoints.support import normal

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding  # noqa: E402

FLAG = "ARRAYCODEC_TEST_LOAD"
UP, HEAD, EXPERTS = "layers.0.up.weight", "lm_head.weight", "layers.0.experts.up"
MB = 1 << 20


def foreign(folder: Path, scheme: str = "nf4-double", dtype: str = "bfloat16", rows: int = 64) -> Path:
    """A checkpoint as bitsandbytes writes it, with stacked experts and a plain head."""
    target = Bitsandbytes.of({"Linear": scheme, "Experts": scheme} if "int8" not in scheme else {"Linear": scheme})
    model = {UP: normal(rows, 128, dtype=dtype), HEAD: normal(32, 64, dtype=dtype, seed=1)}
    model |= {"layers.0.norm.weight": normal(64, seed=2), EXPERTS: normal(8, 16, 64, dtype=dtype, seed=3)}
    tensors: dict[str, np.ndarray] = {}
    for name, array in model.items():
        codec = target.decide(name, spec_of(array), None).codec
        tensors |= {name: array} if codec is None else target.arrays(name, ac.encode(array, codec))
    folder.mkdir(exist_ok=True)
    safetensors.save(tensors, folder / "model.safetensors")
    config = {"dtype": dtype, "quantization_config": {"quant_method": "bitsandbytes"}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def native(path: Path) -> Path:
    """A container of ours: quantised, stacked, lossless, tied and plain tensors."""
    layers = [ac.encode(normal(15, 8, seed=seed), "nf4") for seed in range(8)]  # whose last blocks are short
    planes = {name: np.stack([layer.planes[name] for layer in layers]) for name in layers[0].planes}
    stacked = ac.Encoded(layers[0].codec, layers[0].spec, planes)
    tensors = {
        "a": ac.encode(normal(64, 128, dtype="bfloat16"), "nf4"), "b": stacked, "d": normal(7, 3, dtype="float16"),
        "c": ac.encode(normal(640, 64, dtype="bfloat16", seed=5), "lossless"), "i": np.arange(9, dtype=np.int32),
    }  # fmt: skip
    ac.save_file(tensors, path)
    return path


# -- arrays


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("scheme", ["nf4", "nf4-double", "llm_int8"])
def test_a_foreign_checkpoint_in_every_framework(scheme: str, framework: str, tmp_path: Path) -> None:
    folder = foreign(tmp_path / "m", scheme)
    model = ac.load(folder, framework=framework)
    with ac.open_checkpoint(folder) as want:
        assert list(model) == list(want)
        for name, tensor in want.items():
            assert type(model[name]).__module__.partition(".")[0] == {"jax": "jaxlib"}.get(framework, framework)
            same_bits(ac.api.to_numpy(model[name]), tensor.decode(), name)


@pytest.mark.parametrize("preset", ["W4A16", "NVFP4A16", "MXFP4A16", "FP8_BLOCK"])
def test_compressed_tensors_in_jax(preset: str, tmp_path: Path) -> None:
    (tmp_path / "dense").mkdir()
    safetensors.save({UP: normal(256, 256, dtype="bfloat16")}, tmp_path / "dense/model.safetensors")
    (tmp_path / "dense/config.json").write_text('{"dtype": "bfloat16"}')
    ac.convert(tmp_path / "dense", tmp_path / "ct", "compressed-tensors", scheme=preset)
    want = ac.load(tmp_path / "ct")[UP]
    assert 0 < np.abs(want.astype(np.float32) - normal(256, 256)).mean() < 0.2
    for encoded in (False, True):
        got = ac.load(tmp_path / "ct", framework="jax", encoded=encoded)[UP]
        same_bits(np.asarray(ac.decode(got) if encoded else got), want, f"encoded {encoded}")


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_rounded_to_once(dtype: str, framework: str, tmp_path: Path) -> None:
    """Quantised weights decode to it, all other floats are cast, integers stay."""
    for path in (foreign(tmp_path / "m"), native(tmp_path / "n.safetensors")):
        model = ac.load(path, framework=framework, dtype=dtype)
        with ac.open_checkpoint(path) as source:
            for name, tensor in source.items():
                if tensor.codec is not None and not tensor.codec.lossless:
                    want = ac.decode(tensor.encoded(), dtype=dtype)
                else:
                    want = tensor.decode()
                    want = want if want.dtype == np.int32 else want.astype(ml_dtypes.finfo(dtype).dtype)
                same_bits(ac.api.to_numpy(model[name]), want, f"{path.name} {name}")


SMALL = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"]
PACKED = ["float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn"]


def small_floats(path: Path) -> dict[str, np.ndarray]:
    """A plain file with every float that is smaller than 16 bits, and its arrays."""
    tensors = {name: np.arange(96, dtype=np.uint8).reshape(4, 24).view(getattr(ml_dtypes, name)) for name in SMALL}
    specs: dict[str, ac.ArraySpec] = {name: spec_of(array) for name, array in tensors.items()}
    packed = np.random.default_rng(0).integers(0, 256, 72, np.uint8)
    for name in PACKED:
        bits = 4 if "4" in name else 6
        specs[name] = ac.ArraySpec((4, 24), name)
        stream = np.unpackbits(packed[: 12 * bits], bitorder="little").reshape(96, bits)
        codes = np.packbits(stream, axis=1, bitorder="little").reshape(4, 24)
        tensors[name] = codes.view(getattr(ml_dtypes, name))
    header = safetensors.make_header(specs)
    with safetensors.SafetensorsWriter(path, header) as writer:
        for name in header.tensors:
            writer.add(name, packed[: specs[name].nbytes] if name in PACKED else tensors[name])
    return tensors


def test_every_small_float(tmp_path: Path) -> None:
    """As ml_dtypes has them; JAX has no float6, and torch neither 6 bits nor 4."""
    path = tmp_path / "m.safetensors"
    want = small_floats(path)
    for name, array in ac.load(path).items():
        same_bits(array, want[name], name)
    for framework in ("numpy", "jax", "torch"):
        for name, array in ac.load(path, framework=framework, dtype="float32").items():
            same_bits(ac.api.to_numpy(array), want[name].astype(np.float32), f"{framework} {name}")
    with pytest.raises(ac.UnsupportedByBackend, match=r"tensor 'float6_.*': jax: has no float6_.* arrays; dtype="):
        ac.load(path, framework="jax")
    some = {name: want[name] for name in SMALL}
    safetensors.save(some, tmp_path / "eight.safetensors")
    for framework in ("jax", "torch"):
        for name, array in ac.load(tmp_path / "eight.safetensors", framework=framework).items():
            same_bits(ac.api.to_numpy(array), want[name], f"{framework} {name}")
    assert ac.load(path, framework="torch")["float4_e2m1fn"].shape == (4, 12)


def test_encoded_weights_stay_encoded(tmp_path: Path) -> None:
    model = ac.load(foreign(tmp_path / "m"), framework="jax", encoded=True, nested=True)
    weight = model["layers"]["0"]["up"]["weight"]
    assert isinstance(weight, ac.Encoded)
    assert isinstance(weight.planes["codes"], jax.Array)
    same_bits(np.asarray(ac.decode(weight)), ac.load(tmp_path / "m")[UP], "decoded")
    assert model["layers"]["0"]["norm"]["weight"].shape == (64,)
    assert len(jax.tree.leaves(model)) == 4 + 4 + 1 + 1


def test_what_is_refused(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "m")
    for arguments, told in [
        ({"dtype": "int8"}, "dtype must be one of float16, .* or None, got 'int8'"),
        ({"sharding": {}}, "sharding is for framework='jax', got 'numpy'"),
        ({"framework": "jax", "sharding": {}, "device": "cpu"}, "one of device and sharding"),
        (
            {"framework": "jax", "sharding": {"layers": {"1": None}}},
            r"sharding names 'layers\.1', which the checkpoint",
        ),
        ({"framework": "jax", "sharding": 7}, "tensor 'layers.0.*must be a jax.sharding.Sharding or None, got int"),
    ]:
        with pytest.raises(ac.ArgumentError, match=told):
            ac.load(folder, **arguments)
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "new"}}')
    with pytest.raises(ac.FormatError, match="quant_method must be one of"):
        ac.load(folder)
    ac.save_file({"a": np.ones(3), "a.b": np.ones(3)}, tmp_path / "n.safetensors")
    with pytest.raises(ac.FormatError, match=r"none begins another, got 'a' and 'a\.b'"):
        ac.load(tmp_path / "n.safetensors", nested=True)
    safetensors.save({"a": np.ones(3, np.int64)}, tmp_path / "i.safetensors")
    with pytest.raises(ac.UnsupportedByBackend, match=r"i\.safetensors: .*jax_enable_x64"):
        ac.load(tmp_path / "i.safetensors", framework="jax")


# -- eight devices


def test_on_eight_devices() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", FLAG: "1", "MALLOC_MMAP_THRESHOLD_": str(MB)}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"{__file__}::TestSharded"]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout, run.stdout


class TestSharded:
    """Collected only in the process that has eight devices."""

    __test__ = FLAG in os.environ

    def meshes(self) -> tuple[Any, Any]:
        return jax.make_mesh((8,), ("d",)), jax.make_mesh((4, 2), ("x", "y"))

    def specs(self) -> list[Any]:
        line, grid = self.meshes()
        of = PartitionSpec
        return [
            NamedSharding(line, of("d")), NamedSharding(line, of(None, "d")), NamedSharding(line, of()),
            NamedSharding(grid, of("x", "y")), NamedSharding(grid, of("y")), NamedSharding(grid, of(("x", "y"))),
            NamedSharding(grid, of(None, ("y", "x"))), SingleDeviceSharding(jax.devices()[3]),
        ]  # fmt: skip

    @pytest.mark.parametrize("dtype", [None, "float32"])
    def test_the_same_bits_in_every_sharding(self, dtype: str | None, tmp_path: Path) -> None:
        for path, name in (
            (foreign(tmp_path / "m"), UP),
            (foreign(tmp_path / "i", "llm_int8"), UP),
            (native(tmp_path / "n.safetensors"), "a"),
            (native(tmp_path / "n.safetensors"), "c"),
        ):
            want = ac.load(path, dtype=dtype)[name]
            for sharding in self.specs():
                got = ac.load(path, framework="jax", sharding={name: sharding}, dtype=dtype)[name]
                assert got.sharding.is_equivalent_to(sharding, 2), sharding
                same_bits(np.asarray(got), want, f"{path.name} {name} {sharding}")

    def test_stacked_weights_and_small_floats(self, tmp_path: Path) -> None:
        line, _ = self.meshes()
        rows = NamedSharding(line, PartitionSpec("d"))
        folder = foreign(tmp_path / "m")
        same_bits(
            np.asarray(ac.load(folder, framework="jax", sharding={EXPERTS: rows})[EXPERTS]),
            ac.load(folder)[EXPERTS],
            "",
        )
        columns = NamedSharding(line, PartitionSpec(None, None, "d"))
        path = native(tmp_path / "n.safetensors")
        for dtype in (None, "float16"):
            for sharding in (rows, columns):
                got = ac.load(path, framework="jax", sharding={"b": sharding}, dtype=dtype)["b"]
                same_bits(np.asarray(got), ac.load(path, dtype=dtype)["b"], "stacked")
        want = small_floats(tmp_path / "s.safetensors")
        columns = NamedSharding(line, PartitionSpec(None, "d"))
        rows = NamedSharding(jax.make_mesh((4, 2), ("x", "y")), PartitionSpec("x"))
        for sharding in (rows, columns):
            for name in (*SMALL, *PACKED):
                path = tmp_path / "s.safetensors"
                got = ac.load(path, framework="jax", dtype="float32", sharding={name: sharding})[name]
                same_bits(np.asarray(got), want[name].astype(np.float32), name)
        header = safetensors.make_header({"flat": ac.ArraySpec((16,), "float4_e2m1fn")})
        with safetensors.SafetensorsWriter(path, header) as writer:
            writer.add("flat", np.arange(8, dtype=np.uint8))
        got = ac.load(path, framework="jax", sharding=rows)["flat"]  # a row is half a byte
        same_bits(np.asarray(got), ac.load(path)["flat"], "flat")

    def test_one_for_all_a_tree_or_a_function(self, tmp_path: Path) -> None:
        line, _ = self.meshes()
        rows, copies = NamedSharding(line, PartitionSpec("d")), NamedSharding(line, PartitionSpec())
        folder, asked = foreign(tmp_path / "m"), []

        def choose(name: str, shape: tuple[int, ...]) -> Any:
            asked.append((name, shape))
            return rows if len(shape) > 1 else None

        by_function = ac.load(folder, framework="jax", sharding=choose)
        assert dict(asked) == {name: array.shape for name, array in by_function.items()}
        assert by_function[UP].sharding == rows
        assert len(by_function["layers.0.norm.weight"].devices()) == 1
        tree = {"layers": {"0": {"up": {"weight": rows}, "norm": {"weight": copies}}}}
        by_tree = ac.load(folder, framework="jax", sharding=tree, nested=True)
        assert by_tree["layers"]["0"]["up"]["weight"].sharding == rows
        assert by_tree["layers"]["0"]["norm"]["weight"].sharding == copies
        assert all(array.sharding == rows for array in ac.load(folder, framework="jax", sharding=rows).values())
        with pytest.raises(ac.ArgumentError, match=r"layers.0.up.weight.: sharding: .*partitioned 8 times"):
            ac.load(foreign(tmp_path / "odd", rows=60), framework="jax", sharding=rows)

    def test_planes_are_sharded_where_they_can_be(self, tmp_path: Path) -> None:
        line, _ = self.meshes()
        auto = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))  # explicit axes would want whole blocks
        rows, columns = NamedSharding(line, PartitionSpec("d")), NamedSharding(auto, PartitionSpec(None, "d"))
        nested = {"absmax.codes", "absmax.absmax", "absmax.offset"}
        for scheme, sharding, copied in (
            ("nf4", rows, set()),
            ("nf4", columns, {"absmax"}),  # two blocks in a row, for eight devices
            ("nf4-double", rows, nested),
        ):
            folder = foreign(tmp_path / scheme, scheme)
            model = ac.load(folder, framework="jax", sharding={UP: sharding}, encoded=True)
            for name, plane in model[UP].planes.items():
                assert plane.sharding.mesh == sharding.mesh
                assert plane.sharding.is_fully_replicated == (name in copied), name
                assert name in copied or plane.sharding == sharding
            same_bits(np.asarray(jax.jit(ac.decode)(model[UP])), ac.load(folder)[UP], scheme)

    def test_rows_are_decoded_once_and_only_those_asked_for(self, tmp_path: Path, monkeypatch: Any) -> None:
        line, grid = self.meshes()
        path = tmp_path / "n.safetensors"
        ac.save_file({"a": ac.encode(normal(64, 128), "nf4")}, path)
        read: list[tuple[int, int]] = []
        original = ac.Codebook.read

        def counted(self: Any, fetch: Any, spec: Any, start: int, stop: int) -> np.ndarray:
            read.append((start // 128, stop // 128))
            return original(self, fetch, spec, start, stop)

        monkeypatch.setattr(ac.Codebook, "read", counted)
        ac.load(path, framework="jax", sharding=NamedSharding(line, PartitionSpec("d")))
        assert read == [(8 * i, 8 * i + 8) for i in range(8)]
        read.clear()
        ac.load(path, framework="jax", sharding=NamedSharding(grid, PartitionSpec("x", "y")))
        assert read == [(16 * i, 16 * i + 16) for i in range(4)]

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_peak_memory(self, tmp_path: Path) -> None:
        """Beyond the arrays themselves, which are host memory here, not three times the largest of 24 tensors."""
        piece = np.random.default_rng(0).standard_normal((64, 1024), np.float32)
        enc = ac.encode(np.tile(piece, (16, 1)), "nf4")
        for name, count in (("warm", 1), ("big", 24)):
            target = Bitsandbytes.of({})
            tensors = {key: a for i in range(count) for key, a in target.arrays(f"l{i}.w.weight", enc).items()}
            safetensors.save(tensors, tmp_path / f"{name}.safetensors")
        del tensors
        rows = NamedSharding(self.meshes()[0], PartitionSpec("d"))
        ac.load(tmp_path / "warm.safetensors", framework="jax", sharding=rows)
        model, peak = peak_bytes(lambda: ac.load(tmp_path / "big.safetensors", framework="jax", sharding=rows))
        total = sum(array.nbytes for array in model.values())
        assert total == 96 * MB
        assert peak is not None
        print(f"peak {peak / MB:.1f} MB for {total / MB:.0f} MB of arrays, the largest of 4 MB")
        assert peak < total + 12 * MB


def test_jax_arrays_are_ready_to_compute_with(tmp_path: Path) -> None:
    """The product that the tutorial makes: a weight of bitsandbytes that stays packed, against the decoded one."""
    from arraycodec_jax import dequant_matmul

    folder = foreign(tmp_path / "m")
    packed, dense = (ac.load(folder, framework="jax", encoded=how)[UP] for how in (True, False))
    x = jnp.asarray(normal(2, 128, dtype="bfloat16"))
    np.testing.assert_allclose(
        np.asarray(dequant_matmul(x, packed), np.float32), np.asarray(x @ dense.T, np.float32), rtol=0.02, atol=0.1
    )
