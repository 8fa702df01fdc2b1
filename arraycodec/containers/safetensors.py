"""Plain safetensors files, read and written with every check of the format.

    u64 length of the header, then the header (JSON: name -> dtype, shape, data_offsets; `__metadata__`), then the data.

No holes, no overlaps, nothing after the data, no key twice. All 22 dtypes; F4 and F6 are held as packed uint8, and
their spec keeps the logical shape. Names are keys and nothing else: never a path, and escaped in every message.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec import api
from arraycodec.containers import checks, strict_json
from arraycodec.containers.atomic import AtomicFile
from arraycodec.containers.bytefile import ByteFile
from arraycodec.errors import ArgumentError, CorruptError, FormatError, LimitError
from arraycodec.primitives import memory
from arraycodec.spec import BY_SAFETENSORS, DTYPES, ArraySpec, spec_of

HEADER_LIMIT = 100_000_000  # bytes, as in every other reader of the format
ORDER = [  # by which writers sort the data, from the last to the first; within one dtype by name
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ",
    "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
]  # fmt: skip
MAGICS = {  # first bytes of what is not safetensors -> what it is
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` to get the file it points to",
    b"PK\x03\x04": "a zip archive, perhaps of torch.save",
    b"GGUF": "a GGUF file, which open_checkpoint, load and convert read where its name ends in .gguf",
    b"\x89acf": "a bare arraycodec frame",
    b"\x1f\x8b": "gzip data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a .npy file",
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header: `spec` is the logical one (float4_e2m1fn for F4), start/stop are offsets in the data."""

    name: str
    spec: ArraySpec
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """A parsed header: `raw` is its JSON as it stands in the file (without the 8 bytes of length)."""

    raw: bytes
    metadata: dict[str, str]
    tensors: dict[str, Tensor]  # in the order of their data

    @property
    def data_start(self) -> int:
        """Where the data starts in the file."""
        return 8 + len(self.raw)

    @property
    def nbytes(self) -> int:
        """The size of the whole file."""
        return self.data_start + max((tensor.stop for tensor in self.tensors.values()), default=0)

    @property
    def head(self) -> bytes:
        """The bytes of the file before the data."""
        return struct.pack("<Q", len(self.raw)) + self.raw


def parse_header(raw: bytes, where: str = "safetensors") -> Header:
    """The header of this JSON, fully checked: no duplicate, hole or overlap, sizes exact."""
    if len(raw) > HEADER_LIMIT:
        raise LimitError(f"{where}: the header must have at most {HEADER_LIMIT} bytes, got {len(raw)}")
    if not raw.startswith(b"{"):
        raise FormatError(f"{where}: the header must start with '{{', got {checks.shown(raw[:16])}")
    data = strict_json.loads(raw, f"{where}: header")
    metadata = data.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{where}: __metadata__ must map strings to strings, got {checks.shown(metadata)}")
    found = [_tensor(checks.name(name, where), entry, where) for name, entry in data.items()]
    found.sort(key=lambda tensor: (tensor.start, tensor.stop))
    end = 0
    for tensor in found:
        if tensor.start != end:
            kind = "overlap" if tensor.start < end else "leave a hole"
            raise CorruptError(
                f"{where}: tensors must not {kind}: {checks.shown(tensor.name)} starts at {tensor.start}, "
                f"the one before it ends at {end}"
            )
        end = tensor.stop
    return Header(raw, metadata, {tensor.name: tensor for tensor in found})


def _tensor(name: str, entry: Any, where: str) -> Tensor:
    where = f"{where}: tensor {checks.shown(name)}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise FormatError(f"{where}: must have dtype, shape and data_offsets, got {checks.shown(entry)}")
    code, offsets = entry["dtype"], entry["data_offsets"]
    if not isinstance(code, str) or code not in BY_SAFETENSORS:
        raise FormatError(f"{where}: dtype must be one of {', '.join(BY_SAFETENSORS)}, got {checks.shown(code)}")
    spec = checks.spec(BY_SAFETENSORS[code].name, entry["shape"], where)
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise FormatError(f"{where}: data_offsets must be [start, stop], got {checks.shown(offsets)}")
    start, stop = (checks.integer(offset, f"{where}: data_offsets") for offset in offsets)
    if stop - start != spec.nbytes:
        raise CorruptError(f"{where}: {code}{list(spec.shape)} takes {spec.nbytes} bytes, data_offsets are {offsets}")
    return Tensor(name, spec, start, stop)


def make_header(
    specs: Mapping[str, ArraySpec], metadata: Mapping[str, str] | None = None, *, align: int = checks.ALIGNMENT
) -> Header:
    """A header for tensors of these specs: data sorted as other writers do, starting at a multiple of `align`.

    With 8 it has the very bytes that the safetensors package gives it.
    """

    def rank(name: str) -> tuple[int, str]:
        return -ORDER.index(DTYPES[specs[name].dtype].safetensors or ""), name

    tensors, at = {}, 0
    for name in sorted(specs, key=rank):
        checks.name(name, "safetensors", ArgumentError)
        spec = checks.spec(specs[name].dtype, list(specs[name].known_shape), f"tensor {checks.shown(name)}")
        tensors[name] = Tensor(name, spec, at, at + spec.nbytes)
        at += spec.nbytes
    metadata = checked_metadata(metadata)
    return Header(pad(header_json(tensors, metadata), align=align), metadata, tensors)


def checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """The entries of `__metadata__`, all strings that UTF-8 can hold."""
    for item in (metadata or {}).items():
        for text in item:
            try:
                valid = isinstance(text, str) and text.encode() is not None
            except UnicodeEncodeError:
                valid = False
            if not valid:
                raise ArgumentError(f"metadata: must map str to str of valid Unicode, got {checks.shown(item)}")
    return dict(metadata or {})


def header_json(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The JSON text of a header, members in the order of the mappings, `__metadata__` first."""
    data: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        code, shape = DTYPES[tensor.spec.dtype].safetensors, tensor.spec.known_shape
        data[name] = {"dtype": code, "shape": shape, "data_offsets": (tensor.start, tensor.stop)}
    return strict_json.dumps(data)


def pad(raw: bytes, length: int = 0, align: int = checks.ALIGNMENT) -> bytes:
    """A header's JSON with spaces after it: `length` bytes at least, and up to a start of the data that is aligned."""
    if 8 + max(len(raw), length) > HEADER_LIMIT:
        raise ArgumentError(f"safetensors: the header must have at most {HEADER_LIMIT} bytes, got {len(raw)}")
    return raw.ljust(checks.aligned(8 + max(len(raw), length), align) - 8)


class SafetensorsFile:
    """An open safetensors file: `path`, `size`, `header`, and its `metadata` and `tensors`.

    Reads are `pread`, so threads may share it; `mmap=True` gives views of a private map instead.
    """

    def __init__(self, path: str | os.PathLike[str], *, mmap: bool = False) -> None:
        self._file = ByteFile(path, mmap=mmap)
        self.path, self.size = self._file.path, self._file.size
        try:
            self.header = self._parse()
        except BaseException:
            self._file.close()
            raise

    @property
    def metadata(self) -> dict[str, str]:
        """The string entries of the header."""
        return self.header.metadata

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors in the order of their data."""
        return self.header.tensors

    def read(self, offset: int, nbytes: int) -> np.ndarray:
        """`nbytes` bytes at `offset` of the file as a uint8 array aligned to 64 bytes."""
        return self._file.read(offset, nbytes)

    def array(self, name: str) -> np.ndarray:
        """A tensor as NumPy array; F4 and F6 as packed uint8, last axis in bytes (flat where rows are not whole)."""
        tensor = self.tensors.get(name)
        if tensor is None:
            raise ArgumentError(f"{self.path}: there is no tensor {checks.shown(name)}")
        spec = checks.in_memory(tensor.spec)
        data = self.read(self.header.data_start + tensor.start, spec.nbytes)
        return as_array(data, spec)

    def close(self) -> None:
        """Close the file; arrays already read stay valid."""
        self._file.close()

    def __enter__(self) -> SafetensorsFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _parse(self) -> Header:
        front = self.read(0, min(self.size, 64)).tobytes()
        if what := foreign(front, self.size):
            raise FormatError(f"{self.path}: must be a safetensors file, got {what}")
        if self.size < 8:
            raise CorruptError(f"{self.path}: truncated: a safetensors file has at least 8 bytes, got {self.size}")
        length = int.from_bytes(front[:8], "little")
        if length > HEADER_LIMIT:
            told = "" if front[8:9] == b"{" else ": this is no safetensors file"
            raise LimitError(f"{self.path}: the header must have at most {HEADER_LIMIT} bytes, got {length}{told}")
        if 8 + length > self.size:
            raise CorruptError(f"{self.path}: truncated: the header ends at {8 + length}, the file at {self.size}")
        header = parse_header(self.read(8, length).tobytes(), self.path)
        if header.nbytes != self.size:
            told = "truncated" if header.nbytes > self.size else "bytes follow the data"
            raise CorruptError(f"{self.path}: {told}: the data ends at {header.nbytes}, the file at {self.size}")
        return header


def as_array(data: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """uint8 data seen as the array of a spec; copied where a map has it at an address that does not suit the dtype."""
    dtype = spec.numpy_dtype
    if data.ctypes.data % dtype.itemsize:
        data = data.copy()
    return data.view(dtype).reshape(spec.known_shape)


def foreign(front: bytes, size: int) -> str | None:
    """What a file that cannot be safetensors is, by its first bytes; None where it may be safetensors."""
    if not size:
        return "an empty file"
    if front[8:9] == b"{" and int.from_bytes(front[:8], "little") <= HEADER_LIMIT:
        return None
    text = front.lstrip().lower()
    if size > 1 and front[0] == 0x80 and 2 <= front[1] <= 5:
        return "a Python pickle, which is never opened"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "an HTML or XML page, perhaps of a failed download"
    return next((told for magic, told in MAGICS.items() if front.startswith(magic)), None)


class SafetensorsWriter:
    """Writes a safetensors file with a given header, tensor by tensor, atomically.

    Called with the `Header` of another file (`parse_header(raw)`) it gives that file back byte for byte.
    Use as a context manager: the target appears when the block ends without an error.
    """

    def __init__(self, path: str | os.PathLike[str], header: Header, *, overwrite: bool = True) -> None:
        self._start, self._left = header.data_start, dict(header.tensors)
        self._file = AtomicFile(path, overwrite=overwrite)
        with self._file.aborting():
            self._file.write(header.head)

    def add(self, name: str, array: Any) -> None:
        """A tensor, each once and in any order; an array of any framework (packed uint8 for F4, F6)."""
        with self._file.aborting():
            tensor = self._left.pop(name, None)
            if tensor is None:
                left = f"one of {len(self._left)} that are missing" if self._left else "no more, all are there"
                raise ArgumentError(f"{self._file.path}: a tensor to add must be {left}, got {checks.shown(name)}")
            self._file.write_at(self._start + tensor.start, plain_bytes(name, array, tensor.spec))

    def close(self) -> None:
        """Put the file in its place; every tensor must have been added."""
        with self._file.aborting():
            if self._left:
                missing = checks.shown(next(iter(self._left)))
                raise ArgumentError(f"{self._file.path}: {len(self._left)} tensors are missing, such as {missing}")
            self._file.commit()

    def abort(self) -> None:
        """Remove what was written; the target stays as it was."""
        self._file.abort()

    def __enter__(self) -> SafetensorsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        self.close() if kind is None else self.abort()


def plain_bytes(name: str, array: Any, spec: ArraySpec) -> np.ndarray:
    """The bytes of an array of any framework as they are stored; ArgumentError where it is not of this spec."""
    host = api.to_numpy(array)
    want, got = checks.in_memory(spec), spec_of(host)
    packed = want is not spec and got.dtype == "uint8" and got.size == want.size  # its shape is ours to choose
    if got != want and not packed:
        raise ArgumentError(
            f"tensor {checks.shown(name)}: must be {want.dtype}{list(want.shape)}, got {got.dtype}{list(got.shape)}"
        )
    return memory.native(host).reshape(-1).view(np.uint8)


def save(
    tensors: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write plain arrays of any framework to a plain safetensors file."""
    header = make_header({name: spec_of(api.to_numpy(array)) for name, array in tensors.items()}, metadata)
    with SafetensorsWriter(path, header, overwrite=overwrite) as writer:
        for name in header.tensors:
            writer.add(name, tensors[name])
