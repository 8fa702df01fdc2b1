"""gguf-py, llama.cpp's Python package: the formats that it can encode, in NumPy."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from arraycodec.checkpoints.peers.entry import Calls, Entry

NAME = "gguf"


def _quants(kind: str, x: np.ndarray) -> Calls:
    from gguf import GGMLQuantizationType, quants  # type: ignore[attr-defined]  # the library, not this file

    qtype = GGMLQuantizationType[kind]

    def nbytes(encoded: Any) -> int:
        return encoded.nbytes

    return Calls(lambda: quants.quantize(x, qtype), lambda encoded: quants.dequantize(encoded, qtype), nbytes)


def blocks(kind: str, given: np.ndarray) -> Calls:
    """The call that decodes blocks which are there already."""
    from gguf import GGMLQuantizationType, quants  # type: ignore[attr-defined]

    qtype = GGMLQuantizationType[kind]
    return Calls(
        lambda: {"blocks": given},
        lambda stored: quants.dequantize(stored["blocks"], qtype),
        lambda stored: stored["blocks"].nbytes,
    )


ENTRIES = (
    Entry(NAME, "Q8_0", "int8_linear", {"block_size": 32}, "float16 scales", partial(_quants, "Q8_0")),
    Entry(NAME, "Q4_0", "int4_linear", {"block_size": 32}, "float16 scales, 16 levels from -8",
          partial(_quants, "Q4_0")),
    Entry(NAME, "MXFP4", "mxfp4", {}, "ties go to the smaller value", partial(_quants, "MXFP4")),
)  # fmt: skip
