"""The 8-bit tables of the codebook codec: bitsandbytes as judge, the smallest scales, ranks by cells, figures."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.codecs.codebook import CELLS_PAY
from arraycodec.primitives import codebooks
from arraycodec.primitives.codebook_tables import VALUES
from arraycodec.spec import numpy_dtype
from arraycodec_conformance import oracles
from arraycodec_conformance.cases import RISING256
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe

MAPS = tuple(oracles.BITSANDBYTES_MAPS)
EIGHT_BITS = [(name, flavour) for name in ("nf8", *MAPS) for flavour in codebooks.flavours(name)]
HASHES = {
    "nf8": "0b521131185db722", "dynamic": "e732639a65f497b4", "dynamic-unsigned": "305f002cc11278fb",
    "linear": "80bf4c55fa736fa1", "linear-unsigned": "7cb9ea560989533d", "fp8-e5m2": "0da7c4e2990b302a",
    "fp8-e4m3": "f3c007a4cafc83fe", "fp8-e3m4": "1087860d22494f70",
}  # fmt: skip


def near(points: np.ndarray) -> np.ndarray:
    """These floats and their neighbours, up to two units in the last place away."""
    moved = (points.view(np.int32) + np.arange(-2, 3, dtype=np.int32)[:, None]).view(np.float32)
    return np.where(points == 0, points, moved).reshape(-1)  # next to the bits of zero lie those of NaN


# -- tables


@pytest.mark.parametrize("name", HASHES)
def test_hashes_of_the_8_bit_tables(name: str) -> None:
    raw = np.array([int(word, 16) for word in VALUES[name].split()], "<u4")
    assert hashlib.sha256(raw.tobytes()).hexdigest().startswith(HASHES[name])


@pytest.mark.parametrize(("name", "flavour"), EIGHT_BITS)
def test_8_bit_tables_keep_the_rules(name: str, flavour: str | None) -> None:
    """The rank is the code, and no product with a scale in use is subnormal, as docs/format/arithmetic.md proves."""
    table = codebooks.table(name, flavour)
    np.testing.assert_array_equal(table.codes, np.arange(256))
    assert (np.diff(table.values) >= 0).all()
    assert (np.diff(table.bounds) >= 0).all()
    assert not (np.signbit(table.values) & (table.values == 0)).any()
    assert (np.abs(table.bounds) >= codebooks.JUST_ABOVE_ZERO).all()
    smallest = float(np.abs(table.values[table.values != 0]).min()) * float(table.min_scale.view(np.float32))
    assert smallest >= 2.0**-124
    assert table.min_scale == 0x0D800000 or smallest < 2.0**-123


def test_canonical_codes_are_the_nearest_values() -> None:
    """In exact arithmetic, but for elements within a rounding error of the middle; ties go to the lower code."""
    for name in ("nf8", *MAPS):
        table = codebooks.table(name)
        y = np.concatenate([[1], np.linspace(-1, 1, 4097), near(table.bounds)]).astype(np.float32)
        y = y[np.abs(y) <= 1]
        codes = ac.encode(y, ac.Codebook(name, block_size=None)).planes["codes"]
        away = np.abs(y.astype(np.float64)[:, None] - table.values)
        slack = np.spacing(np.abs(y)) if name != "fp8-e5m2" else np.spacing(np.abs(y)) + np.float32(2.0**-100)
        assert (away[np.arange(y.size), codes] <= away.min(axis=1) + slack).all(), name


# -- bitsandbytes


@pytest.mark.level("default")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", MAPS)
def test_the_cpu_flavour_equals_bitsandbytes_in_the_domain(name: str, dtype: str, level: Level) -> None:
    elements, outside = 0, 0
    for seed in range(20 if level >= Level.full else 1):
        rng = np.random.default_rng(seed)
        points = np.concatenate([codebooks.table(name, flavour).bounds for flavour in codebooks.flavours(name)])
        at_bounds = rng.choice(near(points), (32, 4096)) * rng.uniform(0.5, 2, (32, 1)).astype(np.float32)
        at_bounds[:, ::64] = 2
        inputs = {"bounds": at_bounds.astype(numpy_dtype(dtype))}
        for distribution in ("normal", "uniform", "cauchy", "sparse", "log-normal", "bits"):
            exponent = -6 if dtype == "float16" else 0
            inputs[distribution] = Recipe((32, 4096), dtype, distribution, exponent, seed).array()
        inputs["squares"] = np.square(inputs["normal"])
        for distribution, x in inputs.items():
            for block in (64, 256, 4096) if distribution == "normal" else (64,):
                codec = ac.Codebook(name, block, "bnb-cpu")
                enc = ac.encode(x, codec, check=False)
                inside = oracles.domain(x, block, name)
                codes, absmax = oracles.bitsandbytes_map_encode(x, name, block)
                got, want = (c.reshape(-1, block) for c in (enc.planes["codes"], codes))
                same_bits(got[inside], want[inside], f"{name} {block} {distribution}: codes")
                same_bits(enc.planes["absmax"].reshape(-1)[inside], absmax[inside], f"{name} {distribution}: absmax")
                elements += int(inside.sum()) * block
                outside += int((~inside).sum())
    print(f"{name} {dtype}: {elements:,} elements inside, 0 differ; {outside} blocks outside")
    assert elements > 1_000_000


@pytest.mark.parametrize("name", MAPS)
def test_the_cpu_flavour_equals_bitsandbytes_in_partial_blocks(name: str) -> None:
    """Unlike its 4-bit encoder this one multiplies by the reciprocal there too."""
    rng, bounds = np.random.default_rng(3), codebooks.table(name, "bnb-cpu").bounds
    for size in (1, 63, 65, 1000):
        x = np.concatenate([[1], rng.choice(bounds, size - 1)]).astype(np.float32) * np.float32(rng.uniform(0.5, 2))
        for part in (x, rng.permutation(x)):
            enc = ac.encode(part, ac.Codebook(name, 64, "bnb-cpu"))
            codes, absmax = oracles.bitsandbytes_map_encode(part, name, 64)
            same_bits(enc.planes["codes"], codes, f"{name} {size}: codes")
            same_bits(enc.planes["absmax"], absmax, f"{name} {size}: absmax")


@pytest.mark.level("exhaustive")
@pytest.mark.parametrize("name", MAPS)
def test_the_cpu_flavour_equals_bitsandbytes_for_every_float(name: str) -> None:
    """All floats of magnitude at most 1, each in a block whose absmax is 1."""
    one, step = 0x3F800000, 1 << 22
    for sign in (0, 1 << 31):
        for start in range(0, one + 1, step):
            x = np.append(np.minimum(np.arange(start, start + step), one) | sign, one).astype(np.uint32).view("f4")
            codes = ac.encode(x, ac.Codebook(name, None, "bnb-cpu")).planes["codes"]
            same_bits(codes, oracles.bitsandbytes_map_encode(x, name, x.size)[0], f"{name} from {start | sign:08x}")


@pytest.mark.parametrize("name", MAPS)
def test_classes_outside_the_domain_differ_as_the_page_says(name: str) -> None:
    """Each class that docs/format/codebook.md lists, with the first and the last code that either side stores."""
    zero, signs = codebooks.table(name, "bnb-cpu").zero, np.repeat(np.array([1, -1], np.float32), 32)
    below = signs * np.float32(2.0**-101)
    rows: list[tuple[np.ndarray, tuple[int, int]]] = [
        (signs * 0, (0, 0)),
        (below, (255, 0)),
        (np.append(np.float32(np.nan), signs[1:]), (0, 0)),
        (np.append(np.float32(-np.inf), np.ones(63, np.float32)), (0, zero)),
    ]
    for x, theirs in rows:
        codes, _ = oracles.bitsandbytes_map_encode(x, name, 64)
        got = ac.encode(x, ac.Codebook(name, flavour="bnb-cpu"), check=False).planes["codes"]
        assert ((got[0], got[-1]), (codes[0], codes[-1])) == ((zero, zero), theirs), x


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", MAPS)
def test_decode_equals_bitsandbytes(name: str, dtype: str) -> None:
    """All codes, scales from the smallest to 2^120; but a -0 of bitsandbytes (code 128 of the fp8 maps) is +0 here."""
    rng, least = np.random.default_rng(5), float(codebooks.table(name).min_scale.view(np.float32))
    for block in (64, 256, 100):
        codes = rng.integers(0, 256, 256 * block, np.uint8)
        low, high = (-14, 15) if dtype == "float16" else (np.log2(least), 120)
        absmax = np.exp2(rng.uniform(low, high, 256)).astype(np.float32)
        absmax[:2] = 0, 2.0**low
        got = ac.Codebook(name, block).decode({"codes": codes, "absmax": absmax}, ac.ArraySpec((codes.size,), dtype))
        want = oracles.bitsandbytes_map_decode(codes, absmax, name, block, dtype)
        zero = (codebooks.table(name).values[codes] == 0) | np.repeat(absmax == 0, block)
        same_bits(got[~zero], want[~zero], f"{name} {block}")
        assert not got[zero].view(np.uint8).any()
        assert not want[zero].astype(np.float32).any()


def test_nested_statistics_in_the_cpu_flavour_equal_those_of_bitsandbytes() -> None:
    import bitsandbytes.functional as bnb

    x = Recipe((130, 4096), "float32", "normal", -6, 9).array()
    _, state = bnb.quantize_4bit(oracles.to_torch(x), blocksize=64, quant_type="nf4", compress_statistics=True)
    nested = ac.Codebook("dynamic", 256, "bnb-cpu", offset=True)
    offset = np.asarray(state.offset.numpy(), np.float32)
    enc = ac.encode(x, ac.Then(ac.Codebook("nf4"), absmax=nested), given={"absmax.offset": offset})
    same_bits(enc.planes["absmax.codes"].reshape(-1), state.absmax.numpy(), "nested codes")
    same_bits(enc.planes["absmax.absmax"].reshape(-1), state.state2.absmax.numpy(), "nested absmax")


# -- the smallest scales


@pytest.fixture(params=[False, True], ids=["gradual", "flush"])
def flushing(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Whether this thread flushes subnormals to zero."""
    torch = pytest.importorskip("torch")
    if not torch.set_flush_denormal(request.param):
        pytest.skip("this processor cannot flush subnormals")
    yield request.param
    torch.set_flush_denormal(False)


IMPLEMENTATIONS = [
    ("arraycodec.reference", "reference"), ("arraycodec_toy", "plain"), ("arraycodec_torch", "torch"),
    ("arraycodec_jax", "jit"),
]  # fmt: skip


@pytest.mark.parametrize(("package", "implementation"), IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["linear", "fp8-e5m2", "dynamic"])
def test_the_smallest_scale(name: str, package: str, implementation: str, flushing: bool) -> None:
    """From there on products are normal and rounded once, a scale below is 0: so flushing changes nothing."""
    module = pytest.importorskip(package)
    how, codec = module.IMPLEMENTATIONS[implementation], ac.Codebook(name, 256)
    least = {"linear": 2.0**-96, "fp8-e5m2": 2.0**-89, "dynamic": 2.0**-100}[name]
    fractions = np.array([1, 1.0000001, 1.5, 1.9999999, 2, 0.99999994, 0.5, 2.0**-10, -1, -0.99999994], np.float64)
    scales = (fractions * least).astype(np.float32)
    kept = np.abs(fractions) >= 1
    values = codebooks.table(name).values

    # Decoding: every code with every scale.
    codes = np.tile(np.arange(256, dtype=np.uint8), (scales.size, 1))
    spec = ac.ArraySpec(codes.shape, "float32")
    planes = {"codes": codes, "absmax": scales[:, None]}
    decoded = module.to_numpy(how.decode(codec, {n: module.from_numpy(p) for n, p in planes.items()}, spec, {}))
    with np.errstate(under="ignore"):
        exact = (values.astype(np.float64) * np.where(kept, scales, 0).astype(np.float64)[:, None]).astype(np.float32)
    exact[exact == 0] = 0
    same_bits(decoded, exact, "decoded")
    assert (np.abs(exact[exact != 0]) >= 2.0**-124).all()

    # Encoding: blocks whose absmax is each of these scales, or which are given them.
    x = np.linspace(-1, 1, 256, dtype=np.float32) * np.abs(scales)[:, None]
    x[:, 0] = np.abs(scales)
    for given in ({}, {"absmax": scales[:, None]}):
        own = {n: module.from_numpy(p) for n, p in given.items()}
        got = {n: module.to_numpy(p) for n, p in how.encode(module.from_numpy(x), codec, own).items()}
        used = np.where(kept & (scales > 0) if given else kept, np.abs(scales), 0).astype(np.float32)
        same_bits(got["absmax"], given.get("absmax", used[:, None]), "absmax")
        assert (got["codes"][used == 0] == codebooks.table(name).zero).all()
        unit = codec.encode(np.ldexp(x[used > 0], 80), {"absmax": np.ldexp(used[used > 0], 80)[:, None]})
        same_bits(got["codes"][used > 0], unit["codes"], "codes do not depend on a power of two")


# -- ranks by cells


@pytest.mark.parametrize(("name", "flavour"), EIGHT_BITS)
def test_ranks_by_cells_are_the_numbers_of_bounds_below(name: str, flavour: str | None) -> None:
    """At every bound and the borders of every cell, infinities and NaN included."""
    table = codebooks.table(name, flavour)
    assert table.cells.size
    borders = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16 | np.array([0, 1, 0x7FFF, 0xFFFF], np.uint32)
    y = np.concatenate([near(table.bounds), borders.reshape(-1).view(np.float32)])
    y = y[~np.isnan(y) | (y.view(np.uint32) >> 22 & 1 == 1)]  # a product is no signalling NaN
    one = np.ones(1, np.float32)
    codes = ac.Codebook(name, None, flavour).encode(y, {"absmax": one})["codes"]
    want = np.where(np.isnan(y), 0, np.searchsorted(table.bounds, y))
    flushed = np.where(np.abs(y) < 2.0**-126, np.searchsorted(table.bounds, np.float32(0)), want)
    same_bits(codes, flushed.astype(np.uint8), f"{name} {flavour}")


def test_user_tables_of_any_density_are_ranked_alike_in_small_and_large_arrays() -> None:
    """Where two bounds share a cell there are none; and few elements are not worth making them for."""
    dense = np.sort(np.concatenate([np.linspace(0.5, 0.501, 200), np.linspace(-1, 1, 56)])).astype(np.float32)
    assert not codebooks.user_table(dense).cells.size
    assert codebooks.user_table(RISING256).cells.size
    for table in (dense, RISING256):
        y = np.resize(near(codebooks.user_table(table).bounds), CELLS_PAY)
        y[0] = 1
        codes = ac.encode(y, ac.Codebook("user8", None), given={"codebook": table}).planes["codes"]
        few = ac.encode(y[: 256 * 5], ac.Codebook("user8", None), given={"codebook": table}).planes["codes"]
        same_bits(codes, np.searchsorted(codebooks.user_table(table).bounds, y).astype(np.uint8), "codes")
        same_bits(few, codes[: 256 * 5], "few elements")


# -- figures


@pytest.mark.parametrize(("codec", "mae"), [("dynamic", 0.0075), ("nf4", 0.0728), ("fp4", 0.0965)])
def test_errors_on_normal_data_are_the_published_ones(codec: str, mae: float, level: Level) -> None:
    """Quanta's table: mean absolute errors of N(0, 1) in blocks of 64, with a matrix of 4096 x 11008."""
    rows, slack = (4096, 0.0001) if level >= Level.full else (256, 0.0002)
    x = np.random.default_rng(0).standard_normal((rows, 11008), np.float32)
    flavour = "bnb-cpu" if codec == "dynamic" else None
    assert abs(ac.error(x, ac.encode(x, ac.Codebook(codec, 64, flavour))).mae - mae) < slack


MEMORY = """
import re, sys
import numpy as np
import arraycodec as ac
rows = int(sys.argv[1])
x = np.random.default_rng(0).standard_normal((rows, 11008), np.float32)
ac.encode(x[:128], "dynamic")  # imports, compiled kernels and threads are not what is measured
def memory(field):
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(rf"{field}:\\s+(\\d+)", status.read())[1])
with open("/proc/self/clear_refs", "w") as reset:
    reset.write("5")  # the peak starts anew
before = memory("VmRSS")
enc = ac.encode(x, "dynamic")
print(memory("VmHWM") - before - enc.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_encoding_takes_little_more_memory_than_its_output(level: Level) -> None:
    rows = 4096 if level >= Level.full else 1024
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(rows)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    extra = int(run.stdout)
    print(f"{rows} x 11008: {extra / 2**20:.1f} MiB beside the output")
    assert extra < 16 << 20
