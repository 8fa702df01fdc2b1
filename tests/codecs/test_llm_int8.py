"""LLM.int8 rows beyond the suite: bitsandbytes as judge, the outlier split, parameters, partial reads, tracing."""

from __future__ import annotations

import json

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.registry import from_json
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance import oracles
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe

DTYPES = ("float32", "bfloat16", "float16")
DISTRIBUTIONS = ("normal", "uniform", "cauchy", "sparse", "log-normal", "integers", "constant", "bits")
MIN_SCALE, MAX_SCALE = np.float32(2.0**-100), np.float32(2.0**126)


def rows_in_domain(x: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Rows whose codes equal bitsandbytes' (docs/format/llm_int8.md): finite, absmax 0 or in 2^-100..2^126."""
    finite = np.isfinite(x.astype(np.float32)).all(axis=1)
    return finite & ((scales == 0) | (scales >= MIN_SCALE)) & (scales < MAX_SCALE)


# -- bitsandbytes


@pytest.mark.level("default")
@pytest.mark.parametrize("threshold", [0.0, 0.1, 3.3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_encode_equals_bitsandbytes_in_the_domain(dtype: str, threshold: float, level: Level) -> None:
    elements, outside, kept = 0, 0, 0
    for seed in range(20 if level >= Level.full else 1):
        for distribution in DISTRIBUTIONS:
            shape = (64, 1024) if distribution != "normal" else (1, 4096) if seed % 2 else (37, 1001)
            x = Recipe(shape, dtype, distribution, -6 * (distribution == "log-normal"), seed).array()
            codec = ac.LLMInt8(threshold)
            enc = ac.encode(x, codec, check=False)
            with np.errstate(all="ignore"):
                codes, scales, columns = oracles.bitsandbytes_int8_encode(x, threshold)
                inside = rows_in_domain(x, scales)
            got = enc.planes["scales"].reshape(-1)
            same_bits(enc.planes["codes"][inside], codes[inside], f"{distribution}: codes", x[inside])
            same_bits(got[inside], scales[inside], f"{distribution}: scales")
            if threshold:
                same_bits(enc.planes["outlier_columns"], columns, f"{distribution}: outlier columns")
                same_bits(enc.planes["outliers"], x[:, columns], f"{distribution}: outliers")
            elements, outside, kept = (
                elements + int(inside.sum()) * shape[1],
                outside + (~inside).sum(),
                kept + len(columns),
            )
    print(
        f"{dtype} {threshold}: {elements:,} elements inside, 0 differ; {outside} rows outside; {kept} outlier columns"
    )
    assert elements > 400_000
    assert (kept > 0) == (threshold > 0)


def test_decode_equals_bitsandbytes() -> None:
    """All codes, at scales from 2^-100 to 2^121 and 0; above that bitsandbytes overflows to infinity."""
    rng, codes = np.random.default_rng(5), np.tile(np.arange(-128, 128, dtype=np.int8), (4096, 1))
    scales = np.exp2(rng.uniform(-100, 120.9, 4096)).astype(np.float32)
    scales[:2] = 0, 2.0**-100
    got = ac.LLMInt8().decode({"codes": codes, "scales": scales[:, None]}, ac.ArraySpec((4096, 256), "float32"))
    want = oracles.bitsandbytes_int8_decode(codes, scales)
    want[0] = 0  # where a negative code times 0 is -0
    same_bits(got, want, "decoded")


def test_classes_outside_the_domain_differ_as_the_page_says() -> None:
    """Each class of docs/format/llm_int8.md, with the scale, the first code and the first value of either side."""
    nan, inf, huge = np.float32(np.nan), np.float32(np.inf), np.float32(2.0**127)
    small = np.float32(2.0**-120)
    classes = {
        "NaN": ([nan, 1, 2], (nan, 0, nan), (nan, 0, nan)),
        "infinity": ([inf, 1, -2], (nan, 0, nan), (inf, 0, nan)),
        "tiny": ([small, 0, 0], (0, 0, 0), (small, 127, None)),
        "huge": ([huge, 1, 2], (huge, 127, None), (huge, 127, inf)),
    }
    for name, (row, ours, theirs) in classes.items():
        x = np.array([row], np.float32)
        codes, scales, _ = oracles.bitsandbytes_int8_encode(x, 0.0)
        enc = ac.encode(x, "llm_int8", check=False)
        own = enc.planes["scales"][0, 0], enc.planes["codes"][0, 0], ac.decode(enc)[0, 0]
        other = scales[0], codes[0, 0], oracles.bitsandbytes_int8_decode(codes, scales)[0, 0]
        for got, want in zip((*own, *other), (*ours, *theirs), strict=True):
            assert want is None or np.array_equal(got, want, equal_nan=True), (name, own, other)
    assert np.isfinite(ac.decode(ac.encode(np.array([[huge, 1, 2]], np.float32), "llm_int8"))).all()


def test_bitsandbytes_is_less_exact_above_2_126() -> None:
    """There its reciprocal is subnormal; here a power of two in the row never changes a code."""
    x = np.random.default_rng(1).uniform(-0.999, 0.999, (400, 500)).astype(np.float32)
    big = np.ldexp(x, 127)
    codes, _, _ = oracles.bitsandbytes_int8_encode(big, 0.0)
    own = ac.encode(big, "llm_int8").planes["codes"]
    same_bits(own, ac.encode(x, "llm_int8").planes["codes"], "codes")
    assert 0 < (own != codes).sum() < 20


# -- the outlier split


def test_outliers_are_kept_as_they_are() -> None:
    for dtype in DTYPES:
        x = Recipe((2, 5, 64), dtype, "normal", 0, 1).array()
        x[0, 1, 7], x[1, 4, 7], x[1, 0, 63] = 20, -7, 1e30 if dtype != "float16" else 6e4
        x[0, 0, 7] = 1e-40  # a subnormal in float32 and bfloat16, in a column that is kept
        enc = ac.encode(x, ac.LLMInt8(threshold=6.0))
        assert enc.planes["outlier_columns"].tolist() == [7, 63]
        assert enc.planes["outliers"].shape == (2, 5, 2)
        decoded = ac.decode(enc)
        same_bits(decoded[..., [7, 63]], x[..., [7, 63]], "outlier columns")
        plain = ac.decode(ac.encode(np.where(np.abs(x) >= 6, x.dtype.type(0), x), "llm_int8"))
        keep = np.delete(np.arange(64), [7, 63])
        same_bits(decoded[..., keep], plain[..., keep], "all other columns")
        assert not enc.planes["codes"][..., [7, 63]].any()
        for other in DTYPES:
            with np.errstate(over="ignore"):
                want = x[..., [7, 63]].astype(np.float32).astype(numpy_dtype(other))
            same_bits(ac.decode(enc, dtype=other)[..., [7, 63]], want, f"outliers as {other}")


def test_infinity_is_an_outlier_and_nan_is_not() -> None:
    x = np.array([[1, np.inf, 2], [4, 5, 3]], np.float32)
    codec = ac.LLMInt8(threshold=6.0)
    np.testing.assert_array_equal(ac.decode(ac.encode(x, codec))[:, 1], [np.inf, 5])
    x[0, 1] = np.nan
    with pytest.raises(ac.NonFiniteError, match="llm_int8: input must be finite, got NaN or infinity in 1 of 2"):
        ac.encode(x, codec)
    assert np.isnan(ac.decode(ac.encode(x, codec, check=False))).tolist() == [[True] * 3, [False] * 3]


def test_given_scales_are_taken_and_saturate() -> None:
    x = np.array([[1, -3, 0.5], [1, 2, 3]], np.float32)
    enc = ac.encode(x, "llm_int8", given={"scales": np.array([[1], [6]], np.float32)})
    assert enc.planes["codes"].tolist() == [[127, -127, 64], [21, 42, 64]]
    with pytest.raises(ac.ArgumentError, match="llm_int8: given cannot hold 'codes'"):
        ac.encode(x, "llm_int8", given={"codes": enc.planes["codes"]})


# -- the value, foreign planes, partial reads


@pytest.mark.parametrize("bad", [-1, True, "6", np.nan, np.inf, 2.0**-101, 2.0**127, None])
def test_bad_thresholds_are_refused(bad: object) -> None:
    with pytest.raises(ac.ArgumentError, match=r"llm_int8: threshold must be 0.0, or a number from 2\^-100 to 2\^127"):
        ac.LLMInt8(bad)  # type: ignore[arg-type]


def test_codec_is_a_value() -> None:
    from arraycodec import LLMInt8  # noqa: F401  # what repr names

    for codec in (ac.LLMInt8(), ac.LLMInt8(6), ac.LLMInt8(-0.0)):
        assert eval(repr(codec)) == codec == from_json(json.loads(json.dumps(codec.to_json())))
    assert ac.LLMInt8(6).to_json() == {"name": "llm_int8", "threshold": 6.0}
    assert ac.codec("llm_int8", threshold=6.0) == ac.LLMInt8(6.0)
    assert ac.LLMInt8().fixed_size(ac.ArraySpec((3, 4), "float32"))
    assert not ac.LLMInt8(6.0).fixed_size(ac.ArraySpec((3, 4), "float32"))


@pytest.mark.parametrize(
    "columns", [[-1, 2], [0, 64], [3, 3], [5, 2], [1], [0, 2**31 - 1], [0, 2**31 - 1, -(2**31), -1, 5]]
)
def test_hostile_columns_are_refused(columns: list[int]) -> None:
    enc = ac.encode(Recipe((4, 64), "float32", "normal", 4, 1).array(), ac.LLMInt8(threshold=40.0))
    width = len(columns) if columns != [1] else 2
    planes = enc.planes | {
        "outlier_columns": np.array(columns, np.int32),
        "outliers": np.zeros((4, width), np.float32),
    }
    with pytest.raises(ac.CorruptError, match="llm_int8: outlier"):
        enc.codec.check(planes, enc.spec)
    with pytest.raises(ac.CorruptError, match="llm_int8: outlier"):
        ac.decode(ac.Encoded(enc.codec, enc.spec, planes))


@pytest.mark.parametrize("threshold", [0.0, 2.0])
@pytest.mark.parametrize("shape", [(9, 128), (2, 3, 37), (100,), ()])
def test_partial_reads_equal_the_whole(threshold: float, shape: tuple[int, ...]) -> None:
    codec, x = ac.LLMInt8(threshold), Recipe(shape, "float32", "normal", 0, 1).array()
    planes, fetched = codec.encode(x), []
    whole = codec.decode(planes, spec_of(x)).reshape(-1)

    def fetch(name: str, piece: slice) -> np.ndarray:
        part = planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece]
        fetched.append(part.nbytes)
        return part

    for start, stop in [(0, x.size), (0, 1), (127, 130), (x.size - 1, x.size), (5, 5)]:
        start, stop = min(start, x.size), min(stop, x.size)
        fetched.clear()
        same_bits(codec.read(fetch, spec_of(x), start, stop), whole[start:stop], f"{start}:{stop}")
        if len(shape) == 2 and stop - start == 3 and not threshold:
            assert sum(fetched) == 2 * (128 + 4), "two rows, not the whole plane"


@pytest.mark.parametrize("shape", [(0,), (0, 64), (3, 0), (), (1,), (2, 0, 3)])
def test_shapes_without_rows_or_columns(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 3, np.float32)
    for codec in (ac.LLMInt8(), ac.LLMInt8(threshold=2.0)):
        enc = ac.encode(x, codec)
        api_planes = {name: plane.shape for name, plane in enc.planes.items()}
        assert api_planes["codes"] == shape
        same_bits(ac.decode(enc), x, f"{codec} {shape}")


def test_files_hold_outliers(tmp_path) -> None:
    x = Recipe((64, 256), "bfloat16", "normal", 0, 1).array()
    enc = ac.encode(x, ac.LLMInt8(threshold=3.0))
    assert enc.planes["outlier_columns"].size
    ac.save_file({"x": enc}, tmp_path / "x.safetensors")
    loaded = ac.load_file(tmp_path / "x.safetensors")["x"]
    same_bits(ac.decode(loaded) if isinstance(loaded, ac.Encoded) else loaded, ac.decode(enc), "loaded")


def test_threads_do_not_change_outliers() -> None:
    x = Recipe((4096, 300), "float32", "normal", 0, 1).array()
    results = []
    for threads in (1, 2, 5):
        ac.set_num_threads(threads)
        try:
            enc = ac.encode(x, ac.LLMInt8(threshold=4.0))
            results.append([*enc.planes.values(), ac.decode(enc)])
        finally:
            ac.set_num_threads(None)
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            same_bits(got, want, "planes")


# -- frameworks


def test_torch_compiles() -> None:
    torch = pytest.importorskip("torch")
    x = torch.randn(16, 64, generator=torch.Generator().manual_seed(0)) * 3

    @torch.compile(fullgraph=True, backend="aot_eager")
    def round_trip(x):
        return ac.decode(ac.encode(x, "llm_int8"))

    assert torch.equal(round_trip(x), ac.decode(ac.encode(x, "llm_int8")))


def test_jax_traces_without_a_threshold_and_decodes_with_one() -> None:
    jax = pytest.importorskip("jax")
    import arraycodec_jax

    x = Recipe((16, 64), "float32", "normal", 1, 1).array()
    own = arraycodec_jax.from_numpy(x)
    want = ac.encode(x, "llm_int8")

    @jax.jit
    def round_trip(x):
        enc = ac.encode(x, "llm_int8")
        return enc, ac.decode(enc)

    enc, decoded = round_trip(own)
    same_bits(np.asarray(decoded), ac.decode(want), "decoded")
    same_bits(np.asarray(enc.planes["codes"]), want.planes["codes"], "codes")

    # Constants among the factors: XLA must not multiply those first.
    scales = want.planes["scales"]
    constant = jax.jit(lambda codes: ac.decode(ac.Encoded(want.codec, want.spec, {"codes": codes, "scales": scales})))
    same_bits(np.asarray(constant(enc.planes["codes"])), ac.decode(want), "decoded with constant scales")

    codec = ac.LLMInt8(threshold=4.0)
    with pytest.raises(ac.UnsupportedByBackend, match="llm_int8: the jax backend cannot encode with a threshold in a"):
        jax.jit(lambda x: ac.encode(x, codec))(own)
    split = ac.encode(own, codec)
    assert split.planes["outlier_columns"].size
    for dtype in DTYPES:
        got = jax.jit(lambda enc, dtype=dtype: ac.decode(enc, dtype=dtype))(split)
        same_bits(np.asarray(got), ac.decode(ac.encode(x, codec), dtype=dtype), f"decoded as {dtype}")
