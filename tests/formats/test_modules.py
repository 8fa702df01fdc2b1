"""Which modules weights belong to, by name, rank and shape."""

import pytest

from arraycodec.formats.modules import fused_sets, kind, module_of
from arraycodec.spec import ArraySpec


def test_module_and_parameter():
    assert module_of("a.b.weight") == ("a.b", "weight") and module_of("w") == ("", "w")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (8, 8), "Linear"),
        ("model.layers.0.mlp.experts.7.w1.weight", (8, 8), "Linear"),
        ("lm_head.weight", (8, 8), "Linear"),
        ("gpt_neox.embed_out.weight", (8, 8), "Linear"),
        ("encoder.time_embedding.linear_1.weight", (8, 8), "Linear"),
        ("model.layers.0.mlp.up_proj.bias", (8,), None),
        ("model.layers.0.mlp.up_proj.weight", (8,), None),
        ("w", (8, 8), None),
        ("vision.pos_embed", (1, 8, 8), None),
        ("model.embed_tokens.weight", (8, 8), "Embedding"),
        ("transformer.wte.weight", (8, 8), "Embedding"),
        ("bert.embeddings.word_embeddings.weight", (8, 8), "Embedding"),
        ("bert.embeddings.position_embeddings.weight", (8, 8), "Embedding"),
        ("shared.weight", (8, 8), "Embedding"),
        ("token_embd.weight", (8, 8), "Embedding"),
        ("model.layers.0.input_layernorm.weight", (8,), "Norm"),
        ("model.norm.weight", (8,), "Norm"),
        ("h.0.ln_1.weight", (8,), "Norm"),
        ("h.0.ln_f.weight", (8,), "Norm"),
        ("bert.embeddings.LayerNorm.weight", (8,), "Norm"),
        ("blk.0.attn_norm.weight", (8,), "Norm"),
        ("block.norm1.weight", (8,), "Norm"),
        ("block.norm1.linear.weight", (8, 8), "Linear"),
        ("model.layers.0.mlp.gate.weight", (4, 8), "Router"),
        ("model.layers.0.mlp.gate_proj.weight", (8, 8), "Linear"),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 8, 8), "Experts"),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (4, 8), None),
        ("blk.0.ffn_gate_exps.weight", (4, 8, 8), "Experts"),
        ("conv_in.weight", (8, 4, 3, 3), "Conv2d"),
        ("mixer.conv1d.weight", (8, 1, 4), "Conv1d"),
        ("patch_embed.proj.weight", (8, 3, 2, 4, 4), "Conv3d"),
    ],
)
def test_kind(name, shape, expected):
    assert kind(name, ArraySpec(shape, "bfloat16")) == expected


def test_fused_sets_lie_below_one_parent():
    layer = [
        f"l.0.{part}.weight" for part in ("attn.v_proj", "attn.k_proj", "attn.q_proj", "mlp.up_proj", "mlp.gate_proj")
    ]
    experts = [f"l.1.experts.{i}.{part}.weight" for i in (0, 1) for part in ("w1", "w2", "w3")]
    latent = ["l.2.q_a_proj.weight", "l.2.kv_a_proj_with_mqa.weight", "l.2.q_b_proj.weight", "l.3.q_a_proj.weight"]
    assert fused_sets([*layer, *experts, *latent]) == [
        tuple(layer[:3]), tuple(layer[3:]), (experts[0], experts[2]), (experts[3], experts[5]), tuple(latent[:2]),
    ]  # fmt: skip
    assert fused_sets(["l.0.q_proj.weight", "l.0.k_proj.bias"]) == []
