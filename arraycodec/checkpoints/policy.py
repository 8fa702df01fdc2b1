"""`Policy`: which codec for which tensor of a checkpoint, and the reason in words.

The default rule encodes what quantisation is for, the weight matrices, and leaves alone what costs little and hurts
most: norms, biases, tiny and integer tensors. Patterns on names change that tensor by tensor.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property

from arraycodec import registry
from arraycodec.base import Codec, Then
from arraycodec.errors import ArgumentError
from arraycodec.formats.target import Decision
from arraycodec.spec import DTYPES, ArraySpec

MIN_BYTES = 4096  # below this a frame's header and checksums weigh too much against what it saves
FLOATS = ("float32", "bfloat16", "float16")  # what a lossy codec encodes without being asked to


@dataclass(frozen=True)
class Policy:
    """The rule that chooses a codec for each tensor of a checkpoint.

    scheme   the scheme's name, or a codec value.
    include  shell patterns of names to encode whatever their rank and size, where the codec takes their dtype.
    exclude  shell patterns of names to leave plain. Where both match, the pattern with more literal characters wins,
             so `include="*mlp*"` with `exclude="*"` encodes nothing but `mlp`; of equals, exclude wins.

    >>> policy = Policy("nf4", exclude=("*embed*",))
    >>> policy.decide("model.embed_tokens.weight", "bfloat16", (32000, 4096)).reason
    'excluded by *embed*'
    >>> policy.decide("model.layers.0.mlp.up_proj.weight", "bfloat16", (11008, 4096)).codec
    Codebook(table='nf4', block_size=64, flavour=None, offset=False)
    """

    scheme: str | Codec
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("include", "exclude"):
            patterns = getattr(self, field)
            patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
            if not all(isinstance(pattern, str) and pattern for pattern in patterns):
                raise ArgumentError(f"policy: {field} must hold non-empty patterns, got {patterns!r}")
            object.__setattr__(self, field, patterns)
        registry.codec(self.scheme)  # an unknown scheme fails here, before any file is opened

    @cached_property
    def codec(self) -> Codec:
        """The codec of the scheme."""
        return registry.codec(self.scheme)

    @property
    def label(self) -> str:
        """What reports and file names call the scheme."""
        return self.scheme if isinstance(self.scheme, str) else self.codec.name

    def decide(self, name: str, dtype: str, shape: tuple[int, ...]) -> Decision:
        """The decision for one tensor, from its header entry alone."""
        pattern, included = self.deciding_pattern(name)
        if pattern and not included:
            return Decision(None, f"excluded by {pattern}")
        if self.codec.lossless and dtype in DTYPES and DTYPES[dtype].bits % 8:
            return Decision(None, f"{dtype}: packed bits stay plain")
        if dtype not in DTYPES or dtype not in accepted(self.codec):
            return Decision(None, f"{dtype}: codec {self.label} takes {', '.join(accepted(self.codec))}")
        spec = ArraySpec(shape, dtype)
        if spec.size == 0:
            return Decision(None, "no elements")
        try:
            self.codec.supports(spec)
        except ArgumentError as error:
            return Decision(None, str(error))
        if pattern:
            return Decision(self.codec, f"included by {pattern}")
        if not self.codec.lossless:
            if dtype not in FLOATS:
                return Decision(None, f"{dtype} stays plain unless included")
            if len(shape) < 2:
                return Decision(None, "1-D: norms and biases stay plain" if shape else "0-D: scalars stay plain")
        if spec.nbytes < MIN_BYTES:
            return Decision(None, "smaller than 4 KB")
        return Decision(self.codec, f"{dtype} " + ("matrix" if len(shape) == 2 else f"{len(shape)}-D"))

    def check_patterns(self, names: Iterable[str]) -> None:
        """Raise ArgumentError for a pattern that no name matches: it would otherwise do nothing in silence."""
        names = list(names)
        for field in ("include", "exclude"):
            for pattern in getattr(self, field):
                if not any(fnmatchcase(name, pattern) for name in names):
                    close = closest(pattern.strip("*"), names)
                    raise ArgumentError(
                        f"{field}: {pattern!r} matches none of {len(names)} tensor names"
                        + (f", closest are {', '.join(close)}" if close else "")
                    )

    def deciding_pattern(self, name: str) -> tuple[str | None, bool]:
        """The pattern that decides about this name (None: no pattern does), and whether it includes."""

        def matches(patterns: tuple[str, ...], included: bool) -> Iterator[tuple[int, bool, str]]:
            for pattern in patterns:
                if fnmatchcase(name, pattern):
                    yield sum(c not in "*?[]!" for c in pattern), not included, pattern

        found = [*matches(self.include, True), *matches(self.exclude, False)]
        if not found:
            return None, False
        _, excluded, pattern = max(found, key=lambda match: match[:2])
        return pattern, not excluded


def accepted(codec: Codec) -> tuple[str, ...]:
    """The dtypes that a codec encodes; those of a `Then` are its outermost codec's."""
    return outermost(codec).dtypes


def outermost(codec: Codec) -> Codec:
    """The codec itself, or that which a `Then` gives the array to."""
    while isinstance(codec, Then):
        codec = codec.outer
    return codec


def closest(text: str, names: list[str], count: int = 3) -> list[str]:
    """The names most like `text`: those that hold it in another case first, then by likeness of a part."""
    holding = [name for name in names if text and text.lower() in name.lower()]
    if holding:
        return holding[:count]

    def likeness(name: str) -> float:
        parts = [name, *name.split(".")]
        return max(difflib.SequenceMatcher(None, text.lower(), part.lower()).ratio() for part in parts)

    return sorted(names, key=likeness, reverse=True)[:count]
