"""`Layers`: which scheme for which modules, as a user says it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from arraycodec.base import Codec
from arraycodec.errors import ArgumentError, FormatError
from arraycodec.formats.compressed_tensors.resolve import matches
from arraycodec.formats.modules import WEIGHT, kind, module_of
from arraycodec.spec import ArraySpec

IGNORE = ("lm_head",)  # what nobody quantises unless asked to
Scheme = str | Codec | None


@dataclass(frozen=True)
class Layers:
    """Targets with their schemes.

    schemes  target -> a scheme's name, a codec, or None for what is to be plain. A target is the name of a module (or
             of a tensor), "re:" and an expression that matches such a name from its start, or a class ("Linear"). Names
             come before expressions, these before classes; of equals the first one counts.
    ignore   targets that no scheme is for.

    >>> layers = Layers({"Linear": "w4a16", "re:.*down_proj": "w8a8"})
    >>> layers.find("layers.0.mlp.down_proj.weight", ArraySpec((8, 8), "bfloat16"))
    ('re:.*down_proj', 'w8a8')
    """

    schemes: Mapping[str, Scheme]
    ignore: tuple[str, ...] = IGNORE

    def find(self, name: str, spec: ArraySpec) -> tuple[str, Scheme] | None:
        """The target that a tensor goes by, and its scheme; None where there is none."""
        ranked = sorted(self.schemes, key=lambda target: 1 if target.startswith("re:") else 0)
        for target in ranked:
            if _named(target, name):
                return target, self.schemes[target]
        found = kind(name, spec)
        return (found, self.schemes[found]) if found is not None and found in self.schemes else None

    def ignored(self, name: str, spec: ArraySpec) -> str | None:
        """The target by which a tensor is ignored; None where it is not."""
        found = kind(name, spec)
        return next((target for target in self.ignore if _named(target, name) or target == found), None)

    def check(self, specs: Mapping[str, ArraySpec], also: Iterable[str] = ()) -> None:
        """ArgumentError for a target, of a scheme or ignored, that none of these tensors has and which does nothing.

        also  targets that are fine though nothing has them; those of `IGNORE` are.
        """
        kinds = {kind(name, spec) for name, spec in specs.items()}
        known = sorted({module_of(name)[0] or name for name in specs} | {found for found in kinds if found})
        for where, targets in (("layers", self.schemes), ("ignore", set(self.ignore) - set(IGNORE))):
            for target in sorted(targets):
                if target in kinds or target in also or any(_named(target, name) for name in specs):
                    continue
                raise ArgumentError(f"{where}: {target!r} matches none of {len(known)} modules{closest(target, known)}")


def closest(target: str, known: Iterable[str]) -> str:
    """The end of a message: which of the known modules and classes a target may have meant.

    >>> closest("lm_heda", ["lm_head", "model.embed_tokens"])
    ', closest are lm_head'
    """
    close = difflib.get_close_matches(target.removesuffix(f".{WEIGHT}"), [*known], 3)
    return f", closest are {', '.join(close)}" if close else ""


def check_expressions(targets: Iterable[str], where: str) -> None:
    """ArgumentError for a target of the user's that is no regular expression, though it says so."""
    for target in targets:
        try:
            matches(target, "")
        except FormatError as error:
            raise ArgumentError(f"{where}: {str(error).removeprefix('target: ')}") from None


def _named(target: str, name: str) -> bool:
    module, _ = module_of(name)
    try:
        return any(matches(target, own) for own in (module, name) if own)
    except FormatError as error:
        raise ArgumentError(str(error)) from None
