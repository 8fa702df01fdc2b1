"""The rest of words: bits stored raw, in a section of each stream for every power of two in their number.

So 23 bits are sections of 16, 4, 2 and 1 bits, the widest of the lowest bits. Whole bytes are little-endian words; of
narrower sections, byte q holds elements q, q + Q, q + 2Q, ...: nothing but shifts of neighbours, on any machine.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel

POWERS = np.array([1 << k for k in range(64)], np.uint64)  # factors: a shift would widen words to 64 bits


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
    words[:] = 0
    at, low, n = 0, 0, words.size
    for log in range(6, -1, -1):
        width = 1 << log
        if not bits & width:
            continue
        section = chunk[at : at + section_bytes(width, n)]
        at, factor = at + section.size, POWERS[low]
        low += width
        if width == 64:
            _load(section.view(np.uint64), factor, words)
        elif width == 32:
            _load(section.view(np.uint32), factor, words)
        elif width == 16:
            _load(section.view(np.uint16), factor, words)
        elif width == 8:
            _load(section, factor, words)
        else:
            q = (n * width + 7) // 8
            if width == 4:
                _load_bits(section, 0, 15, factor, words[:q])
                _load_bits(section, 4, 15, factor, words[q:])
            elif width == 2:
                _load_bits(section, 0, 3, factor, words[:q])
                _load_bits(section, 2, 3, factor, words[q : 2 * q])
                _load_bits(section, 4, 3, factor, words[2 * q : 3 * q])
                _load_bits(section, 6, 3, factor, words[3 * q :])
            else:
                _load_bits(section, 0, 1, factor, words[:q])
                _load_bits(section, 1, 1, factor, words[q : 2 * q])
                _load_bits(section, 2, 1, factor, words[2 * q : 3 * q])
                _load_bits(section, 3, 1, factor, words[3 * q : 4 * q])
                _load_bits(section, 4, 1, factor, words[4 * q : 5 * q])
                _load_bits(section, 5, 1, factor, words[5 * q : 6 * q])
                _load_bits(section, 6, 1, factor, words[6 * q : 7 * q])
                _load_bits(section, 7, 1, factor, words[7 * q :])


@inlined
def _load(section, factor, words):
    """Add a section of whole bytes to the words."""
    word = words.dtype.type
    f = word(factor)
    for i in range(words.size):
        words[i] += word(word(section[i]) * f)


@inlined
def _load_bits(section, shift, mask, factor, words):
    """Add a few bits of every byte to the words; the shift is a literal, without which this loop is slow."""
    word = words.dtype.type
    f = word(factor)
    for i in range(words.size):
        words[i] += word(word(np.uint8(np.uint8(section[i] >> np.uint8(shift)) & np.uint8(mask))) * f)


@kernel
def cut_rest(words, bits, chunk):
    """Move the rest of every word into the chunk of a stream; the words keep what stands above it."""
    at, n = 0, words.size
    for log in range(6, -1, -1):
        width = 1 << log
        if not bits & width:
            continue
        section = chunk[at : at + section_bytes(width, n)]
        at += section.size
        if width == 64:
            _store(words, section.view(np.uint64))
            words[:] = 0
        elif width == 32:
            _store(words, section.view(np.uint32))
            _shift(words, 32)
        elif width == 16:
            _store(words, section.view(np.uint16))
            _shift(words, 16)
        elif width == 8:
            _store(words, section)
            _shift(words, 8)
        else:
            section[:] = 0
            q = (n * width + 7) // 8
            if width == 4:
                _store_bits(words[:q], 0, 15, section)
                _store_bits(words[q:], 4, 15, section)
                _shift(words, 4)
            elif width == 2:
                _store_bits(words[:q], 0, 3, section)
                _store_bits(words[q : 2 * q], 2, 3, section)
                _store_bits(words[2 * q : 3 * q], 4, 3, section)
                _store_bits(words[3 * q :], 6, 3, section)
                _shift(words, 2)
            else:
                _store_bits(words[:q], 0, 1, section)
                _store_bits(words[q : 2 * q], 1, 1, section)
                _store_bits(words[2 * q : 3 * q], 2, 1, section)
                _store_bits(words[3 * q : 4 * q], 3, 1, section)
                _store_bits(words[4 * q : 5 * q], 4, 1, section)
                _store_bits(words[5 * q : 6 * q], 5, 1, section)
                _store_bits(words[6 * q : 7 * q], 6, 1, section)
                _store_bits(words[7 * q :], 7, 1, section)
                _shift(words, 1)


@inlined
def _shift(words, width):
    """Drop the lowest bits; the number is a literal, without which this loop is slow."""
    word = words.dtype.type
    for i in range(words.size):
        words[i] = word(words[i] >> word(width))


@inlined
def _store(words, section):
    """Put the lowest bits of every word into whole bytes."""
    for i in range(words.size):
        section[i] = section.dtype.type(words[i])
    for i in range(words.size, section.size):
        section[i] = 0


@inlined
def _store_bits(words, shift, mask, section):
    """Add the lowest bits of every word to the bytes; shift and mask are literals."""
    for i in range(words.size):
        section[i] |= np.uint8(np.uint8(np.uint8(words[i]) & np.uint8(mask)) << np.uint8(shift))
