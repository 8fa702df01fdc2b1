"""Compile a Triton kernel for an NVIDIA GPU that need not exist, and run the result on the CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .execute import STEPS, Execution, Grid, Kernel
from .memory import Memory

_SCRATCH_PARAMETERS = 2  # Triton appends pointers to global and profiling scratch memory


@dataclass(frozen=True)
class Compiled:
    """A kernel compiled ahead of time: its PTX, and what a launch needs to know."""

    ptx: str
    entry: str
    target: str
    num_warps: int
    shared_bytes: int
    signature: tuple[tuple[str, str], ...]
    divisible: frozenset[str]

    @cached_property
    def kernel(self) -> Kernel:
        """The PTX, ready to run; made at the first use, so that PTX which cannot be run can still be read."""
        return Kernel(self.ptx, self.shared_bytes)

    def run(
        self,
        memory: Memory,
        grid: Grid,
        args: Sequence[int | float],
        programs: Iterable[Grid] | None = None,
        limit: int = STEPS,
    ) -> Execution:
        """Execute the programs of a grid (see `Kernel.run`); `args` follow the order of the signature."""
        if len(args) != len(self.signature):
            raise TypeError(f"{self.entry} takes {len(self.signature)} arguments, got {len(args)}")
        for (name, _), value in zip(self.signature, args, strict=True):
            if name in self.divisible and value % 16:
                raise ValueError(f"{self.entry} was compiled for a {name} divisible by 16, got {value}")
        return self.kernel.run(memory, grid, [*args, *[0] * _SCRATCH_PARAMETERS], programs, limit)


def compile(
    function: Any,
    signature: Mapping[str, str],
    constants: Mapping[str, Any] | None = None,
    *,
    target: str = "sm_90",
    num_warps: int = 4,
    enable_fp_fusion: bool = False,
    divisible: Iterable[str] = (),
    **options: Any,
) -> Compiled:
    """Compile a `@triton.jit` function.

    `signature` gives the types of its arguments, such as "*fp32" or "i64", and `constants` the values of its
    `tl.constexpr` parameters. Pointers are taken to be multiples of 16, as tensors are, and so are the
    integers named in `divisible`; Triton vectorises by that. Further `options` go to Triton.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as triton_compile
    from triton.runtime.jit import JITFunction

    if not isinstance(function, JITFunction):
        raise TypeError(f"a @triton.jit function is wanted (and TRITON_INTERPRET unset), got {function!r}")
    constants = dict(constants or {})
    names = list(function.arg_names)
    if set(names) != {*signature, *constants}:
        raise TypeError(f"{function.__name__} has parameters {names}, got {[*signature, *constants]}")
    aligned = {name for name, kind in signature.items() if kind.startswith("*")} | set(divisible)
    source = ASTSource(
        function,
        {name: "constexpr" if name in constants else signature[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in sorted(aligned)},  # for the cache
    )
    with _as_far_as_ptx():
        built = triton_compile(
            source,
            target=GPUTarget("cuda", int(target.removeprefix("sm_")), 32),
            options={"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion, **options},
        )
    metadata = built.metadata
    if metadata.global_scratch_size or metadata.profile_scratch_size:
        raise NotImplementedError(f"{function.__name__} needs scratch memory")
    return Compiled(
        ptx=built.asm["ptx"],
        entry=metadata.name,
        target=target,
        num_warps=metadata.num_warps,
        shared_bytes=metadata.shared,
        signature=tuple((name, signature[name]) for name in names if name in signature),
        divisible=frozenset(aligned),
    )


@contextlib.contextmanager
def _as_far_as_ptx() -> Iterator[None]:
    """Compile no further than to PTX: the assembler, whose binary nobody runs, takes a third of the time."""
    from triton import knobs

    runtime: Any = knobs.runtime

    def stop(*arguments: Any) -> Any:
        if not arguments:
            return "as far as ptx", "as far as ptx"  # part of the key of Triton's cache
        stages: dict[str, Any] = arguments[1]
        stages["cubin"] = lambda source, metadata: b""
        return None

    before = runtime.add_stages_inspection_hook
    runtime.add_stages_inspection_hook = stop
    try:
        yield
    finally:
        runtime.add_stages_inspection_hook = before
