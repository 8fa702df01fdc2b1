"""`Dense`: plain safetensors files, every weight decoded, as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from arraycodec import api
from arraycodec.base import Codec, Encoded
from arraycodec.containers import checks
from arraycodec.formats.target import Decision
from arraycodec.spec import ArraySpec


@dataclass(frozen=True)
class Dense:
    """Every weight as the array that it stands for."""

    name: ClassVar[str] = "dense"
    metadata: ClassVar[Mapping[str, str]] = {"format": "pt"}
    align: ClassVar[int] = checks.ALIGNMENT

    def decide(self, name: str, spec: ArraySpec, codec: Codec | None) -> Decision:
        """Plain, whatever the source has."""
        return Decision(None, "plain" if codec is None else "decoded")

    def carries(self, name: str, decisions: Mapping[str, Decision]) -> bool:
        """No: nothing in it is quantised."""
        return False

    def fused(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """None: nothing is encoded."""
        return []

    def layout(self, name: str, spec: ArraySpec, codec: Codec, encoded: Callable[[], Encoded]) -> dict[str, ArraySpec]:
        """The one tensor."""
        return {name: spec}

    def arrays(self, name: str, encoded: Encoded) -> dict[str, np.ndarray]:
        """The decoded array."""
        return {name: api.decode(encoded)}

    def config(self, model: Mapping[str, Any], decisions: Mapping[str, Decision]) -> dict[str, Any]:
        """config.json without a quantization_config."""
        return dict(model)
