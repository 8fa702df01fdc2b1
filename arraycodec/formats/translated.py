"""`Weight` and `Translated`: a weight that a foreign format stores as several tensors, seen as an Encoded of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from arraycodec import api
from arraycodec.base import Codec, Encoded, Given, Planes
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.view import Reading, TensorView
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.spec import ArraySpec


@dataclass(frozen=True)
class Weight:
    """What a format's reader says of one weight, from headers alone.

    spec    of the decoded array
    codec   that the weight is in
    parts   the stored tensors that it is made of, by role; the first is the main one, whose file is the weight's
    planes  the arrays of all parts -> the codec's planes. Pure: reshape, view, unpack, permute; CorruptError where
            values cannot be.
    check   raises CorruptError where planes break a rule of the format that the codec does not have, such as one about
            scales; `verify` asks it.
    """

    spec: ArraySpec
    codec: Codec
    parts: Mapping[str, LazyTensor]
    planes: Callable[[dict[str, np.ndarray]], Planes]
    check: Callable[[Planes], None] | None = None


class Translated(TensorView):
    """A weight of a foreign checkpoint, read when it is used; its interface is that of `LazyTensor`.

    name, spec (of the decoded array), shape, dtype, codec, nbytes (stored bytes of all parts), path (of the main
    part's file), where (what errors call it).
    """

    needs_base = False  # it is no difference itself

    def __init__(self, name: str, weight: Weight, how: Reading) -> None:
        main = next(iter(weight.parts.values()))
        self.name, self.spec, self.codec = name, weight.spec, weight.codec
        self.path, self.nbytes = main.path, sum(part.nbytes for part in weight.parts.values())
        self.where = f"{main.path}: weight {checks.shown(name)}"
        self.parts = dict(weight.parts)
        self._planes, self._check, self._how = weight.planes, weight.check, how

    @property
    def reads_base(self) -> bool:
        """Whether a part of it is the difference to an array of another checkpoint."""
        return any(part.reads_base for part in self.parts.values())

    def encoded(self) -> Encoded:
        """The Encoded with planes of the checkpoint's framework."""
        return self._moved(self._encoded())

    def stored(self) -> Encoded:
        """The same."""
        return self.encoded()

    def decode(self, out: Any = None, *, given: Given | None = None) -> Any:
        """The decoded array in the checkpoint's framework, on its device.

        out    an array to fill and return, as for `arraycodec.decode`.
        given  the extra inputs that the codec declares.
        """
        checks.within(self.spec.nbytes, self._how.max_bytes, self.where)
        encoded = self._encoded()
        with checks.from_file(self.where):
            try:
                return api.decode(self._moved(encoded), out=out, given=given)
            except UnsupportedByBackend:  # this device has no decoder: decode on the host, and place the array
                if out is not None:
                    raise
            return self._placed(api.decode(encoded, given=given))

    def verify(self) -> int:
        """Read every stored byte and check the codec's rules; 0, since nothing of it is under a checksum of ours."""
        planes = self._encoded(verify=True).planes
        with checks.from_file(self.where):
            if self._check:
                self._check(planes)
        return 0

    def __repr__(self) -> str:
        return f"Translated({checks.shown(self.name)}, {checks.spec_text(self.spec)}, {self.codec})"

    def _encoded(self, verify: bool | None = None) -> Encoded:
        checks.within(self.nbytes, self._how.max_bytes, self.where)
        arrays = {role: part._numpy() for role, part in self.parts.items()}
        with checks.from_file(self.where, (ArgumentError,)):
            encoded = Encoded(self.codec, self.spec, self._planes(arrays))
            api.validate(encoded)
            if self._how.verify if verify is None else verify:
                self.codec.check(encoded.planes, self.spec)
        return encoded

    def _numpy(self) -> np.ndarray:
        checks.within(self.spec.nbytes, self._how.max_bytes, self.where)
        encoded = self._encoded()
        with checks.from_file(self.where):
            return api.decode(encoded)

    def _elements(self, start: int, stop: int) -> np.ndarray:
        planes = self._encoded().planes
        with checks.from_file(self.where):
            return self.codec.read(
                lambda name, piece: planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece],
                self.spec, start, stop,
            )  # fmt: skip
