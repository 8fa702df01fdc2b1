"""`Lossless`: any array, bit for bit, in fewer bytes.

The specification is docs/format/lossless.md. Encoding chooses a field of the words' bits (the exponent and a few bits
more of a float), codes it with tables of its own, and stores the rest raw:
    1  the choice: field, tables, streams, by exact cost (`primitives.entropy.choice`);
    2  u: the word's bits arranged so that the field is on top, less an offset;
    3  symbol = u >> rest; words whose symbol has no code are patches, stored whole;
    4  streams of symbols in Huffman codes or tabled ANS, the rests in sections of 1, 2, 4, ... bits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError
from arraycodec.primitives.entropy.candidates import FLOAT_BITS
from arraycodec.primitives.entropy.choice import choose, plain
from arraycodec.primitives.entropy.decoding import decode, read_words
from arraycodec.primitives.entropy.encoding import encode
from arraycodec.primitives.entropy.layout import Layout, layout_of
from arraycodec.primitives.entropy.plan import PLANES, WORDS
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.spec import DTYPES, ArraySpec, spec_of

MODES = ("balanced", "storage", "inference")
FIELD = re.compile("S?E|EM[1-3]|SEM[12]|B[1-8]")


@dataclass(frozen=True)
class Lossless(Codec):
    """Lossless coding of weights: the skewed bits of every word entropy coded, the others raw.

    mode   "balanced": Huffman codes, chosen by exact cost; "storage": tabled ANS, smallest from some 100,000 elements
           on, at about half the speed; "inference": a window of 16 exponents at 4 bits each and no entropy coder,
           decoded fastest.
    field  the bits that are coded: None, by exact cost; of floats "E" (the exponent; decodes fastest), "EM1" to "EM3"
           (with so many bits of the mantissa), "SE", "SEM1", "SEM2" (with the sign); of integers "B1" to "B8" (so many
           of the highest bits).

    Arrays are of any dtype and shape, with any bits. Planes: `plan` (16 scalars), `tables`, `index` (the bytes of every
    stream, and where patches are), `streams` (of coded symbols), `raw` (the rest of all words) and `words` (a palette
    for arrays of few values, and patches). Encoding runs on the host.

    >>> import numpy as np, arraycodec as ac
    >>> x = (np.random.default_rng(0).standard_normal((256, 512), np.float32) * 0.02).astype("bfloat16")
    >>> enc = ac.encode(x, ac.Lossless())
    >>> bool((ac.decode(enc).view(np.uint16) == x.view(np.uint16)).all()), enc.nbytes < 0.68 * x.nbytes
    (True, True)
    """

    name: ClassVar[str] = "lossless"
    lossless: ClassVar[bool] = True
    dtypes: ClassVar[tuple[str, ...]] = tuple(dtype for dtype, row in DTYPES.items() if row.bits % 8 == 0)
    computed: ClassVar[tuple[str, ...]] = (*PLANES, "words")

    mode: str = "balanced"
    field: str | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise self.fail("mode", "one of " + ", ".join(map(repr, MODES)), self.mode)
        if self.field is not None and not (isinstance(self.field, str) and FIELD.fullmatch(self.field)):
            raise self.fail("field", "None, 'E', 'EM1' to 'EM3', 'SE', 'SEM1', 'SEM2' or 'B1' to 'B8'", self.field)
        if self.mode == "inference" and self.field is not None:
            raise self.fail("field", "None in mode 'inference', which codes no field", self.field)

    def supports(self, spec: ArraySpec) -> None:
        super().supports(spec)
        if self.field is not None and (spec.dtype in FLOAT_BITS) == self.field.startswith("B"):
            kind = "floats have 'E', 'EM1', ... ; others 'B1' to 'B8'"
            raise ArgumentError(f"{self}: field must be one of {spec.dtype}: {kind}")

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        return dict(_planes(spec.dtype))

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        spec, words = spec_of(x), bits(x)
        self.supports(spec)
        planes = encode(words, choose(words, spec.dtype, spec.known_shape, self.mode, self.field))
        if sum(plane.nbytes for plane in planes.values()) > words.nbytes + planes["plan"].nbytes:
            planes = encode(words, plain(words))
        return planes | {"words": planes["words"].view(spec.numpy_dtype)}

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        seen = {name: bits(plane) for name, plane in planes.items()}
        found = _layout(seen, spec)
        out = empty(spec) if out is None else out
        decode(found, seen["streams"], seen["raw"], seen["words"], writable_bits(out))
        return out

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        """That plan, tables and lengths go together; whether streams are what they say shows when they are decoded."""
        _layout({name: bits(plane) for name, plane in planes.items()}, spec)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The streams that hold the range, and no others."""
        if start >= stop:
            return empty(ArraySpec((0,), spec.dtype))
        return read_words(fetch, spec, start, stop).view(spec.numpy_dtype)


@cache
def _planes(dtype: str) -> dict[str, ArraySpec]:
    """The contract, which depends on the dtype alone."""
    planes = {name: ArraySpec((None,), plane) for name, plane in PLANES.items()}
    return planes | {"plan": ArraySpec((WORDS,), "uint32"), "words": ArraySpec((None,), dtype)}


def _layout(planes: Planes, spec: ArraySpec) -> Layout:
    """The layout of an array, once all planes are found to be as long as it says."""
    found = layout_of(planes, spec.size, 8 * spec.numpy_dtype.itemsize)
    found.check(planes["streams"].size, planes["raw"].size)
    return found
