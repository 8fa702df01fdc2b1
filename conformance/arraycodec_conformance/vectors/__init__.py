"""Golden vectors: inputs, planes and decoded arrays that were committed once and must come out for ever.

One JSON file per vector, `vectors/<codec>/<name>.json`, arrays as dtype, shape and hexadecimal little-endian bytes:
any language can read them. Tests never write here; `python -m arraycodec_conformance.vectors` makes new ones for cases
that have none, and refuses to touch a file that is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arraycodec.spec import ArraySpec, numpy_dtype, spec_of

FOLDER = Path(__file__).parent


def array(data: dict[str, Any]) -> np.ndarray:
    """The array of one JSON entry."""
    raw = np.frombuffer(bytes.fromhex(data["hex"]), np.uint8)
    return raw.view(numpy_dtype(data["dtype"])).reshape(data["shape"])


def arrays(data: dict[str, dict[str, Any]]) -> dict[str, np.ndarray]:
    """The named arrays of one JSON entry."""
    return {name: array(entry) for name, entry in data.items()}


def entry(x: np.ndarray) -> dict[str, Any]:
    """The JSON entry of an array."""
    spec: ArraySpec = spec_of(x)
    return {"dtype": spec.dtype, "shape": list(spec.shape), "hex": np.ascontiguousarray(x).tobytes().hex()}


def load(folder: Path = FOLDER) -> Iterator[tuple[str, dict[str, Any]]]:
    """All vectors of a folder, with their paths relative to it, in a fixed order."""
    for path in sorted(folder.glob("*/*.json")):
        yield str(path.relative_to(folder)), json.loads(path.read_text())
