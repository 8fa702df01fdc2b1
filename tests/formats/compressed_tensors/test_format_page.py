"""The vectors of docs/format/compressed_tensors.md: read to the bit, or refused by the right error."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.containers import checks
from arraycodec_conformance.compare import same_bits
from tests.formats.compressed_tensors.files import MODULE, save

PAGE = Path(__file__).parents[3] / "docs" / "format" / "compressed_tensors.md"


def vectors() -> dict[str, list[tuple[str, str]]]:
    """Name -> lines (key, rest) of every block; lines that start with spaces continue the one before."""
    found: dict[str, list[tuple[str, str]]] = {}
    for block in re.findall(r"^```vector\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        (key, name), *rest = (line.split(" ", 1) for line in re.sub(r"\n +", "", block).splitlines())
        assert key == "name" and name not in found
        found[name] = [(key, text) for key, text in rest]
    return found


VECTORS = vectors()


def array(text: str) -> np.ndarray:
    """`dtype[shape] hex` as an array."""
    spec_text, _, data = text.partition(" ")
    spec = checks.spec_of_text(spec_text, "vector")
    return np.frombuffer(bytes.fromhex(data), spec.numpy_dtype).reshape(spec.known_shape)


def state(name: str) -> dict[str, Any]:
    """What the lines of a vector say, on top of the one that it is from."""
    found: dict[str, Any] = {"tensors": {}}
    for key, text in VECTORS[name]:
        if key == "from":
            found = {**state(text), "error": None}
        elif key == "tensor":
            role, _, data = text.partition(" ")
            found["tensors"][role] = array(data)
        elif key == "drop":
            del found["tensors"][text]
        elif key in ("config", "weights"):
            found[key] = json.loads(text)
        else:
            found[key] = text
    return found


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str, tmp_path: Path) -> None:
    found = state(name)
    groups = {"group_0": {"targets": ["Linear"], "weights": found["weights"]}}
    config = {"quant_method": "compressed-tensors", "quantization_status": "compressed", "config_groups": groups}
    folder = save(tmp_path, found["tensors"], config | found["config"])
    if found.get("error"):
        with pytest.raises(ac.FormatError) as caught:
            decoded(folder)
        assert type(caught.value).__name__ == found["error"]
    else:
        same_bits(decoded(folder), array(found["decoded"]), name)


def decoded(folder: Path) -> np.ndarray:
    with ac.open_checkpoint(folder) as model:
        return model[f"{MODULE}.weight"].decode()


def test_there_are_enough() -> None:
    hostile = sum(any(key == "error" for key, _ in lines) for lines in VECTORS.values())
    assert hostile >= 6 and len(VECTORS) - hostile >= 6
