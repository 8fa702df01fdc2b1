"""The stored formats one by one: which tensors a weight has, of which shapes, and how they become planes.

`LAYOUTS` maps a format to a function of the stored tensors of a module and the Args of its weights. It looks at headers
(and at `weight_shape`, which is a few numbers); the Weight that it gives reads data when it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from arraycodec.base import Codec, Planes, Then
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.microscaling import Microscaling
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.codecs.permuted import Permuted
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import ArgumentError, CorruptError, FormatError
from arraycodec.formats.compressed_tensors import legacy, packing
from arraycodec.formats.compressed_tensors.args import MX_GROUP, Args
from arraycodec.formats.parts import check_codes
from arraycodec.formats.translated import Weight
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec

PACKED, WEIGHT, SCALE, ZEROS = "weight_packed", "weight", "weight_scale", "weight_zero_point"
SHAPE, GLOBAL, G_IDX = "weight_shape", "weight_global_scale", "weight_g_idx"
ROLES = (PACKED, WEIGHT, SCALE, ZEROS, SHAPE, GLOBAL, G_IDX)
FLOATS = tuple(KINDS)
DECODED = "bfloat16"  # what scales of a float8 or a power of two decode to where the model has no dtype
C = TypeVar("C", bound=Codec)
Q = TypeVar("Q", Linear, Minifloat)
Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Parts:
    """The stored tensors of one module by parameter, and what else tells how to read them.

    where    the file and the module, for errors
    dtype    of the model, where its config says
    version  of the library that wrote them, where the config says
    """

    tensors: Mapping[str, LazyTensor]
    where: str
    dtype: str | None
    version: legacy.Version | None

    def need(self, role: str, dtypes: tuple[str, ...], *shapes: Shape) -> LazyTensor:
        """The tensor of this role; CorruptError where it is missing, or of another dtype or none of the shapes."""
        if role not in self.tensors:
            raise CorruptError(f"{self.where}: {role} is missing, got {', '.join(self.tensors)}")
        tensor = self.tensors[role]
        if tensor.dtype not in dtypes:
            raise CorruptError(f"{self.where}: {role} must be {' or '.join(dtypes)}, got {tensor.dtype}")
        if shapes and tensor.shape not in shapes:
            told = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
            raise CorruptError(f"{self.where}: {role} must have the shape {told}, got {list(tensor.shape)}")
        return tensor

    def spec(self, shape: Shape, dtype: str) -> ArraySpec:
        """The spec of the decoded weight."""
        with checks.from_file(self.where):
            return checks.spec(dtype, list(shape), "the weight")


def stored_format(parts: Parts, args: Args) -> str:
    """The format that the tensors are in, by their dtypes; `args` tell those apart that look alike."""
    if PACKED in parts.tensors:
        if parts.need(PACKED, ("int32", "uint8")).dtype == "int32":
            return "pack-quantized"
        return f"mxfp{args.num_bits}-pack-quantized" if args.is_mx and args.num_bits < 8 else "nvfp4-pack-quantized"
    if parts.tensors[WEIGHT].dtype == "int8":
        return "int-quantized"
    scale = parts.tensors.get(SCALE)
    return "mxfp8-quantized" if scale is not None and scale.dtype == "uint8" else "float-quantized"


def linear(parts: Parts, args: Args) -> Weight:
    """pack-quantized and int-quantized: integers in words, or one to a byte."""
    codec = _codec(parts, args, Linear)
    bits, main = codec.bits, PACKED if PACKED in parts.tensors else WEIGHT
    if main == PACKED:
        shape = _weight_shape(parts)
        padded = _is_padded(parts, args, shape)
    else:
        shape, padded = parts.tensors[WEIGHT].shape, False
    codec, spec, scale = _scaled(parts, args, codec, shape)
    found = {main: parts.tensors[main], SCALE: scale}
    if main == PACKED:
        found[SHAPE] = parts.tensors[SHAPE]
    zero_points = _zero_points(parts, args, codec, spec, found, padded)
    if G_IDX in parts.tensors:
        found[G_IDX] = parts.need(G_IDX, ("int32", "int64"), shape[-1:])
    moved = G_IDX in found and args.strategy == "group"  # else columns share a scale, in whatever order
    tiles = codec.planes(spec)["scales"].known_shape

    def planes(arrays: Arrays) -> Planes:
        if main == WEIGHT:
            codes = packing.codes_of_integers(arrays[WEIGHT], bits)
        elif padded:
            codes = packing.codes_of_padded(arrays[PACKED], bits, shape)
        else:
            packing.check_padding(arrays[PACKED], bits, shape[-1])
            codes = packing.codes_of(arrays[PACKED], bits, shape)
        made = {"codes": codes, "scales": arrays[SCALE].reshape(tiles)} | zero_points(arrays)
        return _grouped(made, arrays[G_IDX], bits, shape, args.group_size) if moved else made

    return Weight(spec, Then(Permuted(), values=codec) if moved else codec, found, planes, check_scales)


def minifloat(parts: Parts, args: Args) -> Weight:
    """float-quantized: float8 codes under scales in the dtype of the model."""
    codes = parts.tensors[WEIGHT]
    codec, spec, scale = _scaled(parts, args, _codec(parts, args, Minifloat), codes.shape)
    found = {WEIGHT: codes, SCALE: scale}
    zero_points = _zero_points(parts, args, codec, spec, found)
    tiles = codec.planes(spec)["scales"].known_shape

    def planes(arrays: Arrays) -> Planes:
        return {"codes": arrays[WEIGHT], "scales": arrays[SCALE].reshape(tiles)} | zero_points(arrays)

    return Weight(spec, codec, found, planes, check_scales)


def microscaling(parts: Parts, args: Args) -> Weight:
    """mxfp4-, mxfp6-pack-quantized and mxfp8-quantized: groups of 32 under a power of two."""
    if args.type == "float" and args.num_bits == 8 and args.group_size == MX_GROUP:
        args = replace(args, scale_dtype="uint8")  # which a config need not say
    codec = _codec(parts, args, Microscaling)
    main = WEIGHT if codec.bits == 8 else PACKED
    codes = parts.need(main, ("float8_e4m3fn",) if codec.bits == 8 else ("uint8",))
    spec = _spec_of_bytes(parts, codes, codec.bits, codec.block_size)
    scale = parts.need(SCALE, ("uint8",), codec.planes(spec)["scales"].known_shape)
    shift = legacy.scale_shift(parts.version) if codec.bits == 4 else 0

    def planes(arrays: Arrays) -> Planes:
        return {"codes": arrays[main], "scales": legacy.with_bias(arrays[SCALE], shift)}

    return Weight(spec, codec, {main: codes, SCALE: scale}, planes, check_exponents)


def nvfp4(parts: Parts, args: Args) -> Weight:
    """nvfp4-pack-quantized: groups of 16 under a float8 scale, and a divisor for the whole weight."""
    codec = _codec(parts, args, NVFP4)
    codes = parts.need(PACKED, ("uint8",))
    spec = _spec_of_bytes(parts, codes, 4, codec.block_size)
    scale = parts.need(SCALE, ("float8_e4m3fn",), codec.planes(spec)["scales"].known_shape)
    divisor = parts.need(GLOBAL, ("float32",), (1,), ())

    def planes(arrays: Arrays) -> Planes:
        return {"codes": arrays[PACKED], "scales": arrays[SCALE], "global_scale": arrays[GLOBAL].reshape(1)}

    return Weight(spec, codec, {PACKED: codes, SCALE: scale, GLOBAL: divisor}, planes, check_scales)


LAYOUTS: dict[str, Callable[[Parts, Args], Weight]] = {
    "pack-quantized": linear,
    "int-quantized": linear,
    "float-quantized": minifloat,
    "mxfp4-pack-quantized": microscaling,
    "mxfp6-pack-quantized": microscaling,
    "mxfp8-quantized": microscaling,
    "nvfp4-pack-quantized": nvfp4,
}


def check_scales(planes: Planes) -> None:
    """CorruptError where a code is NaN, a scale not finite or negative, or a global scale, which divides, 0."""
    check_codes(planes)
    for name, plane in planes.items():
        if (role := name.rpartition(".")[2]) in ("scales", "global_scale"):
            wide = np.asarray(plane).astype(np.float32)
            bad = ~np.isfinite(wide) | (wide < 0) | ((wide == 0) & (role == "global_scale"))
            if bad.any():
                told = "finite and positive" if role == "global_scale" else "finite and not negative"
                raise CorruptError(f"{name} must be {told}, got {wide[bad].flat[0]}")


def check_exponents(planes: Planes) -> None:
    """CorruptError where the scale of a group, or a code, is NaN."""
    check_codes(planes)
    if (planes["scales"] == 0xFF).any():
        raise CorruptError("scales must be below 255, which is NaN")


def _codec(parts: Parts, args: Args, kind: type[C]) -> C:
    """The codec of the Args; FormatError where the tensors are those of another one."""
    with checks.from_file(parts.where, (ArgumentError,)):
        codec = args.codec()
    if not isinstance(codec, kind):
        dtypes = ", ".join(f"{role} {tensor.dtype}" for role, tensor in parts.tensors.items())
        raise FormatError(f"{parts.where}: the config says {args.type} of {args.num_bits} bits, got {dtypes}")
    return codec


def _weight_shape(parts: Parts) -> Shape:
    """What `weight_shape` says, where packed rows can be rows of such a weight."""
    words = parts.need(PACKED, ("int32",))
    if not words.shape:
        raise CorruptError(f"{parts.where}: weight_packed must have axes, got none")
    stored = parts.need(SHAPE, ("int64", "int32"), (len(words.shape),))
    shape = tuple(int(axis) for axis in np.asarray(stored))
    if shape[:-1] != words.shape[:-1] or shape[-1] < 0:
        raise CorruptError(f"{parts.where}: weight_shape is {list(shape)}, but weight_packed {list(words.shape)}")
    return shape


def _is_padded(parts: Parts, args: Args, shape: Shape) -> bool:
    """Whether codes and zero points are packed as until 0.17."""
    runs = {PACKED: (shape[-1], parts.tensors[PACKED].shape[-1])}
    if _packs_zero_points(parts, args, shape):
        runs[ZEROS] = (shape[-2], parts.tensors[ZEROS].shape[-2])
    return legacy.is_padded(args.num_bits, runs, parts.version, parts.where)


def _packs_zero_points(parts: Parts, args: Args, shape: Shape) -> bool:
    """Whether zero points are in words, as of groups and channels they are since 0.9.4."""
    if args.symmetric or ZEROS not in parts.tensors or parts.tensors[ZEROS].dtype != "int32":
        return False
    if PACKED not in parts.tensors or args.strategy not in ("group", "channel"):
        raise CorruptError(f"{parts.where}: weight_zero_point must be int8, got int32")
    if len(parts.tensors[ZEROS].shape) != len(shape) or len(shape) < 2:
        got = list(parts.tensors[ZEROS].shape)
        raise CorruptError(f"{parts.where}: weight_zero_point must have {len(shape)} axes, got {got}")
    return True


def _spec_of_bytes(parts: Parts, codes: LazyTensor, bits: int, group: int) -> ArraySpec:
    """The spec of a weight with whole groups of codes in the bytes of each row."""
    columns = codes.shape[-1] * 8 // bits if codes.shape else 0
    if not codes.shape or columns % group or codes.shape[-1] * 8 % bits:
        raise CorruptError(
            f"{parts.where}: rows must be groups of {group} codes of {bits} bits, got {list(codes.shape)}"
        )
    return parts.spec((*codes.shape[:-1], columns), parts.dtype if parts.dtype in FLOATS else DECODED)


def _scaled(parts: Parts, args: Args, codec: Q, shape: Shape) -> tuple[Q, ArraySpec, LazyTensor]:
    """The codec, the spec of the decoded weight and its scales: of the dtype of the scales, as the library decodes.

    Scales of float32 beside a model of 16 bits are those of a codec without flavour.
    """
    group, columns = args.group_size or 0, shape[-1] if shape else 0
    if 0 < group < columns and columns % group:
        raise CorruptError(f"{parts.where}: rows must be groups of {group} codes, got {columns}")
    dtype = parts.need(SCALE, FLOATS).dtype
    if dtype == "float32" and parts.dtype in FLOATS and parts.dtype != dtype and codec.bits > 1:
        codec, dtype = replace(codec, flavour=None, arithmetic="float32"), parts.dtype
    spec = parts.spec(shape, dtype)
    tiles = codec.planes(spec)["scales"].known_shape
    allowed = [tiles]
    if codec.block_size is None:
        allowed += [(), (1,) * len(shape)]
    elif codec.block_size == (1, None):
        allowed.append(tiles[:-1])
    return codec, spec, parts.need(SCALE, FLOATS, *allowed)


def _zero_points(
    parts: Parts,
    args: Args,
    codec: Linear | Minifloat,
    spec: ArraySpec,
    found: dict[str, LazyTensor],
    padded: bool = False,
) -> Callable[[Arrays], Planes]:
    """What makes the plane of zero points; the stored tensor is added to `found`."""
    shape, tiles = spec.known_shape, codec.planes(spec)["scales"].known_shape
    if args.symmetric:
        if ZEROS not in parts.tensors:
            return lambda arrays: {}
        found[ZEROS] = parts.need(ZEROS, ("int8", "float8_e4m3fn"), found[SCALE].shape)
        return _no_zero_points
    if ZEROS not in parts.tensors and legacy.lacks_zero_points(parts.version):
        return lambda arrays: {"zero_points": np.zeros(tiles, np.int8)}
    if not _packs_zero_points(parts, args, shape):
        found[ZEROS] = parts.need(ZEROS, ("int8",), found[SCALE].shape)
        return lambda arrays: {"zero_points": arrays[ZEROS].reshape(tiles)}
    words = parts.tensors[ZEROS].shape[-2]
    found[ZEROS] = parts.need(ZEROS, ("int32",), (*tiles[:-2], words, tiles[-1]))
    unpack = packing.zero_points_of_padded if padded else packing.zero_points_of
    return lambda arrays: {"zero_points": unpack(arrays[ZEROS], args.num_bits, shape[-2])}


def _no_zero_points(arrays: Arrays) -> Planes:
    if arrays[ZEROS].astype(np.float32).any():
        raise CorruptError("weight_zero_point must be 0 where the config says symmetric")
    return {}


def _grouped(planes: Planes, g_idx: np.ndarray, bits: int, shape: Shape, group_size: int | None) -> Planes:
    """The planes with the columns of each group side by side."""
    order = legacy.order_of(g_idx, group_size or 1, G_IDX)
    integers = packing.integers_of(planes["codes"], bits, shape)[..., np.argsort(order)]
    codes = packing.codes_of_integers(np.ascontiguousarray(integers), bits)
    return {"order": order} | {f"values.{name}": plane for name, plane in (planes | {"codes": codes}).items()}
