"""Names of weights: the module they belong to, of which class it most likely is, and which weights are fused.

A checkpoint holds no classes, so what its modules are is read from names, ranks and shapes by the tables below. That
is a guess where a model names its layers in a way of its own: exact names and `re:` patterns always say it better.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from arraycodec.spec import ArraySpec

WEIGHT = "weight"
# The last part of a module's name -> its class; the first row that matches the whole part counts, in any case.
CLASSES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern, re.IGNORECASE))
    for name, pattern in (
        ("Linear", r"lm_head|embed_out|output"),
        ("Norm", r".*norm_?\d*|(?:.*_)?(?:ln|bn)(?:_\w+|\d+)?"),
        (
            "Embedding",
            r"wte|wpe|shared|embed_\w+|(?:.*_)?(?:embed|embeds|emb|embd|embeddings?)|relative_attention_bias",
        ),
        ("Router", r"gate|router|gate_inp|shared_expert_gate|classifier_router"),
    )
)
EXPERTS = re.compile(r"(?:^|[._])(?:experts|exps)(?:$|[._])")
# Models that have transformers' Conv1D, and what these are called there.
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D_NAMES = ("c_attn", "q_attn", "c_proj", "c_fc")
# Scales of activations and of caches, which a calibration found.
CALIBRATED = re.compile(r"(?:.*\.)?(?:(?:input|output)_(?:scale|zero_point|global_scale)|[qkv]_(?:scale|zero_point))")
# Modules whose outputs kernels compute in one product, by the last parts of their names beneath one parent.
FUSED: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "q_proj k_proj v_proj", "query key value", "wq wk wv", "q k v", "to_q to_k to_v", "attn_q attn_k attn_v",
        "gate_proj up_proj", "w1 w3", "ffn_gate ffn_up", "q_a_proj kv_a_proj_with_mqa", "wq_a wkv_a",
    )
)  # fmt: skip


def module_of(name: str) -> tuple[str, str]:
    """The module and the parameter of a tensor's name; the module is "" where the name has no dot.

    >>> module_of("model.layers.0.mlp.up_proj.weight")
    ('model.layers.0.mlp.up_proj', 'weight')
    """
    module, _, parameter = name.rpartition(".")
    return module, parameter


def kind(name: str, spec: ArraySpec) -> str | None:
    """The class of the module that a weight most likely is of; None for what is no weight (biases, scales, buffers).

    "Linear"     a matrix called `*.weight` that is nothing of the following
    "Embedding"  by its name: `embed_tokens`, `wte`, `wpe`, `shared`, `word_embeddings`, ...
    "Norm"       by its name: `norm`, `input_layernorm`, `ln_f`, ...
    "Router"     of a mixture of experts, by its name: `gate`, `router`. Often no Linear, and small: best left plain
    "Experts"    stacked experts: three axes below `experts`, with or without `.weight`
    "Conv1d" "Conv2d" "Conv3d"  a weight of three, four or five axes

    The tables are `CLASSES` and `EXPERTS` of this module. `lm_head` is a Linear. The Conv1D of GPT-2, whose matrices
    are transposed, is one by its name; `conv1d` tells.

    >>> kind("model.layers.0.mlp.up_proj.weight", ArraySpec((64, 32), "bfloat16"))
    'Linear'
    >>> kind("model.embed_tokens.weight", ArraySpec((100, 32), "bfloat16"))
    'Embedding'
    """
    module, parameter = module_of(name)
    rank = len(spec.shape)
    if rank == 3 and EXPERTS.search(name) and not parameter.endswith("bias"):
        return "Experts"
    if parameter != WEIGHT:
        return None
    if rank in (3, 4, 5):
        return f"Conv{rank - 2}d"
    leaf = module.rpartition(".")[2]
    for found, pattern in CLASSES:
        if pattern.fullmatch(leaf):
            return found if rank == 2 or (found == "Norm" and rank == 1) else None
    return "Linear" if rank == 2 and module else None


def conv1d(specs: Mapping[str, ArraySpec], model: Mapping[str, Any]) -> set[str]:
    """The weights among these that are of a `Conv1D` of transformers: (in, out), where a Linear has (out, in).

    By config.json, whose model_type is one of `CONV1D_MODELS`, or by a bias that has as many elements as the matrix has
    columns, and not rows.

    >>> conv1d({"up.weight": ArraySpec((64, 256), "float32"), "up.bias": ArraySpec((256,), "float32")}, {})
    {'up.weight'}
    """
    found = set()
    for name, spec in specs.items():
        if kind(name, spec) != "Linear":
            continue
        module, _ = module_of(name)
        bias = specs.get(f"{module}.bias")
        rows, columns = spec.known_shape
        known = model.get("model_type") in CONV1D_MODELS and module.rpartition(".")[2] in CONV1D_NAMES
        if known or (bias is not None and bias.shape == (columns,) and rows != columns):
            found.add(name)
    return found


def calibrated(name: str) -> bool:
    """Whether a tensor is a scale of activations or of a cache, which says nothing about any weight.

    >>> calibrated("layers.0.self_attn.k_scale"), calibrated("layers.0.mlp.up_proj.weight_scale")
    (True, False)
    """
    return CALIBRATED.fullmatch(name) is not None


def fused_sets(names: Iterable[str]) -> list[tuple[str, ...]]:
    """The weights among these that belong together, as kernels fuse them: queries, keys and values; gate and up.

    Such a set shares its global scale, where the format has one. Each has two weights or more, below one parent and
    in the order of `names`; the table is `FUSED`.

    >>> fused_sets(["a.q_proj.weight", "a.o_proj.weight", "a.k_proj.weight", "b.q_proj.weight"])
    [('a.q_proj.weight', 'a.k_proj.weight')]
    """
    found: dict[tuple[str, str, frozenset[str]], list[str]] = {}
    for name in names:
        module, parameter = module_of(name)
        parent, _, leaf = module.rpartition(".")
        for members in FUSED:
            if leaf in members:
                found.setdefault((parent, parameter, members), []).append(name)
    return [tuple(group) for group in found.values() if len(group) > 1]
