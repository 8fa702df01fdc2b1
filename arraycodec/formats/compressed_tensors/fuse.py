"""`fuse`: the rotations of a transform_config, and norms, multiplied into a model's weights.

Of each group's locations weight_input and weight_output are applied here, and biases follow; input, output, q_attn and
k_cache are left to whoever runs the model. Before what goes from layer to layer is rotated, norms must be folded into
the linear layers behind them: a rotation commutes with x / rms(x), but not with a weight per channel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from arraycodec import registry
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import ArgumentError
from arraycodec.formats.compressed_tensors.resolve import class_of
from arraycodec.formats.compressed_tensors.transforms import (
    ATTENTION_IN,
    ATTENTION_OUT,
    EMBEDDING,
    HEAD,
    MLP_IN,
    MLP_OUT,
    OFFLINE,
    ONLINE,
    ROUTERS,
    Group,
    groups_of,
    rotation_config,
)
from arraycodec.formats.translated import Translated
from arraycodec.rotations import Rotation, axis_of, hadamard, round_once, rounded_like, turn, widened

LM_HEAD = "lm_head"
# Linear layers -> the norm in front of them, as a pattern and its replacement.
_LAYER = r"^(.*?)(?:self_attn|mlp)\..*$"
NORMS = {
    ATTENTION_IN: r"\1input_layernorm",
    MLP_IN: r"\1post_attention_layernorm",
    ROUTERS: r"\1post_attention_layernorm",
}
LAST_NORM = r"(?!.*layers\.)(?:.*\.)?norm$"
# What these models hold besides, which no rotation between layers concerns.
OTHERS = (ATTENTION_OUT, MLP_OUT, EMBEDDING, HEAD, LAST_NORM, r".*\.(?:input|post_attention)_layernorm$",
          r".*self_attn\.[qk]_norm$", r".*rotary_emb$")  # fmt: skip


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
                 and the recipes of SpinQuant. A layer that is not known is then an error: a model that is rotated in
                 parts only would be another model.
    norm_offset  what norms add to their weight: 1 for models like Gemma, which hold differences to 1
    head_dim     for recipes that need it
    seed         of the random Hadamard matrices that `matrices` does not hold; a recipe is random where it is given
    matrices     of groups, under the names that the library gives those that run with a model
                 ("model.layers.0.mlp.up_proj.R1_input.weight"); by default those of `tensors`

    Tensors keep their dtype and framework and are rounded once, however much is multiplied into them. Matrices that run
    with the model are tensors of the result, each once. ArgumentError or FormatError for what does not fit.

    >>> import numpy as np, arraycodec as ac
    >>> apply = [{"targets": ["up"], "location": "weight_input", "inverse": True}]
    >>> config = {"config_groups": {"v": {"type": "hadamard", "apply": apply}}}
    >>> ac.fuse({"up.weight": np.eye(4, dtype=np.float32)}, config)["up.weight"][1].tolist()
    [0.5, -0.5, 0.5, -0.5]
    """
    if isinstance(transforms, str):
        config = rotation_config(transforms, head_dim=head_dim, type="hadamard" if seed is None else "random-hadamard")
        folding = transforms != "quip"
    else:
        config, folding = dict(transforms or {"config_groups": {}}), transforms is None
    folding = folding if fold_norms is None else fold_norms
    groups = groups_of(config, "transform_config")
    found = _matrices(tensors if matrices is None else matrices, groups)
    return Fused(tensors, config, groups, _folds(tensors) if folding else None, norm_offset, _Matrices(found, seed))


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
        embedding = next((name for name in tensors if re.match(EMBEDDING, _module(name))), None)
        self.untied = folds is not None and embedding is not None and f"{LM_HEAD}.weight" not in tensors
        if self.untied and embedding is not None:
            self._sources[f"{LM_HEAD}.weight"] = embedding
        self._norms = set(self._folds.values())
        self._online = dict(self._run_with_the_model())

    def __getitem__(self, name: str) -> Any:
        if name in self._online:
            return self._online_matrix(*self._online[name])
        source = _value(self._tensors[self._sources[name]])
        module, parameter = _module(name), name.rpartition(".")[2]
        if name in self._norms:
            return rounded_like(source, np.full(source.shape, 1 - self._offset))
        norm = self._folds.get(module) if parameter == "weight" else None
        uses = [
            (label, group, use)
            for label, group in self._groups.items()
            for use in group.apply
            if use.location in OFFLINE and use.takes(module)
            and (parameter == "weight" or (parameter == "bias" and use.location == "weight_output"))
        ]  # fmt: skip
        if not uses and norm is None:
            return source
        embedding = parameter == "weight" and class_of(module) == "Embedding"
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

    def __len__(self) -> int:
        return len(self._sources) + len(self._online)

    def _run_with_the_model(self) -> Iterator[tuple[str, tuple[str, Group, int, bool]]]:
        """Names of matrices: the library gives them that of the first layer that uses them."""
        seen = set()
        for name, source in self._sources.items():
            for label, group in self._groups.items():
                for use in group.apply:
                    module, online = _module(name), use.location in ("input", "output")
                    if not (online and name.endswith(".weight") and use.takes(module)):
                        continue
                    shape = tuple(self._tensors[source].shape)
                    axis = axis_of(shape, use.location, class_of(module) == "Embedding")
                    size, inverse = group.head_dim or shape[axis], group.type == "random-matrix" and use.inverse
                    stored = f"{module}.{label}_{use.location}.weight"
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
            inverse = any(use.inverse for use in group.apply if use.location == match[2] and use.takes(match[1]))
            found[label, size] = np.linalg.inv(matrix) if inverse and group.type == "random-matrix" else matrix
    return found


def _folds(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Linear layer -> the name of the norm's weight that is folded into it."""
    modules = dict.fromkeys(map(_module, tensors))
    for module in modules:
        if not any(re.match(pattern, module) for pattern in (*NORMS, *OTHERS)):
            raise ArgumentError(
                f"fuse: {checks.shown(module)} is not a layer that Llama or its like has: with norms folded all layers "
                "must be known"
            )
    norms = {
        module: re.sub(_LAYER, norm, module)
        for module in modules
        for pattern, norm in NORMS.items()
        if re.match(pattern, module)
    }
    last = [module for module in modules if re.match(LAST_NORM, module)]
    if len(last) != 1:
        raise ArgumentError(f"fuse: there must be one norm in front of {LM_HEAD}, got {last}")
    norms[LM_HEAD] = last[0]
    for module, norm in norms.items():
        if f"{norm}.weight" not in tensors:
            raise ArgumentError(f"fuse: there is no {norm}.weight to fold into {module}")
        if f"{norm}.bias" in tensors:
            raise ArgumentError(f"fuse: {norm} has a bias: only norms that subtract no mean can be folded")
    return {module: f"{norm}.weight" for module, norm in norms.items()}


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _value(source: Any) -> Any:
    return source.decode() if isinstance(source, LazyTensor | Translated) else source


def _numpy(value: Any) -> np.ndarray:
    return registry.backend(type(value)).to_numpy(value)


__all__ = ["Fused", "fuse"]
