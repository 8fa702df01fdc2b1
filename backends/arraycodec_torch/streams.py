"""Entropy-coded streams as torch ops: the tables of both coders, and a loop in which every stream is a lane.

An entry of a table is what one look-up gives: the number of bits taken, symbol << 8, base << 16. The index of the next
entry is, for Huffman codes, the next bits of the stream; for ANS it is the state, base plus the bits taken.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from arraycodec.primitives.entropy.plan import ANS, HUFFMAN, Plan
from arraycodec_torch import arrays

LONGEST = 14  # bits that one look-up takes at most
INTEGERS = {8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}


class Streams(NamedTuple):
    """What decoding takes besides the plan; integers are int64 where nothing else is said."""

    words: torch.Tensor  # int32: the plane `streams`, of whose last 8 bytes up to 3 are missing
    starts: torch.Tensor  # the bit at which each stream starts
    ends: torch.Tensor  # the byte after each stream
    table: torch.Tensor  # int32 (T << bits,): the tables one after another
    labels: torch.Tensor  # int32: the first entry of every unit's table


def huffman_tables(lengths: torch.Tensor, bits: int) -> torch.Tensor:
    """Look-up tables int32 (T, 2^bits) of canonical codes with these lengths (T, A), each complete or of one symbol.

    In order of length and symbol, codes are intervals of the numbers that `bits` bits are if the first is the highest.
    """
    lengths = lengths.to(torch.int64)
    order = torch.where(lengths > 0, lengths, bits + 1).argsort(dim=1, stable=True)
    sorted_lengths = lengths.gather(1, order)
    behind = torch.where(sorted_lengths > 0, 1 << (bits - sorted_lengths), 0).cumsum(1)
    number = torch.arange(1 << bits, device=lengths.device)
    reversed_number = sum(((number >> i) & 1) << (bits - 1 - i) for i in range(bits))
    rank = torch.searchsorted(behind, number.expand(len(lengths), -1).contiguous(), right=True)
    rank = rank.minimum((lengths > 0).sum(1, keepdim=True) - 1)  # for a code alone either bit stands
    entries = sorted_lengths.gather(1, rank) | order.gather(1, rank) << 8
    return entries[:, reversed_number].to(torch.int32)


def ans_tables(frequencies: torch.Tensor, bits: int) -> torch.Tensor:
    """Decoding tables int32 (T, 2^bits) of tabled ANS with these frequencies (T, A), which add up to 2^bits."""
    frequencies, size = frequencies.to(torch.int64), 1 << bits
    step = (size >> 1) + (size >> 3) + 3
    slot = torch.arange(size, device=frequencies.device).expand(len(frequencies), -1).contiguous()
    behind = frequencies.cumsum(1)
    of_slot = torch.searchsorted(behind, slot, right=True)
    symbol = of_slot[:, slot[0] * pow(step, -1, size) % size]  # slot i goes to the state i * step
    # In order of symbol and state, states are where their slots are, and X counts up from the frequency of the symbol.
    states = symbol.argsort(dim=1, stable=True)
    frequency = frequencies.gather(1, of_slot)
    x = torch.empty_like(slot).scatter_(1, states, frequency + slot - (behind.gather(1, of_slot) - frequency))
    powers = 1 << torch.arange(bits + 2, device=x.device)
    count = bits + 1 - torch.bucketize(x, powers, right=True)
    return (count | symbol << 8 | ((x << count) - size) << 16).to(torch.int32)


def tables(plan: Plan, tables: torch.Tensor) -> torch.Tensor:
    """The look-up tables of a plan, one after another."""
    made = huffman_tables(tables, plan.bits) if plan.coder == HUFFMAN else ans_tables(tables, plan.bits)
    return made.reshape(-1)


def decode_streams(plan: Plan, streams: Streams, whole: int, rest: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The symbols uint8 (step, stream) and whether all streams end where they should.

    whole   the number of streams with all elements; those after them have `rest`, and zeros for what they lack
    """
    count, device = streams.starts.numel(), streams.starts.device
    length = plan.stream if whole else rest
    symbols = torch.zeros((length, count), dtype=torch.uint8, device=device)
    pairs = look_up_words(streams, LONGEST * (length + 1))
    units, mask = -(-length // plan.unit), (1 << plan.bits) - 1
    first_unit = torch.arange(count, device=device) * units
    at, state, label = streams.starts.clone(), torch.zeros_like(first_unit), torch.zeros_like(first_unit)
    if plan.coder == ANS:
        state = pairs[at >> 5] >> (at & 31) & mask
        at += plan.bits
    for step in range(length):
        own = slice(count if step < rest else whole)
        if step % plan.unit == 0:
            label[own] = streams.labels[first_unit[own] + step // plan.unit].to(torch.int64)
        window = pairs[at[own] >> 5] >> (at[own] & 31)
        entry = streams.table[label[own] + (state[own] if plan.coder == ANS else window & mask)]
        taken = entry & 15
        symbols[step, own] = ((entry >> 8) & 255).to(torch.uint8)
        at[own] += taken
        if plan.coder == ANS:
            state[own] = (entry >> 16) + (window & ((1 << taken) - 1))
    return symbols, ((((at + 7) >> 3) == streams.ends) & (state == 0)).all()


def look_up_words(streams: Streams, bits: int) -> torch.Tensor:
    """int64: the 64 bits from every word on; zeros behind the end, as far as a stream of so many bits can go."""
    words = torch.nn.functional.pad(streams.words, (0, bits // 32 + 3))
    return torch.stack([words[:-1], words[1:]], dim=1).view(torch.int64).view(-1)


def read_small(planes: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Planes on the host, in one transfer."""
    data = arrays.to_numpy(torch.cat([integers(plane, 8) for plane in planes.values()]))
    parts = np.split(data, np.cumsum([plane.nbytes for plane in planes.values()])[:-1])
    specs = (arrays.spec(plane).numpy_dtype for plane in planes.values())
    return {name: np.array(part).view(dtype) for name, part, dtype in zip(planes, parts, specs, strict=True)}


def integers(x: torch.Tensor, n: int) -> torch.Tensor:
    """The elements one after another, as integers of n bits; of the same memory where they lie so."""
    return arrays.flat(x).view(INTEGERS[n]) if x.numel() else x.new_empty(0, dtype=INTEGERS[n])


def aligned(plane: torch.Tensor, n: int) -> torch.Tensor:
    """Bytes as integers of n bits, without the bytes left over at the end; copied where no such integer can start."""
    size = n // 8
    plane = arrays.flat(plane)[: plane.numel() // size * size]
    at_one = plane.storage_offset() % size == 0 and plane.data_ptr() % size == 0
    return integers(plane if at_one else plane.clone(), n)
