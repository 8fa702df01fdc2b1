"""Tabled ANS: the tables that code with given frequencies.

A state is a number below M = 2^bits; every state belongs to a symbol, each symbol to as many as its frequency. A
decoder at a state emits its symbol and goes on to `base` plus the next few bits of the stream. States are spread over
symbols as in the FSE of zstd.
"""

from __future__ import annotations

import numpy as np

from arraycodec.primitives.jit import inlined, kernel


@inlined
def log2_floor(x):
    """The exponent of the largest power of two that is not above x."""
    found = 0
    while x > 1:
        x >>= 1
        found += 1
    return found


@kernel
def symbols_of_states(frequencies, bits):
    """The symbol of every state: the symbols in order, each as often as its frequency, spread by a fixed step."""
    size = 1 << bits
    step, state = (size >> 1) + (size >> 3) + 3, 0
    found = np.empty(size, np.uint8)
    for symbol in range(frequencies.size):
        for _ in range(frequencies[symbol]):
            found[state] = symbol
            state = (state + step) & (size - 1)
    return found


@kernel
def decoding_table(frequencies, bits):
    """For every state: the number of bits to read, symbol << 8, base << 16."""
    size = 1 << bits
    states, counts = symbols_of_states(frequencies, bits), frequencies.astype(np.uint32)
    exponents = np.empty(2 * size, np.uint8)  # log2 of X below 2^(bits + 1), by doubling
    exponents[1] = 0
    for k in range(1, bits + 1):
        exponents[1 << k : 1 << (k + 1)] = k
    table = np.empty(size, np.uint32)
    for state in range(size):
        symbol = states[state]
        x = counts[symbol]
        counts[symbol] = x + np.uint32(1)
        read = np.uint32(bits) - np.uint32(exponents[x])
        table[state] = read | (np.uint32(symbol) << np.uint32(8)) | (((x << read) - np.uint32(size)) << np.uint32(16))
    return table


@kernel
def encoding_tables(frequencies, bits):
    """What an encoder at state x + M needs: with d = drops[symbol], it emits n = (x + M + d) >> 16 low bits and goes to
    the state `states[firsts[symbol] + ((x + M) >> n)]`.
    """
    size = 1 << bits
    drops, firsts = np.zeros(frequencies.size, np.uint32), np.zeros(frequencies.size, np.int64)
    first = 0
    for symbol in range(frequencies.size):
        frequency = int(frequencies[symbol])
        if frequency:
            most = bits - log2_floor(frequency)
            drops[symbol] = np.uint32(((most << 16) - (frequency << most)) & 0xFFFFFFFF)
        firsts[symbol] = first - frequency
        first += frequency
    states, counts = np.empty(size, np.uint16), frequencies.astype(np.int64)
    spread = symbols_of_states(frequencies, bits)
    for state in range(size):
        symbol = spread[state]
        states[firsts[symbol] + counts[symbol]] = state
        counts[symbol] += 1
    return drops, firsts, states


@kernel
def normalised(counts, bits):
    """Frequencies that add up to 2^bits, nearly those that code symbols with these counts in the fewest bits.

    counts  int64 (A,), of 1..2^bits symbols; each that occurs gets a frequency of at least 1.
    """
    size, total = np.int64(1) << bits, counts.sum()
    found, left = np.zeros(counts.size, np.int64), size
    for symbol in range(counts.size):
        if counts[symbol]:
            found[symbol] = max(1, counts[symbol] * size // total)
            left -= found[symbol]
    while left:  # move one state to, or from, the symbol to which it matters the most, or the least
        best, best_gain = -1, np.int64(0)
        for symbol in range(counts.size):
            frequency = found[symbol] if left > 0 else found[symbol] - 1
            if counts[symbol] and frequency:
                gain = (counts[symbol] << 20) // (2 * frequency + 1)  # of log2(1 + 1 / frequency), up to a factor
                if best < 0 or (gain > best_gain if left > 0 else gain < best_gain):
                    best, best_gain = symbol, gain
        step = 1 if left > 0 else -1
        found[best] += step
        left -= step
    return found
