"""optimum-quanto's `quantize_weight`, with the scales of its own optimisers."""

from __future__ import annotations

from functools import partial

import numpy as np

from arraycodec.checkpoints.peers.entry import Calls, Entry
from arraycodec.checkpoints.peers.tensors import stored, tensor

NAME = "optimum-quanto"
GROUP = 64


def _rows(kind: str, x: np.ndarray) -> Calls:
    from optimum import quanto

    weight, qtype, scales = tensor(x), quanto.qtypes[kind], quanto.AbsmaxOptimizer()
    return Calls(
        lambda: quanto.quantize_weight(weight, qtype, 0, scales(weight, qtype, 0)),
        lambda encoded: encoded.dequantize(),
        stored,
    )


def _groups(x: np.ndarray) -> Calls:
    from optimum import quanto

    weight, qtype, scales = tensor(x), quanto.qint4, quanto.MaxOptimizer()
    return Calls(
        lambda: quanto.quantize_weight(weight, qtype, 0, *scales(weight, qtype, 0, GROUP), GROUP),
        lambda encoded: encoded.dequantize(),
        stored,
    )


ENTRIES = (
    Entry(NAME, "qint8", "int8-channel", {}, "divides by the scale", partial(_rows, "qint8")),
    Entry(NAME, "qint4", "int4_linear", {"symmetric": False, "block_size": (1, GROUP)}, "float zero points", _groups),
    Entry(NAME, "qfloat8_e4m3fn", "fp8-channel", {}, "same", partial(_rows, "qfloat8_e4m3fn")),
)
