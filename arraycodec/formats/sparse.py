"""Sparse weights as compressed-tensors stored them until 0.14: `sparse-bitmask` and `sparse-24-bitmask`.

The specification is docs/format/sparse_bitmask.md. In place of the weight of a module X:
    X.shape        int64 (axes,); sparse-24-bitmask has (axes, 1)
    X.compressed   the elements that are kept; sparse-24-bitmask has half of a row in a row
    X.bitmask      uint8 (..., ceil(columns / 8)), a bit for each element, the lowest first
    X.row_offsets  int64, sparse-bitmask alone: running counts of the elements that are kept
The weight may be codes of 8 bits, with scales beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from arraycodec.base import Codec, Encoded, Planes, Then
from arraycodec.codecs.bitmask import Bitmask
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.two_four import TwoFour
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import ArgumentError, CorruptError, FormatError
from arraycodec.formats.compressed_tensors import packing
from arraycodec.formats.translated import Weight
from arraycodec.primitives.bitmasks import bitmask_spec, row_starts, rows_of, starts_of
from arraycodec.spec import ArraySpec

BITMASK, SPARSE_24 = FORMATS = ("sparse-bitmask", "sparse-24-bitmask")
DENSE = "dense"
SHAPE, KEPT, MASK, OFFSETS = ROLES = ("shape", "compressed", "bitmask", "row_offsets")
Parts = Mapping[str, LazyTensor]
Arrays = dict[str, np.ndarray]


def said(sparsity: Mapping[str, object], where: str) -> str | None:
    """The format that a sparsity_config names; None where it names none, or dense weights."""
    format = sparsity.get("format")
    if format not in (*FORMATS, DENSE, None):
        raise FormatError(f"{where}: format must be one of {', '.join(FORMATS)}, {DENSE}, got {checks.shown(format)}")
    return format if format in FORMATS else None


def weights(raw: Mapping[str, LazyTensor], format: str | None = None) -> dict[str, Weight]:
    """module -> its weight, of all modules whose tensors are those of a sparse one.

    format   that they must be in; None: whichever their tensors show. CorruptError where tensors are missing, or not of
             the shapes and dtypes that they must have. A lone tensor with such a name is nobody's part.
    """
    modules: dict[str, dict[str, LazyTensor]] = {}
    for name, tensor in raw.items():
        module, _, parameter = name.rpartition(".")
        if parameter in ROLES and module:
            modules.setdefault(module, {})[parameter] = tensor
    return {module: _weight(module, parts, format) for module, parts in modules.items() if _is_sparse(parts)}


def over(outer: Weight, codes: Weight, role: str) -> Weight:
    """The weight whose stored codes are sparse.

    outer   what the codes would make if they were stored dense, as its part `role`.
    """
    parts = {**codes.parts, **{name: part for name, part in outer.parts.items() if name != role}}
    codec = outer.codec

    def dense_codes(stored: Arrays) -> Planes:
        return outer.planes(stored | {role: codes.codec.decode(codes.planes(stored), codes.spec)})

    if not isinstance(codec, Linear | Minifloat) or codec.bits != 8:  # codes of fewer bits are packed in planes
        return replace(outer, parts=parts, planes=dense_codes)
    nothing = np.empty(0, codec.planes(outer.spec)["codes"].numpy_dtype)  # codes of 8 bits are taken as they are

    def planes(stored: Arrays) -> Planes:
        made = outer.planes(stored | {role: nothing})
        del made["codes"]
        return made | {f"codes.{name}": plane for name, plane in codes.planes(stored).items()}

    return replace(outer, codec=Then(codec, codes=codes.codec), parts=parts, planes=planes)


def layout(spec: ArraySpec, codec: Codec, count: int) -> dict[str, ArraySpec]:
    """role -> spec of the tensors of an array in `TwoFour`, or in `Bitmask`, which keeps `count` elements."""
    axes, planes = len(spec.shape), codec.planes(spec)
    if isinstance(codec, TwoFour):
        return {SHAPE: ArraySpec((axes, 1), "int64"), KEPT: planes["values"], MASK: planes["bitmask"]}
    return {
        SHAPE: ArraySpec((axes,), "int64"),
        KEPT: ArraySpec((count,), spec.dtype),
        MASK: planes["bitmask"],
        OFFSETS: ArraySpec(spec.shape[:-1], "int64"),
    }


def arrays(encoded: Encoded) -> Arrays:
    """The tensors of `layout`, from planes in NumPy."""
    planes, spec = encoded.planes, encoded.spec
    shape = np.array(spec.known_shape, np.int64)
    if isinstance(encoded.codec, TwoFour):
        return {SHAPE: shape.reshape(-1, 1), KEPT: planes["values"], MASK: planes["bitmask"]}
    starts = np.append(planes["offsets"].reshape(-1), planes["values"].size)
    return {SHAPE: shape, KEPT: planes["values"], MASK: planes["bitmask"], OFFSETS: _running(starts, spec)}


def dense_codec(codec: Codec) -> Codec:
    """The codec of `dense`: for 2:4 values in symmetric integers these integers with zeros between; else the same."""
    values = dict(codec.parts).get("values") if isinstance(codec, Then) and isinstance(codec.outer, TwoFour) else None
    if not isinstance(values, Linear) or not values.symmetric or len(codec.parts) != 1:  # type: ignore[attr-defined]
        return codec
    rows, columns = values.block_size if isinstance(values.block_size, tuple) else (1, values.block_size)
    if rows != 1 or values.bits == 1:
        return codec
    return replace(values, block_size=(1, None if columns is None else 2 * columns))


def dense(encoded: Encoded) -> Encoded:
    """The same array in `dense_codec`: it decodes to the same bits."""
    codec, spec = dense_codec(encoded.codec), encoded.spec
    if codec == encoded.codec or not isinstance(codec, Linear):
        return encoded
    planes = encoded.planes
    kept = TwoFour().planes(spec)["values"].known_shape
    integers = packing.integers_of(planes["values.codes"], codec.bits, kept)
    spread = TwoFour().decode({"values": integers, "bitmask": planes["bitmask"]}, replace(spec, dtype="int8"))
    codes = packing.codes_of_integers(spread, codec.bits)
    return Encoded(codec, spec, {"codes": codes, "scales": planes["values.scales"]})


def _is_sparse(parts: Parts) -> bool:
    """Whether these are not merely buffers that happen to be called so."""
    return len(parts) > 1 and (KEPT in parts or MASK in parts)


def _weight(module: str, parts: Parts, format: str | None) -> Weight:
    """The weight of a module, once its tensors are found to fit each other."""
    where = f"{next(iter(parts.values())).path}: module {checks.shown(module)}"
    format = format or (BITMASK if OFFSETS in parts else SPARSE_24)
    for role in ROLES if format == BITMASK else ROLES[:3]:
        if role not in parts:
            raise CorruptError(f"{where}: {role} is missing, which {format} has, got {', '.join(parts)}")
    if format == SPARSE_24 and OFFSETS in parts:
        raise CorruptError(f"{where}: {OFFSETS} has no meaning in the format {format}")
    spec = _spec(parts, where)
    want = bitmask_spec(spec)
    _fit(parts[MASK], want.known_shape, want.dtype)
    found = {role: parts[role] for role in (KEPT, MASK, SHAPE)}
    if format == BITMASK:
        found[OFFSETS] = parts[OFFSETS]
        _fit(parts[OFFSETS], spec.known_shape[:-1], "int64")
        if len(parts[KEPT].shape) != 1:
            raise CorruptError(f"{parts[KEPT].where}: must have one axis, got {list(parts[KEPT].shape)}")
        return Weight(spec, Bitmask(), found, _unstructured(spec))
    rows, columns = spec.known_shape if len(spec.shape) == 2 else (0, 1)
    if columns % 2 or rows * columns % 4:
        raise CorruptError(f"{where}: shape must be that of a matrix of groups of four, got {list(spec.shape)}")
    _fit(parts[KEPT], (rows, columns // 2), spec.dtype)
    if columns % 4:  # groups go on in the next row, which no 2:4 codec of rows can say
        return Weight(spec, Bitmask(), found, _unstructured(spec))
    return Weight(spec, TwoFour(), found, lambda stored: {"values": stored[KEPT], "bitmask": stored[MASK]})


def _spec(parts: Parts, where: str) -> ArraySpec:
    """The spec of the decoded weight, by the numbers in `shape`."""
    stored = parts[SHAPE]
    if stored.dtype != "int64" or len(stored.shape) not in (1, 2) or stored.shape[1:] not in ((), (1,)):
        raise CorruptError(
            f"{stored.where}: must be int64[axes] or int64[axes, 1], got {checks.spec_text(stored.spec)}"
        )
    if not 0 < stored.shape[0] <= checks.MAX_NDIM:
        raise CorruptError(f"{stored.where}: must be of 1 to {checks.MAX_NDIM} axes, got {stored.shape[0]}")
    axes = [int(axis) for axis in np.asarray(stored).reshape(-1)]
    with checks.from_file(where, (ArgumentError,)):
        spec = checks.spec(parts[KEPT].dtype, axes, SHAPE)
        Bitmask().supports(spec)
    return spec


def _unstructured(spec: ArraySpec) -> Callable[[Arrays], Planes]:
    """What makes planes of `Bitmask` out of stored tensors."""

    def planes(stored: Arrays) -> Planes:
        starts = row_starts(starts_of(stored[MASK], spec), rows_of(spec))
        if OFFSETS in stored and (wrong := stored[OFFSETS] != _running(starts, spec)).any():
            i = int(np.argmax(wrong))
            raise CorruptError(
                f"{OFFSETS} must count the bits of {MASK}, which are {_running(starts, spec).flat[i]} before row {i}, "
                f"got {stored[OFFSETS].flat[i]}"
            )
        plane = Bitmask().planes(spec)["offsets"]
        offsets = starts[:-1].astype(plane.numpy_dtype).reshape(plane.known_shape)
        return {"values": stored[KEPT].reshape(-1), "bitmask": stored[MASK], "offsets": offsets}

    return planes


def _running(starts: np.ndarray, spec: ArraySpec) -> np.ndarray:
    """`row_offsets`: where the values of each row begin. The library adds along axis 0 only, also of more than two."""
    if len(spec.shape) == 1:
        return np.zeros((), np.int64)
    counts = np.diff(starts).reshape(spec.known_shape[:-1])
    return np.cumsum(counts, axis=0, dtype=np.int64) - counts


def _fit(tensor: LazyTensor, shape: tuple[int, ...], dtype: str) -> None:
    if (tensor.dtype, tensor.shape) != (dtype, shape):
        want, got = ArraySpec(shape, dtype), tensor.spec
        raise CorruptError(f"{tensor.where}: must be {checks.spec_text(want)}, got {checks.spec_text(got)}")
