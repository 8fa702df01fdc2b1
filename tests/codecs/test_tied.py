"""`Tied` beyond the suite: every dtype and shape, arrays that are not the base, xxhash's own spelling of the hash."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

import arraycodec as ac
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compare import same_bits

TIED = ac.Tied("embed.weight")


def anything(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random bits of a dtype, NaN payloads included."""
    row = numpy_dtype(dtype)
    high = 2 if dtype == "bool" else 256
    data = np.random.default_rng(0).integers(0, high, int(np.prod(shape)) * row.itemsize, np.uint8)
    return data.view(row).reshape(shape)


@pytest.mark.parametrize("dtype", ac.Tied.dtypes)
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (2, 3, 5), (40, 1000)])
def test_every_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    x = anything(shape, dtype)
    enc = ac.encode(x, TIED, given={"base": x})
    digest = "".join(f"{word:08x}" for word in enc.planes["hash"][::-1].tolist())
    assert digest == xxhash.xxh3_128_hexdigest(x.tobytes())
    decoded = ac.decode(enc, given={"base": x})
    assert not np.shares_memory(decoded, x)
    same_bits(decoded, x, dtype)
    out = ac.empty(enc.spec)
    assert ac.decode(enc, given={"base": x}, out=out) is out
    same_bits(out, x, dtype)


def test_strides_do_not_matter() -> None:
    x = anything((6, 8), "int16")
    enc = ac.encode(x, TIED, given={"base": np.asfortranarray(x)})
    same_bits(ac.decode(enc, given={"base": np.repeat(x, 2, 0)[::2]}), x, "a base with strides")
    wide = x.astype(">i2")
    same_bits(ac.decode(enc, given={"base": wide}), x, "a base in the other byte order")


@pytest.mark.parametrize("place", [0, 1_000_000, 4_000_003])
def test_any_bit_of_the_base_counts(place: int) -> None:
    x = anything((1000, 4004), "uint8")
    enc, other = ac.encode(x, TIED, given={"base": x}), x.copy()
    other.reshape(-1)[place] ^= 16
    with pytest.raises(ac.CorruptError, match=r"hash must be [0-9a-f]{32}, tensor 'embed.weight' has [0-9a-f]{32}"):
        ac.decode(enc, given={"base": other})
    with pytest.raises(ac.ArgumentError, match="must be the base bit for bit"):
        ac.encode(x, TIED, given={"base": other})


def test_what_is_not_the_base() -> None:
    x = np.zeros((4, 6), np.float32)
    enc = ac.encode(x, TIED, given={"base": x})
    for other in (x.T, x[:, :5], x.reshape(-1), x.view(np.int32), np.zeros((4, 6), np.float64)):
        with pytest.raises(ac.CorruptError, match=r"must be float32\[4, 6\]"):
            ac.decode(enc, given={"base": other})
        with pytest.raises(ac.ArgumentError, match="must be the base"):
            ac.encode(x, TIED, given={"base": other})
    with pytest.raises(ac.CorruptError, match="hash"):  # equal as numbers
        ac.decode(enc, given={"base": -x})
    for given in (None, {}):
        with pytest.raises(ac.ArgumentError, match=r"given must hold 'base', tensor 'embed\.weight'"):
            ac.decode(enc, given=given)
        with pytest.raises(ac.ArgumentError, match="given must hold 'base'"):
            ac.encode(x, TIED, given=given)
    with pytest.raises(ac.ArgumentError, match="cannot hold 'hash'"):
        ac.encode(x, TIED, given={"base": x, **enc.planes})


def test_parameters() -> None:
    for bad in ({"tensor": 1}, {"tensor": None}, {"file": 0}, {"file": b"x"}):
        with pytest.raises(ac.ArgumentError, match="must be a str"):
            ac.Tied(**bad)
    long = ac.Tied("w" * 5000, "f" * 5000)
    with pytest.raises(ac.ArgumentError) as caught:
        ac.encode(np.zeros(3), long, given={"base": np.ones(3)})
    assert len(str(caught.value)) < 500


def test_a_trace_compares_the_spec_and_values_at_hand_the_hash() -> None:
    jax, jnp = pytest.importorskip("jax"), pytest.importorskip("jax.numpy")
    x = jnp.arange(6.0)
    enc = ac.encode(x, TIED, given={"base": x})
    decode = jax.jit(lambda e, b: ac.decode(e, given={"base": b}))
    assert jnp.array_equal(decode(enc, x), x)
    for other in (x[:5], x.reshape(2, 3), jnp.arange(6)):
        with pytest.raises(ac.CorruptError, match=r"must be float32\[6\]"):
            decode(enc, other)
    with pytest.raises(ac.CorruptError, match="hash"):
        ac.decode(enc, given={"base": x + 1})


def test_plain_torch_ops_take_no_other_base() -> None:
    torch = pytest.importorskip("torch")
    from arraycodec_torch import IMPLEMENTATIONS

    x = torch.arange(12.0).reshape(3, 4)
    enc, how = ac.encode(x, TIED, given={"base": x}), IMPLEMENTATIONS["torch"]
    decoded = how.decode(enc.codec, enc.planes, enc.spec, {"base": x})
    assert torch.equal(decoded, x) and decoded.data_ptr() != x.data_ptr()
    with pytest.raises(ac.CorruptError, match="hash"):
        how.decode(enc.codec, enc.planes, enc.spec, {"base": x + 1})
    with pytest.raises(ac.UnsupportedByBackend, match="CPU tensors only"):
        how.encode(x, enc.codec, {"base": x})
