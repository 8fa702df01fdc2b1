"""The gguf codec beyond the suite: what gguf-py decodes, every factor, exact products, partial reads, errors.

gguf-py itself is compared at level full, where it is installed; what version 0.19.0 decodes is known here by hashes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.primitives.gguf_blocks import E2M1, TYPES, BlockType, Integers, places, steps
from arraycodec_conformance.cases import any_bytes
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import sha
from tests.codecs.mx_support import assert_same_when_subnormals_are_flushed
from tests.codecs.peers import needs

# gguf-py 0.19.0, 64 blocks of each type by the recipe of `finite_blocks`, decoded to float32
GOLDEN = {
    "Q4_0": "1b339a2df13d",
    "Q4_1": "4cfbd894d068",
    "Q5_0": "073efa01f4fd",
    "Q5_1": "90d4f91a9e23",
    "Q8_0": "6845b15069f1",
    "Q2_K": "71192602de8d",
    "Q3_K": "a8cfdbd2c113",
    "Q4_K": "55d21dcd9f51",
    "Q5_K": "95c20913cbec",
    "Q6_K": "ec24271b75be",
    "IQ4_NL": "f891c6813ef7",
    "IQ4_XS": "f610e75587a7",
    "TQ1_0": "bcf9e944b3cc",
    "TQ2_0": "156d23f1cb93",
    "MXFP4": "debaab04c14f",
    "NVFP4": "06e3417c991a",
}


def finite_blocks(block: BlockType, count: int = 64, seed: int | None = None) -> np.ndarray:
    """Blocks of any bytes but for the factors, which are finite."""
    rng = np.random.default_rng(block.number if seed is None else seed)
    blocks = rng.integers(0, 256, (count, block.nbytes), np.uint8)
    for at in (block.d, block.m):
        if at is not None:
            blocks[:, at + 1] &= 0xBB
    return blocks


def decoded(name: str, blocks: np.ndarray, dtype: str = "float32") -> np.ndarray:
    spec = ac.ArraySpec((len(blocks), TYPES[name].elements), dtype)
    return ac.Gguf(name).decode({"blocks": blocks}, spec)


@pytest.mark.parametrize("name", TYPES)
def test_golden_hashes_of_gguf_py(name: str) -> None:
    assert sha(decoded(name, finite_blocks(TYPES[name]))) == GOLDEN[name]


@pytest.mark.level("full")
@needs("gguf")
@pytest.mark.parametrize("name", TYPES)
def test_gguf_py(name: str) -> None:
    """A million elements of any bytes. A factor that is no finite number gives NaN in the same places."""
    import gguf

    block, kind = TYPES[name], gguf.GGMLQuantizationType[name]
    assert (kind.value, *gguf.GGML_QUANT_SIZES[kind]) == (block.number, block.elements, block.nbytes)
    blocks = np.random.default_rng(1).integers(0, 256, ((1 << 20) // block.elements, block.nbytes), np.uint8)
    with np.errstate(all="ignore"):
        want = gguf.quants.dequantize(blocks, kind)
    want = np.where(np.isnan(want), np.uint32(0x7FC00000).view(np.float32), want)
    same_bits(decoded(name, blocks), want, name)


def test_there_is_no_type_that_gguf_py_decodes_and_we_do_not_know() -> None:
    gguf = pytest.importorskip("gguf")
    from arraycodec.formats.gguf_file import BLOCKS, PLAIN

    known = {kind.value for kind in gguf.GGMLQuantizationType}
    assert known == set(BLOCKS) | set(PLAIN)
    assert {k: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(k)] for k in BLOCKS} == {
        number: (elements, nbytes) for number, (_, elements, nbytes) in BLOCKS.items()
    }


# -- the table of types


@pytest.mark.parametrize("name", TYPES)
def test_every_byte_of_a_block_is_used(name: str) -> None:
    block = TYPES[name]
    fields = [f for part in (block.codes, block.scales, block.minima) for f in (*part.low, part.high) if f is not None]
    used = {int(byte) for field in fields for byte in places((field,)).byte}
    used |= {at + i for at in (block.d, block.m) if at is not None for i in (0, 1)}
    assert used == set(range(block.nbytes))
    assert block.codes.size == block.elements and block.elements % block.sub == 0


@pytest.mark.parametrize("name", TYPES)
def test_every_product_is_exact_in_float32(name: str) -> None:
    """So the subtraction is the only rounding, and one that fuses both gives the same bits."""
    block = TYPES[name]
    values = set(block.values or integers(block.codes))
    if block.steps:
        mantissas = [int(bits) & 0x7FFFFF | 0x800000 for bits in steps(block.steps)]
        assert all(odd(m) * odd(abs(v)) < 1 << 24 for m in mantissas for v in values)
        return
    largest = 2047  # a significand of float16
    assert all(largest * odd(abs(s * v)) < 1 << 24 for s in integers(block.scales) for v in values)
    assert all(largest * odd(abs(m)) < 1 << 24 for m in integers(block.minima))


def integers(numbers: Integers) -> Iterator[int]:
    """Every integer that these can be."""
    bits = (numbers.low[0].bits or 2 if numbers.low else 0) + (numbers.high.bits if numbers.high else 0)
    return ((code ^ numbers.flip) - numbers.zero for code in range(1 << bits))


def odd(number: int) -> int:
    """What is left of a number without its factors of two."""
    return number // (number & -number) if number else 0


# -- every factor


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q4_K"])
def test_every_factor(name: str) -> None:
    """All 2^16 patterns of d, and of m: what a factor of 1 gives, times it in double precision; one subtraction."""
    block = TYPES[name]
    one = finite_blocks(block, 1)
    for varied in (at for at in (block.d, block.m) if at is not None):
        blocks = np.repeat(one, 2**16, axis=0)
        blocks[:, varied : varied + 2] = np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
        with np.errstate(all="ignore"):
            products = [times(name, blocks, at) for at in (block.d, block.m) if at is not None]
            want = products[0] if len(products) == 1 else products[0] + products[1]
        want = np.where(np.isnan(want), np.uint32(0x7FC00000).view(np.float32), want)
        same_bits(decoded(name, blocks), want, f"{name}: byte {varied}")


def times(name: str, blocks: np.ndarray, at: int) -> np.ndarray:
    """The part of elements that the factor at this byte makes, in float32."""
    alone = blocks[:1].copy()
    for other in (TYPES[name].d, TYPES[name].m):
        if other is not None:
            alone[0, other : other + 2] = np.frombuffer(np.float16(other == at).tobytes(), np.uint8)
    factor = blocks[:, at : at + 2].copy().view(np.float16).astype(np.float64)
    return (factor * decoded(name, alone).astype(np.float64)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_scale_byte_of_mxfp4(dtype: str) -> None:
    """Twice a float4_e2m1fn times 2^(byte - 128): subnormal where byte is 0 or 1, infinite where it is from 253 on."""
    blocks = np.zeros((256, 17), np.uint8)
    blocks[:, 0], blocks[:, 1:] = np.arange(256), np.arange(16) * 17
    code = np.tile(np.arange(16), 2)
    with np.errstate(over="ignore"):
        exact = np.ldexp(np.array(E2M1, np.float64)[code], np.arange(256)[:, None] - 128)
        want = exact.astype(np.float32).astype(ac.ArraySpec((), dtype).numpy_dtype)
    same_bits(decoded("MXFP4", blocks, dtype), want, dtype)


def test_hardware_that_flushes_subnormals_gives_the_same_bits() -> None:
    blocks, dtypes = {name: finite_blocks(TYPES[name], 300) for name in TYPES}, ("float32", "bfloat16", "float16")
    blocks["MXFP4"][:, 0] = np.arange(300) % 256  # two of these make subnormal numbers
    assert_same_when_subnormals_are_flushed(
        lambda: [decoded(name, blocks[name], dtype) for name in TYPES for dtype in dtypes]
    )


def test_a_factor_that_is_not_finite() -> None:
    """Infinity times 0 and infinity less infinity are the canonical NaN; a finite block beside it stays as it is."""
    blocks = finite_blocks(TYPES["Q4_1"], 3)
    blocks[1, 0:4] = np.array([np.inf, np.inf], np.float16).view(np.uint8)
    blocks[1, 4:] = 0x10  # 0 and 1
    alone = decoded("Q4_1", blocks[[0, 2]])
    got = decoded("Q4_1", blocks)
    same_bits(got[[0, 2]], alone, "beside")
    assert (got[1, :16].view(np.uint32) == 0x7FC00000).all()
    assert np.isposinf(got[1, 16:]).all()


# -- shapes, files, parameters


def test_shapes_of_the_plane() -> None:
    codec = ac.Gguf("Q4_K")
    for shape, plane in [
        ((4, 3, 512), (4, 3, 288)),
        ((4, 128), (288,)),
        ((5,), (144,)),
        ((), (144,)),
        ((0, 256), (0, 144)),
        ((3, 0), (3, 0)),
    ]:
        assert codec.planes(ac.ArraySpec(shape, "float32")) == {"blocks": ac.ArraySpec(plane, "uint8")}


def test_large_arrays_in_threads() -> None:
    """The bits of one thread, a last tile that is not whole, and memory that is given."""
    for name in ("Q4_K", "Q5_0"):
        codec, spec = ac.Gguf(name), ac.ArraySpec(((1 << 20) + 77,), "float32")
        planes = any_bytes(codec.planes(spec), 3)
        whole, out = codec.decode(planes, spec), np.full(spec.known_shape, 7, np.float32)
        ac.set_num_threads(3)
        try:
            assert codec.decode(planes, spec, out=out) is out
        finally:
            ac.set_num_threads(None)
        same_bits(out, whole, name)


def test_a_read_takes_the_blocks_around_it() -> None:
    codec, spec = ac.Gguf("Q6_K"), ac.ArraySpec((8, 1024), "float32")
    planes, fetched = any_bytes(codec.planes(spec), 0), []

    def fetch(name: str, piece: slice) -> np.ndarray:
        fetched.append((piece.start, piece.stop))
        return planes[name].reshape(-1)[piece]

    whole = codec.decode(planes, spec).reshape(-1)
    same_bits(codec.read(fetch, spec, 300, 520), whole[300:520], "300:520")
    same_bits(codec.read(fetch, spec, 512, 512), whole[:0], "empty")
    assert fetched == [(210, 630), (420, 420)]


def test_in_a_container(tmp_path: object) -> None:
    codec, spec = ac.Gguf("Q4_K"), ac.ArraySpec((6, 512), "bfloat16")
    enc = ac.Encoded(codec, spec, any_bytes(codec.planes(spec), 0))
    path = f"{tmp_path}/m.safetensors"
    ac.save_file({"w": enc}, path)
    with ac.open_file(path) as file:
        assert file["w"].codec == codec
        same_bits(file["w"][2:4], ac.decode(enc)[2:4], "rows")
    same_bits(ac.load_file(path)["w"], ac.decode(enc), "loaded")
    same_bits(ac.decode(enc, dtype="float32").astype(spec.numpy_dtype), ac.decode(enc), "rounded once")


def test_errors_say_what_is_allowed() -> None:
    with pytest.raises(ac.ArgumentError, match=r"gguf: type must be one of Q4_0, .*NVFP4, got 'IQ2_XXS'"):
        ac.Gguf("IQ2_XXS")
    with pytest.raises(ac.ArgumentError, match=r"gguf Q4_K: cannot encode; blocks are made by llama\.cpp"):
        ac.encode(np.ones((1, 256), np.float32), ac.Gguf())
    enc = ac.Encoded(ac.Gguf(), ac.ArraySpec((1, 256), "float32"), {"blocks": np.zeros((1, 143), np.uint8)})
    with pytest.raises(ac.FormatError, match=r"blocks"):
        ac.decode(enc)
