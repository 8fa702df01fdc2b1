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


@inlined
def values_per_byte(values, bits):
    """The values of the one or two codes in each of the 256 bytes, one after another."""
    if bits == 8:
        return values.copy()
    pairs = np.empty(512, np.float32)
    for byte in range(256):
        pairs[2 * byte] = values[byte >> 4]
        pairs[2 * byte + 1] = values[byte & 15]
    return pairs


@inlined
def look_up(codes, bits, start, count, per_byte, y):
    """The values of the elements start..start + count."""
    if bits == 8:
        piece = codes[start : start + count]
        for i in range(count):
            y[i] = per_byte[piece[i]]
        return
    piece = codes[start >> 1 : (start + count + 1) >> 1]
    pairs, both = per_byte.view(np.uint64), y.view(np.uint64)
    for i in range(piece.size):  # two floats in one move; after an odd last element comes the padding
        both[i] = pairs[piece[i]]
