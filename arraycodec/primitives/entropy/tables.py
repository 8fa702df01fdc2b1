"""The plane `tables`: the tables of an array, the label of every unit, and the dropped zeros of every stream."""

from __future__ import annotations

import numpy as np

from arraycodec.errors import CorruptError
from arraycodec.primitives.entropy.plan import ANS, HUFFMAN, Plan

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
    lengths, at = unpack_bits(plane, at, plan.symbols, 4)
    used = lengths[lengths > 0].astype(np.int64)
    alone = used.size == 1 and used[0] == 1
    fits = used.size > 0 and used.max() <= plan.bits
    if not alone and not (fits and (1 << (plan.bits - used)).sum() == 1 << plan.bits):
        raise CorruptError(f"tables: code lengths must be those of a complete code of {plan.bits} bits")
    return lengths, at


def pack_frequencies(frequencies: np.ndarray) -> np.ndarray:
    """4 bits for the number of bits of each frequency, then all their bits below the highest."""
    lengths = _bit_lengths(frequencies)
    low = ((frequencies[:, None].astype(np.int64) >> WIDTHS) & 1).astype(np.uint8)
    return np.concatenate([pack_bits(lengths, 4), np.packbits(low[lengths[:, None] > WIDTHS + 1], bitorder="little")])


def unpack_frequencies(plane: np.ndarray, at: int, symbols: int, bits: int) -> tuple[np.ndarray, int]:
    """The frequencies from byte `at` on, and the byte after them; CorruptError unless they add up to 2^bits."""
    lengths, at = unpack_bits(plane, at, symbols, 4)
    taken = lengths[:, None] > WIDTHS + 1
    low, at = unpack_bits(plane, at, int(taken.sum()), 1)
    lows = np.zeros(taken.shape, np.int64)
    lows[taken] = low
    frequencies = (lows << WIDTHS).sum(1) + np.where(lengths > 0, 1 << np.maximum(lengths.astype(np.int64) - 1, 0), 0)
    if frequencies.sum() != 1 << bits:
        raise CorruptError(f"tables: frequencies must add up to 2^{bits}, got {frequencies.sum()}")
    return frequencies, at


def _bit_lengths(x: np.ndarray) -> np.ndarray:
    """The number of bits of each integer, 0 for 0."""
    return (x[:, None].astype(np.int64) >> np.arange(16) > 0).sum(1).astype(np.uint8)


def pack_bits(values: np.ndarray, width: int) -> np.ndarray:
    """The low `width` bits of each value in a dense little-endian stream, padded to a byte."""
    bits = np.unpackbits(values.astype(np.uint8)[:, None], axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little")


def unpack_bits(plane: np.ndarray, at: int, count: int, width: int) -> tuple[np.ndarray, int]:
    """`count` values of so many bits from byte `at` on, and the byte after them."""
    end = at + -(-count * width // 8)
    if end > plane.size:
        raise CorruptError(f"tables: the plane must have at least {end} bytes, got {plane.size}")
    bits = np.unpackbits(plane[at:end], count=count * width, bitorder="little").reshape(count, width)
    return np.packbits(bits, axis=1, bitorder="little").reshape(count), end
