"""`Tied`: an array that is another tensor of the same checkpoint, known by the hash of its content.

The specification is docs/format/tied.md. No element is stored; who decodes must have the other array at hand:
`LazyTensor` and `Container` find it by the codec's parameters, others pass it as `given={"base": array}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from arraycodec.base import Codec, Given, Planes
from arraycodec.errors import ArgumentError, CorruptError
from arraycodec.primitives.content import HASH, content_hash, shown_hash
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.spec import DTYPES, ArraySpec, spec_of


@dataclass(frozen=True)
class Tied(Codec):
    """The bits of another tensor, which is named and not stored again.

    tensor  the name of the other tensor; it must not be tied itself.
    file    the name of the safetensors file that holds it, relative to the folder of the file with this one; "" is the
            same file.

    Arrays are of any shape and dtype. The plane `hash` uint32[4] is xxh3-128 of the array's bytes. Encoding and
    decoding need `given={"base": array}`, the other array.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.arange(6.0).reshape(2, 3)
    >>> enc = ac.encode(x, ac.Tied("embed.weight"), given={"base": x})
    >>> enc.nbytes, ac.decode(enc, given={"base": x}).shape
    (16, (2, 3))
    """

    name: ClassVar[str] = "tied"
    lossless: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = tuple(name for name, row in DTYPES.items() if row.bits % 8 == 0)
    computed: ClassVar[tuple[str, ...]] = ("hash",)
    inputs: ClassVar[tuple[str, ...]] = ("base",)

    tensor: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        for parameter in ("tensor", "file"):
            if not isinstance(got := getattr(self, parameter), str):
                raise self.fail(parameter, "a str", got)

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        return {"hash": HASH}

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        base = np.asarray(self.base(given))
        self.supports(spec_of(x))
        if spec_of(base) != spec_of(x) or not np.array_equal(bits(base), bits(x)):
            raise ArgumentError(f"tied: the array must be the base bit for bit, {self._told()}")
        return {"hash": content_hash(x)}

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        base = np.asarray(self.base(given))
        self.check_base(planes, spec, base)
        out = empty(spec) if out is None else out
        writable_bits(out)[:] = bits(base)
        return out

    def base(self, given: Given | None) -> Any:
        """The other array among the inputs."""
        if not given or "base" not in given:
            raise ArgumentError(f"tied: given must hold 'base', {self._told()}")
        return given["base"]

    def check_base(self, planes: Planes, spec: ArraySpec, base: np.ndarray) -> None:
        """Raise CorruptError where `base` is not the array that was encoded, by its shape, dtype and hash."""
        self.check_spec(spec, spec_of(base))
        want = np.asarray(planes["hash"])
        if not np.array_equal(found := content_hash(base), want):
            raise CorruptError(f"tied: the hash must be {shown_hash(want)}, {self._told()} has {shown_hash(found)}")

    def check_spec(self, spec: ArraySpec, base: ArraySpec) -> None:
        """Raise CorruptError where a base of this spec cannot be the array that was encoded."""
        if base != spec:
            raise CorruptError(
                f"tied: must be {spec.dtype}{list(spec.shape)}, {self._told()} is {base.dtype}{list(base.shape)}"
            )

    def _told(self) -> str:
        """The other tensor as messages name it."""
        return f"tensor {self.tensor!a:.140}" + (f" of {self.file!a:.140}" if self.file else "")
