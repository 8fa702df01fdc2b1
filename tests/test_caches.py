"""Caches of keys and values: what is appended equals what is encoded at once, bit for bit, on every framework."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec import reference, registry
from arraycodec.base import Codec
from arraycodec.spec import spec_of
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.compressed_tensors import hashed_input, sha

SHAPE = (2, 3, 16, 64)  # batch, heads, positions, width
HEADS = np.array([0.01, 0.02, 0.005], np.float32).reshape(3, 1, 1)
FLOAT8 = "float8_e4m3fn"
FOREIGN: dict[str, Any] = {"flavour": "compressed-tensors", "arithmetic": "eager"}
# Scales per token, found anew; and shared by all positions, given: per head, per channel of a head, per tensor.
CODECS: dict[str, tuple[Codec, dict[str, Any]]] = {
    "int8 per token": (ac.Linear(8, block_size=(1, None)), {}),
    "int8 per head": (ac.Linear(8, block_size=(None, None)), {"scales": HEADS}),
    "int8 per channel": (ac.Linear(8, block_size=(None, 1)), {"scales": np.full((3, 1, 64), 0.03, np.float32)}),
    "int8 with zero points": (
        ac.Linear(8, False, block_size=None),
        {"scales": np.array([0.02], np.float32), "zero_points": np.array([7], np.int8)},
    ),
    "fp8 per token": (ac.Minifloat(FLOAT8, block_size=(1, None)), {}),
    "fp8 per head": (ac.Minifloat(FLOAT8, block_size=(None, None)), {"scales": HEADS}),
    "fp8 per tensor": (ac.Minifloat(FLOAT8, block_size=None), {"scales": np.float32(0.01)}),
    "fp8 cast": (ac.Minifloat("float8_e5m2", scaled=False), {}),
    "int4 groups": (ac.Linear(4, False, block_size=(1, 32)), {}),
    "int4 per tensor": (ac.Linear(4, block_size=None), {"scales": np.float32(0.5)}),
    "nf4": (ac.codec("nf4"), {}),
    "nf4 per tensor": (ac.Codebook("nf4", block_size=None), {"absmax": np.float32(3)}),
    "nvfp4": (ac.codec("nvfp4"), {"global_scale": np.array([100], np.float32)}),
}
PIECES = ((0, 5), (5, 6), (6, 16))  # a prompt, a token, more


def keys(dtype: str = "bfloat16") -> np.ndarray:
    return hashed_input(2 * 3 * 16, 64, dtype).reshape(SHAPE)


def at_once(x: np.ndarray, codec: Codec, given: dict[str, np.ndarray]) -> ac.Encoded:
    specs = codec.planes(spec_of(x))
    return ac.encode(x, codec, given={n: np.broadcast_to(g, specs[n].known_shape) for n, g in given.items()})


def compare(cache: ac.Encoded, want: ac.Encoded, what: str) -> None:
    numpy = {name: registry.backend(type(plane)).to_numpy(plane) for name, plane in cache.planes.items()}
    for name, plane in want.planes.items():
        same_bits(numpy[name], plane, f"{what}: {name}")
    decoded = ac.decode(cache)
    same_bits(registry.backend(type(decoded)).to_numpy(decoded), ac.decode(want), f"{what}: decoded")


def part(x: np.ndarray, start: int, stop: int, framework: str) -> Any:
    return registry.framework(framework).from_numpy(np.ascontiguousarray(x[:, :, start:stop]))


TRACED = ("int8 per token", "fp8 per head", "int4 groups")
ALL = [
    pytest.param(
        name, framework, marks=[pytest.mark.level("full")] if framework == "jax" and name not in TRACED else []
    )
    for name in CODECS
    for framework in ("numpy", "torch", "jax")
]


@pytest.mark.parametrize(("name", "framework"), ALL)
def test_appended_equals_encoded_at_once(name: str, framework: str) -> None:
    if framework != "numpy":
        pytest.importorskip(framework)
    (codec, given), x = CODECS[name], keys()
    cache, want = ac.kv_cache(spec_of(x), codec, given=given, framework=framework), at_once(x, codec, given)
    compare(cache, at_once(np.zeros_like(x), codec, given), "an empty cache")
    assert not registry.framework(framework).to_numpy(ac.decode(cache)).any()
    for start, stop in PIECES:
        cache = ac.append(cache, part(x, start, stop, framework), start)
        filled, head = ac.tokens(cache, 0, stop), np.ascontiguousarray(x[:, :, :stop])
        compare(filled, at_once(head, codec, given), f"{name}, {stop} tokens")
    compare(cache, want, name)
    compare(ac.append(cache, part(x, 5, 9, framework), 5), want, f"{name}, written again")


@pytest.mark.parametrize("name", TRACED)
def test_jax_traces_the_position(name: str) -> None:
    """One program for all positions, in place where the old cache is donated; positions of their own by vmap."""
    jax = pytest.importorskip("jax")
    (codec, given), x = CODECS[name], keys()
    step = jax.jit(lambda *arguments: ac.append(*arguments), donate_argnums=0)
    cache = ac.kv_cache(spec_of(x), codec, given=given, framework="jax")
    for start in range(0, 16, 4):
        cache = step(cache, part(x, start, start + 4, "jax"), start)
    assert step._cache_size() == 1
    compare(cache, at_once(x, codec, given), name)

    empty = ac.kv_cache(ac.ArraySpec(SHAPE[1:], "bfloat16"), codec, given=given, framework="jax")
    one = jax.vmap(ac.append, in_axes=(None, 0, 0))(empty, part(x, 0, 4, "jax"), jax.numpy.array([12, 3]))
    decoded, plain = ac.decode(one), ac.decode(at_once(np.ascontiguousarray(x[:, :, :4]), codec, given))
    for row, start in enumerate((12, 3)):
        same_bits(np.asarray(decoded)[row, :, start : start + 4], plain[row], f"{name}: sequence {row}")


def test_a_cache_is_made_with_known_scales() -> None:
    """Within a program too; scales without values say that they have none."""
    jax = pytest.importorskip("jax")
    spec, codec = spec_of(keys()), ac.Linear(4, block_size=None)

    def make(given: dict[str, Any]) -> ac.Encoded:
        return ac.kv_cache(spec, codec, given=given, framework="jax")

    scale = np.array([0.5], np.float32)
    compare(jax.jit(lambda: make({"scales": scale}))(), at_once(np.zeros_like(keys()), codec, {"scales": scale}), "jit")
    with pytest.raises(ac.UnsupportedByBackend, match="a traced array has no values"):
        jax.eval_shape(make, {"scales": scale})


@pytest.mark.parametrize("name", ["int8 per token", "fp8 per head"])
def test_torch_compiles_with_the_position_unknown(name: str) -> None:
    torch = pytest.importorskip("torch")
    (codec, given), x = CODECS[name], keys()
    programs = []
    step = torch.compile(ac.append, fullgraph=True, backend=lambda graph, _: programs.append(graph) or graph.forward)
    want = at_once(x, codec, given)
    for as_tensor in (True, False):
        cache = ac.kv_cache(spec_of(x), codec, given=given, framework="torch")
        memory = cache.planes["codes"].data_ptr()
        for start in range(0, 16, 4):
            cache = step(cache, part(x, start, start + 4, "torch"), torch.tensor(start) if as_tensor else start)
        compare(cache, want, name)
        assert cache.planes["codes"].data_ptr() == memory, "in place"
    assert len(programs) <= 4, "one for tensors; for integers: 0, one number, any number"


# -- compressed-tensors: codes and decoded values of its static FP8 and int8 caches, by a scale or one for each head

GOLDEN = {
    ("float", "tensor"): ("63fe7e57bd2b b2eee68a41b4", "0286756b9acb a4e8a13dc732", "3d5a1a5863a7 5bd2fe0e2fdf"),
    ("float", "attn_head"): ("d728f3698327 624288f2eb38", "bf5db01491b5 e3381fe7d8f6", "5380adf03e58 a631ee5cd838"),
    ("int", "tensor"): ("bacb9f8ceee0 0b6786a97e66", "bf6053962082 cc1ae0f76d8c", "1db978bb551f 0308f3726a84"),
    ("int", "attn_head"): ("fca91ef063a2 cb4097fc2ba8", "5c0160cc7a45 af91f2051202", "fe124cb27441 c4c4c3d42784"),
}


@pytest.mark.parametrize(("number", "strategy"), GOLDEN)
def test_static_caches_equal_those_of_compressed_tensors(number: str, strategy: str) -> None:
    for dtype, golden in zip(("float32", "bfloat16", "float16"), GOLDEN[number, strategy], strict=True):
        x, block_size = keys(dtype), None if strategy == "tensor" else (None, None)
        make = ac.Minifloat if number == "float" else ac.Linear
        codec = make(block_size=block_size, **FOREIGN)
        # A scale for the whole, or for each head of all sequences, as a calibration finds them.
        heads = np.ascontiguousarray(x.swapaxes(0, 1)).reshape(3, -1, 64)
        cache = ac.kv_cache(spec_of(x), codec, given={"scales": ac.encode(heads, codec).planes["scales"]})
        for start, stop in PIECES:
            cache = ac.append(cache, part(x, start, stop, "numpy"), start)
        codes, decoded = cache.planes["codes"], ac.decode(cache)
        assert f"{sha(codes)} {sha(decoded)}" == golden, dtype
        if (theirs := theirs_of(x, number, strategy, cache.planes["scales"])) is not None:
            same_bits(codes, theirs[0], f"{dtype}: codes")
            same_bits(decoded, theirs[1], f"{dtype}: decoded")


def theirs_of(x: np.ndarray, number: str, strategy: str, scales: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """What compressed-tensors makes of it, where it is installed."""
    try:
        from compressed_tensors.quantization import QuantizationArgs
        from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    except ImportError:
        return None
    import torch

    from arraycodec_torch import from_numpy, to_numpy

    scale = from_numpy(np.ascontiguousarray(scales if strategy == "tensor" else scales[0]))
    args = QuantizationArgs(num_bits=8, type=number, strategy=strategy, symmetric=True)
    dtype, zero = torch.float8_e4m3fn if number == "float" else torch.int8, torch.zeros_like(scale)
    codes = quantize(from_numpy(x), scale, zero, args, dtype=dtype)
    return to_numpy(codes), to_numpy(dequantize(codes, scale, zero, args))


# -- what does not fit


@pytest.mark.parametrize(
    ("codec", "given", "message"),
    [
        ("int8-channel", {"scales": HEADS}, r"given must hold \[\], which all positions share, got \['scales'\]"),
        (ac.Linear(8, block_size=None), {}, r"given must hold \['scales'\], which all positions share, got \[\]"),
        (ac.Linear(8, block_size=(16, None)), {}, "blocks must lie within a row .* plane 'scales'"),
        (ac.Linear(8, block_size=100), {}, "blocks must lie within a row"),
        ("fp8", {}, r"blocks must lie within a row .*, such as Linear\(8, block_size=\(1, None\)\), or all positions"),
        ("nf4-double", {}, "blocks must lie within a row and rows be whole bytes, .* plane 'codes'"),
        (ac.LLMInt8(threshold=6.0), {}, "blocks must lie within a row .* plane 'outlier_columns'"),
        (ac.Linear(8, block_size=None), {"scales": np.ones(2, np.float32)}, r"'scales' must be float32\[1\] or broad"),
        (ac.Linear(8, block_size=None), {"scales": np.ones(1)}, r"must be float32\[1\] .*, got float64\[1\]"),
        (
            ac.Linear(8, block_size=None),
            {"scales": 0.1},
            "'scales' must be an array or a NumPy scalar of float32, got fl",
        ),
        (ac.Linear(8, block_size=None), {"scales": [0.1]}, "'scales' must be an array .*, got list"),
    ],
)
def test_bad_caches(codec: Any, given: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ac.ArgumentError, match=f"kv_cache: .*{message}"):
        ac.kv_cache(ac.ArraySpec((2, 3, 64, 60), "float32"), codec, given=given)


def test_scalars_are_given_as_numpy_has_them() -> None:
    for scale in (np.float32(0.1), np.array(0.1, np.float32)):
        cache = ac.kv_cache(ac.ArraySpec((4, 64), "float32"), ac.Linear(8, block_size=None), given={"scales": scale})
        same_bits(cache.planes["scales"], np.array([0.1], np.float32), "scales")


def test_bad_specs_and_tokens() -> None:
    for spec in ((1, 4, 64, 32), None, np.zeros((4, 64), np.float32)):
        with pytest.raises(ac.ArgumentError, match=r"kv_cache: spec must be an ArraySpec, as ArraySpec.*, got"):
            ac.kv_cache(spec, "int8-channel")  # type: ignore[arg-type]
    for shape in ((64,), (2, 0, 64), (2, 64, 0)):
        with pytest.raises(ac.ArgumentError, match=r"kv_cache: spec must be \(..., positions, width\)"):
            ac.kv_cache(ac.ArraySpec(shape, "float32"), "int8-channel")
    cache = ac.kv_cache(ac.ArraySpec(SHAPE, "float16"), "int8-channel")
    x = keys("float16")
    for bad in (x[:, :2], x[..., :32], x[0], x.astype(np.float32), x[:, :, :0]):
        with pytest.raises(ac.ArgumentError, match=r"append: x must be float16\[2, 3, tokens, 64\], got"):
            ac.append(cache, np.ascontiguousarray(bad), 0)
    for position in (-1, 13, np.int64(16)):
        with pytest.raises(ac.ArgumentError, match="append: position must be from 0 to 12 for 4 of 16 positions"):
            ac.append(cache, x[:, :, :4], position)
    for start, stop in ((0, 0), (3, 2), (-1, 4), (0, 17)):
        with pytest.raises(ac.ArgumentError, match="tokens: must be 0 <= start < stop <= 16"):
            ac.tokens(cache, start, stop)
    torch = pytest.importorskip("torch")
    with pytest.raises(ac.ArgumentError, match="append: x must be of the cache's framework numpy, got torch"):
        ac.append(cache, torch.from_numpy(x), 0)
    own = ac.kv_cache(cache.spec, cache.codec, framework="torch")
    with pytest.raises(IndexError):
        ac.append(own, torch.from_numpy(x[:, :, :4]), torch.tensor(13))
    with pytest.raises(ac.ArgumentError, match="append: x must be on the cache's device meta, got cpu"):
        ac.append(ac.kv_cache(cache.spec, cache.codec, framework="torch", device="meta"), torch.from_numpy(x), 0)
    with pytest.raises(ac.NonFiniteError):
        ac.append(cache, np.full_like(x, np.nan), 0)
    assert not cache.planes["codes"].any(), "nothing was written"


def test_a_backend_without_put_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ac.kv_cache(ac.ArraySpec((4, 64), "float32"), "int8-channel")
    monkeypatch.delattr(reference, "put")
    with pytest.raises(ac.UnsupportedByBackend, match="append: the numpy backend cannot write into planes"):
        ac.append(cache, np.ones((2, 64), np.float32), 0)


def test_a_cache_is_an_encoded(tmp_path: Any) -> None:
    x = keys("float32")
    cache = ac.append(ac.kv_cache(spec_of(x), "int8-channel"), x, 0)
    ac.save_file({"keys": cache}, tmp_path / "cache.safetensors")
    same_bits(ac.load_file(tmp_path / "cache.safetensors")["keys"], ac.decode(cache), "loaded")
    assert cache.nbytes < 0.27 * x.nbytes
