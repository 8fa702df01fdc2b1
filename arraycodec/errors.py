"""Every error that arraycodec raises on purpose; each message says where, what was got and what is allowed."""

from __future__ import annotations


class ArrayCodecError(Exception):
    """The root: `except ac.ArrayCodecError` catches all that this library raises on purpose."""


class ArgumentError(ArrayCodecError, ValueError):
    """An argument is not allowed: a codec's parameter, an array's dtype, a plane that was given."""


class NonFiniteError(ArgumentError):
    """A lossy codec met NaN or infinity while `check=True`."""


class UnknownCodecError(ArgumentError):
    """No codec or scheme has this name."""


class UnsupportedByBackend(ArrayCodecError, NotImplementedError):
    """This backend cannot do this: it names codec and backend, and nothing was moved to another device."""


class FormatError(ArrayCodecError, ValueError):
    """Bytes, a file or an Encoded do not follow the format."""


class CorruptError(FormatError):
    """The bytes changed since they were written: a checksum or a structural rule fails."""


class LimitError(FormatError):
    """The input asks for more memory or nesting than the caller allowed."""


class VersionError(FormatError):
    """The file needs a newer arraycodec, or a codec that is not installed."""
