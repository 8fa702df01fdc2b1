"""Frames: an Encoded as bytes. The specification is docs/format/frame.md.

    header (JSON and a table of hashes, under a hash of its own), then the planes, each at a multiple of 64 bytes.

A frame can be written plane by plane and read slice by slice: a slice is checked by the hashes of the 1 MiB chunks
that it touches, so that a partial read needs nothing but the header and these chunks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from arraycodec import api
from arraycodec.base import Codec, Encoded, Fetch, Then
from arraycodec.containers import checks, checksums, frame_header
from arraycodec.containers.checksums import Buffer
from arraycodec.containers.frame_header import Read
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives import memory
from arraycodec.spec import ArraySpec, spec_of


def to_bytes(encoded: Encoded) -> bytes:
    """The frame of an Encoded of any framework; the same bytes on every backend.

    >>> import numpy as np, arraycodec as ac
    >>> frame = ac.to_bytes(ac.encode(np.ones(128, np.float32), "nf4"))
    >>> len(frame), ac.decode(ac.from_bytes(frame)).sum()
    (384, np.float32(128.0))
    """
    return b"".join(frame_buffers(encoded))


def from_bytes(buffer: Any, *, verify: bool = True, max_bytes: int | None = None) -> Encoded:
    """The Encoded (NumPy planes, copied and aligned) of a frame.

    buffer     bytes or anything with the buffer protocol that holds exactly one frame.
    verify     check the hashes, and the rules of the codec that go beyond shapes (code ranges, tables).
    max_bytes  what the planes and the decoded array may each take; None is the machine's memory.
    """
    try:
        data = np.frombuffer(buffer, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise ArgumentError(
            f"from_bytes: buffer must be contiguous bytes, got {type(buffer).__name__}: {error}"
        ) from None

    def read(offset: int, nbytes: int) -> np.ndarray:
        copy = memory.empty(ArraySpec((nbytes,), "uint8"))
        copy[:] = data[offset : offset + nbytes]
        return copy

    reader = FrameReader(read, data.size, verify=verify, max_bytes=max_bytes)
    reader.check_decoded()
    return reader.encoded()


def frame_size(codec: Codec, spec: ArraySpec, planes: Mapping[str, ArraySpec]) -> int:
    """The bytes of the frame with these planes (their real specs: leading axes and data-dependent lengths known)."""
    return frame_header.layout(codec, spec, planes)[0].nbytes


def frame_buffers(encoded: Encoded) -> list[Buffer]:
    """The frame as buffers to be written one after another: header, planes, padding; no plane is copied needlessly."""
    return _buffers(encoded)[0]


def frame_digest(encoded: Encoded) -> tuple[list[Buffer], int]:
    """The buffers of a frame and its header's hash, by which a manifest knows it."""
    return _buffers(encoded)


def _buffers(encoded: Encoded) -> tuple[list[Buffer], int]:
    api.validate(encoded)
    planes = {name: memory.native(api.to_numpy(plane)) for name, plane in encoded.planes.items()}
    specs = {name: spec_of(plane) for name, plane in planes.items()}
    header, text = frame_header.layout(encoded.codec, encoded.spec, specs)
    data = {name: planes[name].reshape(-1).view(np.uint8) for name in header.planes}
    digests = np.concatenate([np.empty(0, np.uint64), *map(checksums.chunks, data.values())])
    head = frame_header.pack(header, text, digests)
    buffers: list[Buffer] = [head]
    for plane in data.values():
        buffers += [plane, bytes(-plane.size % checks.ALIGNMENT)]
    return [buffer for buffer in buffers if len(buffer)], int.from_bytes(head[16:24], "little")


class FrameReader:
    """A frame behind a `read` function: the header is read at once, slices of planes when they are asked for.

    read       (offset from the frame's start, bytes) -> a uint8 array of that many bytes, which may be handed out.
    nbytes     the bytes that there are; a frame must fill them exactly.
    where      what errors call this frame.

    Attributes: codec, spec, planes (name -> ArraySpec as stored), batch_shape, shape (batch_shape + spec.shape),
    nbytes, digest (the header's hash). Threads may share a reader if they may share `read`.
    """

    def __init__(
        self, read: Read, nbytes: int, *, verify: bool = True, max_bytes: int | None = None, where: str = "frame"
    ) -> None:
        header = frame_header.unpack(read, nbytes, where, verify)
        self.codec, self.spec, self.batch_shape = header.codec, header.spec, header.batch_shape
        self.planes = {name: plane.spec for name, plane in header.planes.items()}
        self.shape = header.batch_shape + header.spec.known_shape
        self.nbytes, self.digest = nbytes, header.digest
        self._read, self._verify, self._max_bytes, self._where = read, verify, max_bytes, where
        self._regions = {
            name: checksums.Region(
                read,
                plane.offset,
                plane.spec.nbytes,
                None if header.digests is None else header.digests[plane.first :],
                f"{where}: plane {checks.shown(name)}",
            )
            for name, plane in header.planes.items()
        }

    @property
    def decoded_bytes(self) -> int:
        """The bytes of the decoded array."""
        return ArraySpec(self.shape, self.spec.dtype).nbytes

    def check_decoded(self) -> None:
        """Raise LimitError where the decoded array is larger than the caller allows."""
        checks.within(self.decoded_bytes, self._max_bytes, f"{self._where}: the decoded array")

    def fetch(self, plane: str, piece: slice) -> np.ndarray:
        """Elements `piece` of the flattened plane, or with slice(None) the plane in its shape; checks its chunks."""
        spec, region = self.planes[plane], self._regions[plane]
        start, stop, step = piece.indices(spec.size)
        if step != 1:
            raise ArgumentError(f"{self._where}: a slice of a plane must have step 1, got {piece}")
        dtype = spec.numpy_dtype
        checks.within(max(stop - start, 0) * dtype.itemsize, self._max_bytes, region.where)
        elements = region.bytes(start * dtype.itemsize, max(start, stop) * dtype.itemsize).view(dtype)
        return elements.reshape(spec.known_shape) if piece == slice(None) else elements

    def encoded(self) -> Encoded:
        """The whole Encoded, checked: hashes, padding, and the codec's own rules."""
        checks.within(sum(p.nbytes for p in self.planes.values()), self._max_bytes, f"{self._where}: planes")
        planes = {name: self.fetch(name, slice(None)) for name in self.planes}
        for region in self._regions.values():
            end = region.start + region.nbytes
            if end % checks.ALIGNMENT and self._read(end, -end % checks.ALIGNMENT).any():
                raise CorruptError(f"{region.where}: the padding after it must be zeros")
        encoded = Encoded(self.codec, self.spec, planes)
        if self._verify:
            with checks.from_file(self._where, (ArgumentError,)):
                for one in self._each(planes):
                    self.codec.check(one, self.spec)
        return encoded

    @property
    def reads_parts(self) -> bool:
        """Whether elements are read from a part of the planes."""
        return _reads_parts(self.codec)

    def elements(self, start: int, stop: int, inputs: Fetch | None = None) -> np.ndarray:
        """Elements start..stop of the flattened decoded array (leading axes included), reading what they need.

        inputs   gives elements of the flattened inputs of a codec that reads parts and has some.
        """
        size, dtype = self.spec.size, self.spec.numpy_dtype
        start, stop, _ = slice(start, stop).indices(size * math.prod(self.batch_shape))
        checks.within(max(stop - start, 0) * dtype.itemsize, self._max_bytes, f"{self._where}: these elements")
        if not self.reads_parts:
            self.check_decoded()
            return self._decoded().reshape(-1)[start:stop]
        pieces = [
            self._read_one(i, max(start - i * size, 0), min(stop - i * size, size), inputs)
            for i in range(start // size, -(-stop // size))
        ] if stop > start else []  # fmt: skip
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, dtype), *pieces])

    def _decoded(self) -> np.ndarray:
        encoded = self.encoded()
        with checks.from_file(self._where):
            return api.decode(encoded)

    def _read_one(self, i: int, start: int, stop: int, inputs: Fetch | None) -> np.ndarray:
        """Elements of the array at place `i` of the leading axes."""
        axes = len(self.batch_shape)

        def fetch(plane: str, piece: slice) -> np.ndarray:
            if inputs is not None and plane not in self.planes:
                return inputs(plane, piece)
            shape = self.planes[plane].known_shape[axes:]
            first, last, _ = piece.indices(math.prod(shape))
            base = i * math.prod(shape)
            found = self.fetch(plane, slice(base + first, base + max(first, last)))
            return found.reshape(shape) if piece == slice(None) else found

        with checks.from_file(self._where):
            return self.codec.read(fetch, self.spec, start, stop)

    def _each(self, planes: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
        """The planes of each array along the leading axes."""
        if not (axes := len(self.batch_shape)):
            return [planes]
        number = math.prod(self.batch_shape)
        flat = {name: plane.reshape(number, *plane.shape[axes:]) for name, plane in planes.items()}
        return [{name: plane[i] for name, plane in flat.items()} for i in range(number)]


def _reads_parts(codec: Codec) -> bool:
    """Whether a codec can read a part without all planes; one that cannot is checked and decoded as a whole."""
    if isinstance(codec, Then):
        return _reads_parts(codec.outer) and all(_reads_parts(part) for _, part in codec.parts)
    return type(codec).read is not Codec.read
