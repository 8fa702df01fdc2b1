"""Kernels: what two processes that compile at once may leave on disk, and what inlined ones may not do."""

from pathlib import Path

import numpy as np
import pytest

from arraycodec.primitives.jit import Kernel, inlined, kernel


def twice(x):
    for i in range(x.size):
        x[i] *= 2


def files(folder: Path, dtypes: list[str], monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the files with code after a kernel has met arrays of these dtypes in this order."""
    from numba.core import config

    monkeypatch.setattr(config, "CACHE_DIR", str(folder))
    kernel = Kernel(twice, inline=False)
    for dtype in dtypes:
        kernel(x := np.ones(3, dtype))
        assert x.tolist() == [2, 2, 2]
    return {path.name for path in folder.rglob("*.nbc")}


def test_a_file_is_named_after_the_signature_and_not_numbered(tmp_path, monkeypatch):
    """Or the code for one signature could be found under the number of another, where two processes begin at once."""
    one = files(tmp_path / "a", ["uint8", "int64"], monkeypatch)
    other = files(tmp_path / "b", ["int64", "uint8"], monkeypatch)
    alone = files(tmp_path / "c", ["int64"], monkeypatch)
    assert len(one) == 2 and one == other and len(alone) == 1 and alone < one
    assert files(tmp_path / "a", ["uint8", "int64"], monkeypatch) == one  # read again


@inlined
def same(x):
    return x


@inlined
def pair(x):
    return 1, x[1:]


@inlined
def made(x):
    y = np.empty(3)
    y[0] = x[0]
    return y[0]


@kernel
def call_same(x):
    return same(x)[0]


@kernel
def call_pair(x):
    return pair(x)[0]


@kernel
def call_made(x):
    return made(x)


@pytest.mark.parametrize("caller", [call_same, call_pair, call_made], ids=lambda caller: caller.py_func.__name__)
def test_an_inlined_kernel_neither_makes_nor_returns_an_array(caller):
    """It counts no references: an array that it returned would be freed once too often."""
    with pytest.raises(Exception, match=r"use @kernel|Only accept returning"):
        caller(np.ones(3))


def test_the_digest_covers_constants_names_and_helpers():
    """What is kept on disk under it is not used where one of them has changed."""
    here = {"np": np, "STEP": 1, "TABLE": np.arange(3), "help": kernel(lambda x: x + 1)}

    def digest(text: str, **changed: object) -> str:
        space = here | changed
        exec(f"def f(x):\n    return {text}", space)
        return Kernel(space["f"], inline=False).digest  # type: ignore[arg-type]

    text = "np.sin(x) + STEP + TABLE[0] + help(x)"
    found = {
        digest(text), digest(text, STEP=2), digest(text, STEP=1.0), digest(text, TABLE=np.arange(1, 4)),
        digest(text, help=kernel(lambda x: x + 2)), digest(text.replace("sin", "cos")),
    }  # fmt: skip
    assert len(found) == 6
    assert digest(text, unused=3) == digest(text)
