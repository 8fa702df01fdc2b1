"""`encode`, `decode`, `error` and `empty` for the arrays of every framework; `validate` for what comes from outside."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec, Encoded, Given, Planes, Then, part_of
from arraycodec.errors import ArgumentError, FormatError, NonFiniteError
from arraycodec.spec import DTYPES, ArraySpec

PIECE = 1 << 13  # elements of which `error` has float64 copies: they stay in the cache, and BLAS wakes no threads


def encode(x: Any, codec: str | Codec, *, given: Given | None = None, check: bool | None = None) -> Encoded:
    """Encode an array with a codec, or with the scheme of that name.

    x       a NumPy array, torch tensor or JAX array of any shape; it is not changed. Planes are of the same kind and
            on the same device.
    given   planes to be taken as they are (scales from a calibration, a user's codebook) and the codec's extra inputs.
    check   raise NonFiniteError where a scale is NaN, which is what a lossy codec makes of NaN and infinity in a block;
            elements under given scales are not looked at. By default True for values at hand on the CPU; False on other
            devices, where looking costs a synchronisation; absent while JAX or torch traces.

    >>> import numpy as np, arraycodec as ac
    >>> ac.encode(np.zeros((2, 64), np.float32), "nf4")
    Encoded(Codebook(table='nf4', block_size=64, flavour=None, offset=False), float32[2, 64], \
{codes: uint8[2, 32], absmax: float32[2, 1]})
    """
    return _encode(registry.backend(type(x)), x, codec, given or {}, check)


def _encode(backend: Any, x: Any, codec: str | Codec, given: Given, check: bool | None) -> Encoded:
    # A function of its own, and so is _decode: a backend may have its tracer read another in its place.
    codec, spec = _encoding(backend, x, codec, given)
    encoded = Encoded(codec, spec, backend.encode(x, codec, given))
    if check or (check is None and backend.concrete(x)):
        check_finite(encoded)
    return encoded


def _encoding(backend: Any, x: Any, codec: str | Codec, given: Given) -> tuple[Codec, ArraySpec]:
    """The codec and spec with which `x` is encoded, once everything but the values of `x` is checked."""
    codec, spec = registry.codec(codec), backend.spec(x)
    codec.supports(spec)
    _check_given(backend, codec, spec, given)
    return codec, spec


def decode(encoded: Encoded, *, out: Any = None, dtype: str | None = None, given: Given | None = None) -> Any:
    """The array that `encoded` stands for: of the framework, on the device, with the shape and dtype it came from.

    out     an array to write into and return: writable, C-contiguous, exactly of the spec's shape and dtype; its
            content is unspecified after an error.
    dtype   decode to this dtype instead, rounding once from float32; a lossless codec refuses it.
    given   the extra inputs that the codec declares.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.array([[-1.0, 0.0, 0.5, 1.0]], np.float32)
    >>> ac.decode(ac.encode(x, ac.Codebook("nf4", block_size=4)))
    array([[-1.       ,  0.       ,  0.44070983,  1.       ]], dtype=float32)
    """
    if not isinstance(encoded, Encoded):
        got = type(encoded)
        raise ArgumentError(f"decode: encoded must be an Encoded, got {got.__module__}.{got.__qualname__}")
    planes = list(encoded.planes.values())
    backend = registry.backend(type(planes[0]) if planes else np.ndarray)
    return _decode(backend, encoded, out, dtype, given or {})


def _decode(backend: Any, encoded: Encoded, out: Any, dtype: str | None, given: Given) -> Any:
    codec, spec, batch = _decoding(encoded, out, dtype)
    if not batch:
        return backend.decode(codec, encoded.planes, spec, given, out)
    if hasattr(backend, "decode_batch"):
        return backend.decode_batch(codec, encoded.planes, spec, given, batch)
    # The planes of each element lie one after another, whatever the axes are called.
    flat = {n: p.reshape(math.prod(batch), *p.shape[len(batch) :]) for n, p in encoded.planes.items()}
    one = (
        backend.decode(codec, {n: p[i] for n, p in flat.items()}, spec, given, None) for i in range(math.prod(batch))
    )
    if not math.prod(batch):
        return backend.empty(replace(spec, shape=batch + spec.shape))
    return backend.stack(list(one), batch)


def _decoding(encoded: Encoded, out: Any, dtype: str | None) -> tuple[Codec, ArraySpec, tuple[int, ...]]:
    """The codec, spec and leading axes with which `encoded` is decoded, once all but the planes' values is checked."""
    codec, spec = encoded.codec, encoded.spec
    if dtype is not None and dtype != spec.dtype:
        if not codec.decodes_to(spec, dtype):
            reason = "is lossless" if codec.lossless else "encodes a plane of the array's dtype"
            raise ArgumentError(f"decode: {codec} {reason} and gives {spec.dtype} only, got dtype={dtype!r}")
        spec = replace(spec, dtype=dtype)
        codec.supports(spec)
    validate(encoded)
    batch = encoded.batch_shape
    if batch and out is not None:
        raise ArgumentError(f"decode: out is not supported for planes with leading axes {list(batch)}")
    return codec, spec, batch


def validate(encoded: Encoded) -> None:
    """Raise FormatError unless the planes are those that the codec's contract states for this spec."""
    try:
        encoded.codec.supports(encoded.spec)
    except ArgumentError as error:
        raise FormatError(str(error)) from None
    specs = encoded.codec.planes(encoded.spec)
    if set(encoded.planes) != set(specs):
        raise FormatError(f"{encoded.codec.name}: planes must be {list(specs)}, got {list(encoded.planes)}")
    batch = encoded.batch_shape
    for name, want in specs.items():
        plane = encoded.planes[name]
        got = registry.backend(type(plane)).spec(plane)
        leading, own = got.known_shape[: len(batch)], got.known_shape[len(batch) :]
        if got.dtype != want.dtype or leading != batch or not want.fits(own):
            raise FormatError(
                f"{encoded.codec.name}: plane {name!r} must be {want.dtype}{list(batch + want.shape)}, "
                f"got {got.dtype}{list(got.shape)}"
            )


def check_finite(encoded: Encoded) -> None:
    """Raise NonFiniteError where a scale is NaN: its block held NaN or infinity when it was encoded."""
    codec, planes, spec = encoded.codec, encoded.planes, encoded.spec
    if isinstance(codec, Then):
        if not codec.sizes_known(spec) and (batch := encoded.batch_shape):
            for i in np.ndindex(batch):
                check_finite(Encoded(codec, spec, {name: plane[i] for name, plane in planes.items()}))
            return
        outer, marked = codec.outer_planes(planes, spec, to_numpy), _scales(codec.outer)
        own = {name: plane for name, plane in planes.items() if name in outer}
        for plane, part in codec.parts:
            inner = part_of(planes, plane)
            if plane in marked and part.lossless:  # its NaN is still there, one decoding away
                own[plane] = part.decode({name: to_numpy(p) for name, p in inner.items()}, outer[plane])
            else:
                check_finite(Encoded(part, outer[plane], inner))
        check_finite(Encoded(codec.outer, spec, own))
    elif codec.scale in planes:
        marked = codec.marked(to_numpy(planes[codec.scale]))
        if marked.any():
            raise NonFiniteError(
                f"{codec.name}: input must be finite, got NaN or infinity in {int(marked.sum())} of {marked.size} "
                f"blocks, first at block {int(np.flatnonzero(marked)[0])}, or numbers too large for a scale of its "
                f"dtype; check=False stores such blocks as NaN"
            )


def _scales(codec: Codec) -> set[str]:
    """The planes in which a codec and its parts mark blocks that are not finite."""
    if not isinstance(codec, Then):
        return {codec.scale} if codec.scale else set()
    parts = dict(codec.parts)
    own = {name for name in _scales(codec.outer) if name not in parts}
    return own | {f"{plane}.{name}" for plane, part in codec.parts for name in _scales(part)}


def to_numpy(x: Any) -> np.ndarray:
    """Any array as a NumPy array with the same bits, copied to the host where it is elsewhere."""
    return registry.backend(type(x)).to_numpy(x)


def empty(like: ArraySpec | Encoded, *, framework: str = "numpy", device: Any = None) -> Any:
    """An uninitialised array fit for `decode(..., out=)`: right spec, contiguous, aligned to 64 bytes on the CPU."""
    return registry.framework(framework).empty(like.spec if isinstance(like, Encoded) else like, device)


@dataclass(frozen=True)
class Error:
    """How far a decoded array is from the original, computed in float64 over the finite elements of the original.

    Errors are infinite where such an element decodes to NaN, as all of its block do beside one that is not finite.
    """

    mae: float  # mean absolute error
    rmse: float  # root of the mean squared error
    max_abs: float  # largest absolute error
    snr_db: float  # 10 log10(sum of squares / sum of squared errors); infinite where they are equal
    bits_per_element: float

    @property
    def bytes_per_element(self) -> float:
        """Of all planes."""
        return self.bits_per_element / 8


def error(x: Any, encoded: Encoded) -> Error:
    """What encoding `x` lost, and what it costs.

    x   the array that was encoded, of any framework, and not necessarily that of the planes; what is on other devices
        is copied to the host. ArgumentError where its shape is not that of the decoded array.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.random.default_rng(0).standard_normal((64, 64), np.float32)
    >>> lost = ac.error(x, ac.encode(x, "nf4"))
    >>> round(lost.mae, 3), round(lost.max_abs, 2), round(lost.snr_db, 1), lost.bytes_per_element
    (0.073, 0.44, 20.7, 0.5625)
    """
    original, decoded = to_numpy(x), to_numpy(decode(encoded))
    if original.shape != decoded.shape:
        raise ArgumentError(f"error: x must have shape {list(decoded.shape)}, got {list(original.shape)}")
    count, absolute, squared, power, largest = 0, 0.0, 0.0, 0.0, 0.0
    a, b = original.reshape(-1), decoded.reshape(-1)
    for start in range(0, a.size, PIECE):
        piece = a[start : start + PIECE].astype(np.float64)
        keep = np.isfinite(piece)
        piece = piece[keep]
        away = np.abs(piece - b[start : start + PIECE].astype(np.float64)[keep])
        away[np.isnan(away)] = math.inf
        count += piece.size
        absolute += float(away.sum())
        squared += float(away @ away)
        power += float(piece @ piece)
        largest = max(largest, float(away.max(initial=0.0)))
    snr = math.inf if squared == 0 else 10 * math.log10(power / squared) if power / squared > 0 else -math.inf
    n = max(count, 1)
    return Error(absolute / n, math.sqrt(squared / n), largest, snr, encoded.bits_per_element)


def _check_given(backend: Any, codec: Codec, spec: ArraySpec, given: Given) -> None:
    specs, inputs = codec.planes(spec), _inputs(codec)
    if isinstance(codec, Then):
        specs = codec.outer.planes(spec) | specs
    for name, plane in given.items():
        if name not in specs and name not in inputs:
            allowed = [own for own in specs if own not in codec.computed and (specs[own].fixed or codec.name != "then")]
            told = f"given may hold {[*allowed, *inputs]}" if allowed or inputs else "nothing can be given to encoding"
            raise ArgumentError(f"{codec.name}: {told}, got {name!r}")
        if isinstance(codec, Then) and name in specs and not specs[name].fixed:
            raise ArgumentError(f"then: given cannot hold {name!r}, whose length depends on the array")
        if name in codec.computed:
            raise ArgumentError(f"{codec.name}: given cannot hold {name!r}, which is what encoding computes")
        if name in specs:
            got, want = backend.spec(plane), specs[name]
            if got.dtype != want.dtype or (want.fixed and got.shape != want.shape):
                raise ArgumentError(
                    f"{codec.name}: given plane {name!r} must be {want.dtype}{list(want.shape)}, "
                    f"got {got.dtype}{list(got.shape)}"
                )


def _inputs(codec: Codec) -> tuple[str, ...]:
    if isinstance(codec, Then):
        return _inputs(codec.outer) + tuple(f"{p}.{name}" for p, part in codec.parts for name in _inputs(part))
    return codec.inputs


__all__ = ["DTYPES", "Error", "Planes", "check_finite", "decode", "empty", "encode", "error", "to_numpy", "validate"]
