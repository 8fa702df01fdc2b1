"""Which norm stands in front of which linear layers, in Llama and models that name their layers alike."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from arraycodec.containers import checks
from arraycodec.errors import ArgumentError
from arraycodec.formats.compressed_tensors.transforms import (
    ATTENTION_IN,
    ATTENTION_OUT,
    EMBEDDING,
    HEAD,
    MLP_IN,
    MLP_OUT,
    ROUTERS,
)
from arraycodec.formats.modules import module_of

LM_HEAD = "lm_head"
# Linear layers -> the norm in front of them, as a pattern and its replacement.
_LAYER = r"^(.*?)(?:self_attn|mlp|block_sparse_moe)\..*$"
NORMS = {
    ATTENTION_IN: r"\1input_layernorm",
    MLP_IN: r"\1post_attention_layernorm",
    ROUTERS: r"\1post_attention_layernorm",
}
LAST_NORM = r"(?!.*layers\.)(?:.*\.)?norm$"
# What these models hold besides, which no rotation between layers concerns.
OTHERS = (ATTENTION_OUT, MLP_OUT, EMBEDDING, HEAD, LAST_NORM, r".*\.(?:input|post_attention)_layernorm$",
          r".*self_attn\.[qk]_norm$", r".*rotary_emb$")  # fmt: skip


def folds_of(tensors: Mapping[str, Any]) -> dict[str, str]:
    """Linear layer -> the name of the norm's weight that is folded into it."""
    modules = dict.fromkeys(module_of(name)[0] for name in tensors)
    for module in modules:
        if not any(re.match(pattern, module) for pattern in (*NORMS, *OTHERS)):
            raise ArgumentError(
                f"fuse: {checks.shown(module)} is not a layer that Llama or its like has: where norms are folded all "
                "layers must be known"
            )
    norms = {
        module: re.sub(_LAYER, norm, module)
        for module in modules
        for pattern, norm in NORMS.items()
        if re.match(pattern, module)
    }
    last = [module for module in modules if re.match(LAST_NORM, module)]
    if len(last) != 1:
        raise ArgumentError(f"fuse: there must be one norm in front of {LM_HEAD}, got {last}")
    norms[LM_HEAD] = last[0]
    for module, norm in norms.items():
        if f"{norm}.weight" not in tensors:
            raise ArgumentError(f"fuse: there is no {norm}.weight to fold into {module}")
        if f"{norm}.bias" in tensors:
            raise ArgumentError(f"fuse: {norm} has a bias: only norms that subtract no mean can be folded")
    return {module: f"{norm}.weight" for module, norm in norms.items()}
