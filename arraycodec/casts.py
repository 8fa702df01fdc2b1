"""`cast` and `uncast`: arrays of any framework to FP8, FP6 and FP4 numbers and back, with the same bits everywhere.

They are the codec `Minifloat` without scales, inside `jax.jit` and `torch.compile` too. Frameworks' own casts differ in
what overflows, in NaN and in which formats they have (docs/format/minifloat.md lists how).
"""

from __future__ import annotations

import math
from operator import index
from typing import Any

from arraycodec import registry
from arraycodec.api import decode, encode
from arraycodec.base import Encoded
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.errors import ArgumentError
from arraycodec.primitives.formats import FORMATS
from arraycodec.spec import DTYPES, ArraySpec


def cast(x: Any, format: str, *, overflow: str = "saturate") -> Any:
    """The numbers of `x` in a small float format, each rounded once, to nearest even.

    x         a float32, bfloat16 or float16 array of any framework and shape; it is not changed.
    format    one that `Minifloat` has.
    overflow  "saturate": what is too large becomes the largest number, and NaN stays NaN where the format has one, else
              it becomes 0; "nonfinite": what is too large becomes infinity, or NaN in a format without.

    Gives an array of that dtype and of the shape of `x`. Formats of 6 and 4 bits come packed in uint8, low bits first:
    `(..., columns * bits / 8)` where that is whole, else flat. ArgumentError for other dtypes and formats.

    >>> import numpy as np, arraycodec as ac
    >>> x = np.array([0.3, 500, np.inf, -0.0], np.float32)
    >>> [ac.uncast(ac.cast(x, "float8_e4m3fn", overflow=how)).tolist() for how in ("saturate", "nonfinite")]
    [[0.3125, 448.0, 448.0, -0.0], [0.3125, nan, nan, -0.0]]
    >>> ac.cast(x, "float4_e2m1fn")
    array([113, 135], dtype=uint8)
    """
    encoded = encode(x, Minifloat(format, scaled=False, overflow=overflow), check=False)
    codes = encoded.planes["codes"]
    return codes.reshape(encoded.spec.known_shape) if FORMATS[format].bits == 8 else codes


def uncast(
    codes: Any, dtype: str = "float32", *, format: str | None = None, shape: tuple[int, ...] | None = None
) -> Any:
    """The numbers of `codes` as float32, bfloat16 or float16: the inverse of `cast`, exact.

    codes   an array of a float8 dtype, or packed uint8.
    dtype   of the result.
    format  what packed codes are of; float8 arrays know it themselves.
    shape   of the result, where it is not the rows of numbers that rows of packed codes hold: needed where rows of the
            array that was cast did not fill whole bytes, since padding would come back as numbers.

    Gives an array of that dtype, of the same framework, on the same device; each NaN is the canonical one.
    ArgumentError where codes are packed and `format` is None, and where they are not those of `shape`.

    >>> import numpy as np, arraycodec as ac
    >>> ac.uncast(ac.cast(np.array([1, -7.6, np.nan], np.float32), "float8_e5m2"))
    array([ 1., -8., nan], dtype=float32)
    >>> ac.uncast(np.array([[0x71, 0x87]], np.uint8), "float16", format="float4_e2m1fn")
    array([[ 0.5,  6. ,  6. , -0. ]], dtype=float16)
    """
    registry.backend(type(codes))  # an error where there is none
    own = (str(codes.dtype).removeprefix("torch."), tuple(index(n) for n in codes.shape))
    found, wanted, kept = _plan(*own, dtype, format, None if shape is None else _axes(shape))
    codes = codes if kept is None else codes.reshape(kept)
    return decode(Encoded(Minifloat(found, scaled=False), ArraySpec(wanted, dtype), {"codes": codes}))


def _axes(shape: Any) -> tuple[int, ...]:
    try:
        return tuple(index(n) for n in shape)
    except TypeError:
        raise ArgumentError(f"uncast: shape must be a tuple of integers >= 0, got {shape!r}") from None


def _plan(
    stored: str, rows: tuple[int, ...], dtype: str, format: str | None, shape: tuple[int, ...] | None
) -> tuple[str, tuple[int, ...], tuple[int, ...] | None]:
    """The format and shape of the numbers that codes of this dtype and shape are, and the shape of their plane."""
    if format is None and stored == "uint8":
        raise ArgumentError("uncast: codes are packed uint8: format must be given")
    codec = Minifloat(stored if format is None else format, scaled=False)
    if shape is None:
        bits = (DTYPES[stored].bits if stored in DTYPES else 8) * (rows[-1] if rows else 1)
        if bits % codec.bits:
            raise ArgumentError(f"uncast: shape must be given for rows of {bits} bits, got {codec.bits} bits a number")
        shape = (*rows[:-1], bits // codec.bits) if rows else ()
    wanted = ArraySpec(shape, dtype)
    codec.supports(wanted)
    kept = codec.planes(wanted)["codes"].known_shape
    if (math.prod(rows) != wanted.size) if codec.bits == 8 else (rows != kept):
        raise ArgumentError(f"uncast: {codec.format}{list(shape)} takes codes of shape {list(kept)}, got {list(rows)}")
    return codec.format, shape, kept if codec.bits == 8 else None


# torch.compile calls it while it traces and takes the result for a constant; the mark needs no import of torch.
_plan.__dict__["_dynamo_marked_constant"] = True

__all__ = ["cast", "uncast"]
