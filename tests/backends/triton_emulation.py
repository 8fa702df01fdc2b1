"""Run the launchers of the Triton kernels on CPU tensors, with the PTX interpreter in place of a GPU.

`Emulated` stands in for a module of kernels: a launch compiles the kernel ahead of time, as Triton's own launcher
would for these arguments, and executes the PTX. So grids, arguments and constants are the real ones.

Tensors of more than 2^31 elements, whose memory is never touched but for the end, run the last program only.
"""

from __future__ import annotations

import contextlib
import importlib
import re
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import arraycodec as ac
from arraycodec.base import Planes
from arraycodec.errors import UnsupportedByBackend
from arraycodec.primitives.entropy.plan import PALETTE
from arraycodec.spec import ArraySpec, numpy_dtype
from arraycodec_conformance import ptx
from arraycodec_conformance.compare import same_bits
from arraycodec_torch import IMPLEMENTATIONS, from_numpy, implementations, to_numpy, triton_blockwise

TARGETS = ("sm_80", "sm_90", "sm_100")
TYPES = {
    torch.uint8: "*u8", torch.uint16: "*u16", torch.uint32: "*u32", torch.uint64: "*u64",
    torch.int8: "*i8", torch.int16: "*i16", torch.int32: "*i32", torch.int64: "*i64", torch.float32: "*fp32",
}  # fmt: skip
NUMPY = {dtype: numpy_dtype(str(dtype).removeprefix("torch.")) for dtype in TYPES}
LAUNCHERS = (triton_blockwise, *map(importlib.import_module, implementations.TRITON.values()))
HUGE = 2**31  # elements
WINDOW = 2**21  # elements at the end of tensors that exist where one is huge: more than a program touches
Edit = Callable[[ptx.Compiled], ptx.Compiled]


class Emulated:
    """A module of kernels whose launches are compiled for `target` and interpreted; `edit` changes the PTX."""

    compiled: ClassVar[dict[Any, Any]] = {}  # shared, since compiling is what takes time

    def __init__(self, module: ModuleType, target: str, edit: Edit | None = None) -> None:
        self.module, self.target, self.edit = module, target, edit

    def __getattr__(self, name: str) -> Launcher:
        return Launcher(self, getattr(self.module, name))

    def launch(self, kernel: Any, grid: tuple[int], named: dict[str, Any], options: dict[str, Any]) -> None:
        """What `kernel[grid](**named, **options)` does on a GPU; where there is no interpreter, it only compiles."""
        compiled = self.compile(kernel, named, options)
        if not isinstance(compiled, ptx.Compiled):
            return
        memory, arguments, outputs = ptx.Memory(), [], []
        results = written(kernel, options)
        huge = any(isinstance(value, torch.Tensor) and value.numel() > HUGE for value in named.values())
        for name in (name for name, _ in compiled.signature):
            value = named[name]
            if not isinstance(value, torch.Tensor):
                arguments.append(value)
                continue
            content, size = end_of(value) if huge else value, value.numel() * value.element_size()
            start = size - content.numel() * content.element_size()
            filling = content.numel() * content.element_size() if name in results else content.numpy()
            base = memory.window(size, {start: filling}, name)
            arguments.append(base)
            if name in results:
                outputs.append((content, base + start))
        compiled.run(memory, grid[0], arguments, programs=[grid[0] - 1] if huge else None)
        for content, pointer in outputs:
            done = np.ones(content.numel(), bool)
            if huge:  # only one program ran, and what the others would write is zero
                done = memory.written(pointer, content.nbytes).reshape(content.numel(), -1)[:, 0]
                content.zero_()
            edges = np.flatnonzero(np.diff(done, prepend=False, append=False)).tolist()
            for start, stop in zip(edges[::2], edges[1::2], strict=True):
                result = memory.get(pointer + start * content.element_size(), NUMPY[content.dtype], stop - start)
                content.view(-1)[start:stop] = torch.from_numpy(result)  # the memory faults where no one wrote

    def compile(self, kernel: Any, named: dict[str, Any], options: dict[str, Any]) -> Any:
        """As Triton specialises: a 1 is a constant, multiples of 16 are known as such, and large numbers are i64."""
        numbers = {name: value for name, value in named.items() if isinstance(value, int)}
        types = {
            name: TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i64" if value >= 2**31 else "i32"
            for name, value in named.items()
            if numbers.get(name) != 1
        }
        whole = [name for name, value in numbers.items() if value % 16 == 0]
        constants = {name: 1 for name, value in numbers.items() if value == 1}
        constants |= {name: value for name, value in options.items() if name.isupper()}
        others = {name: value for name, value in options.items() if not name.isupper()}
        key = kernel.fn, self.target, str(types), str(whole), str(constants), str(others)
        if key not in self.compiled:
            build = ptx.compile if self.target.startswith("sm_") else compile_amd
            self.compiled[key] = build(kernel, types, constants, target=self.target, divisible=whole, **others)
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


def compile_amd(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], *, target: str, divisible: list[str], **options: Any
) -> Any:
    """What Triton makes for an AMD GPU, as far as a binary; there is no interpreter of its assembly."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as triton_compile

    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types[name] for name in kernel.arg_names},
        constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
    )
    return triton_compile(source, target=GPUTarget("hip", target, 64), options=options)


def end_of(value: torch.Tensor) -> torch.Tensor:
    """The elements of a tensor that exist in a launch where one is huge: the last ones, from an aligned place."""
    return value.view(-1)[max(0, value.numel() // 32 * 32 - WINDOW) :]


def written(kernel: Any, constants: dict[str, Any]) -> set[str]:
    """The arguments that a kernel writes, all of whose bytes it must write."""
    if kernel.__name__ == "choose":
        return {"values", "bitmask", "found"}
    if kernel.__name__ == "merge" and constants["ARRANGEMENT"] != PALETTE:
        return {"out"}
    if not kernel.__name__.startswith("encode"):
        return {"found", "out"}
    if kernel.__name__ == "encode_blocks":
        return {"absmax", "codes"}
    scales = {"scales"} if constants.get("SYMMETRIC", True) else {"scales", "zeros"}
    return {"codes"} | (scales if constants.get("FIND") else set())


@contextlib.contextmanager
def emulated(
    mutated: dict[str, ModuleType] | None = None, target: str = "sm_90", edit: Edit | None = None
) -> Iterator[Any]:
    """The triton implementation, on CPU tensors, with its kernels run by the PTX interpreter.

    `mutated` maps names of modules of kernels to what takes their place.
    """
    with pytest.MonkeyPatch.context() as patch:
        for launcher in LAUNCHERS:
            own = (mutated or {}).get(launcher.kernels.__name__, launcher.kernels)
            patch.setattr(launcher, "kernels", Emulated(own, target, edit))
            patch.setattr(launcher, "check_device", lambda codec, device: None)
        yield IMPLEMENTATIONS["triton"]


def compare(how: Any, codec: Any, x: np.ndarray, given: Planes | None = None) -> None:
    """Encode and decode here and in the reference, and require the same bits."""
    decode(how, codec, encode(how, codec, x, given or {}), x.shape, x.dtype.name)


def encode(how: Any, codec: Any, x: np.ndarray, given: Planes) -> Planes:
    """Encode here and in the reference, and require the same bits; coders and training are for the host only."""
    want = codec.encode(x, given)
    if isinstance(codec, ac.Lossless) or (codec.trained and "codebook" not in given):
        with pytest.raises(UnsupportedByBackend, match="encodes on the host"):
            how.encode(from_numpy(x), codec, {})
        return want
    planes = how.encode(from_numpy(x), codec, {name: from_numpy(plane) for name, plane in given.items()})
    for name, plane in want.items():
        same_bits(to_numpy(planes[name]), plane, f"{codec}: {name}", x)
    return want


def decode(how: Any, codec: Any, planes: Planes, shape: tuple[int, ...], dtype: str) -> None:
    """Decode here and in the reference, and require the same bits."""
    spec = ArraySpec(shape, dtype)
    decoded = how.decode(codec, {name: from_numpy(plane) for name, plane in planes.items()}, spec, {})
    same_bits(to_numpy(decoded), codec.decode(planes, spec), f"{codec}: decoded to {dtype}")


SPECIAL = (0, 1e-40, 1e-31, 2.0**-100, 1e30, 2.0**125, 3e38, np.inf, np.nan, -0.0, 1, 2.0**127)


def sample(n: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    """Weights with zero, subnormal, huge and non-finite blocks among them."""
    rng = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        x = (rng.standard_normal(n) * 0.02).astype(np.float32)
        for k, start in enumerate(range(0, n - 64, max(64, n // 12 // 64 * 64))):
            scale = SPECIAL[k % 12]
            x[start : start + 64] = np.float32(scale) * np.clip(x[start : start + 64] * 25, -1, 1)
            x[start + 3] = scale
        return x.astype(numpy_dtype(dtype))


def sample_tiles(shape: tuple[int, ...], tile: tuple[int | None, int | None], dtype: str) -> np.ndarray:
    """Weights in tiles of rows and columns, each third of which is zero, subnormal, huge or not finite."""
    rng, height, width = np.random.default_rng(0), tile[0] or shape[-2], tile[1] or shape[-1]
    _, row, column = np.indices((int(np.prod(shape[:-2])), *shape[-2:]))
    index = (row // height * 5 + column // width).reshape(shape)
    with np.errstate(all="ignore"):
        factor = np.where(index % 3 == 0, np.array(SPECIAL, np.float32)[index // 3 % 12], np.float32(0.02))
        x = factor * np.clip(rng.standard_normal(shape), -1, 1).astype(np.float32)
        return x.astype(numpy_dtype(dtype))


FORBIDDEN = r"\b(div\.full|div\.approx|rcp|ex2|sqrt|fma|mad\.f32|mad\.rn|sin|cos)\S*|\S*\.ftz\S*"
ROUNDED = r"\b(?:mul|add|sub)\.(?!rn\.)\S*f32\S*"


def refuse_inexact(text: str) -> None:
    """Every float instruction is one IEEE rounding that no later compiler may fuse with another."""
    found = re.search(FORBIDDEN, text) or re.search(ROUNDED, text)
    assert not found, f"inexact or open to contraction: {found[0]}"
