"""`info --floor`: the entropies are what their definition says, and our bits stand beside them."""

import json
import math
from collections import Counter

import ml_dtypes
import numpy as np
import pytest

import arraycodec as ac
from arraycodec.checkpoints.floor import ENOUGH, entropies, fields, floors
from tests.checkpoints.support import model, normal, shards, write, write_folder


def plain(array: np.ndarray) -> list[float]:
    """The definition, word by word: order 0, row, column, previous; in bits of the whole array."""
    words = array.reshape(-1).view(f"u{array.dtype.itemsize}").tolist()
    columns = len(words) // array.shape[0] if array.ndim > 1 else len(words)
    total = [0.0, 0.0, 0.0, 0.0]
    for shift, width in fields(array.dtype):
        symbols = [word >> shift & (1 << width) - 1 for word in words]
        seen = Counter(symbols)
        few = len(words) < ENOUGH * len(seen)
        own = len(words) * math.log2(len(seen)) if few else entropy(seen)
        before = [symbols[i - 1] if i % columns else None for i in range(len(symbols))]
        places = [i // columns for i in range(len(symbols))], [i % columns for i in range(len(symbols))], before
        total[0] += own
        for index, contexts in enumerate(places, 1):
            bits = 0.0
            for context in set(contexts):
                found = Counter(s for s, c in zip(symbols, contexts, strict=True) if c == context)
                if sum(found.values()) < ENOUGH * len(found):
                    bits += sum(c * math.log2(len(words) / seen[s]) for s, c in found.items())
                else:
                    bits += entropy(found)
            total[index] += min(own, bits)
    return total


def entropy(counts: Counter) -> float:
    n = sum(counts.values())
    return sum(c * math.log2(n / c) for c in counts.values()) + (len(counts) - 1) / (2 * math.log(2))


@pytest.mark.parametrize(
    "array",
    [
        normal(24, 70),
        normal(24, 70, dtype="bfloat16"),
        normal(12, 7, 3, 3, dtype="float16"),
        normal(300),
        normal(20, 40).astype(ml_dtypes.float8_e4m3fn),
        normal(8, 9).astype(np.float64),
        (normal(30, 66) * 4).astype(np.int8),
        np.arange(200, dtype=np.int64).reshape(20, 10),
        np.array(3.5),
        np.tri(20, dtype=bool),
    ],
    ids=lambda x: f"{x.dtype}{list(x.shape)}",
)
def test_the_definition(array):
    assert entropies(array) == pytest.approx(plain(array), rel=1e-12, abs=1e-9)


def test_complex_numbers_are_pairs_of_floats():
    pairs = normal(24, 70)
    assert entropies(pairs.view(np.complex64)) == entropies(pairs)
    assert entropies(np.array(1 + 2j, np.complex64)) == entropies(np.array([1, 2], np.float32))


def test_what_each_context_sees():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (256, 4096), np.uint8)
    order0, row, column, previous = (bits / noise.size for bits in entropies(noise))
    assert order0 == pytest.approx(8, abs=1e-3) and min(row, column, previous) > 7.95
    rows = np.repeat(np.arange(64, dtype=np.uint8), 256).reshape(64, 256)
    assert entropies(rows)[1] == 0 < entropies(rows.T.copy())[1] and entropies(rows.T.copy())[2] == 0
    steps = (np.arange(64 * 256) % 16).astype(np.uint8)
    assert entropies(steps)[3] < 0.01 * entropies(steps)[0]
    assert entropies(np.full((64, 64), 7, np.int16)) == (0, 0, 0, 0)
    zeros = normal(64, 512, dtype="bfloat16").astype(np.float32)
    assert entropies(zeros)[0] / zeros.size < 12
    complex_ = normal(16, 16).astype(np.complex64)
    assert entropies(complex_)[0] > 0


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16", "uint8", "int16", "uint64"])
def test_fields_are_the_whole_word(dtype):
    kind = ac.ArraySpec((), dtype).numpy_dtype
    found = fields(kind)
    assert [shift + width for shift, width in found] == [8 * kind.itemsize, *(shift for shift, _ in found[:-1])]
    assert found[-1][0] == 0


def test_of_a_checkpoint(tmp_path):
    src = write(tmp_path / "s.safetensors", model() | {"big": normal(512, 512, dtype="bfloat16")})
    ac.compress(src, tmp_path / "p.safetensors", mode="storage")
    before, after = floors(src), {floor.name: floor for floor in floors(tmp_path / "p.safetensors", jobs=1)}
    assert {floor.name for floor in before} == {name for name, x in model().items() if x.size} | {"big"} == set(after)
    for floor in before:
        assert floor.stored == 8 * (model() | {"big": normal(512, 512, dtype="bfloat16")})[floor.name].itemsize
        assert floor.lowest == after[floor.name].lowest
    big = after["big"]
    assert big.gap == big.stored - big.lowest and 0 < big.gap < 0.35 < before[0].gap
    found = ac.info(tmp_path / "p.safetensors", floor=True)
    assert {floor.name: floor for floor in found.floors} == after and ac.info(src).floors is None
    json.dumps(found.to_json(), allow_nan=False)


def test_codes_of_lossy_tensors_have_no_floor(tmp_path):
    src = write(tmp_path / "s.safetensors", {"big": normal(256, 256), "bias": normal(64), "ids": np.arange(64)})
    ac.compress(src, tmp_path / "p.safetensors", "nf4")
    assert {floor.name for floor in floors(tmp_path / "p.safetensors")} == {"bias", "ids"}


def test_of_a_folder_with_packed_bits(tmp_path):
    from tests.checkpoints.support import write_raw

    write_folder(tmp_path / "m", shards())
    assert len(floors(tmp_path / "m")) == 11
    rng = np.random.default_rng(0)
    src = write_raw(tmp_path / "f.safetensors", [("f4", "F4", [64, 64], rng.bytes(2048))])
    assert floors(src)[0].order0 == pytest.approx(4, abs=0.1) and floors(src)[0].stored == 4
