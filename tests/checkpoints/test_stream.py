"""`StreamingLoader`: which tensors make a layer, one layer ahead and no more, errors, early ends, kinds of files."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
import threading
import time
import weakref

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints.stream import numbered_layers
from arraycodec.containers.lazy import LazyTensor
from tests.checkpoints.support import normal, shards, write, write_folder
from tests.containers.support import assert_bits, weights

FRAMEWORKS = ["numpy", "torch", "jax"]


def layered(layers: int = 4) -> dict[str, np.ndarray]:
    """A model in which the file's order is not that of the layers."""
    model = {"embed.weight": normal(64, 96), "norm.weight": normal(64)}
    for i in reversed(range(layers)):
        model[f"model.layers.{i}.up.weight"] = normal(96, 64, dtype="bfloat16", seed=i)
        model[f"model.layers.{i}.norm.weight"] = normal(64, dtype="bfloat16", seed=i)
    return model


def compressed(path, model, scheme="nf4"):
    """A model with its matrices encoded."""
    ac.save_file({n: ac.encode(x, scheme) if x.ndim == 2 else x for n, x in model.items()}, path)
    return path


def differences(path, model, base):
    """A model as the difference to another one."""
    ac.save_file({n: ac.encode(x, ac.Delta(), given={"base": base[n]}) for n, x in model.items()}, path)
    return path


# -- which tensors make a layer


@pytest.mark.parametrize(
    ("names", "layers", "others"),
    [
        (["model.layers.1.a", "model.layers.0.b", "norm"], [["model.layers.0.b"], ["model.layers.1.a"]], ["norm"]),
        (["encoder.layer.10.w", "encoder.layer.9.w"], [["encoder.layer.9.w"], ["encoder.layer.10.w"]], []),
        # experts belong to their layer, also where a prefix looks like another stack
        (["h.0.e.0.w", "h.0.e.1.w", "h.1.e.0.w"], [["h.0.e.0.w", "h.0.e.1.w"], ["h.1.e.0.w"]], []),
        # a number that stands alone makes no stack, the next one may
        (["m.0.blocks.0.w", "m.0.blocks.2.w", "m.0.w"], [["m.0.blocks.0.w"], ["m.0.blocks.2.w"]], ["m.0.w"]),
        # several stacks, as they come in the file
        (["dec.1.w", "enc.0.w", "dec.0.w", "enc.1.w"], [["dec.0.w"], ["dec.1.w"], ["enc.0.w"], ["enc.1.w"]], []),
        (["double.0.w", "double.1.w", "single.0.w"], [["double.0.w"], ["double.1.w"]], ["single.0.w"]),
        # numbers are whole parts, in ASCII digits; names without a prefix count too
        (["a1.w", "a2.w", "x.v1", "x.v2", "x.²", "x.٣", "x.-1", "x.1e3"], [], None),
        (["0.weight", "2.weight", "2.bias"], [["0.weight"], ["2.weight", "2.bias"]], []),
        (["a.1", "a.2"], [["a.1"], ["a.2"]], []),
        (["a." + "9" * 5000, "a.1"], [], None),
        (["", ".", "..", "a..b"], [], None),
        ([], [], []),
    ],
)
def test_the_rule(tmp_path, names, layers, others):
    ac.save_file({}, tmp_path / "m.safetensors")
    path = write(tmp_path / "m.safetensors", {name: np.zeros(2, np.float32) for name in names})
    with ac.StreamingLoader(path) as model:
        assert [list(layer) for layer in model.layers] == layers
        assert list(model.non_layer) == (names if others is None else others)
        assert list(model.load_non_layer_tensors()) == list(model.non_layer)
        assert [(i, list(layer)) for i, layer in model.iter_layers()] == list(enumerate(layers))


def test_a_rule_of_ones_own(tmp_path):
    names = ["block_a.w", "block_b.w", "stem.w", "0.w", "1.w"]
    path = write(tmp_path / "m.safetensors", {name: np.zeros(2, np.float32) for name in names})
    rule = {"block_a.w": ("blocks", 7), "block_b.w": ("blocks", 3)}.get
    with ac.StreamingLoader(path, layer_of=rule) as model:
        assert model.layers == (("block_b.w",), ("block_a.w",)) and model.non_layer == ("stem.w", "0.w", "1.w")
    with pytest.raises(ZeroDivisionError):
        ac.StreamingLoader(path, layer_of=lambda name: 1 // 0)
    assert numbered_layers(names)("1.w") == ("", 1)


# -- what is given


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_kind_of_file(tmp_path, framework):
    if framework != "numpy":
        pytest.importorskip(framework)
    model = layered()
    parts = {file: {n: x for n, x in part.items() if x.dtype != np.int64} for file, part in shards().items()}
    before = {name: x + x.dtype.type(0.01) for name, x in model.items()}
    paths = {
        compressed(tmp_path / "c.safetensors", model): None,
        compressed(tmp_path / "l.safetensors", model, "lossless"): None,
        write(tmp_path / "p.safetensors", model): None,
        write_folder(tmp_path / "folder", parts): None,
        differences(tmp_path / "d.safetensors", model, before): write(tmp_path / "b.safetensors", before),
    }
    for path, base in paths.items():
        want, found, device = ac.load_file(path, base=base), {}, None if framework == "numpy" else "cpu"
        if path.name[0] in "lpd":
            assert all(want[name].tobytes() == x.tobytes() for name, x in model.items())
        with ac.StreamingLoader(path, device, framework, base=base) as loader:
            for i, layer in loader.iter_layers():
                assert set(layer) == set(loader.layers[i]) and not set(layer) & set(found)
                found |= layer
            assert i == len(loader.layers) - 1 > 0
            found |= loader.load_non_layer_tensors()
        assert set(found) == set(want)
        for name, value in found.items():
            assert type(value).__module__.partition(".")[0].startswith(framework)
            assert_bits(ac.api.to_numpy(value), want[name])


def test_a_layer_that_is_tied_to_another(tmp_path):
    x, path = weights(32, 64), tmp_path / "m.safetensors"
    tied = ac.encode(x, ac.Tied("h.0.w"), given={"base": x})
    ac.save_file({"h.0.w": x, "h.1.w": tied}, path)
    with ac.StreamingLoader(path) as loader:
        for _, layer in loader.iter_layers():
            assert_bits(*layer.values(), x)


# -- one layer ahead


class Watched:
    """Counts the decoded arrays that are alive, by layer, whoever holds them."""

    def __init__(self, monkeypatch):
        self.alive: dict[int, str] = {}
        self.most, self.started, original = 0, [], LazyTensor.decode
        self.threads = set()

        def decode(tensor, *args, **kwargs):
            self.started.append(tensor.name)
            self.threads.add(threading.current_thread())
            value = original(tensor, *args, **kwargs)
            self.alive[id(value)] = tensor.name
            weakref.finalize(value, self.alive.pop, id(value))
            self.most = max(self.most, len(self.layers))
            return value

        monkeypatch.setattr(LazyTensor, "decode", decode)

    @property
    def layers(self):
        return {name.split(".")[2] for name in self.alive.values() if name.startswith("model.layers.")}


def wait_for(condition):
    """Wait until something is so that another thread brings about."""
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came about")


def test_one_layer_ahead_and_no_more(tmp_path, monkeypatch):
    path, watched = write(tmp_path / "m.safetensors", layered(8)), Watched(monkeypatch)
    with ac.StreamingLoader(path) as loader:
        assert not watched.started
        for i, _layer in loader.iter_layers():
            ahead = loader.layers[min(i + 1, 7)][-1]
            wait_for(lambda ahead=ahead: ahead in watched.started)  # without being asked for
            time.sleep(0.01)
            assert watched.started[-1] == ahead and len(watched.started) == 2 * min(i + 2, 8)
        del _layer
        wait_for(lambda: not watched.alive)
    assert watched.most == 2
    assert threading.current_thread() not in watched.threads and len(watched.threads) == 1


def test_early_ends(tmp_path):
    path, before = write(tmp_path / "m.safetensors", layered()), threading.active_count()
    loader = ac.StreamingLoader(path)
    _, layer = next(loader.iter_layers())
    assert len(list(loader.iter_layers())) == 4  # again, from the start
    with pytest.raises(KeyError), loader:
        for _ in loader.iter_layers():
            raise KeyError
    assert threading.active_count() == before
    for use in (loader.load_non_layer_tensors, loader.iter_layers().__next__):
        with pytest.raises(ac.ArgumentError, match="closed"):
            use()
    assert_bits(layer["model.layers.0.up.weight"], normal(96, 64, dtype="bfloat16", seed=0))  # loaded tensors stay
    loader = ac.StreamingLoader(path)
    running = loader.iter_layers()
    next(running)
    loader.close()
    with pytest.raises(ac.ArgumentError, match="closed"):
        next(running)
    loader = ac.StreamingLoader(path)
    next(loader.iter_layers())
    del loader, running
    gc.collect()
    wait_for(lambda: threading.active_count() == before)  # a loader that nobody closed


def test_errors_are_the_consumers(tmp_path):
    path = compressed(tmp_path / "m.safetensors", layered())
    with ac.open_file(path) as file:
        tensor = file["model.layers.2.up.weight"]
        at = tensor._start + tensor.nbytes - 100
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)
    seen = []
    with ac.StreamingLoader(path) as loader:
        with pytest.raises(ac.CorruptError, match=r"model\.layers\.2\.up\.weight"):
            for i, _ in loader.iter_layers():
                seen.append(i)
        assert seen == [0, 1]
        assert set(loader.load_non_layer_tensors()) == {"embed.weight", "norm.weight"}
    with ac.StreamingLoader(path, verify=False) as loader:
        assert len(list(loader.iter_layers())) == 4
    with pytest.raises(FileNotFoundError):
        ac.StreamingLoader(tmp_path / "none.safetensors")
    with ac.StreamingLoader(path, "cuda") as loader, pytest.raises(ac.ArgumentError, match="numpy: device"):
        loader.load_non_layer_tensors()
    with ac.StreamingLoader(path, max_bytes=100) as loader, pytest.raises(ac.LimitError):
        loader.load_non_layer_tensors()


# -- memory


@pytest.mark.level("full")
def test_peak_memory_is_two_layers(tmp_path):
    """24 layers of 16 MiB: the peak above an idle process is what is loaded for good, two layers and 64 MiB."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    layer = {"up": (2048, 2048), "down": (2048, 2048)}
    model = {"embed.weight": weights(4096, 1024, dtype="bfloat16")}
    for i in range(24):
        model |= {f"layers.{i}.{n}.weight": weights(*s, dtype="bfloat16", seed=i) for n, s in layer.items()}
    path = compressed(tmp_path / "m.safetensors", model)
    used = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], check=True, capture_output=True, text=True
    ).stdout  # fmt: skip
    assert int(used) <= model["embed.weight"].nbytes + 2 * (16 << 20) + (64 << 20)


PEAK = textwrap.dedent("""
    import sys
    from pathlib import Path
    import numpy as np, arraycodec as ac

    def peak():
        return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])

    ac.decode(ac.encode(np.ones((2048, 1024), ac.ArraySpec((), "bfloat16").numpy_dtype), "nf4"))  # compiles
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    with ac.StreamingLoader(sys.argv[1]) as model:
        kept = model.load_non_layer_tensors()
        for i, layer in model.iter_layers():
            pass
    assert i == 23
    print(peak() - before)
""")


def test_layers_of_another_format(tmp_path):
    """Weights, and not the tensors that they are stored as."""
    names = [f"model.layers.{i}.q_proj.weight" for i in range(2)]
    (tmp_path / "src").mkdir()
    ac.save_file({name: np.ones((8, 128), np.float32) for name in names}, tmp_path / "src" / "model.safetensors")
    ac.convert(tmp_path / "src", tmp_path / "w4", "compressed-tensors", scheme="W4A16")
    with ac.StreamingLoader(tmp_path / "w4") as model:
        layers = [layer for _, layer in model.iter_layers()]
    assert [list(layer) for layer in layers] == [[name] for name in names]
    assert layers[1][names[1]].shape == (8, 128)
