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
from arraycodec.formats.modules import calibrated
from arraycodec.formats.native import Native
from arraycodec.formats.target import Target

CALIBRATED = ("arraycodec", "compressed-tensors")  # targets that have a place for scales of activations and caches


@dataclass
class Part:
    """The plan of one folder: its items in the order of their names in the source, and config.json of the result."""

    folder: Folder
    target: Target
    items: list[Item]
    config: dict[str, Any] | None  # None: there is none to write


def plan_folder(folder: Folder, target: Target, model: Mapping[str, Any], dtype: str | None, dry_run: bool) -> Part:
    """What becomes of the tensors of a folder.

    model  its config.json without a quantization_config.
    dtype  of plain results, None for each weight's own.
    """
    items = []
    for name, (file, tensor) in folder.tensors.items():
        items.append(_item(folder, target, file, name, tensor, dtype))
    decisions = {item.name: item.decision for item in items}
    config = target.config(dict(model), decisions)
    if dtype is not None:
        config = _with_dtype(config, dtype)
    items = _shared(target, items)
    items = [_sized(target, item, dry_run) for item in items]
    _check_names(folder, items)
    return Part(folder, target, items, config)


def _item(folder: Folder, target: Target, file: str, name: str, tensor: TensorView, dtype: str | None) -> Item:
    source = held(tensor) if isinstance(target, Native) else bare(held(tensor))
    spec = tensor.spec
    with located(Path(tensor.path)):
        decision = target.decide(name, spec, source)
    codec = decision.codec
    if folder.format != PLAIN and target.name not in CALIBRATED and calibrated(name):
        return Item(file, name, tensor, source, replace(decision, codec=None, reason="of activations"), "dropped", spec)
    if codec is None:
        if dtype is not None and spec.dtype in FLOATS and spec.dtype != dtype:
            reason = f"{decision.reason}, rounded to {dtype}"
            return Item(
                file, name, tensor, source, replace(decision, reason=reason), "cast", replace(spec, dtype=dtype)
            )
        how = "copied" if getattr(tensor, "codec", None) is None else "decoded"
    elif codec == source:
        how = "kept"
    else:
        how = "encoded" if source is None or source.lossless else "re-encoded"
        spec = replace(spec, dtype=decision.dtype or spec.dtype)
    return Item(file, name, tensor, source, decision, how, spec)


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
