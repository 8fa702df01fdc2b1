"""Plain torch ops against the reference, bit for bit: primitives, every pattern, edges, and flushed subnormals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

import arraycodec as ac
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.primitives import floats
from arraycodec.spec import ArraySpec, numpy_dtype
from arraycodec_conformance.compare import same_bits
from arraycodec_torch import IMPLEMENTATIONS, from_numpy, to_numpy
from arraycodec_torch import primitives as torch_floats
from arraycodec_torch import scales as torch_scales

PLAIN = IMPLEMENTATIONS["torch"]
CODECS = [
    ac.Codebook("nf4"),
    ac.Codebook("nf4", block_size=1),
    ac.Codebook("nf4", block_size=63),
    ac.Codebook("nf4", block_size=9001),
    ac.Codebook("fp4", block_size=33),
    ac.Codebook("fp4", flavour="bnb-cpu", block_size=None),
    ac.Codebook("dynamic", block_size=100),
    ac.Codebook("dynamic", block_size=256, offset=True),
    ac.Codebook("nf4", block_size=None, offset=True),
    ac.codec("nf4-double"),
    ac.Linear(8),
    ac.codec("w4a16"),
    ac.Linear(5, symmetric=False, block_size=(2, 20)),
    ac.Linear(3, symmetric=False, block_size=(1, None), flavour="compressed-tensors"),
    ac.LLMInt8(),
    ac.Minifloat("float6_e3m2fn"),
    ac.codec("fp8-block"),
    ac.Minifloat(scaled=False, overflow="nonfinite"),
    ac.Microscaling(),
    ac.Microscaling("int8"),
    ac.Microscaling("float6_e2m3fn", flavour="compressed-tensors"),
    ac.NVFP4(),
    ac.NVFP4(arithmetic="eager"),
]
SHAPES = [(), (0,), (1,), (3, 64), (7, 33), (41, 333), (0, 64)]


@pytest.fixture(params=[False, True], ids=["subnormals", "flushed"])
def flush(request: pytest.FixtureRequest) -> Iterator[bool]:
    """torch computes with and without subnormal floats."""
    if not torch.set_flush_denormal(request.param):
        pytest.skip("this processor cannot flush subnormals")
    yield request.param
    torch.set_flush_denormal(False)


flushed = pytest.mark.parametrize("flush", [True], ids=["flushed"], indirect=True)  # the suite does it with subnormals


def flushes() -> bool:
    """Whether torch computes without subnormal floats just now."""
    return bool((torch.tensor([1], dtype=torch.int32).view(torch.float32) * 2).view(torch.int32) == 0)


def compare(codec: ac.Codec, x: np.ndarray, given: dict[str, np.ndarray] | None = None, how: object = PLAIN) -> None:
    """Encode with `how` and decode to every dtype, and require the bits of the reference, which never flushes here."""
    given, flushing = given or {}, flushes()
    torch.set_flush_denormal(False)
    want = codec.encode(x, given)
    decoded = {dtype: codec.decode(want, ArraySpec(x.shape, dtype)) for dtype in floats.KINDS}
    torch.set_flush_denormal(flushing)
    planes = how.encode(from_numpy(x), codec, {name: from_numpy(plane) for name, plane in given.items()})
    own = {name: from_numpy(plane) for name, plane in want.items()}
    got = {dtype: how.decode(codec, own, ArraySpec(x.shape, dtype), {}) for dtype in floats.KINDS}
    torch.set_flush_denormal(False)
    for name, plane in want.items():
        same_bits(to_numpy(planes[name]), plane, f"{codec}: {name} of {x.dtype}{list(x.shape)}", x)
    for dtype, array in decoded.items():
        same_bits(to_numpy(got[dtype]), array, f"{codec}: decoded to {dtype}{list(x.shape)}", x)
    torch.set_flush_denormal(flushing)


@flushed
@pytest.mark.parametrize("dtype", list(floats.KINDS))
@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_random_patterns_and_sizes(codec: ac.Codec, dtype: str, flush: bool) -> None:
    rng, width = np.random.default_rng(0), numpy_dtype(dtype).itemsize * 8
    for shape in SHAPES:
        patterns = rng.integers(0, 2**width, shape, np.uint64).astype(f"u{width // 8}").view(numpy_dtype(dtype))
        with np.errstate(all="ignore"):
            spread = np.asarray(rng.standard_normal(shape) * np.exp2(rng.integers(-126, 127, shape)))
            compare(codec, patterns)
            compare(codec, spread.astype(numpy_dtype(dtype)))


@flushed
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("table", ["nf4", "fp4", "dynamic"])
def test_every_pattern_of_16_bits(table: str, dtype: str, flush: bool) -> None:
    patterns = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
    compare(ac.Codebook(table, block_size=1), patterns)
    compare(ac.Codebook(table), patterns)
    for exponent in (-90, -3, 0, 100):
        compare(ac.Codebook(table, block_size=None), patterns, {"absmax": np.array([2.0**exponent * 1.3], np.float32)})


@pytest.mark.parametrize("table", ["user4", "user8"])
def test_user_tables(table: str, flush: bool) -> None:
    rng, n = np.random.default_rng(1), 16 if table == "user4" else 256
    values = np.linspace(-1, 1, n, dtype=np.float32)  # the midpoint in its middle is 0
    bounds = values[:-1] * np.float32(0.25) + values[1:] * np.float32(0.75)
    signed = values.copy()
    signed[n // 2] = -0.0
    x = (rng.standard_normal((50, 64)) * np.exp2(rng.integers(-126, 20, (50, 1)))).astype(np.float32)
    x[:, 5] = 2.0**-126 * np.arange(50)
    for given in ({"codebook": values}, {"codebook": values, "bounds": bounds}, {"codebook": signed}):
        compare(ac.Codebook(table), x, given)


def test_wrong_user_tables_are_refused() -> None:
    x = torch.ones(64)
    with pytest.raises(ArgumentError, match="given must hold the plane 'codebook'"):
        PLAIN.encode(x, ac.Codebook("user4"), {})
    with pytest.raises(ArgumentError, match="strictly rising"):
        PLAIN.encode(x, ac.Codebook("user4"), {"codebook": torch.zeros(16)})


def test_given_scales_of_every_kind(flush: bool) -> None:
    """Scales from outside: negative, tiny, huge, infinite and NaN, over elements that are not finite either."""
    absmax = np.array(
        [1, -1, 0, 2.0**-101, 2.0**-100, 2.0**126, 3e38, np.inf, -np.inf, np.nan, -np.nan, 1e-45], np.float32
    )
    x = np.tile(np.array([0, -0.0, 1, -1, 1e-45, 3e38, np.inf, -np.inf, np.nan, 0.5], np.float32), (12, 10))[:, :64]
    for table in ("nf4", "dynamic"):
        compare(ac.Codebook(table), np.ascontiguousarray(x), {"absmax": absmax[:, None]})
    for offset in (0.25, 1e-40, np.inf, np.nan):
        compare(ac.Codebook("nf4", offset=True), np.ascontiguousarray(x), {"offset": np.array(offset, np.float32)})


@pytest.mark.parametrize("tile", [64, 100, 1 << 22])
def test_tiles_change_no_bit(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(torch_scales.TILE, "cpu", tile)
    x = np.random.default_rng(2).standard_normal(3001).astype(np.float32)
    for block_size in (None, 1, 7, 64, 99, 101, 3000):
        compare(ac.Codebook("nf4", block_size=block_size), x)


def test_a_codec_without_this_implementation_is_refused() -> None:
    class Other(ac.Codebook):
        name = "other"

    with pytest.raises(
        UnsupportedByBackend, match=r"other: the torch backend has no plain torch implementation .* cpu"
    ):
        PLAIN.encode(torch.ones(4), Other(), {})


# -- primitives


def test_recip_rn_is_the_correctly_rounded_reciprocal() -> None:
    rng = np.random.default_rng(3)
    bits = (rng.integers(1, 253, 1 << 20) << 23 | rng.integers(0, 1 << 23, 1 << 20)).astype(np.uint32)
    bits[:512] = np.arange(1, 253).repeat(3)[:512] << 23 | np.tile([0, 1, 0x7FFFFF], 256)[:512]
    with np.errstate(all="ignore"):
        want = np.float32(1) / bits.view(np.float32)
    got = torch_floats.as_float(torch_floats.recip_rn(torch.from_numpy(bits.view(np.int32))))
    same_bits(got.numpy(), want, "reciprocals")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_widen_and_narrow(dtype: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
    wide = torch_floats.widen(from_numpy(patterns))
    one = floats.bfloat16_to_float32 if dtype == "bfloat16" else floats.half_to_float32
    some = range(0, 2**16, 37)
    assert [one(np.uint32(i)) for i in some] == [int(wide[i]) & 0xFFFFFFFF for i in some]
    near = torch.tensor([-1, 0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFF, 0x1000, 0x1001], dtype=torch.int32)
    edges = (wide[:, None] + near).flatten()
    with np.errstate(all="ignore"):
        want = edges.numpy().view(np.float32).astype(numpy_dtype(dtype))
    got = to_numpy(torch_floats.narrow(edges, getattr(torch, dtype)))
    number = ~np.isnan(edges.numpy().view(np.float32))
    same_bits(got[number], want[number], "narrowed")
    canonical = np.unique(got[~number].view(np.uint16))
    assert set(canonical) == ({0x7FC0, 0xFFC0} if dtype == "bfloat16" else {0x7E00, 0xFE00})


def test_mul_add_rounds_twice() -> None:
    a, b, c = torch.randn(3, 10_000)
    want = (a.numpy() * b.numpy()) + c.numpy()
    same_bits(torch_floats.mul_add(a, b, c).numpy(), want, "a * b + c")
