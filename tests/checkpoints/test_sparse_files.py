"""`save_compressed`, `load_compressed`, `save_compressed_model`: what they write, what comes back, what they refuse."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.errors import ArgumentError, FormatError
from arraycodec_conformance.compare import same_bits
from tests.formats.sparse_library import FIXTURES, FORMATS
from tests.formats.sparse_support import BITMASK, SPARSE_24, same_tensors, tensors, two_four


def test_our_files_are_the_librarys(tmp_path: Path) -> None:
    """Of the whole file, but for groups of four in which more than two elements could be the largest two."""
    for format in FORMATS:
        plain = tensors(FIXTURES / f"plain.{format}.safetensors")
        ac.save_compressed(plain, tmp_path / "ours.safetensors", format)
        ours, theirs = tmp_path / "ours.safetensors", FIXTURES / f"stored.{format}.safetensors"
        if format == BITMASK:
            assert ours.read_bytes() == theirs.read_bytes()
        with ac.open_file(ours) as a, ac.open_file(theirs) as b:
            assert [(t.name, t.spec) for t in a.values()] == [(t.name, t.spec) for t in b.values()]


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for dtype in ("bfloat16", "float16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "int8", "bool"):
        for shape in ((5, 12), (3, 37), (0, 8), (4, 0), (16,), (2, 3, 4)):
            x = two_four(np.arange(1, np.prod(shape) + 1).reshape(shape) % 120).astype(
                ac.ArraySpec((1,), dtype).numpy_dtype
            )
            for format in (*FORMATS, "dense", None):
                ac.save_compressed({"a.weight": x, "b": x}, path, format)
                stored = set(tensors(path))
                compressed = format == BITMASK or (format == SPARSE_24 and len(shape) == 2 and shape[1] % 4 == 0)
                assert ("a.compressed" in stored) == compressed
                assert "b" in stored
                same_tensors(dict(ac.load_compressed(path, format)), {"a.weight": x, "b": x})


def test_only_the_sign_of_zeros_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    x = np.array([[-0.0, np.nan, 0.0, -np.inf]], np.float32)
    x.view(np.uint32)[0, 1] = 0xFFC0_1234
    for format in FORMATS:
        ac.save_compressed({"a.weight": x}, path, format)
        same_tensors(dict(ac.load_compressed(path)), {"a.weight": np.where(x == 0, np.float32(0), x)})


def test_codes_of_the_smallest_integer_are_kept(tmp_path: Path) -> None:
    """The library takes |-128| for -128, and drops it for a zero."""
    x = np.array([[-128, 0, 5, 0]], np.int8)
    ac.save_compressed({"a.weight": x}, tmp_path / "a.safetensors", SPARSE_24)
    same_tensors(dict(ac.load_compressed(tmp_path / "a.safetensors")), {"a.weight": x})


def test_matrices_that_are_not_two_four_stay_as_they_are(tmp_path: Path) -> None:
    sparse = two_four(np.ones((4, 8), np.float32))
    crowded = sparse.copy()
    crowded[3, 4] = 1  # a third element of the last group
    ac.save_compressed({"a.weight": crowded, "b.weight": sparse}, tmp_path / "a.safetensors", SPARSE_24)
    assert set(tensors(tmp_path / "a.safetensors")) == {"a.weight", "b.shape", "b.compressed", "b.bitmask"}
    same_tensors(dict(ac.load_compressed(tmp_path / "a.safetensors")), {"a.weight": crowded, "b.weight": sparse})


def test_arrays_of_any_framework(tmp_path: Path) -> None:
    import jax.numpy as jnp
    import torch

    path = tmp_path / "model.safetensors"
    mixed = {"a.weight": torch.eye(8, dtype=torch.bfloat16)[:, :5], "b.weight": jnp.eye(4), "c.weight": np.eye(3)[::-1]}
    ac.save_compressed(mixed, path, SimpleNamespace(format=BITMASK))
    want = {name: np.array(ac.api.to_numpy(value)) for name, value in mixed.items()}
    same_tensors(dict(ac.load_compressed(path)), want)
    for name, tensor in ac.load_compressed(path, ac.BitmaskConfig(), framework="torch", device="cpu"):
        assert isinstance(tensor, torch.Tensor)
        same_bits(ac.api.to_numpy(tensor), want[name], name)


def test_a_model(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "model.safetensors"
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.LayerNorm(8), torch.nn.Conv2d(2, 3, 3))
    ac.save_compressed_model(model, path, SPARSE_24)
    ac.save_compressed_model(model, path, BITMASK)
    found = dict(ac.load_compressed(path, framework="torch"))
    assert all(torch.equal(found[name], value) for name, value in model.state_dict().items())
    ac.save_compressed_model(found, path, None)
    assert set(tensors(path)) == set(found)


def test_the_seeds_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    from torch import Tensor

    from arraycodec import BitmaskConfig, load_compressed, save_compressed

    compression_config = BitmaskConfig()
    given: dict[str, Tensor] = {"tensor_1": Tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])}
    save_compressed(given, "model.safetensors", compression_format=compression_config.format)
    decompressed_tensors = {}
    for tensor_name, tensor in load_compressed("model.safetensors", compression_config=compression_config):
        decompressed_tensors[tensor_name] = tensor
    same_tensors(decompressed_tensors, {"tensor_1": given["tensor_1"].numpy()})


def test_what_cannot_be_asked(tmp_path: Path) -> None:
    path, x = tmp_path / "a.safetensors", np.eye(4)
    with pytest.raises(ArgumentError, match=r"compression_format must be one of .*, got 'bitmask'"):
        ac.save_compressed({"a": x}, path, "bitmask")
    with pytest.raises(ArgumentError, match="at least one, got none"):
        ac.save_compressed({}, path, BITMASK)
    with pytest.raises(ArgumentError, match=r"two tensors would be called 'a\.shape'"):
        ac.save_compressed({"a.weight": x, "a.shape": x}, path, BITMASK)
    with pytest.raises(ArgumentError, match=r"must have a state_dict\(\) or be a mapping, got ndarray"):
        ac.save_compressed_model(x, path)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match="there is no"):
        ac.load_compressed(path)
    ac.save_compressed({"a.weight": x}, path, BITMASK)
    with pytest.raises(FormatError, match="is stored as sparse-bitmask, but compression_config says sparse-24-bitmask"):
        next(ac.load_compressed(path, ac.Sparse24BitMaskConfig()))


def test_memory_is_that_of_one_tensor(tmp_path: Path) -> None:
    """Of those before it nothing is kept."""
    path, x = tmp_path / "model.safetensors", two_four(np.ones((512, 1024), np.float32))
    ac.save_compressed({f"{i}.weight": x for i in range(8)}, path, BITMASK)
    tracemalloc.start()
    try:
        for _, tensor in ac.load_compressed(path):
            assert tensor.nbytes == x.nbytes
            del tensor
        assert tracemalloc.get_traced_memory()[1] < 3 * x.nbytes
    finally:
        tracemalloc.stop()
