"""Loads and stores of words at any byte of a byte array, for bit streams in kernels.

Numba has none: an element of an array is one at a multiple of its size. They check nothing: the caller has seen to it
that all bytes lie in the array.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec.primitives.jit import Kernel


class Intrinsic(Kernel):
    """A function that `build` makes for Numba out of machine instructions, in Python where nothing is compiled."""

    def __init__(self, py_func: Callable[..., Any], build: Callable[[], Any]) -> None:
        super().__init__(py_func, inline=True)
        self.build = build

    @cached_property
    def digest(self) -> str:
        """A hash of this file: the code that `build` emits is part of what kernels are compiled from."""
        return hashlib.sha256(self.py_func.__name__.encode() + Path(__file__).read_bytes()).hexdigest()[:12]

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        from numba.core import config

        return self.py_func if getattr(config, "DISABLE_JIT", 0) else self.build()


def _pointer(context: Any, builder: Any, signature: Any, args: Any, bits: int) -> Any:
    """The address of the byte `args[1]` of the array `args[0]`, as one of integers of so many bits."""
    from llvmlite import ir

    data = context.make_array(signature.args[0])(context, builder, args[0]).data
    byte = builder.gep(builder.bitcast(data, ir.IntType(8).as_pointer()), [args[1]])
    return builder.bitcast(byte, ir.IntType(bits).as_pointer())


def _load(bits: int) -> Callable[[], Any]:
    def build() -> Any:
        from numba import types
        from numba.extending import intrinsic

        @intrinsic
        def load(typing: Any, array: Any, at: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                value = builder.load(_pointer(context, builder, signature, args, bits))
                value.align = 1
                return value

            return getattr(types, f"uint{bits}")(array, types.int64), emit

        return load

    return build


def _store(bits: int) -> Callable[[], Any]:
    def build() -> Any:
        from numba import types
        from numba.extending import intrinsic

        @intrinsic
        def store(typing: Any, array: Any, at: Any, value: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
                builder.store(args[2], _pointer(context, builder, signature, args, bits)).align = 1
                return context.get_dummy_value()

            return types.void(array, types.int64, getattr(types, f"uint{bits}")), emit

        return store

    return build


def _prefetch() -> Any:
    from llvmlite import ir
    from numba import types
    from numba.extending import intrinsic

    @intrinsic
    def prefetch(typing: Any, array: Any, at: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            byte, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
            data = context.make_array(signature.args[0])(context, builder, args[0]).data
            address = builder.gep(builder.bitcast(data, byte), [args[1]])
            kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
            function = builder.module.globals.get("llvm.prefetch.p0") or ir.Function(
                builder.module, kind, "llvm.prefetch.p0"
            )
            builder.call(function, [address, i32(0), i32(3), i32(1)])  # to be read, kept, data
            return context.get_dummy_value()

        return types.void(array, types.int64), emit

    return prefetch


def _load64(array: np.ndarray, at: int) -> np.uint64:
    """The 8 bytes from `at` on as a little-endian integer."""
    return np.uint64(int.from_bytes(array[at : at + 8].tobytes(), "little"))


def _load32(array: np.ndarray, at: int) -> np.uint32:
    """The 4 bytes from `at` on as a little-endian integer."""
    return np.uint32(int.from_bytes(array[at : at + 4].tobytes(), "little"))


def _store32(array: np.ndarray, at: int, value: int) -> None:
    """Write 4 bytes at `at`."""
    array[at : at + 4] = np.frombuffer(int(value).to_bytes(4, "little"), np.uint8)


def _store64(array: np.ndarray, at: int, value: int) -> None:
    """Write 8 bytes at `at`."""
    array[at : at + 8] = np.frombuffer(int(value).to_bytes(8, "little"), np.uint8)


def _nothing(array: np.ndarray, at: int) -> None:
    """Have the cache line of byte `at` loaded while other work goes on; any byte will do, also outside of the array."""


load32 = Intrinsic(_load32, _load(32))
load64 = Intrinsic(_load64, _load(64))
store32 = Intrinsic(_store32, _store(32))
store64 = Intrinsic(_store64, _store(64))
prefetch = Intrinsic(_nothing, _prefetch)
