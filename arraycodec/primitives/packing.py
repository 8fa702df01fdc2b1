"""Packing: codes of a few bits in bytes, in the two orders that formats use.

`store_codes` and `look_up` have 4-bit codes two to a byte, the first of a pair in the high nibble: bitsandbytes' order.
`store_dense` and `load_dense` have a dense little-endian bit stream, in which code i begins at bit i * bits:
compressed-tensors' order, and that of all other formats here.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel


@inlined
def copy(source, target):
    """Copy the shorter's length, in a loop that vectorises: assigning to a slice takes six times as long in Numba."""
    for i in range(min(source.size, target.size)):
        target[i] = source[i]


@inlined
def store_codes(codes, packed, bits, start, zero):
    """Pack codes that begin at element `start`; 4 bits: an even element is the high nibble of its byte."""
    n = codes.size
    if bits == 8:
        copy(codes, packed[start : start + n])
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


@kernel
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


@inlined
def store_dense(codes, packed, bits, start, count):
    """Append `count` codes to the stream as elements start..., a multiple of 8; `codes` has room for whole eights.

    Eight codes make as many bytes as a code has bits: neighbours move together by halves within a 64-bit word.
    """
    if bits == 8:
        copy(codes, packed[start : start + count])
        return
    eights = (count + 7) >> 3
    codes[count : 8 * eights] = 0  # the stream ends in zero bits
    words = codes.view(np.uint64)
    b = np.uint64(bits)
    for i in range(eights):
        w = words[i]
        w = (w & np.uint64(0x00FF00FF00FF00FF)) | ((w & np.uint64(0xFF00FF00FF00FF00)) >> (np.uint64(8) - b))
        w = (w & np.uint64(0x0000FFFF0000FFFF)) | ((w & np.uint64(0xFFFF0000FFFF0000)) >> (np.uint64(16) - b - b))
        words[i] = (w & np.uint64(0xFFFFFFFF)) | ((w >> np.uint64(32)) << (np.uint64(4) * b))
    first, nbytes = (start >> 3) * bits, (count * bits + 7) >> 3
    target = packed[first : first + nbytes]
    whole = count >> 3
    if bits == 4:  # one store for eight codes where a machine has such a store
        halves = target[: 4 * whole].view(np.uint32)
        for i in range(whole):
            halves[i] = np.uint32(words[i] & np.uint64(0xFFFFFFFF))
    elif bits == 2:
        quarters = target[: 2 * whole].view(np.uint16)
        for i in range(whole):
            quarters[i] = np.uint16(words[i] & np.uint64(0xFFFF))
    else:  # whole words, of which the next covers the bytes in excess; the last ones byte by byte
        wide = min(max(nbytes - 8 + bits, 0) // bits, whole)
        for i in range(wide):
            target[i * bits : i * bits + 8].view(np.uint64)[0] = words[i]
        for i in range(wide, whole):
            for k in range(bits):
                target[i * bits + k] = codes[8 * i + k]
    for k in range(nbytes - whole * bits):
        target[whole * bits + k] = codes[8 * whole + k]


@inlined
def load_dense(packed, bits, start, count, codes):
    """The inverse of `store_dense`, from an element that is a multiple of 8; `codes` has room for whole eights."""
    if bits == 8:
        copy(packed[start : start + count], codes)
        return
    first, nbytes, eights = (start >> 3) * bits, (count * bits + 7) >> 3, (count + 7) >> 3
    source = packed[first : first + nbytes]
    whole = count >> 3
    words = codes.view(np.uint64)
    if bits == 4:
        halves = source[: 4 * whole].view(np.uint32)
        for i in range(whole):
            words[i] = np.uint64(halves[i])
    elif bits == 2:
        quarters = source[: 2 * whole].view(np.uint16)
        for i in range(whole):
            words[i] = np.uint64(quarters[i])
    else:  # whole words, the bits in excess are masked below; the last ones byte by byte
        wide = min(max(nbytes - 8 + bits, 0) // bits, whole)
        for i in range(wide):
            words[i] = source[i * bits : i * bits + 8].view(np.uint64)[0]
        for i in range(wide, whole):
            w = np.uint64(0)
            for k in range(bits):
                w |= np.uint64(source[i * bits + k]) << np.uint64(8 * k)
            words[i] = w
    if eights > whole:
        w = np.uint64(0)
        for k in range(nbytes - whole * bits):
            w |= np.uint64(source[whole * bits + k]) << np.uint64(8 * k)
        words[whole] = w
    b = np.uint64(bits)
    low = (np.uint64(1) << b) - np.uint64(1)
    both = (np.uint64(1) << (b + b)) - np.uint64(1)
    four = (np.uint64(1) << (np.uint64(4) * b)) - np.uint64(1)
    both |= both << np.uint64(32)
    low |= low << np.uint64(16)
    low |= low << np.uint64(32)
    for i in range(eights):
        w = words[i]
        w = (w & four) | ((w >> (np.uint64(4) * b)) << np.uint64(32))
        w = (w & both) | (((w >> (b + b)) & both) << np.uint64(16))
        words[i] = (w & low) | (((w >> b) & low) << np.uint64(8))
