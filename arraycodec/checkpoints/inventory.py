"""`inventory`: which schemes, codecs and backends there are, without importing any framework."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from arraycodec import registry
from arraycodec.checkpoints.policy import accepted
from arraycodec.formats.bitsandbytes.target import NAMES, Bitsandbytes
from arraycodec.formats.compressed_tensors.presets import PRESETS
from arraycodec.formats.compressed_tensors.target import CompressedTensors
from arraycodec.spec import ArraySpec

PACKAGES = {"numpy": ("numpy", "numba"), "torch": ("torch", "triton"), "jax": ("jax", "jaxlib")}
TYPICAL = (4096, 4096)  # the matrix for which bits per weight are stated


def inventory() -> dict[str, Any]:
    """Schemes with what they cost, codecs with what they take, names that formats have, backends with versions."""
    schemes = []
    for name, codec in registry.SCHEMES.items():
        dtypes = accepted(codec)
        planes = codec.planes(ArraySpec(TYPICAL, dtypes[0])).values()
        fixed = all(plane.fixed for plane in planes)
        bits = 8 * sum(plane.nbytes for plane in planes) / (TYPICAL[0] * TYPICAL[1]) if fixed else None
        schemes.append({
            "name": name, "bits_per_element": bits, "lossless": codec.lossless, "dtypes": list(dtypes),
            "experimental": codec.experimental, "codec": codec.to_json(), "repr": repr(codec),
        })  # fmt: skip
    codecs = [
        {
            "name": name, "lossless": bool(cls.lossless), "experimental": cls.experimental, "dtypes": list(cls.dtypes),
            "about": _first_line(cls.__doc__),
        }
        for name, cls in registry.CODECS.items()
    ]  # fmt: skip
    backends = [
        {"name": name, "installed": _version(packages[0]) is not None, "versions": {p: _version(p) for p in packages}}
        for name, packages in PACKAGES.items()
    ]
    formats = [
        {"name": Bitsandbytes.name, "schemes": [*NAMES]},
        {"name": CompressedTensors.name, "schemes": [*PRESETS]},
    ]
    return {"schemes": schemes, "codecs": codecs, "formats": formats, "backends": backends}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]
