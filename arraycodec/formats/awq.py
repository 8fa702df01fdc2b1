"""AWQ: the checkpoints of AutoAWQ in its layout "gemm", which GPTQModel writes too.

The specification is docs/format/awq.md. A linear module stores its weight transposed, inputs first, four bits a code:
    qweight  int32 (inputs, outputs / 8)   eight outputs to a word, in the order 0 2 4 6 1 3 5 7 from its low bits on
    qzeros   int32 (groups, outputs / 8)   likewise; none where zero_point is false
    scales   float16 (groups, outputs)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from arraycodec.base import Planes
from arraycodec.containers import checks
from arraycodec.containers.lazy import LazyTensor
from arraycodec.errors import CorruptError, FormatError
from arraycodec.formats import parts as stored
from arraycodec.formats.config import Config
from arraycodec.formats.translated import Weight
from arraycodec.primitives.floats import KINDS
from arraycodec.spec import ArraySpec

BITS, PER_WORD = 4, 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # nibble of a word -> which of its eight outputs it is
LAYOUT = "gemm"
OTHERS = ("qzeros", "scales")


def read(raw: Mapping[str, LazyTensor], config: Config) -> dict[str, Weight]:
    """The weights of an AWQ checkpoint by name, `(outputs, inputs)` as those of nn.Linear.

    FormatError where the configuration cannot be read, CorruptError where tensors are missing or do not fit it.
    """
    said, where = config.quantization, f"{config.where}: quantization_config"
    layout = said.get("version") or said.get("format") or LAYOUT
    if not isinstance(layout, str) or layout.lower() != LAYOUT:
        raise FormatError(f"{where}: the version must be {LAYOUT!r}, got {checks.shown(layout)}")
    bits = stored.number(said, ("bits", "w_bit"), BITS, where)
    if bits != BITS:
        raise FormatError(f"{where}: bits must be {BITS}, got {bits}")
    symmetric = not stored.flag(said, "zero_point", True, where)
    group_size = stored.number(said, ("group_size", "q_group_size"), 128, where)
    return {
        f"{module}.weight".removeprefix("."): _weight(parts, group_size, symmetric, config)
        for module, parts in stored.modules(raw, "qweight", OTHERS, ("scales",)).items()
    }


def _weight(parts: stored.Parts, group_size: int, symmetric: bool, config: Config) -> Weight:
    """The weight of a module, once its tensors are found to fit each other and the group size."""
    qweight, scales = stored.part(parts, "qweight"), stored.part(parts, "scales")
    if symmetric and "qzeros" in parts:
        raise CorruptError(f"{parts['qzeros'].where}: must not be there, as zero_point is false")
    if qweight.dtype != "int32" or len(qweight.shape) != 2:
        raise CorruptError(f"{qweight.where}: must be int32 of two axes, got {qweight.dtype}{list(qweight.shape)}")
    columns, rows = qweight.shape[0], qweight.shape[1] * PER_WORD
    group = stored.group_columns(group_size, columns, config.where)
    if columns % group:
        raise CorruptError(f"{qweight.where}: must have whole groups of {group} inputs, got {columns}")
    told = f" for {rows} outputs of {columns} inputs in groups of {group}"
    if not symmetric:
        stored.fits(stored.part(parts, "qzeros"), (columns // group, rows // PER_WORD), ("int32",), told)
    stored.fits(scales, (columns // group, rows), tuple(KINDS), told)
    codec = stored.linear(scales, BITS, symmetric, group, columns, config)
    spec = ArraySpec((rows, columns), stored.weight_dtype(scales, config))
    return Weight(spec, codec, parts, partial(_planes, shape=(rows, columns)), stored.check_finite)


def _planes(arrays: dict[str, np.ndarray], shape: tuple[int, int]) -> Planes:
    """The planes of a weight out of its stored tensors."""
    rows, columns = shape
    codes = np.empty((rows, -(-columns // 2)), np.uint8)
    for output, code in outputs(arrays["qweight"]):
        even, odd = code[0::2], code[1::2]
        codes[output::PER_WORD] = even.T
        codes[output::PER_WORD, : len(odd)] |= odd.T << 4
    if columns % 2:  # rows are no whole bytes: their codes follow each other
        nibbles = np.stack([codes & 15, codes >> 4], axis=-1).reshape(rows, -1)[:, :columns].reshape(-1)
        nibbles = np.append(nibbles, np.zeros(nibbles.size % 2, np.uint8))
        codes = nibbles[0::2] | nibbles[1::2] << 4
    planes = {"codes": codes, "scales": np.ascontiguousarray(arrays["scales"].T)}
    if "qzeros" in arrays:
        zeros = planes["zero_points"] = np.empty((rows, len(arrays["qzeros"])), np.int8)
        for output, code in outputs(arrays["qzeros"]):
            zeros[output::PER_WORD] = code.view(np.int8).T - np.int8(1 << (BITS - 1))
    return planes


def outputs(words: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For each of the eight outputs of a word, which one it is, and its codes (rows, words) as uint8."""
    unsigned = words.view(np.uint32)
    for nibble, output in enumerate(ORDER):
        yield output, ((unsigned >> np.uint32(BITS * nibble)) & np.uint32(15)).astype(np.uint8)
