"""Hadamard matrices: which orders there are, how one is built, and a product with one in n log n steps.

A matrix of order n is the Kronecker product of Sylvester's matrix of a power of two and a small one by Paley:
    I   order q + 1      for a prime power q = 3 modulo 4;
    II  order 2 (q + 1)  for a prime power q = 1 modulo 4.
The small one has the least order with which n is reached. Signs are drawn by splitmix64, which counts, so that they are
the same in every language and for every length.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import product
from operator import index

import numpy as np

from arraycodec.errors import ArgumentError

PIECE = 1 << 16  # elements that are multiplied at a time: in float64 they and their copy fit a second-level cache


def base_of(n: int) -> int:
    """The order of Paley's factor in the matrix of order n, 1 for a power of two; ArgumentError where there is none."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ArgumentError(f"hadamard: n must be a positive integer, got {n!r}")
    if (base := _base(n)) is None:
        below = next(k for k in range(n - 1, 0, -1) if _base(k))
        above = next(k for k in range(n + 1, 2 * n + 1) if _base(k))
        raise ArgumentError(
            f"hadamard: n must be a power of two, or that times q + 1 or 2 (q + 1) for some prime powers q, got {n}; "
            f"the nearest are {below} and {above}"
        )
    return base


@lru_cache(maxsize=256)
def _base(n: int) -> int | None:
    base = n
    while base % 2 == 0:
        base //= 2
    while base <= n:
        if base == 1 or _first(base) or _second(base):
            return base
        base *= 2
    return None


def _first(order: int) -> bool:
    return order % 4 == 0 and _prime_power(order - 1) is not None


def _second(order: int) -> bool:
    return order % 4 == 0 and (order // 2 - 1) % 4 == 1 and _prime_power(order // 2 - 1) is not None


def _prime_power(q: int) -> tuple[int, int] | None:
    """(p, k) with p prime and p^k = q, for odd q >= 3."""
    if q < 3 or q % 2 == 0:
        return None
    p = next((d for d in range(3, int(q**0.5) + 1, 2) if q % d == 0), q)
    k = 0
    while q % p == 0:
        q, k = q // p, k + 1
    return (p, k) if q == 1 else None


@lru_cache(maxsize=8)
def paley(order: int) -> np.ndarray:
    """The int8 matrix of +-1 of such an order, or of order 1."""
    if order == 1:
        return np.ones((1, 1), np.int8)
    first = _first(order)
    q = order - 1 if first else order // 2 - 1
    residues = _residues(q)
    inner = np.zeros((q + 1, q + 1), np.int8)
    inner[0, 1:], inner[1:, 0] = 1, -1 if first else 1
    inner[1:, 1:] = residues
    unit = np.eye(q + 1, dtype=np.int8)
    if first:
        return inner + unit
    return np.kron(inner, np.array([[1, 1], [1, -1]], np.int8)) + np.kron(unit, np.array([[1, -1], [-1, -1]], np.int8))


def _residues(q: int) -> np.ndarray:
    """Jacobsthal's matrix: 1 where the difference of two elements of the field of q is a square, 0 where it is 0, else
    -1. Elements are polynomials, numbered by their coefficients as digits in base p.
    """
    p, k = _prime_power(q) or (q, 1)
    digits = np.arange(q)[:, None] // p ** np.arange(k) % p
    character = np.full(q, -1, np.int8)
    character[0] = 0
    character[[_number(v, p) for v in _powers(p, k)[::2]]] = 1
    differences = (digits[:, None, :] - digits[None, :, :]) % p
    return character[differences @ p ** np.arange(k)]


def _powers(p: int, k: int) -> list[tuple[int, ...]]:
    """The powers of x modulo the first polynomial for which they are all units of the field; in a field of p elements
    that polynomial is x less a number, whose powers they are.
    """
    for tail in product(range(p), repeat=k):  # x^k = tail

        def times_x(v: tuple[int, ...], tail: tuple[int, ...] = tail) -> tuple[int, ...]:
            return tuple((low + v[-1] * t) % p for low, t in zip((0, *v[:-1]), tail, strict=True))

        if tail[0] and (found := _orbit(times_x, k, p**k - 1)):
            return found
    raise AssertionError("every finite field has a primitive polynomial")


def _orbit(step: Callable[[tuple[int, ...]], tuple[int, ...]], k: int, length: int) -> list[tuple[int, ...]] | None:
    """What becomes of 1, if it takes `length` steps to come back."""
    one = (1, *[0] * (k - 1))
    found: list[tuple[int, ...]] = [one]
    v = step(one)
    while v != one and len(found) < length:
        found.append(v)
        v = step(v)
    return found if v == one and len(found) == length else None


def _number(digits: tuple[int, ...], p: int) -> int:
    return sum(d * p**i for i, d in enumerate(digits))


def signs(n: int, seed: int) -> np.ndarray:
    """n signs, int8 1 or -1: -1 where the highest bit of the i-th number of splitmix64 is set."""
    z = np.uint64(index(seed) % 2**64) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.where(z >> np.uint64(63), -1, 1).astype(np.int8)


def matrix(n: int) -> np.ndarray:
    """The int8 matrix of +-1 of order n."""
    base = base_of(n)
    found = paley(base)
    for _ in range((n // base).bit_length() - 1):
        found = np.block([[found, found], [found, -found]])
    return found


def multiply(x: np.ndarray, transposed: bool) -> None:
    """H x, or its transpose times x, in place, for a float64 array (n, m)."""
    n, m = x.shape
    base = base_of(n)
    small = paley(base).astype(np.float64)
    small = small.T if transposed else small
    width = max(1, PIECE // n)
    for at in range(0, m, width):
        piece = np.ascontiguousarray(x[:, at : at + width])
        if base > 1:
            piece = np.matmul(small, piece.reshape(n // base, base, -1))
        x[:, at : at + width] = _walsh(piece.reshape(n // base, -1)).reshape(n, -1)


def _walsh(x: np.ndarray) -> np.ndarray:
    """Sylvester's matrix times x, of shape (2^k, m); every step adds and subtracts neighbours."""
    other, half = np.empty_like(x), len(x) // 2
    for _ in range(len(x).bit_length() - 1):
        np.add(x[0::2], x[1::2], out=other[:half])
        np.subtract(x[0::2], x[1::2], out=other[half:])
        x, other = other, x
    return x
