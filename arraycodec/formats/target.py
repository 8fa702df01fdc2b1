"""`Target`: a format that checkpoints are written in, and `Decision`, what becomes of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from arraycodec.base import Codec, Encoded
from arraycodec.spec import ArraySpec


@dataclass(frozen=True)
class Decision:
    """What becomes of one tensor: its codec (None: it stays plain), and why.

    dtype   what the array is cast to before it is encoded, where the format's own writer does so
    rounds  the planes are those of the source but for a scale that the format stores in another form, rounded
    """

    codec: Codec | None
    reason: str
    dtype: str | None = None
    rounds: bool = False


class Target(Protocol):
    """A format that checkpoints are written in, set up for one checkpoint.

    Weights go in as Encoded values: where the source holds one in a codec that `decide` keeps, its very planes; else
    the decoded weight, encoded again. The stored tensors of a weight are known before any data is read (`layout`), so
    that headers come first and tensors are written in any order.
    """

    name: ClassVar[str]  # as in FORMATS
    metadata: ClassVar[Mapping[str, str]]  # of the safetensors files
    align: ClassVar[int]  # of their headers: 8 where other libraries write it so, else 64

    def decide(self, name: str, spec: ArraySpec, codec: Codec | None) -> Decision:
        """The codec to store a tensor in; `codec` is what the source holds it in (None: plain)."""
        ...

    def carries(self, name: str, decisions: Mapping[str, Decision]) -> bool:
        """Whether a scale of activations or of a cache (`modules.calibrated`) has a place in the result."""
        ...

    def fused(self, names: list[str]) -> list[tuple[str, ...]]:
        """The sets of weights among these that must share a global scale."""
        ...

    def layout(self, name: str, spec: ArraySpec, codec: Codec, encoded: Callable[[], Encoded]) -> dict[str, ArraySpec]:
        """name -> spec of the tensors that store a weight; `encoded` is called only where sizes depend on data."""
        ...

    def arrays(self, name: str, encoded: Encoded) -> dict[str, np.ndarray]:
        """These tensors."""
        ...

    def config(self, model: dict[str, Any], decisions: Mapping[str, Decision]) -> dict[str, Any]:
        """config.json of the result, from that of the source without its quantization_config."""
        ...
