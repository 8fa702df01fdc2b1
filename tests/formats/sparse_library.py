"""compressed-tensors 0.14 at work on sparse weights; run as a program of its own, since tests have a later version.

    PYTHONPATH=<folder of 0.14>:. python tests/formats/sparse_library.py FOLDER     # what `peer` does
    PYTHONPATH=<folder of 0.14>:. python tests/formats/sparse_library.py            # writes the fixtures

In FOLDER, `plain.F.safetensors` is stored in the format F as `stored.F.safetensors`, and what the library decodes of
this and of `ours.F.safetensors` is written to `decoded.stored.F.safetensors` and `decoded.ours.F.safetensors`.
Checkpoints are folders with `expected.json`: name -> dtype, shape and SHA-256 of the weights that they decode to.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parent / "fixtures" / "sparse"
FORMATS = ("sparse-bitmask", "sparse-24-bitmask")
VARIABLE = "COMPRESSED_TENSORS_014"  # the folder that `pip install --no-deps --target` filled with 0.14.0.1
MODULE = "model.layers.0.mlp.up_proj"


def peer(folder: Path) -> None:
    """Run the library, in a process of its own, on a folder."""
    path = os.pathsep.join([os.environ[VARIABLE], str(Path(__file__).parents[2])])
    done = subprocess.run(
        [sys.executable, __file__, str(folder)], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def compress(folder: Path) -> None:
    """Files in the formats of sparse weights, both ways."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.config import SparsityCompressionConfig
    from safetensors.torch import load_file, save_file

    for format in FORMATS:  # its save_compressed forgets the config
        config: Any = SparsityCompressionConfig.load_from_registry(format)
        compressor: Any = BaseCompressor.load_from_registry(format, config=config)
        if (plain := folder / f"plain.{format}.safetensors").exists():
            save_file(compressor.compress(load_file(plain)), folder / f"stored.{format}.safetensors")
        for who in ("stored", "ours"):
            if (path := folder / f"{who}.{format}.safetensors").exists():
                decoded = {name: tensor.contiguous() for name, tensor in compressor.decompress(path)}
                save_file(decoded, folder / f"decoded.{who}.{format}.safetensors")


def pruned(rows: int, columns: int, dtype: Any, seed: int = 0) -> Any:
    """A random matrix, 2:4 sparse, in which some groups have less than two elements that are not zero."""
    import torch

    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).reshape(-1, 4)
    x = torch.zeros_like(x).scatter_(1, (best := x.abs().topk(2, dim=1)).indices, x.gather(1, best.indices))
    x[::7] = 0
    x[1::7, :3] = 0
    return x.reshape(rows, columns).to(dtype)


def checkpoint(
    folder: Path, bits: int, kind: str, strategy: str, format: str, sparsity: str | None, shape: tuple[int, int],
    dtype: str = "bfloat16", seed: int = 0,
) -> None:  # fmt: skip
    """A folder with one linear layer, quantised and then stored sparse, as the library does it."""
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.config import SparsityCompressionConfig
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme
    from compressed_tensors.quantization.lifecycle.forward import dequantize, quantize
    from safetensors.torch import save_file

    group = 128 if strategy == "group" else None
    args: Any = QuantizationArgs(num_bits=bits, type=kind, symmetric=True, strategy=strategy, group_size=group)
    scheme: Any = QuantizationScheme(targets=["Linear"], weights=args)
    weight = pruned(*shape, getattr(torch, dtype), seed)
    tiles = weight.reshape(shape[0], -1, group or shape[1]).abs().amax(-1)
    scale = (tiles.float() / (448 if kind == "float" else 2 ** (bits - 1) - 0.5)).to(weight.dtype)
    zero = torch.zeros_like(scale, dtype=torch.int8)
    state = {f"{MODULE}.weight": weight, f"{MODULE}.weight_scale": scale, "model.norm.weight": torch.ones(4)}
    if format == "marlin-24":
        state[f"{MODULE}.weight_zero_point"] = zero
    config: Any = QuantizationConfig(config_groups={"group_0": scheme}, format=format, quantization_status="compressed")
    compressor: Any = BaseCompressor.load_from_registry(format, **({} if format == "marlin-24" else {"config": config}))
    state = compressor.compress(state, names_to_scheme={MODULE: scheme})
    codes = quantize(weight, scale, zero if kind == "int" else None, args, dtype=args.pytorch_dtype())
    described = {}
    if sparsity:
        about: Any = SparsityCompressionConfig.load_from_registry(sparsity, targets=["Linear"])
        sparse: Any = BaseCompressor.load_from_registry(sparsity, config=about)
        state = sparse.compress(state, compression_targets={MODULE})
        codes = dict(sparse.decompress_from_state_dict(state))[
            f"{MODULE}.weight"
        ]  # of 2:4 codes it loses those of -128
        described = about.model_dump()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    weight = dequantize(codes, scale, args=args).contiguous()
    digest = hashlib.sha256(weight.view(torch.uint8).numpy().tobytes()).hexdigest()
    expected = {f"{MODULE}.weight": [str(weight.dtype).removeprefix("torch."), [*weight.shape], digest]}
    (folder / "expected.json").write_text(json.dumps(expected))
    head = {"version": "0.14.0.1", "quant_method": "compressed-tensors", "sparsity_config": described}
    about = {"torch_dtype": dtype, "quantization_config": head | config.model_dump(exclude=["quant_method"])}
    (folder / "config.json").write_text(json.dumps(about, indent=2, sort_keys=True))


# The arguments of `checkpoint`.
CHECKPOINTS: dict[str, tuple[Any, ...]] = {
    "fp8_24": (8, "float", "channel", "float-quantized", FORMATS[1], (16, 40)),
    "int8_24": (8, "int", "channel", "int-quantized", FORMATS[1], (8, 36)),
    "int8_bitmask": (8, "int", "group", "int-quantized", FORMATS[0], (5, 256)),
    "int4_bitmask": (4, "int", "channel", "int-quantized", FORMATS[0], (6, 20)),
    "marlin_4": (4, "int", "group", "marlin-24", None, (64, 384), "float16"),
    "marlin_8": (8, "int", "channel", "marlin-24", None, (64, 96), "float16"),
}


def fixtures() -> None:
    """The committed fixtures."""
    import torch
    from safetensors.torch import save_file

    for name, how in CHECKPOINTS.items():
        checkpoint(FIXTURES / name, *how)
    for format in FORMATS:
        wide = 40 if format == FORMATS[1] else 37  # rows of whole groups, or ragged ones
        dtypes = (torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn, torch.int8)
        tensors = {
            f"{str(dtype)[6:]}.weight": pruned(6, 40, torch.float32)[:, :wide].mul(9).to(dtype) for dtype in dtypes
        }
        tensors |= {"zeros.weight": torch.zeros(3, 12), "step": torch.tensor([7])}
        if format == FORMATS[0]:
            odd = torch.tensor([[0.0, -0.0, float("nan"), float("-inf")], [-0.0, 1e-40, 0.0, 0.0]])
            cube = pruned(6, 8, torch.float32).reshape(2, 3, 8)
            tensors |= {"odd.weight": odd, "cube.weight": cube, "norm.weight": torch.tensor([0.0, 1.0, 0.0])}
        save_file(tensors, FIXTURES / f"plain.{format}.safetensors")
    compress(FIXTURES)
    for path in FIXTURES.rglob("*.safetensors"):
        path.chmod(0o644)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        compress(Path(sys.argv[1]))
        for name, how in json.loads(Path(sys.argv[1], "checkpoints.json").read_text()).items():
            checkpoint(Path(sys.argv[1]) / name, *how)
    else:
        fixtures()
