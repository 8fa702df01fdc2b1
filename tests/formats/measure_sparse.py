"""A whole pruned model in files of sparse weights: sizes, peak memory, equal bits, and speed beside the library's.

    PYTHONPATH=<folder of compressed-tensors 0.14>:. python tests/formats/measure_sparse.py MODEL.safetensors

Matrices called `*.weight` lose half of their elements, those of smallest magnitude in the whole matrix, or two of each
four. Speeds are GB/s of these matrices dense, the best of several calls in turns in one process.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import arraycodec as ac
from arraycodec.checkpoints.peak import peak_bytes
from arraycodec.primitives.memory import bits

ROUNDS = 7
FORMATS = ("sparse-bitmask", "sparse-24-bitmask")
Tensors = dict[str, np.ndarray[Any, Any]]


def pruned(x: np.ndarray[Any, Any], format: str) -> np.ndarray[Any, Any]:
    """A matrix without half of its elements; what is left out is +0."""
    if format == FORMATS[1]:
        return ac.decode(ac.encode(x, ac.TwoFour(prune=True)))
    magnitude = bits(x) & bits(x).dtype.type((1 << 8 * x.itemsize - 1) - 1)
    kept = np.zeros(x.size, bool)
    kept[np.argpartition(magnitude, x.size // 2)[x.size // 2 :]] = True
    return np.where(kept.reshape(x.shape), x, x.dtype.type(0))


def is_matrix(name: str, x: np.ndarray[Any, Any]) -> bool:
    return name.endswith(".weight") and x.ndim == 2 and x.shape[1] % 4 == 0


def best(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Seconds of the fastest of several calls each, taken in turns."""
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            found[name] = min(found[name], time.perf_counter() - start)
    return found


def memory(what: str, dense: str, path: str, format: str) -> None:
    """In a process of its own: what a save of arrays at hand, or a load, takes at its peak beyond them."""
    small = np.eye(8, dtype=np.float32)
    ac.save_compressed({"w.weight": small}, f"{path}.warm", format)  # compiled kernels are no part of it
    for _ in ac.load_compressed(f"{path}.warm"):
        pass
    given = dict(ac.load_compressed(dense)) if what == "save" else {}

    def run() -> None:
        if what == "save":
            ac.save_compressed(given, path, format)
        else:
            for _ in ac.load_compressed(path, format):
                pass

    print(json.dumps(peak_bytes(run)[1]))


def main(source: Path) -> None:
    import torch

    print(f"compressed-tensors {version('compressed-tensors')}, torch {torch.__version__}, {source.name}")
    model = {name: np.array(array) for name, array in ac.load_file(source).items()}
    for format in FORMATS:
        tensors = {name: pruned(x, format) if is_matrix(name, x) else x for name, x in model.items()}
        with tempfile.TemporaryDirectory() as folder:
            whole(tensors, folder, format)
            speeds({name: x for name, x in tensors.items() if is_matrix(name, x)}, folder, format)


def whole(tensors: Tensors, folder: str, format: str) -> None:
    """Size, bits and memory of the whole model."""
    dense, path = f"{folder}/dense.safetensors", f"{folder}/model.safetensors"
    largest = max(map(nbytes, tensors.values()))
    ac.save_compressed(tensors, dense, "dense")
    ac.save_compressed(tensors, path, format)
    found = dict(ac.load_compressed(path, format))
    assert set(found) == set(tensors)
    assert all(np.array_equal(bits(found[name]), bits(x)) for name, x in tensors.items())
    a, b = Path(path).stat().st_size, Path(dense).stat().st_size
    print(
        f"{format}: {len(tensors)} tensors, {a} of {b} bytes ({a / b:.4f}), equal bits; largest {largest / 1e6:.1f} MB"
    )
    for what in ("save", "load"):
        command = [sys.executable, __file__, what, dense, path, format]
        peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"  {what}: {peak / 1e6:.1f} MB at the peak beyond what was there, {peak / largest:.2f} x the largest")


def speeds(matrices: Tensors, folder: str, format: str) -> None:
    """Both libraries on the matrices, in memory and in files."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.config import SparsityCompressionConfig

    from arraycodec_conformance.oracles import to_torch

    states, size = {name: to_torch(x) for name, x in matrices.items()}, sum(map(nbytes, matrices.values()))
    config: Any = SparsityCompressionConfig.load_from_registry(format)
    theirs: Any = BaseCompressor.load_from_registry(format, config=config)
    ours = ac.Bitmask(drop_negative_zero=True) if format == FORMATS[0] else ac.TwoFour(drop_negative_zero=True)
    stored, encoded = theirs.compress(states), [ac.encode(x, ours) for x in matrices.values()]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        ac.set_num_threads(threads)
        times = best({
            "theirs compress": lambda: theirs.compress(states),
            "ours compress": lambda: [ac.encode(x, ours) for x in matrices.values()],
            "theirs decompress": lambda: list(theirs.decompress_from_state_dict(stored)),
            "ours decompress": lambda: [ac.decode(enc) for enc in encoded],
            "theirs save": lambda: save_theirs(theirs, states, f"{folder}/theirs.safetensors"),
            "ours save": lambda: ac.save_compressed(matrices, f"{folder}/ours.safetensors", format),
            "theirs load": lambda: list(theirs.decompress(f"{folder}/theirs.safetensors")),
            "ours load": lambda: list(ac.load_compressed(f"{folder}/ours.safetensors")),
        })  # fmt: skip
        for what in ("compress", "decompress", "save", "load"):
            mine, other = times[f"ours {what}"], times[f"theirs {what}"]
            figures = f"{size / mine / 1e9:.2f} GB/s, library {size / other / 1e9:.3f}, {other / mine:.1f} x"
            print(f"  {threads} thread(s), {what}: {figures}")


def nbytes(x: np.ndarray[Any, Any]) -> int:
    return x.nbytes


def save_theirs(compressor: Any, states: Any, path: str) -> None:
    from safetensors.torch import save_file

    save_file(compressor.compress(states), path)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(Path(sys.argv[1]))
    else:
        memory(*sys.argv[1:])
