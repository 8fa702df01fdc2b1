"""The three values the library is made of: `Codec`, `Encoded`, and `Then`, the one rule of composition.

A codec is a frozen value with pure methods. Encoding an array gives an `Encoded`: the codec, the array's spec, and
a flat dict of named planes. Nothing here knows a framework: planes are NumPy arrays, torch tensors or JAX arrays.

Invariants, for every codec `c`, array `x` and spec `s = spec_of(x)`:
    set(c.encode(x)) == set(c.planes(s)), and each plane has the shape and dtype that c.planes(s) states;
    c.decode(c.encode(x), s) has spec s;
    c == Codec.from_json(c.to_json()) == eval(repr(c)).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from arraycodec.errors import ArgumentError, CorruptError, FormatError
from arraycodec.spec import ArraySpec

Planes = dict[str, Any]  # name -> array of the framework at hand
Given = Mapping[str, Any]
LENGTHS = (0, 1, 4096, 1 << 20)  # at which the shapes of planes are tried, where none is known
Fetch = Callable[[str, slice], np.ndarray]  # a slice of a flattened plane; slice(None) is the plane in its own shape


@dataclass(frozen=True)
class Codec(ABC):
    """The base of every codec: a frozen dataclass of str, int, float, bool, None and tuples of them.

    A subclass sets `name` (its key in files and in the registry) and implements `planes`, `encode` and `decode`
    on NumPy arrays; that implementation is the reference, and docs/format/<name>.md its specification.
    """

    name: ClassVar[str]
    lossless: ClassVar[bool] = False
    experimental: ClassVar[bool] = False  # a later version may not read what this one writes
    dtypes: ClassVar[tuple[str, ...]] = ()  # what encode accepts
    computed: ClassVar[tuple[str, ...]] = ("codes",)  # planes that encoding always computes, so they cannot be given
    inputs: ClassVar[tuple[str, ...]] = ()  # what `given` may hold besides planes
    sized_by: ClassVar[tuple[str, ...]] = ()  # planes that tell the lengths of those whose length depends on the data
    scale: ClassVar[str | None] = None  # the plane in which a lossy codec marks non-finite blocks with NaN
    trained: ClassVar[bool] = False  # encoding finds tables in the array, which is done on the host
    moved: ClassVar[str | None] = None  # the plane of the array's own elements, where decoding only moves them

    @abstractmethod
    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        """The shape contract: name -> spec of every plane; None where a length depends on the data."""

    @abstractmethod
    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        """The planes of `x`; `given` holds planes to take as they are and the codec's extra `inputs`."""

    @abstractmethod
    def decode(
        self,
        planes: Planes,
        spec: ArraySpec,
        given: Given | None = None,
        out: np.ndarray | None = None,
    ) -> np.ndarray:
        """The array of these planes, written into `out` where one is passed."""

    def sized(self, planes: Planes, spec: ArraySpec) -> dict[str, ArraySpec]:
        """`planes(spec)` with every length known, by the NumPy arrays of the planes in `sized_by`."""
        return self.planes(spec)

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        """Raise CorruptError where planes from outside break a rule of the format beyond shapes and dtypes."""

    def check_base(self, planes: Planes, spec: ArraySpec, base: np.ndarray) -> None:
        """Raise CorruptError where an array is not the input `base` that these planes were made with."""

    def marked(self, scales: np.ndarray) -> np.ndarray:
        """A mask of the plane `scale`: the blocks that held NaN or infinity when they were encoded."""
        return np.isnan(scales)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """The elements `start <= i < stop` of the flattened array, fetching as little of the planes as it can."""
        planes = {name: fetch(name, slice(None)) for name in self.planes(spec)}
        return self.decode(planes, spec).reshape(-1)[start:stop]

    def decodes_to(self, spec: ArraySpec, dtype: str) -> bool:
        """Whether planes of an array of this spec also decode straight to another dtype, rounded once."""
        return not self.lossless or dtype == spec.dtype

    def supports(self, spec: ArraySpec) -> None:
        """Raise ArgumentError where this codec cannot encode an array of this spec."""
        if spec.dtype not in self.dtypes:
            raise ArgumentError(f"{self}: dtype must be one of {', '.join(self.dtypes)}, got {spec.dtype}")

    def fixed_size(self, spec: ArraySpec) -> bool:
        """Whether every plane's shape is known beforehand; only such codecs can encode inside a trace of JAX."""
        return all(plane.fixed for plane in self.planes(spec).values())

    def fail(self, parameter: str, allowed: str, got: object) -> ArgumentError:
        """The error for a bad parameter: where, what is allowed, what was got."""
        return ArgumentError(f"{self.name}: {parameter} must be {allowed}, got {got!r}")

    def to_json(self) -> dict[str, Any]:
        """`{"name": ..., parameters}`: what files hold; never a class path."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Codec:
        """The codec with the parameters that `to_json` wrote, without its name."""
        known = {f.name for f in fields(cls)}
        if unknown := set(params) - known:
            raise FormatError(f"{cls.name}: unknown parameter {min(unknown)!r}, known are {sorted(known)}")
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in params.items()})


@dataclass(frozen=True)
class Then(Codec):
    """Encode with `outer`, then encode some of its planes with codecs of their own.

    Double quantisation, quantise-then-entropy-code and bitmask-then-quantise are all this one rule. The planes of a
    part are named `plane.name`: `absmax.codes`, `absmax.absmax`.

    >>> from arraycodec import Codebook, Then
    >>> Then(Codebook("nf4"), absmax=Codebook("dynamic", block_size=256)).parts[0][0]
    'absmax'
    """

    name: ClassVar[str] = "then"

    outer: Codec
    parts: tuple[tuple[str, Codec], ...] = ()

    def __init__(self, outer: Codec, parts: tuple[tuple[str, Codec], ...] = (), /, **named: Codec) -> None:
        object.__setattr__(self, "outer", outer)
        merged = dict(parts, **named)
        object.__setattr__(self, "parts", tuple((plane, merged[plane]) for plane in sorted(merged)))
        if not isinstance(outer, Codec):
            raise ArgumentError(f"then: outer must be a Codec, got {outer!r}")
        for plane, codec in self.parts:
            if not isinstance(codec, Codec):
                raise ArgumentError(f"then: plane {plane!r} must be given a Codec, got {codec!r}")
        if not self.parts:
            raise ArgumentError("then: at least one plane must be given a codec, got none")

    def __repr__(self) -> str:
        return f"Then({self.outer!r}, " + ", ".join(f"{plane}={codec!r}" for plane, codec in self.parts) + ")"

    @property
    def lossless(self) -> bool:  # type: ignore[override]  # a fact of the parts, not of the class
        return self.outer.lossless and all(codec.lossless for _, codec in self.parts)

    @property
    def computed(self) -> tuple[str, ...]:  # type: ignore[override]  # as above
        parts = (f"{plane}.{name}" for plane, codec in self.parts for name in codec.computed)
        return (*self.outer.computed, *parts)

    def supports(self, spec: ArraySpec) -> None:
        self.outer.supports(spec)
        outer = self.outer.planes(spec)
        for plane, codec in self.parts:
            if plane not in outer:
                raise ArgumentError(f"then: {self.outer} has no plane {plane!r}, its planes are {list(outer)}")
            told = self.outer.sized_by
            if not outer[plane].fixed and (not told or set(told) & set(dict(self.parts))):
                known = f", which {', '.join(told)} tells: so that has no codec of its own" if told else ""
                raise ArgumentError(
                    f"then: plane {plane!r} of {self.outer} has a length that depends on the array{known}"
                )
            codec.supports(outer[plane].of_length(LENGTHS[-1]))

    def decodes_to(self, spec: ArraySpec, dtype: str) -> bool:
        """Not where the planes of parts have the array's dtype: a part gives its plane with that precision only.

        But where decoding only moves the elements of such a plane, its part may give them in the other dtype.
        """
        own, other, parts = self.outer.planes(spec), self.outer.planes(replace(spec, dtype=dtype)), dict(self.parts)
        moved = self.outer.moved if self.outer.moved in parts else None
        same = all(own[plane] == other[plane] for plane in parts if plane != moved)
        whole = self.outer if moved is None else parts[moved]
        return dtype == spec.dtype or (same and whole.decodes_to(spec if moved is None else own[moved], dtype))

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        parts, planes = dict(self.parts), {}
        for plane, own in self.outer.planes(spec).items():
            if plane in parts:
                planes |= {f"{plane}.{name}": inner for name, inner in open_planes(parts[plane], own).items()}
            else:
                planes[plane] = own
        return planes

    def sizes_known(self, spec: ArraySpec) -> bool:
        """Whether the planes that have codecs are of lengths known before the data is."""
        outer = self.outer.planes(spec)
        return all(outer[plane].fixed for plane, _ in self.parts)

    def outer_planes(
        self, planes: Planes, spec: ArraySpec, to_numpy: Callable[[Any], np.ndarray] = np.asarray
    ) -> dict[str, ArraySpec]:
        """The specs of the planes of `outer`, of parts with the lengths that follow from these planes.

        Raises CorruptError where the planes of a part are not those of an array of such a length.
        """
        if self.sizes_known(spec):
            return self.outer.planes(spec)
        outer = self.outer.sized({name: to_numpy(planes[name]) for name in self.outer.sized_by}, spec)
        for plane, part in self.parts:
            own = part_of(planes, plane)
            for name, want in part.planes(outer[plane]).items():
                if not want.fits(got := tuple(own[name].shape)):
                    wanted = f"then: plane {plane}.{name} must have shape {list(want.shape)}"
                    raise CorruptError(f"{wanted}, got {list(got)}")
        return outer

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        return encode_with(lambda codec, *args: codec.encode(*args), self, x, given or {})

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        return decode_with(lambda codec, *args: codec.decode(*args), self, planes, spec, given or {}, out)

    def check(self, planes: Planes, spec: ArraySpec) -> None:
        outer = self.outer_planes(planes, spec)
        for plane, codec in self.parts:
            codec.check(part_of(planes, plane), outer[plane])
        self.outer.check({n: p for n, p in planes.items() if n in outer}, spec)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        parts, outer = dict(self.parts), self.outer.planes(spec)
        if not self.sizes_known(spec):
            outer = self.outer.sized({name: fetch(name, slice(None)) for name in self.outer.sized_by}, spec)

        def fetch_outer(plane: str, piece: slice) -> np.ndarray:
            if plane not in parts:
                return fetch(plane, piece)
            first, last, _ = piece.indices(outer[plane].size)
            inner = parts[plane].read(lambda n, s: fetch(f"{plane}.{n}", s), outer[plane], first, last)
            return inner.reshape(outer[plane].known_shape) if piece == slice(None) else inner

        return self.outer.read(fetch_outer, spec, start, stop)

    def to_json(self) -> dict[str, Any]:
        parts = {plane: codec.to_json() for plane, codec in self.parts}
        return {"name": self.name, "outer": self.outer.to_json(), "parts": parts}


def encode_with(leaf: Callable[..., Planes], codec: Codec, x: Any, given: Given) -> Planes:
    """Encode arrays of any framework: `leaf(codec, x, given)` encodes with a codec that is not a `Then`."""
    if not isinstance(codec, Then):
        return leaf(codec, x, given)
    parts, planes = dict(codec.parts), {}
    own = {n: p for n, p in given.items() if n.partition(".")[0] not in parts or n in parts}
    for plane, array in encode_with(leaf, codec.outer, x, own).items():
        if plane in parts:
            inner = encode_with(leaf, parts[plane], array, part_of(given, plane))
            planes |= {f"{plane}.{name}": p for name, p in inner.items()}
        else:
            planes[plane] = array
    return planes


def decode_with(
    leaf: Callable[..., Any], codec: Codec, planes: Planes, spec: ArraySpec, given: Given, out: Any,
    to_numpy: Callable[[Any], np.ndarray] = np.asarray,
) -> Any:  # fmt: skip
    """The inverse of `encode_with`: `leaf(codec, planes, spec, given, out)` decodes what is not a `Then`.

    to_numpy   gives the values of a plane, where the lengths of others follow from them.
    """
    if not isinstance(codec, Then):
        return leaf(codec, planes, spec, given, out)
    parts, outer = dict(codec.parts), codec.outer_planes(planes, spec, to_numpy)
    own = {n: p for n, p in planes.items() if n in outer}
    for plane, part in parts.items():
        inner = part_of(planes, plane)
        own[plane] = decode_with(leaf, part, inner, outer[plane], part_of(given, plane), None, to_numpy)
    return decode_with(leaf, codec.outer, own, spec, given, out, to_numpy)


def open_planes(codec: Codec, spec: ArraySpec) -> dict[str, ArraySpec]:
    """`codec.planes(spec)`, also of an array with an open axis: open where planes differ among a few lengths."""
    if spec.fixed:
        return codec.planes(spec)
    tried = [codec.planes(spec.of_length(n)) for n in LENGTHS]
    shapes = {name: zip(*(planes[name].shape for planes in tried), strict=True) for name in tried[0]}
    return {
        name: replace(plane, shape=tuple(axis[0] if len(set(axis)) == 1 else None for axis in shapes[name]))
        for name, plane in tried[0].items()
    }


def part_of(planes: Given, plane: str) -> Planes:
    """The planes of the part that encodes `plane`, under the names that the part's own codec uses."""
    return {n.removeprefix(f"{plane}."): p for n, p in planes.items() if n.startswith(f"{plane}.")}


@dataclass(frozen=True, eq=False)
class Encoded:
    """An encoded array: its codec, the spec of the array it stands for, and its named planes.

    Data, not behaviour: nothing is validated here, since frameworks rebuild it from tracers and placeholders. All
    planes may carry the same extra leading axes (from `jax.vmap` or stacked layers); `decode` maps over them.

    >>> import numpy as np, arraycodec as ac
    >>> enc = ac.encode(np.ones((4, 64), np.float32), "nf4")
    >>> enc.nbytes, enc.bits_per_element, enc.planes["codes"].shape
    (144, 4.5, (4, 32))
    """

    codec: Codec
    spec: ArraySpec
    planes: Planes

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The leading axes that all planes carry besides those the codec gives them."""
        for name, plane in self.codec.planes(self.spec).items():
            shape = tuple(self.planes[name].shape)
            return shape[: len(shape) - len(plane.shape)]
        return ()

    @property
    def nbytes(self) -> int:
        """The bytes of all planes."""
        return sum(int(p.nbytes) for p in self.planes.values())

    @property
    def bits_per_element(self) -> float:
        """Bits of the planes per element of the array (0.0 for an empty one)."""
        elements = self.spec.size * math.prod(self.batch_shape)
        return 8 * self.nbytes / elements if elements else 0.0

    def __repr__(self) -> str:
        planes = ", ".join(
            f"{n}: {getattr(p, 'dtype', '?')}{list(getattr(p, 'shape', ()))}" for n, p in self.planes.items()
        )
        return f"Encoded({self.codec!r}, {self.spec.dtype}{list(self.spec.shape)}, {{{planes}}})"
