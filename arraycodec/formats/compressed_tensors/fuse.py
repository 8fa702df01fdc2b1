"""`fuse`: the rotations of a transform_config, and norms, multiplied into a model's weights.

Of each group's locations weight_input and weight_output are applied here, and biases follow; input, output, q_attn and
k_cache are left to whoever runs the model. Before what goes from layer to layer is rotated, norms must be folded into
the linear layers behind them: a rotation commutes with x / rms(x), but not with a weight per channel.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import ArgumentError
from arraycodec.formats.compressed_tensors.norms import LM_HEAD, folds_of
from arraycodec.formats.compressed_tensors.transforms import (
    EMBEDDING,
    OFFLINE,
    ONLINE,
    Apply,
    Group,
    groups_of,
    rotation_config,
)
from arraycodec.formats.modules import WEIGHT, kind, module_of
from arraycodec.formats.translated import Translated
from arraycodec.rotations import SIDES, Rotation, axis_of, hadamard, round_once, rounded_like, turn, widened
from arraycodec.spec import ArraySpec

EMBEDDED = "Embedding"  # the class of its modules


def fuse(
    tensors: Mapping[str, Any],
    transforms: str | Mapping[str, Any] | None,
    *,
    fold_norms: bool | None = None,
    norm_offset: float = 0.0,
    head_dim: int | None = None,
    seed: int | None = None,
    matrices: Mapping[str, Any] | None = None,
) -> Fused:
    """A model's tensors with rotations and norms multiplied into them, each computed when it is asked for.

    tensors      name -> array of any framework, or an open checkpoint, whose tensors are decoded
    transforms   a transform_config; the name of a recipe (see `rotation_config`); None for norms alone
    fold_norms   whether norms of Llama and its like become part of the layers behind them, and 1; by default for None
                 and where outputs of an embedding are rotated, which needs it. A layer that is not known is then an
                 error: a model that is rotated in parts only would be another model.
    norm_offset  what norms add to their weight: 1 for models like Gemma, which hold differences to 1
    head_dim     for recipes that need it
    seed         of the random Hadamard matrices that `matrices` does not hold; a recipe is random where it is given
    matrices     of groups, under the names that the library gives those that run with a model
                 ("model.layers.0.mlp.up_proj.R1_input.weight"); by default those of `tensors`

    Tensors keep their dtype and framework and are rounded once, however much is multiplied into them, where the library
    rounds after every matrix, by way of float32. Matrices that run with the model are tensors of the result, each once.
    ArgumentError or FormatError for what does not fit.

    >>> import numpy as np, arraycodec as ac
    >>> apply = [{"targets": ["up"], "location": "weight_input", "inverse": True}]
    >>> config = {"config_groups": {"v": {"type": "hadamard", "apply": apply}}}
    >>> ac.fuse({"up.weight": np.eye(4, dtype=np.float32)}, config)["up.weight"][1].tolist()
    [0.5, -0.5, 0.5, -0.5]
    """
    if not isinstance(tensors, Mapping):
        told = "; open_checkpoint(path) gives one" if isinstance(tensors, str | os.PathLike) else ""
        raise ArgumentError(f"fuse: tensors must be a mapping of names to arrays, got {type(tensors).__name__}{told}")
    if isinstance(transforms, str):
        config = rotation_config(transforms, head_dim=head_dim, type="hadamard" if seed is None else "random-hadamard")
    else:
        config = dict(transforms or {"config_groups": {}})
    groups = groups_of(config, "transform_config")
    folding = transforms is None or _rotates_between_layers(tensors, groups) if fold_norms is None else fold_norms
    found = _matrices(tensors if matrices is None else matrices, groups)
    return Fused(tensors, config, groups, folds_of(tensors) if folding else None, norm_offset, _Matrices(found, seed))


class Fused(Mapping[str, Any]):
    """What `fuse` gives: name -> array, computed when it is asked for and not kept.

    config  the transform_config, a member of the result's quantization_config
    untied  whether lm_head.weight is new, which was that of the embedding: tie_word_embeddings must become false
    """

    def __init__(
        self, tensors: Mapping[str, Any], config: dict[str, Any], groups: dict[str, Group],
        folds: dict[str, str] | None, norm_offset: float, matrices: _Matrices,
    ) -> None:  # fmt: skip
        self.config = config
        self._tensors, self._groups, self._folds, self._offset = tensors, groups, folds or {}, norm_offset
        self._matrices, self._sources = matrices, {name: name for name in tensors}
        embedding = next((name for name in tensors if re.match(EMBEDDING, module_of(name)[0])), None)
        self.untied = folds is not None and embedding is not None and f"{LM_HEAD}.weight" not in tensors
        if self.untied and embedding is not None:
            self._sources[f"{LM_HEAD}.weight"] = embedding
        self._norms, self._classes = set(self._folds.values()), dict[str, str | None]()
        self._online = dict(self._run_with_the_model())

    def __getitem__(self, name: str) -> Any:
        if name in self._online:
            return self._online_matrix(*self._online[name])
        source = _value(self._tensors[self._sources[name]])
        if name in self._norms:
            return rounded_like(source, np.full(source.shape, 1 - self._offset))
        module, parameter = module_of(name)
        norm = self._folds.get(module) if parameter == WEIGHT else None
        uses = list(self._uses(module, parameter))
        if not uses and norm is None:
            return source
        embedding = parameter == WEIGHT and self._class(module) == EMBEDDED
        try:
            work = widened(_numpy(source))
            if norm is not None:
                work *= widened(_numpy(_value(self._tensors[norm]))) + self._offset
            for label, group, use in uses:
                side = OFFLINE[use.location]
                size = group.head_dim or work.shape[axis_of(work.shape, side, embedding)]
                turn(work, self._matrices.rotation(label, group, size), side, use.inverse, group.head_dim, embedding)
        except ArgumentError as error:
            raise ArgumentError(f"fuse: {checks.shown(name)}: {error}") from None
        return rounded_like(source, work)

    def __iter__(self) -> Iterator[str]:
        yield from self._sources
        yield from self._online

    def __contains__(self, name: object) -> bool:
        return name in self._sources or name in self._online

    def __len__(self) -> int:
        return len(self._sources) + len(self._online)

    def _uses(self, module: str, parameter: str) -> Iterator[tuple[str, Group, Apply]]:
        """What multiplies a parameter: a bias is part of the output."""
        for label, group in self._groups.items():
            for use in group.apply:
                if use.location not in OFFLINE or not (
                    parameter == WEIGHT or (parameter == "bias" and use.location == "weight_output")
                ):
                    continue
                if use.takes(module, self._class(module)):
                    yield label, group, use

    def _class(self, module: str) -> str | None:
        """The class of a module by its weight, of which only the shape is looked at."""
        if module not in self._classes:
            name = f"{module}.{WEIGHT}"
            shape = tuple(self._tensors[self._sources[name]].shape) if name in self._sources else ()
            self._classes[module] = kind(name, ArraySpec(shape, "float32"))
        return self._classes[module]

    def _run_with_the_model(self) -> Iterator[tuple[str, tuple[str, Group, int, bool]]]:
        """Names of matrices: the library gives them that of the first layer that uses them."""
        seen = set()
        uses = [(label, group, use) for label, group in self._groups.items() for use in group.apply]
        online = [(label, group, use) for label, group, use in uses if use.location in SIDES]
        for name, source in self._sources.items() if online else ():
            module, parameter = module_of(name)
            for label, group, use in online:
                if parameter != WEIGHT or not use.takes(module, self._class(module)):
                    continue
                shape = tuple(self._tensors[source].shape)
                axis = axis_of(shape, use.location, self._class(module) == EMBEDDED)
                size, inverse = group.head_dim or shape[axis], group.type == "random-matrix" and use.inverse
                stored = f"{module}.{label}_{use.location}.{WEIGHT}"
                if (label, size, inverse) not in seen and stored not in self._tensors:
                    yield stored, (label, group, size, inverse)
                seen.add((label, size, inverse))

    def _online_matrix(self, label: str, group: Group, size: int, inverse: bool) -> np.ndarray:
        """As the library stores it: Hadamard matrices with entries 1 and -1."""
        rotation = self._matrices.rotation(label, group, size)
        if rotation.matrix is None:
            return round_once(hadamard(size, seed=rotation.seed).astype(np.float64), group.precision)
        return round_once(np.linalg.inv(rotation.matrix) if inverse else rotation.matrix, group.precision)


@dataclass
class _Matrices:
    """The matrix of a group and a size: one for all layers."""

    stored: dict[tuple[str, int], np.ndarray]
    seed: int | None
    made: dict[tuple[str, int], Rotation] = field(default_factory=dict)

    def rotation(self, label: str, group: Group, size: int) -> Rotation:
        if (label, size) not in self.made:
            self.made[label, size] = self._rotation(label, group, size)
        return self.made[label, size]

    def _rotation(self, label: str, group: Group, size: int) -> Rotation:
        if group.type == "hadamard":
            if size & (size - 1):
                raise ArgumentError(
                    f"group {label}: type hadamard takes powers of two, got {size}: use random-hadamard"
                )
            return Rotation()
        if (label, size) in self.stored:
            hadamard = group.type == "random-hadamard"
            divisor = float(np.sqrt(np.float64(size))) if hadamard else 1.0
            return Rotation(matrix=self.stored[label, size], divisor=divisor, orthogonal=hadamard)
        if group.type == "random-matrix" or self.seed is None:
            told = "matrices must hold one" if group.type == "random-matrix" else "give a seed, or one in matrices"
            raise ArgumentError(f"group {label}: there is no matrix of order {size}: {told}")
        return Rotation(self.seed)


def _matrices(tensors: Mapping[str, Any], groups: dict[str, Group]) -> dict[tuple[str, int], np.ndarray]:
    """The matrices among a checkpoint's tensors, in float64; of an inverse that is stored, the matrix."""
    found: dict[tuple[str, int], np.ndarray] = {}
    for label, group in groups.items():
        pattern = re.compile(rf"(.+)\.{re.escape(label)}_({'|'.join((*OFFLINE, *ONLINE))})\.weight")
        for name in tensors if group.type != "hadamard" else ():
            match = pattern.fullmatch(name)
            if match is None or (label, size := tuple(tensors[name].shape)[-1]) in found:
                continue
            matrix = _numpy(_value(tensors[name])).astype(np.float64)
            if matrix.shape != (size, size):
                raise ArgumentError(f"fuse: {checks.shown(name)} must be a square matrix, got shape {matrix.shape}")
            inverse = any(use.inverse for use in group.apply if use.location == match[2])
            found[label, size] = np.linalg.inv(matrix) if inverse and group.type == "random-matrix" else matrix
    return found


def _rotates_between_layers(tensors: Mapping[str, Any], groups: dict[str, Group]) -> bool:
    """Whether outputs of an embedding are rotated, which is where the sum over layers begins."""
    names = [name for name in tensors if kind(name, ArraySpec((1, 1), "float32")) == EMBEDDED]
    uses = [use for group in groups.values() for use in group.apply if use.location == "weight_output"]
    return any(use.takes(module_of(name)[0], EMBEDDED) for use in uses for name in names)


def _value(source: Any) -> Any:
    return source.decode() if isinstance(source, LazyTensor | Translated) else source


def _numpy(value: Any) -> np.ndarray:
    return registry.backend(type(value)).to_numpy(value)


__all__ = ["Fused", "fuse"]
