"""The library's named schemes, as data: what a group called "W4A16" means."""

from __future__ import annotations

from dataclasses import replace

from arraycodec.errors import FormatError
from arraycodec.formats.compressed_tensors.args import MX_GROUP, NV_GROUP, Args, Scheme

_TOKEN = {"strategy": "token", "dynamic": True}
_WIDTHS = [(w, a) for a in (4, 8, 16) for w in range(2, 9) if w <= a and (w, a) != (8, 8)]


def _int(weights: int, activations: int = 16, symmetric: bool = True) -> Scheme:
    """Integers in groups of 128, and of activations one scale per token."""
    args = Args(weights, "int", symmetric, 128, "group")
    return Scheme((), args, Args(activations, **_TOKEN) if activations < 16 else None)


def _mx(bits: int, dynamic: bool = False) -> Args:
    """Floats in groups of 32 over a power of two."""
    return Args(
        bits, "float", group_size=MX_GROUP, strategy="group", dynamic=dynamic, scale_dtype="uint8", zp_dtype="uint8"
    )


_FP8 = Args(8, "float")
_FP8_GROUPS = Args(8, "float", group_size=128, strategy="group", dynamic=True)
_FP4 = Args(
    4, "float", group_size=NV_GROUP, strategy="tensor_group", scale_dtype="float8_e4m3fn", zp_dtype="float8_e4m3fn"
)
_W8A8 = Scheme((), Args(8, strategy="channel"), Args(8, **_TOKEN))

PRESETS: dict[str, Scheme] = {
    "UNQUANTIZED": Scheme(),
    "W4A16_ASYM": _int(4, symmetric=False),
    "W8A8": _W8A8,
    "INT8": _W8A8,
    "W4AFP8": replace(_int(4), input_activations=Args(8, "float", **_TOKEN)),
    "FP8": Scheme((), _FP8, replace(_FP8, observer="static_minmax")),
    "FP8_DYNAMIC": Scheme((), replace(_FP8, strategy="channel"), Args(8, "float", **_TOKEN)),
    "FP8_BLOCK": Scheme((), replace(_FP8, strategy="block", block_structure=(128, 128)), _FP8_GROUPS),
    "NVFP4A16": Scheme((), _FP4),
    "NVFP4": Scheme((), _FP4, replace(_FP4, dynamic="local", observer="static_minmax")),
    "MXFP4A16": Scheme((), _mx(4)),
    "MXFP4": Scheme((), _mx(4), _mx(4, dynamic=True)),
    "MXFP4XFP8": Scheme((), _mx(4), _FP8_GROUPS),
    "MXFP6A16": Scheme((), _mx(6)),
    "MXFP6A8": Scheme((), _mx(6), _mx(8, dynamic=True)),
    "MXFP8A16": Scheme((), _mx(8)),
    "MXFP8": Scheme((), _mx(8), _mx(8, dynamic=True)),
} | {f"W{w}A{a}": _int(w, a) for w, a in _WIDTHS}


def preset(name: str, targets: tuple[str, ...]) -> Scheme:
    """The scheme of this name, upper or lower case, for the modules that `targets` name.

    >>> preset("w4a16", ("Linear",)).weights.group_size
    128
    """
    if name.upper() not in PRESETS:
        raise FormatError(f"must be one of {', '.join(PRESETS)}, got {name!r}")
    return replace(PRESETS[name.upper()], targets=targets)
