"""Shared memory of several thread blocks, with a detector that finds a missing barrier in any schedule.

Each byte carries two stamps, of its last writer and of its last reader. A stamp is the barrier epoch of the
block and the warp in it. Two warps that touch a byte in one epoch, one of them writing, are ordered by
nothing but luck: that is a race even if the lockstep execution here happens to give the right bits. Inside a
warp the program order holds.
"""

from __future__ import annotations

import numpy as np

from .errors import MemoryFault, SharedRace
from .formats import Array
from .memory import Storage

BASE = 4096
"""Address of the first shared variable; not zero, so that a lost base address is out of bounds."""

_WARPS = 64  # a block has 32 warps at most
_SEVERAL = _WARPS - 1  # "more than one warp in this epoch"


class SharedMemory:
    """`size` bytes for each of `blocks` thread blocks."""

    def __init__(self, blocks: int, size: int) -> None:
        self.size = size
        self._stride = -(-size // 32) * 32
        self._storage = Storage(blocks * self._stride)
        self._epoch = np.zeros(blocks, np.int32)
        self._writer = np.full(blocks * self._stride, -1, np.int32)
        self._reader = np.full(blocks * self._stride, -1, np.int32)

    def barrier(self, blocks: Array) -> None:
        """All threads of these blocks have met: later accesses are ordered after earlier ones."""
        self._epoch[blocks] += 1

    def load(self, addresses: Array, size: int, count: int, block: Array, warp: Array) -> Array:
        """`count` words of `size` bytes at each address, which lane i reads for warp[i] of block[i]."""
        offsets = self._offsets(addresses, size * count, block)
        places, stamp = offsets[:, None] + np.arange(size * count), self._stamp(block, warp)
        self._refuse(self._writer[places], stamp, "read by warp {} after a write by warp {}", warp, addresses)
        earlier = self._reader[places]
        self._reader[places] = stamp
        several = self._same_epoch(earlier, stamp) & (earlier != stamp) | (self._reader[places] != stamp)
        self._mark_several(self._reader, places, several, stamp)
        return self._storage.load(offsets, size, count)

    def store(self, addresses: Array, values: Array, block: Array, warp: Array) -> None:
        """Write rows of words, lane i for warp[i] of block[i].

        Warps may write a byte together if they agree on it: Triton stores replicated values that way.
        """
        size = values.itemsize * values.shape[1]
        offsets = self._offsets(addresses, size, block)
        places, stamp = offsets[:, None] + np.arange(size), self._stamp(block, warp)
        content = np.ascontiguousarray(values).view(np.uint8)
        earlier, data = self._writer[places], self._storage.data
        read = self._reader[places]
        self._refuse(read, stamp, "written by warp {} after a read by warp {}", warp, addresses)
        different = np.where(data[places] != content, earlier, -1)
        self._refuse(different, stamp, "written by warp {} after a write by warp {}", warp, addresses)
        self._writer[places] = stamp
        data[places] = content
        different = np.where(data[places] != content, self._writer[places], -1)
        self._refuse(different, stamp, "written by warp {} and by warp {}", warp, addresses)
        several = self._same_epoch(earlier, stamp) & (earlier != stamp) | (self._writer[places] != stamp)
        self._mark_several(self._writer, places, several, stamp)
        self._storage.store(offsets, values)

    @staticmethod
    def _mark_several(stamps: Array, places: Array, several: Array, stamp: Array) -> None:
        """Note that no single warp owns these bytes any more in this epoch."""
        stamps[places[several]] = np.broadcast_to(stamp // _WARPS * _WARPS + _SEVERAL, places.shape)[several]

    def _stamp(self, block: Array, warp: Array) -> Array:
        return (self._epoch[block] * _WARPS + warp).astype(np.int32)[:, None]

    @staticmethod
    def _same_epoch(stamps: Array, stamp: Array) -> Array:
        return stamps // _WARPS == stamp // _WARPS

    def _refuse(self, stamps: Array, stamp: Array, what: str, warp: Array, addresses: Array) -> None:
        race = self._same_epoch(stamps, stamp) & (stamps != stamp)
        if race.any():
            lane, byte = np.unravel_index(np.argmax(race), race.shape)
            other = int(stamps[lane, byte]) % _WARPS
            text = what.format(int(warp[lane]), "several" if other == _SEVERAL else other)
            place = int(addresses[lane]) - BASE + int(byte)
            message = f"byte {place} of shared memory is {text}, with no barrier between"
            raise SharedRace(message, at=int(lane))

    def _offsets(self, addresses: Array, size: int, block: Array) -> Array:
        """Places in the storage of all blocks, after the checks of bounds and alignment."""
        relative = addresses - BASE
        for wrong, what in (
            ((relative < 0) | (relative + size > self.size), "out of bounds"),
            (relative % size != 0, "misaligned"),
        ):
            if wrong.any():
                at = int(np.argmax(wrong))
                place = f"byte {int(relative[at])} of {self.size} of shared memory"
                raise MemoryFault(f"access of {size} bytes {what} at {place}", at=at)
        return relative + block * self._stride
