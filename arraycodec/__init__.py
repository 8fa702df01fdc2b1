"""Codecs for neural-network weights: one definition of every format, the same bits on NumPy, torch and JAX.

>>> import numpy as np, arraycodec as ac
>>> w = np.random.default_rng(0).standard_normal((4, 256), np.float32)
>>> enc = ac.encode(w, "nf4")
>>> ac.decode(enc).shape, enc.bits_per_element
((4, 256), 4.5)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arraycodec.api import Error, decode, empty, encode, error
    from arraycodec.base import Codec, Encoded, Then
    from arraycodec.caches import append, kv_cache, tokens
    from arraycodec.calibration import activation_scales, shared_global_scale
    from arraycodec.casts import cast, uncast
    from arraycodec.checkpoints.compress import compress
    from arraycodec.checkpoints.convert import convert
    from arraycodec.checkpoints.decompress import decompress
    from arraycodec.checkpoints.diff import diff
    from arraycodec.checkpoints.info import info
    from arraycodec.checkpoints.load import load
    from arraycodec.checkpoints.sparse_files import (
        BitmaskConfig,
        Sparse24BitMaskConfig,
        load_compressed,
        save_compressed,
        save_compressed_model,
    )
    from arraycodec.checkpoints.stream import StreamingLoader
    from arraycodec.checkpoints.verify import verify
    from arraycodec.codecs.bitmask import Bitmask
    from arraycodec.codecs.codebook import Codebook
    from arraycodec.codecs.delta import Delta
    from arraycodec.codecs.dq import DQ
    from arraycodec.codecs.gguf import Gguf
    from arraycodec.codecs.linear import Linear
    from arraycodec.codecs.llm_int8 import LLMInt8
    from arraycodec.codecs.lossless import Lossless
    from arraycodec.codecs.lut import Lut
    from arraycodec.codecs.microscaling import Microscaling
    from arraycodec.codecs.minifloat import Minifloat
    from arraycodec.codecs.nvfp4 import NVFP4
    from arraycodec.codecs.permuted import Permuted
    from arraycodec.codecs.pqr import PQR
    from arraycodec.codecs.tcq import TCQ
    from arraycodec.codecs.tied import Tied
    from arraycodec.codecs.two_four import TwoFour
    from arraycodec.containers.frame import from_bytes, to_bytes
    from arraycodec.containers.reader import load_file, open_file
    from arraycodec.containers.writer import save_file
    from arraycodec.errors import (
        ArgumentError,
        ArrayCodecError,
        CorruptError,
        FormatError,
        LimitError,
        NonFiniteError,
        UnknownCodecError,
        UnsupportedByBackend,
        VersionError,
    )
    from arraycodec.formats.checkpoint import open_checkpoint
    from arraycodec.formats.compressed_tensors.fuse import fuse
    from arraycodec.formats.compressed_tensors.in_memory import to_compressed_tensors
    from arraycodec.formats.compressed_tensors.transforms import rotation_config
    from arraycodec.primitives.threads import get_num_threads, set_num_threads
    from arraycodec.registry import codec
    from arraycodec.rotations import hadamard, rotate
    from arraycodec.spec import ArraySpec

__version__ = "0.1.0"

# name -> the module that defines it; imported when the name is first used, so that `import arraycodec` and the
# command line's --help load neither NumPy nor a compiler.
_HOME = {
    "Error": "api", "decode": "api", "empty": "api", "encode": "api", "error": "api",
    "Codec": "base", "Encoded": "base", "Then": "base",
    "append": "caches", "kv_cache": "caches", "tokens": "caches",
    "activation_scales": "calibration", "shared_global_scale": "calibration",
    "cast": "casts", "uncast": "casts",
    "compress": "checkpoints.compress", "convert": "checkpoints.convert",
    "decompress": "checkpoints.decompress", "diff": "checkpoints.diff",
    "info": "checkpoints.info", "load": "checkpoints.load", "StreamingLoader": "checkpoints.stream",
    "verify": "checkpoints.verify",
    "BitmaskConfig": "checkpoints.sparse_files", "Sparse24BitMaskConfig": "checkpoints.sparse_files",
    "load_compressed": "checkpoints.sparse_files", "save_compressed": "checkpoints.sparse_files",
    "save_compressed_model": "checkpoints.sparse_files",
    "Codebook": "codecs.codebook", "Delta": "codecs.delta", "DQ": "codecs.dq",
    "Gguf": "codecs.gguf",
    "Linear": "codecs.linear", "LLMInt8": "codecs.llm_int8", "Lossless": "codecs.lossless",
    "Microscaling": "codecs.microscaling", "Minifloat": "codecs.minifloat",
    "Lut": "codecs.lut", "NVFP4": "codecs.nvfp4", "Permuted": "codecs.permuted", "PQR": "codecs.pqr",
    "TCQ": "codecs.tcq", "Tied": "codecs.tied",
    "Bitmask": "codecs.bitmask", "TwoFour": "codecs.two_four",
    "from_bytes": "containers.frame", "to_bytes": "containers.frame",
    "load_file": "containers.reader", "open_file": "containers.reader", "save_file": "containers.writer",
    "ArgumentError": "errors", "ArrayCodecError": "errors", "CorruptError": "errors", "FormatError": "errors",
    "LimitError": "errors", "NonFiniteError": "errors", "UnknownCodecError": "errors",
    "UnsupportedByBackend": "errors", "VersionError": "errors",
    "open_checkpoint": "formats.checkpoint",
    "fuse": "formats.compressed_tensors.fuse", "rotation_config": "formats.compressed_tensors.transforms",
    "to_compressed_tensors": "formats.compressed_tensors.in_memory",
    "get_num_threads": "primitives.threads", "set_num_threads": "primitives.threads",
    "codec": "registry",
    "hadamard": "rotations", "rotate": "rotations",
    "ArraySpec": "spec",
}  # fmt: skip

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'arraycodec' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"arraycodec.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
