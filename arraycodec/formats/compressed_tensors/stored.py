"""How each format stores a weight: the planes of its codec as tensors, and what a codec is called there.

pack-quantized           weight_packed: a dense stream of bits per row in int32 words; weight_shape; zero points of
                         channels and groups likewise, along the rows
int-, naive-quantized    weight: int8, one to an integer whatever its width; zero points int8
float-, naive-quantized  weight: float8_e4m3fn
mxfp8-quantized          weight: float8_e4m3fn, with uint8 exponents
mxfp4-, mxfp6-pack-quantized, nvfp4-pack-quantized   weight_packed: uint8, the codes of our planes
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from arraycodec.base import Codec, Encoded
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.microscaling import Microscaling
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.errors import ArgumentError, FormatError
from arraycodec.formats import modelopt, sparse
from arraycodec.formats.compressed_tensors import packing
from arraycodec.formats.compressed_tensors.args import MX_FORMATS, MX_GROUP, NV_GROUP, Args, Scheme
from arraycodec.formats.compressed_tensors.presets import PRESETS
from arraycodec.primitives.grid import BlockSize
from arraycodec.spec import ArraySpec

PACK = "pack-quantized"
PACKED_ZERO_POINTS = ("channel", "group")  # strategies; those of others stay int8
MX_BITS = {name: bits for bits, name in MX_FORMATS.items()}


def args_of(codec: Codec, spec: ArraySpec | None = None) -> Args | None:
    """The Args of weights that a codec holds; None where no format stores its planes.

    spec   of the weights, where it is known: its rows must be whole groups.

    >>> from arraycodec import Linear
    >>> args_of(Linear(4, block_size=(1, 128))).group_size
    128
    """
    codec = sparse.dense_codec(codec)
    columns = spec.known_shape[-1] if spec is not None and spec.shape else 0
    if isinstance(codec, Linear | Minifloat):
        tiles = _tiles(codec.block_size)
        if tiles is None or columns % (tiles.group_size or 1):
            return None
        if isinstance(codec, Linear):
            return replace(tiles, num_bits=codec.bits, symmetric=codec.symmetric)
        plain = codec.format != MX_FORMATS[8] or not codec.scaled
        return None if plain else replace(tiles, type="float")
    if isinstance(codec, Microscaling) and codec.format in MX_BITS and codec.block_size == MX_GROUP:
        return None if columns % MX_GROUP else PRESETS[f"MXFP{MX_BITS[codec.format]}A16"].weights
    if isinstance(codec, NVFP4) and codec.block_size == NV_GROUP:
        return None if columns % NV_GROUP else PRESETS["NVFP4A16"].weights
    return None


def _tiles(block_size: BlockSize) -> Args | None:
    """The strategy for tiles of this size."""
    if block_size is None:
        return Args()
    rows, columns = block_size if isinstance(block_size, tuple) else (1, block_size)
    if rows == 1:
        return Args(strategy="channel") if columns is None else Args(group_size=columns, strategy="group")
    if rows is None or columns is None:
        return None
    return Args(strategy="block", block_structure=(rows, columns))


def same_planes(a: Args, b: Args) -> bool:
    """Whether planes of one are planes of the other, up to the dtype of scales."""
    return all(
        getattr(a, key) == getattr(b, key)
        for key in ("num_bits", "type", "symmetric", "strategy", "group_size", "block_structure", "is_mx", "is_nvfp4")
    )


def check_format(scheme: Scheme, where: str) -> None:
    """Raise ArgumentError where no format stores the weights of a scheme, or not the one that it names."""
    if scheme.weights is None:
        return
    try:
        scheme.weights.codec()
    except FormatError as error:
        raise ArgumentError(f"{where}: {error}") from None
    stored, free = scheme.stored_format(), replace(scheme, format=None)
    allowed = {free.stored_format(), replace(free, input_activations=None).stored_format()}
    if scheme.weights.type == "int":
        allowed |= {"int-quantized", "naive-quantized"}
    elif allowed & {"float-quantized", "naive-quantized"}:
        allowed |= {"float-quantized", "naive-quantized"}
    if stored not in allowed:
        raise ArgumentError(f"{where}: format must be one of {', '.join(sorted(allowed))}, got {stored!r}")


def layout(format: str, spec: ArraySpec, codec: Codec) -> dict[str, ArraySpec]:
    """name -> spec of the tensors that a weight is stored as, without the module before their names."""
    codec = sparse.dense_codec(codec)
    planes = codec.planes(spec)
    codes, more = planes["codes"], {}
    if isinstance(codec, Linear):
        codes = ArraySpec(spec.shape, "int8")
        if format == PACK:
            *rows, columns = spec.known_shape
            codes = ArraySpec((*rows, packing.words_per_row(columns, codec.bits)), "int32")
            more["weight_shape"] = ArraySpec((len(spec.shape),), "int64")
        if not codec.symmetric:
            zeros = planes["zero_points"]
            if _packs_zero_points(format, codec):
                *matrices, rows, groups = zeros.known_shape
                zeros = ArraySpec((*matrices, packing.words_per_row(rows, codec.bits), groups), "int32")
            more["weight_zero_point"] = zeros
    elif isinstance(codec, NVFP4):
        more["weight_global_scale"] = planes["global_scale"]
    return {_codes_name(format): codes, "weight_scale": planes["scales"]} | more


def arrays(format: str, encoded: Encoded) -> dict[str, np.ndarray]:
    """The tensors of `layout`, from planes in NumPy."""
    if isinstance(encoded.codec, NVFP4) and encoded.codec.multiplies:
        encoded = modelopt.divided(encoded)
    encoded = sparse.dense(encoded)
    codec, spec, planes = encoded.codec, encoded.spec, encoded.planes
    codes, more = planes["codes"], {}
    if isinstance(codec, Linear):
        if format == PACK:
            codes = packing.words_of(codes, codec.bits, spec.known_shape)
            more["weight_shape"] = np.array(spec.shape, np.int64)
        else:
            codes = packing.integers_of(codes, codec.bits, spec.known_shape)
        if not codec.symmetric:
            zeros = planes["zero_points"]
            packs = _packs_zero_points(format, codec)
            more["weight_zero_point"] = packing.zero_point_words(zeros, codec.bits) if packs else zeros
    elif isinstance(codec, NVFP4):
        more["weight_global_scale"] = planes["global_scale"]
    return {_codes_name(format): codes, "weight_scale": planes["scales"]} | more


def _codes_name(format: str) -> str:
    return "weight_packed" if format.endswith(PACK) else "weight"


def _packs_zero_points(format: str, codec: Linear) -> bool:
    args = args_of(codec)
    return format == PACK and args is not None and args.strategy in PACKED_ZERO_POINTS
