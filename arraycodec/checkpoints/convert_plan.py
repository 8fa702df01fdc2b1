"""The plan of a conversion: what becomes of every tensor, where its files go, and how large they will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from arraycodec.base import Codec, Encoded, Then
from arraycodec.calibration import shared_global_scale
from arraycodec.checkpoints.convert_tensor import Item, bare, made
from arraycodec.checkpoints.policy import FLOATS
from arraycodec.checkpoints.tree import located
from arraycodec.checkpoints.weights import PLAIN, Folder, held
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.containers.checks import shown
from arraycodec.containers.frame import frame_size
from arraycodec.containers.view import TensorView
from arraycodec.errors import ArgumentError
from arraycodec.formats.bitsandbytes.target import Bitsandbytes
from arraycodec.formats.compressed_tensors.activations import InputScale
from arraycodec.formats.compressed_tensors.described import Chosen
from arraycodec.formats.compressed_tensors.resolve import matches
from arraycodec.formats.compressed_tensors.transforms import online
from arraycodec.formats.config import KEYS
from arraycodec.formats.modules import calibrated, conv1d, module_of
from arraycodec.formats.native import Native
from arraycodec.formats.target import Decision, Target
from arraycodec.spec import ArraySpec


@dataclass
class Part:
    """The plan of one folder: its items in the order of their names in the source, and config.json of the result."""

    folder: Folder
    target: Target
    items: list[Item]
    config: dict[str, Any] | None  # None: there is none to write
    model: Mapping[str, Any]  # config.json of the source


def plan_folder(folder: Folder, target: Target, model: Mapping[str, Any], dtype: str | None, dry_run: bool) -> Part:
    """What becomes of the tensors of a folder.

    model  its config.json without a quantization_config.
    dtype  of plain results, None for each weight's own.
    """
    items = []
    transposed = conv1d({name: tensor.spec for name, (_, tensor) in folder.tensors.items()}, model)
    for name, (file, tensor) in folder.tensors.items():
        items.append(_item(target, file, name, tensor, dtype, name in transposed))
    decisions = {item.name: item.decision for item in items}
    with located(Path(next(iter(folder.files.values())).path).parent):
        config = target.config(dict(model), decisions)
        _check_rotated(folder, target, config)
    if folder.format != PLAIN:
        items = [_dropped(item, target, decisions) if calibrated(item.name) else item for item in items]
    if dtype is not None:
        config = _with_dtype(config, dtype)
    items = _shared(target, items)
    items = [_sized(target, item, dry_run) for item in items]
    _check_names(folder, items)
    return Part(folder, target, items, config, model)


def _item(target: Target, file: str, name: str, tensor: TensorView, dtype: str | None, transposed: bool) -> Item:
    source = held(tensor) if isinstance(target, Native) else bare(held(tensor))
    spec = tensor.spec
    with located(Path(tensor.path)):
        decision = target.decide(name, spec, source)
        if transposed and decision.codec not in (None, source):
            decision = _left(target, name, spec, decision)
    codec = decision.codec
    if codec is None:
        if dtype is not None and spec.dtype in FLOATS and spec.dtype != dtype:
            reason = f"{decision.reason}, rounded to {dtype}"
            return Item(
                file, name, tensor, source, replace(decision, reason=reason), "cast", replace(spec, dtype=dtype)
            )
        how = "copied" if getattr(tensor, "codec", None) is None else "decoded"
        how = "inverted" if isinstance(tensor, InputScale) and tensor.inverted else how
    elif codec == source:
        how = "inverted" if decision.rounds else "kept"
    else:
        how = "encoded" if source is None or source.lossless else "re-encoded"
        spec = replace(spec, dtype=decision.dtype or spec.dtype)
    return Item(file, name, tensor, source, decision, how, spec)


def _left(target: Target, name: str, spec: ArraySpec, decision: Decision) -> Decision:
    """That a Conv1D, of which a Linear's scheme would be, stays plain; ArgumentError where it was asked for by name."""
    if isinstance(target, Native):
        return decision
    module, _ = module_of(name)
    if isinstance(target, Bitsandbytes):
        found = target.layers.find(name, spec)
        named = found is not None and found[0] != "Linear"
    else:
        scheme = decision.scheme if isinstance(decision, Chosen) else None
        named = scheme is not None and any(matches(entry, module) for entry in scheme.targets)
    if named:
        raise ArgumentError(
            f"tensor {shown(name)}: is of a Conv1D, (in, out), which {target.name} takes for a Linear, "
            "(out, in): ignore it"
        )
    return Decision(None, f"Conv1D: (in, out), no Linear of {target.name}")


def _dropped(item: Item, target: Target, decisions: Mapping[str, Decision]) -> Item:
    """A scale of activations or caches, dropped where the result has no place for it."""
    if item.codec is not None or target.carries(item.name, decisions):
        return item
    reason = "of activations, of which the result says nothing"
    return replace(item, decision=replace(item.decision, reason=reason), how="dropped", spec=item.tensor.spec)


def _check_rotated(folder: Folder, target: Target, config: Mapping[str, Any]) -> None:
    """ArgumentError where the model turns activations while it runs, and the result would not say so."""
    rotations = folder.config.quantization.get("transform_config")
    if not rotations or (config.get(KEYS[0]) or {}).get("transform_config") == rotations:
        return
    where = f"{folder.config.where}: transform_config"
    if uses := online(rotations, where):
        raise ArgumentError(
            f"{where}: turns activations while the model runs ({', '.join(uses)}), of which {target.name} has no word: "
            "the weights alone would be another model; to compressed-tensors it is passed on"
        )


def _sized(target: Target, item: Item, dry_run: bool) -> Item:
    """With its layout and size, where they are known before it is made."""
    if item.how == "dropped":
        return replace(item, layout={}, after=0)
    codec = item.codec
    if codec is None:
        return replace(item, layout={item.name: item.spec}, after=item.spec.nbytes)
    if isinstance(target, Native):
        planes = codec.planes(item.spec)
        fixed = not codec.lossless and all(plane.fixed for plane in planes.values())
        return replace(item, after=frame_size(codec, item.spec, planes) if fixed else None)

    def encoded() -> Encoded:
        if dry_run:
            raise _Unknown
        found = made(item)
        assert isinstance(found, Encoded)  # its codec is not None
        return found

    try:
        layout = target.layout(item.name, item.spec, codec, encoded)
    except _Unknown:
        return item
    return replace(item, layout=layout, after=sum(spec.nbytes for spec in layout.values()))


class _Unknown(Exception):
    """The layout of a weight depends on its data, which a dry run does not read."""


def _shared(target: Target, items: list[Item]) -> list[Item]:
    """With the global scales that sets of weights share, each found when the first of a set is made."""
    anew = {item.name: item for item in items if item.how.endswith("encoded") and _nvfp4(item.codec)}
    found = dict(anew)
    for names in target.fused([*anew]):
        groups: dict[Codec | None, list[Item]] = {}
        for name in names:
            groups.setdefault(anew[name].codec, []).append(anew[name])
        for group in groups.values():
            if len(group) > 1:
                shared = _SharedScale(group)
                found |= {item.name: replace(item, given=shared) for item in group}
    return [found.get(item.name, item) for item in items]


def _nvfp4(codec: Codec | None) -> bool:
    return isinstance(codec.outer if isinstance(codec, Then) else codec, NVFP4)


class _SharedScale:
    """Called, it gives the planes that a fused set shares; its weights are read one after another, once."""

    def __init__(self, items: list[Item]) -> None:
        self._items, self._lock, self._found = items, Lock(), None

    def __call__(self) -> dict[str, np.ndarray]:
        with self._lock:
            if self._found is None:
                codec = self._items[0].codec
                codec = codec.outer if isinstance(codec, Then) else codec
                arrays = (item.tensor.decode() for item in self._items)
                self._found = {"global_scale": shared_global_scale(arrays, getattr(codec, "arithmetic", "float32"))}
            return self._found


def _check_names(folder: Folder, items: list[Item]) -> None:
    """ArgumentError where two tensors would be stored under one name."""
    taken: dict[str, str] = {}
    for item in items:
        for name in () if item.how == "dropped" else item.layout or (item.name,):
            if (other := taken.setdefault(name, item.name)) != item.name:
                raise ArgumentError(
                    f"{shown(folder.name or '.')}: {shown(item.name)} and {shown(other)} would both be stored as "
                    f"{shown(name)}"
                )


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """config.json of a model that computes in another dtype, where it says in which."""
    found = {key: dtype if key in ("dtype", "torch_dtype") and value else value for key, value in config.items()}
    if isinstance(inner := found.get("text_config"), dict):
        found["text_config"] = _with_dtype(inner, dtype)
    return found
