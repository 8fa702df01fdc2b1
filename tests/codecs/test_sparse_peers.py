"""`Bitmask` and `TwoFour` against compressed-tensors 0.14, the last release with compressors of sparse weights."""

from __future__ import annotations

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.oracles import to_torch
from tests.codecs.sparse_support import sparse

peer = pytest.importorskip("compressed_tensors.compressors.sparse_compressors", reason="needs compressed-tensors 0.14")
pytestmark = pytest.mark.level("full")

DTYPES = ("bfloat16", "float16", "float32", "float8_e4m3fn")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(16, 256), (33, 130), (7, 5)])
def test_bitmask_planes_are_its_own(dtype: str, shape: tuple[int, int]) -> None:
    from arraycodec_torch import to_numpy

    for density in (0.9, 0.5, 0.1, 0.0):
        x = sparse(shape, dtype, density)
        values, mask, offsets = map(to_numpy, peer.bitmask_compress(to_torch(x)))
        planes = ac.Bitmask(drop_negative_zero=True).encode(x)
        same_bits(planes["values"], values, "compressed")
        same_bits(planes["bitmask"], mask, "bitmask")
        same_bits(planes["offsets"].astype(np.int64), offsets, "row_offsets")
        decoded = peer.bitmask_decompress(to_torch(values), to_torch(mask), shape)
        same_bits(ac.Bitmask().decode(planes, spec_of(x)), to_numpy(decoded), "decompressed")


@pytest.mark.parametrize("dtype", DTYPES)
def test_two_four_files_decode_alike(dtype: str) -> None:
    """Whatever it keeps; and the planes are ours where no two magnitudes of a group are equal."""
    from arraycodec_torch import to_numpy

    codec, rng = ac.TwoFour(prune=True), np.random.default_rng(0)
    distinct = 1 + rng.random((64, 64, 4)).argsort(-1) + rng.random((64, 64, 1))
    signs = 1 if dtype == "float8_e4m3fn" else rng.choice([-1, 1], distinct.shape)  # whose signs it ranks wrongly
    for x in (sparse((32, 64), dtype), (distinct * signs).reshape(64, 256).astype(numpy_dtype(dtype))):
        values, mask = map(to_numpy, peer.sparse24_bitmask_compress(to_torch(x)))
        planes = {"values": values, "bitmask": mask}
        codec.check(planes, spec_of(x))
        decoded = peer.sparse24_bitmask_decompress(to_torch(values), to_torch(mask), x.shape)
        same_bits(codec.decode(planes, spec_of(x)), to_numpy(decoded), "decompressed")
    own = codec.encode(x)
    same_bits(own["values"], values, "compressed")
    same_bits(own["bitmask"], mask, "bitmask")
