"""What the tests of checkpoints share: small checkpoints of every kind, a lossless codec to test with, peak memory."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest

from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.spec import DTYPES, ArraySpec, spec_of


def normal(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Normal numbers of any dtype that NumPy and ml_dtypes know."""
    values = np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)
    return values.astype(ArraySpec((), dtype).numpy_dtype)


def model() -> dict[str, np.ndarray]:
    """A little of everything that a model's file holds."""
    return {
        "embed.weight": normal(64, 96, seed=1),
        "layers.0.up.weight": normal(96, 64, dtype="bfloat16", seed=2),
        "layers.1.up.weight": normal(96, 64, dtype="bfloat16", seed=3),
        "layers.0.odd.weight": normal(47, 53, dtype="float16", seed=4),
        "layers.0.conv.weight": normal(16, 8, 3, 3, seed=5),
        "layers.0.norm.weight": normal(64, dtype="bfloat16", seed=6),
        "tiny.weight": normal(8, 8, seed=7),
        "position_ids": np.arange(2048, dtype=np.int64).reshape(1, -1),
        "mask": np.tri(64, dtype=bool),
        "scale": np.array(1.5, np.float32),
        "none": np.zeros((0, 64), np.float32),
        "quantised": normal(64, 96, seed=8).astype(ml_dtypes.float8_e4m3fn),
    }


Raw = tuple[str, str, list[int], bytes]  # name, safetensors dtype, shape, data


def write_raw(path: Path, tensors: Iterable[Raw], metadata: dict | None = None, spaces: int = 3) -> Path:
    """A safetensors file with a header nobody else would write: this order, metadata last, odd padding, spaces."""
    header, data = {}, b""
    for name, dtype, shape, raw in tensors:
        header[name] = {"shape": shape, "data_offsets": [len(data), len(data) + len(raw)], "dtype": dtype}
        data += raw
    if metadata is not None:
        header["__metadata__"] = metadata
    text = json.dumps(header, indent=1).encode() + b" " * spaces
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict | None = None) -> Path:
    """A plain safetensors file of these arrays, in this order."""
    metadata = {"format": "pt"} if metadata is None else metadata
    raw = ((n, DTYPES[spec_of(x).dtype].safetensors, list(x.shape), x.tobytes()) for n, x in tensors.items())
    return write_raw(path, raw, metadata)


def write_folder(folder: Path, parts: dict[str, dict[str, np.ndarray]]) -> Path:
    """A folder as the Hub has it: shards, index, configuration, tokenizer."""
    for file, tensors in parts.items():
        write(folder / file, tensors)
    weight_map = {name: file for file, tensors in parts.items() for name in tensors}
    index = {"metadata": {"total_size": 12345}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    (folder / "config.json").write_text('{"model_type": "tiny"}')
    (folder / "tokenizer.json").write_bytes(bytes(range(256)) * 50)
    return folder


def shards() -> dict[str, dict[str, np.ndarray]]:
    """The tensors of `model()` in two shards."""
    items = list(model().items())
    return {
        "model-00001-of-00002.safetensors": dict(items[:5]),
        "model-00002-of-00002.safetensors": dict(items[5:]),
    }


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, with its bytes."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@dataclass(frozen=True)
class Xored(Codec):
    """A lossless codec for tests: every byte inverted."""

    name: ClassVar[str] = "xored"
    lossless: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = tuple(name for name, row in DTYPES.items() if row.bits >= 8)

    def planes(self, spec):
        return {"bytes": ArraySpec((spec.nbytes,), "uint8")}

    def encode(self, x, given=None):
        return {"bytes": ~np.frombuffer(x.tobytes(), np.uint8)}

    def decode(self, planes, spec, given=None, out=None):
        value = (~planes["bytes"]).view(spec.numpy_dtype).reshape(spec.known_shape)
        if out is None:
            return value
        out[...] = value
        return out


@pytest.fixture
def xored(monkeypatch):
    """Make the codec and the scheme "xored" known for one test."""
    monkeypatch.setitem(registry.CODECS, "xored", Xored)
    monkeypatch.setitem(registry.SCHEMES, "xored", Xored())
    return "xored"


PEAKS = """
import re, sys
import arraycodec as ac
{steps}
def memory(field):  # of this program: ru_maxrss would count what our parent held when it started us
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(rf"{{field}}:\\s+(\\d+)", status.read())[1])
for _, step in run(small, "small"):
    step()  # imports, compiled kernels and threads are not what is measured
for name, step in run(big, "big"):
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")  # the peak starts anew
    before = memory("VmRSS")
    step()
    print(name, memory("VmHWM") - before)
"""


def peak_growth(steps: str, *arguments: object) -> dict[str, int]:
    """name -> how far the memory of a process grows in each step, in bytes.

    steps  Python text that sets `small` and `big`, two checkpoints, from sys.argv, which holds the arguments, and
           defines run(src, stem): it yields (name, function) for each step on one. The small one's are not measured.
    """
    run = subprocess.run(
        [sys.executable, "-c", PEAKS.format(steps=steps.strip()), *map(str, arguments)],
        capture_output=True, text=True, check=True,
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)},  # what is freed goes back: the next step counts
    )  # fmt: skip
    return {name: int(grown) for name, grown in (line.split() for line in run.stdout.splitlines())}
