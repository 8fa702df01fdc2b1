"""torch tensors through operators, compilers, export, fake tensors and transforms."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import arraycodec as ac
import arraycodec_torch
from arraycodec_torch import ops
from tests.backends.test_torch_ops import DOUBLE, NF4, equal, weights

# The planes of these have all dtypes there are, and one has none to spare: a cast.
FAMILIES = [ac.Linear(8, False, (1, None)), ac.codec("w4a16"), ac.LLMInt8(), ac.codec("fp8-channel"),
            ac.Minifloat("float8_e5m2", scaled=False), ac.codec("mxfp6"), ac.codec("mxfp8"), ac.NVFP4()]  # fmt: skip


# -- operators


@pytest.mark.parametrize("codec", [NF4, DOUBLE, ac.Codebook("nf4", block_size=None), *FAMILIES], ids=str)
def test_opcheck(codec: ac.Codec) -> None:
    x = weights(3, 64)
    planes = list(ac.encode(x, codec).planes.values())
    arguments = (planes, ops.to_text(codec), [3, 64], "bfloat16", [], "")
    every: Any = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    utils = every[any(plane.dtype.is_floating_point and plane.itemsize == 1 for plane in planes) :]  # no allclose there
    opcheck(torch.ops.arraycodec.encode.default, (x, ops.to_text(codec), [], ""), test_utils=utils)
    opcheck(torch.ops.arraycodec.decode.default, arguments, test_utils=utils)
    target = torch.empty(3, 64, dtype=torch.bfloat16)
    opcheck(torch.ops.arraycodec.decode_out.default, (target, *arguments), test_utils=utils)


def test_operators_return_no_alias_of_an_input() -> None:
    absmax = torch.ones(8, 1)
    planes = torch.ops.arraycodec.encode(weights(8, 64), ops.to_text(NF4), [absmax], "absmax")
    assert torch.equal(planes[1], absmax)
    assert planes[1].data_ptr() != absmax.data_ptr()
    opcheck(torch.ops.arraycodec.encode.default, (weights(8, 64), ops.to_text(NF4), [absmax], "absmax"))


# -- compilers


def round_trip(x: torch.Tensor, codec: Any = "nf4") -> tuple[ac.Encoded, torch.Tensor]:
    encoded = ac.encode(x, codec)
    return encoded, ac.decode(encoded, dtype="bfloat16")


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("codec", ["nf4", NF4, DOUBLE], ids=["name", "codec", "then"])
def test_compile_in_one_graph(backend: str, codec: Any) -> None:
    torch.compiler.reset()
    x = weights(8, 64)
    encoded, decoded = torch.compile(round_trip, fullgraph=True, backend=backend)(x, codec)
    want, wanted = round_trip(x, codec)
    assert equal(encoded, want)
    assert torch.equal(decoded, wanted)
    compiled = torch.compile(lambda encoded: ac.decode(encoded) + 1, fullgraph=True, backend=backend)
    assert torch.equal(compiled(encoded), ac.decode(encoded) + 1)


@pytest.mark.parametrize("codec", FAMILIES, ids=str)
def test_every_family_compiles(codec: ac.Codec) -> None:
    """Planes of every dtype go through inductor, which sees none of the arithmetic."""
    torch.compiler.reset()
    x = weights(8, 64, dtype=torch.bfloat16)
    encoded, decoded = torch.compile(round_trip, fullgraph=True)(x, codec)
    want, wanted = round_trip(x, codec)
    assert equal(encoded, want)
    assert torch.equal(decoded, wanted)


def test_compile_what_is_made_inside() -> None:
    torch.compiler.reset()

    def inside(x: torch.Tensor, absmax: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        codec = ac.Then(ac.Codebook("nf4"), absmax=ac.Codebook("dynamic", block_size=256))
        ac.decode(ac.encode(x, codec), out=out)
        return out + ac.decode(ac.encode(x, ac.Codebook("nf4", block_size=32), given={"absmax": absmax}))

    x, absmax = weights(8, 64), torch.ones(8, 2)
    got, want = torch.empty(8, 64), torch.empty(8, 64)
    assert torch.equal(torch.compile(inside, fullgraph=True)(x, absmax, got), inside(x, absmax, want))
    assert torch.equal(got, want)


def test_an_equal_codec_needs_no_new_graph() -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ac.decode, fullgraph=True, backend=counter)
    for _ in range(4):
        compiled(ac.encode(weights(8, 64), ac.Codebook("nf4", block_size=32)))
    assert counter.frame_count == 1
    compiled(ac.encode(weights(8, 64), ac.Codebook("nf4", block_size=64)))
    assert counter.frame_count == 2


def test_compile_with_dynamic_shapes_fixes_them() -> None:
    torch.compiler.reset()
    compiled = torch.compile(round_trip, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (3, 4, 5):
        assert equal(compiled(weights(rows, 64))[0], ac.encode(weights(rows, 64), NF4))


def test_compile_batched_planes() -> None:
    torch.compiler.reset()
    batched = torch.vmap(lambda x: ac.encode(x, DOUBLE))(weights(2, 3, 64))
    assert batched.batch_shape == (2,)
    assert batched.spec.shape == (3, 64)
    want = torch.stack([ac.decode(ac.encode(x, DOUBLE)) for x in weights(2, 3, 64)])
    assert torch.equal(ac.decode(batched), want)
    assert torch.equal(torch.compile(ac.decode, fullgraph=True, backend="aot_eager")(batched), want)
    assert torch.equal(torch.vmap(ac.decode)(batched), want)
    none = ac.Encoded(batched.codec, batched.spec, {name: plane[:0] for name, plane in batched.planes.items()})
    assert torch.compile(ac.decode, fullgraph=True, backend="aot_eager")(none).shape == (0, 3, 64)


def test_compile_reports_our_errors() -> None:
    torch.compiler.reset()
    wrong = torch.compile(lambda x, a: ac.encode(x, NF4, given={"absmax": a}), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"given plane 'absmax' must be float32\[8, 1\]"):
        wrong(weights(8, 64), torch.ones(7))
    with pytest.raises(Exception, match="check=True needs values"):
        torch.compile(lambda x: ac.encode(x, NF4, check=True), fullgraph=True, backend="eager")(weights(8, 64))


FIRST = """
import warnings
import torch, arraycodec as ac
warnings.simplefilter("error")
x = torch.arange(128.0).reshape(2, 64)
f = torch.compile(lambda x: ac.decode(ac.encode(x, "nf4")), fullgraph=True, backend="eager")
assert torch.equal(f(x), ac.decode(ac.encode(x, "nf4")))
"""


def test_the_first_call_may_be_a_compiled_one() -> None:
    """Nothing of the backend is imported before Dynamo meets `ac.encode`, and no warning is given."""
    run = subprocess.run([sys.executable, "-c", FIRST], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_import_leaves_compilers_alone() -> None:
    slow = {"torch._dynamo", "torch._inductor", "triton"}
    code = f"import sys, arraycodec_torch; print({slow} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "set()", run.stdout + run.stderr


# -- export, fake tensors, transforms


class RoundTrip(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[ac.Encoded, torch.Tensor]:
        encoded = ac.encode(x, DOUBLE)
        return encoded, ac.decode(encoded)


class Decode(torch.nn.Module):
    def forward(self, encoded: ac.Encoded) -> torch.Tensor:
        return ac.decode(encoded)


def saved(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """The module of a program that went through a file."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    return torch.export.load(buffer).module()


@pytest.mark.parametrize("strict", [False, True])
def test_export_with_encoded_outputs(strict: bool) -> None:
    torch.compiler.reset()
    x = weights(8, 64)
    program = torch.export.export(RoundTrip(), (x,), strict=strict)
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert {"arraycodec.encode.default", "arraycodec.decode.default"} <= set(called)
    encoded, decoded = saved(program)(x)
    assert equal(encoded, ac.encode(x, DOUBLE))
    assert torch.equal(decoded, ac.decode(encoded))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("codec", [ac.codec("fp4"), *FAMILIES], ids=str)
def test_export_with_an_encoded_input(codec: ac.Codec) -> None:
    encoded = ac.encode(weights(8, 64), codec)
    program = torch.export.export(Decode(), (encoded,), strict=False)
    assert torch.equal(program.module()(encoded), ac.decode(encoded))


def test_encoded_is_a_pytree() -> None:
    encoded = ac.encode(weights(8, 64), DOUBLE)
    leaves, tree = torch.utils._pytree.tree_flatten_with_path(encoded)
    assert [path[0].key for path, _ in leaves] == list(encoded.planes)
    assert equal(torch.utils._pytree.tree_unflatten([leaf for _, leaf in leaves], tree), encoded)
    text = torch.utils._pytree.treespec_dumps(tree)
    assert torch.utils._pytree.treespec_loads(text) == tree


@pytest.mark.parametrize("codec", [NF4, DOUBLE, *FAMILIES], ids=str)
def test_fake_and_meta_tensors_have_the_shapes_of_real_ones(codec: ac.Codec) -> None:
    x = weights(7, 33, dtype=torch.float16)
    want, mode = ac.encode(x, codec), FakeTensorMode()
    with mode:
        fake = ac.encode(mode.from_tensor(x), codec)
        assert arraycodec_torch.spec(ac.decode(fake)) == want.spec
    for other in (fake, ac.encode(x.to("meta"), codec)):
        assert {n: arraycodec_torch.spec(p) for n, p in other.planes.items()} == codec.planes(want.spec)
    assert not arraycodec_torch.concrete(x.to("meta"))
    assert ac.decode(ac.encode(x.to("meta"), codec)).device.type == "meta"


def test_tracers_and_transforms_see_the_operators() -> None:
    x = weights(8, 64)
    code = make_fx(lambda x: ac.decode(ac.encode(x, NF4)))(x).code
    assert "arraycodec.encode" in code
    assert "arraycodec.decode" in code
    gradient = torch.func.grad(lambda x: (ac.decode(ac.encode(x, NF4)) * x).sum())(x)
    assert torch.equal(gradient, ac.decode(ac.encode(x, NF4)))  # planes are constants
    many = torch.vmap(lambda x: ac.decode(ac.encode(x, NF4)))(x)
    assert torch.equal(many, ac.decode(ac.encode(x, NF4)))
    with torch.inference_mode():
        assert torch.equal(ac.decode(ac.encode(x, NF4), out=torch.empty(8, 64)), many)
