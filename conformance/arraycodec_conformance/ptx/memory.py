"""Global memory as buffers in a sparse 64-bit address space, in which every mistake of a kernel faults.

Each buffer is a region of its own, and regions lie so far apart that even an index that overflowed 32 bits
lands between them. A region may be far larger than the machine's memory: only chosen windows of it are backed
by arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import MemoryFault
from .formats import UNSIGNED, Array

Shape = int | Sequence[int]

_ALIGNMENT = 32  # the widest access is 32 bytes
_BASE = 1 << 44
# An index wrapped to 32 bits misses its place by 2^32 elements at most, that is by 2^35 bytes.
_GAP = 1 << 36


class Storage:
    """Bytes that remember which of them were written; `offsets` are aligned to the access."""

    def __init__(self, size: int) -> None:
        padded = -(-size // _ALIGNMENT) * _ALIGNMENT
        self.data = np.zeros(padded, np.uint8)
        self.written = np.zeros(padded, np.uint8)

    def put(self, offset: int, content: Array) -> None:
        """Copy bytes in from the host."""
        self.data[offset : offset + content.size] = content
        self.written[offset : offset + content.size] = 0xFF

    def load(self, offsets: Array, size: int, count: int) -> Array:
        """`count` words of `size` bytes at each offset, as an array (offsets, count)."""
        word, row = UNSIGNED[size * 8], offsets // (size * count)
        unset = self.written.view(word).reshape(-1, count)[row] != np.iinfo(word).max
        if unset.any():
            raise MemoryFault("bytes that were never written are read", at=int(np.argmax(unset.any(axis=1))))
        return self.data.view(word).reshape(-1, count)[row]

    def store(self, offsets: Array, values: Array) -> None:
        """Write rows of words; two lanes may write one place only if they agree."""
        count = values.shape[1]
        row = offsets // (values.itemsize * count)
        place = self.data.view(values.dtype).reshape(-1, count)
        place[row] = values
        self.written.view(values.dtype).reshape(-1, count)[row] = np.iinfo(values.dtype).max
        lost = (place[row] != values).any(axis=1)
        if lost.any():
            raise MemoryFault("two threads store different values in one place", at=int(np.argmax(lost)))


class _Window:
    """The backed bytes `start .. stop` of the address space."""

    def __init__(self, region: str, start: int, size: int) -> None:
        self.region, self.start, self.stop = region, start, start + size
        self.origin = start // _ALIGNMENT * _ALIGNMENT
        self.storage = Storage(self.stop - self.origin)


class Memory:
    """The global memory of one or several kernel launches."""

    def __init__(self) -> None:
        self._windows: list[_Window] = []
        self._regions: list[tuple[str, int, int]] = []
        self._next = _BASE

    def put(self, array: npt.ArrayLike, name: str | None = None) -> int:
        """Copy an array into a buffer of its own and return its address."""
        content = _bytes_of(array)
        return self.window(content.size, {0: content}, name)

    def alloc(self, shape: Shape, dtype: npt.DTypeLike = np.uint8, name: str | None = None) -> int:
        """A buffer whose bytes count as unwritten: reading one before the kernel wrote it faults."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self.window(size, {0: size}, name)

    def window(
        self,
        virtual_bytes: int,
        windows: Mapping[int, npt.ArrayLike | int],
        name: str | None = None,
    ) -> int:
        """A buffer of `virtual_bytes` of which only some windows exist; any access outside of them faults.

        `windows` maps a byte offset to an array, or to a number of unwritten bytes.
        """
        name = name or f"buffer {len(self._regions)}"
        base, end = self._next, 0
        fresh = []
        for offset, content in sorted(windows.items()):
            size = content if isinstance(content, int) else _bytes_of(content).size
            if offset < end or offset + size > virtual_bytes:
                place = f"{offset}..{offset + size}"
                raise ValueError(f"{name}: window {place} overlaps another or leaves 0..{virtual_bytes}")
            end = offset + size
            window = _Window(name, base + offset, size)
            if not isinstance(content, int):
                window.storage.put(window.start - window.origin, _bytes_of(content))
            fresh.append(window)
        self._windows += fresh
        self._regions.append((name, base, virtual_bytes))
        self._next = -(-(base + virtual_bytes) // 256) * 256 + _GAP
        return base

    def get(self, pointer: int, dtype: npt.DTypeLike, shape: Shape) -> Array:
        """Copy values out; a byte that no one wrote is a fault, so that a forgotten store is found."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        data, written = self._slice(pointer, size)
        if not written.all():
            raise MemoryFault(
                f"byte {int(np.argmin(written))} of the {size} at {self._where(pointer)} was never written"
            )
        return data.copy().view(dtype).reshape(shape)

    def written(self, pointer: int, size: int) -> Array:
        """Which of `size` bytes have been written."""
        return self._slice(pointer, size)[1].astype(bool)

    def _slice(self, pointer: int, size: int) -> tuple[Array, Array]:
        for window in self._windows:
            if window.start <= pointer and pointer + size <= window.stop:
                begin = pointer - window.origin
                return window.storage.data[begin : begin + size], window.storage.written[begin : begin + size]
        raise MemoryFault(f"{size} bytes at {self._where(pointer)} are not backed")

    def load(self, addresses: Array, size: int, count: int) -> Array:
        """`count` words of `size` bytes at each address."""
        loaded = np.empty((addresses.size, count), UNSIGNED[size * 8])
        for window, lanes in self._resolve(addresses, size * count):
            try:
                loaded[lanes] = window.storage.load(addresses[lanes] - window.origin, size, count)
            except MemoryFault as fault:
                raise self._located(fault, addresses, lanes) from None
        return loaded

    def store(self, addresses: Array, values: Array) -> None:
        """Write rows of words."""
        for window, lanes in self._resolve(addresses, values.itemsize * values.shape[1]):
            try:
                window.storage.store(addresses[lanes] - window.origin, values[lanes])
            except MemoryFault as fault:
                raise self._located(fault, addresses, lanes) from None

    def _resolve(self, addresses: Array, size: int) -> Iterator[tuple[_Window, Any]]:
        """The windows that an access touches, each with the lanes that touch it."""
        misaligned = addresses % size != 0
        if misaligned.any():
            at = int(np.argmax(misaligned))
            place = self._where(int(addresses[at]))
            raise MemoryFault(f"misaligned access of {size} bytes at {place}", at=at)
        starts = np.array([window.start for window in self._windows], np.int64)
        stops = np.array([window.stop for window in self._windows], np.int64)
        low, high = np.searchsorted(starts, [addresses.min(), addresses.max()], side="right") - 1
        if low >= 0 and low == high and addresses.max() + size <= stops[low]:
            yield self._windows[low], slice(None)
            return
        owner = np.searchsorted(starts, addresses, side="right") - 1
        outside = owner < 0
        outside[~outside] = addresses[~outside] + size > stops[owner[~outside]]
        if outside.any():
            at = int(np.argmax(outside))
            place = self._where(int(addresses[at]))
            raise MemoryFault(f"access of {size} bytes out of bounds at {place}", at=at)
        for index in np.unique(owner):
            yield self._windows[index], np.flatnonzero(owner == index)

    def _located(self, fault: MemoryFault, addresses: Array, lanes: Any) -> MemoryFault:
        at = fault.at if isinstance(lanes, slice) else int(lanes[fault.at])
        return MemoryFault(f"{fault}, at {self._where(int(addresses[at]))}", at=at)

    def _where(self, address: int) -> str:
        """An address as an offset to the region it lies in, or to the nearest one."""
        if not self._regions:
            return f"address {address:#x}"
        name, base, size = min(self._regions, key=lambda r: max(r[1] - address, address - (r[1] + r[2]), 0))
        return f"offset {address - base} of {name} ({size} bytes)"


def _bytes_of(array: npt.ArrayLike) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
