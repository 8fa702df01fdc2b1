"""The manifest: what a container's header says of its tensors beyond what safetensors can say.

It is JSON in `__metadata__["arraycodec"]`, the first member of the first member, so that the file starts with
    u64 length  {"__metadata__":{"arraycodec":"{\\"hash\\":\\"0123456789abcdef\\",
and the hash stands at a fixed place: xxh3-64 of every byte before the data, with these 16 digits as zeros. It covers
the whole header, names, offsets, foreign metadata and padding included; the hashes in the manifest cover the data.
docs/format/container.md is the specification.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arraycodec.containers import checks, checksums, safetensors, strict_json
from arraycodec.errors import ArgumentError, CorruptError, FormatError, VersionError
from arraycodec.spec import ArraySpec

KEY = "arraycodec"
VERSION = 1
OPENING = b'{"__metadata__":{"arraycodec":"{\\"hash\\":\\"'
HASH = slice(8 + len(OPENING), 8 + len(OPENING) + 16)  # where the hash stands in the file


def _check_sha256(digest: object, where: str) -> None:
    if not (isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest)):
        raise ArgumentError(f"{where}: sha256 must be 64 lower-case hex digits, got {checks.shown(digest)}")


@dataclass(frozen=True)
class Source:
    """What gives back the file a container was made from: its header's JSON bytes, and the sha256 of the whole file.

    The original is `struct.pack("<Q", len(header)) + header` and then the tensors at the header's offsets.
    """

    header: bytes
    sha256: str  # 64 lower-case hex digits

    def __post_init__(self) -> None:
        _check_sha256(self.sha256, "source")


@dataclass(frozen=True)
class Base:
    """The checkpoint that deltas are to, for people and error messages: each delta knows its own array by a hash."""

    name: str  # of the file or folder, without its path
    files: dict[str, str]  # file -> sha256 of the whole plain file, 64 lower-case hex digits

    def __post_init__(self) -> None:
        for digest in self.files.values():
            _check_sha256(digest, "base")


@dataclass(frozen=True)
class Entry:
    """One tensor: the spec of the decoded array, where it is stored, and the hash by which it is known.

    digest  of a frame: its header's hash (16 hex digits); of a plain tensor: that of every 1 MiB chunk.
    """

    name: str
    spec: ArraySpec
    codec: dict[str, Any] | None  # the codec's JSON; None: stored plain
    start: int  # offsets in the data, as in the safetensors header
    stop: int
    digest: str

    @property
    def stored(self) -> safetensors.Tensor:
        """The entry of the safetensors header."""
        spec = self.spec if self.codec is None else ArraySpec((1, 1, self.stop - self.start), "uint8")
        return safetensors.Tensor(self.name, spec, self.start, self.stop)


@dataclass(frozen=True)
class Manifest:
    """What a container's header says: name -> Entry, and where the container came from."""

    entries: dict[str, Entry]
    source: Source | None
    base: Base | None = None


def pack(manifest: Manifest, metadata: Mapping[str, str], length: int = 0) -> bytes:
    """Every byte before the data, the hash filled in; the header's JSON is padded to `length` bytes at least."""
    data: dict[str, Any] = {"hash": "0" * 16}
    if manifest.base:
        data["base"] = {"name": manifest.base.name, "sha256": manifest.base.files}
    if manifest.source:
        header = base64.b64encode(manifest.source.header).decode()
        data["source"] = {"header": header, "sha256": manifest.source.sha256}
    data["tensors"] = {name: _entry_json(entry) for name, entry in manifest.entries.items()}
    data["version"] = VERSION
    own = {KEY: strict_json.dumps(data).decode()} | dict(sorted(metadata.items()))
    tensors = {name: entry.stored for name, entry in manifest.entries.items()}
    raw = safetensors.pad(safetensors.header_json(tensors, own), length)
    head = bytearray(struct.pack("<Q", len(raw)) + raw)
    head[HASH] = f"{checksums.digest(head):016x}".encode()
    return bytes(head)


def entry_size(entry: Entry) -> int:
    """The bytes that an entry takes in the manifest (a string in JSON, so JSON once more) and in the header."""
    own = strict_json.dumps(strict_json.dumps({entry.name: _entry_json(entry)}).decode())
    return len(own) + len(safetensors.header_json({entry.name: entry.stored}, {}))


def _entry_json(entry: Entry) -> dict[str, Any]:
    data: dict[str, Any] = {"array": checks.spec_text(entry.spec)}
    if entry.codec is not None:
        data["codec"] = entry.codec
    return data | {"hash": entry.digest, "offsets": [entry.start, entry.stop]}


def unpack(header: safetensors.Header, where: str, verify: bool = True) -> Manifest | None:
    """The manifest of a file, in agreement with its safetensors header; None where the file is a plain one."""
    if KEY not in header.metadata:
        if verify and _without_key(header.raw) == _without_key(OPENING):
            raise CorruptError(f"{where}: the manifest's key has changed, it must be {KEY!r}")
        return None
    data = strict_json.loads(header.metadata[KEY].encode(), f"{where}: manifest")
    where = f"{where}: manifest"
    if not isinstance(data, dict):
        raise FormatError(f"{where}: must be a JSON object, got {checks.shown(data)}")
    version = checks.integer(data.get("version"), f"{where}: version")
    if version != VERSION:
        kind = VersionError if version > VERSION else CorruptError
        raise kind(f"{where}: version {version} is not known, this arraycodec reads version {VERSION}")
    if verify:
        _verify(header, checks.member(data, "hash", str, where), where)
    entries = {}
    for name, entry in checks.member(data, "tensors", dict, where).items():
        entries[name] = _entry(name, entry, f"{where}: tensor {checks.shown(name)}")
    _compare(header, entries, where)
    source = _source(data["source"], where) if "source" in data else None
    return Manifest(entries, source, _base(data["base"], where) if "base" in data else None)


def _without_key(text: bytes) -> tuple[bytes, bytes]:
    """What stands around the manifest's key at the start of a header."""
    at = OPENING.index(KEY.encode())
    return text[:at], text[at + len(KEY) : len(OPENING)]


def _verify(header: safetensors.Header, digest: str, where: str) -> None:
    head = bytearray(header.head)
    if not header.raw.startswith(OPENING) or head[HASH] != digest.encode():
        raise CorruptError(f"{where}: the header was written anew by another program, its hash does not hold any more")
    head[HASH] = b"0" * 16
    if (found := f"{checksums.digest(head):016x}") != digest:
        raise CorruptError(f"{where}: the header has changed since it was written: its hash is {found}, not {digest}")


def _entry(name: str, entry: Any, where: str) -> Entry:
    if not isinstance(entry, dict):
        raise FormatError(f"{where}: must be a JSON object, got {checks.shown(entry)}")
    spec = checks.spec_of_text(entry.get("array"), where)
    offsets = checks.member(entry, "offsets", list, where)
    if len(offsets) != 2:
        raise FormatError(f"{where}: offsets must be [start, stop], got {checks.shown(offsets)}")
    start, stop = (checks.integer(offset, f"{where}: offsets") for offset in offsets)
    codec = checks.member(entry, "codec", dict, where) if "codec" in entry else None
    if codec is not None and not isinstance(codec.get("name"), str):
        raise FormatError(f"{where}: codec must have a string 'name', got {checks.shown(codec)}")
    digest = checks.member(entry, "hash", str, where)
    checksums.from_hex(digest, 1 if codec else checksums.count(max(stop - start, 0)), where)
    return Entry(name, spec, codec, start, stop, digest)


def _compare(header: safetensors.Header, entries: Mapping[str, Entry], where: str) -> None:
    """Raise unless manifest and safetensors header name the same tensors, in the same places, of the same kind."""
    if differing := header.tensors.keys() ^ entries.keys():
        name = min(differing)
        missing = "the safetensors header" if name in entries else "the manifest"
        raise CorruptError(f"{where}: tensor {checks.shown(name)} is not in {missing}")
    for name, entry in entries.items():
        if (want := entry.stored) != (got := header.tensors[name]):
            raise CorruptError(
                f"{where}: tensor {checks.shown(name)}: the manifest says "
                f"{checks.spec_text(want.spec)} at {want.start}..{want.stop}, "
                f"the header {checks.spec_text(got.spec)} at {got.start}..{got.stop}"
            )
        if entry.codec is not None and (header.data_start + entry.start) % checks.ALIGNMENT:
            raise CorruptError(f"{where}: tensor {checks.shown(name)}: a frame must start at a multiple of 64")


def _source(data: Any, where: str) -> Source:
    where = f"{where}: source"
    if not isinstance(data, dict):
        raise FormatError(f"{where}: must be a JSON object, got {checks.shown(data)}")
    try:
        header = base64.b64decode(checks.member(data, "header", str, where).encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise FormatError(f"{where}: header must be base64: {error}") from None
    with checks.from_file(where, (ArgumentError,)):
        return Source(header, checks.member(data, "sha256", str, where))


def _base(data: Any, where: str) -> Base:
    where = f"{where}: base"
    if not isinstance(data, dict):
        raise FormatError(f"{where}: must be a JSON object, got {checks.shown(data)}")
    with checks.from_file(where, (ArgumentError,)):
        return Base(checks.member(data, "name", str, where), checks.member(data, "sha256", dict, where))
