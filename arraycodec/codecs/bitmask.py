"""`Bitmask`: unstructured sparsity; the elements that are not zero, and a bit for each element.

The specification is docs/format/bitmask.md. Encoding, row by row of the last axis:
    1  bit i of a row: whether element i is kept, because one of its bits is set;
    2  values: the kept elements of all rows, one after another;
    3  offsets: where each row begins among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import CorruptError
from arraycodec.primitives.bitmasks import (
    bitmask_spec,
    check_ends,
    magnitude_mask,
    row_starts,
    rows_of,
    starts_of,
    sums,
)
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.sparse import fours_of, mark_rows, spread_rows, squeeze_rows
from arraycodec.primitives.threads import split
from arraycodec.spec import DTYPES, ArraySpec, spec_of


@dataclass(frozen=True)
class Bitmask(Codec):
    """The elements that are not zero, and a bitmask that tells where they are.

    drop_negative_zero  drop -0 as well, which then decodes to +0; compressed-tensors does so. By default only +0 is
                        dropped, and every bit comes back.

    Arrays are of any dtype and shape; rows are along the last axis. Planes: `values` (those kept, of the array's
    dtype), `bitmask` uint8 (a bit per element, the lowest first; rows are whole bytes), `offsets` (for each row the
    number of values before it; int32, or int64 for arrays of 2^31 elements and more). `values` may have a codec of
    its own: `Then(Bitmask(), values=Linear(8))`.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.array([[0, 1.5, 0, 2], [0, 0, -3, 0]], np.float32), ac.Bitmask())
    >>> enc.planes["values"].tolist(), enc.planes["bitmask"].tolist(), enc.planes["offsets"].tolist()
    ([1.5, 2.0, -3.0], [[10], [4]], [0, 2])
    """

    name: ClassVar[str] = "bitmask"
    dtypes: ClassVar[tuple[str, ...]] = tuple(dtype for dtype, row in DTYPES.items() if row.bits % 8 == 0)
    computed: ClassVar[tuple[str, ...]] = ("values", "bitmask", "offsets")
    sized_by: ClassVar[tuple[str, ...]] = ("bitmask",)

    drop_negative_zero: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.drop_negative_zero, bool):
            raise self.fail("drop_negative_zero", "True or False", self.drop_negative_zero)

    @property
    def lossless(self) -> bool:  # type: ignore[override]  # by the parameter
        return not self.drop_negative_zero

    def mask(self, dtype: str) -> int:
        """An element is kept where it has one of these bits."""
        return magnitude_mask(dtype) if self.drop_negative_zero else (1 << DTYPES[dtype].bits) - 1

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        offsets = ArraySpec(spec.shape[:-1] or (1,), "int32" if spec.size < 1 << 31 else "int64")
        return {"values": ArraySpec((None,), spec.dtype), "bitmask": bitmask_spec(spec), "offsets": offsets}

    def sized(self, planes: Planes, spec: ArraySpec) -> dict[str, ArraySpec]:
        """As many values as there are bits."""
        return self.planes(spec) | {"values": ArraySpec((int(starts_of(planes["bitmask"], spec)[-1]),), spec.dtype)}

    def decodes_to(self, spec: ArraySpec, dtype: str) -> bool:
        return dtype == spec.dtype

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        spec, source = spec_of(x), bits(x)
        self.supports(spec)
        specs, rows, counts = self.planes(spec), rows_of(spec), np.empty(rows_of(spec).units, np.int64)
        bitmask, mask = empty(specs["bitmask"]), source.dtype.type(self.mask(spec.dtype))
        flat = bitmask.reshape(-1)

        def mark(first: int, last: int) -> None:
            mark_rows(source, rows.columns, mask, flat, counts, first, last)

        split(mark, rows.units, source.size)
        starts = sums(counts)
        values = empty(ArraySpec((int(starts[-1]),), spec.dtype))
        target = writable_bits(values)

        def squeeze(first: int, last: int) -> None:
            squeeze_rows(source, fours_of(source), rows.columns, flat, starts, target, first, last)

        split(squeeze, rows.units, source.size)
        offsets = empty(specs["offsets"])
        offsets.reshape(-1)[:] = row_starts(starts, rows)[:-1]
        return {"values": values, "bitmask": bitmask, "offsets": offsets}

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        starts, rows = starts_of(planes["bitmask"], spec), rows_of(spec)
        self.check_number(planes["values"].size, int(starts[-1]))
        out = empty(spec) if out is None else out
        source, mask, target = bits(planes["values"]), bits(planes["bitmask"]), writable_bits(out)

        def spread(first: int, last: int) -> None:
            spread_rows(source, fours_of(source), starts, False, rows.columns, mask, target, first, last)

        split(spread, rows.units, target.size)
        return out

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        """That there are as many values as bits, offsets are their sums, and no bit is set after the end of a row.

        What has a codec of its own is not among the planes, and not looked at.
        """
        if "bitmask" not in planes:
            return
        starts, rows = starts_of(planes["bitmask"], spec), rows_of(spec)
        check_ends(self.name, planes["bitmask"], rows)
        if "values" in planes:
            self.check_number(planes["values"].size, int(starts[-1]))
        if "offsets" in planes:
            self._check_offsets(planes["offsets"].reshape(-1), row_starts(starts, rows)[:-1])

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The rows around the range: their bits, their offsets, and the values from the first offset on."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        columns, width = rows_of(spec).columns, rows_of(spec).width
        first, last = start // columns, -(-stop // columns)
        part = ArraySpec((last - first, columns), spec.dtype)
        planes: Planes = {"bitmask": fetch("bitmask", slice(first * width, last * width)).reshape(-1, width)}
        offsets = np.asarray(fetch("offsets", slice(first, last)), np.int64).reshape(-1)
        starts = starts_of(planes["bitmask"], part)
        self._check_offsets(offsets - offsets[0], row_starts(starts, rows_of(part))[:-1])
        if offsets[0] < 0:
            raise CorruptError(f"bitmask: offsets must be at least 0, got {offsets[0]}")
        planes["values"] = fetch("values", slice(int(offsets[0]), int(offsets[0] + starts[-1])))
        return self.decode(planes, part).reshape(-1)[start - first * columns : stop - first * columns]

    def check_number(self, got: int, number: int) -> None:
        """Raise CorruptError where there are more or fewer values than bits."""
        if got != number:
            raise CorruptError(f"bitmask: values must be as many as bits of the mask, which are {number}, got {got}")

    def _check_offsets(self, got: np.ndarray, want: np.ndarray) -> None:
        if (wrong := np.flatnonzero(got != want)).size:
            i = int(wrong[0])
            raise CorruptError(f"bitmask: offset {i} must be the number of values before it, {want[i]}, got {got[i]}")
