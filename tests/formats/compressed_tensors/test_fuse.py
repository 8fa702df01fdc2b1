"""Rotations and norms in the weights of a model: it computes what it did, and the library has the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.formats.compressed_tensors.fuse import Fused
from arraycodec.rotations import round_once
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compare import same_bits
from tests.codecs.peers import needs

torch = pytest.importorskip("torch")
from tests.tiny_llama import TinyLlama  # noqa: E402

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5, 8, 9, 7, 9, 3]])


def logits(state: Mapping[str, Any], **options: Any) -> Any:
    model = TinyLlama(dtype=torch.float64, seed=99, **options)
    model.load_state_dict({name: torch.as_tensor(value) for name, value in state.items()})
    with torch.no_grad():
        return model(TOKENS)


def state(**options: Any) -> dict[str, Any]:
    return TinyLlama(dtype=torch.float64, **options).state_dict()


RECIPES: list[tuple[str | None, dict[str, Any], dict[str, Any]]] = [
    (None, {}, {}),
    ("spinquant-r1", {}, {}),
    ("spinquant-r1", {}, {"bias": True}),
    ("spinquant-r1", {"seed": 7}, {"n": 48, "heads": 4, "inner": 40}),
    ("spinquant-r1-r2", {"head_dim": 8}, {"bias": True}),
    ("spinquant-r1-r2", {"head_dim": 12, "seed": 1}, {"n": 48, "groups": 4}),
]


@pytest.mark.parametrize(("recipe", "options", "model"), RECIPES)
def test_a_model_computes_what_it_did(recipe: str | None, options: dict[str, Any], model: dict[str, Any]) -> None:
    before = state(**model)
    fused = ac.fuse(before, recipe, **options)
    after = dict(fused)
    assert list(after) == list(before) and not fused.untied
    assert all((after[name] == 1).all() for name in after if "norm" in name)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert "model.layers.1.self_attn.q_proj.weight" in changed
    torch.testing.assert_close(logits(after, **model), logits(before, **model), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "left_out", ["model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "lm_head.weight"]
)
def test_the_comparison_can_fail(left_out: str) -> None:
    before = state()
    after = dict(ac.fuse(before, "spinquant-r1"))
    after[left_out] = before[left_out]
    assert (logits(after) - logits(before)).abs().max() > 1e-3


def test_a_rotation_can_be_taken_back() -> None:
    before = state()
    config = ac.rotation_config("spinquant-r1")
    back = json.loads(json.dumps(config))
    for use in back["config_groups"]["R1"]["apply"]:
        use["inverse"] = not use["inverse"]
    again = ac.fuse(ac.fuse(before, config, fold_norms=False), back, fold_norms=False)
    for name in before:
        torch.testing.assert_close(again[name], before[name], rtol=0, atol=1e-14)


def test_a_shared_head_becomes_one_of_its_own() -> None:
    before = state()
    before["lm_head.weight"] = before["model.embed_tokens.weight"]
    shared = {name: value for name, value in before.items() if name != "lm_head.weight"}
    fused = ac.fuse(shared, "spinquant-r1")
    assert fused.untied and len(fused) == len(before)
    torch.testing.assert_close(logits(fused), logits(before), rtol=0, atol=1e-12)


def test_norms_are_folded_where_they_must_be() -> None:
    """A recipe's configuration is as good as its name; one that stays within layers needs no norms folded."""
    before = state()
    after = ac.fuse(before, ac.rotation_config("spinquant-r1"))
    assert all(torch.equal(after[name], value) for name, value in ac.fuse(before, "spinquant-r1").items())
    within = ac.rotation_config("spinquant-r1-r2", head_dim=8)
    del within["config_groups"]["R1"]
    after = dict(ac.fuse(before, within))
    assert torch.equal(after["model.norm.weight"], before["model.norm.weight"])
    torch.testing.assert_close(logits(after), logits(before), rtol=0, atol=1e-12)


def test_norms_that_hold_differences_to_one() -> None:
    before = state()
    stored = {name: value - 1 if "norm" in name else value for name, value in before.items()}
    after = ac.fuse(stored, None, norm_offset=1)
    assert all((after[name] == 0).all() for name in after if "norm" in name)
    up = "model.layers.0.mlp.up_proj.weight"
    torch.testing.assert_close(after[up], ac.fuse(before, None)[up], rtol=1e-15, atol=0)


def test_quip_leaves_its_inverses_to_the_model() -> None:
    """What the library's hooks would do, x -> x V and y -> y U^-1, done by hand around one layer."""
    w, x = np.random.default_rng(0).standard_normal((2, 16, 16))
    fused = ac.fuse({"up.weight": w[:8], "lm_head.weight": w}, "quip", seed=4)
    assert list(fused) == ["up.weight", "lm_head.weight", "up.v_input.weight", "up.u_output.weight"]
    v, u = (fused[name] / np.sqrt(n) for name, n in (("up.v_input.weight", 16), ("up.u_output.weight", 8)))
    np.testing.assert_allclose((x @ v) @ fused["up.weight"].T @ u.T, x @ w[:8].T, atol=1e-12)
    assert fused["lm_head.weight"] is w


def test_stored_matrices_are_used() -> None:
    rng = np.random.default_rng(0)
    w, v = rng.integers(-8, 8, (4, 8)).astype(np.float64), rng.standard_normal((8, 8))
    use = {"targets": ["Linear"], "location": "weight_input", "inverse": True}
    config = {"config_groups": {"g": {"type": "random-matrix", "apply": [use]}}}
    got = ac.fuse({"a.weight": w}, config, matrices={"b.g_input.weight": v})["a.weight"]
    np.testing.assert_allclose(got, w @ np.linalg.inv(v).T, atol=1e-12)
    config["config_groups"]["g"]["type"] = "random-hadamard"
    h = ac.hadamard(8, seed=3).astype(np.float32)
    got = ac.fuse({"a.weight": w}, config, matrices={"b.g_input.weight": h})["a.weight"]
    same_bits(got, ac.rotate(w, "input", seed=3, inverse=True), "given or made")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_files_and_frameworks(dtype: str, tmp_path: Path) -> None:
    """From a file, from NumPy and from torch come the same bits, rounded once."""
    arrays = {n: v.numpy().astype(np.float32).astype(numpy_dtype(dtype)) for n, v in state().items()}
    ac.save_file(arrays, tmp_path / "model.safetensors")
    wide = ac.fuse({name: value.astype(np.float64) for name, value in arrays.items()}, "spinquant-r1-r2", head_dim=8)
    with ac.open_checkpoint(tmp_path / "model.safetensors") as model:
        fused = ac.fuse(model, "spinquant-r1-r2", head_dim=8)
        same = ac.fuse({n: ac.load_file(tmp_path / "model.safetensors", framework="torch")[n] for n in model},
                       "spinquant-r1-r2", head_dim=8)  # fmt: skip
        for name, array in arrays.items():
            got = fused[name]
            assert got.dtype == array.dtype and same[name].dtype == getattr(torch, dtype)
            same_bits(got, round_once(wide[name], dtype), name)
            same_bits(got.astype(np.float32), same[name].float().numpy(), name)


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    class Lazy(dict):
        def __getitem__(self, name: str) -> Any:
            asked.append(name)
            return super().__getitem__(name)

    asked: list[str] = []
    fused = ac.fuse(Lazy(state()), "spinquant-r1")
    assert not asked and "lm_head.weight" in fused and "lm_head.bias" not in fused and not asked
    fused["model.layers.0.mlp.up_proj.weight"]
    assert set(asked) == {"model.layers.0.mlp.up_proj.weight", "model.layers.0.post_attention_layernorm.weight"}


def use(**members: Any) -> dict[str, Any]:
    return {"targets": ["Linear"], "location": "weight_input"} | members


def group(**members: Any) -> dict[str, Any]:
    return {"config_groups": {"g": {"type": "hadamard", "apply": [use()]} | members}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (group(type="fourier"), "config_groups.'g': type must be one of hadamard"),
        (group(randomize=True), "randomize must be false"),
        (group(head_dim=0), "head_dim must be a positive integer"),
        (group(precision="torch.half"), "precision must be a dtype"),
        (group(apply={}), "g': apply"),
        (group(apply=5), "apply must be a list"),
        (group(apply=[use(location="weight")]), r"apply\[0\]: location must be one of"),
        (group(apply=[use(inverse=1)]), "inverse must be true or false"),
        (group(apply=[use(targets=[3])]), "targets: must be a list of strings"),
        (group(apply=[use(extra=1)]), "'extra' is not known"),
        ({"groups": {}}, "'groups' is not known"),
        ({"config_groups": []}, ""),
    ],
)
def test_a_config_that_is_none(config: dict[str, Any], message: str) -> None:
    if config == {"config_groups": []} or message == "g': apply":
        ac.fuse({}, config)  # empty, as null is
        return
    with pytest.raises(ac.FormatError, match=message):
        ac.fuse({}, config)


def test_what_cannot_be_fused() -> None:
    whole = state()

    def without(*names: str, **more: Any) -> dict[str, Any]:
        return {name: value for name, value in whole.items() if name not in names} | more

    norm = "model.layers.0.input_layernorm"
    for tensors, message in [
        (without(f"{norm}.weight"), f"there is no {norm}.weight"),
        (without(**{f"{norm}.bias": whole["model.norm.weight"]}), "subtract no mean"),
        (without("model.norm.weight"), "one norm in front of lm_head"),
        (without(**{"model.layers.0.conv.weight": whole["model.norm.weight"]}), "not a layer that Llama"),
    ]:
        with pytest.raises(ac.ArgumentError, match=message):
            ac.fuse(tensors, "spinquant-r1")
    with pytest.raises(ac.ArgumentError, match="type hadamard takes powers of two, got 12"):
        ac.fuse({"a.weight": np.zeros((4, 12))}, group())["a.weight"]
    with pytest.raises(ac.ArgumentError, match="no matrix of order 12: give a seed"):
        ac.fuse({"a.weight": np.zeros((4, 12))}, group(type="random-hadamard"))["a.weight"]
    with pytest.raises(ac.ArgumentError, match="no matrix of order 12: matrices must"):
        ac.fuse({"a.weight": np.zeros((4, 12))}, group(type="random-matrix"), seed=1)["a.weight"]
    with pytest.raises(ac.ArgumentError, match=r"'a.weight': .*got int8"):
        ac.fuse({"a.weight": np.zeros((4, 8), np.int8)}, group())["a.weight"]
    refused: list[tuple[dict[str, Any], str]] = [
        ({"recipe": "spinquant"}, "one of spinquant-r1"),
        ({"recipe": "quip", "type": "x"}, "type must be"),
        ({"recipe": "spinquant-r1-r2"}, "head_dim must be given"),
    ]
    for options, message in refused:
        with pytest.raises(ac.ArgumentError, match=message):
            ac.rotation_config(**options)


# -- the library


def library_state(model: Any, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A model to which compressed-tensors has applied a transform_config, and its state."""
    from compressed_tensors.transform import TransformConfig, apply_transform_config

    apply_transform_config(model, TransformConfig.model_validate(config))
    return model, model.state_dict()


@pytest.mark.level("full")
@needs("compressed_tensors")
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("recipe", ["spinquant-r1", "spinquant-r1-r2", "quip"])
def test_weights_are_those_of_the_library(recipe: str, dtype: str) -> None:
    """The float64 numbers are: for 16 bits to the bit, since their sums are exact; then it rounds by way of float32."""
    own = TinyLlama(n=64, inner=128, bias=True, dtype=getattr(torch, dtype))
    tensors = {name: value.clone() for name, value in own.state_dict().items()}
    config = ac.rotation_config(recipe, head_dim=16 if recipe != "quip" else None)
    model, theirs = library_state(own, config)
    narrow = dtype in ("bfloat16", "float16")
    twice = (
        {"model.layers.0.self_attn.o_proj.weight", "model.layers.1.self_attn.o_proj.weight"}
        if "r2" in recipe
        else set()
    )
    twice = set(tensors) if recipe == "quip" else twice | {n for n in tensors if "r2" in recipe and ".v_proj." in n}
    wide = ac.fuse({name: value.double() for name, value in tensors.items()}, config, fold_norms=False)
    exact = ac.fuse(tensors, config, fold_norms=False)
    for name in tensors:
        got, cast, other = exact[name], wide[name].to(getattr(torch, dtype)), theirs[name]
        if narrow and name not in twice:
            assert torch.equal(cast, other), name
        torch.testing.assert_close(got, other, rtol=0.02 if narrow else 1e-5, atol=1e-2 if narrow else 1e-6)
        if name not in twice:
            assert (got != other).float().mean() < 0.01, name  # rounded once and twice
    online = {name: value for name, value in theirs.items() if name not in tensors}
    assert {name for name in exact if name not in tensors} <= set(online)
    for name in set(exact) - set(tensors):
        assert torch.equal(torch.as_tensor(exact[name]), online[name]), name
    assert (recipe == "quip") == bool(online)
    del model


@pytest.mark.level("full")
@needs("compressed_tensors")
@pytest.mark.parametrize("kind", ["random-hadamard", "random-matrix"])
def test_matrices_of_the_library_are_read(kind: str) -> None:
    """Both sides of each layer by matrices that it drew and stored: the same weights from them and the plain ones."""
    own = TinyLlama(n=24, inner=40, dtype=torch.float64)
    tensors = {name: value.clone() for name, value in own.state_dict().items()}
    config = ac.rotation_config("quip", type=kind)
    _, theirs = library_state(own, config)
    fused = ac.fuse(tensors, config, matrices=theirs)
    assert isinstance(fused, Fused)
    for name in tensors:
        torch.testing.assert_close(fused[name], theirs[name], rtol=1e-9, atol=1e-9)
    assert any(not torch.equal(fused[name], tensors[name]) for name in tensors)


@pytest.mark.level("full")
@needs("transformers")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Qwen3Moe", "Mixtral"])
def test_models_of_transformers_compute_what_they_did(family: str, tied: bool, tmp_path: Path) -> None:
    """From folder to folder: rotary embedding, biases of Qwen 2, norms of heads of Qwen 3, experts and routers."""
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": tied}
    if family in ("Qwen3Moe", "Mixtral"):
        sizes |= {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    config = getattr(transformers, f"{family}Config")(**sizes, **heads)
    make = getattr(transformers, f"{family}ForCausalLM")
    model = make(config).double().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(tmp_path / "plain")
    (tmp_path / "rotated").mkdir()
    with ac.open_checkpoint(tmp_path / "plain") as checkpoint:
        fused = ac.fuse(checkpoint, "spinquant-r1-r2", head_dim=16, seed=2)
        assert fused.untied == tied
        ac.save_file(fused, tmp_path / "rotated/model.safetensors", metadata={"format": "pt"})
    described = json.loads((tmp_path / "plain/config.json").read_text()) | {"tie_word_embeddings": False}
    (tmp_path / "rotated/config.json").write_text(json.dumps(described))
    rotated = make.from_pretrained(tmp_path / "rotated", dtype=torch.float64).eval()
    assert not torch.equal(rotated.model.embed_tokens.weight, model.model.embed_tokens.weight)
    for each in (model, rotated):
        each.config._experts_implementation = "eager"  # which knows float64
    with torch.no_grad():
        torch.testing.assert_close(rotated(TOKENS).logits, model(TOKENS).logits, rtol=0, atol=1e-5)
