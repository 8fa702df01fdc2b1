"""`TensorView`: what every tensor in a file offers, however it is stored; reading it is left to those that know how."""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from arraycodec import registry
from arraycodec.base import Encoded, Given
from arraycodec.containers import checks
from arraycodec.errors import ArgumentError
from arraycodec.primitives import memory
from arraycodec.spec import ArraySpec, spec_of


@dataclass(frozen=True)
class Reading:
    """How a file was opened: what its tensors give, and what they check and take."""

    framework: str = "numpy"
    device: Any = None
    verify: bool = True
    max_bytes: int | None = None


class TensorView(ABC):
    """A tensor in a file: `name`, `spec` of the decoded array, `path` of its file, `where` (what errors call it)."""

    name: str
    spec: ArraySpec
    path: str
    where: str
    codec: Any  # Codec | None: None where it is stored plain
    nbytes: int  # stored bytes
    needs_base: Any
    reads_base: Any
    _how: Reading

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the decoded array."""
        return self.spec.known_shape

    @property
    def dtype(self) -> str:
        """The dtype of the decoded array, by its NumPy name."""
        return self.spec.dtype

    def placed(self, framework: str, device: Any = None) -> Self:
        """The same tensor, giving arrays of another framework or device."""
        if (framework, device) == (self._how.framework, self._how.device):
            return self
        other = copy(self)
        other._how = replace(self._how, framework=framework, device=device)
        return other

    @abstractmethod
    def encoded(self) -> Encoded:
        """The Encoded with planes of the container's framework; ArgumentError for a plain tensor."""

    @abstractmethod
    def stored(self) -> Any:
        """The Encoded, or the array of a tensor that is stored plain."""

    @abstractmethod
    def decode(self, out: Any = None, *, given: Given | None = None) -> Any:
        """The decoded (or plain) array in the container's framework, on its device."""

    @abstractmethod
    def verify(self) -> int:
        """Read and check every stored byte; how many of them are under checksums."""

    @abstractmethod
    def _numpy(self) -> np.ndarray:
        """The decoded array, in NumPy whatever the container's framework is."""

    @abstractmethod
    def _elements(self, start: int, stop: int) -> np.ndarray:
        """Elements of the flattened array, of the dtype it has in memory."""

    def __getitem__(self, rows: Any) -> Any:
        """Rows of axis 0 (int, slice with step 1, or a tuple that starts with one), decoding only what they touch."""
        pick: Any = rows if isinstance(rows, tuple) and rows else (rows,)
        first, rest = pick[0], pick[1:]
        if first is Ellipsis or isinstance(first, tuple):  # `x[...]`, `x[()]`
            return self._result(self._numpy()[rows])
        shape = checks.in_memory(self.spec).known_shape
        if not shape or len(shape) != len(self.shape) or shape[0] != self.shape[0]:  # packed rows are not whole bytes
            raise ArgumentError(f"{self.where}: {checks.spec_text(self.spec)} has no rows to select, got {rows!r}")
        if isinstance(first, slice):
            start, stop, step = first.indices(shape[0])
            if step != 1:
                raise ArgumentError(f"{self.where}: a slice must have step 1, got {first}")
            return self._result(self._rows(start, max(start, stop), shape)[:, *rest])
        row = _index(first)
        if row is None:
            raise ArgumentError(f"{self.where}: rows must be an int or a slice, got {first!r}")
        if not -shape[0] <= row < shape[0]:
            raise IndexError(f"{self.where}: row {row} of {shape[0]}")  # what ends Python's iteration over rows
        row %= shape[0]
        return self._result(self._rows(row, row + 1, shape)[0, *rest])

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.where}: an array without axes has no length")
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError(f"{self.where}: reading from a file always makes a copy")
        value = self._numpy()
        return value if dtype is None else value.astype(dtype)

    def _rows(self, start: int, stop: int, shape: tuple[int, ...]) -> np.ndarray:
        row = math.prod(shape[1:])
        return self._elements(start * row, stop * row).reshape(stop - start, *shape[1:])

    def _moved(self, encoded: Encoded) -> Encoded:
        """The same with planes of the container's framework, on its device."""
        planes = {name: self._placed(plane) for name, plane in encoded.planes.items()}
        return Encoded(encoded.codec, encoded.spec, planes)

    def _placed(self, value: np.ndarray) -> Any:
        return registry.framework(self._how.framework).from_numpy(value, self._how.device)

    def _result(self, value: Any) -> Any:
        return self._placed(memory.native(np.asarray(value)))

    def _copied(self, value: np.ndarray, out: Any) -> Any:
        """`out` filled with a value that lies on the host."""
        if isinstance(out, np.ndarray):
            memory.check_out(out, spec_of(value), {})
            np.copyto(out, value)
            return out
        backend = registry.backend(type(out))
        if not hasattr(out, "copy_") or backend.spec(out) != spec_of(value):
            raise ArgumentError(
                f"{self.where}: out must be a writable NumPy array or torch tensor {checks.spec_text(spec_of(value))}"
            )
        out.copy_(backend.from_numpy(value, None))
        return out


def _index(value: Any) -> int | None:
    """An int of any kind but bool, which NumPy would take for a mask."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None
