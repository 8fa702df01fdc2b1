"""Loading into a framework: decoded once into the memory that the tensor keeps; on the host where a device cannot."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import registry
from arraycodec.primitives import memory, threads
from tests.checkpoints.support import xored  # noqa: F401  # a fixture
from tests.containers.support import assert_bits, weights


@pytest.fixture
def path(tmp_path):
    x = weights(1024, 1024)
    tensors = {"plain": x, "nf4": ac.encode(x, "nf4"), "lossless": ac.encode(x, "lossless")}
    tensors["tied"] = ac.encode(x, ac.Tied("plain"), given={"base": x})
    ac.save_file(tensors, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def address(array):
    """Where an array of any framework lies."""
    if isinstance(array, np.ndarray):
        return array.ctypes.data
    return array.data_ptr() if hasattr(array, "data_ptr") else array.unsafe_buffer_pointer()


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_no_array_is_copied_on_the_cpu(path, framework, monkeypatch):
    """Every array lies where it was read or decoded to; all that is taken besides are the planes of one tensor."""
    if framework != "numpy":
        pytest.importorskip(framework)
    ac.load_file(path, framework=framework)  # compiles
    made, original = set(), memory.empty

    def empty(spec):
        made.add((found := original(spec)).ctypes.data)
        return found

    for module in ("containers.bytefile.memory", "codecs.codebook", "codecs.lossless"):
        monkeypatch.setattr(f"arraycodec.{module}.empty", empty)
    with threads.limited(1):
        tracemalloc.start()
        found = ac.load_file(path, framework=framework, device=None if framework == "numpy" else "cpu")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert {address(array) for array in found.values()} <= made
    with ac.open_file(path) as file:
        planes = max(tensor.nbytes for tensor in file.values() if tensor.codec)
        assert peak <= sum(tensor.spec.nbytes for tensor in file.values()) + planes + (2 << 20)


def test_a_codec_without_a_decoder_for_the_device(tmp_path, monkeypatch, xored):  # noqa: F811
    """Decoded on the host and placed once; what the caller has put on the device is never moved."""
    torch = pytest.importorskip("torch")
    from arraycodec_torch import implementations

    x, path = weights(16, 64), tmp_path / "m.safetensors"
    ac.save_file({"x": ac.encode(x, xored), "y": ac.encode(x, "nf4")}, path)
    monkeypatch.setattr(implementations, "choose", lambda x: "torch")  # plain torch ops, as on a device without Triton
    placed, module = [], registry.framework("torch")
    original = module.from_numpy
    monkeypatch.setattr(module, "from_numpy", lambda x, device=None: placed.append(x.shape) or original(x, device))
    found = ac.load_file(path, framework="torch")
    assert_bits(found["x"].numpy(), x)
    assert placed.count((16, 64)) == 1  # y is decoded from its planes, where they are
    with ac.open_file(path, framework="torch") as file:
        for use in (lambda: ac.decode(file["x"].encoded()), lambda: file["x"].decode(torch.empty(16, 64))):
            with pytest.raises(ac.UnsupportedByBackend, match="xored"):
                use()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_threads_load_the_same(path, count):
    want = ac.load_file(path)
    with threads.limited(count):
        found = ac.load_file(path)
        assert list(found) == list(want) and all(found[n].tobytes() == want[n].tobytes() for n in want)
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    with threads.limited(count), pytest.raises(ac.CorruptError, match="'plain'"):
        ac.load_file(path)
