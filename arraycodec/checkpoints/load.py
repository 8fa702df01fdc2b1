"""`load`: a checkpoint of any format as arrays of any framework, one tensor at a time, each in its place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.base import Codec, Encoded
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import ArgumentError, FormatError, UnsupportedByBackend
from arraycodec.formats.checkpoint import open_checkpoint
from arraycodec.formats.translated import Translated
from arraycodec.spec import DTYPES, ArraySpec, spec_of

FLOATS = ("float16", "bfloat16", "float32", "float64")  # that `dtype` may be
Index = tuple[slice, ...]  # of a part of an array, one for each axis
AnyTensor = LazyTensor | Translated


def load(
    path: str | os.PathLike[str],
    *,
    framework: str = "numpy",
    device: Any = None,
    dtype: str | None = None,
    sharding: Any = None,
    encoded: bool = False,
    nested: bool = False,
    verify: bool = True,
    max_bytes: int | None = None,
    base: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """All weights of a checkpoint by name, whatever program wrote it: arrays that a model can compute with.

    It opens what `open_checkpoint` opens and never gives the stored integers of a weight for the weight: a scheme that
    is not known is a FormatError. Numbers of 4 and 6 bits come one to a byte, as ml_dtypes has them, and for torch,
    which has none, packed in uint8.

    framework, device  of the arrays: "numpy", "torch" or "jax".
    dtype      the dtype that all floats become, with one rounding: "float16", "bfloat16", "float32" or "float64".
               None keeps the one each tensor has.
    sharding   for "jax": a Sharding for all; or a mapping of names, flat or nested, to one each (None, and what it does
               not name, is placed on the default device); or a function (name, shape) -> Sharding. Each process reads
               and decodes what its own devices need, by rows where that suffices.
    encoded    weights that are encoded stay so, as an Encoded on the device. Its planes are sharded like the weight
               where their axes allow it, and copied to all devices elsewhere. With explicit axes of a mesh, JAX decodes
               only shards of whole blocks.
    nested     dicts in dicts by the parts of names between dots, a pytree, in place of one flat dict.

    `verify`, `max_bytes`, `base` and `config` are those of `open_checkpoint`. On the host there is never more than the
    largest tensor, besides results that stay there.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> ac.save_file({"up.weight": ac.encode(np.ones((2, 64), np.float32), "nf4"), "up.bias": np.zeros(2)}, path)
    >>> model = ac.load(path, framework="jax", dtype="bfloat16", nested=True)
    >>> model["up"]["weight"].dtype, model["up"]["bias"]
    (dtype(bfloat16), Array([0, 0], dtype=bfloat16))
    """
    if dtype is not None and not (isinstance(dtype, str) and dtype in FLOATS):
        hint = "" if isinstance(dtype, str) else "; dtypes are names, such as 'bfloat16'"
        raise ArgumentError(f"load: dtype must be one of {', '.join(FLOATS)} or None, got {dtype!r}{hint}")
    if sharding is not None and framework != "jax":
        raise ArgumentError(f"load: sharding is for framework='jax', got {framework!r}")
    if sharding is not None and device is not None:
        raise ArgumentError("load: one of device and sharding may be given, got both")
    backend = registry.framework(framework)
    with open_checkpoint(path, verify=verify, max_bytes=max_bytes, base=base, config=config) as model:
        sharding_of = _shardings(sharding, model)
        found: dict[str, Any] = {}
        for name, tensor in model.items():
            where = sharding_of(name, tensor.shape)
            if encoded and tensor.codec is not None:
                found[name] = _encoded(tensor, backend, device, where)
            else:
                found[name] = _array(tensor, dtype, backend, device, where)
    return _nested(found) if nested else found


class Reader:
    """A tensor on the host, whole or by rows of axis 0; `spec` is that of the array with the dtype asked for.

    It keeps what the next device may need: the last rows, and the planes of a weight that cannot be read in part.
    """

    def __init__(self, tensor: AnyTensor, dtype: str | None, small: bool) -> None:
        """`small`: numbers of less than 8 bits are wanted as an array of their own dtype, not packed."""
        self._tensor = tensor
        self._unpack = DTYPES[tensor.dtype].bits < 8 and (small or dtype is not None)
        self.spec = tensor.spec if self._unpack else checks.in_memory(tensor.spec)
        if dtype is not None and "float" in tensor.dtype:
            self.spec = replace(self.spec, dtype=dtype)
        self.decodes = tensor.codec is not None and _decodes(tensor.codec, tensor.spec, self.spec)
        self._rows: tuple[tuple[int, int], np.ndarray] | None = None

    def whole(self) -> np.ndarray:
        """The whole array."""
        if self.decodes and self.spec != self._tensor.spec:
            with checks.from_file(self._tensor.where):
                return api.decode(self._planes, dtype=self.spec.dtype)
        return self._cast(self._tensor._numpy(), self.spec.known_shape)

    def __call__(self, index: Index) -> np.ndarray:
        """The part of it that is at these slices; those who want parts of the same rows should ask in turn."""
        if not index:
            return self.whole()
        count = self.spec.known_shape[0]
        start, stop, _ = index[0].indices(count)
        if self._rows is None or self._rows[0] != (start, stop):
            self._rows = None  # before others are read
            self._rows = (start, stop), self.whole() if (start, stop) == (0, count) else self._read(start, stop)
        return self._rows[1][:, *index[1:]]

    def _read(self, start: int, stop: int) -> np.ndarray:
        """Some rows, of which as little as can be is read and decoded."""
        shape = (stop - start, *self.spec.known_shape[1:])
        held = checks.in_memory(self._tensor.spec).known_shape
        if len(held) != len(shape) or held[0] != self.spec.known_shape[0]:  # packed, and rows are not whole bytes
            return self.whole()[start:stop]
        row = math.prod(held[1:])
        if not self.decodes or (self.spec == self._tensor.spec and isinstance(self._tensor, LazyTensor)):
            return self._cast(self._tensor._elements(start * row, stop * row), shape)
        encoded = self._planes
        if encoded.batch_shape:  # stacked, so that rows are of several arrays
            return self.whole()[start:stop]

        def fetch(name: str, piece: slice) -> np.ndarray:
            plane = encoded.planes[name]
            return plane if piece == slice(None) else plane.reshape(-1)[piece]

        with checks.from_file(self._tensor.where):
            return encoded.codec.read(fetch, self.spec, start * row, stop * row).reshape(shape)

    @cached_property
    def _planes(self) -> Encoded:
        return self._tensor.encoded()

    def _cast(self, value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        if self._unpack:
            value = unpacked(value, ArraySpec(shape, self._tensor.dtype))
        value = value.reshape(shape)
        if value.dtype == self.spec.numpy_dtype:
            return value
        with np.errstate(over="ignore", invalid="ignore"):
            return value.astype(self.spec.numpy_dtype)


def unpacked(packed: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """Packed numbers of 4 or 6 bits one to a byte, as an array of their spec: its dtype is one of ml_dtypes.

    >>> unpacked(np.array([0x21, 0x43], np.uint8), ArraySpec((4,), "float4_e2m1fn")).tolist()
    [0.5, 1.0, 1.5, 2.0]
    """
    bits = DTYPES[spec.dtype].bits
    per_word = 8 // math.gcd(8, bits)  # codes in the fewest whole bytes: 2 in one, 4 in three
    data = packed.reshape(-1, per_word * bits // 8)
    words = np.zeros(data.shape[0], np.uint32)
    for i in range(data.shape[1]):
        words |= data[:, i].astype(np.uint32) << np.uint32(8 * i)
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    codes = (words[:, None] >> shifts & np.uint32((1 << bits) - 1)).astype(np.uint8)
    return codes.reshape(-1)[: spec.size].view(spec.numpy_dtype).reshape(spec.known_shape)


def _decodes(codec: Codec, spec: ArraySpec, want: ArraySpec) -> bool:
    """Whether planes decode straight to an array of the spec that is wanted, rounded once."""
    try:
        codec.supports(want)
    except ArgumentError:
        return False
    return codec.decodes_to(spec, want.dtype)


def _array(tensor: AnyTensor, dtype: str | None, backend: Any, device: Any, sharding: Any) -> Any:
    """The decoded array in its place: decoded there, where it is one device and has a decoder."""
    reader = Reader(tensor, dtype, backend.NAME != "torch")
    if sharding is not None:
        with _named(tensor):
            return backend.sharded(reader.spec, sharding, reader)
    own = tensor.placed(backend.NAME, device)
    if reader.spec == tensor.spec and DTYPES[tensor.dtype].bits >= 8:
        with _named(tensor):
            return own.decode()
    if reader.decodes:
        try:
            with checks.from_file(tensor.where):
                return api.decode(own.encoded(), dtype=reader.spec.dtype)
        except UnsupportedByBackend:  # as `decode` does
            pass
    with _named(tensor):
        return backend.from_numpy(reader.whole(), device)


def _encoded(tensor: AnyTensor, backend: Any, device: Any, sharding: Any) -> Encoded:
    """The Encoded with planes in their places."""
    if sharding is None:
        return tensor.placed(backend.NAME, device).encoded()
    found, planes = tensor.encoded(), {}
    with _named(tensor):
        for name, plane in found.planes.items():
            own = backend.fitting(sharding, len(tensor.shape), plane.shape)
            planes[name] = backend.sharded(spec_of(plane), own, plane.__getitem__)
    return Encoded(found.codec, found.spec, planes)


@contextmanager
def _named(tensor: AnyTensor) -> Iterator[None]:
    """Name the tensor in what a backend says of an array that it cannot have, or of a sharding that does not fit."""
    try:
        yield
    except (ArgumentError, UnsupportedByBackend) as error:
        if tensor.where in str(error):
            raise
        raise type(error)(f"{tensor.where}: {error}") from None


def _shardings(sharding: Any, model: Mapping[str, AnyTensor]) -> Callable[[str, tuple[int, ...]], Any]:
    """The function that gives the sharding of each tensor, of all forms in which `load` takes them."""
    if not isinstance(sharding, Mapping):
        return sharding if callable(sharding) else lambda name, shape: sharding
    flat = dict(_leaves(sharding))
    if unknown := [name for name in flat if name not in model]:
        raise ArgumentError(f"load: sharding names {unknown[0]!r}, which the checkpoint does not have")
    return lambda name, shape: flat.get(name)


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """The tree of dicts of names with dots."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        branch = tree
        for i, parent in enumerate(parents):
            if ".".join(parents[: i + 1]) in flat:
                taken = checks.shown(".".join(parents[: i + 1]))
                raise FormatError(f"load: nested needs names of which none begins another, got {taken} and {name!r}")
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree
