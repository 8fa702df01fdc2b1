"""What every reader of bytes from outside needs: exact sizes, limits, names fit to print, errors of our own tree.

Nothing here allocates by a number from a file; all products are Python ints, which cannot overflow.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from arraycodec.errors import ArgumentError, ArrayCodecError, CorruptError, FormatError, LimitError
from arraycodec.spec import DTYPES, MAX_ELEMENTS, ArraySpec

MAX_NDIM = 64  # what NumPy and torch allow
MAX_NAME = 1 << 16  # bytes of UTF-8: names are keys in memory, and a file may hold a million of them
ALIGNMENT = 64

_AXIS = "(?:0|[1-9][0-9]{0,18})"
_SPEC = re.compile(rf"([a-z][a-z0-9_]*)\[((?:{_AXIS}(?:,{_AXIS})*)?)\]")


def shown(text: object, limit: int = 120) -> str:
    """A string from a file as it may be printed: quoted, short, control and bidi characters escaped.

    >>> shown("w\\x1b[2J\\u202e")
    "'w\\\\x1b[2J\\\\u202e'"
    """
    quoted = ascii(text)
    return quoted if len(quoted) <= limit else f"{quoted[:limit]}... ({len(quoted)} characters)"


def aligned(offset: int, align: int = ALIGNMENT) -> int:
    """The first multiple of `align` that is not below `offset`."""
    return -(-offset // align) * align


def integer(value: Any, where: str, most: int = 2**63 - 1) -> int:
    """`value` where it is an int (not a bool) in 0..most."""
    if type(value) is not int or not 0 <= value <= most:
        raise FormatError(f"{where} must be an integer in 0..{most}, got {shown(value)}")
    return value


def member(data: dict[str, Any], key: str, kind: type, where: str) -> Any:
    """`data[key]` where it is there and exactly of this type."""
    if key not in data:
        raise FormatError(f"{where}: {key!r} is missing, got {shown(sorted(data))}")
    if type(data[key]) is not kind:
        raise FormatError(f"{where}: {key!r} must be of type {kind.__name__}, got {shown(data[key])}")
    return data[key]


def name(value: Any, where: str, error: type[ArrayCodecError] = FormatError) -> str:
    """A tensor's name: any Unicode text of at most 64 KiB except the key that safetensors reserves."""
    if not isinstance(value, str):
        raise error(f"{where}: a tensor's name must be a str, got {shown(value)}")
    try:
        length = len(value.encode())
    except UnicodeEncodeError:
        raise error(f"{where}: a tensor's name must be valid Unicode, got {shown(value)}") from None
    if length > MAX_NAME:
        limit = LimitError if issubclass(error, FormatError) else error
        raise limit(f"{where}: a tensor's name must have at most {MAX_NAME} bytes, got {length}: {shown(value)}")
    if value == "__metadata__":
        raise error(f"{where}: no tensor may be called '__metadata__', safetensors reserves it")
    return value


def spec(dtype: Any, shape: Any, where: str) -> ArraySpec:
    """The ArraySpec of a dtype's name and a list of axes from a file."""
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise FormatError(f"{where}: dtype must be one of {', '.join(DTYPES)}, got {shown(dtype)}")
    if not isinstance(shape, list) or len(shape) > MAX_NDIM:
        raise FormatError(f"{where}: shape must be a list of at most {MAX_NDIM} axes, got {shown(shape)}")
    axes = tuple(integer(axis, f"{where}: an axis") for axis in shape)
    # An empty array's other axes count too: NumPy cannot even name a shape whose axes multiply to more.
    if math.prod(axis or 1 for axis in axes) > MAX_ELEMENTS:
        raise FormatError(f"{where}: shape must not multiply to more than 2^48 elements, got {shown(shape)}")
    if math.prod(axes) * DTYPES[dtype].bits % 8:
        raise FormatError(f"{where}: {dtype}{shown(shape)} is not a whole number of bytes")
    return ArraySpec(axes, dtype)


def spec_text(spec: ArraySpec) -> str:
    """A spec as frames and manifests write it.

    >>> spec_text(ArraySpec((4096, 11008), "bfloat16"))
    'bfloat16[4096,11008]'
    """
    return f"{spec.dtype}[{','.join(map(str, spec.known_shape))}]"


def spec_of_text(text: Any, where: str) -> ArraySpec:
    """The inverse of `spec_text`, with every check of `spec`."""
    match = _SPEC.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise FormatError(f"{where}: an array must be written like 'float32[2,3]', got {shown(text)}")
    return spec(match[1], [int(axis) for axis in match[2].split(",")] if match[2] else [], where)


def in_memory(spec: ArraySpec) -> ArraySpec:
    """The spec of the array that holds such a tensor: itself, or for sub-byte dtypes packed uint8.

    The last axis is counted in bytes where every row is whole bytes; otherwise the packed array is flat.
    """
    bits = DTYPES[spec.dtype].bits
    if bits % 8 == 0:
        return spec
    *rows, columns = spec.known_shape or (1,)
    if spec.shape and columns * bits % 8 == 0:
        return ArraySpec((*rows, columns * bits // 8), "uint8")
    return ArraySpec((spec.nbytes,), "uint8")


def limit_bytes(max_bytes: int | None) -> int:
    """`max_bytes`, or the machine's memory where the caller set no limit."""
    if max_bytes is None:
        return physical_memory()
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 0:
        raise ArgumentError(f"max_bytes must be an integer >= 0 or None, got {max_bytes!r}")
    return max_bytes


@cache
def physical_memory() -> int:
    """The bytes of memory of this machine (1 TiB where it cannot be asked)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 40


def within(nbytes: int, max_bytes: int | None, where: str) -> None:
    """Raise LimitError where `nbytes` are more than the caller allows."""
    if nbytes > (most := limit_bytes(max_bytes)):
        told = (
            f"max_bytes={most}" if max_bytes is not None else f"this machine's memory, {most}; max_bytes= allows more"
        )
        raise LimitError(f"{where}: needs {nbytes} bytes, more than {told}")


@contextmanager
def from_file(where: str, bad: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Name the place in errors of a codec that works on values from a file, and make all of them errors of our tree.

    A codec's own checks raise FormatError. What slips through them (an index out of range in a broken stream, a
    parameter that is absurd) must not surface as KeyError or MemoryError; `bad` lists further types to convert.
    """
    try:
        yield
    except FormatError as error:
        raise type(error)(f"{where}: {error}") from error
    except bad as error:
        raise CorruptError(f"{where}: {error}") from error
    except ArrayCodecError:
        raise
    except MemoryError as error:
        raise LimitError(f"{where}: needs more memory than there is") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CorruptError(f"{where}: {type(error).__name__}: {error}") from error
