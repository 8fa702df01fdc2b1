"""JSON as files may hold it: UTF-8, no duplicate keys, no NaN, no huge numbers, no deep nesting.

Python's own parser accepts the first five of these and answers the last with RecursionError.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

from arraycodec.containers.bytefile import ByteFile
from arraycodec.containers.checks import shown
from arraycodec.errors import FormatError, LimitError

MAX_DEPTH = 32  # far above any header; a codec nested in codecs takes two levels each
MAX_DIGITS = 20  # 2^64 has 20
MAX_KEYS = 1 << 23  # a header of 100 MB could hold 20 million, which take gigabytes as Python objects


def read(path: str | os.PathLike[str], limit: int) -> dict[str, Any]:
    """A file of at most `limit` bytes that holds a JSON object."""
    file = ByteFile(path)
    try:
        if file.size > limit:
            raise LimitError(f"{file.path}: must have at most {limit} bytes, got {file.size}")
        data = loads(file.read(0, file.size).tobytes(), file.path)
    finally:
        file.close()
    if not isinstance(data, dict):
        raise FormatError(f"{file.path}: must hold a JSON object, got {shown(data)}")
    return data


def loads(data: bytes | bytearray | memoryview, where: str) -> Any:
    """The value of a JSON text; FormatError or LimitError says at what it stumbled."""
    data = bytes(data)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: must be UTF-8, got byte 0x{data[error.start]:02x} at {error.start}") from None
    if data.count(b":") > MAX_KEYS:
        raise LimitError(f"{where}: at most {MAX_KEYS} members are allowed, got {data.count(b':')}")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_refuse,
        )
    except RecursionError:
        raise LimitError(f"{where}: must not be nested deeper than {MAX_DEPTH}") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"{where}: not JSON: {error.msg} at character {error.pos}") from None
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from None
    _check_depth(value, where)
    if "\\ud" in text or "\\uD" in text:  # only an escape can bring a surrogate past the UTF-8 decoder
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FormatError(f"{where}: strings must be valid Unicode, got a lone surrogate") from None
    return value


def dumps(value: Any, *, ascii_only: bool = False) -> bytes:
    """Compact JSON in the order of the members; ValueError for NaN and infinity."""
    return json.dumps(value, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":")).encode()


def canonical(value: Any) -> bytes:
    """The one text of a value that frames hold: compact, members sorted, ASCII."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"), sort_keys=True).encode()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"member {shown(twice)} stands twice in an object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"integers must have at most {MAX_DIGITS} characters, got {len(digits)}")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits) if len(digits) <= 64 else math.inf
    if math.isinf(value):
        raise ValueError(f"numbers must be finite and short, got {shown(digits, 40)}")
    return value


def _refuse(constant: str) -> Any:
    raise ValueError(f"numbers must be finite, got {constant}")


def _check_depth(value: Any, where: str) -> None:
    level = [value] if type(value) in (dict, list) else []
    for _ in range(MAX_DEPTH):
        inside = (inner for outer in level for inner in (outer.values() if type(outer) is dict else outer))
        level = [inner for inner in inside if type(inner) in (dict, list)]
        if not level:
            return
    raise LimitError(f"{where}: must not be nested deeper than {MAX_DEPTH}")
