"""`kernel`: Numba kernels that cost nothing until they are first called.

Importing Numba takes longer than importing NumPy, and a run that only reads headers needs neither compiler nor
kernels. A decorated function is compiled at its first call, with an on-disk cache where a folder is writable.
"""

from __future__ import annotations

import hashlib
import types
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np


class Kernel:
    """A function that Numba compiles when it is first called; `py_func` is the Python it was written as."""

    def __init__(self, py_func: Callable[..., Any], inline: bool) -> None:
        self.py_func = py_func
        self.inline = inline
        self.__doc__ = py_func.__doc__

    def __call__(self, *args: Any) -> Any:
        return self.compiled(*args)

    @cached_property
    def compiled(self) -> Callable[..., Any]:
        """The Numba dispatcher (plain Python where NUMBA_DISABLE_JIT is set)."""
        import numba

        helpers = {name: kernel.compiled for name, kernel in self._helpers()}
        namespace = self.py_func.__globals__ | helpers
        source = types.FunctionType(self.py_func.__code__, namespace, self.py_func.__name__, self.py_func.__defaults__)
        # Numba's cache notices a change of this function's file, not of a helper's, nor of where a constant is from: so
        # a digest of them is part of the name under which the compiled function is kept.
        source.__qualname__ = f"{self.py_func.__qualname__}_{self.digest}"
        source.__module__ = self.py_func.__module__
        options = {"error_model": "numpy", "nogil": True, "forceinline": self.inline, "_nrt": not self.inline}
        if self.inline:
            return _returning_no_array(numba.njit(source, **options))
        try:
            return _with_own_files(numba.njit(source, cache=True, **options))
        except RuntimeError:  # no folder is writable: compile anew in each process
            return numba.njit(source, **options)

    @cached_property
    def digest(self) -> str:
        """A hash of the code of this kernel, of the constants of its module, and of all it calls."""
        code, values = self.py_func.__code__, self.py_func.__globals__
        constants = [
            (name, value.tobytes() if isinstance(value, np.ndarray) else repr(value))
            for name in code.co_names
            if isinstance(value := values.get(name), (int, float, str, tuple, np.generic, np.ndarray))
        ]
        text = repr((code.co_code, code.co_consts, code.co_names, constants))
        text += "".join(kernel.digest for _, kernel in self._helpers())
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def _helpers(self) -> Iterator[tuple[str, Kernel]]:
        for name in self.py_func.__code__.co_names:
            value = self.py_func.__globals__.get(name)
            if isinstance(value, Kernel):
                yield name, value


def _with_own_files(dispatcher: Any) -> Any:
    """Keep each signature's code in a file named after it, written before the index tells of it.

    Numba numbers these files: of two processes that compile for two signatures at once, each would find the other's
    code under its own number. Now one of them may be missing in the index, and is compiled again some day.
    """
    from numba.core.caching import IndexDataCacheFile

    class Files(IndexDataCacheFile):
        def save(self, key: Any, data: Any) -> None:
            digest = hashlib.sha256(repr(key).encode()).hexdigest()[:12]
            name = f"{self._index_name.removesuffix('.nbi')}.{digest}.nbc"
            self._save_data(name, data)
            self._save_index(self._load_index() | {key: name})

    files = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if type(files) is IndexDataCacheFile:  # there is none where nothing is compiled
        files.__class__ = Files
    return dispatcher


def _returning_no_array(dispatcher: Any) -> Any:
    """Refuse to compile an inlined function that returns an array: its caller would free it once too often.

    Numba refuses arrays, but not an argument that is given back, nor a tuple with an array in it.
    """
    if not hasattr(dispatcher, "overloads"):  # nothing is compiled
        return dispatcher
    from numba.core.types import Array

    def holds_array(kind: Any) -> bool:
        return isinstance(kind, Array) or any(map(holds_array, getattr(kind, "types", ())))

    compile_for = dispatcher.compile

    def checked(signature: Any) -> Any:
        entry = compile_for(signature)
        for overload in dispatcher.overloads.values():
            if holds_array(overload.signature.return_type):
                raise TypeError(f"inlined {dispatcher.__name__} returns {overload.signature.return_type}: use @kernel")
        return entry

    dispatcher.compile = checked
    return dispatcher


def kernel(py_func: Callable[..., Any]) -> Kernel:
    """Compile at first call: no fastmath, no Python exceptions for divisions, the GIL released."""
    return Kernel(py_func, inline=False)


def inlined(py_func: Callable[..., Any]) -> Kernel:
    """Like `kernel`, and inlined into the kernels that call it. It may neither make nor return an array.

    So it needs no reference counts, which in the other kernels take two atomic operations per slice.
    """
    return Kernel(py_func, inline=True)
