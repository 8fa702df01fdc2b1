"""A live torch model as compressed-tensors stores it: classes of modules count, and the model stays as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arraycodec as ac
from arraycodec_conformance.compare import same_bits

torch = pytest.importorskip("torch")


class Projection(torch.nn.Linear):
    """A subclass is a Linear too."""


def model() -> Any:
    torch.manual_seed(1)
    return torch.nn.ModuleDict(
        {
            "up_proj": torch.nn.Embedding(16, 256),  # whatever it is called
            "norm": Projection(256, 64, bias=False),
            "gate": torch.nn.Linear(256, 128),
            "conv": torch.nn.Conv1d(4, 4, 3),
        }
    ).to(torch.bfloat16)


def test_classes_say_what_is_quantised() -> None:
    from arraycodec_torch.nn import to_compressed_tensors

    live = model()
    before = {name: value.clone() for name, value in live.state_dict().items()}
    state, config = to_compressed_tensors(live, "W4A16", ignore=["gate"])
    kept = {"up_proj.weight", "gate.weight", "gate.bias", "conv.weight", "conv.bias"}
    assert set(state) == kept | {f"norm.weight_{part}" for part in ("packed", "scale", "shape")}
    assert config["ignore"] == ["gate"] and all(isinstance(value, torch.Tensor) for value in state.values())
    assert all(torch.equal(value, before[name]) for name, value in live.state_dict().items())
    assert all(state[name] is not None and torch.equal(state[name], before[name]) for name in kept)
    want, _ = ac.to_compressed_tensors({"a.weight": before["norm.weight"]}, "W4A16")
    assert torch.equal(state["norm.weight_packed"], want["a.weight_packed"])
    _, config = to_compressed_tensors(live, {"Embedding": "W8A16", "gate": "W4A16"})
    assert config["ignore"] == ["norm", "lm_head"] and len(config["config_groups"]) == 2


def test_a_model_that_is_a_linear_has_names_without_a_module() -> None:
    from arraycodec_torch.nn import to_compressed_tensors

    state, config = to_compressed_tensors(torch.nn.Linear(128, 8), "FP8_DYNAMIC")
    assert set(state) == {"weight", "weight_scale", "bias"} and config["format"] == "float-quantized"


def test_quantised_modules_give_their_planes() -> None:
    from arraycodec_torch.nn import quantize_model, to_compressed_tensors

    live = model()
    quantize_model(live, ac.Linear(4, False, (1, 128)), include="gate.weight", exclude="*")
    planes = live["gate"].encoded.planes
    state, config = to_compressed_tensors(live, {"gate": "W4A16_ASYM"})
    assert config["ignore"] == ["norm", "lm_head"] and state["gate.weight_scale"].dtype == torch.float32
    same_bits(state["gate.weight_packed"].numpy().view(np.uint8), planes["codes"].numpy(), "codes")
    want = ac.decode(live["gate"].encoded)
    state, _ = to_compressed_tensors(live, "W8A8")  # other planes: decoded and encoded
    again, _ = ac.to_compressed_tensors({"a.weight": want}, "W8A8")
    assert torch.equal(state["gate.weight"], again["a.weight"]) and state["gate.bias"].shape == (128,)
