"""torch tensors through the public functions: no copies, `out`, compilers, export, fake tensors, errors."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

import arraycodec as ac
import arraycodec_torch
from arraycodec.errors import ArgumentError, FormatError, NonFiniteError, UnsupportedByBackend
from arraycodec.spec import DTYPES, numpy_dtype
from arraycodec_torch import from_numpy, ops, to_numpy

NF4 = ac.Codebook("nf4")
DOUBLE = ac.codec("nf4-double")
DTYPES_OF_CODEBOOK = [torch.float32, torch.bfloat16, torch.float16]


def weights(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def equal(a: ac.Encoded, b: ac.Encoded) -> bool:
    """Same codec, spec and bits."""
    same = all(torch.equal(plane, b.planes[name]) for name, plane in a.planes.items())
    return (a.codec, a.spec, list(a.planes)) == (b.codec, b.spec, list(b.planes)) and same


# -- tensors as arrays


@pytest.mark.parametrize("name", [name for name, row in DTYPES.items() if row.torch and row.bits % 8 == 0])
def test_numpy_and_torch_share_memory(name: str) -> None:
    array = np.arange(48, dtype=np.uint8).view(numpy_dtype("uint8"))[: 6 * numpy_dtype(name).itemsize].copy()
    array = array.view(numpy_dtype(name)).reshape(2, 3)
    tensor = from_numpy(array)
    assert arraycodec_torch.spec(tensor) == ac.ArraySpec((2, 3), name)
    assert tensor.data_ptr() == array.ctypes.data
    assert to_numpy(tensor).ctypes.data == array.ctypes.data
    assert to_numpy(tensor).dtype == array.dtype
    assert to_numpy(from_numpy(array[0, 0])).tobytes() == array[0, 0].tobytes()


def test_read_only_and_byte_swapped_arrays_are_copied() -> None:
    array = np.arange(6, dtype=np.float32)
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = from_numpy(array)
    tensor += 1
    assert array[0] == 0
    assert from_numpy(array.astype(">f4")).tolist() == array.tolist()


@pytest.mark.parametrize("dtype", DTYPES_OF_CODEBOOK)
def test_every_kind_of_tensor(dtype: torch.dtype) -> None:
    """Non-contiguous, expanded, 0-d, with gradients, parameters, subclasses: the bits of a plain copy."""

    class Sub(torch.Tensor):
        pass

    x = weights(8, 128, dtype=dtype)
    kinds = [x.T, x[:, ::2], x[0, 0], x.expand(2, 8, 128), x[::3, 1:], x.clone().requires_grad_(), x[:0]]
    kinds += [torch.nn.Parameter(x), torch.nn.Buffer(x), x.as_subclass(Sub), torch._neg_view(x)]
    for kind in kinds:
        plain = kind.detach().as_subclass(torch.Tensor).resolve_neg().clone(memory_format=torch.contiguous_format)
        encoded = ac.encode(kind, NF4)
        assert equal(encoded, ac.encode(plain, NF4))
        assert ac.decode(encoded).shape == kind.shape
        assert not any(plane.requires_grad for plane in encoded.planes.values())


def test_cpu_tensors_run_the_reference_on_their_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    encode = ac.Codebook.encode

    def spy(self: ac.Codebook, x: np.ndarray, given: Any) -> Any:
        seen.append(x.ctypes.data)
        return encode(self, x, given)

    monkeypatch.setattr(ac.Codebook, "encode", spy)
    x = weights(64, 64, dtype=torch.bfloat16)
    encoded = ac.encode(x, NF4)
    assert seen == [x.data_ptr()]
    assert arraycodec_torch.choose(x) == "reference"
    assert encoded.planes["codes"].data_ptr() % 64 == 0
    assert ac.decode(encoded).data_ptr() % 64 == 0


# -- out


@pytest.mark.parametrize("dtype", DTYPES_OF_CODEBOOK)
def test_decode_into_out(dtype: torch.dtype) -> None:
    encoded = ac.encode(weights(8, 64, dtype=dtype), NF4)
    out = torch.nn.Parameter(torch.empty(8, 64, dtype=dtype))
    with torch.no_grad():
        assert ac.decode(encoded, out=out) is out
    assert torch.equal(out, ac.decode(encoded))
    version = out._version
    ac.decode(encoded, out=out.detach())
    assert out._version == version + 1


def test_out_is_checked() -> None:
    encoded = ac.encode(weights(8, 64), NF4)
    shared = torch.zeros(8 * 64 * 4, dtype=torch.uint8)
    planes = dict(encoded.planes, codes=shared[100 : 100 + 256].view(8, 32))
    bad = [
        (encoded, np.empty((8, 64), np.float32), "torch tensor, got ndarray"),
        (encoded, torch.empty(8, 63), r"float32\[8, 64\] on cpu, got torch.float32\[8, 63\]"),
        (encoded, torch.empty(8, 64, dtype=torch.bfloat16), "got torch.bfloat16"),
        (encoded, torch.empty(8, 64, device="meta"), "on cpu, got .* on meta"),
        (encoded, torch.empty(64, 8).T, "contiguous"),
        (encoded, torch.empty(1).expand(8, 64), "contiguous"),
        (encoded, torch.empty(8, 64, requires_grad=True), "no_grad"),
        (ac.Encoded(NF4, encoded.spec, planes), shared.view(torch.float32).view(8, 64), "overlap the plane 'codes'"),
    ]
    for enc, out, message in bad:
        with pytest.raises(ArgumentError, match=f"decode: out .*{message}"):
            ac.decode(enc, out=out)


# -- errors


def test_errors_name_what_is_wrong() -> None:
    x = weights(8, 64)
    with pytest.raises(NonFiniteError, match="1 of 8 blocks, first at block 3"):
        ac.encode(x.index_fill(0, torch.tensor([3]), torch.inf), NF4)
    with pytest.raises(ArgumentError, match=r"dtype must be one of float32, bfloat16, float16, got int32"):
        ac.encode(torch.zeros(3, dtype=torch.int32), NF4)
    with pytest.raises(ArgumentError, match=r"got torch\.complex128"):
        ac.encode(torch.zeros(3, dtype=torch.complex128), NF4)
    with pytest.raises(ArgumentError, match="must be torch tensors, got ndarray"):
        ac.encode(x, NF4, given={"absmax": np.ones((8, 1), np.float32)})
    with pytest.raises(FormatError, match="plane 'codes' must be"):
        ac.decode(ac.Encoded(NF4, ac.ArraySpec((8, 63), "float32"), ac.encode(x, NF4).planes))
    with pytest.raises(UnsupportedByBackend, match="only dense tensors"):
        ac.encode(x.to_sparse(), NF4)


def test_other_devices_get_no_silent_copy() -> None:
    """What needs a device that is not there: planes on two devices, and the reference asked for a meta tensor."""
    encoded = ac.encode(weights(8, 64), NF4)
    mixed = dict(encoded.planes, codes=encoded.planes["codes"].to("meta"))
    for how in ("reference", "torch"):
        with pytest.raises((ArgumentError, UnsupportedByBackend), match="codebook"):
            arraycodec_torch.IMPLEMENTATIONS[how].decode(NF4, mixed, encoded.spec, {})
    with pytest.raises(UnsupportedByBackend, match="takes CPU tensors, got one on meta"):
        arraycodec_torch.IMPLEMENTATIONS["reference"].encode(torch.zeros(3, device="meta"), NF4, {})


# -- operators


@pytest.mark.parametrize(
    "codec", [NF4, DOUBLE, ac.Codebook("nf4", block_size=None)], ids=["nf4", "double", "one scale"]
)
def test_opcheck(codec: ac.Codec) -> None:
    x = weights(3, 64)
    planes = list(ac.encode(x, codec).planes.values())
    arguments = (planes, ops.to_text(codec), [3, 64], "bfloat16", [], "")
    opcheck(torch.ops.arraycodec.encode.default, (x, ops.to_text(codec), [], ""))
    opcheck(torch.ops.arraycodec.decode.default, arguments)
    opcheck(torch.ops.arraycodec.decode_out.default, (torch.empty(3, 64, dtype=torch.bfloat16), *arguments))


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
def test_export_with_an_encoded_input() -> None:
    encoded = ac.encode(weights(8, 64), "fp4")
    program = torch.export.export(Decode(), (encoded,), strict=False)
    assert torch.equal(program.module()(encoded), ac.decode(encoded))


def test_encoded_is_a_pytree() -> None:
    encoded = ac.encode(weights(8, 64), DOUBLE)
    leaves, tree = torch.utils._pytree.tree_flatten_with_path(encoded)
    assert [path[0].key for path, _ in leaves] == list(encoded.planes)
    assert equal(torch.utils._pytree.tree_unflatten([leaf for _, leaf in leaves], tree), encoded)
    text = torch.utils._pytree.treespec_dumps(tree)
    assert torch.utils._pytree.treespec_loads(text) == tree


@pytest.mark.parametrize("codec", [NF4, DOUBLE], ids=["nf4", "double"])
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
