"""torch modules in training and production: gradients, memory, conversions, copies, compilers, processes."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.library import opcheck

import arraycodec as ac
from arraycodec_torch import ops
from arraycodec_torch.nn import Linear4bit, Linear8bitLt, QuantizedLinear, linear
from tests.backends.torch_layers import DTYPES, bits, dense, normal

# -- gradients and memory


@pytest.mark.parametrize("scheme", ["nf4", "int8-channel", "llm_int8", "nvfp4"])
def test_gradcheck(scheme: str) -> None:
    layer = QuantizedLinear.from_float(dense(8, 16), scheme)
    x = normal(3, 2, 16, dtype=torch.float64).requires_grad_()
    bias = normal(8, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, b: linear(x, layer.encoded, b), (x, bias))
    assert torch.autograd.gradgradcheck(lambda x, b: linear(x, layer.encoded, b), (x, bias))


@pytest.mark.parametrize("layer", [Linear4bit.from_float(dense()), Linear8bitLt.from_float(dense(), threshold=2.0)])
def test_gradients_are_those_of_the_decoded_weight(layer: QuantizedLinear) -> None:
    for dtype in DTYPES:
        x = normal(5, 64, dtype=dtype).requires_grad_()
        layer(x).backward(grad := normal(5, 32, seed=3, dtype=dtype))
        assert torch.equal(x.grad, (grad @ ac.decode(layer.encoded).to(dtype)).to(dtype))
        assert torch.equal(layer.bias.grad, grad.sum(0).float())
        layer.bias.grad = None


def chain(kind: Callable[[], nn.Module], layers: int = 6) -> nn.Sequential:
    return nn.Sequential(*[kind() for _ in range(layers)])


def keeping(saved: list[torch.Tensor]) -> Any:
    """Note what autograd saves."""
    return torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)


class Kept(nn.Module):
    """What a product with `ac.decode` costs: autograd keeps each decoded weight."""

    def __init__(self, encoded: ac.Encoded) -> None:
        super().__init__()
        self.encoded = encoded

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, ac.decode(self.encoded))


@pytest.mark.parametrize("kind", [Linear4bit, Linear8bitLt])
def test_no_dense_weight_is_kept_for_the_backward_pass(kind: type[QuantizedLinear]) -> None:
    """Six weights of 1 MiB: at most one is there at a time. Decoded weights are NumPy's memory, which can be traced."""
    model = chain(lambda: kind.from_float(dense(512, 512, bias=False)))
    naive = chain(lambda: Kept(model[0].encoded))
    peaks = {}
    for name, net in (("ours", model), ("kept", naive)):
        x, saved = normal(2, 512).requires_grad_(), []
        net(x).sum().backward()  # compiles kernels
        gc.collect()
        tracemalloc.start()
        with keeping(saved):
            y = net(x)
        y.sum().backward()
        peaks[name] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        if name == "ours":
            assert saved
            assert not [t for t in saved if t.is_floating_point() and t.numel() >= 512 * 512]
            own = {plane.data_ptr() for layer in model for plane in layer.encoded.planes.values()}
            assert {t.data_ptr() for t in saved} <= own, "the planes themselves, and nothing else"
    print(f"{kind.__name__}: peak {peaks['ours']:.2f} MiB, with kept weights {peaks['kept']:.2f} MiB")
    assert peaks["ours"] < 2.3 < 6 < peaks["kept"]


# -- conversions and copies


@pytest.mark.parametrize("scheme", ["nf4-double", "fp8", "w4a16", "llm_int8"])
def test_conversions_leave_the_planes_alone(scheme: str) -> None:
    layer = QuantizedLinear.from_float(dense(), scheme)
    before, keys = bits(layer), list(layer.state_dict())
    for convert in (
        lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.double(), lambda m: m.to("cpu", torch.float16),
        lambda m: m.type(torch.float32), lambda m: m.cpu().float(), lambda m: m.share_memory(),
    ):  # fmt: skip
        assert convert(layer) is layer
        assert bits(layer) == before
        assert sorted(layer.state_dict()) == sorted(keys)
    assert layer.half().bias.dtype == torch.float16
    assert layer.to("meta").encoded.planes["codes"].device.type == "meta"


def copies(module: nn.Module) -> dict[str, Callable[[], Any]]:
    """Ways in which a module is written and read, or copied."""

    def saved() -> Any:
        torch.save(module, buffer := io.BytesIO())
        buffer.seek(0)
        return torch.load(buffer, weights_only=False)

    return {
        "deepcopy": lambda: copy.deepcopy(module),
        "pickle": lambda: pickle.loads(pickle.dumps(module)),
        "save": saved,
    }


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "save"])
def test_copies_are_equal_and_independent(way: str) -> None:
    layer, x = Linear8bitLt.from_float(dense(), threshold=3.0), normal(4, 64)
    other = copies(layer)[way]()
    assert bits(other) == bits(layer)
    assert torch.equal(other(x), layer(x))
    other.weight_codes.zero_()
    assert bits(other) != bits(layer)


# -- many processes


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone: wrappers do all they would do among several."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without torch.distributed")
def test_distributed_data_parallel(group: None) -> None:
    """Planes are parameters that need no gradient: they are sent once and not at each pass, as buffers are."""
    x, layer = normal(5, 64), Linear4bit.from_float(dense())
    want, planes = layer(x).detach(), bits(layer)
    assert not list(layer.buffers())
    assert [name for name, parameter in layer.named_parameters() if parameter.requires_grad] == ["bias"]
    model = nn.parallel.DistributedDataParallel(layer)
    optimizer = torch.optim.AdamW(model.parameters())
    first, second = model(x), model(x)  # two passes before one backward
    (first + second).sum().backward()
    optimizer.step()
    assert torch.equal(first, want)
    assert not torch.equal(model(x), want), "the bias was trained"
    assert bits(layer) == planes


# -- compilers and transforms


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend: str) -> None:
    """The whole of a model is one graph, with the gradients of the eager model, and it keeps no dense weight either."""
    model = nn.Sequential(
        Linear4bit.from_float(dense(), quant_type="nf4-double"), nn.GELU(),
        Linear8bitLt.from_float(dense(16, 32), threshold=2.0), nn.GELU(),
        QuantizedLinear.from_float(dense(8, 16), "mxfp8"),
    )  # fmt: skip
    compiled, x, saved = torch.compile(model, fullgraph=True, backend=backend), normal(5, 64), []
    grads = []
    for net in (model, compiled):
        own = x.clone().requires_grad_()
        with keeping(saved):
            y = net(own)
        y.sum().backward()
        grads.append((y.detach(), own.grad))
    torch.testing.assert_close(grads[0], grads[1])
    assert not [t for t in saved if t.is_floating_point() and tuple(t.shape) in ((32, 64), (16, 32), (8, 16))]
    weight = model[0].encoded
    assert torch.equal(torch.compile(linear, fullgraph=True, backend=backend)(x, weight), linear(x, weight))


@pytest.mark.parametrize("kind", [Linear4bit, Linear8bitLt])
def test_a_compiled_module_refuses_what_the_eager_one_does(kind: type[QuantizedLinear]) -> None:
    compiled = torch.compile(kind(64, 8).quantize_weight(), fullgraph=True, backend="aot_eager", dynamic=True)  # type: ignore[call-arg]
    for rows in (3, 5):
        assert compiled(normal(rows, 64)).shape == (rows, 8)
    for bad in (normal(3, 65), torch.ones(3, 64, dtype=torch.int64)):
        with pytest.raises(Exception, match=r"x must be \(\.\.\., 64\) of a float dtype"):
            compiled(bad)


def test_export() -> None:
    layer, x = Linear4bit.from_float(dense()), normal(5, 64)
    program = torch.export.export(layer, (x,), strict=False)
    assert torch.equal(program.module()(x), layer(x))


def test_operators_keep_the_rules_of_operators() -> None:
    layer, x = Linear4bit.from_float(dense()), normal(5, 64).requires_grad_()
    planes, text = list(layer.encoded.planes.values()), ops.to_text(layer.codec)
    opcheck(torch.ops.arraycodec.linear.default, (x, planes, layer.bias, text, [32, 64], "float32", False))
    int8 = Linear8bitLt.from_float(dense())
    rows = (int8.weight_codes, int8.weight_scales, int8.bias, ops.to_text(int8.codec), "float32", 2.0)
    opcheck(torch.ops.arraycodec.linear_int8.default, (x, *rows))


def test_transforms() -> None:
    layer, x = Linear4bit.from_float(dense()), normal(6, 5, 64)
    assert torch.equal(torch.func.vmap(layer)(x), layer(x))
    assert torch.equal(torch.func.vmap(layer, in_dims=1)(x), layer(x.movedim(1, 0)))
    with torch.inference_mode():
        assert layer(x).shape == (6, 5, 32)


def test_autocast_and_compute_dtype() -> None:
    layer, x = Linear4bit.from_float(dense()), normal(5, 64)
    weight = ac.decode(layer.encoded)
    want = F.linear(x.bfloat16(), weight.bfloat16(), layer.bias.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), want)
    own = Linear4bit.from_float(dense(), compute_dtype=torch.bfloat16)
    assert torch.equal(own(x), want.float())
    exact = Linear4bit.from_float(dense(), compute_dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = exact(x)
    assert torch.equal(inside, exact(x))
