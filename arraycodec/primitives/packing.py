"""Packing: codes of 4 bits two to a byte, the first of a pair in the high nibble (bitsandbytes' order)."""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined


@inlined
def store_codes(codes, packed, bits, start, zero):
    """Pack codes that begin at element `start`; 4 bits: an even element is the high nibble of its byte."""
    n = codes.size
    if bits == 8:
        packed[start : start + n] = codes
        return
    first = start & 1
    if first:  # an odd block ended in the middle of this byte
        packed[start >> 1] = np.uint8((packed[start >> 1] & np.uint8(0xF0)) | codes[0])
    pairs = (n - first) >> 1
    target = packed[(start + first) >> 1 : ((start + first) >> 1) + pairs]
    if first:
        for i in range(pairs):
            target[i] = np.uint8((codes[2 * i + 1] << np.uint8(4)) | codes[2 * i + 2])
    else:  # two codes at once as a little-endian word: this form vectorises
        words = codes[: 2 * pairs].view(np.uint16)
        for i in range(pairs):
            target[i] = np.uint8((words[i] << np.uint16(4)) | (words[i] >> np.uint16(8)))
    if (n - first) & 1:
        packed[(start + n) >> 1] = np.uint8((codes[n - 1] << np.uint8(4)) | zero)
