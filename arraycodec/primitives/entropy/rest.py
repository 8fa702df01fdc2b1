"""The rest of words: bits stored raw, in a section of each stream for every power of two in their number.

So 23 bits are sections of 16, 4, 2 and 1 bits, the widest of the lowest bits. Whole bytes are little-endian words; of
narrower sections, byte q holds elements q, q + Q, q + 2Q, ...: nothing but shifts of neighbours, on any machine.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel


@inlined
def section_bytes(width, count):
    """The bytes of a section: whole words of 64 bits."""
    return (count * width + 63) // 64 * 8


@inlined
def chunk_bytes(bits, count):
    """The bytes of all sections for so many bits of so many elements."""
    total = 0
    for log in range(7):
        if (bits >> log) & 1:
            total += section_bytes(1 << log, count)
    return total


@kernel
def chunk_places(lengths, zeros, bits):
    """Where the chunk of every stream starts, and where the last one ends."""
    places = np.zeros(lengths.size + 1, np.int64)
    for i in range(lengths.size):
        places[i + 1] = places[i] + chunk_bytes(bits - zeros[i], lengths[i])
    return places


@kernel
def load_rest(chunk, bits, words):
    """The rest of every word of a stream, as an integer."""
    at, factor = 0, 1  # a multiplication by 2^low keeps the words' type, a shift would widen it
    first = True
    for log in range(6, -1, -1):
        width = 1 << log
        if not bits & width:
            continue
        size = section_bytes(width, words.size)
        section = chunk[at : at + size]
        if width == 64:
            _load(section.view(np.uint64), factor, first, words)
        elif width == 32:
            _load(section.view(np.uint32), factor, first, words)
        elif width == 16:
            _load(section.view(np.uint16), factor, first, words)
        elif width == 8:
            _load(section, factor, first, words)
        else:
            stride = (words.size * width + 7) // 8
            for j in range(8 // width):
                part = words[min(j * stride, words.size) : min((j + 1) * stride, words.size)]
                _load_shifted(section, j * width, (1 << width) - 1, factor, first, part)
        factor = factor << width if width < 64 else 0
        at += size
        first = False
    if first:
        words[:] = 0


@inlined
def _load(section, factor, first, words):
    """Add a section of whole bytes to the words."""
    f = words.dtype.type(factor)
    if first:
        for i in range(words.size):
            words[i] = words.dtype.type(section[i])
    else:
        for i in range(words.size):
            words[i] += words.dtype.type(section[i]) * f


@inlined
def _load_shifted(section, shift, mask, factor, first, words):
    """Add one element of every byte to the words."""
    f, s, m = words.dtype.type(factor), np.uint8(shift), np.uint8(mask)
    if first:
        for i in range(words.size):
            words[i] = words.dtype.type(np.uint8(section[i] >> s) & m)
    else:
        for i in range(words.size):
            words[i] += words.dtype.type(np.uint8(section[i] >> s) & m) * f


@kernel
def store_rest(words, bits, chunk):
    """The inverse of `load_rest`; the words may have other bits above the rest."""
    at, low = 0, 0
    for log in range(6, -1, -1):
        width = 1 << log
        if not bits & width:
            continue
        size = section_bytes(width, words.size)
        section = chunk[at : at + size]
        if width == 64:
            _store(words, low, section.view(np.uint64))
        elif width == 32:
            _store(words, low, section.view(np.uint32))
        elif width == 16:
            _store(words, low, section.view(np.uint16))
        elif width == 8:
            _store(words, low, section)
        else:
            stride = (words.size * width + 7) // 8
            section[:] = 0
            for j in range(8 // width):
                part = words[min(j * stride, words.size) : min((j + 1) * stride, words.size)]
                _store_shifted(part, low, (1 << width) - 1, j * width, section)
        at += size
        low += width


@inlined
def _store(words, low, section):
    """Cut a section of whole bytes out of the words."""
    s = words.dtype.type(low)
    for i in range(words.size):
        section[i] = section.dtype.type(words[i] >> s)
    for i in range(words.size, section.size):
        section[i] = 0


@inlined
def _store_shifted(words, low, mask, shift, section):
    """Put a few bits of every word at `shift` into the bytes."""
    s, up, m = words.dtype.type(low), np.uint8(shift), np.uint8(mask)
    for i in range(words.size):
        section[i] |= np.uint8((np.uint8(words[i] >> s) & m) << up)
