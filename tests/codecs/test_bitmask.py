"""`Bitmask` beyond the suite: every dtype and shape, threads, partial reads, corrupt planes, parts, JAX in and out."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives import threads
from arraycodec.primitives.sparse import UNIT
from arraycodec.registry import from_json
from arraycodec.spec import numpy_dtype, spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import Level
from tests.codecs.sparse_support import golden_matrix, sparse

BITMASK, DROPPING = ac.Bitmask(), ac.Bitmask(drop_negative_zero=True)
SHAPES = [(), (0,), (3, 0), (0, 5), (1,), (7,), (5, 8), (3, 37), (2, 3, 50), (UNIT + 9,), (3, 2 * UNIT)]
SIGNED_ZEROS = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2")


def kept(x: np.ndarray, dropping: bool) -> np.ndarray:
    """Which elements are kept, as the page says it."""
    words = np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(-1, x.itemsize).copy()
    if dropping and x.dtype.name in SIGNED_ZEROS:
        words[:, -1] &= 0x7F
    if dropping and x.dtype.name == "complex64":
        words[:, [3, 7]] &= 0x7F
    return words.any(axis=1).reshape(x.shape)


@pytest.mark.parametrize("codec", [BITMASK, DROPPING], ids=repr)
@pytest.mark.parametrize("dtype", ac.Bitmask.dtypes)
def test_every_dtype_and_shape(dtype: str, codec: ac.Bitmask) -> None:
    for shape in SHAPES:
        x = sparse(shape, dtype)
        planes = codec.encode(x)
        want, flat = kept(x, codec.drop_negative_zero), x.reshape(-1)
        same_bits(planes["values"], flat[want.reshape(-1)], f"values of {dtype}{shape}")
        rows = want.reshape(int(np.prod(shape[:-1])), shape[-1] if shape else 1)
        mask = np.packbits(rows, axis=1, bitorder="little")
        same_bits(planes["bitmask"], mask.reshape(*shape[:-1], mask.shape[1]), "bitmask")
        counts = rows.sum(axis=1)
        offsets = (np.cumsum(counts) - counts).astype(np.int32).reshape(shape[:-1] or (1,))
        same_bits(planes["offsets"], offsets, "offsets")
        codec.check(planes, spec_of(x))
        zero = np.zeros((), np.uint8).repeat(x.itemsize).view(x.dtype)[0]
        same_bits(codec.decode(planes, spec_of(x)), np.where(want, x, zero).astype(x.dtype), f"decoded {dtype}{shape}")


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2"])
def test_every_pattern_comes_back(dtype: str) -> None:
    width = numpy_dtype(dtype).itemsize
    x = np.arange(256**width, dtype=f"u{width}").view(numpy_dtype(dtype)).reshape(-1, 64)
    enc = ac.encode(x, "bitmask")
    assert enc.planes["values"].size == x.size - 1
    same_bits(ac.decode(enc), x, dtype)


def test_out_dtype_and_strides() -> None:
    x = sparse((40, 64), "float32")
    enc = ac.encode(np.asfortranarray(x), BITMASK)
    out = ac.empty(enc.spec)
    assert ac.decode(enc, out=out) is out
    same_bits(out, x, "out")
    same_bits(ac.decode(ac.encode(x.astype(">f4"), BITMASK)), x, "the other byte order")
    for codec in (BITMASK, DROPPING):
        with pytest.raises(ac.ArgumentError, match="gives float32 only"):
            ac.decode(ac.encode(x, codec), dtype="bfloat16")
    with pytest.raises(ac.ArgumentError, match="given cannot hold 'values'"):
        ac.encode(x, BITMASK, given={"values": enc.planes["values"]})
    assert BITMASK.lossless and not DROPPING.lossless
    with pytest.raises(ac.ArgumentError, match="drop_negative_zero must be True or False, got 1"):
        ac.Bitmask(1)  # type: ignore[arg-type]


def test_results_do_not_depend_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "SERIAL_BELOW", 1)
    cases = [(sparse(shape, dtype), shape) for shape in ((33, 130), (5 * UNIT + 3,)) for dtype in ("float16", "int8")]
    for x, shape in cases:
        want = BITMASK.encode(x)
        for number in (1, 3):
            with threads.limited(number):
                planes = BITMASK.encode(x)
                for name, plane in want.items():
                    same_bits(planes[name], plane, f"{name} of {shape}, {number} threads")
                same_bits(BITMASK.decode(planes, spec_of(x)), x, f"{shape}, {number} threads")


def test_a_part_reads_its_rows_alone() -> None:
    x, fetched = sparse((64, 512), "bfloat16"), []
    planes = BITMASK.encode(x)

    def fetch(name: str, piece: slice) -> np.ndarray:
        part = planes[name] if piece == slice(None) else planes[name].reshape(-1)[piece]
        fetched.append(part.nbytes)
        return part

    same_bits(BITMASK.read(fetch, spec_of(x), 10 * 512, 12 * 512), x[10:12].reshape(-1), "two rows")
    assert sum(fetched) <= 2 * (512 * 2 + 64 + 4)
    for offset, message in ((10, "offset 1 must be"), (11, "offset 1 must be")):
        broken = planes | {"offsets": planes["offsets"].copy()}
        broken["offsets"][offset] -= 1
        with pytest.raises(ac.CorruptError, match=message):
            BITMASK.read(lambda name, piece, own=broken: own[name].reshape(-1)[piece], spec_of(x), 5120, 6144)
    broken["offsets"][:] = planes["offsets"] - 5000
    with pytest.raises(ac.CorruptError, match="offsets must be at least 0"):
        BITMASK.read(lambda name, piece: broken[name].reshape(-1)[piece], spec_of(x), 5120, 6144)


def test_corrupt_planes() -> None:
    x = sparse((6, 21), "float32")
    spec, planes = spec_of(x), BITMASK.encode(x)

    def changed(name: str, place: int, value: int) -> dict[str, np.ndarray]:
        plane = planes[name].copy()
        plane.reshape(-1)[place] += value
        return planes | {name: plane}

    lacking = planes | {"values": planes["values"][:-1]}
    for broken in (lacking, planes | {"values": np.append(planes["values"], planes["values"])}):
        for use in (BITMASK.check, BITMASK.decode):
            with pytest.raises(ac.CorruptError, match=r"as many as bits of the mask, which are \d+, got"):
                use(broken, spec)
    end = changed("bitmask", 5, 128)
    with pytest.raises(ac.CorruptError, match="rows of bitmask must end in zero bits after their 21 columns"):
        BITMASK.check(end, spec)
    for place, value in ((0, 1), (5, -1)):
        with pytest.raises(ac.CorruptError, match=f"offset {place} must be the number of values before it"):
            BITMASK.check(changed("offsets", place, value), spec)
    with pytest.raises(ac.CorruptError):  # a file of a writer with a mistake
        ac.from_bytes(ac.to_bytes(ac.Encoded(BITMASK, spec, changed("offsets", 3, 1))))
    with pytest.raises(ac.CorruptError):
        ac.decode(ac.Encoded(BITMASK, spec, lacking))


def test_compressed_tensors_golden_hashes() -> None:
    """The planes that compressed-tensors 0.14.0.1 made of a matrix with -0 in it; its row offsets are int64."""
    x = golden_matrix()
    flat = x.reshape(-1)
    flat[(np.arange(flat.size) * 7 % 5) < 3] = 0
    planes = DROPPING.encode(x)
    assert planes["values"].size == 1588
    row_offsets = planes["offsets"].astype(np.int64)
    hashes = [hashlib.sha256(p.tobytes()).hexdigest()[:12] for p in (planes["values"], planes["bitmask"], row_offsets)]
    assert hashes == ["097da93cfed3", "5b99179d0dfc", "d9c8b8b47719"]


# -- as an outer codec, and as a part

PARTS = [
    ac.Linear(4, block_size=(1, 128)),
    ac.codec("nf4-double"),
    ac.Then(ac.Minifloat(), scales=ac.Lossless()),
    ac.Lossless(),
    ac.NVFP4(),
    ac.Minifloat(block_size=None),
    ac.Bitmask(drop_negative_zero=True),
]


@pytest.mark.parametrize("part", PARTS, ids=repr)
def test_values_with_a_codec_of_their_own(part: ac.Codec, tmp_path) -> None:
    x = np.random.default_rng(0).standard_normal((65, 131), np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.5] = 0
    codec = ac.Then(BITMASK, values=part)
    assert from_json(json.loads(json.dumps(codec.to_json()))) == codec
    enc, plain = ac.encode(x, codec), BITMASK.encode(x)
    want = part.encode(plain["values"])
    for name, plane in want.items():
        same_bits(enc.planes[f"values.{name}"], plane, name)
    values = part.decode(want, spec_of(plain["values"]))
    decoded = ac.decode(enc)
    same_bits(decoded, BITMASK.decode(plain | {"values": values}, enc.spec), "decoded")
    codec.check(enc.planes, enc.spec)
    same_bits(ac.decode(ac.from_bytes(ac.to_bytes(enc))), decoded, "from a frame")
    ac.save_file({"w": enc}, tmp_path / "w.safetensors")
    with ac.open_file(tmp_path / "w.safetensors") as file:
        same_bits(file["w"][3:9], decoded[3:9], "rows of a file")
    stacked = ac.Encoded(codec, enc.spec, {name: np.stack([plane, plane]) for name, plane in enc.planes.items()})
    same_bits(ac.decode(stacked), np.stack([decoded, decoded]), "stacked")
    ac.save_file({"w": stacked}, tmp_path / "w.safetensors", overwrite=True)
    same_bits(ac.load_file(tmp_path / "w.safetensors")["w"], np.stack([decoded, decoded]), "a stack in a file")


@pytest.mark.parametrize("outer", [ac.Minifloat(), ac.Linear(8, block_size=(1, None)), ac.Linear(4)], ids=repr)
def test_codes_as_a_bitmask(outer: ac.Codec) -> None:
    x = np.random.default_rng(0).standard_normal((16, 256), np.float32) * (np.arange(256) % 3 == 0)
    plain, both = ac.encode(x, outer), ac.encode(x, ac.Then(outer, codes=BITMASK))
    same_bits(ac.decode(both), ac.decode(plain), "decoded")
    assert both.nbytes < plain.nbytes or outer == ac.Linear(4)  # whose zero code has bits


def test_parts_that_do_not_fit() -> None:
    x = sparse((8, 64), "float32")
    x = np.where(np.isfinite(x), x, np.float32(1))
    with pytest.raises(ac.ArgumentError, match="which bitmask tells: so that has no codec of its own"):
        ac.encode(x, ac.Then(BITMASK, values=ac.Lossless(), bitmask=ac.Lossless()))
    with pytest.raises(ac.ArgumentError, match=r"given cannot hold 'values.scales', whose length depends on the array"):
        ac.encode(x, ac.Then(BITMASK, values=ac.Linear(8)), given={"values.scales": np.ones(4, np.float32)})
    same_bits(ac.decode(ac.encode(x, ac.Then(BITMASK, bitmask=ac.Lossless()))), x, "a coded bitmask")
    enc = ac.encode(x, ac.Then(BITMASK, values=ac.Linear(8)), check=False)
    for name in ("values.codes", "values.scales"):
        short = ac.Encoded(enc.codec, enc.spec, enc.planes | {name: enc.planes[name][:-1]})
        with pytest.raises(ac.CorruptError, match=f"plane {name} must have shape"):
            ac.decode(short)
        with pytest.raises(ac.CorruptError, match=f"plane {name} must have shape"):
            enc.codec.check(short.planes, enc.spec)
    x[3, 3] = np.nan
    with pytest.raises(ac.NonFiniteError):
        ac.encode(x, ac.Then(BITMASK, values=ac.Linear(8)))


# -- other frameworks


def test_jax_encodes_what_is_at_hand_and_decodes_in_traces(level: Level) -> None:
    jax = pytest.importorskip("jax")
    from arraycodec_jax import IMPLEMENTATIONS

    full = level >= Level.full
    for dtype in ("bfloat16", "int8", "float32", "bool") if full else ("bfloat16", "int8"):
        for shape in ((5, 37), (), (0, 4)) if full or dtype == "int8" else ((5, 37),):
            x = sparse(shape, dtype)
            want, own = DROPPING.encode(x), jax.numpy.asarray(x)
            for how in ("jit", "eager") if full else ("jit",):
                planes = IMPLEMENTATIONS[how].encode(own, DROPPING, {})
                for name, plane in want.items():
                    same_bits(np.asarray(planes[name]), plane, f"{name} of {dtype}{shape}, {how}")
                decoded = IMPLEMENTATIONS[how].decode(DROPPING, planes, spec_of(x), {})
                same_bits(np.asarray(decoded), DROPPING.decode(want, spec_of(x)), f"{dtype}{shape}, {how}")
    own = jax.numpy.asarray(sparse((4, 64), "float32"))
    with pytest.raises(ac.UnsupportedByBackend, match="cannot encode in a trace"):
        jax.jit(lambda x: ac.encode(x, BITMASK).planes)(own)
    enc = ac.encode(own, BITMASK)
    same_bits(np.asarray(jax.jit(ac.decode)(enc)), np.asarray(own), "in a trace")


def test_jax_decodes_parts_in_a_trace_where_the_bitmask_is_a_constant() -> None:
    jax = pytest.importorskip("jax")
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32) * (np.arange(64) % 3 == 0)
    enc = ac.encode(jax.numpy.asarray(x), ac.Then(BITMASK, values=ac.Linear(8)))
    same_bits(np.asarray(jax.jit(lambda: ac.decode(enc))()), np.asarray(ac.decode(enc)), "a constant")
    with pytest.raises(ac.UnsupportedByBackend, match="unless that one is a constant"):
        jax.jit(ac.decode)(enc)


@pytest.mark.level("exhaustive")
def test_more_than_two_to_the_31_elements(level: Level) -> None:
    x = np.zeros(2**31 + UNIT + 5, np.uint8)
    x[[0, 5, 2**31 - 1, 2**31, x.size - 1]] = [1, 2, 3, 4, 5]
    enc = ac.encode(x, BITMASK)
    assert enc.planes["values"].tolist() == [1, 2, 3, 4, 5] and enc.planes["offsets"].dtype == np.int64
    assert (ac.decode(enc) == x).all()
