"""The plane `tables`: the tables of an array, the label of every unit, and the dropped zeros of every stream."""

from __future__ import annotations

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.entropy.plan import ANS, HUFFMAN, Plan
from arraycodec.primitives.jit import kernel

WIDTHS = np.arange(14)  # bits of a frequency below its highest


def pack(plan: Plan, tables: np.ndarray, labels: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """The plane.

    tables  uint16 (T, A): code lengths, or frequencies
    labels  uint8, one for each unit; not looked at where there is one table
    zeros   uint8, one for each stream; not looked at where the plan has none
    """
    parts = [_pack_table(plan, table) for table in tables[: plan.tables]]
    if plan.tables > 1:
        parts.append(pack_bits(labels, _label_bits(plan)))
    if plan.zeros:
        parts.append(zeros.astype(np.uint8))
    return np.concatenate([np.zeros(0, np.uint8), *parts])


def unpack(plan: Plan, plane: np.ndarray, units: int, streams: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tables, labels and zeros again; CorruptError where the plane has another length or breaks a rule."""
    at, tables = 0, np.zeros((plan.tables, plan.symbols), np.uint16)
    for table in range(plan.tables):
        tables[table], at = _unpack_table(plan, plane, at)
    labels = np.zeros(units, np.uint8)
    if plan.tables > 1:
        labels, at = unpack_bits(plane, at, units, _label_bits(plan))
        if labels.size and labels.max() >= plan.tables:
            raise CorruptError(f"lossless: labels must be below {plan.tables}, got {labels.max()}")
    zeros = plane[at : at + streams * plan.zeros]
    if at + streams * plan.zeros != plane.size:
        raise CorruptError(f"lossless: plane 'tables' must have {at + streams * plan.zeros} bytes, got {plane.size}")
    if zeros.size and zeros.max() > min(plan.rest, 63):
        raise CorruptError(f"lossless: a stream drops {zeros.max()} of {plan.rest} bits")
    return tables, labels, zeros if plan.zeros else np.zeros(streams, np.uint8)


def _label_bits(plan: Plan) -> int:
    return (plan.tables - 1).bit_length()


def _pack_table(plan: Plan, table: np.ndarray) -> np.ndarray:
    return pack_bits(table, 4) if plan.coder == HUFFMAN else pack_frequencies(table)


def _unpack_table(plan: Plan, plane: np.ndarray, at: int) -> tuple[np.ndarray, int]:
    if plan.coder == ANS:
        return unpack_frequencies(plane, at, plan.symbols, plan.bits)
    lengths = np.zeros(plan.symbols, np.uint16)
    end = _room(plane, at, (plan.symbols + 1) // 2)
    if not read_lengths(plane[at:end], plan.bits, lengths):
        raise CorruptError(f"tables: code lengths must be those of a complete code of {plan.bits} bits")
    return lengths, end


@kernel
def read_lengths(packed, bits, lengths):
    """Code lengths of 4 bits each; False unless they are those of a complete code, or of one symbol with length 1."""
    taken, used = 0, 0
    for symbol in range(lengths.size):
        length = int((packed[symbol >> 1] >> (4 * (symbol & 1))) & 15)
        lengths[symbol] = length
        if length > bits:
            return False
        if length:
            taken += 1 << (bits - length)
            used += 1
    return taken == 1 << bits or (used == 1 and 2 * taken == 1 << bits)


def pack_frequencies(frequencies: np.ndarray) -> np.ndarray:
    """4 bits for the number of bits of each frequency, then all their bits below the highest."""
    lengths = _bit_lengths(frequencies)
    low = ((frequencies[:, None].astype(np.int64) >> WIDTHS) & 1).astype(np.uint8)
    return np.concatenate([pack_bits(lengths, 4), np.packbits(low[lengths[:, None] > WIDTHS + 1], bitorder="little")])


def unpack_frequencies(plane: np.ndarray, at: int, symbols: int, bits: int) -> tuple[np.ndarray, int]:
    """The frequencies from byte `at` on, and the byte after them; CorruptError unless they add up to 2^bits."""
    low = _room(plane, at, (symbols + 1) // 2)
    frequencies = np.zeros(symbols, np.uint16)
    end = _room(plane, low, int(low_bits(plane[at:low], symbols) + 7) // 8)
    total = read_frequencies(plane[at:low], plane[low:end], frequencies)
    if total != 1 << bits:
        raise CorruptError(f"tables: frequencies must add up to 2^{bits}, got {total}")
    return frequencies, end


@kernel
def low_bits(packed, symbols):
    """How many bits the frequencies have below their highest."""
    total = 0
    for symbol in range(symbols):
        total += max(int((packed[symbol >> 1] >> (4 * (symbol & 1))) & 15) - 1, 0)
    return total


@kernel
def read_frequencies(packed, low, frequencies):
    """Frequencies from their numbers of bits and the bits below their highest; what they add up to."""
    at, total = 0, 0
    for symbol in range(frequencies.size):
        length = int((packed[symbol >> 1] >> (4 * (symbol & 1))) & 15)
        value = 1 << (length - 1) if length else 0
        for k in range(length - 1):
            value += int((low[at >> 3] >> (at & 7)) & 1) << k
            at += 1
        frequencies[symbol] = value
        total += value
    return total


def _room(plane: np.ndarray, at: int, count: int) -> int:
    """The byte after so many bytes from `at` on."""
    if at + count > plane.size:
        raise CorruptError(f"tables: the plane must have at least {at + count} bytes, got {plane.size}")
    return at + count


def _bit_lengths(x: np.ndarray) -> np.ndarray:
    """The number of bits of each integer, 0 for 0."""
    return (x[:, None].astype(np.int64) >> np.arange(16) > 0).sum(1).astype(np.uint8)


def pack_bits(values: np.ndarray, width: int) -> np.ndarray:
    """The low `width` bits of each value in a dense little-endian stream, padded to a byte."""
    bits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little")


def unpack_bits(plane: np.ndarray, at: int, count: int, width: int) -> tuple[np.ndarray, int]:
    """`count` values of so many bits from byte `at` on, and the byte after them."""
    end = _room(plane, at, -(-count * width // 8))
    bits = np.unpackbits(plane[at:end], count=count * width, bitorder="little").reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little").reshape(count), end
