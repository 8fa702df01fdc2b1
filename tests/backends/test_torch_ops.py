"""torch tensors through the public functions: no copies, `out`, errors; test_torch_compilers.py has the rest."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import arraycodec as ac
import arraycodec_torch
from arraycodec.errors import ArgumentError, FormatError, NonFiniteError, UnsupportedByBackend
from arraycodec.spec import DTYPES, numpy_dtype
from arraycodec_torch import from_numpy, implementations, to_numpy

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


def test_gpus_run_triton_or_else_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnGpu(torch.Tensor):
        device = torch.device("cuda")

    x = weights(3).as_subclass(OnGpu)
    assert set(implementations.TRITON) == set(implementations.PLAIN) - {"permuted", "tied"}  # which compute nothing
    for here, chosen in ((True, "triton"), (False, "torch")):
        monkeypatch.setattr(implementations, "has_triton", lambda here=here: here)
        assert arraycodec_torch.choose(x) == chosen


def test_a_codec_that_gpus_have_no_kernel_for_is_refused() -> None:
    class Other(ac.Linear):
        name = "other"

    for how in ("torch", "triton"):
        with pytest.raises(
            UnsupportedByBackend, match=r"other: the torch backend has no .* implementation of this codec"
        ):
            arraycodec_torch.IMPLEMENTATIONS[how].encode(weights(4), Other(), {})
