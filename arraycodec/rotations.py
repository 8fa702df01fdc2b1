"""Rotations of weights by Hadamard and other matrices, which spread outliers over a whole row before it is quantised.

A layer x -> x W^T becomes x -> (x V) W^T ("input") or x -> (x W^T) V ("output"), or with the inverse of V: as in
compressed-tensors' locations weight_input and weight_output. Arithmetic is float64, rounded once to the weight's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.errors import ArgumentError
from arraycodec.primitives import hadamard as primitive
from arraycodec.spec import numpy_dtype, spec_of

FLOATS = ("float16", "bfloat16", "float32", "float64")
SIDES = ("input", "output")
PIECE = 1 << 20  # elements rounded at a time


def hadamard(n: int, *, seed: int | None = None) -> np.ndarray:
    """The Hadamard matrix H of order n that `rotate` uses, there divided by sqrt(n): int8, 1 and -1, H H^T = n I.

    n     a power of two (Sylvester's matrix), or that times q + 1 or 2 (q + 1) for a prime power q (Paley's): most
          sizes of models, such as 5120, 11008, 13824 and 14336. ArgumentError for others, with the nearest ones.
    seed  a number makes it random: column i is negated where bit 63 of the i-th number of splitmix64(seed) is set, so
          that a seed gives the same matrix everywhere and always.

    >>> import arraycodec as ac
    >>> ac.hadamard(4).tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    >>> h = ac.hadamard(12, seed=7).astype(int)
    >>> bool((h @ h.T == 12 * np.eye(12)).all())
    True
    """
    found = primitive.matrix(n)
    return found if seed is None else found * primitive.signs(n, seed)


def rotate(
    weight: Any,
    side: str,
    *,
    matrix: Any = None,
    seed: int | None = None,
    inverse: bool = False,
    head_dim: int | None = None,
    embedding: bool = False,
) -> Any:
    """A weight whose layer multiplies its input, or its output, with a matrix V.

    weight     (..., out, in) of a linear layer, or its bias (out,) for the output: float16, bfloat16, float32 or
               float64, of any framework; it is not changed.
    side       "input": the layer becomes x -> (x V) W^T; "output": x -> (x W^T) V.
    matrix     V, if it is not the Hadamard matrix of that order, over sqrt(n); it must have an inverse.
    seed       of a random Hadamard matrix (see `hadamard`).
    inverse    multiply with the inverse of V.
    head_dim   V is block-diagonal with blocks of this order.
    embedding  the weight is (num_embeddings, dim), the layer a look-up: its output is the last axis.

    Gives an array of the same shape, dtype, framework and device; computed on the host in float64, in n log n steps
    for Hadamard matrices, and rounded once. ArgumentError for a size that has no Hadamard matrix or that head_dim does
    not divide.

    >>> import numpy as np, arraycodec as ac
    >>> w = np.zeros((2, 4), np.float32); w[0, 1] = 8
    >>> turned = ac.rotate(w, "input", inverse=True)
    >>> turned[0].tolist(), ac.rotate(turned, "input")[0].tolist()
    ([4.0, -4.0, 4.0, -4.0], [0.0, 8.0, 0.0, 0.0])
    """
    if matrix is not None:
        if seed is not None:
            raise ArgumentError("rotate: seed is for Hadamard matrices: it cannot be given together with matrix")
        matrix = registry.backend(type(matrix)).to_numpy(matrix).astype(np.float64)
    backend = registry.backend(type(weight))
    x = backend.to_numpy(weight)
    work = widened(x)
    turn(work, Rotation(seed, matrix), side, inverse, head_dim, embedding)
    return rounded_like(weight, work)


@dataclass(frozen=True, eq=False)
class Rotation:
    """V: a Hadamard matrix over sqrt(n), randomised by `seed`; or `matrix`, of float64, over `divisor`.

    `orthogonal` says of a matrix that its inverse is its transpose.
    """

    seed: int | None = None
    matrix: np.ndarray | None = None
    divisor: float = 1.0
    orthogonal: bool = False

    def turn(self, x: np.ndarray, axis: int, side: str, inverse: bool, size: int) -> None:
        """Multiply a float64 array in place along an axis, in blocks of `size`: with V or its inverse for "input", with
        the transpose of either for "output".
        """
        view = np.moveaxis(x, axis, 0)
        for at in range(0, len(view), size):
            block = view[at : at + size]
            flat = block.reshape(size, -1)
            if self.matrix is None:
                self._walsh(flat, (side == "input") != inverse)
            else:
                flat = self._dense(self.matrix, side, inverse) @ flat / self.divisor
            block[...] = flat.reshape(block.shape)

    def _walsh(self, x: np.ndarray, forward: bool) -> None:
        """V x = H D x, or its transpose or inverse times x = D H^T x, over sqrt(n)."""
        signs = 1 if self.seed is None else primitive.signs(len(x), self.seed)[:, None]
        if forward:
            x *= signs
        primitive.multiply(x, not forward)
        if not forward:
            x *= signs
        x /= np.sqrt(np.float64(len(x)))

    def _dense(self, matrix: np.ndarray, side: str, inverse: bool) -> np.ndarray:
        if inverse:
            matrix = matrix.T if self.orthogonal else np.linalg.inv(matrix)
        return matrix if side == "input" else matrix.T

    def check(self, n: int) -> None:
        """ArgumentError where there is no such matrix of order n."""
        if self.matrix is None:
            primitive.base_of(n)
        elif self.matrix.shape != (n, n):
            raise ArgumentError(f"rotate: matrix must have shape ({n}, {n}), got {self.matrix.shape}")


def turn(work: np.ndarray, rotation: Rotation, side: str, inverse: bool, head_dim: int | None, embedding: bool) -> None:
    """`rotate`, in place in float64."""
    axis = axis_of(work.shape, side, embedding)
    n = work.shape[axis]
    if head_dim is not None and (not isinstance(head_dim, int) or head_dim < 1 or n % head_dim):
        raise ArgumentError(f"rotate: head_dim must divide {n}, got {head_dim!r}")
    if n:
        rotation.check(head_dim or n)
        rotation.turn(work, axis, side, inverse, head_dim or n)


def axis_of(shape: tuple[int, ...], side: str, embedding: bool) -> int:
    """The axis of a weight, or of a bias, that is a side of its layer."""
    if side not in SIDES:
        raise ArgumentError(f"rotate: side must be 'input' or 'output', got {side!r}")
    if len(shape) == 0 or (len(shape) == 1 and side == "input"):
        raise ArgumentError(f"rotate: weight must be a matrix, or a bias for the output, got shape {shape}")
    return -1 if len(shape) == 1 or (side == "input") != embedding else -2


def widened(x: np.ndarray) -> np.ndarray:
    """A float64 copy; ArgumentError for what is no float."""
    if (dtype := spec_of(x).dtype) not in FLOATS:
        raise ArgumentError(f"rotate: weight must be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, got {dtype}")
    return np.array(x, np.float64, order="C")


def rounded_like(value: Any, work: np.ndarray) -> Any:
    """A float64 array in the dtype and framework of a value, on its device."""
    backend, device = registry.backend(type(value)), getattr(value, "device", None)
    device = None if hasattr(device, "device_set") else device  # a sharded array has many
    return backend.from_numpy(round_once(work, backend.spec(value).dtype), device)


def round_once(x: np.ndarray, dtype: str) -> np.ndarray:
    """A float64 array in another dtype, rounded to nearest even once, where a cast by way of float32 rounds twice."""
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return x.astype(numpy_dtype(dtype))
    out = np.empty(x.shape, numpy_dtype(dtype))
    flat, target = x.reshape(-1), out.reshape(-1)
    for at in range(0, flat.size, PIECE):
        target[at : at + PIECE] = _to_odd(flat[at : at + PIECE])
    return out


def _to_odd(x: np.ndarray) -> np.ndarray:
    """float32 that is odd in its last bit where float64 lay between two, so that rounding it sees on which side."""
    with np.errstate(over="ignore"):
        near = x.astype(np.float32)
    beside = (near.view(np.uint32) & 1 == 0) & np.isfinite(near) & (near != x)
    towards = np.where(x[beside] > near[beside], np.float32(np.inf), -np.float32(np.inf))
    near[beside] = np.nextafter(near[beside], towards)
    return near


__all__ = ["hadamard", "rotate"]
