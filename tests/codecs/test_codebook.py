"""The codebook codec beyond the suite: bitsandbytes as judge, parameters, partial reads, odd inputs, huge arrays."""

from __future__ import annotations

import json

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives import codebooks
from arraycodec.primitives.floats import recip_rn
from arraycodec.primitives.jit import kernel
from arraycodec.registry import CODECS, from_json
from arraycodec.spec import numpy_dtype
from arraycodec_conformance import oracles
from arraycodec_conformance.cases import CASES, RISING16, Case
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from arraycodec_conformance.strategies import Recipe

BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DTYPES = ("float32", "bfloat16", "float16")
DISTRIBUTIONS = ("normal", "uniform", "cauchy", "thresholds", "sparse", "log-normal", "bits", "integers")


# -- bitsandbytes


@pytest.mark.parametrize("name", ["nf4", "fp4", "af4", *oracles.BITSANDBYTES_MAPS])
def test_tables_are_bitsandbytes_tables(name: str) -> None:
    want = oracles.bitsandbytes_table(name) + np.float32(0)  # -0 is the value +0
    same_bits(np.asarray(codebooks.table(name).values), want, name)


@pytest.mark.level("default")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codec", [ac.Codebook("nf4"), ac.Codebook("fp4", flavour="bnb-cpu")], ids=lambda c: c.table)
def test_encode_equals_bitsandbytes_in_the_domain(codec: ac.Codebook, dtype: str, level: Level) -> None:
    elements, outside, differing = 0, 0, 0
    for seed in range(40 if level >= Level.full else 1):
        for distribution in DISTRIBUTIONS:
            for block in BLOCKS if distribution == "normal" else (64,):
                x = Recipe((64, 4096), dtype, distribution, -6 if dtype == "float16" else 0, seed).array().reshape(-1)
                with np.errstate(all="ignore"):
                    inside = oracles.domain(x, block, codec.table)
                enc = ac.encode(x, ac.Codebook(codec.table, block, codec.flavour), check=False)
                codes, absmax = oracles.bitsandbytes_encode(x, codec.table, block)
                got, want = (c.reshape(-1, block // 2) for c in (enc.planes["codes"], codes))
                same_bits(got[inside], want[inside], f"{codec.table} {block} {distribution}: codes")
                same_bits(enc.planes["absmax"][inside], absmax[inside], f"{codec.table} {distribution}: absmax")
                elements += int(inside.sum()) * block
                outside += int((~inside).sum())
                differing += int((got[~inside] != want[~inside]).any(axis=1).sum())
    print(
        f"{codec.table} {dtype}: {elements:,} elements inside, 0 differ; {outside} blocks outside, {differing} differ"
    )
    assert elements > 2_000_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("table", ["nf4", "fp4"])
def test_decode_equals_bitsandbytes(table: str, dtype: str) -> None:
    """All codes, scales from 2^-100 to 2^120 and zero blocks as bitsandbytes writes them."""
    rng = np.random.default_rng(5)
    for block in BLOCKS:
        codes = rng.integers(0, 256, 64 * block // 2, np.uint8)
        absmax = np.exp2(rng.uniform(-14 if dtype == "float16" else -100, 15 if dtype == "float16" else 120, 64))
        absmax = absmax.astype(np.float32)
        spec = ac.ArraySpec((64 * block,), dtype)
        got = ac.Codebook(table, block).decode({"codes": codes, "absmax": absmax}, spec)
        same_bits(got, oracles.bitsandbytes_decode(codes, absmax, table, block, dtype), f"{table} {block}")


def test_fp4_equals_an_emulation_of_the_cuda_kernel() -> None:
    for distribution in ("normal", "uniform", "thresholds", "sparse"):
        x = Recipe((64, 4096), "float32", distribution, 0, 3).array()
        blocks = np.abs(x.reshape(-1, 64)).max(axis=1) > 0
        with np.errstate(all="ignore"):
            codes, absmax = oracles.cuda_fp4_encode(x, 64)
        enc = ac.encode(x, "fp4")
        got = oracles.unpack(enc.planes["codes"].reshape(-1)).reshape(-1, 64)
        same_bits(got[blocks], codes.reshape(-1, 64)[blocks], f"fp4 {distribution}: codes")
        same_bits(enc.planes["absmax"].reshape(-1)[blocks], absmax[blocks], f"fp4 {distribution}: absmax")


def test_classes_outside_the_domain_differ_as_the_page_says() -> None:
    """Each class that docs/format/codebook.md lists outside the domain, with the first byte that either side stores."""
    ramp = np.linspace(-1, 1, 64)
    rows = {
        ("nf4", "zero block"): (np.zeros(64), 0x77, 0x77),
        ("nf4", "absmax below 2^-100"): (np.full(64, 2.0**-120), 0x77, 0xFF),
        ("nf4", "NaN"): (np.array([np.nan] + [1.0] * 63), 0x77, 0xFF),
        ("nf4", "infinity"): (np.array([np.inf] + [1.0] * 63), 0x77, 0xF7),
        ("fp4", "positive subnormal"): (np.r_[2.0**-130, ramp[1:]], 0x0B, 0x8B),
        ("fp4", "positive, at most 2^-100 of absmax"): (np.r_[2.0**-101, ramp[1:]], 0x0B, 0x8B),
        ("fp4", "negative, next to zero"): (np.r_[-(2.0**-101), ramp[1:]], 0x0B, 0x0B),
    }
    for (table, name), (block, ours, theirs) in rows.items():
        x = block.astype(np.float32)
        codes, _ = oracles.bitsandbytes_encode(x, table, 64)
        flavour = "bnb-cpu" if table == "fp4" else None
        got = ac.encode(x, ac.Codebook(table, flavour=flavour), check=False).planes["codes"]
        assert (int(got[0]), int(codes[0])) == (ours, theirs), name


def test_last_partial_blocks_differ_at_bounds_only() -> None:
    """bitsandbytes' CPU kernel divides in a partial block where whole blocks multiply by the reciprocal."""
    rng, bounds, differing, near = np.random.default_rng(3), codebooks.table("nf4").bounds, 0, 0
    for _ in range(200):
        absmax = np.float32(rng.uniform(0.5, 2))
        x = np.r_[absmax, rng.choice(bounds, 15) * absmax, rng.uniform(-0.4, 0.4, 16) * absmax].astype(np.float32)
        got = oracles.unpack(ac.encode(x, "nf4").planes["codes"])
        want = oracles.unpack(oracles.bitsandbytes_encode(x, "nf4", 64)[0])
        differing += int((got != want).sum())
        near += int((got[:16] != want[:16]).sum())
    assert 0 < differing == near < 200 * 16 * 0.3


def test_scales_above_two_to_the_126_may_differ() -> None:
    """There bitsandbytes' reciprocal is subnormal and inexact, while ours is of a number 16 times smaller."""
    x = Recipe((64, 64), "float32", "thresholds", 0, 1).array()
    x = (x / np.abs(x).max(axis=1, keepdims=True) * np.float32(2.0**127)).astype(np.float32)
    assert not oracles.domain(x, 64, "nf4").any()
    same_bits(ac.encode(x, "nf4").planes["absmax"].reshape(-1), oracles.bitsandbytes_encode(x, "nf4", 64)[1], "absmax")
    scaled = ac.encode(np.ldexp(x, -20), "nf4")
    same_bits(ac.encode(x, "nf4").planes["codes"], scaled.planes["codes"], "codes do not depend on a power of two")


@pytest.mark.parametrize("table", ["nf4", "fp4"])
def test_double_quantisation_decodes_as_bitsandbytes_does(table: str) -> None:
    """Planes from bitsandbytes' own nested state decode to its own result; our encoder's statistics are its format."""
    import bitsandbytes.functional as bnb

    x = Recipe((128, 4096), "float32", "normal", -6, 9).array()
    packed, state = bnb.quantize_4bit(oracles.to_torch(x), blocksize=64, quant_type=table, compress_statistics=True)
    planes = {
        "codes": packed.numpy().reshape(128, 2048),
        "absmax.codes": state.absmax.numpy().reshape(128, 64),
        "absmax.absmax": state.state2.absmax.numpy(),
        "absmax.offset": np.asarray(state.offset.numpy(), np.float32),
    }
    codec = ac.codec(f"{table}-double")
    specs = codec.planes(ac.ArraySpec((128, 4096), "float32"))
    planes = {name: planes[name].reshape(spec.shape) for name, spec in specs.items()}
    got = codec.decode(planes, ac.ArraySpec((128, 4096), "float32"))
    same_bits(got, bnb.dequantize_4bit(packed, state).numpy(), f"{table} nested")

    # Given its offset we choose the same nested codes, but for the 0.2 % that its CPU table of 65,536 cells misplaces.
    enc = ac.encode(x, codec, given={"absmax.offset": planes["absmax.offset"]})
    misplaced = float((enc.planes["absmax.codes"] != planes["absmax.codes"]).mean())
    same_bits(enc.planes["absmax.absmax"], planes["absmax.absmax"], "nested absmax")
    assert misplaced < 0.01, misplaced


# -- parameters and inputs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ac.Codebook("nf5"), "codebook: table must be one of nf4, fp4, af4, nf8, dynamic, .*, got 'nf5'"),
        (lambda: ac.Codebook("nf8", flavour="bnb-cpu"), "flavour of nf8 must be None, got 'bnb-cpu'"),
        (lambda: ac.Codebook("linear", flavour="cuda"), "flavour of linear must be None, 'bnb-cpu', got 'cuda'"),
        (lambda: ac.Codebook("nf4", 0), r"codebook nf4: block_size must be an integer >= 1 or None .*, got 0"),
        (lambda: ac.Codebook("nf4", True), "block_size must be an integer"),
        (lambda: ac.Codebook("nf4", flavour="bnb-cpu"), "flavour of nf4 must be None, got 'bnb-cpu'"),
        (lambda: ac.Codebook("nf4", offset=1), "offset must be True or False, got 1"),
        (lambda: ac.codec("nf9"), "'nf9' is not known, closest are nf8, nf4"),
        (lambda: ac.codec("NF4"), "'NF4' is not known, closest are nf4, nf4-double; `arraycodec list` shows all"),
        (lambda: ac.codec("MXFP4"), "closest are mxfp4;"),
        (lambda: ac.codec("e4m3"), "closest are float8_e4m3fn;"),
        (lambda: ac.codec("int4"), "closest are int4_linear;"),
        (lambda: ac.codec("int8"), "closest are int8_linear, int8-channel, mxint8;"),
        (lambda: ac.codec("qqq"), "'qqq' is not known; `arraycodec list` shows all$"),
        (lambda: ac.codec("nf4", block=64), "codebook: no parameter 'block', there are table, block_size, fl.*"),
        (lambda: ac.codec("codebook", block=64), "codebook: no parameter 'block', there are table,"),
        (lambda: ac.codec("nf4-double", block=64), "codebook: no parameter 'block', there are table,"),
        (lambda: ac.decode(np.ones(64)), "decode: encoded must be an Encoded, got numpy.ndarray"),
        (lambda: ac.ArraySpec((3,), np.float16), "got <class 'numpy.float16'>; dtypes are names, such as 'float16'$"),
        (lambda: ac.encode(np.ones(64), "nf4"), "dtype must be one of float32, bfloat16, float16, got float64"),
        (lambda: ac.encode(np.ones(64, np.float32), ac.Codebook("user4")), "given must hold the plane 'codebook'"),
        (lambda: _user(RISING16[::-1]), "must be finite and strictly rising"),
        (lambda: _user(RISING16[:15]), r"'codebook' must be float32\[16\], got float32\[15\]"),
        (lambda: _user(np.where(RISING16 == 0.1, np.float32(2**-30), RISING16)), "must be 0 or in 2"),
        (lambda: ac.encode(np.ones(64, np.float32), "nf4", given={"scales": 1}), "given may hold .*, got 'scales'"),
        (lambda: ac.encode("text", "nf4"), "no backend for builtins.str"),
    ],
)
def test_bad_arguments_say_where_what_and_what_is_allowed(make, message: str) -> None:
    with pytest.raises(ac.ArrayCodecError, match=message):
        make()


def _user(values: np.ndarray) -> ac.Encoded:
    return ac.encode(np.ones(64, np.float32), ac.Codebook("user4"), given={"codebook": np.ascontiguousarray(values)})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_input_is_an_error_unless_unchecked(bad: float) -> None:
    x = np.ones((4, 64), np.float32)
    x[2, 5] = bad
    for scheme in ("nf4", "nf4-double"):
        with pytest.raises(ac.NonFiniteError, match="input must be finite, got NaN or infinity in 1 of"):
            ac.encode(x, scheme)
    decoded = ac.decode(ac.encode(x, "nf4", check=False))
    assert np.isnan(decoded[2]).all()
    assert np.isfinite(decoded[[0, 1, 3]]).all()


@pytest.mark.parametrize("table", ["nf4", "fp4", "dynamic", "fp8-e5m2"])
def test_given_scales_give_infinity_and_nan_the_codes_of_the_ends(table: str) -> None:
    """Also from 2^126 on, where the exponents of other elements are lowered. No bound is below a NaN: its rank is 0."""
    codec, ends = ac.Codebook(table, block_size=None), codebooks.table(table).codes[[-1, 0, 0, 0]]
    for scale in np.array([1, 2.0**125, 2.0**126, 2.0**127], np.float32):
        x = np.array([np.inf, -np.inf, np.nan, -np.nan, scale, -scale / 2], np.float32)
        codes = codec.encode(x, {"absmax": np.full(1, scale)})["codes"]
        codes = np.stack([codes >> 4, codes & 15], axis=1).ravel() if codec.bits == 4 else codes
        same_bits(codes[:4], ends, f"{table}, {scale}")
        halves = codec.encode(x[4:] / scale, {"absmax": np.ones(1, np.float32)})["codes"]
        same_bits(codec.encode(x[4:], {"absmax": np.full(1, scale)})["codes"], halves, f"{table}, {scale}: finite")


def test_inputs_of_every_layout_encode_alike_and_stay_as_they_are() -> None:
    x = Recipe((64, 128), "float32", "normal", 0, 1).array()
    want = ac.encode(x, "nf4").planes
    wide = np.zeros((64, 256), np.float32)
    wide[:, ::2] = x
    readonly = x.copy()
    readonly.setflags(write=False)
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    layouts = [wide[:, ::2], x.T.copy().T, x[::-1][::-1], x.astype(">f4"), readonly, unaligned]
    for layout in layouts:
        before = layout.copy()
        for name, plane in ac.encode(layout, "nf4").planes.items():
            same_bits(plane, want[name], name)
        np.testing.assert_array_equal(layout, before)
    broadcast = np.broadcast_to(x[0], (64, 128))
    same_bits(ac.decode(ac.encode(broadcast, "nf4")), ac.decode(ac.encode(broadcast.copy(), "nf4")), "broadcast")


def test_out_is_written_and_checked() -> None:
    x = Recipe((6, 64), "bfloat16", "normal", 0, 1).array()
    enc = ac.encode(x, "nf4")
    out = ac.empty(enc)
    assert out.ctypes.data % 64 == 0
    assert ac.decode(enc, out=out) is out
    same_bits(out, ac.decode(enc), "out")
    readonly = ac.empty(enc)
    readonly.setflags(write=False)
    overlapping = enc.planes["codes"].reshape(-1)[: 6 * 64 * 2].view(numpy_dtype("bfloat16"))
    bad = [np.zeros((6, 64), np.float32), ac.empty(ac.ArraySpec((64, 6), "bfloat16")).T, readonly, [1], out[:5]]
    for array in [*bad, overlapping]:
        with pytest.raises(ac.ArgumentError, match="out must"):
            ac.decode(enc, out=array)
    inside = np.zeros(4096, np.uint8)
    planes = {"codes": inside[: 6 * 32].reshape(6, 32), "absmax": enc.planes["absmax"]}
    with pytest.raises(ac.ArgumentError, match="must not overlap the plane 'codes'"):
        ac.decode(
            ac.Encoded(enc.codec, enc.spec, planes), out=inside[: 6 * 128].view(numpy_dtype("bfloat16")).reshape(6, 64)
        )


def test_wrong_planes_are_refused() -> None:
    enc = ac.encode(np.ones((4, 64), np.float32), "nf4")
    bad = [
        {"codes": enc.planes["codes"]},
        enc.planes | {"more": enc.planes["absmax"]},
        enc.planes | {"absmax": enc.planes["absmax"][:3]},
        enc.planes | {"absmax": enc.planes["absmax"].astype(np.float16)},
        enc.planes | {"codes": enc.planes["codes"][:, :31]},
    ]
    for planes in bad:
        with pytest.raises(ac.FormatError, match="plane"):
            ac.decode(ac.Encoded(enc.codec, enc.spec, planes))


# -- values: codecs are frozen, hashable, and their three spellings agree


@pytest.mark.parametrize("case", CASES, ids=str)
def test_codec_is_a_value(case: Case) -> None:
    codec, names = case.codec, {cls.__name__: getattr(ac, cls.__name__) for cls in (*CODECS.values(), ac.Then)}
    assert eval(repr(codec), names) == codec
    assert from_json(json.loads(json.dumps(codec.to_json()))) == codec
    assert hash(codec) == hash(from_json(codec.to_json()))


@pytest.mark.parametrize("case", [case for case in CASES if not case.base], ids=str)  # no part without the whole base
@pytest.mark.parametrize("shape", [(9, 128), (1000,), (5, 37), ()])
def test_partial_reads_equal_the_whole(case: Case, shape: tuple[int, ...]) -> None:
    x = Recipe(shape, "float32", "normal", 0, 1).array()
    planes, spec = case.planes(x), ac.ArraySpec(shape, "float32")
    whole, fetched = case.codec.decode(planes, spec).reshape(-1), []

    def fetch(name: str, piece: slice) -> np.ndarray:
        part = planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece]
        fetched.append(part.nbytes)
        return part

    for start, stop in [(0, x.size), (0, 1), (63, 65), (x.size - 1, x.size), (200, 333), (5, 5)]:
        start, stop = min(start, x.size), min(stop, x.size)
        fetched.clear()
        same_bits(case.codec.read(fetch, spec, start, stop), whole[start:stop], f"{case} {start}:{stop}")
        if (start, stop) == (63, 65) and case.codec == ac.Codebook("nf4"):
            assert sum(fetched) <= 64 + 8, "two blocks, not the whole plane"


def test_results_do_not_depend_on_threads() -> None:
    x = Recipe((1025, 2048), "float32", "normal", 0, 1).array()
    results = []
    for threads in (1, 2, 3, 7):
        ac.set_num_threads(threads)
        try:
            for codec in (
                ac.Codebook("nf4"),
                ac.Codebook("nf4", None),
                ac.Codebook("fp4", 4097),
                ac.Codebook("nf4", 63),
            ):
                enc = ac.encode(x, codec)
                results.append((threads, codec, enc.planes, ac.decode(enc)))
        finally:
            ac.set_num_threads(None)
    for threads, codec, planes, decoded in results[4:]:
        first = next(r for r in results if r[1] == codec)
        same_bits(decoded, first[3], f"{codec} with {threads} threads")
        for name, plane in planes.items():
            same_bits(plane, first[2][name], f"{codec} {name} with {threads} threads")


# -- the reciprocal


@kernel
def _reciprocals_that_differ(first, last):
    count = 0
    for u in range(first, last):
        bits = np.uint32(u)
        if np.uint32(recip_rn(bits)) != np.float32(np.float32(1) / bits.view(np.float32)).view(np.uint32):
            count += 1
    return count


def test_recip_rn_is_the_ieee_reciprocal() -> None:
    """Every significand at three exponents, and the first and last 2^20 of all exponents from 1 to 252."""
    edges = [(e << 23) + (i << 20) * 7 for e in range(1, 253) for i in (0, 1)]
    assert sum(_reciprocals_that_differ(lo, lo + (1 << 16)) for lo in edges) == 0
    for exponent in (1, 127, 252):
        assert _reciprocals_that_differ(exponent << 23, (exponent + 1) << 23) == 0


@pytest.mark.level("exhaustive")
def test_recip_rn_is_the_ieee_reciprocal_everywhere() -> None:
    assert _reciprocals_that_differ(1 << 23, 253 << 23) == 0


@pytest.mark.level("exhaustive")
def test_more_than_two_to_the_31_elements() -> None:
    """Indices are 64-bit: blocks beyond 2^31 elements equal the same blocks encoded alone."""
    n = 2**31 + 2**20 + 64
    x = np.zeros(n, numpy_dtype("bfloat16"))
    tail = Recipe((2**20 + 64,), "bfloat16", "normal", 0, 1).array()
    x[-tail.size :] = tail
    enc, want = ac.encode(x, "nf4"), ac.encode(tail, "nf4")
    del x
    same_bits(enc.planes["codes"][-tail.size // 2 :], want.planes["codes"], "codes")
    same_bits(enc.planes["absmax"][-tail.size // 64 :], want.planes["absmax"], "absmax")
    out = ac.decode(enc)
    same_bits(out[-tail.size :], ac.decode(want), "decoded")
