"""One tensor of a conversion: what it is to become, and the making of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec import api
from arraycodec.base import Codec, Encoded, Given, Then, part_of
from arraycodec.checkpoints.conversion import Converted
from arraycodec.checkpoints.tree import located
from arraycodec.containers.checks import shown
from arraycodec.containers.view import TensorView
from arraycodec.errors import NonFiniteError
from arraycodec.formats.target import Decision
from arraycodec.spec import ArraySpec, numpy_dtype

PASSED = ("kept", "inverted")  # of `conversion.HOW`: nothing is decoded


@dataclass(frozen=True)
class Item:
    """One tensor of the source.

    file      of the source; `name` is the tensor's in its folder
    source    the codec whose planes the tensor gives, as the target is asked about it; None for a plain one
    decision  of the target
    how       a key of `conversion.HOW`
    spec      of the array that the result stands for
    layout    name -> spec of the tensors it is stored as; None in a native container, or where a dry run cannot know
    given     gives the planes that are shared with others, once they are needed
    """

    file: str
    name: str
    tensor: TensorView
    source: Codec | None
    decision: Decision
    how: str
    spec: ArraySpec
    layout: dict[str, ArraySpec] | None = None
    after: int | None = None
    given: Callable[[], Given] | None = None

    @property
    def codec(self) -> Codec | None:
        """The codec it is stored in."""
        return self.decision.codec

    @property
    def cost(self) -> int:
        """The bytes that it takes in memory while it is made."""
        decoded = 0 if self.how in PASSED else self.tensor.spec.nbytes
        stored = 0 if self.how in ("copied", "encoded", "cast") else self.tensor.nbytes
        return decoded + stored + (0 if self.how == "copied" else self.after or self.spec.nbytes)

    def row(self, after: int | None, stored: tuple[str, ...]) -> Converted:
        """What is reported of it."""
        spec = self.tensor.spec
        return Converted(
            self.file, self.name, spec.dtype, spec.known_shape, self.source, self.codec, self.how,
            self.decision.reason, self.tensor.nbytes, after, stored,
        )  # fmt: skip


def made(item: Item) -> Encoded | np.ndarray:
    """What is stored of a tensor: an Encoded, or the array of one that is to be plain.

    NonFiniteError, which names it, where a number is not finite that a codec cannot hold.
    """
    tensor, codec = item.tensor, item.codec
    with located(Path(tensor.path), item.name):
        if codec is None:
            return _plain(item)
        if item.how in PASSED:
            kept = bare_planes(tensor.encoded(), codec)
            api.check_finite(kept)
            return kept
        given = item.given() if item.given else {}
        return api.encode(_cast(tensor.decode(), item.spec.dtype, item.name), codec, given=given)


def bare(codec: Codec | None) -> Codec | None:
    """A codec without what codes its planes losslessly: the planes that other programs know.

    >>> from arraycodec import Codebook, Lossless
    >>> bare(Then(Codebook("nf4"), codes=Lossless()))
    Codebook(table='nf4', block_size=64, flavour=None, offset=False)
    """
    if not isinstance(codec, Then) or codec.outer.lossless:
        return codec
    lossy = tuple((plane, part) for plane, part in codec.parts if not part.lossless)
    return Then(codec.outer, lossy) if lossy else codec.outer


def bare_planes(encoded: Encoded, codec: Codec) -> Encoded:
    """The same in `codec`, which is its own or that of `bare`."""
    if encoded.codec == codec or not isinstance(encoded.codec, Then):
        return encoded
    planes, outer = dict(encoded.planes), encoded.codec.outer.planes(encoded.spec)
    for plane, part in encoded.codec.parts:
        if part.lossless:
            planes[plane] = part.decode(part_of(planes, plane), outer[plane])
    return Encoded(codec, encoded.spec, {name: planes[name] for name in codec.planes(encoded.spec)})


def _plain(item: Item) -> np.ndarray:
    tensor = item.tensor
    if item.how == "cast" and item.source is not None and item.source.decodes_to(tensor.spec, item.spec.dtype):
        encoded = bare_planes(tensor.encoded(), item.source)
        return api.decode(replace(encoded, spec=encoded.spec), dtype=item.spec.dtype)
    return _cast(tensor.decode(), item.spec.dtype, item.name) if item.how == "cast" else tensor.decode()


def _cast(array: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """Rounded to a dtype, to nearest even; NonFiniteError where a number is too large for it."""
    if array.dtype == numpy_dtype(dtype):
        return array
    with np.errstate(over="ignore"):
        found = array.astype(numpy_dtype(dtype))
    if not _finite(found) and _finite(array):
        raise NonFiniteError(f"tensor {shown(name)}: a number of it is too large for {dtype}")
    return found


def _finite(array: Any, piece: int = 1 << 20) -> bool:
    flat = array.reshape(-1)
    return all(np.isfinite(flat[at : at + piece]).all() for at in range(0, flat.size, piece))
