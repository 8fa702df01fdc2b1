"""Other libraries that compress weights losslessly: their public calls on a whole safetensors file, one by one.

zipnn, zstd and blosc2 take buffers: all tensors of one dtype together, which is their best case. lmz and bigsmall take
files; what they write goes to a folder for temporary files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arraycodec.containers.safetensors import SafetensorsFile
from arraycodec.spec import DTYPES

PIECES = dict[str, bytes]  # dtype -> the bytes of all its tensors, in the order of the file


class FileCalls(NamedTuple):
    """A library's calls on one file with so many threads."""

    encode: Callable[[Any], Any]  # of what `fresh` gives
    decode: Callable[[Any], Any]  # of what `encode` gave
    nbytes: Callable[[Any], int]
    same: Callable[[Any], bool]  # whether what `decode` gave is the original
    raw: int  # the bytes that it encodes
    fresh: Callable[[], Any] = lambda: None  # not part of the time
    into: Callable[[Any], Any] | None = None  # `decode` into memory that is there already


class FilePeer(NamedTuple):
    """A library in one of its settings."""

    distribution: str
    setting: str
    threaded: bool  # whether it can use several threads
    prepare: Callable[[Path, Path, int], FileCalls]  # the file, a folder for temporary files, threads


def _pieces(path: Path) -> PIECES:
    found: dict[str, list[bytes]] = {}
    with SafetensorsFile(path) as file:
        for name, tensor in file.tensors.items():
            found.setdefault(tensor.spec.dtype, []).append(file.array(name).tobytes())
    return {dtype: b"".join(parts) for dtype, parts in found.items()}


def _buffers(
    path: Path, encode: Callable[[str, bytes], bytes], decode: Callable[[str, bytes], bytes], spoils: bool = False
) -> FileCalls:
    """The calls for a library of buffers; `spoils` says that it overwrites its input, so that it is given copies."""
    pieces = _pieces(path)

    def copies() -> PIECES:
        return {dtype: bytes(bytearray(data)) for dtype, data in pieces.items()} if spoils else pieces

    return FileCalls(
        lambda data: {dtype: encode(dtype, piece) for dtype, piece in data.items()},
        lambda coded: {dtype: decode(dtype, piece) for dtype, piece in coded.items()},
        lambda coded: sum(map(len, coded.values())),
        lambda back: all(bytes(back[dtype]) == data for dtype, data in pieces.items()),
        sum(map(len, pieces.values())),
        copies,
    )


def _zipnn(path: Path, folder: Path, threads: int) -> FileCalls:
    from zipnn import ZipNN

    def of(dtype: str) -> Any:
        known = dtype if dtype in ("float32", "bfloat16", "float16") else "float8_e4m3fn"  # which is plain bytes
        return ZipNN(input_format="byte", bytearray_dtype=known, threads=threads)

    return _buffers(path, lambda d, x: of(d).compress(x), lambda d, x: of(d).decompress(x), spoils=True)


def _zstd(path: Path, folder: Path, threads: int) -> FileCalls:
    import zstandard

    return _buffers(
        path,
        lambda _, x: zstandard.ZstdCompressor(level=3, threads=threads if threads > 1 else 0).compress(x),
        lambda _, x: zstandard.ZstdDecompressor().decompress(x),
    )


def _blosc2(shuffle: str) -> Callable[[Path, Path, int], FileCalls]:
    def prepare(path: Path, folder: Path, threads: int) -> FileCalls:
        import blosc2

        def encode(dtype: str, x: bytes) -> bytes:
            size = max(DTYPES[dtype].bits // 8, 1)
            filters = [getattr(blosc2.Filter, shuffle)]
            return blosc2.compress2(
                x, typesize=size, codec=blosc2.Codec.ZSTD, clevel=5, filters=filters, nthreads=threads
            )

        return _buffers(path, encode, lambda _, x: blosc2.decompress2(x, nthreads=threads))

    return prepare


def _lmz(path: Path, folder: Path, threads: int) -> FileCalls:
    import lmz

    coded, back = str(folder / "peer.lmz"), folder / "peer.out"

    def encode(_: Any) -> str:
        lmz.compress(str(path), coded, workers=threads)
        return coded

    def decode(coded: str) -> Path:
        lmz.decompress(coded, str(back), workers=threads, overwrite=True)
        return back

    return FileCalls(encode, decode, os.path.getsize, lambda out: _equal(out, path), path.stat().st_size)


def _bigsmall(path: Path, folder: Path, threads: int) -> FileCalls:
    """With one worker: more of them are processes, which a program without a main guard must not start."""
    os.environ.setdefault("BIGSMALL_DISABLE_VERSION_CHECK", "1")  # or it asks the network
    import bigsmall

    coded = str(folder / "peer.bs")

    def encode(_: Any) -> str:
        bigsmall.compress(str(path), coded, workers=1, progress=False)
        return coded

    def same(arrays: dict[str, Any]) -> bool:
        with SafetensorsFile(path) as file:
            own = file.tensors
            return own.keys() == arrays.keys() and all(
                np.ascontiguousarray(arrays[name]).tobytes() == file.array(name).tobytes() for name in own
            )

    return FileCalls(
        encode, lambda coded: bigsmall.decompress(coded, progress=False), os.path.getsize, same, path.stat().st_size
    )


def _equal(a: Path, b: Path) -> bool:
    with a.open("rb") as one, b.open("rb") as other:
        pieces: Iterable[tuple[bytes, bytes]] = iter(lambda: (one.read(1 << 22), other.read(1 << 22)), (b"", b""))
        return all(x == y for x, y in pieces)


PEERS = (
    FilePeer("zipnn", "", True, _zipnn),
    FilePeer("bigsmall", "", False, _bigsmall),
    FilePeer("lmzip", "", True, _lmz),
    FilePeer("zstandard", "level 3", True, _zstd),
    FilePeer("blosc2", "shuffle, zstd 5", True, _blosc2("SHUFFLE")),
    FilePeer("blosc2", "bitshuffle, zstd 5", True, _blosc2("BITSHUFFLE")),
)
