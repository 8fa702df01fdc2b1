"""The header of a frame: what stands before the planes, written from specs alone and read with every check.

    0   magic     89 61 63 66
    4   version   u16, 1
    6   features  u16, bits that a reader must know; none are defined
    8   length    u32, bytes of the JSON text, a multiple of 8
    12  chunks    u32, entries of the table
    16  hash      u64, xxh3-64 of bytes 0..16 and 24..start
    24  JSON, spaces up to a multiple of 8; the table: u64 each; zeros up to a multiple of 64: `start`, the first plane

All numbers are little-endian. docs/format/frame.md is the specification.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.containers import checks, checksums, strict_json
from arraycodec.errors import ArgumentError, CorruptError, FormatError, LimitError, VersionError
from arraycodec.spec import DTYPES, ArraySpec

MAGIC = b"\x89acf"
VERSION = 1
FEATURES = 0  # the required-feature bits that this reader knows
PREFIX = struct.Struct("<4sHHIIQ")
MAX_JSON = 1 << 20
MAX_EMPTY = 4096  # arrays without elements that leading axes may count
PROBE = 4096  # bytes read first: enough for the whole header of a tensor up to some 400 MB

Read = Callable[[int, int], np.ndarray]  # (offset from the frame's start, bytes) -> uint8 array of that many bytes


@dataclass(frozen=True)
class Plane:
    """A plane's place in a frame: its spec, the offset of its first byte, and that of its first digest."""

    spec: ArraySpec
    offset: int
    first: int


@dataclass(frozen=True)
class Header:
    """What a frame says of itself before its planes."""

    codec: Codec
    spec: ArraySpec
    batch_shape: tuple[int, ...]
    planes: dict[str, Plane]
    start: int  # of the first plane
    nbytes: int  # of the whole frame
    digest: int = 0  # the header's hash
    digests: np.ndarray | None = None  # the table


def layout(codec: Codec, spec: ArraySpec, planes: Mapping[str, ArraySpec]) -> tuple[Header, bytes]:
    """The header without hashes, and its JSON text, for planes of these (known) specs."""
    contract = codec.planes(spec)
    if set(planes) != set(contract):
        raise ArgumentError(f"frame: planes of {codec.name} must be {list(contract)}, got {list(planes)}")
    ordered = {name: planes[name] for name in contract}
    data = {
        "array": checks.spec_text(spec),
        "codec": codec.to_json(),
        "planes": [f"{name} {checks.spec_text(plane)}" for name, plane in ordered.items()],
    }
    try:
        text = strict_json.canonical(data)
        strict_json.loads(text, "header")  # what no reader accepts must not be written
    except (FormatError, ValueError) as error:
        raise ArgumentError(f"frame: {codec} cannot be written as JSON: {error}") from None
    if len(text) > MAX_JSON - 8:
        raise ArgumentError(f"frame: {codec.name} must have at most {MAX_JSON} bytes of JSON, got {len(text)}")
    text += b" " * (-len(text) % 8)
    return _placed(codec, spec, ordered, contract, len(text)), text


def _placed(
    codec: Codec,
    spec: ArraySpec,
    planes: Mapping[str, ArraySpec],
    contract: Mapping[str, ArraySpec],
    length: int,
) -> Header:
    """Where everything stands, given the planes' specs in their order and the length of the JSON text."""
    chunks = sum(checksums.count(plane.nbytes) for plane in planes.values())
    start = at = checks.aligned(PREFIX.size + length + 8 * chunks)
    first, placed = 0, {}
    for name, plane in planes.items():
        placed[name] = Plane(plane, at, first)
        at, first = checks.aligned(at + plane.nbytes), first + checksums.count(plane.nbytes)
    batch = _batch(codec, planes, contract)
    checks.spec(spec.dtype, [*batch, *spec.known_shape], codec.name)  # the leading axes may make it too large
    if math.prod(batch) > max(at, MAX_EMPTY):  # decoding takes a step for each, also where they are empty
        raise LimitError(f"{codec.name}: a frame of {at} bytes must not hold {math.prod(batch)} arrays")
    return Header(codec, spec, batch, placed, start, at)


def _batch(codec: Codec, planes: Mapping[str, ArraySpec], contract: Mapping[str, ArraySpec]) -> tuple[int, ...]:
    """The leading axes that all planes have beyond the codec's contract; FormatError where they break it."""
    batch: tuple[int, ...] | None = None
    for name, want in contract.items():
        got = planes[name]
        extra = max(len(got.shape) - len(want.shape), 0)
        batch = got.known_shape[:extra] if batch is None else batch
        own = got.shape[extra:]
        fits = len(own) == len(want.shape) and all(w in (None, g) for w, g in zip(want.shape, own, strict=True))
        if got.dtype != want.dtype or got.known_shape[:extra] != batch or not fits:
            raise FormatError(
                f"{codec.name}: plane {name!r} must be {want.dtype}{list(batch + want.shape)}, "
                f"got {got.dtype}{list(got.shape)}"
            )
    return batch or ()


def pack(header: Header, text: bytes, digests: np.ndarray) -> bytes:
    """The bytes before the first plane."""
    table = digests.astype("<u8").tobytes()
    body = text + table
    body += bytes(header.start - PREFIX.size - len(body))
    front = PREFIX.pack(MAGIC, VERSION, 0, len(text), digests.size, 0)[:16]
    return front + struct.pack("<Q", checksums.digest(front, body)) + body


def unpack(read: Read, nbytes: int, where: str, verify: bool = True) -> Header:
    """The header of a frame that has exactly `nbytes` bytes; every number is checked before it is used."""
    if nbytes < PREFIX.size:
        raise CorruptError(f"{where}: a frame has at least {PREFIX.size} bytes, got {nbytes}")
    head = read(0, min(PROBE, nbytes)).tobytes()
    magic, version, features, length, chunks, digest = PREFIX.unpack_from(head)
    if magic != MAGIC:
        raise FormatError(f"{where}: a frame starts with {MAGIC.hex()}, got {magic.hex()}")
    if version != VERSION:
        kind = VersionError if version > VERSION else CorruptError
        raise kind(f"{where}: frame version {version} is not known, this arraycodec reads version {VERSION}")
    if unknown := features & ~FEATURES:
        raise VersionError(f"{where}: needs features 0x{unknown:04x} that this arraycodec does not know")
    if length > MAX_JSON:
        raise LimitError(f"{where}: the header's JSON must have at most {MAX_JSON} bytes, got {length}")
    table = PREFIX.size + length
    start = checks.aligned(table + 8 * chunks)
    if length % 8 or start > nbytes:
        raise CorruptError(f"{where}: a header of {length} + 8 * {chunks} bytes does not fit a frame of {nbytes}")
    if start > len(head):
        head += read(len(head), start - len(head)).tobytes()
    if verify and checksums.digest(head[:16], memoryview(head)[PREFIX.size : start]) != digest:
        raise CorruptError(f"{where}: the frame's header has changed since it was written")
    if any(head[table + 8 * chunks : start]):
        raise CorruptError(f"{where}: the header's padding must be zeros")
    header = _parse(strict_json.loads(head[PREFIX.size : table], where), length, where)
    if (header.start, header.nbytes) != (start, nbytes):
        raise CorruptError(
            f"{where}: planes of these shapes start at {header.start} and end at {header.nbytes}, "
            f"but the table ends at {start} and the frame at {nbytes}"
        )
    digests = np.frombuffer(head, "<u8", chunks, table).astype(np.uint64)
    return Header(
        header.codec, header.spec, header.batch_shape, header.planes, start, nbytes, digest, digests if verify else None
    )  # fmt: skip


def _parse(data: Any, length: int, where: str) -> Header:
    """The header that a JSON value describes; members that are not known here are left alone."""
    if not isinstance(data, dict):
        raise FormatError(f"{where}: the header must be a JSON object")
    codec_json = checks.member(data, "codec", dict, where)
    spec = checks.spec_of_text(checks.member(data, "array", str, where), where)
    planes: dict[str, ArraySpec] = {}
    for entry in checks.member(data, "planes", list, where):
        name, _, text = entry.rpartition(" ") if isinstance(entry, str) else ("", "", entry)
        plane = checks.spec_of_text(text, f"{where}: plane {checks.shown(name)}")
        if name in planes:
            raise FormatError(f"{where}: plane {checks.shown(name)} stands twice")
        planes[name] = plane
    for part in (spec, *planes.values()):
        if DTYPES[part.dtype].bits % 8:
            raise FormatError(f"{where}: dtype must be one of whole bytes, got {part.dtype}")
    with checks.from_file(where, (ArgumentError,)):
        codec = registry.from_json(codec_json)
        codec.supports(spec)
        contract = codec.planes(spec)
        if set(planes) != set(contract):
            raise FormatError(f"{codec.name}: planes must be {list(contract)}, got {list(planes)}")
        return _placed(codec, spec, planes, contract, length)
