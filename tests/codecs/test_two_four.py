"""`TwoFour` beyond the suite: every dtype against a plain witness, ties, refusals, threads, corrupt planes, JAX."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import toy_two_four

import arraycodec as ac
from arraycodec.primitives import threads
from arraycodec.primitives.sparse import UNIT
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from tests.codecs.sparse_support import golden_matrix, sparse

EXACT, PRUNE = ac.TwoFour(), ac.TwoFour(prune=True)
SHAPES = [(), (0,), (3, 0), (0, 5), (1,), (6,), (5, 8), (3, 37), (2, 3, 50), (2, 7)]


def two_four(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random bits in at most two places of each group."""
    x = sparse((*shape[:-1], shape[-1] // 4, 4), dtype, density=0.9)
    order = np.random.default_rng(2).random(x.shape).argsort(-1)
    return np.where(order < 2, x, np.zeros(1, x.dtype)).astype(x.dtype).reshape(shape)


@pytest.mark.parametrize("dtype", ac.TwoFour.dtypes)
def test_every_dtype_and_shape(dtype: str) -> None:
    for codec in (PRUNE, ac.TwoFour(prune=True, drop_negative_zero=True)):
        for shape in SHAPES:
            x = sparse(shape, dtype, density=0.8)
            planes, want = codec.encode(x), toy_two_four.encode(codec, x, {})
            for name, plane in want.items():
                same_bits(planes[name], plane, f"{codec} {name} of {dtype}{shape}")
            codec.check(planes, spec_of(x))
            decoded = codec.decode(planes, spec_of(x))
            same_bits(decoded, toy_two_four.decode(codec, want, spec_of(x)), f"{dtype}{shape}")
            again = EXACT.encode(decoded)  # what is left is 2:4
            same_bits(EXACT.decode(again, spec_of(x)), decoded, f"{dtype}{shape} once more")


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "float8_e4m3fn"])
def test_what_is_2_4_comes_back(dtype: str) -> None:
    x = two_four((40, 64), dtype)
    enc = ac.encode(x, EXACT)
    out = ac.empty(enc.spec)
    assert ac.decode(enc, out=out) is out
    same_bits(out, x, dtype)
    assert enc.planes["values"].shape == (40, 32) and enc.planes["bitmask"].shape == (40, 8)
    same_bits(ac.decode(ac.encode(np.asfortranarray(x), EXACT)), x, "with strides")


def test_groups_with_more_are_refused_and_counted() -> None:
    x = np.zeros((3, 10), np.float32)
    x[1, 4:8], x[2, :3] = 1, [1, 2, -0.0]
    with pytest.raises(ac.ArgumentError, match=r"more in 2 of 9; prune=True keeps .*, drop_negative_zero=True"):
        ac.encode(x, EXACT)
    with pytest.raises(ac.ArgumentError, match=r"got more in 1 of 9; prune=True keeps the two largest$"):
        ac.encode(x, ac.TwoFour(drop_negative_zero=True))
    x[1, 6:8] = 0
    dropped = ac.decode(ac.encode(x, ac.TwoFour(drop_negative_zero=True)))
    same_bits(dropped, x + 0, "-0 is +0")
    assert EXACT.lossless and not PRUNE.lossless and not ac.TwoFour(drop_negative_zero=True).lossless


def test_the_largest_magnitudes_stay() -> None:
    rng = np.random.default_rng(0)
    for dtype in ("float32", "bfloat16", "float16", "float8_e4m3fn", "float8_e5m2fnuz"):
        x = rng.standard_normal((64, 32), np.float32).astype(numpy_dtype(dtype))
        decoded = ac.decode(ac.encode(x, "sparse24"))
        groups, left = (np.abs(a.astype(np.float32)).reshape(-1, 4) for a in (x, decoded))
        assert (np.sort(left, -1)[:, 2:] == np.sort(groups, -1)[:, 2:]).all() and ((left > 0).sum(-1) <= 2).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu"])
def test_every_pattern_ranks_as_the_page_says(dtype: str) -> None:
    width = numpy_dtype(dtype).itemsize
    patterns = np.arange(256**width, dtype=f"u{width}")
    x = np.random.default_rng(0).permutation(patterns).view(numpy_dtype(dtype)).reshape(-1, 64)[:: 4**width // 4]
    planes, want = PRUNE.encode(x), toy_two_four.encode(PRUNE, x, {})
    for name, plane in want.items():
        same_bits(planes[name], plane, name)


def test_results_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SERIAL_BELOW", 1)
    for shape in ((33, 130), (5 * UNIT + 3,)):
        x = sparse(shape, "float16")
        want = PRUNE.encode(x)
        for number in (1, 3):
            with threads.limited(number):
                for name, plane in PRUNE.encode(x).items():
                    same_bits(plane, want[name], f"{name} of {shape}, {number} threads")
                same_bits(PRUNE.decode(want, spec_of(x)), toy_two_four.decode(PRUNE, want, spec_of(x)), f"{number}")


def test_a_part_reads_its_bytes_alone() -> None:
    x, fetched = two_four((64, 512), "bfloat16"), []
    planes = EXACT.encode(x)

    def fetch(name: str, piece: slice) -> np.ndarray:
        part = planes[name].reshape(-1)[piece]
        fetched.append(part.nbytes)
        return part

    same_bits(EXACT.read(fetch, spec_of(x), 1001, 1017), x.reshape(-1)[1001:1017], "16 elements")
    assert sum(fetched) <= 24 + 3


def test_corrupt_planes() -> None:
    spec, planes = ArraySpec((3, 21), "float16"), PRUNE.encode(sparse((3, 21), "float16"))
    for place, value, message in (
        (0, 0xF3, "must have 2 bits in each group, got 4 in group 1 of row 0"),
        (4, 0x13, "must have 2 bits in each group, got 1 in group 3 of row 1"),
        (8, 0x03, "must have 1 bits in each group, got 0 in group 5 of row 2"),
        (2, 0x33, "must end in zero bits after their 21 columns"),
    ):
        broken = planes | {"bitmask": planes["bitmask"].copy()}
        broken["bitmask"].reshape(-1)[place] = value
        with pytest.raises(ac.CorruptError, match=message):
            PRUNE.check(broken, spec)
    for dtype in ("uint8", "float16", "float32", "int64"):  # without a check, any bits have a meaning
        spec = ArraySpec((9, 21), dtype)
        planes = PRUNE.encode(sparse((9, 21), dtype))
        planes["bitmask"] = np.random.default_rng(0).integers(0, 256, planes["bitmask"].shape, np.uint8)
        same_bits(PRUNE.decode(planes, spec), toy_two_four.decode(PRUNE, planes, spec), dtype)


def test_parameters() -> None:
    for parameter in ("prune", "drop_negative_zero"):
        with pytest.raises(ac.ArgumentError, match=f"{parameter} must be True or False, got 'yes'"):
            ac.TwoFour(**{parameter: "yes"})
    x = np.zeros((2, 4), np.complex64)
    with pytest.raises(ac.ArgumentError, match=r"dtype must be one of .* got complex64"):
        ac.encode(x, PRUNE)
    with pytest.raises(ac.ArgumentError, match="gives float32 only"):
        ac.decode(ac.encode(x.real, PRUNE), dtype="float16")


def test_compressed_tensors_golden_hashes() -> None:
    """The planes that compressed-tensors 0.14.0.1 made of a matrix without zeros but those of the pattern."""
    x, plain = golden_matrix(), golden_matrix(zeros=False)
    x[:2] = plain[:2]
    x[:, 1::4] = x[:, 3::4] = 0
    planes = EXACT.encode(x)
    hashes = [hashlib.sha256(planes[name].tobytes()).hexdigest()[:12] for name in ("values", "bitmask")]
    assert hashes == ["7c87ddf40211", "f93ac174acd9"]


def test_values_with_a_codec_of_their_own() -> None:
    x = np.random.default_rng(0).standard_normal((64, 512), np.float32)
    part = ac.Linear(4, block_size=(1, 128))
    enc, plain = ac.encode(x, ac.Then(PRUNE, values=part)), ac.encode(x, PRUNE)
    assert enc.planes["values.scales"].shape == (64, 2) and enc.bits_per_element == 2 + 1 + 0.125
    values = ac.decode(ac.encode(plain.planes["values"], part))
    same_bits(ac.decode(enc), ac.decode(ac.Encoded(PRUNE, enc.spec, plain.planes | {"values": values})), "decoded")


def test_jax_encodes_in_a_trace_where_it_prunes(level: Level) -> None:
    jax = pytest.importorskip("jax")
    from arraycodec_jax import IMPLEMENTATIONS

    full = level >= Level.full
    for dtype in ("bfloat16", "int8", "float8_e4m3fnuz", "uint32") if full else ("bfloat16", "float8_e4m3fnuz"):
        for shape in ((5, 37), (2, 64), (), (1, 2)) if full else ((5, 37),):
            x = sparse(shape, dtype)
            want, own = PRUNE.encode(x), jax.numpy.asarray(x)
            planes = IMPLEMENTATIONS["jit"].encode(own, PRUNE, {})
            for name, plane in want.items():
                same_bits(np.asarray(planes[name]), plane, f"{name} of {dtype}{shape}")
            decoded = IMPLEMENTATIONS["jit"].decode(PRUNE, planes, spec_of(x), {})
            same_bits(np.asarray(decoded), PRUNE.decode(want, spec_of(x)), f"{dtype}{shape}")
    own = jax.numpy.asarray(two_four((4, 64), "float16"))
    traced = jax.jit(lambda x: ac.encode(x, PRUNE).planes)(own)
    same_bits(np.asarray(traced["values"]), PRUNE.encode(np.asarray(own))["values"], "in a trace")
    with pytest.raises(ac.UnsupportedByBackend, match="cannot see in a trace"):
        jax.jit(lambda x: ac.encode(x, EXACT).planes)(own)
    how = IMPLEMENTATIONS["jit"]
    same_bits(np.asarray(how.encode(own, EXACT, {})["values"]), np.asarray(traced["values"]), "looked at first")
    with pytest.raises(ac.ArgumentError, match="got more in 1 of 64"):
        how.encode(own.at[0, :4].set(1), EXACT, {})
