"""Run the launcher of the Triton kernels on CPU tensors, with the PTX interpreter in place of a GPU.

`Emulated` stands in for the module of kernels: a launch compiles the kernel ahead of time, as Triton's own launcher
would for these arguments, and executes the PTX. So grids, arguments and constants are the real ones.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.spec import ArraySpec, numpy_dtype
from arraycodec_conformance import ptx
from arraycodec_conformance.compare import same_bits
from arraycodec_torch import IMPLEMENTATIONS, from_numpy, to_numpy, triton_codebook
from arraycodec_torch.kernels import codebook as kernels

TARGETS = ("sm_80", "sm_90", "sm_100")
TYPES = {torch.uint8: "*u8", torch.uint16: "*u16", torch.uint32: "*u32", torch.float32: "*fp32"}
Edit = Callable[[ptx.Compiled], ptx.Compiled]
NUMPY = {dtype: numpy_dtype(str(dtype).removeprefix("torch.")) for dtype in TYPES}


class Emulated:
    """A module of kernels whose launches are compiled for `target` and interpreted; `edit` changes the PTX."""

    compiled: ClassVar[dict[Any, ptx.Compiled]] = {}  # shared, since compiling is what takes time

    def __init__(self, module: ModuleType, target: str, edit: Edit | None = None) -> None:
        self.module, self.target, self.edit = module, target, edit

    def __getattr__(self, name: str) -> Launcher:
        return Launcher(self, getattr(self.module, name))

    def launch(self, kernel: Any, grid: tuple[int], named: dict[str, Any], options: dict[str, Any]) -> None:
        """What `kernel[grid](**named, **options)` does on a GPU."""
        memory, arguments, outputs = ptx.Memory(), [], []
        for name, value in named.items():
            if not isinstance(value, torch.Tensor):
                arguments.append(value)
            elif name in written(kernel):
                arguments.append(memory.alloc(value.numel(), NUMPY[value.dtype], name))
                outputs.append((value, arguments[-1]))
            else:
                arguments.append(memory.put(value.numpy(), name))
        self.compile(kernel, named, options).run(memory, grid[0], arguments)
        for value, pointer in outputs:
            result = memory.get(pointer, NUMPY[value.dtype], value.numel())  # faults where nothing was written
            value.view(-1).copy_(torch.from_numpy(result))

    def compile(self, kernel: Any, named: dict[str, Any], options: dict[str, Any]) -> ptx.Compiled:
        """As Triton's launcher specialises: 64-bit integers where needed, and multiples of 16 known to be such."""
        types = {
            name: TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i64" if value >= 2**31 else "i32"
            for name, value in named.items()
        }
        whole = [name for name, value in named.items() if isinstance(value, int) and value % 16 == 0]
        constants = {name: value for name, value in options.items() if name.isupper()}
        others = {name: value for name, value in options.items() if not name.isupper()}
        key = kernel.fn, self.target, str(types), str(whole), str(options)
        if key not in self.compiled:
            self.compiled[key] = ptx.compile(kernel, types, constants, target=self.target, divisible=whole, **others)
        found = self.compiled[key]
        return self.edit(found) if self.edit else found


class Launcher:
    """`kernel[grid](*args, **options)`."""

    def __init__(self, emulated: Emulated, kernel: Any) -> None:
        self.emulated, self.kernel = emulated, kernel

    def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
        names = self.kernel.arg_names
        return lambda *args, **options: self.emulated.launch(
            self.kernel, grid, dict(zip(names, args, strict=False)), options
        )


def written(kernel: Any) -> set[str]:
    """The arguments that a kernel writes, all of whose bytes it must write."""
    if kernel.__name__ == "encode_blocks":
        return {"absmax", "codes"}
    return {"codes"} if kernel.__name__ == "encode_elements" else {"found", "out"}


@contextlib.contextmanager
def emulated(module: ModuleType | None = None, target: str = "sm_90", edit: Edit | None = None) -> Iterator[Any]:
    """The triton implementation, on CPU tensors, with its kernels (or those of `module`) run by the PTX interpreter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_codebook, "kernels", Emulated(module or kernels, target, edit))
        patch.setattr(triton_codebook, "_check_device", lambda codec, device: None)
        yield IMPLEMENTATIONS["triton"]


def compare(how: Any, codec: Any, x: np.ndarray, given: Planes | None = None, dtype: str | None = None) -> None:
    """Encode and decode here and in the reference, and require the same bits."""
    given, spec = given or {}, ArraySpec(x.shape, dtype or x.dtype.name)
    want = codec.encode(x, given)
    planes = how.encode(from_numpy(x), codec, {name: from_numpy(plane) for name, plane in given.items()})
    for name, plane in want.items():
        same_bits(to_numpy(planes[name]), plane, f"{codec}: {name}", x)
    decoded = how.decode(codec, {name: from_numpy(plane) for name, plane in want.items()}, spec, {})
    same_bits(to_numpy(decoded), codec.decode(want, spec), f"{codec}: decoded", x)


def sample(n: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Weights with zero, subnormal, huge and non-finite blocks among them."""
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        x = (rng.standard_normal(n) * 0.02).astype(np.float32)
        for k, start in enumerate(range(0, n - 64, max(64, n // 12 // 64 * 64))):
            scale = (0, 1e-40, 1e-31, 2.0**-100, 1e30, 2.0**125, 3e38, np.inf, np.nan, -0.0, 1, 2.0**127)[k % 12]
            x[start : start + 64] = np.float32(scale) * np.clip(x[start : start + 64] * 25, -1, 1)
            x[start + 3] = scale
        return x.astype(numpy_dtype(dtype))


class Far(NamedTuple):
    """A kernel with its constants, to be run at the end of a tensor of more than 2^32 elements."""

    name: str
    block: int
    constants: dict[str, Any]

    def run(self, module: ModuleType, n: int = 2**32 + 2**20) -> None:
        """Run the last program on a tensor of which only the end exists; require the bits of the reference."""
        kernel, block, first = getattr(module, self.name), self.block, (n - TILE) // self.block
        blocks, rng = -(-n // block), np.random.default_rng(1)
        x = rng.integers(0, 2**16, TILE, np.uint16)
        codes = rng.integers(0, 256, TILE // 2, np.uint8)
        scales = rng.choice(sample(4096).view(np.uint32), blocks - first)
        table = ac.Codebook("nf4").tables({})
        whole = {"bounds": table.bounds, "order": table.codes, "values": table.values, "offset": table.values}
        ends = {"source": (x, n), "out": (x, n), "codes": (codes, n // 2), "absmax": (scales, blocks)}
        ends["found"] = (scales, blocks)
        numbers = {"n": n, "blocks": blocks, "block": block, "runs": 1, "total": blocks}
        memory, arguments, named, outputs = ptx.Memory(), [], {}, {}
        for name in [arg for arg in kernel.arg_names if arg not in self.constants]:
            if name in numbers:
                named[name] = numbers[name]
                arguments.append(numbers[name])
                continue
            content, length = (whole[name], whole[name].size) if name in whole else ends[name]
            named[name] = torch.empty(0, dtype=getattr(torch, content.dtype.name))
            start = (length - content.size) * content.itemsize
            filled = content.nbytes if name in written(kernel) else content
            arguments.append(memory.window(length * content.itemsize, {start: filled}, name))
            if name in written(kernel):
                outputs[name] = arguments[-1] + start
        options = {**self.constants, "num_warps": 4, "enable_fp_fusion": False}
        grid = -(-blocks // self.constants["ROWS"]) if "ROWS" in self.constants else n // TILE
        Emulated(module, "sm_90").compile(kernel, named, options).run(memory, grid, arguments, programs=[grid - 1])
        want = self.expected(x, codes, scales, n - TILE - first * block)
        for name, pointer in outputs.items():
            got = memory.get(pointer, want[name].dtype, want[name].size)
            assert got.tobytes() == want[name].tobytes(), f"{self.name}: {name} differs behind 2^31 elements"

    def expected(self, x: np.ndarray, codes: np.ndarray, scales: np.ndarray, before: int) -> Planes:
        """What the reference makes of it, where `before` elements of the first block are not at hand."""
        codec, absmax = ac.Codebook("nf4", block_size=self.block), scales.view(np.float32)
        padded = np.concatenate([np.zeros(before, np.uint16), x]).view(numpy_dtype("bfloat16"))
        if self.name.startswith("decode"):
            planes = {"codes": np.concatenate([np.zeros(before // 2, np.uint8), codes]), "absmax": absmax}
            return {"out": codec.decode(planes, ArraySpec(padded.shape, "bfloat16"))[before:]}
        if self.name == "encode_elements":
            return {"codes": codec.encode(padded, {"absmax": absmax})["codes"][before // 2 :]}
        if self.name == "encode_blocks":
            return codec.encode(padded)
        return {"found": (x.astype(np.uint32) << 16 & 0x7FFFFFFF).reshape(-1, self.block).max(axis=1)}


TILE = triton_codebook.TILE
_BLOCKS = {"KIND": 1, "BITS": 4, "BLOCK": 64, "ROWS": TILE // 64, "TAIL": False}
_ELEMENTS = {"KIND": 1, "BITS": 4, "TILE": TILE}
FAR = [
    Far("encode_blocks", 64, _BLOCKS),
    Far("absmax_runs", 64, {"KIND": 1, "RUN": 64, "ROWS": TILE // 64}),
    Far("encode_elements", 96, _ELEMENTS | {"LARGE": False}),
    Far("encode_elements", 5002, _ELEMENTS | {"LARGE": True}),
    Far("decode_blocks", 64, _BLOCKS | {"OFFSET": False}),
    Far("decode_elements", 96, _ELEMENTS | {"LARGE": False, "OFFSET": False}),
    Far("decode_elements", 5002, _ELEMENTS | {"LARGE": True, "OFFSET": False}),
]


FORBIDDEN = r"\b(div\.full|div\.approx|rcp|ex2|sqrt|fma|mad\.f32|mad\.rn|sin|cos)\S*|\S*\.ftz\S*"
ROUNDED = r"\b(?:mul|add|sub)\.(?!rn\.)\S*f32\S*"


def refuse_inexact(text: str) -> None:
    """Every float instruction is one IEEE rounding that no later compiler may fuse with another."""
    found = re.search(FORBIDDEN, text) or re.search(ROUNDED, text)
    assert not found, f"inexact or open to contraction: {found[0]}"
