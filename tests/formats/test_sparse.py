"""Sparse weights of compressed-tensors until 0.14 and marlin-24: its own files, ours, stacked on codes, converted."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import safetensors
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats import marlin, sparse
from arraycodec.formats.translated import Translated
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import Recipe
from tests.formats import sparse_library as library
from tests.formats.sparse_library import CHECKPOINTS, FIXTURES, FORMATS, MODULE
from tests.formats.sparse_support import BITMASK, SPARSE_24, Tensors, opened, same_tensors, tensors, two_four

# -- files of the library


@pytest.mark.parametrize("format", FORMATS)
def test_files_of_the_library_decode_to_its_bits(format: str) -> None:
    path = FIXTURES / f"stored.{format}.safetensors"
    with ac.open_checkpoint(path) as model:
        same_tensors({name: tensor.decode() for name, tensor in model.items()},
                     tensors(FIXTURES / f"decoded.stored.{format}.safetensors"))  # fmt: skip
        for name, tensor in model.items():
            if isinstance(tensor, Translated):
                assert tensor.codec == (ac.Bitmask() if format == BITMASK else ac.TwoFour())
                same_bits(tensor[1:2], tensor.decode()[1:2], name)
                tensor.verify()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_sparse_codes_decode_as_the_library_has_them(name: str) -> None:
    folder = FIXTURES / name
    with ac.open_checkpoint(folder) as model:
        assert set(model) == {f"{MODULE}.weight", "model.norm.weight"}
        check_expected(folder, model)


def check_expected(folder: Path, model: Any) -> None:
    for name, (dtype, shape, digest) in json.loads((folder / "expected.json").read_text()).items():
        weight = model[name]
        assert (weight.dtype, list(weight.shape)) == (dtype, shape)
        assert hashlib.sha256(weight.decode().tobytes()).hexdigest() == digest, f"{folder}: {name}"
        weight.verify()


def test_sparse_codes_stay_sparse() -> None:
    """Codes of a byte each keep their bitmask; narrower ones are packed, as their codec has them."""

    def codec(name: str) -> ac.Codec | None:
        with ac.open_checkpoint(FIXTURES / name) as model:
            return model[f"{MODULE}.weight"].codec

    linear: dict[str, Any] = {"flavour": "compressed-tensors", "arithmetic": "eager"}
    assert codec("fp8_24") == ac.Then(
        ac.Minifloat("float8_e4m3fn", (1, None), flavour="compressed-tensors", arithmetic="eager"), codes=ac.TwoFour()
    )
    assert codec("int8_bitmask") == ac.Then(ac.Linear(8, True, (1, 128), **linear), codes=ac.Bitmask())
    assert codec("int4_bitmask") == ac.Linear(4, True, (1, None), **linear)
    assert codec("marlin_4") == ac.Then(ac.TwoFour(), values=ac.Linear(4, True, (1, 64), **linear))
    assert codec("marlin_8") == ac.Then(ac.TwoFour(), values=ac.Linear(8, True, (1, None), **linear))


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_other_frameworks_decode_the_same(framework: str) -> None:
    for name in ("fp8_24", "int8_bitmask", "marlin_4"):
        with (
            ac.open_checkpoint(FIXTURES / name) as model,
            ac.open_checkpoint(FIXTURES / name, framework=framework) as there,
        ):
            found = ac.api.to_numpy(there[f"{MODULE}.weight"].decode())
            same_bits(found, model[f"{MODULE}.weight"].decode(), name)


def test_parts_in_several_files(tmp_path: Path) -> None:
    x = two_four(np.arange(64, dtype=np.float32).reshape(4, 16))
    ac.save_compressed({"a.weight": x, "b": x}, tmp_path / "whole.safetensors", BITMASK)
    shards = {"a.shape": 0, "a.bitmask": 0, "a.row_offsets": 1, "a.compressed": 1, "b": 1}
    names = [f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    stored = tensors(tmp_path / "whole.safetensors")
    (tmp_path / "whole.safetensors").unlink()
    for i, name in enumerate(names):
        safetensors.save({key: stored[key] for key, at in shards.items() if at == i}, tmp_path / name)
    index = {"metadata": {}, "weight_map": {key: names[at] for key, at in shards.items()}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    same_tensors(dict(ac.load_compressed(tmp_path)), {"a.weight": x, "b": x})


# -- what cannot be


def bitmask_parts() -> Tensors:
    x = np.array([[0, 1.5, 0, 2], [0, 0, -3, 0]], np.float32)
    codec = ac.Bitmask()
    return {f"m.{role}": part for role, part in sparse.arrays(ac.encode(x, codec)).items()}


def two_four_parts() -> Tensors:
    x = two_four(np.arange(1, 17, dtype=np.float32).reshape(2, 8))
    return {f"m.{role}": part for role, part in sparse.arrays(ac.encode(x, "sparse24")).items()}


BAD: dict[str, tuple[Tensors, str]] = {
    "compressed missing": ({"compressed": None}, "compressed is missing"),  # type: ignore[dict-item]
    "shape missing": ({"shape": None}, "shape is missing"),  # type: ignore[dict-item]
    "more rows": ({"shape": np.array([3, 4])}, r"'m.bitmask': must be uint8\[3,1\], got uint8\[2,1\]"),
    "other columns": ({"shape": np.array([2, 9])}, r"must be uint8\[2,2\], got uint8\[2,1\]"),
    "negative": ({"shape": np.array([2, -4])}, "shape: an axis must be"),
    "huge": ({"shape": np.array([2**40, 2**40])}, "shape must not multiply to more"),
    "float shape": ({"shape": np.array([2.0, 4.0])}, r"must be int64\[axes\]"),
    "no axes": ({"shape": np.zeros(0, np.int64)}, "must be of 1 to"),
    "few values": ({"compressed": np.ones(2, np.float32)}, "values must be as many as bits of the mask"),
    "values in rows": ({"compressed": np.ones((3, 1), np.float32)}, "must have one axis"),
    "offsets": ({"row_offsets": np.array([0, 1])}, "must count the bits of bitmask, which are 2 before row 1, got 1"),
    "wrapped offset": ({"row_offsets": np.array([0, 2 + 2**32])}, "got 4294967298"),
    "offsets of another dtype": ({"row_offsets": np.array([0, 2], np.int32)}, r"must be int64\[2\], got int32\[2\]"),
    "bits after the end": ({"bitmask": np.array([[0x4A], [4]], np.uint8), "compressed": np.ones(4, np.float32),
                            "row_offsets": np.array([0, 3])}, "bits? .*after"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_corrupt_bitmasks(case: str, tmp_path: Path) -> None:
    change, told = BAD[case]
    parts = bitmask_parts() | {f"m.{role}": part for role, part in change.items()}
    with pytest.raises(FormatError, match=told) as caught:
        opened(tmp_path, {name: part for name, part in parts.items() if part is not None})
    assert str(tmp_path) in str(caught.value)


def test_corrupt_two_four(tmp_path: Path) -> None:
    same_bits(
        opened(tmp_path, two_four_parts()), two_four(np.arange(1, 17, dtype=np.float32).reshape(2, 8)), "as it is"
    )
    for change, told in (
        ({"m.compressed": np.ones((2, 3), np.float32)}, r"must be float32\[2,4\]"),
        ({"m.bitmask": np.array([[0x1A], [0xAA]], np.uint8)}, "bitmask must have 2 bits in each group"),
        ({"m.shape": np.array([[2], [7]])}, "groups of four"),
        ({"m.shape": np.array([[2], [2], [4]])}, "m.bitmask"),
    ):
        with pytest.raises(CorruptError, match=told):
            opened(tmp_path, two_four_parts() | change)


def test_groups_that_go_on_in_the_next_row(tmp_path: Path) -> None:
    """As the library stores matrices whose rows are not whole groups: two rows of six elements are three groups."""
    x = np.array([[1, 0, 2, 0, 0, 0], [3, 4, 0, 5, 0, 6]], np.float32)
    mask = np.packbits(x != 0, axis=-1, bitorder="little")
    parts = {"m.shape": np.array([[2], [6]]), "m.compressed": x[x != 0].reshape(2, 3), "m.bitmask": mask}
    same_bits(opened(tmp_path, parts), x, "")


def test_what_the_config_says_must_be_so(tmp_path: Path) -> None:
    two, mask = {"sparsity_config": {"format": SPARSE_24}}, {"sparsity_config": {"format": BITMASK}}
    opened(tmp_path, two_four_parts(), two)
    opened(tmp_path, bitmask_parts(), mask)
    opened(tmp_path, bitmask_parts(), {"sparsity_config": {"format": "dense"}})
    with pytest.raises(CorruptError, match="row_offsets has no meaning in the format sparse-24-bitmask"):
        opened(tmp_path, bitmask_parts(), two)
    with pytest.raises(CorruptError, match="row_offsets is missing, which sparse-bitmask has"):
        opened(tmp_path, two_four_parts(), mask)
    with pytest.raises(FormatError, match=r"sparsity_config: format must be one of sparse-bitmask, .*got 'sparse-48'"):
        opened(tmp_path, two_four_parts(), {"sparsity_config": {"format": "sparse-48"}})
    with pytest.raises(FormatError, match="sparse-24-bitmask must be the format of sparsity_config"):
        opened(tmp_path, two_four_parts(), {"format": SPARSE_24})
    with pytest.raises(CorruptError, match=r"'m\.weight': stands beside the parts of the same weight"):
        opened(tmp_path, bitmask_parts() | {"m.weight": np.ones((2, 4), np.float32)})
    with pytest.raises(FormatError, match=r"is stored as codes, but in .* no group targets it"):
        codes = bitmask_parts() | {"m.compressed": np.ones(3, np.int8), "m.weight_scale": np.ones((2, 1), np.float32)}
        opened(tmp_path, codes)


def test_lone_names_are_no_parts(tmp_path: Path) -> None:
    x = {"m.shape": np.ones(2), "n.compressed": np.ones(2), "compressed": np.ones(3), "shape": np.ones(1)}
    safetensors.save(x, tmp_path / "model.safetensors")
    same_tensors(dict(ac.load_compressed(tmp_path / "model.safetensors")), x)


# -- converted


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_conversion_keeps_every_bit(name: str, tmp_path: Path) -> None:
    """Codes and scales of what compressed-tensors still has are taken over, those of marlin-24 in other places."""
    with ac.open_checkpoint(FIXTURES / name) as model:
        want = {key: tensor.decode() for key, tensor in model.items()}
    for to in ("dense", "compressed-tensors", "arraycodec"):
        done = ac.convert(FIXTURES / name, tmp_path / to, to)
        assert {row.how for row in done.rows} == {"copied", "decoded" if to == "dense" else "kept"}
        with ac.open_checkpoint(tmp_path / to) as model:
            same_tensors({key: tensor.decode() for key, tensor in model.items()}, want)
    with ac.open_file(tmp_path / "compressed-tensors/model.safetensors") as file:
        assert not {key.rpartition(".")[2] for key in file} & {*sparse.ROLES, *marlin.ROLES}
    said = json.loads((tmp_path / "compressed-tensors/config.json").read_text())["quantization_config"]
    assert said["sparsity_config"] == {}
    assert said["format"] == (
        "naive-quantized" if name == "fp8_24" else "pack-quantized"
    )  # as 0.20 stores weights alone


@pytest.mark.parametrize("format", FORMATS)
def test_conversion_of_sparse_weights(format: str, tmp_path: Path) -> None:
    """They become what the same weights do that are stored dense; in a container of ours they keep their bitmask."""
    x = two_four(np.random.default_rng(0).normal(0, 1, (64, 256)).astype(ml_dtypes.bfloat16))
    for name, stored in (("plain", None), ("sparse", format)):
        (tmp_path / name).mkdir()
        ac.save_compressed({"m.weight": x, "norm": np.ones(3)}, tmp_path / name / "model.safetensors", stored)
        said = {"quant_method": "compressed-tensors", "sparsity_config": {"format": format}, "version": "0.14.0.1"}
        about: dict[str, Any] = {"torch_dtype": "bfloat16"} | ({"quantization_config": said} if stored else {})
        (tmp_path / name / "config.json").write_text(json.dumps(about))
        ac.convert(tmp_path / name, tmp_path / f"{name}-ct", "compressed-tensors")
        ac.convert(tmp_path / name, tmp_path / f"{name}-dense", "dense")
    for to, files in (("ct", ("model.safetensors", "config.json")), ("dense", ("model.safetensors",))):
        for file in files:
            assert (tmp_path / f"sparse-{to}" / file).read_bytes() == (tmp_path / f"plain-{to}" / file).read_bytes()
    assert "quantization_config" not in json.loads((tmp_path / "sparse-dense/config.json").read_text())
    ac.convert(tmp_path / "sparse", tmp_path / "ours", "arraycodec")
    with ac.open_checkpoint(tmp_path / "ours") as model:
        assert model["m.weight"].codec == (ac.Bitmask() if format == BITMASK else ac.TwoFour())
        same_bits(model["m.weight"].decode(), x, format)


# -- the library itself


@pytest.fixture(scope="module")
def peer() -> None:
    if not os.environ.get(library.VARIABLE):
        pytest.skip(f"{library.VARIABLE} names no folder with compressed-tensors 0.14")


@pytest.mark.level("full")
@pytest.mark.usefixtures("peer")
def test_files_both_ways_with_the_library(tmp_path: Path) -> None:
    """All dtypes, shapes and distributions: its files read by us, ours by it, and values, bitmask, offsets equal."""
    for format in FORMATS:
        given: Tensors = {}
        for dtype in ("bfloat16", "float16", "float32", "float8_e4m3fn", "int8"):
            shapes = (
                [(16, 64), (7, 37), (3, 2, 5), (9,), (33, 4100)]
                if format == BITMASK
                else [(16, 64), (6, 36), (2, 8200)]
            )
            for shape in shapes:
                for distribution in ("normal", "bits", "sparse", "constant"):
                    x = np.asarray(Recipe(shape, dtype, distribution, 0, 1).array())
                    x = (
                        two_four(x)
                        if format == SPARSE_24
                        else np.where(
                            np.arange(x.size).reshape(shape) % 7 % 3, x, x.dtype.type(-0.0) if x.dtype != np.int8 else 0
                        )
                    )
                    x = x.astype(ac.ArraySpec((1,), dtype).numpy_dtype)
                    given[f"{dtype}.{'x'.join(map(str, shape))}.{distribution}.weight"] = x
        given |= {"zeros.weight": np.zeros((8, 8), np.float32), "step": np.ones(3, np.int64)}
        safetensors.save(given, tmp_path / f"plain.{format}.safetensors")
        ac.save_compressed(given, tmp_path / f"ours.{format}.safetensors", format)
    (tmp_path / "checkpoints.json").write_text("{}")
    library.peer(tmp_path)
    for format in FORMATS:
        with ac.open_checkpoint(tmp_path / f"stored.{format}.safetensors") as model:
            for tensor in model.values():
                tensor.verify()
            found = {name: tensor.decode() for name, tensor in model.items()}
        same_tensors(found, tensors(tmp_path / f"decoded.stored.{format}.safetensors"))
        ours = dict(ac.load_compressed(tmp_path / f"ours.{format}.safetensors", format))
        same_tensors(ours, tensors(tmp_path / f"decoded.ours.{format}.safetensors"))
        if format == BITMASK:
            assert (tmp_path / f"ours.{format}.safetensors").read_bytes() == (
                tmp_path / f"stored.{format}.safetensors"
            ).read_bytes()
            same_tensors(ours, found)


@pytest.mark.level("full")
@pytest.mark.usefixtures("peer")
def test_checkpoints_of_the_library(tmp_path: Path) -> None:
    made: dict[str, tuple[Any, ...]] = {}
    for bits in (4, 8):
        for strategy, shape in (
            ("group", (64, 128)), ("group", (128, 256)), ("group", (192, 512)), ("group", (64, 1280)),
            ("channel", (64, 32)), ("channel", (128, 96)), ("channel", (192, 256)),
        ):  # fmt: skip
            name = f"marlin-{bits}-{strategy}-{shape[0]}-{shape[1]}"
            made[name] = (bits, "int", strategy, "marlin-24", None, shape, "float16", bits)
    for format in FORMATS:
        for dtype in ("bfloat16", "float16", "float32"):
            for strategy in ("channel", "group"):
                for kind in ("int", "float"):
                    name = f"{format}-{dtype}-{strategy}-{kind}"
                    stored = f"{kind}-quantized"
                    made[name] = (8, kind, strategy, stored, format, (24, 256), dtype, 3)
    (tmp_path / "checkpoints.json").write_text(json.dumps(made))
    library.peer(tmp_path)
    for name in made:
        with ac.open_checkpoint(tmp_path / name) as model:
            check_expected(tmp_path / name, model)
