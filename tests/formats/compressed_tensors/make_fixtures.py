"""Writes tests/formats/fixtures/compressed_tensors: small checkpoints by the library itself, in its versions.

    python tests/formats/compressed_tensors/make_fixtures.py            # with compressed-tensors 0.20
    PYTHONPATH=<folder of 0.17.1>:. python .../make_fixtures.py          # likewise 0.13.0 and 0.9.2

Each version writes its own fixtures, and what it decodes them to into decoded.json: name -> dtype, shape, SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme

from arraycodec_conformance import compressed_tensors as oracle
from arraycodec_conformance.oracles import to_torch
from tests.formats.compressed_tensors import library

FIXTURES = Path(__file__).parents[1] / "fixtures" / "compressed_tensors"
NAME = "model.layers.0.mlp.{}_proj"
X = oracle.hashed_input(48, 128)
ODD = oracle.hashed_input(40, 37)
Arrays = library.Arrays


def args(bits: int, **more: Any) -> QuantizationArgs:
    return QuantizationArgs(num_bits=bits, **({"type": "int", "symmetric": True} | more))


def scheme(weights: QuantizationArgs, inputs: QuantizationArgs | None = None, format: str | None = None) -> Any:
    more = {"format": format} if format else {}
    return QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs, **more)


def preset(name: str) -> Any:
    return preset_name_to_scheme(name, ["Linear"])


def current() -> None:
    """One of each format, as 0.20 stores them."""
    small = args(4, symmetric=False, group_size=64)
    made = {
        "w4a16_asym": (scheme(small), "pack-quantized", X),
        "w3a16_odd": (scheme(args(3, symmetric=False, strategy="channel")), "pack-quantized", ODD),
        "w8a8": (preset("W8A8"), "int-quantized", X),
        "fp8": (preset("FP8"), "float-quantized", X),
        "fp8_block": (scheme(args(8, type="float", block_structure=[32, 48], strategy="block"),
                             preset("FP8_BLOCK").input_activations), "float-quantized", X),
        "fp8_naive": (scheme(args(8, type="float", group_size=64)), "naive-quantized", X),
        "nvfp4": (preset("NVFP4"), "nvfp4-pack-quantized", X),
        "mxfp4": (preset("MXFP4A16"), "mxfp4-pack-quantized", X),
        "mxfp6": (preset("MXFP6A16"), "mxfp6-pack-quantized", X),
        "mxfp8": (preset("MXFP8A16"), "mxfp8-quantized", X),
    }  # fmt: skip
    for name, (group, format, x) in made.items():
        group.format = format
        stored, decoded = library.stored(x, group)
        if name in ("fp8", "nvfp4"):  # static scales of activations, which are carried along
            stored["input_scale" if name == "fp8" else "input_global_scale"] = np.ones(1, np.float32)
        write(name, {NAME.format("up"): stored}, library.quantization({"group_0": group}, format), decoded)
    mixed = {"up": preset("W4A16"), "down": preset("FP8_DYNAMIC")}
    groups, modules, decodings = {}, {}, {}
    for i, (projection, group) in enumerate(mixed.items()):
        group.targets, group.format = [f"re:.*{projection}_proj$"], ("pack-quantized", "float-quantized")[i]
        modules[NAME.format(projection)], decodings[projection] = library.stored(X, group)
        groups[f"group_{i}"] = group
    modules["model.layers.0.self_attn"] = {"k_scale": np.ones(1, np.float32), "v_scale": np.ones(1, np.float32)}
    cache = args(8, type="float", strategy="tensor")
    config = library.quantization(groups, "mixed-precision", ignore=["lm_head"], kv_cache_scheme=cache)
    write("mixed", modules, config, *decodings.values())


def padded() -> None:
    """0.17.1: codes that are not split between words, and groups of columns that are not neighbours."""
    for bits in (3, 5):
        group = scheme(args(bits, symmetric=False, group_size=64), format="pack-quantized")
        stored, decoded = library.stored(X, group)
        write(f"padded_w{bits}", {NAME.format("up"): stored}, library.quantization({"group_0": group}, group.format),
              decoded)  # fmt: skip
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    group = scheme(args(4, symmetric=False, group_size=32, actorder="group"), format="pack-quantized")
    g_idx = torch.from_numpy((np.arange(128) * 37 % 128 // 32).astype(np.int32))
    ordered = to_torch(X)[:, torch.argsort(g_idx, stable=True)]
    scale, zero = calculate_qparams(*extremes(ordered, 32), group.weights)
    compressor: Any = BaseCompressor.get_value_from_registry(group.format)
    state = {"weight": to_torch(X), "weight_scale": scale, "weight_zero_point": zero.to(torch.int8)}
    stored = compressor.compress(state | {"weight_g_idx": g_idx}, group)
    decoded = library.of_torch(compressor.decompress(stored, group)["weight"])
    arrays = {name: library.of_torch(value) for name, value in stored.items()}
    write("g_idx", {NAME.format("up"): arrays}, library.quantization({"group_0": group}, group.format), decoded)


def biased() -> None:
    """0.13.0: MXFP4 with scales that are 2 less. It cannot decode them: what they are is its weight, quantised."""
    from compressed_tensors.compressors.quantized_compressors.fp4_quantized import MXFP4PackedCompressor
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    group = preset("MXFP4A16")
    weight, config = to_torch(X), library.quantization({"group_0": group}, "mxfp4-pack-quantized")
    scale, zero = calculate_qparams(*extremes(weight, 32), group.weights)
    compressor: Any = MXFP4PackedCompressor()
    stored = compressor.compress_weight(weight, scale, None, group.weights)
    decoded = library.of_torch(fake_quantize(weight, scale, zero, group.weights))
    arrays = {name: library.of_torch(value) for name, value in stored.items()}
    write("bias_125", {NAME.format("up"): arrays}, config, decoded)


def unpacked() -> None:
    """0.9.2: zero points as int8, and none where all are 0."""
    from compressed_tensors.compressors import PackedQuantizationCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    group = scheme(args(4, symmetric=False, group_size=64))
    compressor: Any = PackedQuantizationCompressor()
    modules, decodings = {}, []
    for projection, weight in (("up", to_torch(X)), ("down", to_torch(X))):
        scale, zero = calculate_qparams(*extremes(weight, 64), group.weights)
        zero = zero.to(torch.int8) if projection == "up" else torch.zeros_like(zero, dtype=torch.int8)
        state = {"m.weight": weight, "m.weight_scale": scale, "m.weight_zero_point": zero}
        stored = compressor.compress(state, {"m": group.weights})
        found = {name.removeprefix("m."): value for name, value in stored.items()}
        decodings.append(library.of_torch(compressor.decompress_weight(dict(found), group.weights)))
        modules[NAME.format(projection)] = {name: library.of_torch(value) for name, value in found.items()}
    write("unpacked_zero_points", modules, library.quantization({"group_0": group}, "pack-quantized"), *decodings)


def extremes(weight: torch.Tensor, group: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The smallest and largest element of each group."""
    groups = weight.unflatten(-1, (-1, group))
    return groups.amin(-1), groups.amax(-1)


def write(name: str, modules: dict[str, Arrays], config: dict[str, Any], *decoded: np.ndarray) -> None:
    """A fixture, and what its weights are."""
    library.save(FIXTURES / name, modules, config)
    path = FIXTURES / "decoded.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {
        f"{module}.weight": [x.dtype.name, list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()]
        for module, x in zip(modules, decoded, strict=False)
    }
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


WRITERS: dict[str, Callable[[], None]] = {"0.20.0": current, "0.17.1": padded, "0.13.0": biased, "0.9.2": unpacked}

if __name__ == "__main__":
    WRITERS[version("compressed-tensors")]()
