"""`Then`: planes of a codec encoded by other codecs."""

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compare import same_bits

STATISTICS = ac.Codebook("dynamic", block_size=256)


@pytest.mark.parametrize("outer", [ac.Linear(4, False, (1, 128)), ac.Minifloat(), ac.Codebook("nf4")], ids=repr)
def test_scales_are_those_that_the_part_decodes_to(outer):
    scales = outer.scale
    x = np.random.default_rng(0).standard_normal((16, 256), np.float32)
    plain, both = ac.encode(x, outer), ac.encode(x, ac.Then(outer, **{scales: STATISTICS}))
    part = ac.decode(ac.encode(plain.planes[scales], STATISTICS))
    planes = {name: both.planes.get(name, part) for name in plain.planes}
    same_bits(ac.decode(both), ac.decode(ac.Encoded(outer, plain.spec, planes)), "decoded")
    for dtype in ("bfloat16", "float16"):
        expected = ac.decode(ac.Encoded(outer, plain.spec, planes), dtype=dtype)
        same_bits(ac.decode(both, dtype=dtype), expected, dtype)


def test_another_dtype_is_refused_where_an_encoded_plane_has_that_of_the_array():
    """The part would decode the scales with the precision of the result, not with that of the array."""
    outer = ac.Linear(4, block_size=(1, 64), flavour="compressed-tensors")
    x = np.random.default_rng(1).standard_normal((4, 256)).astype(numpy_dtype("bfloat16"))
    enc = ac.encode(x, ac.Then(outer, scales=STATISTICS))
    assert ac.decode(enc).dtype == x.dtype
    with pytest.raises(ac.ArgumentError, match="encodes planes of the array's dtype and gives bfloat16 only"):
        ac.decode(enc, dtype="float32")
