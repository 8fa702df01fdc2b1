"""`TwoFour`: 2:4 structured sparsity; two values of each four neighbours, and a bitmask that tells which.

The specification is docs/format/two_four.md. Encoding, row by row of the last axis:
    1  each group of four elements keeps the two of largest magnitude, of equal ones the first;
    2  where a group would lose a third one that is not zero, and that is not asked for: an error;
    3  bit i of a row: whether element i is kept; values: the kept elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives.bitmasks import Rows, bitmask_spec, check_ends, kind_of, rows_of
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.sparse import UNIT, choose_rows, fours_of, spread_rows, squeeze_rows
from arraycodec.primitives.threads import split
from arraycodec.spec import DTYPES, ArraySpec, spec_of


@dataclass(frozen=True)
class TwoFour(Codec):
    """2:4 sparsity: the two elements that each group of four keeps, and a bitmask that tells where they are.

    prune               keep the two elements of largest magnitude of every group, of equal ones the first, and drop the
                        others. By default an array in which a group would lose more than zeros is an ArgumentError.
    drop_negative_zero  a -0 is nothing that a group could lose: it ranks as +0 does, and decodes to +0 where it is
                        dropped. By default every bit comes back.

    Arrays are of any real dtype and shape; groups are along the last axis, the last one of a row may be shorter.
    Planes: `values` of the array's dtype, `(..., columns / 2)`; `bitmask` uint8, a bit per element, the lowest first.
    The values may have a codec of their own: `Then(TwoFour(), values=Linear(4))`.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.array([[0, 1.5, 0, 2, 3, 0, 0, 0]], np.float32)
    >>> enc = ac.encode(x, ac.TwoFour())
    >>> enc.planes["values"].tolist(), enc.planes["bitmask"].tolist()
    ([[1.5, 2.0, 3.0, 0.0]], [[58]])
    >>> ac.decode(ac.encode(np.array([[1, -4, 2, 3.0]]), ac.TwoFour(prune=True)))
    array([[ 0., -4.,  0.,  3.]])
    """

    name: ClassVar[str] = "two_four"
    dtypes: ClassVar[tuple[str, ...]] = tuple(
        dtype for dtype, row in DTYPES.items() if row.bits % 8 == 0 and dtype != "complex64"
    )
    computed: ClassVar[tuple[str, ...]] = ("values", "bitmask")

    prune: bool = False
    drop_negative_zero: bool = False

    def __post_init__(self) -> None:
        for parameter in ("prune", "drop_negative_zero"):
            if not isinstance(got := getattr(self, parameter), bool):
                raise self.fail(parameter, "True or False", got)

    @property
    def lossless(self) -> bool:  # type: ignore[override]  # by the parameters
        return not (self.prune or self.drop_negative_zero)

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        values = values_per_row(rows_of(spec).columns)
        return {"values": ArraySpec((*spec.shape[:-1], values), spec.dtype), "bitmask": bitmask_spec(spec)}

    def decodes_to(self, spec: ArraySpec, dtype: str) -> bool:
        return dtype == spec.dtype

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        spec, source = spec_of(x), bits(x)
        self.supports(spec)
        planes, rows = {name: empty(plane) for name, plane in self.planes(spec).items()}, rows_of(spec)
        flat, crowded, kind = planes["bitmask"].reshape(-1), np.empty(rows.units, np.int64), kind_of(spec.dtype)

        def choose(first: int, last: int) -> None:
            choose_rows(source, rows.columns, kind, not self.drop_negative_zero, flat, crowded, first, last)

        split(choose, rows.units, source.size)
        self.refuse(int(crowded.sum()), spec)
        starts, values = unit_starts(rows), writable_bits(planes["values"])

        def squeeze(first: int, last: int) -> None:
            squeeze_rows(source, fours_of(source), rows.columns, flat, starts, values, first, last)

        split(squeeze, rows.units, source.size)
        return planes

    def refuse(self, crowded: int, spec: ArraySpec) -> None:
        """Raise ArgumentError where groups have more to keep than two elements, unless that is asked for."""
        if crowded and not self.prune:
            groups = rows_of(spec).rows * -(-rows_of(spec).columns // 4)
            raise ArgumentError(
                f"two_four: groups of four must have at most two elements that are not zero, got more in {crowded} of "
                f"{groups}; prune=True keeps the two largest"
                + ("" if self.drop_negative_zero else ", drop_negative_zero=True takes -0 for zero")
            )

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out, rows = empty(spec) if out is None else out, rows_of(spec)
        source, mask, target = bits(planes["values"]), bits(planes["bitmask"]), writable_bits(out)
        starts = unit_starts(rows)

        def spread(first: int, last: int) -> None:
            spread_rows(source, fours_of(source), starts, True, rows.columns, mask, target, first, last)

        split(spread, rows.units, target.size)
        return out

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        """That two bits are set in each group of four, in a last one of less than two elements one, and none after."""
        if "bitmask" not in planes or not spec.size:  # it may have a codec of its own
            return
        rows, bitmask = rows_of(spec), planes["bitmask"]
        check_ends(self.name, bitmask, rows)
        low, high = COUNTS[bitmask & 15], COUNTS[bitmask >> 4]
        counts = np.stack([low, high], axis=-1).reshape(-1, 2 * rows.width)[:, : -(-rows.columns // 4)]
        want = np.full(counts.shape[1], 2, np.uint8)
        want[-1:] = min(rows.columns - (counts.shape[1] - 1) * 4, 2)
        if (wrong := np.flatnonzero(counts != want)).size:
            row, group = divmod(int(wrong[0]), counts.shape[1])
            raise CorruptError(
                f"two_four: bitmask must have {want[group]} bits in each group, got {counts[row, group]} in group "
                f"{group} of row {row}"
            )

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The rows around the range, of rows that are whole bytes the bytes around it."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        unit = 8 if rows_of(spec).columns % 8 == 0 else rows_of(spec).columns
        first, last = start // unit, -(-stop // unit)
        part = ArraySpec((last - first, unit), spec.dtype)
        each = {name: plane.size // (last - first) for name, plane in self.planes(part).items()}
        planes = {name: fetch(name, slice(first * n, last * n)) for name, n in each.items()}
        return self.decode(planes, part).reshape(-1)[start - first * unit : stop - first * unit]


COUNTS = np.array([i.bit_count() for i in range(16)], np.uint8)


def values_per_row(columns: int) -> int:
    """Two for each group of four, and for a shorter one at the end as many as it has, at most two."""
    return columns // 4 * 2 + min(columns % 4, 2)


def unit_starts(rows: Rows) -> np.ndarray:
    """Where the values of each unit begin, and where those of the last one end."""
    columns = np.arange(rows.across, dtype=np.int64) * (UNIT // 2)
    starts = np.arange(rows.rows, dtype=np.int64)[:, None] * values_per_row(rows.columns) + columns
    return np.append(starts, rows.rows * values_per_row(rows.columns))
