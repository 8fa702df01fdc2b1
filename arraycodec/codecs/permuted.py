"""`Permuted`: an array with its columns in another order, in which a codec of the rest finds groups side by side.

The specification is docs/format/permuted.md. Columns are the elements along one axis. GPTQ with activation order is
`Then(Permuted(), values=Linear(4, False, (1, 128)))`: groups of columns that are not neighbours share a scale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.threads import split
from arraycodec.spec import DTYPES, ArraySpec, spec_of


@dataclass(frozen=True)
class Permuted(Codec):
    """The columns of an array in another order: column `j` of the array is column `order[j]` of the plane `values`.

    axis  along which columns are counted; from the end where it is negative.

    Arrays are of any shape and dtype; one without axes has one column. Planes: int32 `order`, one number per column,
    and `values`, an array like the one encoded. Encoding needs `given={"order": order}`, a permutation.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.array([[10, 11, 12]]), ac.Permuted(), given={"order": np.array([1, 2, 0], np.int32)})
    >>> enc.planes["values"].tolist(), ac.decode(enc).tolist()
    ([[12, 10, 11]], [[10, 11, 12]])
    """

    name: ClassVar[str] = "permuted"
    lossless: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = tuple(name for name, row in DTYPES.items() if row.bits % 8 == 0)
    computed: ClassVar[tuple[str, ...]] = ("values",)
    moved: ClassVar[str | None] = "values"

    axis: int = -1

    def __post_init__(self) -> None:
        if isinstance(self.axis, bool) or not isinstance(self.axis, int):
            raise self.fail("axis", "an integer", self.axis)

    def supports(self, spec: ArraySpec) -> None:
        super().supports(spec)
        self.sides(spec)

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        return {"order": ArraySpec((self.sides(spec)[1],), "int32"), "values": spec}

    def sides(self, spec: ArraySpec) -> tuple[int, int, int]:
        """The array as three axes: those before the columns, the columns, those of a column."""
        shape = spec.known_shape or (1,)
        if not -len(shape) <= self.axis < len(shape):
            raise self.fail("axis", f"one of the {len(shape)} axes of {spec.dtype}{list(spec.shape)}", self.axis)
        axis = self.axis % len(shape)
        return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        self.supports(spec := spec_of(x))
        order, values = self.permutation(given), empty(spec)
        take(x, np.argsort(order), self.sides(spec), values)
        return {"order": order, "values": values}

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        take(planes["values"], planes["order"], self.sides(spec), out)
        return out

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        order = np.asarray(planes["order"])
        for row in order.reshape(-1, order.shape[-1]):  # one per leading axis
            if not is_permutation(row):
                raise CorruptError(f"permuted: order must be a permutation of 0 to {row.size - 1}")

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The whole matrices, or rows where columns are along the last axis, around the range."""
        _, columns, length = self.sides(spec)
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        row = columns * length
        first, last = start // row, -(-stop // row)
        out = empty(ArraySpec((last - first, columns, length), spec.dtype))
        take(fetch("values", slice(first * row, last * row)), fetch("order", slice(None)), out.shape, out)
        return out.reshape(-1)[start - first * row : stop - first * row]

    def taken(self, given: Given | None) -> Any:
        """The order among what is given."""
        if not given or "order" not in given:
            raise ArgumentError("permuted: given must hold 'order', for each column its place among the values")
        return given["order"]

    def permutation(self, given: Given | None) -> np.ndarray:
        """A copy of that order, in which each column must have a place of its own."""
        order = np.array(self.taken(given), np.int32)
        if not is_permutation(order):
            raise self.fail("order", f"a permutation of 0 to {order.size - 1}", order.tolist()[:8])
        return order


def take(source: np.ndarray, order: np.ndarray, sides: tuple[int, ...], out: np.ndarray) -> None:
    """Column j of `out` becomes column order[j] of `source`; places out of range are the nearest ones in it."""
    if not out.size:
        return
    columns, target = bits(source).reshape(sides), writable_bits(out).reshape(sides)

    def work(first: int, last: int) -> None:
        np.take(columns[first:last], order, axis=1, mode="clip", out=target[first:last])

    split(work, sides[0], out.size)


def is_permutation(order: np.ndarray) -> bool:
    """Whether integers are those from 0 to their number, each once."""
    seen = np.zeros(order.size, bool)
    inside = order[(order >= 0) & (order < order.size)]
    seen[inside] = True
    return bool(seen.all())
