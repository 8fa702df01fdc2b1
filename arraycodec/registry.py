"""Names: of codecs (what files hold), of schemes (codec values with a name), of backends (who owns an array type).

Look-up is always a dictionary or an installed entry point; a name from a file is never imported.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from arraycodec.base import Codec, Then
from arraycodec.codecs.bitmask import Bitmask
from arraycodec.codecs.codebook import Codebook
from arraycodec.codecs.delta import Delta
from arraycodec.codecs.dq import DQ
from arraycodec.codecs.gguf import Gguf
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.codecs.lossless import Lossless
from arraycodec.codecs.lut import Lut
from arraycodec.codecs.microscaling import Microscaling
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.codecs.permuted import Permuted
from arraycodec.codecs.pqr import PQR
from arraycodec.codecs.tcq import TCQ
from arraycodec.codecs.tied import Tied
from arraycodec.codecs.two_four import TwoFour
from arraycodec.errors import ArgumentError, FormatError, UnknownCodecError, UnsupportedByBackend, VersionError
from arraycodec.spec import ArraySpec

CODECS: dict[str, type[Codec]] = {
    cls.name: cls
    for cls in (
        Bitmask,
        Codebook,
        Delta,
        DQ,
        Gguf,
        Linear,
        LLMInt8,
        Lossless,
        Lut,
        Minifloat,
        Microscaling,
        NVFP4,
        Permuted,
        PQR,
        TCQ,
        Tied,
        TwoFour,
    )
}

_NESTED = Codebook("dynamic", block_size=256, offset=True)  # bitsandbytes' statistics of statistics
SCHEMES: dict[str, Codec] = {
    "nf4": Codebook("nf4"),
    "fp4": Codebook("fp4"),
    "af4": Codebook("af4"),
    "nf8": Codebook("nf8"),
    "dynamic": Codebook("dynamic"),
    "nf4-double": Then(Codebook("nf4"), absmax=_NESTED),
    "fp4-double": Then(Codebook("fp4"), absmax=_NESTED),
    "int8_linear": Linear(8),
    "int4_linear": Linear(4),
    "int8-channel": Linear(8, block_size=(1, None)),
    "w4a16": Linear(4, block_size=(1, 128), flavour="compressed-tensors", arithmetic="eager"),
    "w8a8": Linear(8, block_size=(1, None), flavour="compressed-tensors", arithmetic="eager"),
    "llm_int8": LLMInt8(),
    "float8_e4m3fn": Minifloat("float8_e4m3fn"),
    "float8_e5m2": Minifloat("float8_e5m2"),
    "float6_e2m3fn": Minifloat("float6_e2m3fn"),
    "float6_e3m2fn": Minifloat("float6_e3m2fn"),
    "float4_e2m1fn": Minifloat("float4_e2m1fn"),
    "fp8": Minifloat("float8_e4m3fn"),
    "fp8-channel": Minifloat(block_size=(1, None), flavour="compressed-tensors", arithmetic="eager"),
    "fp8-block": Minifloat(block_size=(128, 128), flavour="compressed-tensors", arithmetic="eager"),
    "mxfp4": Microscaling("float4_e2m1fn"),
    "mxfp6": Microscaling("float6_e2m3fn"),
    "mxfp6-e3m2": Microscaling("float6_e3m2fn"),
    "mxfp8": Microscaling("float8_e4m3fn"),
    "mxfp8-e5m2": Microscaling("float8_e5m2"),
    "mxint8": Microscaling("int8"),
    "nvfp4": NVFP4(),
    **{f"lut{bits}": Lut(bits) for bits in range(2, 9)},
    **{f"tcq{bits}": TCQ(bits) for bits in range(1, 9)},
    "tcq4-64": TCQ(4, block_size=(1, 64)),
    **{f"dq{bits}": DQ(bits=bits) for bits in (2, 4, 8)},
    "pqr": PQR((4, 4), codebook="float32"),
    "pqr-5-3": PQR((5, 3), codebook="float32"),
    "pqr-local": PQR((4, 4), scope=128, codebook="float32"),
    "pqr-gain": PQR((5, 3), block_size=(1, None), gain=True),
    "pqr-vector": PQR((10, 6), dim=2, block_size=(1, None), gain=True),
    "lossless": Lossless(),
    "lossless-storage": Lossless("storage"),
    "lossless-inference": Lossless("inference"),
    "bitmask": Bitmask(),
    "sparse24": TwoFour(prune=True),
}


def codec(name: str | Codec, **params: Any) -> Codec:
    """The codec of a scheme's name or of a codec's name; `params` replace its parameters.

    `"X+lossless"` is scheme X with its planes coded by the lossless scheme after the `+` (see `losslessly`).

    >>> codec("nf4", block_size=128)
    Codebook(table='nf4', block_size=128, flavour=None, offset=False)
    """
    if isinstance(name, Codec):
        found = name
    elif not isinstance(name, str):
        raise ArgumentError(f"codec: must be a scheme's name or a Codec, got {name!r}")
    elif name in SCHEMES:
        found = SCHEMES[name]
    elif "+" in name:
        found = _composed(name)
    else:
        cls = _codec_class(name, SCHEMES)
        return _made(cls, cls, params)
    return _replace(found, params) if params else found


TYPICAL = (4096, 4096)  # a matrix by whose planes it is decided which of them are worth a coder of their own
MIN_PLANE = 4096  # bytes of a plane of that matrix, below which a coder's own planes weigh more than they save


def losslessly(outer: Codec, part: Codec) -> Then:
    """`outer` with the planes that grow with the array (codes, scales) coded by a lossless codec.

    Not those of a length that depends on the data, nor those that a large matrix has few bytes of (tables, a global
    scale). ArgumentError where `outer` is lossless itself or has no such plane.
    """
    if outer.lossless or not part.lossless:
        told = f"{outer} is lossless itself" if outer.lossless else f"{part} is not lossless"
        raise ArgumentError(f"codec: a lossless codec is for the planes of a lossy one, and {told}")
    innermost = outer
    while isinstance(innermost, Then):
        innermost = innermost.outer
    planes = outer.planes(ArraySpec(TYPICAL, innermost.dtypes[0]))
    large = {name: plane for name, plane in planes.items() if plane.fixed and plane.nbytes >= MIN_PLANE}
    parts = tuple((name, part) for name, plane in large.items() if _takes(part, plane))
    if not parts:
        raise ArgumentError(
            f"codec: {outer} has no planes for {part}: those that grow with the array are coded already"
        )
    return Then(outer, parts)


def _takes(part: Codec, plane: ArraySpec) -> bool:
    try:
        part.supports(plane)
    except ArgumentError:
        return False
    return True


def _composed(name: str) -> Codec:
    outer, _, part = name.rpartition("+")
    lossless = [scheme for scheme, value in SCHEMES.items() if value.lossless]
    if part not in lossless:
        close = f", closest are {', '.join(found)}" if (found := _closest(part.lower(), lossless)) else ""
        raise UnknownCodecError(f"codec: {part!r} of {name!r} is not a lossless scheme{close}")
    return losslessly(codec(outer), SCHEMES[part])


def from_json(data: Any) -> Codec:
    """The codec that `Codec.to_json` wrote; FormatError or VersionError where it is not one we know."""
    if not isinstance(data, dict) or not isinstance(data.get("name"), str):
        raise FormatError(f"codec: must be an object with a string 'name', got {data!r:.100}")
    params = {key: value for key, value in data.items() if key != "name"}
    if data["name"] == Then.name:
        if set(params) != {"outer", "parts"} or not isinstance(params["parts"], dict):
            raise FormatError(f"codec then: must have 'outer' and an object 'parts', got {sorted(params)}")
        parts = tuple((plane, from_json(part)) for plane, part in params["parts"].items())
        return _checked(lambda: Then(from_json(params["outer"]), parts))
    try:
        cls = _codec_class(data["name"], ())
    except UnknownCodecError as error:
        raise VersionError(f"{error}; a newer arraycodec or another package may provide it") from None
    return _checked(lambda: cls.from_params(params))


def _checked(make: Callable[[], Codec]) -> Codec:
    try:
        return make()
    except FormatError:
        raise
    except (ArgumentError, TypeError) as error:  # a bad parameter is the caller's fault only outside a file
        raise FormatError(f"codec: {error}") from None


def _replace(found: Codec, params: dict[str, Any]) -> Codec:
    if isinstance(found, Then):
        return Then(_replace(found.outer, params), found.parts)
    return _made(type(found), partial(replace, found), params)


def _made(cls: type[Codec], make: Callable[..., Codec], params: dict[str, Any]) -> Codec:
    """`make(**params)`, an ArgumentError where `cls` has no such parameter."""
    known = [field.name for field in fields(cls)]
    if unknown := [name for name in params if name not in known]:
        raise ArgumentError(f"{cls.name}: no parameter {unknown[0]!r}, there are {', '.join(known) or 'none'}")
    try:
        return make(**params)
    except TypeError as error:
        raise ArgumentError(f"codec {cls.name}: {error}") from None


def _codec_class(name: str, also: Iterable[str]) -> type[Codec]:
    if name in CODECS:
        return CODECS[name]
    found = _entry_points("arraycodec.codecs")
    if name in found:
        return found[name].load()
    close = _closest(name.lower(), sorted({*CODECS, *found, *also}))
    closest = f", closest are {', '.join(close)}" if close else ""
    raise UnknownCodecError(f"codec: {name!r} is not known{closest}; `arraycodec list` shows all")


def _closest(text: str, names: list[str]) -> list[str]:
    """At most three: the names that hold `text`, those that begin with it and short ones first; else those like it."""
    holding = [name for name in names if text and text in name]
    holding.sort(key=lambda name: (not name.startswith(text), len(name)))
    return holding[:3] or difflib.get_close_matches(text, names, 3)


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=group)}


def backend(array_type: type) -> Any:
    """The backend module that owns an array type: the first package along its MRO that has an entry point.

    The framework itself is imported already, since its array is at hand; no other framework is touched.
    """
    return _backend(array_type)


# torch.compile calls it while it traces and takes the result for a constant; the mark needs no import of torch.
backend.__dict__["_dynamo_marked_constant"] = True


@cache
def _backend(array_type: type) -> Any:
    found = _entry_points("arraycodec.backends")
    for base in array_type.__mro__:
        package = base.__module__.partition(".")[0]
        if package == "numpy":
            return importlib.import_module("arraycodec.reference")
        if package in found:
            return found[package].load()
    raise UnsupportedByBackend(
        f"arraycodec has no backend for {array_type.__module__}.{array_type.__qualname__}; "
        f"there are backends for numpy and {', '.join(sorted(found))} arrays"
    )


def framework(name: str) -> Any:
    """The backend module called "numpy", "torch" or "jax"."""
    if name == "numpy":
        return importlib.import_module("arraycodec.reference")
    found = _entry_points("arraycodec.backends")
    if name not in found:
        own = sorted({found[key].value: key for key in sorted(found, reverse=True)}.values())  # jaxlib is jax
        raise UnsupportedByBackend(f"framework: must be numpy or one of {', '.join(own)}, got {name!r}")
    try:
        return found[name].load()
    except ModuleNotFoundError as error:
        raise UnsupportedByBackend(f"framework {name}: pip install arraycodec[{name}] ({error})") from None
