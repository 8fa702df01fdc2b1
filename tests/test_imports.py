"""What may import what: layers point down only, and no framework is loaded by those who do not use it."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "jax", "triton", "matplotlib", "typer", "safetensors")


def loaded_after(script: str, names: tuple[str, ...] = (*FRAMEWORKS, "numba", "numpy")) -> set[str]:
    """Which of `names` a fresh interpreter has imported after running `script`."""
    check = f"{script}\nimport sys; print(*[n for n in {names!r} if n in sys.modules])"
    run = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    ("script", "allowed"),
    [
        ("import arraycodec", set()),
        ("import arraycodec as ac; ac.codec('nf4')", {"numpy"}),
        ("import arraycodec as ac, numpy as np; ac.decode(ac.encode(np.ones(64, 'f4'), 'nf4'))", {"numpy", "numba"}),
        ("import arraycodec.cli", set()),
    ],
)
def test_nothing_more_is_imported_than_is_used(script: str, allowed: set[str]) -> None:
    assert loaded_after(script) <= allowed


@pytest.mark.parametrize(("package", "other"), [("torch", "jax"), ("jax", "torch")])
def test_a_backend_does_not_load_another_framework(package: str, other: str) -> None:
    make = {"torch": "import torch as t; x = t.ones(64)", "jax": "import jax.numpy as j; x = j.ones(64)"}[package]
    script = f"{make}; import arraycodec as ac; ac.decode(ac.encode(x, 'nf4'))"
    before = loaded_after(make, (other, "triton"))  # what the framework loads by itself is not ours
    assert loaded_after(script, (other, "triton")) == before


def test_import_contracts_hold() -> None:
    """The contracts of [tool.importlinter] in pyproject.toml."""
    run = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
