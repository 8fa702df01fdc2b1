"""What a conversion was asked for, and the target that it makes of each folder's weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from arraycodec.checkpoints.convert_tensor import Item, bare
from arraycodec.checkpoints.policy import FLOATS
from arraycodec.checkpoints.weights import Folder, Given, held
from arraycodec.containers.checks import shown
from arraycodec.errors import ArgumentError
from arraycodec.formats.bitsandbytes.target import Bitsandbytes
from arraycodec.formats.compressed_tensors.activations import as_stored, inputs
from arraycodec.formats.compressed_tensors.resolve import matches
from arraycodec.formats.compressed_tensors.target import CLASSES as KINDS
from arraycodec.formats.compressed_tensors.target import CompressedTensors
from arraycodec.formats.config import Config, given_config
from arraycodec.formats.dense import Dense
from arraycodec.formats.layers import IGNORE, Layers, Scheme, check_expressions, closest
from arraycodec.formats.modules import module_of
from arraycodec.formats.native import Native
from arraycodec.formats.target import Target
from arraycodec.spec import ArraySpec

# target -> the scheme for what the source does not hold in one that is kept; None where there are no schemes
SCHEMES = {"dense": None, "arraycodec": "nf4", "bitsandbytes": "nf4", "compressed-tensors": "W4A16"}
FOREIGN = {target.name: target for target in (Bitsandbytes, CompressedTensors)}
LINEAR, HEAD = "Linear", "lm_head"
CLASSES = (LINEAR, "Embedding")  # targets that may be named though a model has none of them


@dataclass(frozen=True)
class Wanted:
    """What the user asks for: the format, and either `layers` with `ignore` or the `config` of the result."""

    to: str
    layers: Mapping[str, Scheme]
    ignore: tuple[str, ...]
    config: Config | None
    dtype: str | None

    @classmethod
    def of(
        cls, to: str, scheme: Scheme, layers: Mapping[str, Scheme] | None, ignore: Iterable[str] | None,
        config: Given, dtype: str | None,
    ) -> Wanted:  # fmt: skip
        """What these arguments of `convert` mean together; ArgumentError where they make no sense."""
        if to not in SCHEMES:
            raise ArgumentError(f"convert: to must be one of {', '.join(SCHEMES)}, got {to!r}")
        if dtype is not None and (to != Dense.name or dtype not in FLOATS):
            raise ArgumentError(f"convert: dtype goes with to='dense' and is one of {', '.join(FLOATS)}, got {dtype!r}")
        asked = scheme is not None or bool(layers) or ignore is not None
        if to == Dense.name and (asked or config is not None):
            told = "it takes no scheme, layers, ignore or config"
            raise ArgumentError(f"convert: to 'dense' all weights are decoded: {told}")
        if config is not None and (asked or to not in FOREIGN):
            told = "no scheme, layers or ignore goes with it"
            raise ArgumentError(f"convert: config says it all, for {' or '.join(FOREIGN)}: {told}")
        found = dict(layers or {})
        if scheme is not None:
            found.setdefault(LINEAR, scheme)
        ignored = IGNORE if ignore is None else (ignore,) if isinstance(ignore, str) else tuple(ignore)
        check_expressions(found, "layers (--scheme)")
        check_expressions(ignored, "ignore (--ignore)")
        return cls(to, found, ignored, None if config is None else given_config(config, None), dtype)

    def target(self, folder: Folder, model: Mapping[str, Any]) -> Target:
        """The target, set up for one folder; `model` is its config.json."""
        if self.to == Dense.name:
            return Dense()
        if self.config is not None:
            return FOREIGN[self.to].from_config(self.config.quantization, self.config.where)
        described = folder.format == self.to == "compressed-tensors" and folder.config.quantization.get("config_groups")
        if not self.layers and described:  # with activations, caches, transforms
            return CompressedTensors.from_config(folder.config.quantization, folder.config.where)
        # A tied head is the embedding, however often its bytes are stored.
        ignore = (*self.ignore, HEAD) if _tied(model) and HEAD not in self.ignore else self.ignore
        found = self._made(self.layers, ignore)
        if not self.layers and not _keeps(found, folder):
            _check_plain(folder, self.to)
            found = self._made({LINEAR: SCHEMES[self.to]}, ignore)
        return _described(found, folder) if isinstance(found, CompressedTensors) else found

    def check(self, specs: Mapping[str, ArraySpec]) -> None:
        """ArgumentError for a target of `layers` or `ignore` that none of these tensors has."""
        Layers(self.layers, self.ignore).check(specs, also=CLASSES)

    def unmatched(self, items: Iterable[Item]) -> list[str]:
        """What to say of targets of `config` that are no module's: nothing is wrong there, but for a misspelt one."""
        if self.config is None or self.to != CompressedTensors.name:
            return []
        found = CompressedTensors.from_config(self.config.quantization, self.config.where).quantization
        targets = dict.fromkeys(t for scheme in (found.groups.values() if found else ()) for t in scheme.targets)
        known = {module_of(item.name)[0] for item in items}
        absent = [t for t in targets if t not in KINDS and not any(matches(t, module) for module in known)]
        told = "is that of no module"
        return [f"{self.config.where}: target {shown(t)} {told}{closest(t, {*known, *KINDS})}" for t in absent]

    def _made(self, layers: Mapping[str, Scheme], ignore: tuple[str, ...]) -> Target:
        return Native(Layers(layers, ignore)) if self.to == Native.name else FOREIGN[self.to].of(layers, ignore)


def _keeps(target: Target, folder: Folder) -> bool:
    """Whether there is a weight whose codec the target holds."""
    for name, (_, tensor) in folder.tensors.items():
        codec = held(tensor) if isinstance(target, Native) else bare(held(tensor))
        if codec is not None and target.decide(name, tensor.spec, codec).codec is not None:
            return True
    return False


def _check_plain(folder: Folder, to: str) -> None:
    """ArgumentError for a weight that is quantised, in a codec that the target has not: no default encodes it anew."""
    for name, (_, tensor) in folder.tensors.items():
        codec = bare(held(tensor))
        if codec is not None and not codec.lossless:
            raise ArgumentError(
                f"{Path(tensor.path).name}: tensor {shown(name)}: is quantised as {codec} already, which {to} cannot "
                "keep; scheme= (--scheme) says how to encode it anew, such as "
                f"{SCHEMES[to]}"
            )


def as_target_sees(folder: Folder, to: str) -> Folder:
    """The folder with scales of activations as the target stores them."""
    if to != CompressedTensors.name:
        return folder
    seen = as_stored(folder.format, folder.views)
    files = [file for file, _ in folder.tensors.values()]
    return replace(folder, tensors={name: (file, seen[name]) for file, name in zip(files, seen, strict=True)})


def _described(target: CompressedTensors, folder: Folder) -> CompressedTensors:
    """With what the source's configuration says of activations that goes with its weights."""
    if target.quantization is None:
        return replace(target, inputs=inputs(folder.format, folder.config, folder.views))
    if (rotations := folder.config.quantization.get("transform_config")) and folder.format == target.name:
        return replace(target, quantization=replace(target.quantization, transform_config=rotations))
    return target


def _tied(model: Mapping[str, Any]) -> bool:
    inner = model.get("text_config")
    return bool(model.get("tie_word_embeddings") or (isinstance(inner, Mapping) and inner.get("tie_word_embeddings")))
