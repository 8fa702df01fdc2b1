"""Scales and importance that a model's modules get from batches: which ones, from what, and what the model becomes."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import arraycodec as ac

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from arraycodec_torch.nn import calibrate, importance  # noqa: E402
from tests.tiny_llama import TinyLlama  # noqa: E402

INT8 = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "tensor"}
FP8 = {"num_bits": 8, "type": "float", "strategy": "tensor"}
BATCHES = [torch.tensor([[i % 7, 3 * i % 11, i % 5]]) for i in range(1, 9)]


def config(**scheme: Any) -> dict[str, Any]:
    return {"config_groups": {"g": {"targets": ["Linear"]} | scheme}, "ignore": ["lm_head"]}


class Affine(nn.Module):
    """One layer that sees just what it is given."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3, dtype=dtype)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.fc(input=x * scale)


def numbers(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor([[*values, 0.0, 0.0]], dtype=dtype)


def test_what_each_preset_stores() -> None:
    model = TinyLlama(layers=1)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]
    fp8 = calibrate(model, BATCHES, scheme="FP8")
    assert list(fp8) == [f"{name}.input_scale" for name in layers]
    assert {(s.shape, s.dtype) for s in fp8.values()} == {((1,), torch.float32)}
    nvfp4 = calibrate(model, BATCHES, scheme="NVFP4")
    assert list(nvfp4) == [f"{name}.input_global_scale" for name in layers]
    both = calibrate(model, BATCHES, scheme=config(input_activations=INT8, output_activations=FP8))
    ends = ("input_scale", "input_zero_point", "output_scale")
    assert list(both) == [f"{name}.{end}" for name in layers for end in ends]
    assert {s.dtype for name, s in both.items() if name.endswith("zero_point")} == {torch.int8}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scales_are_those_of_the_extremes_of_all_batches(dtype: torch.dtype) -> None:
    batches = [numbers(*pair, dtype=dtype) for pair in ((-1, 2), (-3, 1), (0.5, 5), (1, 1))]
    low, high = (torch.tensor([x], dtype=dtype) for x in (-3, 5))
    got = calibrate(Affine(dtype), batches, scheme=config(input_activations=INT8))
    want = ac.activation_scales(low, high, ac.Linear(8, False, None, "compressed-tensors", "eager"))
    assert torch.equal(got["fc.input_scale"], want["scales"]) and got["fc.input_scale"].dtype == dtype
    assert torch.equal(got["fc.input_zero_point"], want["zero_points"])
    got = calibrate(Affine(dtype), batches, scheme="NVFP4")
    want = ac.activation_scales(low, high, ac.NVFP4(arithmetic="eager"))
    assert torch.equal(got["fc.input_global_scale"], want["global_scale"])


@pytest.mark.parametrize(
    ("observer", "kwargs", "high"),
    [
        (None, {}, 5),
        ("static_minmax", {}, 5),
        ("memoryless_minmax", {}, 3),
        ("minmax", {}, (1 * 0.99 + 5 * 0.01) * 0.99 + 3 * 0.01),
        ("minmax", {"averaging_constant": 0.5}, 3.0),
    ],
)
def test_observers(observer: str | None, kwargs: dict[str, Any], high: float) -> None:
    scheme = config(input_activations=FP8 | {"observer": observer, "observer_kwargs": kwargs})
    got = calibrate(Affine(), [numbers(0, x) for x in (1, 5, 3)], scheme=scheme)["fc.input_scale"]
    torch.testing.assert_close(got, torch.tensor([high / 448]), rtol=1e-6, atol=0)


@pytest.mark.parametrize("strategy", ["tensor", "attn_head"])
def test_caches(strategy: str) -> None:
    model, seen = TinyLlama(layers=1), {}
    attention = model.model.layers[0].self_attn
    for what in ("k", "v"):
        layer = getattr(attention, f"{what}_proj")
        layer.register_forward_hook(lambda m, i, out, what=what: seen.setdefault(what, []).append(out))
    got = calibrate(model, BATCHES, kv_cache=FP8 | {"strategy": strategy})
    assert list(got) == [f"model.layers.0.self_attn.{what}_scale" for what in ("k", "v")]
    for what in ("k", "v"):
        outputs = torch.cat(seen[what]).flatten(0, 1).unflatten(-1, (2, 8))  # tokens, heads, head_dim
        absmax = outputs.abs().amax((0, 2)) if strategy == "attn_head" else outputs.abs().max()
        scale = got[f"model.layers.0.self_attn.{what}_scale"]
        assert scale.shape == ((2, 1, 1) if strategy == "attn_head" else (1,))
        assert torch.equal(scale.reshape(-1), (absmax / 448).reshape(-1))


def test_a_config_names_its_cache() -> None:
    whole = config(weights={"num_bits": 4, "type": "int"}) | {"kv_cache_scheme": FP8}
    assert set(calibrate(TinyLlama(), BATCHES, scheme=whole)) == {
        f"model.layers.{i}.self_attn.{what}_scale" for i in range(2) for what in ("k", "v")
    }


@pytest.mark.parametrize(
    "batch", [numbers(1, 2), (numbers(1, 2),), [numbers(0.5, 1), 2.0], {"x": numbers(0.5, 1), "scale": 2.0}]
)
def test_batches_of_every_kind(batch: Any) -> None:
    assert torch.equal(calibrate(Affine(), [batch], scheme="FP8")["fc.input_scale"], torch.tensor([2 / 448]))


def test_one_batch_at_a_time_is_held() -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def batches() -> Iterator[torch.Tensor]:
        for i in range(512):
            gc.collect(0)
            assert sum(ref() is not None for ref in alive) <= 1
            alive.append(weakref.ref(batch := numbers(i, 1)))
            yield batch
            del batch

    assert torch.equal(calibrate(Affine(), batches(), scheme="FP8")["fc.input_scale"], torch.tensor([511 / 448]))
    gc.collect()
    assert not any(ref() is not None for ref in alive)


def test_the_model_is_as_it_was() -> None:
    class Moody(Affine):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training and not torch.is_grad_enabled()
            if x.max() > 9:
                raise RuntimeError("too large")
            return super().forward(x)

    model = nn.Sequential(Moody(), nn.Dropout().eval()).train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    calibrate(model, [numbers(1, 2)], scheme="FP8")
    with pytest.raises(RuntimeError, match="too large"):
        calibrate(model, [numbers(1, 2), numbers(1, 10)], scheme="FP8")
    assert [module.training for module in model.modules()] == modes and torch.is_grad_enabled()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_shared_layer_has_its_scale_under_every_name() -> None:
    layer = nn.Linear(4, 4)
    got = calibrate(nn.Sequential(layer, layer), [numbers(1, 2)], scheme="FP8")
    assert list(got) == ["0.input_scale", "1.input_scale"] and torch.equal(*got.values())


def test_what_no_batch_reaches_is_told() -> None:
    class Half(Affine):
        def __init__(self) -> None:
            super().__init__()
            self.expert = nn.Linear(4, 3)

    with pytest.warns(UserWarning, match="no batch reached expert.input"):
        assert list(calibrate(Half(), [numbers(1, 2)], scheme="FP8")) == ["fc.input_scale"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(Half(), [numbers(1, 2)], scheme="FP8", ignore=["expert"])


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (Affine(), {"scheme": "FP8", "ignore": ["fc"]}, "nothing to find"),
        (Affine(), {}, "nothing to find"),
        (Affine(), {"scheme": "W9"}, "calibrate: scheme must be one of"),
        (Affine(), {"scheme": config(input_activations=FP8 | {"observer": "mse"})}, "observer must be one of"),
        (
            Affine(),
            {"scheme": config(input_activations=INT8 | {"strategy": "group", "group_size": 2})},
            "one for a tensor, got strategy group",
        ),
        (Affine(), {"kv_cache": FP8}, "no module called self_attn"),
        (TinyLlama(), {"kv_cache": FP8 | {"strategy": "channel"}}, "tensor or attn_head"),
        (TinyLlama(), {"kv_cache": FP8 | {"bits": 3}}, "'bits' is not known"),
    ],
)
def test_refusals(model: nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ac.ArgumentError, ac.FormatError), match=message):
        calibrate(model, BATCHES, **options)


@pytest.mark.parametrize("scheme", ["W4A16", "W8A8"])  # no scales of activations, and dynamic ones
def test_a_scheme_that_needs_no_scales_gives_none(scheme: str) -> None:
    def batches() -> Iterator[torch.Tensor]:
        raise AssertionError("the model must not run")
        yield

    assert calibrate(Affine(), batches(), scheme=scheme) == {}


def test_refusals_while_running() -> None:
    with pytest.raises(ac.ArgumentError, match="at least one batch"):
        calibrate(Affine(), [], scheme="FP8")
    with pytest.raises(ac.NonFiniteError, match=r"fc.input holds infinite"):
        calibrate(Affine(), [numbers(1, float("inf"))], scheme="FP8")
    empty = torch.zeros(0, 4)
    with pytest.warns(UserWarning, match="no batch reached"):
        assert calibrate(Affine(), [empty], scheme="FP8") == {}


def test_importance_is_the_mean_square_of_inputs() -> None:
    model = Affine(torch.bfloat16)
    batches = [numbers(1, 2, dtype=torch.bfloat16), {"x": torch.ones(2, 3, 4, dtype=torch.bfloat16), "scale": 3.0}]
    training, got = model.train(), importance(model, batches)
    assert list(got) == ["fc.weight"] and training.training and not model.fc._forward_hooks
    assert got["fc.weight"].dtype == torch.float32
    assert torch.equal(got["fc.weight"], torch.tensor([55, 58, 54, 54], dtype=torch.float64).div(7).float())


def test_importance_is_of_the_names_that_a_file_has() -> None:
    model = TinyLlama(layers=1)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    got = importance(model, BATCHES)
    assert list(got) == [f"{name}.weight" for name in layers if name != "lm_head"]
    assert list(importance(model, BATCHES, ignore=["re:.*layers", "fc"])) == ["lm_head.weight"]
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            assert got[f"{name}.weight"].shape == (module.in_features,)
    assert set(got) < set(model.state_dict())


def test_layers_that_share_a_weight_add_up() -> None:
    a, b = nn.Linear(4, 4), nn.Linear(4, 4)
    b.weight = a.weight
    model = nn.Sequential(a, nn.ReLU(), a, b)
    inputs = [numbers(1, 2)]
    with torch.no_grad():
        second = model[1](model[0](inputs[0]))
        rows = torch.cat([inputs[0], second, model[2](second)]).double()
    got = importance(model, inputs)
    assert list(got) == ["0.weight"]
    torch.testing.assert_close(got["0.weight"], rows.square().mean(0).float(), rtol=1e-6, atol=0)


def test_what_importance_leaves_out_and_refuses() -> None:
    model = nn.ModuleDict({"fc": nn.Linear(4, 3), "expert": nn.Linear(4, 3), "dead": nn.Linear(4, 3)})
    model.forward = lambda x: (model["fc"](x), model["dead"](0 * x), model["expert"](x[:0]))
    with pytest.warns(UserWarning, match=r"no batch reached expert.weight, dead.weight, or only with zeros"):
        assert list(importance(model, [numbers(1, 2)])) == ["fc.weight"]
    with pytest.raises(ac.ArgumentError, match="importance: batches must hold at least one batch"):
        importance(Affine(), [])
    with pytest.raises(ac.ArgumentError, match=r"no nn.Linear that is not ignored"):
        importance(Affine(), BATCHES, ignore=["fc"])
    with pytest.raises(ac.NonFiniteError, match=r"inputs of fc.weight hold infinite"):
        importance(Affine(), [numbers(1, float("nan"))])
