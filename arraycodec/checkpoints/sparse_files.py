"""Sparse tensors in files of compressed-tensors 0.14, with the functions that it had for them until then.

The files are docs/format/sparse_bitmask.md; the tutorial is docs/tutorials/bitmask-compression.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec import api, registry
from arraycodec.base import Codec, Encoded
from arraycodec.codecs.bitmask import Bitmask
from arraycodec.codecs.two_four import TwoFour
from arraycodec.containers import checks, safetensors
from arraycodec.errors import ArgumentError, FormatError
from arraycodec.formats import sparse
from arraycodec.formats.checkpoint import open_checkpoint
from arraycodec.formats.sparse import BITMASK, DENSE, OFFSETS, SPARSE_24
from arraycodec.formats.translated import Translated
from arraycodec.primitives.memory import bits, native
from arraycodec.spec import ArraySpec, spec_of

WEIGHT = ".weight"
CODECS: dict[str, Codec] = {
    BITMASK: Bitmask(drop_negative_zero=True),
    SPARSE_24: TwoFour(drop_negative_zero=True),
}
GROUP = 4
PIECE = 1 << 16  # elements looked at at once
Path_ = str | os.PathLike[str]


@dataclass(frozen=True)
class BitmaskConfig:
    """What names the format `sparse-bitmask`, as compressed-tensors has it.

    >>> BitmaskConfig().format
    'sparse-bitmask'
    """

    format: str = BITMASK


@dataclass(frozen=True)
class Sparse24BitMaskConfig:
    """What names the format `sparse-24-bitmask`, as compressed-tensors has it.

    >>> Sparse24BitMaskConfig().format
    'sparse-24-bitmask'
    """

    format: str = SPARSE_24


def save_compressed(tensors: Mapping[str, Any], path: Path_, compression_format: Any = None) -> None:
    """Write tensors to a safetensors file as compressed-tensors 0.14 stored sparse ones; it reads the file, too.

    tensors             name -> array of any framework. Those called `X.weight` are compressed; others, and those that
                        the format cannot have, are stored as they are.
    compression_format  "sparse-bitmask": every weight, as the elements that are not zero and a bit for each element;
                        "sparse-24-bitmask": matrices that are 2:4 sparse, with whole groups of four in a row; "dense"
                        or None: none. Or an object whose `format` is one of these, such as a BitmaskConfig.

    Every bit comes back but the sign of zeros: -0 is a zero as well. The file appears whole or not at all, and replaces
    one that is there. Beyond the tensors, memory is that of one tensor and its encoding.

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path = tempfile.mkdtemp() + "/model.safetensors"
    >>> ac.save_compressed({"up.weight": np.eye(4, dtype=np.float32)}, path, "sparse-bitmask")
    >>> sorted(ac.load_file(path)), dict(ac.load_compressed(path))["up.weight"][0]
    (['up.bitmask', 'up.compressed', 'up.row_offsets', 'up.shape'], array([1., 0., 0., 0.], dtype=float32))
    """
    codec = CODECS.get(_format(compression_format))
    if not tensors:
        raise ArgumentError("save_compressed: tensors must be at least one, got none")
    plan: dict[str, Codec | None] = {}
    specs: dict[str, ArraySpec] = {}
    for name, value in tensors.items():
        array = _array(value)
        plan[name] = codec if codec is not None and _compresses(name, array, codec) else None
        for stored, spec in _layout(name, array, plan[name]).items():
            if stored in specs:
                raise ArgumentError(f"save_compressed: two tensors would be called {checks.shown(stored)}")
            specs[stored] = spec
    with safetensors.SafetensorsWriter(path, safetensors.make_header(specs, align=8)) as writer:
        for name, value in tensors.items():
            array, own = _array(value), plan[name]
            made = {name: array}
            if own is not None:
                encoded = Encoded(own, spec_of(array), own.encode(array))
                made = {_stored_name(name, role): part for role, part in sparse.arrays(encoded).items()}
            for stored, part in made.items():
                writer.add(stored, part)


def load_compressed(
    path: Path_, compression_config: Any = None, *, framework: str = "numpy", device: Any = None
) -> Iterator[tuple[str, Any]]:
    """The tensors of a checkpoint one after another, as (name, array): a generator that holds one at a time.

    path                a safetensors file, its index, or a folder, of whatever format `open_checkpoint` knows.
    compression_config  the format of sparse weights, as in `save_compressed`. None: names of tensors show it. A
                        FormatError where the file has another one.
    framework, device   of the arrays: "numpy", "torch" or "jax".

    >>> import numpy as np, tempfile, arraycodec as ac
    >>> path, config = tempfile.mkdtemp() + "/model.safetensors", ac.BitmaskConfig()
    >>> ac.save_compressed({"up.weight": np.eye(3, dtype=np.float16)}, path, compression_format=config.format)
    >>> for name, tensor in ac.load_compressed(path, compression_config=config):
    ...     print(name, tensor.dtype, tensor.sum())
    up.weight float16 3.0
    """
    format = _format(compression_config)
    registry.framework(framework)  # fail here, not at the first tensor
    if not Path(path).exists():
        raise FileNotFoundError(f"load_compressed: there is no {checks.shown(os.fspath(path))}")
    return _decoded(path, format, framework, device)


def save_compressed_model(model: Any, path: Path_, compression_format: Any = None) -> None:
    """`save_compressed` of all tensors of a model: whatever has a `state_dict()`, or a mapping of names to arrays.

    >>> import numpy as np, tempfile, torch, arraycodec as ac
    >>> path, model = tempfile.mkdtemp() + "/model.safetensors", torch.nn.Linear(64, 64)
    >>> ac.save_compressed_model(model, path, "sparse-bitmask")
    >>> model.load_state_dict(dict(ac.load_compressed(path, framework="torch")))
    <All keys matched successfully>
    """
    if hasattr(model, "state_dict"):
        model = model.state_dict()
    if not isinstance(model, Mapping):
        got = type(model).__name__
        raise ArgumentError(f"save_compressed_model: model must have a state_dict() or be a mapping, got {got}")
    save_compressed(model, path, compression_format)


def _decoded(path: Path_, format: str, framework: str, device: Any) -> Iterator[tuple[str, Any]]:
    with open_checkpoint(path, framework=framework, device=device) as model:
        weights = [
            tensor for tensor in model.values() if isinstance(tensor, Translated) and sparse.KEPT in tensor.parts
        ]
        for tensor in weights if format != DENSE else ():
            found = BITMASK if OFFSETS in tensor.parts else SPARSE_24
            if found != format:
                raise FormatError(f"{tensor.where}: is stored as {found}, but compression_config says {format}")
        for name, tensor in model.items():
            yield name, tensor.decode()


def _format(given: Any) -> str:
    """The name of a format that is given as such, as an object that has it, or not at all."""
    found = given if isinstance(given, str) else getattr(given, "format", given)  # str.format is a method
    found = getattr(found, "value", found)  # of an enumeration
    if found is None:
        return DENSE
    if found not in (*CODECS, DENSE):
        raise ArgumentError(f"compression_format must be one of {', '.join(CODECS)}, {DENSE}, got {given!r}")
    return found


def _array(value: Any) -> np.ndarray:
    return native(api.to_numpy(value))


def _compresses(name: str, array: np.ndarray, codec: Codec) -> bool:
    """Whether the format has such an array."""
    if not name.endswith(WEIGHT) or not array.ndim or spec_of(array).dtype not in codec.dtypes:
        return False
    if isinstance(codec, Bitmask):
        return True
    if array.ndim != 2 or array.shape[-1] % GROUP:
        return False
    fours = (kept.view(np.uint32) for kept in _kept(array))  # sums of four bytes of 0 and 1, in the highest byte
    return not any((four * np.uint32(0x01010101) >= (GROUP // 2 + 1) << 24).any() for four in fours)


def _kept(array: np.ndarray) -> Iterator[np.ndarray]:
    """Which elements are not zero, piece by piece."""
    flat = bits(array)
    mask = flat.dtype.type(Bitmask(drop_negative_zero=True).mask(spec_of(array).dtype))
    for at in range(0, flat.size, PIECE):
        yield flat[at : at + PIECE] & mask != 0


def _layout(name: str, array: np.ndarray, codec: Codec | None) -> dict[str, ArraySpec]:
    """name -> spec of the tensors that an array is stored as."""
    spec = spec_of(array)
    if codec is None:
        return {name: spec}
    count = sum(int(np.count_nonzero(kept)) for kept in _kept(array)) if isinstance(codec, Bitmask) else 0
    return {_stored_name(name, role): part for role, part in sparse.layout(spec, codec, count).items()}


def _stored_name(name: str, role: str) -> str:
    return f"{name.removesuffix(WEIGHT)}.{role}"
