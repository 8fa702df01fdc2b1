"""Codebooks: the tables of every codebook format, typed once and loaded by every backend.

A table is data: `values` (code -> float), the decision `bounds` between neighbouring values, and `codes`, the code
of each rank. An element y is encoded by its rank, the number of bounds strictly below it: `codes[sum(y > bounds)]`.
Entries are hexadecimal float32 patterns, because a decimal literal is read differently by different parsers.

Every entry and bound that is not zero has magnitude >= 2^-24, so that its product with a scale >= 2^-100 is a normal
float; the two bounds of magnitude 2^-100 stand for "just above zero" and "just below zero".
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

MIN_ENTRY = 2.0**-24
MAX_ENTRY = 2.0**24


class Table(NamedTuple):
    """One codebook. float32 `values[2^bits]`, float32 `bounds[2^bits - 1]` rising, uint8 `codes[2^bits]` by rank."""

    bits: int
    values: np.ndarray[Any, np.dtype[np.float32]]
    bounds: np.ndarray[Any, np.dtype[np.float32]]
    codes: np.ndarray[Any, np.dtype[np.uint8]]

    @property
    def zero(self) -> int:
        """The code of 0.0: that of zero blocks, of non-finite blocks and of padding."""
        return int(self.codes[int((self.bounds < 0).sum())])

    @property
    def steps(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """`code = codes[0] + sum of steps[k] over the bounds k below y`, modulo 256: a rank without a look-up."""
        return np.diff(self.codes)


def _floats(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array([int(word, 16) for word in text.split()], np.uint32).view(np.float32)


# QLoRA's NormalFloat4, bitsandbytes create_normal_map / get_4bit_type("nf4").
_NF4 = """
bf800000 bf3239b1 bf066b30 beca32a0 be91a24d be3d353f bdba7871 00000000
3da2faff 3e24cae3 3e7c04dd 3ead033a 3ee1a4b8 3f1007ab 3f3913b3 3f800000
"""

# bitsandbytes' FP4, in code order: sign, then 0 1/192 2/3 1 1/3 1/2 1/6 1/4. Not OCP E2M1. Code 8 is +0 as well.
_FP4 = """
00000000 3baaaaab 3f2aaaab 3f800000 3eaaaaab 3f000000 3e2aaaab 3e800000
00000000 bbaaaaab bf2aaaab bf800000 beaaaaab bf000000 be2aaaab be800000
"""
# Its CUDA kernel decides on |y| by these rounded literals (five of seven are not the midpoints), ties to the smaller
# magnitude; the sign bit is set for every y < 0. As rising bounds on y: a negative one is the next float outwards.
_FP4_CUDA_BOUNDS = """
bf555556 bf155551 bed55557 be955556 be555556 bdb00001 bb2aaaba 8d800000
3b2aaab9 3db00000 3e555555 3e955555 3ed55556 3f155550 3f555555
"""
_FP4_CUDA_CODES = (11, 10, 13, 12, 15, 14, 9, 8, 0, 1, 6, 7, 4, 5, 2, 3)
# Its CPU kernel sorts the table, both zeros included, and takes midpoints: y <= 0 gives code 0, above it code 8.
_FP4_CPU_CODES = (11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3)
JUST_ABOVE_ZERO = np.float32(2.0**-100)

# bitsandbytes create_dynamic_map(): the signed 8-bit dynamic tree type. -1 is absent.
_DYNAMIC = """
bf7e3333 bf7a999a bf770000 bf736666 bf6fcccd bf6c3333 bf68999a bf650000 bf616666 bf5dcccd bf5a3333 bf56999a
bf530000 bf4f6666 bf4bcccd bf483333 bf44999a bf410000 bf3d6666 bf39cccd bf363334 bf32999a bf2f0000 bf2b6666
bf27cccd bf243334 bf20999a bf1d0000 bf196666 bf15cccd bf123334 bf0e999a bf0b0000 bf076666 bf03cccc bf003333
bef93332 bef20000 beeacccc bee3999a bedc6666 bed53333 bece0000 bec6cccc bebf999a beb86666 beb13333 beaa0000
bea2cccc be9b999a be946666 be8d3334 be860000 be7d9999 be6f3333 be60cccd be526666 be440000 be35999a be273333
be18cccd be0a6666 bdf80000 bddb3334 bdc9eb85 bdc428f7 bdbe6667 bdb8a3d7 bdb2e148 bdad1eb8 bda75c2a bda1999a
bd9bd70a bd96147b bd9051eb bd8a8f5d bd84cccd bd7e147b bd728f5d bd670a3d bd5b851f bd500000 bd447ae1 bd38f5c3
bd2d70a3 bd21eb85 bd166667 bd0ae148 bcfeb852 bce7ae15 bcd0a3d7 bcb9999a bca28f5d bc8b851f bc68f5c3 bc3ae148
bc1f3b64 bc160418 bc0ccccd bc039581 bbf4bc6a bbe24dd3 bbcfdf3b bbbd70a4 bbab020d bb989374 bb8624dd bb676c8a
bb428f5c bb1db22d baf1a9fc baa7ef9d ba7765ff ba59e83e ba3c6a80 ba1eecc1 ba016f01 b9c7e283 b98ce705 b923d70b
b8ba1f4b b88aefb3 b8378034 b7b24206 b70205ff b65a1a94 b513a3b7 00000000 3513a3b7 365a1a94 370205ff 37b24206
38378034 388aefb3 38ba1f4b 3923d70b 398ce705 39c7e283 3a016f01 3a1eecc1 3a3c6a80 3a59e83e 3a7765ff 3aa7ef9d
3af1a9fc 3b1db22d 3b428f5c 3b676c8a 3b8624dd 3b989374 3bab020d 3bbd70a4 3bcfdf3b 3be24dd3 3bf4bc6a 3c039581
3c0ccccd 3c160418 3c1f3b64 3c3ae148 3c68f5c3 3c8b851f 3ca28f5d 3cb9999a 3cd0a3d7 3ce7ae15 3cfeb852 3d0ae148
3d166667 3d21eb85 3d2d70a3 3d38f5c3 3d447ae1 3d500000 3d5b851f 3d670a3d 3d728f5d 3d7e147b 3d84cccd 3d8a8f5d
3d9051eb 3d96147b 3d9bd70a 3da1999a 3da75c2a 3dad1eb8 3db2e148 3db8a3d7 3dbe6667 3dc428f7 3dc9eb85 3ddb3334
3df80000 3e0a6666 3e18cccd 3e273333 3e35999a 3e440000 3e526666 3e60cccd 3e6f3333 3e7d9999 3e860000 3e8d3334
3e946666 3e9b999a 3ea2cccc 3eaa0000 3eb13333 3eb86666 3ebf999a 3ec6cccc 3ece0000 3ed53333 3edc6666 3ee3999a
3eeacccc 3ef20000 3ef93332 3f003333 3f03cccc 3f076666 3f0b0000 3f0e999a 3f123334 3f15cccd 3f196666 3f1d0000
3f20999a 3f243334 3f27cccd 3f2b6666 3f2f0000 3f32999a 3f363334 3f39cccd 3f3d6666 3f410000 3f44999a 3f483333
3f4bcccd 3f4f6666 3f530000 3f56999a 3f5a3333 3f5dcccd 3f616666 3f650000 3f68999a 3f6c3333 3f6fcccd 3f736666
3f770000 3f7a999a 3f7e3333 3f800000
"""


def midpoints(values: np.ndarray) -> np.ndarray:
    """float32 `(a + b) * 0.5` of neighbours in a rising table: the bounds of nearest-value encoding, ties down."""
    return (values[:-1] + values[1:]) * np.float32(0.5)


def _rising(values: np.ndarray) -> Table:
    """A table whose codes are the ranks and whose bounds are the midpoints."""
    return Table(values.size.bit_length() - 1, values, midpoints(values), np.arange(values.size, dtype=np.uint8))


def _fp4_cpu() -> Table:
    values, codes = _floats(_FP4), np.array(_FP4_CPU_CODES, np.uint8)
    bounds = midpoints(values[codes])
    return Table(4, values, np.where(bounds == 0, JUST_ABOVE_ZERO, bounds), codes)


_TABLES = {
    ("nf4", None): lambda: _rising(_floats(_NF4)),
    ("fp4", None): lambda: Table(4, _floats(_FP4), _floats(_FP4_CUDA_BOUNDS), np.array(_FP4_CUDA_CODES, np.uint8)),
    ("fp4", "bnb-cpu"): _fp4_cpu,
    ("dynamic", None): lambda: _rising(_floats(_DYNAMIC)),
}
USER = {"user4": 4, "user8": 8}  # tables that travel with the data, as the plane `codebook`
NAMES = tuple(dict.fromkeys(name for name, _ in _TABLES)) + tuple(USER)


def flavours(name: str) -> list[str | None]:
    """The flavours of a named table; None is the canonical one."""
    return [flavour for table, flavour in _TABLES if table == name] or [None]


@cache
def table(name: str, flavour: str | None = None) -> Table:
    """The built-in table of this name and flavour; its arrays are read-only."""
    found = _TABLES[name, flavour]()
    for array in (found.values, found.bounds, found.codes):
        array.setflags(write=False)
    return found


def user_table(values: np.ndarray, bounds: np.ndarray | None = None) -> Table:
    """The table of a user's rising float32 `values`, with midpoints as bounds unless they are given.

    A zero among the bounds becomes 2^-100: whether a subnormal y lies above 0 is no question for hardware that flushes.
    """
    values = np.asarray(values, np.float32) + np.float32(0)  # -0 is the value +0
    bounds = midpoints(values) if bounds is None else np.asarray(bounds, np.float32)
    return _rising(values)._replace(bounds=np.where(bounds == 0, JUST_ABOVE_ZERO, bounds))
