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
    with pytest.raises(ac.ArgumentError, match="encodes a plane of the array's dtype and gives bfloat16 only"):
        ac.decode(enc, dtype="float32")


def test_a_product_uses_the_weight_that_decoding_gives():
    """Products decode straight to the dtype of `x` where that is one rounding; here they must not."""
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")
    from arraycodec_jax import dequant_matmul
    from arraycodec_torch.nn import linear

    outer = ac.Linear(8, block_size=(1, 32), flavour="compressed-tensors")
    codec, w = ac.Then(outer, scales=STATISTICS), np.random.default_rng(2).standard_normal((64, 128), np.float32)
    weight = ac.encode(torch.from_numpy(w), codec)
    eye = torch.eye(128, dtype=torch.bfloat16)
    assert torch.equal(linear(eye, weight).t(), ac.decode(weight).bfloat16())
    weight, eye = ac.encode(jnp.asarray(w), codec), jnp.eye(128, dtype=jnp.bfloat16)
    assert jnp.array_equal(dequant_matmul(eye, weight).T, ac.decode(weight).astype(jnp.bfloat16))


def test_what_parts_cannot_be():
    x = np.ones((8, 64), np.float32)
    with pytest.raises(ac.ArgumentError, match=r"'outliers' of .* has a length that depends on the array"):
        ac.encode(x, ac.Then(ac.LLMInt8(threshold=2.0), outliers=ac.Linear(8)))
    for codec in (ac.Linear(8), ac.Minifloat(), ac.Microscaling(), ac.NVFP4(), ac.Codebook("nf4")):
        with pytest.raises(ac.ArgumentError, match="given cannot hold 'codes', which is what encoding computes"):
            ac.encode(x, codec, given={"codes": ac.encode(x, codec).planes["codes"]})


def test_given_planes_are_copied_in_c_order():
    x, scales = np.ones((8, 128), np.float32), np.asfortranarray(np.full((8, 2), 0.5, np.float32))
    enc = ac.encode(x, ac.Linear(8, block_size=(1, 64)), given={"scales": scales})
    table = np.linspace(-1, 1, 16, dtype=np.float32)
    user = ac.encode(x, ac.Codebook("user4"), given={"codebook": table})
    scales[:], table[:] = 7, 7
    assert enc.planes["scales"].flags.c_contiguous and (enc.planes["scales"] == 0.5).all()
    assert user.planes["codebook"][-1] == 1


@pytest.mark.parametrize(
    "codec",
    [
        ac.codec("tcq4+lossless"),
        ac.Then(ac.Lut(2), codebook=ac.Lossless()),
        ac.Then(ac.PQR(gain=True), gains=ac.Lossless()),
    ],
    ids=str,
)
def test_a_plane_that_the_outer_codec_checks_may_have_a_codec_of_its_own(codec):
    x = np.random.default_rng(3).standard_normal((8, 1024), np.float32)
    read = ac.from_bytes(ac.to_bytes(ac.encode(x, codec)))
    same_bits(ac.decode(read), ac.decode(ac.encode(x, codec.outer)), "decoded")
