"""`Delta` beyond the suite: every dtype and shape, wrong bases, curves and factors, partial reads, hostile planes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.api import validate
from arraycodec.primitives.entropy.difference_plan import CODED, EQUAL, RAW, DifferencePlan
from arraycodec.spec import DTYPES, numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits

SHAPES = [(), (0, 3), (7,), (3, 65), (40, 1000), (9, 7, 5, 5), (20, 5000)]


def anything(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Random bits of a dtype, NaN payloads included."""
    row, high = numpy_dtype(dtype), 2 if dtype == "bool" else 256
    data = np.random.default_rng(seed).integers(0, high, int(np.prod(shape)) * row.itemsize, np.uint8)
    return data.view(row).reshape(shape)


def normal(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """What weights look like."""
    return (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(numpy_dtype(dtype))


def changed(x: np.ndarray, share: float, by: int, seed: int = 1) -> np.ndarray:
    """`x` with some words moved by up to so many units."""
    rng, words = np.random.default_rng(seed), x.reshape(-1).view(f"u{x.dtype.itemsize}").copy()
    some = rng.random(words.size) < share
    words[some] += rng.integers(-by, by + 1, int(some.sum())).astype(words.dtype)
    return words.view(x.dtype).reshape(x.shape)


def trip(x: np.ndarray, base: np.ndarray, mode: str = "balanced") -> ac.Encoded:
    """Encode, check and decode; the same bits must come back, in planes that are never much larger than the array."""
    enc = ac.encode(x, ac.Delta(mode), given={"base": base})
    validate(enc)
    enc.codec.check(enc.planes, enc.spec)
    same_bits(ac.decode(enc, given={"base": base}), x, f"{x.dtype}{list(x.shape)}")
    assert enc.nbytes <= x.nbytes + 80
    return enc


@pytest.mark.parametrize("dtype", ac.Delta.dtypes)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    base = anything(shape, dtype)
    assert trip(base, base.copy()).planes["plan"][0] == (EQUAL if base.size else RAW)
    trip(anything(shape, dtype, 1), base)
    if dtype != "bool":
        for mode in ("balanced", "storage"):
            near = trip(changed(base, 0.1, 3), base, mode)
            assert base.size < 1000 or (near.planes["plan"][0] == CODED and near.nbytes < base.nbytes / 2)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_pattern_beside_every_kind_of_base(dtype: str) -> None:
    words = np.arange(1 << 16, dtype=np.uint16)
    x = words.view(numpy_dtype(dtype)).reshape(256, 256)
    for base in (
        np.roll(words, 1),
        words ^ 0x8000,
        words ^ 1,
        np.random.default_rng(0).permutation(words),
        words[::-1],
    ):
        trip(x, np.ascontiguousarray(base).view(x.dtype).reshape(x.shape))


def test_special_floats_under_factors() -> None:
    """Products that are subnormal, infinite or at the edges of either; NaN and infinity as bases."""
    edges = [e << 23 | m for e in (0, 1, 2, 3, 253, 254, 255) for m in (0, 1, 0x400000, 0x7FFFFF)]
    row = np.array([sign << 31 | word for sign in (0, 1) for word in edges], np.uint32)
    base = np.tile(np.concatenate([normal((72,)).view(np.uint32), row]), (64, 1)).view(np.float32)
    with np.errstate(all="ignore"):
        x = base * np.linspace(0.25, 4, 64, dtype=np.float32)[:, None]
    enc = trip(x, base)
    factors = enc.planes["scales"].copy()
    assert factors.size in (0, 64)
    # Any factor decodes to something, and what was encoded with it decodes to the array.
    from arraycodec.codecs import delta
    from arraycodec.primitives.memory import bits

    choice = delta.choose(bits(x), bits(base), "float32", x.shape, "balanced")
    scales = np.linspace(0.25, 4, 64, dtype=np.float32)
    symbols = choice.plan.most_symbols(32)
    frequencies = np.full((1, symbols), 1, np.uint16)
    frequencies[0, 0] += 2048 - symbols
    plan = choice.plan._replace(tables=1, symbols=symbols, scaled=1, unit=128, stream=4096)
    model = choice.model._replace(
        frequencies=frequencies, table_of=choice.model.table_of * 0, labels=np.resize(choice.model.labels, 64)
    )
    planes = enc.planes | ac.Delta()._coded(bits(x), bits(base), delta.Choice(plan, model, scales, 0), enc.spec)
    same_bits(enc.codec.decode(planes, enc.spec, {"base": base}), x, "factors by hand")


def test_rows_that_were_scaled_take_a_factor() -> None:
    base = normal((300, 384))
    x = base.copy()
    x[::2] *= np.random.default_rng(2).uniform(0.9, 1.1, (150, 1)).astype(np.float32)
    enc = trip(x, base)
    assert enc.planes["scales"].size == 300 and enc.bits_per_element < 0.3


def test_weight_decay_is_a_curve() -> None:
    """What AdamW does to rows without a gradient; the others are trained."""
    base = normal((2000, 384))
    x = base.copy()
    for _ in range(20):
        x *= np.float32(1 - 2e-7)
    enc = trip(x, base)
    assert DifferencePlan.of(enc.planes["plan"], enc.spec).curves == 1
    assert enc.bits_per_element < 1
    x[::2] += normal((1000, 384), seed=3) * np.float32(0.01)
    half = trip(x, base)
    assert half.bits_per_element < 12


def test_storage_is_not_larger_and_both_beat_the_bits_that_changed() -> None:
    base = normal((512, 768), "bfloat16")
    x = (base.astype(np.float32) + normal((512, 768), seed=5) * np.float32(0.001)).astype(base.dtype)
    balanced, storage = trip(x, base), trip(x, base, "storage")
    assert storage.nbytes <= balanced.nbytes < 0.15 * x.nbytes


@pytest.mark.parametrize("dtype", [name for name, row in DTYPES.items() if row.bits == 64])
def test_words_of_64_bits_are_refused(dtype: str) -> None:
    x = np.zeros(4, numpy_dtype(dtype))
    with pytest.raises(ac.ArgumentError, match=f"dtype must be one with elements of 8, 16 or 32 bits.*got '{dtype}'"):
        ac.encode(x, "delta", given={"base": x})


def test_another_base_is_refused_before_anything_is_decoded() -> None:
    base = normal((64, 64))
    enc, other = trip(changed(base, 0.5, 9), base), base.copy()
    other[63, 63] = 0
    broken = replace(enc, planes=enc.planes | {"streams": enc.planes["streams"][:1]})
    for tried in (enc, broken):
        with pytest.raises(ac.CorruptError, match=r"must have the hash [0-9a-f]{32}, got one with [0-9a-f]{32}"):
            ac.decode(tried, given={"base": other})
    for wrong, message in (
        (base[:32], r"float32\[64, 64\], got float32\[32, 64\]"),
        (base.view(np.int32), "got int32"),
    ):
        with pytest.raises(ac.CorruptError, match=message):
            ac.decode(enc, given={"base": wrong})
        with pytest.raises(ac.ArgumentError, match=message):
            ac.encode(base, "delta", given={"base": wrong})
    for call in (lambda: ac.encode(base, "delta"), lambda: ac.decode(enc)):
        with pytest.raises(ac.ArgumentError, match="given must hold 'base'"):
            call()
    with pytest.raises(ac.ArgumentError, match="mode must be 'balanced' or 'storage', got 'fast'"):
        ac.Delta("fast")


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8"])
def test_partial_reads_fetch_little(dtype: str) -> None:
    base = normal((400, 384)) if dtype == "float32" else anything((400, 384), dtype)
    x = base * np.float32(1.01) if dtype == "float32" else changed(base, 0.3, 5)
    for tuned in (x, base.copy(), anything(base.shape, dtype, 3)):  # coded, equal, raw
        enc, fetched = trip(tuned, base), []

        def fetch(name: str, piece: slice, planes: ac.Planes = enc.planes | {"base": base}, log: list = fetched):
            part = planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece]
            log.append(part.nbytes)
            return part

        for start, stop in [(0, x.size), (0, 1), (3839, 3841), (x.size - 1, x.size), (50_000, 53_000), (5, 5)]:
            fetched.clear()
            got = enc.codec.read(fetch, enc.spec, start, stop)
            same_bits(got, tuned.reshape(-1)[start:stop], f"{start}:{stop}")
        fetched.clear()
        enc.codec.read(fetch, enc.spec, 76_800, 77_184)
        assert sum(fetched) < 0.12 * (base.nbytes + enc.nbytes), "a row of 400, not the whole"


def test_bytes_do_not_depend_on_threads_or_layout() -> None:
    base = normal((3000, 512))
    x = changed(base, 0.5, 1000)
    want = ac.encode(x, "delta", given={"base": base}).planes
    for threads in (1, 2, 3):
        ac.set_num_threads(threads)
        try:
            enc = ac.encode(np.asfortranarray(x), "delta", given={"base": base.astype(">f4")})
            for name, plane in enc.planes.items():
                same_bits(plane, want[name], f"{name} with {threads} threads")
            same_bits(ac.decode(enc, given={"base": np.asfortranarray(base)}), x, f"{threads} threads")
        finally:
            ac.set_num_threads(None)


# -- planes from outside


def refuses(enc: ac.Encoded, planes: ac.Planes, base: np.ndarray) -> bool:
    """Whether decoding fails as it may; where it does not, it gives an array."""
    try:
        ac.decode(replace(enc, planes=planes), given={"base": base})
    except ac.FormatError:
        return True
    return False


BAD = {
    0: (3, 1 << 31), 1: (0, 8193, (1 << 32) - 1), 2: (0, 127, 16384), 3: (0, 8, 15), 4: (0, 65), 5: (0, 257),
    6: (9, (1 << 32) - 1), 7: (9, 255, (1 << 32) - 1), 8: (32, 1 << 31), 10: (0, 257), 11: (0, 257), 12: (65,),
    13: (1, 32), 14: (2,), 15: (1,),
}  # fmt: skip


def test_every_word_of_a_plan_is_checked() -> None:
    base = normal((30, 128))
    enc = trip(changed(base, 0.3, 40), base)
    assert enc.planes["plan"][0] == CODED and not enc.planes["plan"][12]
    for word in range(16):
        for value in (*BAD.get(word, ()), 0, 1, 2, 3, 255, 256, 4096, int(enc.planes["plan"][word]) + 1):
            plan = enc.planes["plan"].copy()
            plan[word] = value
            if value in BAD.get(word, ()):
                with pytest.raises(ac.CorruptError, match="delta: plan must have"):
                    enc.codec.check(enc.planes | {"plan": plan}, enc.spec)
            refuses(enc, enc.planes | {"plan": plan}, base)  # or decodes to something
    for name in ("tables", "index", "streams", "scales"):
        for plane in (enc.planes[name][:-1], np.append(enc.planes[name], enc.planes[name].dtype.type(0))):
            if plane.size != enc.planes[name].size:
                with pytest.raises(ac.CorruptError, match="plane"):
                    enc.codec.check(enc.planes | {name: plane}, enc.spec)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-40])
def test_factors_are_positive_and_normal(scale: float) -> None:
    base = normal((64, 128))
    enc = trip(base * np.linspace(0.9, 1.1, 64, dtype=np.float32)[:, None], base)
    scales = enc.planes["scales"].copy()
    scales[7] = scale
    with pytest.raises(ac.CorruptError, match="scales must be positive normal floats"):
        ac.decode(replace(enc, planes=enc.planes | {"scales": scales}), given={"base": base})


def mutate(enc: ac.Encoded, base: np.ndarray, count: int, seed: int) -> int:
    """Change a few bytes anywhere in the planes, so many times; how often decoding refuses."""
    rng, refused = np.random.default_rng(seed), 0
    names = [name for name, plane in enc.planes.items() if plane.nbytes and name != "hash"]
    for _ in range(count):
        planes = {name: plane.copy() for name, plane in enc.planes.items()}
        for _ in range(rng.integers(1, 4)):
            data = planes[names[rng.integers(len(names))]].view(np.uint8)
            data[rng.integers(data.size)] ^= 1 << rng.integers(8)
        refused += refuses(enc, planes, base)
    return refused


def hostile() -> list[tuple[ac.Encoded, np.ndarray]]:
    """Arrays of which every part of the format is in use."""
    decayed = normal((200, 128))
    x = decayed * np.float32(1 - 3e-6)
    x[::3] *= np.float32(1.25)
    x[::4] += normal((50, 128), seed=4)
    small = changed(anything((600,), "int8"), 0.5, 9)
    return [(trip(x, decayed), decayed), (trip(small, anything((600,), "int8")), anything((600,), "int8"))]


def test_changed_bytes_never_crash() -> None:
    for enc, base in hostile():
        assert mutate(enc, base, 300, 0) > 200


@pytest.mark.level("full")
def test_changed_bytes_stay_in_bounds() -> None:
    script = (
        "import sys; sys.path.insert(0, 'tests/codecs')\n"
        "import test_delta as t\n"
        "print(sum(t.mutate(enc, base, 2_000, 1) for enc, base in t.hostile()) > 0)"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False,
        env={"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": "", "PATH": "", "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert run.stdout.strip() == "True", run.stderr[-2000:]


def test_planes_of_another_array() -> None:
    base = normal((64, 64))
    enc = trip(changed(base, 0.5, 9), base)
    with pytest.raises(ac.FormatError):
        ac.decode(replace(enc, spec=spec_of(base[:32])), given={"base": base[:32]})
    assert enc.planes["plan"][0] == CODED
