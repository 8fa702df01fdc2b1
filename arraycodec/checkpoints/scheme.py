"""What `compress` was asked for: a scheme, a lossless mode, a base, or some of them together."""

from __future__ import annotations

from dataclasses import dataclass

from arraycodec import registry
from arraycodec.base import Codec, Then
from arraycodec.errors import ArgumentError

DEFAULT = "nf4"
MODES = {"balanced": "lossless", "storage": "lossless-storage", "inference": "lossless-inference"}  # mode -> scheme
DELTA_MODES = ("balanced", "storage")
LABELS = ("delta",)  # what default names end in besides schemes


@dataclass(frozen=True)
class Request:
    """scheme: a scheme's name or a codec. delta: how tensors are coded that a base holds, or None without a base."""

    scheme: str | Codec
    delta: Codec | None = None

    @property
    def label(self) -> str:
        """What reports and file names call it."""
        if self.delta is not None:
            return self.delta.name
        return self.scheme if isinstance(self.scheme, str) else registry.codec(self.scheme).name


def request(scheme: str | Codec | None, mode: str | None, with_base: bool) -> Request:
    """What these arguments of `compress` mean together; ArgumentError where they contradict each other.

    Neither scheme nor mode is `nf4`, or with a base `balanced`. A mode alone is lossless coding of everything; a lossy
    scheme with a mode has its codes and scales coded losslessly.

    >>> request(None, "storage", False).scheme, request("nf4", "balanced", False).scheme
    ('lossless-storage', 'nf4+lossless')
    """
    if mode is not None and mode not in MODES:
        raise ArgumentError(f"compress: mode must be {', '.join(MODES)} or None, got {mode!r}")
    if scheme is None:
        scheme = DEFAULT if mode is None and not with_base else MODES[mode or "balanced"]
    elif mode is not None:
        scheme = _composed(scheme, mode)
    codec = registry.codec(scheme)  # an unknown scheme fails here, before any file is opened
    return Request(scheme, _delta(codec) if with_base else None)


def _composed(scheme: str | Codec, mode: str) -> str | Codec:
    codec = registry.codec(scheme)
    if codec.lossless or (isinstance(codec, Then) and any(part.lossless for _, part in codec.parts)):
        raise ArgumentError(f"compress: scheme {scheme} is coded losslessly already, mode={mode!r} cannot go with it")
    if isinstance(scheme, str):
        return f"{scheme}+{MODES[mode]}"
    return registry.losslessly(codec, registry.codec(MODES[mode]))


def _delta(codec: Codec) -> Codec:
    mode = getattr(codec, "mode", None)
    if not codec.lossless or mode not in DELTA_MODES:
        modes = " or ".join(DELTA_MODES)
        raise ArgumentError(f"compress: a base goes with lossless coding in mode {modes}, got {codec}")
    return registry.codec("delta", mode=mode)
