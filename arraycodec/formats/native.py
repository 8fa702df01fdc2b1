"""`Native`: containers of our own, which hold every codec, as a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec, Encoded
from arraycodec.containers import checks
from arraycodec.errors import ArgumentError
from arraycodec.formats.layers import Layers
from arraycodec.formats.modules import fused_sets
from arraycodec.formats.target import Decision
from arraycodec.spec import ArraySpec


@dataclass(frozen=True)
class Native:
    """Native containers: every tensor keeps its name, and its codec unless `layers` has another for it.

    What no target of `layers` is, and what it ignores, stays as the source has it; a scheme of None makes it plain.
    """

    name: ClassVar[str] = "arraycodec"
    metadata: ClassVar[Mapping[str, str]] = {"format": "pt"}
    align: ClassVar[int] = checks.ALIGNMENT

    layers: Layers = field(default_factory=lambda: Layers({}))

    def decide(self, name: str, spec: ArraySpec, codec: Codec | None) -> Decision:
        """The scheme of its layer, or what the source has it in."""
        as_it_is = "plain in the source" if codec is None else "as the source has it"
        if ignored := self.layers.ignored(name, spec) if self.layers.schemes else None:
            return Decision(codec, f"ignored by {ignored}, {as_it_is}")
        if (found := self.layers.find(name, spec)) is None:
            return Decision(codec, as_it_is)
        target, scheme = found
        if scheme is None:
            return Decision(None, f"{target}: plain")
        wanted = registry.codec(scheme)
        label = scheme if isinstance(scheme, str) else wanted.name
        if wanted == codec:
            return Decision(codec, f"{target}: {label}, as the source has it")
        try:
            wanted.supports(spec)
        except ArgumentError as error:
            raise ArgumentError(f"tensor {checks.shown(name)}: {error}; ignore it, or give it another scheme") from None
        return Decision(wanted, f"{target}: {label}")

    def carries(self, name: str, decisions: Mapping[str, Decision]) -> bool:
        """Yes: containers hold every tensor."""
        return True

    def fused(self, names: Sequence[str]) -> list[tuple[str, ...]]:
        """The sets of weights in NVFP4 among these."""
        return fused_sets(names)

    def layout(self, name: str, spec: ArraySpec, codec: Codec, encoded: Callable[[], Encoded]) -> dict[str, ArraySpec]:
        """The planes of its frame."""
        return {name: spec}

    def arrays(self, name: str, encoded: Encoded) -> dict[str, np.ndarray]:
        """The planes of its frame."""
        return dict(encoded.planes)

    def config(self, model: Mapping[str, Any], decisions: Mapping[str, Decision]) -> dict[str, Any]:
        """config.json without a quantization_config: the containers say it all."""
        return dict(model)
