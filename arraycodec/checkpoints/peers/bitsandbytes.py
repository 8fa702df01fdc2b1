"""bitsandbytes' public functions, on its CPU kernels."""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import Any

import numpy as np

from arraycodec.checkpoints.peers.entry import Calls, Entry
from arraycodec.checkpoints.peers.tensors import stored, tensor

NAME = "bitsandbytes"
BLOCK = 64


def _functional() -> Any:
    logging.getLogger(NAME).setLevel(logging.ERROR)  # it warns of optional kernels on import
    from bitsandbytes import functional

    return functional


def _four_bits(kind: str, nested: bool, x: np.ndarray) -> Calls:
    """Its AVX-512 kernel decodes wrongly where rows are no whole number of blocks; such matrices are not measured."""
    if math.prod(x.shape[1:]) % BLOCK:
        raise ValueError(f"rows of {x.shape[1]} elements are no whole number of blocks of {BLOCK}")
    functional, weight = _functional(), tensor(x)
    return Calls(
        lambda: functional.quantize_4bit(weight, blocksize=BLOCK, quant_type=kind, compress_statistics=nested),
        lambda encoded: functional.dequantize_4bit(*encoded),
        _bytes,
    )


def _dynamic(x: np.ndarray) -> Calls:
    functional, weight = _functional(), tensor(x)
    return Calls(
        lambda: functional.quantize_blockwise(weight, blocksize=BLOCK),
        lambda encoded: functional.dequantize_blockwise(*encoded),
        _bytes,
    )


def _rows(x: np.ndarray) -> Calls:
    functional, weight = _functional(), tensor(x)
    return Calls(
        lambda: functional.int8_vectorwise_quant(weight),
        lambda encoded: functional.int8_vectorwise_dequant(*encoded[:2]),
        lambda encoded: stored(encoded[0]) + stored(encoded[1]),
    )


def _bytes(encoded: tuple[Any, Any]) -> int:
    """Of codes and statistics; tables that are the same for every array are not counted."""
    codes, state = encoded
    nested = stored(state.state2.absmax) + stored(state.offset) if state.nested else 0
    return stored(codes) + stored(state.absmax) + nested


CPU = {"flavour": "bnb-cpu"}  # the thresholds of its CPU kernels

ENTRIES = (
    Entry(NAME, "nf4", "nf4", {}, "same", partial(_four_bits, "nf4", False)),
    Entry(NAME, "fp4", "fp4", CPU, "same", partial(_four_bits, "fp4", False)),
    Entry(NAME, "nf4, double", "nf4-double", {}, "sums the mean in another order",
          partial(_four_bits, "nf4", True)),
    Entry(NAME, "dynamic 8 bits", "dynamic", CPU, "same", _dynamic),
    Entry(NAME, "int8_vectorwise", "llm_int8", {}, "same", _rows),
)  # fmt: skip
