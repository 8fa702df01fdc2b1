"""What names of stored tensors tell of the format they are in: no part of a quantised weight passes for a weight."""

from __future__ import annotations

from collections.abc import Mapping

from arraycodec.containers.lazy import LazyTensor
from arraycodec.primitives.floats import KINDS

BITSANDBYTES, SPARSE = "bitsandbytes", "sparse compressed-tensors"
# The end of a name -> the formats whose weights have such a part.
ENDINGS = {
    ".weight_packed": "compressed-tensors",
    ".qweight": "GPTQ or AWQ",
    ".qzeros": "GPTQ or AWQ",
    "_scale_inv": "block fp8",
    ".quant_map": BITSANDBYTES,
    ".nested_absmax": BITSANDBYTES,
    ".nested_quant_map": BITSANDBYTES,
    ".SCB": BITSANDBYTES,
}
# The same for names that others use too: they count beside the tensor that they belong to.
ABSMAX, COMPRESSED, BITMASK = ".absmax", ".compressed", ".bitmask"
STATE = ".quant_state.bitsandbytes__"
SCALED = "compressed-tensors, ModelOpt or an fp8 format"


def seen(raw: Mapping[str, LazyTensor]) -> tuple[LazyTensor, str] | None:
    """The first of these tensors that is a part of a quantised weight by its name, and whose; None where none is."""
    for key, tensor in raw.items():
        if (told := _whose(key, tensor, raw)) is not None:
            return tensor, told
    return None


def _whose(key: str, tensor: LazyTensor, raw: Mapping[str, LazyTensor]) -> str | None:
    for ending, told in ENDINGS.items():
        if f".{key}".endswith(ending):
            return told
    if STATE in f".{key}" or (key.endswith(ABSMAX) and key.removesuffix(ABSMAX) in raw):
        return BITSANDBYTES
    if key.endswith(COMPRESSED) and key.removesuffix(COMPRESSED) + BITMASK in raw:
        return SPARSE
    # Scales beside floats belong to a weight that is yet to be quantised.
    codes = tensor.dtype not in KINDS and (key.endswith("weight") or tensor.dtype.startswith("float8"))
    return SCALED if codes and f"{key}_scale" in raw else None
