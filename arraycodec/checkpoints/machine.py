"""`machine`: what figures were measured on, without which no figure means anything."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from arraycodec.primitives.threads import available_cpus

PACKAGES = (
    "arraycodec", "numpy", "numba", "ml_dtypes", "torch", "jax",
    "bitsandbytes", "compressed-tensors", "torchao", "optimum-quanto", "gguf",
    "zipnn", "bigsmall", "lmzip", "zstandard", "blosc2",
)  # fmt: skip


def machine() -> dict[str, str | int]:
    """The CPU, its cores, the system, and the versions of all packages that take part; none is imported."""
    found: dict[str, str | int] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "cores_available": available_cpus(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cpu_model() -> str:
    """The CPU's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
