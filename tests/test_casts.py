"""Casts to and from small floats: ml_dtypes, torch and JAX as judges, on all narrow inputs and, exhaustively, all 2^32.

Where a judge is another opinion, not another implementation, the test says how many inputs it differs on.
"""

from __future__ import annotations

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.casts import float32_to_small, small_to_float32
from arraycodec.primitives.formats import FORMATS, values
from arraycodec.primitives.jit import kernel
from arraycodec.spec import numpy_dtype
from arraycodec_conformance import float8
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import PATTERNS, Recipe

FP8 = [name for name, form in FORMATS.items() if form.bits == 8]
FLOAT8 = numpy_dtype("float8_e4m3fn")
PACKED = [name for name in FORMATS if name not in FP8]
NARROW = {name: np.arange(2**16, dtype=np.uint16).view(numpy_dtype(name)) for name in ("bfloat16", "float16")}

STRIDED = np.arange(0, 1 << 32, 16411, np.int64).astype(np.uint32).view(np.float32)


def near_ties(name: str) -> np.ndarray:
    """Every value of a format, the middles between them, and the floats around: where rounding decides."""
    grid = np.unique(values(name)[np.isfinite(values(name))]).astype(np.float64)
    beyond = np.array([grid[-1] + (grid[-1] - grid[-2]) * k for k in (0.5, 1, 2)])
    points = np.concatenate([grid, (grid[1:] + grid[:-1]) / 2, beyond, -beyond]).astype(np.float32)
    points = np.concatenate([points, np.array(PATTERNS, np.uint32).view(np.float32)])
    return (points.view(np.int32) + np.arange(-3, 4, dtype=np.int32)[:, None]).view(np.float32).reshape(-1)


def codes(x: np.ndarray, name: str, overflow: str) -> np.ndarray:
    """Our codes, one to a byte."""
    found = ac.cast(x, name, overflow=overflow)
    if name in FP8:
        return found.view(np.uint8)
    return float8.unpacked(found, FORMATS[name].bits, x.size)


def inputs(name: str) -> dict[str, np.ndarray]:
    """All bfloat16 and float16 patterns, every 16,411th float32 one, and those where rounding decides."""
    return NARROW | {"float32": STRIDED, "float32 near ties": near_ties(name)}


# -- other people's casts


@pytest.mark.parametrize("name", FORMATS)
def test_equals_ml_dtypes(name: str) -> None:
    """All inputs but one class: in formats without NaN, a NaN is 0 here and a zero of the other sign there."""
    for what, x in inputs(name).items():
        got = codes(x, name, "nonfinite" if name in FP8 else "saturate")
        want, nan = float8.ml_dtypes_cast(x, name), np.isnan(x.astype(np.float32))
        if name in PACKED:
            assert not got[nan].any(), what
            np.testing.assert_array_equal(want[nan] != 0, ~np.signbit(x[nan]), what)
            got, want = got[~nan], want[~nan]
        same_bits(got, want, f"{name} of {what}")


@pytest.mark.parametrize("name", FP8)
def test_saturating_differs_only_in_what_is_too_large(name: str) -> None:
    form = FORMATS[name]
    for what, x in inputs(name).items():
        with np.errstate(invalid="ignore"):
            wide = x.astype(np.float32)
        saturated, plain = codes(x, name, "saturate"), codes(x, name, "nonfinite")
        large = np.isinf(wide) | (np.isfinite(wide) & ~np.isfinite(values(name)[plain]))
        same_bits(saturated[~large], plain[~large], f"{name} of {what}")
        largest = np.where(np.signbit(wide[large]), 1 << (form.bits - 1), 0) + form.max_code
        np.testing.assert_array_equal(saturated[large], largest, f"{name} of {what}: the largest of its sign")


@pytest.mark.parametrize("name", FP8)
def test_equals_torch(name: str) -> None:
    """All inputs but the NaN of float8_e5m2, 7f there. Since 2.13 torch saturates float8_e4m3fn, and that alone."""
    pytest.importorskip("torch")
    saturates = float8.torch_cast(np.array([np.inf], np.float32), name)[0] == FORMATS[name].max_code
    assert not saturates or name == "float8_e4m3fn"
    for what, x in inputs(name).items():
        got, want = codes(x, name, "saturate" if saturates else "nonfinite"), float8.torch_cast(x, name)
        nan = np.isnan(x.astype(np.float32))
        if name == "float8_e5m2":
            assert set(got[nan]) <= {0x7E, 0xFE}
            assert set(want[nan]) <= {0x7F, 0xFF}
            got, want = got[~nan], want[~nan]
        same_bits(got, want, f"{name} of {what}")


@pytest.mark.parametrize("name", FP8)
def test_equals_jax(name: str) -> None:
    jnp = pytest.importorskip("jax.numpy")
    for dtype, x in NARROW.items():
        want = np.asarray(jnp.asarray(x).astype(name)).view(np.uint8)
        nan = np.isnan(x.astype(np.float32))
        same_bits(codes(x, name, "nonfinite")[~nan], want[~nan], f"{name} of {dtype}")


def test_where_the_libraries_disagree() -> None:
    """The counts of docs/format/minifloat.md, of all bfloat16 patterns; a change upstream is noticed here."""
    pytest.importorskip("torch", minversion="2.13")
    x, counts = NARROW["bfloat16"], {}
    for name in FP8:
        theirs, torchs = float8.ml_dtypes_cast(x, name), float8.torch_cast(x, name)
        counts[name] = int((theirs != torchs).sum())
    assert counts == {"float8_e4m3fn": 30512, "float8_e5m2": 254, "float8_e4m3fnuz": 0, "float8_e5m2fnuz": 0}
    points = np.array([464, 465, np.inf, -np.inf, 0], np.float32)
    assert codes(points, "float8_e4m3fn", "saturate").tolist() == [0x7E, 0x7E, 0x7E, 0xFE, 0]
    assert float8.torch_cast(points, "float8_e4m3fn").tolist() == [0x7E, 0x7E, 0x7E, 0xFE, 0]
    assert float8.ml_dtypes_cast(points, "float8_e4m3fn").tolist() == [0x7E, 0x7F, 0x7F, 0xFF, 0]


# -- back


@pytest.mark.parametrize("name", FORMATS)
def test_values_equal_ml_dtypes(name: str) -> None:
    got, want = values(name), float8.ml_dtypes_values(name, FORMATS[name].bits)
    nan = np.isnan(want)
    same_bits(got[~nan], want[~nan], name)
    assert (got[nan].view(np.uint32) == 0x7FC00000).all()
    assert FORMATS[name].largest == want[np.isfinite(want)].max()


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_code_comes_back(name: str, dtype: str) -> None:
    """Values are exact in all three dtypes, and casting them again gives their codes; of NaN the canonical one."""
    want = values(name).astype(numpy_dtype(dtype))
    if name in FP8:
        every = np.arange(256, dtype=np.uint8).view(numpy_dtype(name))
        got = ac.uncast(every, dtype)
    else:
        bits = FORMATS[name].bits
        stream = np.unpackbits(np.arange(1 << bits, dtype=np.uint8)[:, None], axis=1, count=bits, bitorder="little")
        got = ac.uncast(np.packbits(stream.reshape(-1), bitorder="little"), dtype, format=name)
    nan = np.isnan(values(name))
    same_bits(got[~nan], want[~nan], f"{name} as {dtype}")
    assert np.isnan(got[nan].astype(np.float32)).all()
    again = codes(got, name, "nonfinite" if name in FP8 else "saturate")
    np.testing.assert_array_equal(again[~nan], np.arange(1 << FORMATS[name].bits)[~nan])
    assert set(again[nan]) <= {FORMATS[name].nan_code}


# -- the functions


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_arrays_of_every_framework(framework: str) -> None:
    if framework != "numpy":
        pytest.importorskip(framework)
    from arraycodec import registry

    backend = registry.framework(framework)
    x = Recipe((3, 4, 8), "float32", "normal", 0, 1).array()
    own = backend.from_numpy(x.copy())
    for name in FORMATS:
        found, want = ac.cast(own, name), ac.cast(x, name)
        assert type(found) is type(own)
        same_bits(backend.to_numpy(found), want, f"{name} by {framework}")
        back = ac.uncast(found, "bfloat16", format=None if name in FP8 else name)
        assert type(back) is type(own)
        same_bits(backend.to_numpy(back), ac.uncast(want, "bfloat16", format=name), f"{name} back by {framework}")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2fnuz", "float6_e3m2fn", "float4_e2m1fn"])
def test_casts_are_traced_by_jax(name: str) -> None:
    jax = pytest.importorskip("jax")
    x = near_ties(name)[: near_ties(name).size // 8 * 8].reshape(-1, 8)
    found, want = jax.jit(lambda v: ac.cast(v, name))(x), ac.cast(x, name)
    same_bits(np.asarray(found), want, f"{name} under jit")
    rows = jax.vmap(lambda v: ac.cast(v, name))(x)
    same_bits(np.asarray(rows), want, f"{name} under vmap")
    back = jax.jit(lambda v: ac.uncast(v, "bfloat16", format=name))(found)
    same_bits(np.asarray(back), ac.uncast(want, "bfloat16", format=name), f"{name} back under jit")


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float6_e2m3fn"])
def test_casts_are_compiled_by_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    from arraycodec_torch import to_numpy

    x = near_ties(name)[: near_ties(name).size // 8 * 8].reshape(-1, 8)
    compiled = torch.compile(lambda v: ac.cast(v, name), fullgraph=True, backend="aot_eager")
    found, want = compiled(torch.from_numpy(x)), ac.cast(x, name)
    same_bits(to_numpy(found), want, f"{name} compiled")
    back = torch.compile(lambda v: ac.uncast(v, "float16", format=name), fullgraph=True, backend="aot_eager")(found)
    same_bits(to_numpy(back), ac.uncast(want, "float16", format=name), f"{name} back, compiled")


def test_shapes_of_packed_numbers() -> None:
    x = Recipe((5, 6), "float32", "normal", 0, 1).array()
    assert ac.cast(x, "float4_e2m1fn").shape == (5, 3)
    flat = ac.cast(x, "float6_e2m3fn")
    assert flat.shape == (23,)  # 30 numbers of 6 bits: rows are not whole bytes
    want = values("float6_e2m3fn")[codes(x, "float6_e2m3fn", "saturate")].reshape(5, 6)
    same_bits(ac.uncast(flat, format="float6_e2m3fn", shape=(5, 6)), want, "float6_e2m3fn")
    assert ac.cast(np.float32(1.5), "float8_e5m2").shape == ()
    assert ac.uncast(ac.cast(np.float32(1.5), "float8_e5m2")).shape == ()
    assert ac.cast(np.zeros((0, 8), np.float32), "float4_e2m1fn").shape == (0, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ac.cast(np.ones(8), "float8_e4m3fn"), "dtype must be one of float32, bfloat16, float16, got float64"),
        (lambda: ac.cast(np.ones(8, np.float32), "float8"), "format must be one of float8_e4m3fn, .*, got 'float8'"),
        (lambda: ac.cast(np.ones(8, np.float32), "float4_e2m1fn", overflow="nonfinite"), "overflow must be 'saturate'"),
        (lambda: ac.uncast(np.zeros(8, np.uint8)), "uncast: codes are packed uint8: format must be given"),
        (lambda: ac.uncast(np.zeros(8, np.float32)), "format must be one of .*, got 'float32'"),
        (lambda: ac.uncast(np.zeros(8, np.uint8), format="float6_e2m3fn"), "shape must be given for rows of 64 bits"),
        (lambda: ac.uncast(np.zeros(8, np.uint8), format="float8_e4m3fn"), "must be float8_e4m3fn.*, got uint8"),
        (lambda: ac.uncast(np.zeros(8, np.uint8), "int8", format="float4_e2m1fn"), "dtype must be one of float32"),
        (lambda: ac.uncast(np.zeros(8, np.uint8), format="float4_e2m1fn", shape=(17,)), r"\[17\] .* \[9\], got \[8\]"),
        (lambda: ac.uncast(np.zeros((2, 8), np.uint8), format="float4_e2m1fn", shape=(16,)), r"\[8\], got \[2, 8\]"),
        (lambda: ac.uncast(np.zeros(8, FLOAT8), shape=(9,)), r"float8_e4m3fn\[9\] takes .* \[9\], got \[8\]"),
        (lambda: ac.uncast(np.zeros(8, FLOAT8), shape=8), "shape must be a tuple of integers >= 0, got 8"),
        (lambda: ac.uncast(np.zeros(8, FLOAT8), shape=(8.0,)), r"shape must be a tuple of integers >= 0, got \(8.0,\)"),
        (lambda: ac.uncast(np.zeros(8, FLOAT8), np.float16), "dtypes are names, such as 'float16'"),
    ],
)
def test_bad_arguments_say_what_is_allowed(make, message: str) -> None:
    with pytest.raises(ac.ArrayCodecError, match=message):
        make()


# -- all 2^32 inputs


@kernel
def cast_range(first, casting, out):
    for i in range(out.size):
        out[i] = np.uint8(float32_to_small(np.uint32(first + i), casting))


@kernel
def widen_all(widening, out):
    for i in range(out.size):
        out[i] = small_to_float32(np.uint32(i), widening)


@pytest.mark.parametrize("name", FORMATS)
def test_the_way_back_is_the_table(name: str) -> None:
    """The kernel's arithmetic gives the values, whatever the code."""
    got = np.zeros(1 << FORMATS[name].bits, np.uint32)
    widen_all(FORMATS[name].widening, got)
    same_bits(got.view(np.float32), values(name), name)


@pytest.mark.level("exhaustive")
@pytest.mark.parametrize("name", FORMATS)
def test_equals_ml_dtypes_on_all_floats(name: str) -> None:
    form, step = FORMATS[name], 1 << 24
    got, differing = np.zeros(step, np.uint8), 0
    for first in range(0, 1 << 32, step):
        cast_range(first, form.casting(saturate=name in PACKED), got)
        x = np.arange(first, first + step, dtype=np.uint32).view(np.float32)
        other = got != float8.ml_dtypes_cast(x, name)
        if name in PACKED:
            other &= ~np.isnan(x)
        differing += int(other.sum())
    assert differing == 0
