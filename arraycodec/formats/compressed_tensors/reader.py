"""Weights out of the tensors that compressed-tensors stores.

A weight is quantised where its module has stored codes: `weight_packed`, or an integer or float8 `weight`. The group
that targets the module tells how; the tensors tell in which layout, which must be the one that the config names.
Until 0.14 a weight, or its codes, could be stored sparse: then it has tensors of its own in place of `weight`.
"""

from __future__ import annotations

from collections.abc import Mapping

from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.containers.view import Reading, TensorView
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats import marlin, sparse
from arraycodec.formats.compressed_tensors import layouts, legacy
from arraycodec.formats.compressed_tensors.args import MIXED, Scheme
from arraycodec.formats.compressed_tensors.layouts import PACKED, ROLES, WEIGHT, Parts
from arraycodec.formats.compressed_tensors.resolve import Quantization
from arraycodec.formats.config import Config
from arraycodec.formats.translated import Translated, Weight
from arraycodec.primitives.floats import KINDS

CODES = ("int8", "float8_e4m3fn")  # dtypes of a `weight` that is not the weight itself
NAIVE = {"naive-quantized": ("int-quantized", "float-quantized")}  # a name for either


def read(raw: Mapping[str, LazyTensor], config: Config) -> dict[str, Weight]:
    """The weights that stored tensors make, by their names in the model: `model.layers.0.mlp.up_proj.weight`.

    What no weight is made of stays as it is: biases, norms, scales of activations and caches. FormatError where the
    config cannot be read or does not fit, CorruptError where tensors are missing, left over, or not of the shapes and
    dtypes that they must have.
    """
    quantization = Quantization.from_json(config.quantization, f"{config.where}: quantization_config")
    _refuse_sparse(quantization, config)
    codes = sparse.weights(raw, sparse.said(quantization.sparsity_config, f"{config.where}: sparsity_config"))
    weights = {}
    for module, tensors in _modules(raw, codes).items():
        where = f"{next(iter(tensors.values())).path}: module {checks.shown(module)}"
        name, kept = f"{module}.{WEIGHT}".removeprefix("."), codes.get(module)
        if kept and not quantization.groups and len(tensors) == 1:  # whatever its dtype is, nothing quantised it
            weights[name] = kept
            continue
        scheme = _scheme(quantization, module)
        if _is_stored(tensors, scheme, quantization.status, where):
            version = legacy.version_of(quantization.version)
            parts = Parts(tensors, where, config.dtype, version)  # type: ignore[arg-type]  # sparse codes are views
            found = _weight(parts, scheme, quantization, config.where)
            weights[name] = sparse.over(found, kept, WEIGHT) if kept else found
        elif kept:
            weights[name] = kept
    return weights


def _modules(raw: Mapping[str, LazyTensor], codes: Mapping[str, Weight]) -> dict[str, dict[str, TensorView]]:
    """module -> parameter -> what may be part of its weight; what is stored sparse is one tensor."""
    modules: dict[str, dict[str, TensorView]] = {}
    for name, tensor in raw.items():
        module, _, parameter = name.rpartition(".")
        if parameter in ROLES or (parameter in marlin.ROLES and f"{module}.{PACKED}" in raw):
            modules.setdefault(module, {})[parameter] = tensor
    for module, weight in codes.items():
        name, tensors = f"{module}.{WEIGHT}", modules.setdefault(module, {})
        if WEIGHT in tensors:
            raise CorruptError(f"{tensors[WEIGHT].where}: stands beside the parts of the same weight")
        tensors[WEIGHT] = Translated(name, weight, Reading())
    return modules


def _scheme(quantization: Quantization, module: str) -> Scheme | None:
    """The scheme of a module; where none targets it and all are alike, that one, since classes are only guessed.

    Whether the module is ignored does not matter: it is quantised where its codes are stored.
    """
    found = quantization.targeting(module)
    schemes = [scheme for scheme in quantization.groups.values() if scheme.weights]
    if found is None and len({(repr(scheme.weights), scheme.format) for scheme in schemes}) == 1:
        return schemes[0]
    return found


def _is_stored(tensors: Mapping[str, TensorView], scheme: Scheme | None, status: str | None, where: str) -> bool:
    """Whether the weight of a module is stored as codes; CorruptError where that cannot be told."""
    if PACKED in tensors:
        if WEIGHT in tensors:
            raise CorruptError(f"{where}: has both weight_packed and weight")
        return True
    others = ", ".join(sorted(set(tensors) - {WEIGHT}))
    if WEIGHT not in tensors:
        raise CorruptError(f"{where}: has {others}, but neither weight_packed nor weight")
    dtype = tensors[WEIGHT].dtype
    if dtype in CODES or not others:
        return dtype in CODES
    # A weight beside its scales is one that is still to be compressed: the library calls that frozen.
    frozen = status not in (None, "compressed") or (scheme is not None and scheme.stored_format() == "dense")
    if dtype not in KINDS or not frozen:
        raise CorruptError(f"{where}: weight is {dtype} beside {others}, but quantization_status is {status!r}")
    return False


def _weight(parts: Parts, scheme: Scheme | None, quantization: Quantization, config: str) -> Weight:
    """The weight that the tensors of a module make; all of them must be part of it."""
    if scheme is None or scheme.weights is None:
        told = "no group targets it" if scheme is None else "the group that targets it has no weights"
        raise FormatError(f"{parts.where}: is stored as codes, but in {config} {told}")
    found = marlin.FORMAT if marlin.SCALE in parts.tensors else layouts.stored_format(parts, scheme.weights)
    said = scheme.format or (None if quantization.format == MIXED else quantization.format)
    if said is not None and found != said and found not in NAIVE.get(said, ()):
        raise FormatError(f"{parts.where}: is stored as {found}, but {config} says {said}")
    weight = (layouts.LAYOUTS | {marlin.FORMAT: marlin.weight})[found](parts, scheme.weights)
    if unused := sorted(set(parts.tensors) - set(weight.parts)):
        raise CorruptError(f"{parts.where}: {unused[0]} has no meaning in the format {found}")
    return weight


def _refuse_sparse(quantization: Quantization, config: Config) -> None:
    """FormatError where a format of sparse weights stands for how they are quantised."""
    for format in (quantization.format, *(scheme.format for scheme in quantization.groups.values())):
        if format in sparse.FORMATS:
            raise FormatError(f"{config.where}: {format} must be the format of sparsity_config, not of a group")
