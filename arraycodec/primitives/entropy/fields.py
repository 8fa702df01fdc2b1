"""Words and what is coded of them: `u`, a word whose bits are arranged so that the symbol is on top and the rest below.

Everything is arithmetic modulo 2^n on unsigned integers of n bits; docs/format/lossless.md has the formulas.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from arraycodec.primitives.entropy.plan import FLOAT, PALETTE, SIGNED, Plan
from arraycodec.primitives.jit import inlined, kernel


class Constants(NamedTuple):
    """What kernels need to arrange words of one type: scalars of that type."""

    offset: np.unsignedinteger
    scale: np.unsignedinteger  # 2^rest, 0 where that is the whole word
    flip: np.unsignedinteger  # the sign bit of signed integers
    above: np.unsignedinteger  # of u: the bits above a float's sign,
    sign: np.unsignedinteger  # its sign
    raise_sign: np.unsignedinteger  # what takes that to the top of the word
    below: np.unsignedinteger  # and the bits below it


def constants(plan: Plan, word: np.dtype) -> Constants:
    """The constants of a plan for words of this dtype."""
    n = 8 * word.itemsize
    full = (1 << n) - 1
    sign = 1 << plan.sign if plan.arrangement == FLOAT else 0
    values = (
        plan.offset,
        (1 << plan.rest) & full,
        1 << (n - 1) if plan.arrangement == SIGNED else 0,
        full & ~(2 * sign - 1) if sign else 0,
        sign,
        1 << (n - 1 - plan.sign),
        sign - 1 if sign else full,
    )
    return Constants(*(word.type(value) for value in values))


@kernel
def words_of(symbols, zeros, arrangement, c, palette, lone, words):
    """Words of symbols and of their rests, which `words` holds; False where a palette has no such word.

    lone  the symbol of the palette's only word, where the arrangement is not that of a palette; 256: there is none
    """
    word = words.dtype.type
    one = word(1)
    offset, scale, above, sign, raise_sign, below = c.offset, c.scale, c.above, c.sign, c.raise_sign, c.below
    if zeros:
        for i in range(words.size):
            words[i] = word(words[i] << word(zeros))
    if arrangement == FLOAT:  # every step is cut to the word's type, or the loop would run on words of 64 bits
        for i in range(words.size):
            u = word(word(word(word(symbols[i]) * scale) + words[i]) + offset)
            moved = word(word(u & above) >> one)
            words[i] = word(word(moved | word(u & below)) | word(word(u & sign) * raise_sign))
    else:
        for i in range(words.size):
            words[i] = word(word(word(word(symbols[i]) * scale) + words[i]) + offset) ^ c.flip
    if lone < 256:
        _place(symbols, np.uint8(lone), palette[0], words)
    return _look_up(palette, words) if arrangement == PALETTE else True


@inlined
def _place(symbols, lone, lone_word, words):
    """The lone word wherever its symbol is."""
    for i in range(words.size):
        words[i] = lone_word if symbols[i] == lone else words[i]


@inlined
def _look_up(palette, words):
    """Each index by its word."""
    for i in range(words.size):
        if words[i] >= palette.size:
            return False
        words[i] = palette[words[i]]
    return True


@kernel
def arranged(words, arrangement, c, palette, u):
    """u of words, less the offset; of a palette's words their index (words that it lacks become 0)."""
    word = words.dtype.type
    one = word(1)
    if arrangement == FLOAT:
        top = word(c.sign * c.raise_sign)
        for i in range(words.size):
            w = words[i]
            moved = word(word(w & word(~word(c.below | top))) << one)
            u[i] = word(moved | (w & c.below) | (c.sign if w & top else word(0))) - c.offset
    elif arrangement == PALETTE:
        for i in range(words.size):
            found = np.searchsorted(palette, words[i])
            u[i] = word(found) if found < palette.size and palette[found] == words[i] else word(0)
    else:
        for i in range(words.size):
            u[i] = (words[i] ^ c.flip) - c.offset
