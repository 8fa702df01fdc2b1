"""What the tests of containers share: samples, and hostile files whose hashes are right again."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import checksums, frame_header, manifest

FORMAT = ac.FormatError  # what malformed bytes may raise: this or one of its children, and nothing else


def weights(*shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Normal values of any shape, 0-d included."""
    values = np.asarray(np.random.default_rng(seed).standard_normal(shape), np.float32)
    return values.astype(ac.ArraySpec((), dtype).numpy_dtype)


def same(a: ac.Encoded, b: ac.Encoded) -> None:
    """Assert that two Encoded are equal, dtypes, shapes and bits of planes included."""
    assert (a.codec, a.spec, set(a.planes)) == (b.codec, b.spec, set(b.planes))
    for name, plane in a.planes.items():
        assert_bits(plane, b.planes[name])


def assert_bits(a: np.ndarray, b: np.ndarray) -> None:
    """Assert that two arrays have one shape, dtype and bit pattern."""
    a, b = np.asarray(a), np.asarray(b)
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert a.tobytes() == b.tobytes()


def edited_frame(frame: bytes, edit) -> bytes:
    """The frame with its header's JSON changed by `edit(data)`, in a text of the same or larger room, hash correct."""
    length, chunks = struct.unpack_from("<II", frame, 8)
    data = json.loads(frame[24 : 24 + length])
    replacement = edit(data)
    text = replacement if isinstance(replacement, bytes) else json.dumps(replacement or data).encode()
    text += b" " * (-len(text) % 8)
    table = frame[24 + length : 24 + length + 8 * chunks]
    return rehashed(frame[:8] + struct.pack("<II", len(text), chunks) + frame[16:24] + text + table, frame)


def rehashed(head: bytes, frame: bytes) -> bytes:
    """`head` as the header of this frame's planes: padded, hash filled in."""
    length, chunks = struct.unpack_from("<II", frame, 8)
    planes = frame[-(-(24 + length + 8 * chunks) // 64) * 64 :]
    head += bytes(-len(head) % 64)
    digest = checksums.digest(head[:16], head[24:])
    return head[:16] + struct.pack("<Q", digest) + head[24:] + planes


def edited_container(path: Path, edit, *, header=None, rehash: bool = True) -> None:
    """Change the manifest by `edit(data)` and the safetensors header by `header(data)`; hash correct, data in place."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    outer = json.loads(raw[8 : 8 + length])
    inner = json.loads(outer["__metadata__"]["arraycodec"])
    inner = (edit(inner) if edit else None) or inner
    outer["__metadata__"]["arraycodec"] = json.dumps(inner, separators=(",", ":"), ensure_ascii=False)
    outer = (header(outer) if header else None) or outer
    text = json.dumps(outer, separators=(",", ":"), ensure_ascii=False).encode()
    if len(text) > length:
        length += -(-(len(text) - length) // 64) * 64
    head = bytearray(struct.pack("<Q", length) + text.ljust(length))
    if rehash:
        head[manifest.HASH] = b"0" * 16
        head[manifest.HASH] = f"{checksums.digest(head):016x}".encode()
    path.write_bytes(bytes(head) + raw[8 + int.from_bytes(raw[:8], "little") :])


def small_container(path: Path) -> dict[str, object]:
    """A container of some 4 KB with frames, plain tensors and foreign metadata; returns what is in it."""
    tensors = {
        "block.weight": ac.encode(weights(48, 64), "nf4"),
        "odd": ac.encode(weights(7, 9), "nf4-double"),
        "block.bias": weights(16, dtype="bfloat16"),
        "step": np.array(3, np.int64),
    }
    ac.save_file(tensors, path, metadata={"format": "pt", "note": "é"})
    return tensors


def everything(path: Path) -> dict[str, bytes]:
    """Read all there is in a file, and give it in a form that compares."""
    with ac.open_file(path) as file:
        found = {"metadata": json.dumps(file.metadata).encode()}
        for name, tensor in file.items():
            tensor.verify()
            value = np.asarray(tensor)
            found[name] = f"{value.dtype}{value.shape}{tensor.codec}".encode() + value.tobytes()
        return found


def raises_format(function, *args):
    """Assert that a call raises an error of our tree for malformed bytes, and give it back."""
    with pytest.raises(FORMAT) as caught:
        function(*args)
    return caught.value


def header_of(frame: bytes):
    """The parsed header of a frame."""
    return frame_header.unpack(lambda at, n: np.frombuffer(frame, np.uint8)[at : at + n], len(frame), "frame")
