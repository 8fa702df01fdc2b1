"""The GGUF container of llama.cpp, read with every check of the format; docs/format/gguf.md has its bytes.

    "GGUF", u32 version (2 or 3), u64 tensors, u64 entries; the entries of the metadata; a description of each tensor;
    padding to the alignment; the data of the tensors, each padded to the alignment.

Little-endian. A number from the file is compared with the bytes that are left before anything is done that often: so a
hostile count costs nothing. No key or name twice, no hole, no overlap, nothing after the data.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec.containers import checks
from arraycodec.containers.bytefile import ByteFile
from arraycodec.containers.safetensors import foreign
from arraycodec.errors import CorruptError, FormatError, LimitError, VersionError
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec.spec import MAX_ELEMENTS

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # of the data, where the metadata says nothing
LARGEST_ALIGNMENT = 1 << 20
HEAD_LIMIT = 1 << 29  # bytes before the data
PIECE = 1 << 20  # bytes of the head that are read at once
MAX_DIMS = 4
MAX_DEPTH = 4  # of arrays of arrays, which no known writer makes

# The types of metadata by number.
SCALARS = {
    0: np.uint8, 1: np.int8, 2: np.uint16, 3: np.int16, 4: np.uint32, 5: np.int32, 6: np.float32, 7: np.bool_,
    10: np.uint64, 11: np.int64, 12: np.float64,
}  # fmt: skip
UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
SMALLEST = {**{number: np.dtype(dtype).itemsize for number, dtype in SCALARS.items()}, STRING: 8, ARRAY: 12}  # bytes
SMALLEST_ENTRY, SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8  # bytes

# The types of tensors by number: their name, the elements of a block and its bytes.
PLAIN = {
    0: "float32", 1: "float16", 24: "int8", 25: "int16", 26: "int32", 27: "int64", 28: "float64", 30: "bfloat16",
}  # fmt: skip
BLOCKS = {block.number: (name, block.elements, block.nbytes) for name, block in TYPES.items()} | {
    9: ("Q8_1", 32, 40), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    29: ("IQ1_M", 256, 56), 41: ("Q1_0", 128, 18),
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One tensor: its shape in NumPy's order, its type (a dtype's or a block type's name), where its data lies."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int  # from the start of the data
    stop: int


class GgufFile:
    """An open GGUF file: `path`, `size`, `version`, `metadata`, `tensors` by name, `alignment`, `data_start`.

    Numbers of the metadata are Python's, arrays of numbers NumPy's, strings are decoded as UTF-8; a byte that is none
    is kept as a surrogate, so that `text.encode(errors="surrogateescape")` gives it back. Reads are `pread`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._file = ByteFile(path)
        self.path, self.size = self._file.path, self._file.size
        try:
            self._parse()
        except BaseException:
            self._file.close()
            raise

    def read(self, offset: int, nbytes: int) -> np.ndarray:
        """`nbytes` bytes at `offset` of the file as a uint8 array aligned to 64 bytes."""
        return self._file.read(offset, nbytes)

    def close(self) -> None:
        """Close the file; arrays already read stay valid."""
        self._file.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _parse(self) -> None:
        head = Head(self._file)
        front = self._file.read(0, min(self.size, 64)).tobytes()
        if not front.startswith(MAGIC):
            raise FormatError(f"{self.path}: must be a GGUF file, got {foreign(front, self.size) or 'something else'}")
        head.take(4)
        self.version = head.integer("<I")
        if self.version & 0xFFFF == 0:
            raise FormatError(f"{self.path}: is big-endian; only little-endian GGUF files are read")
        if self.version not in VERSIONS:
            error = VersionError if self.version > VERSIONS[-1] else FormatError
            raise error(f"{self.path}: version must be 2 or 3, got {self.version}")
        tensors = head.count("tensors", SMALLEST_TENSOR)
        self.metadata = self._metadata(head, head.count("metadata entries", SMALLEST_ENTRY))
        described = [self._tensor(head) for _ in range(tensors)]
        self.data_start = checks.aligned(head.at, self.alignment)
        self.tensors = self._placed(described)

    def _metadata(self, head: Head, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.alignment = ALIGNMENT
        for _ in range(count):
            key = head.name("a metadata key")
            head.where = f"{self.path}: metadata {checks.shown(key)}"
            kind = head.integer("<I")
            value = head.value(kind)
            if key in found:
                raise CorruptError(f"{head.where}: stands twice")
            if key == "general.alignment":
                if kind != UINT32 or value.bit_count() != 1 or value > LARGEST_ALIGNMENT:
                    raise FormatError(
                        f"{head.where}: must be a power of two up to {LARGEST_ALIGNMENT}, uint32, got {value}"
                    )
                self.alignment = value
            found[key], head.where = value, self.path
        return found

    def _tensor(self, head: Head) -> Tensor:
        name = checks.name(head.name("a tensor's name"), self.path)
        head.where = where = f"{self.path}: tensor {checks.shown(name)}"
        dims = head.integer("<I")
        if dims > MAX_DIMS:
            raise FormatError(f"{where}: must have at most {MAX_DIMS} axes, got {dims}")
        shape = tuple(head.integer("<Q") for _ in range(dims))[::-1]
        number, start = head.integer("<I"), head.integer("<Q")
        head.where = self.path
        if number not in PLAIN and number not in BLOCKS:
            raise VersionError(f"{where}: the type has number {number}, which is none that this version knows")
        elements = 1
        for axis in shape:
            checks.integer(axis, f"{where}: an axis", MAX_ELEMENTS)
            elements *= axis
        if elements > MAX_ELEMENTS:
            raise FormatError(f"{where}: shape must not multiply to more than 2^48 elements, got {shape}")
        if start % self.alignment:
            raise CorruptError(f"{where}: data must start at a multiple of {self.alignment}, got {start}")
        if number in PLAIN:
            kind, nbytes = PLAIN[number], checks.spec(PLAIN[number], list(shape), where).nbytes
        else:
            kind, block, size = BLOCKS[number]
            if not shape or shape[-1] % block:
                raise FormatError(f"{where}: rows of {kind} must be a multiple of {block} elements, got shape {shape}")
            nbytes = elements // block * size
        return Tensor(name, kind, shape, start, start + nbytes)

    def _placed(self, described: list[Tensor]) -> dict[str, Tensor]:
        """Tensors by name, once their data is found to fill the file."""
        tensors: dict[str, Tensor] = {}
        for tensor in described:
            if tensor.name in tensors:
                raise CorruptError(f"{self.path}: tensor {checks.shown(tensor.name)} stands twice")
            tensors[tensor.name] = tensor
        end = stop = 0
        for tensor in sorted(described, key=lambda tensor: (tensor.start, tensor.stop)):
            if tensor.start != end:
                kind = "overlap" if tensor.start < end else "leave a hole"
                raise CorruptError(
                    f"{self.path}: tensors must not {kind}: {checks.shown(tensor.name)} starts at {tensor.start} of "
                    f"the data, the one before it ends at {end}"
                )
            stop, end = tensor.stop, checks.aligned(tensor.stop, self.alignment)
        if described and self.data_start + stop > self.size:
            raise CorruptError(
                f"{self.path}: truncated: data ends at {self.data_start + stop}, the file at {self.size}"
            )
        if self.size > self.data_start + end:
            raise CorruptError(
                f"{self.path}: bytes follow the data: it ends at {self.data_start + end}, the file at {self.size}"
            )
        return tensors


class Head:
    """What stands before the data, read from front to end; `where` is what errors call the place."""

    def __init__(self, file: ByteFile) -> None:
        self._file, self.where, self.at = file, file.path, 0
        self._bytes, self._first = b"", 0  # a piece of the file, and where it begins

    def take(self, nbytes: int) -> bytes:
        """The next bytes."""
        start = self.at - self._first
        if start + nbytes > len(self._bytes):
            self._load(nbytes)
            start = 0
        self.at += nbytes
        return self._bytes[start : start + nbytes]

    def integer(self, code: str) -> int:
        """The next integer, of this code of `struct`."""
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def count(self, what: str, smallest: int) -> int:
        """The next u64, a number of things of at least so many bytes each."""
        count, left = self.integer("<Q"), min(self._file.size, HEAD_LIMIT) - self.at
        if count * smallest > left:
            raise CorruptError(f"{self.where}: {count} {what} cannot be: {left} bytes are left, or allowed in a head")
        return count

    def string(self) -> bytes:
        """The next string."""
        return self.take(self.count("bytes of a string", 1))

    def name(self, what: str) -> str:
        """The next string, a key or name: valid UTF-8 of at most 64 KiB."""
        raw = self.string()
        if len(raw) > checks.MAX_NAME:
            raise LimitError(f"{self.where}: {what} must have at most {checks.MAX_NAME} bytes, got {len(raw)}")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise FormatError(f"{self.where}: {what} must be UTF-8, got {checks.shown(raw)}") from None

    def value(self, kind: int, depth: int = 0) -> Any:
        """The next value of this type."""
        if kind == STRING:
            return self.string().decode(errors="surrogateescape")
        if kind in SCALARS:
            return self._numbers(kind, 1)[0].item()
        if kind != ARRAY or depth == MAX_DEPTH:
            allowed = f"one of {sorted(SMALLEST)}, arrays of arrays at most {MAX_DEPTH} deep"
            raise FormatError(f"{self.where}: a type must be {allowed}, got {kind}")
        kind = self.integer("<I")
        count = self.count("elements of an array", SMALLEST.get(kind, 1))
        if kind in SCALARS:
            return self._numbers(kind, count)
        if kind == STRING:
            return self._strings(count)
        return [self.value(kind, depth + 1) for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """As `string`, in a loop of its own: a vocabulary has hundreds of thousands."""
        found = []
        for _ in range(count):
            first = self.at - self._first + 8
            stop = first + int.from_bytes(self._bytes[first - 8 : first], "little")
            if stop <= len(self._bytes):
                raw = self._bytes[first:stop]
                self.at = self._first + stop
            else:
                raw = self.string()
            found.append(raw.decode(errors="surrogateescape"))
        return found

    def _numbers(self, kind: int, count: int) -> np.ndarray:
        dtype = np.dtype(SCALARS[kind]).newbyteorder("<")
        raw = self.take(count * dtype.itemsize)
        if kind == BOOL and raw.strip(b"\0\1"):
            raise CorruptError(f"{self.where}: a bool must be 0 or 1, got {checks.shown(raw.strip(bytes(2))[:8])}")
        return np.frombuffer(raw, dtype).astype(dtype.newbyteorder("="))

    def _load(self, nbytes: int) -> None:
        left = self._file.size - self.at
        if nbytes > left:
            raise CorruptError(f"{self.where}: truncated: {nbytes} bytes are needed at {self.at}, {left} are left")
        if self.at + nbytes > HEAD_LIMIT:
            raise LimitError(f"{self.where}: what stands before the data must have at most {HEAD_LIMIT} bytes")
        self._bytes, self._first = self._file.read(self.at, min(max(nbytes, PIECE), left)).tobytes(), self.at
