"""What an entry of the table of peers is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec


class Calls(NamedTuple):
    """A library's own public calls on one array."""

    encode: Callable[[], Any]
    decode: Callable[[Any], Any]  # what `encode` returned -> an array of any framework
    nbytes: Callable[[Any], int]  # what of it a file would hold


class Entry(NamedTuple):
    """A format of another library, and ours of the same kind."""

    library: str  # the distribution's name
    format: str  # what the library calls the format
    scheme: str  # ours
    params: Mapping[str, Any]  # with these parameters in place of the scheme's
    likeness: str  # "same": it is meant to be our format; else in what it is another one
    prepare: Callable[[np.ndarray], Calls]

    @property
    def codec(self) -> Codec:
        """Our codec."""
        return registry.codec(self.scheme, **self.params)

    @property
    def label(self) -> str:
        """The scheme with the parameters that differ from it: `int8_linear, block_size=32`."""
        return ", ".join([self.scheme, *(f"{key}={value}" for key, value in self.params.items())])
