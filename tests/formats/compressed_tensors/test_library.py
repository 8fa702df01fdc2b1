"""Reading against compressed-tensors 0.20 itself: its presets, its reading of configs, its matching, its decoding."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.compressed_tensors.args import Args, Scheme
from arraycodec.formats.compressed_tensors.presets import PRESETS, preset
from arraycodec.formats.compressed_tensors.resolve import Quantization
from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.strategies import Recipe
from tests.codecs.peers import needs
from tests.formats.compressed_tensors import library

pytestmark = [pytest.mark.level("full"), needs("compressed_tensors")]

DTYPES = ("bfloat16", "float16", "float32")
MODULE = "model.layers.0.mlp.up_proj"


# -- configs


def test_presets_are_the_librarys() -> None:
    import torch
    from compressed_tensors.compressors.format import infer_module_format
    from compressed_tensors.quantization import preset_name_to_scheme
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    assert set(PRESETS) == set(PRESET_SCHEMES)
    for name in PRESETS:
        theirs = preset_name_to_scheme(name, ["Linear"])
        ours = preset(name, ("Linear",))
        assert json.dumps(ours.to_json()) == json.dumps(theirs.model_dump())  # in the same order too
        assert Scheme.from_json(json.loads(json.dumps(theirs.model_dump())), name) in (
            ours, Scheme.from_json(ours.to_json(), name),
        )  # fmt: skip
        assert ours.stored_format() == infer_module_format(torch.nn.Linear, theirs).value


MEMBERS: dict[str, tuple[Any, ...]] = {
    "num_bits": (2, 4, 6, 8, 16), "type": ("int", "float", "INT", "text"), "symmetric": (True, False),
    "group_size": (None, -1, -3, 16, 32, 128),
    "strategy": (None, "tensor", "channel", "group", "block", "token", "tensor_group", "attn_head", "Group"),
    "block_structure": (None, [128, 128], "16x8", [1], [0, 4]), "dynamic": (True, False, "local"),
    "actorder": (None, False, "weight", "static"), "scale_dtype": (None, "torch.uint8", "float8_e4m3fn", "u8"),
    "zp_dtype": (None, "torch.int8"), "observer": (None, "minmax"), "observer_kwargs": ({}, {"a": 1}),
    "bits": (4,),
}  # fmt: skip


def test_args_are_read_as_the_library_reads_them() -> None:
    """What it refuses is refused; of what it takes, the same is written again."""
    from compressed_tensors.quantization import QuantizationArgs

    rng, taken = random.Random(0), 0
    for _ in range(20_000):
        keys = rng.sample(sorted(MEMBERS), rng.randrange(7))
        if rng.random() < 0.9:
            keys = [key for key in keys if key != "bits"]
        data = {key: rng.choice(MEMBERS[key]) for key in keys}
        try:
            theirs = json.dumps(QuantizationArgs(**data).model_dump())
        except (ValueError, NotImplementedError):
            theirs = None
        try:
            ours = json.dumps(Args.from_json(data, "args").to_json())
        except ac.FormatError:
            ours = None
        if data.get("type") == "float" and data.get("num_bits") in (2, 16) and ours:
            continue  # it has no dtype for their zero points, and we no codec for them
        assert ours == theirs, data
        taken += ours is not None
    assert taken > 3_000


def test_configs_are_written_as_the_library_writes_them() -> None:
    from compressed_tensors.quantization import QuantizationConfig

    for name in PRESETS:
        for more in ({}, {"ignore": ["lm_head", "re:.*gate$"]}, {"kv_cache_scheme": {"num_bits": 8, "type": "float"}}):
            theirs = library.quantization({"group_0": QuantizationConfig(config_groups={name: ["Linear"]})
                                           .config_groups[name]}, "pack-quantized", **more)  # fmt: skip
            ours = Quantization.from_json(json.loads(json.dumps(theirs)), name).to_json()
            assert json.dumps(ours) == json.dumps(theirs)


def test_targets_are_matched_as_the_library_matches_them() -> None:
    import torch
    from compressed_tensors.utils.match import is_match, match_targets

    rng, classes = random.Random(0), {"Linear": torch.nn.Linear(1, 1), "Embedding": torch.nn.Embedding(1, 1)}
    words = ["model", "layers", "0", "mlp", "up_proj", "lm_head", "attn"]
    found = 0
    for _ in range(3_000):
        module, kind = ".".join(rng.choices(words, k=rng.randrange(1, 4))), rng.choice(list(classes))
        pool = [
            module,
            "Linear",
            "Embedding",
            *words,
            f"re:.*{rng.choice(words)}.*",
            f"re:{rng.choice(words)}",
            "re:.*",
        ]
        targets, ignore = rng.sample(pool, 4), rng.sample(pool, rng.randrange(2))
        groups = {t: {"targets": [t], "weights": {"num_bits": i + 1}} for i, t in enumerate(dict.fromkeys(targets))}
        scheme = Quantization.from_json({"config_groups": groups, "ignore": ignore}, "c").scheme_of(module, kind)
        want = match_targets(module, classes[kind], list(groups))
        if not want or is_match(module, classes[kind], ignore):
            assert scheme is None
        else:
            assert scheme is not None and scheme.targets == (want[0],)
            found += 1
    assert found > 500


# -- decoding


def arrays(dtype: str, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """Finite arrays of several distributions and exponents."""
    yield "hashed", oracle.hashed_input(shape[0], shape[1], dtype)
    for distribution in ("normal", "cauchy", "sparse", "ties", "bits"):
        for exponent in (0, -6, -60, 60) if dtype != "float16" else (0, -6, -10):
            x = Recipe(shape, dtype, distribution, exponent, 1).array()
            with np.errstate(invalid="ignore", over="ignore"):
                finite = np.abs(x.astype(np.float32)) < (2.0**15 if dtype == "float16" else 2.0**100)
            yield f"{distribution} 2^{exponent}", np.where(finite, x, x.dtype.type(0))


def usable(decoded: np.ndarray, stored: library.Arrays) -> np.ndarray[Any, Any]:
    """The elements of the domain: a scale of at least 2^-100 that is no float8 zero, and no subnormal result."""
    scales = stored["weight_scale"]
    wide = np.ldexp(1.0, scales.astype(int) - 127) if scales.dtype == np.uint8 else scales.astype(np.float64)
    inside = wide >= 2.0**-100
    tiles = inside.reshape(-1, *inside.shape[-1:]) if inside.size > 1 else inside.reshape(1, 1)
    rows, columns = decoded.shape
    spread = tiles.repeat(-(-rows // len(tiles)), 0)[:rows].repeat(-(-columns // tiles.shape[1]), 1)[:, :columns]
    size = np.abs(decoded.astype(np.float64))
    return spread & ((size == 0) | (size >= 2.0**-126))


def check(folder: Path, scheme: Any, dtype: str, shape: tuple[int, ...], module: str = MODULE) -> int:
    """Read what the library stores for many arrays; how many elements were compared."""
    from compressed_tensors.compressors.format import infer_module_format
    from torch.nn import Linear

    format, count = scheme.format or infer_module_format(Linear, scheme).value, 0
    for what, x in arrays(dtype, shape):
        stored, decoded = library.stored(x, scheme)
        library.save(folder, {module: stored}, library.quantization({"group_0": scheme}, format), dtype)
        with ac.open_checkpoint(folder) as model:
            encoded = model[f"{module}.weight"].encoded()
        got = ac.decode(encoded, dtype=decoded.dtype.name)  # float4 and powers of two it decodes to bfloat16 always
        inside = usable(decoded, stored)
        same_bits(got[inside], decoded[inside], f"{format} {dtype} {what}")
        count += int(inside.sum())
    return count


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "UNQUANTIZED"])
def test_presets_decode_to_the_same_bits(name: str, dtype: str, tmp_path: Path) -> None:
    from compressed_tensors.quantization import preset_name_to_scheme

    assert check(tmp_path, preset_name_to_scheme(name, ["Linear"]), dtype, (40, 256)) > 100_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group", "block"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_integers_decode_to_the_same_bits(
    bits: int, symmetric: bool, strategy: str, dtype: str, tmp_path: Path
) -> None:
    """Every width and strategy, in words and one to a byte; of 37 columns where the strategy lets them be."""
    weights: dict[str, Any] = {"num_bits": bits, "symmetric": symmetric, "strategy": strategy}
    weights |= {"group_size": 16} if strategy == "group" else {}
    weights |= {"block_structure": [16, 8]} if strategy == "block" else {}
    for format in ("pack-quantized", "int-quantized", "naive-quantized"):
        if strategy == "block" and format == "pack-quantized":
            continue  # its compressor has no room for blocks that stick out
        scheme = _scheme(weights, format)
        assert check(tmp_path, scheme, dtype, (40, 37 if strategy != "group" else 48)) > 5_000


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group", "block"])
def test_floats_decode_to_the_same_bits(strategy: str, dtype: str, tmp_path: Path) -> None:
    weights: dict[str, Any] = {"num_bits": 8, "type": "float", "strategy": strategy}
    weights |= {"group_size": 16} if strategy == "group" else {}
    weights |= {"block_structure": [16, 8]} if strategy == "block" else {}
    for format in ("float-quantized", "naive-quantized"):
        assert check(tmp_path, _scheme(weights, format), dtype, (40, 37 if strategy != "group" else 48)) > 5_000


def test_stacked_experts_decode_to_the_same_bits(tmp_path: Path) -> None:
    """Three axes: it packs one matrix after the other, and cannot decode; so each is decoded by itself."""
    import torch
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    for bits in (3, 4, 8):
        scheme = _scheme({"num_bits": bits, "symmetric": False, "group_size": 16}, "pack-quantized")
        experts = [library.stored(oracle.hashed_input(40, 48) * (1 + i), scheme) for i in range(3)]
        stacked = {name: np.stack([stored[name] for stored, _ in experts]) for name in experts[0][0]}
        stacked["weight_shape"] = np.array([3, 40, 48])
        q = np.random.default_rng(0).integers(0, 2, (3, 40, 48)).astype(np.int8)
        assert pack_to_int32(torch.from_numpy(q), bits).shape == stacked["weight_packed"].shape
        config = library.quantization({"group_0": scheme}, "pack-quantized")
        library.save(tmp_path, {MODULE: stacked}, config)
        with ac.open_checkpoint(tmp_path) as model:
            same_bits(model[f"{MODULE}.weight"].decode(), np.stack([decoded for _, decoded in experts]), str(bits))


def _scheme(weights: dict[str, Any], format: str) -> Any:
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights), format=format)
