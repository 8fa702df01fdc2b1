"""On a GPU, where there is one: the conformance suite, Triton's launches, and bandwidth against a device copy."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import arraycodec as ac
import arraycodec_torch
from arraycodec.base import Planes
from arraycodec.errors import CorruptError
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec_conformance.cases import any_bytes
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.suite import BackendSuite
from arraycodec_torch.implementations import TRITON

if not torch.cuda.is_available():
    pytest.skip("no GPU is at hand", allow_module_level=True)

from tests.backends import delta_cases, lossless_cases
from tests.backends.triton_cases import CASES, cases

SHAPE = 8192, 16384  # large: the time to launch a kernel must not count
SCHEMES = [
    "nf4", "nf8", "fp4", ac.Codebook("dynamic", block_size=256), "int8_linear", "int4_linear", "w4a16", "w8a8",
    "llm_int8", "fp8", "fp8-channel", "fp8-block", "float8_e4m3fn", "float6_e2m3fn", "mxfp4", "mxfp6", "mxfp8",
    "mxint8", "nvfp4",
]  # fmt: skip


class TestTorchOnGpu(BackendSuite):
    backend = "arraycodec_torch"
    implementations = ("torch", "triton")

    def module(self) -> Any:
        """The backend, whose `from_numpy` puts tensors on the GPU."""
        functions = {name: getattr(arraycodec_torch, name) for name in arraycodec_torch.__all__}
        return SimpleNamespace(**functions | {"from_numpy": lambda x: arraycodec_torch.from_numpy(x, "cuda")})

    def test_encoding_takes_triton(self) -> None:
        assert arraycodec_torch.choose(torch.zeros(1, device="cuda")) == "triton"

    def test_public_functions_stay_on_the_gpu(self) -> None:
        x = torch.randn(64, 64, device="cuda")
        encoded = ac.encode(x, "nf4-double")
        assert {plane.device for plane in encoded.planes.values()} == {x.device}
        out = torch.empty_like(x)
        assert ac.decode(encoded, out=out) is out
        same = ac.decode(ac.encode(x.cpu(), "nf4-double"))
        assert np.array_equal(out.cpu().numpy(), same.numpy())


@pytest.mark.parametrize("family", TRITON)
def test_every_case_of_the_other_tiers(family: str) -> None:
    """What the PTX interpreter predicts is what the device does."""
    how = arraycodec_torch.IMPLEMENTATIONS["triton"]
    for case in cases(family, more=True):
        x = case.array()
        want = case.codec.encode(x, case.given)
        given = {name: arraycodec_torch.from_numpy(plane, "cuda") for name, plane in case.given.items()}
        if isinstance(case.codec, ac.Lossless):
            planes = on_gpu(want)
        else:
            planes = how.encode(arraycodec_torch.from_numpy(x, "cuda"), case.codec, given)
        for name, plane in want.items():
            assert arraycodec_torch.to_numpy(planes[name]).tobytes() == plane.tobytes(), f"{case.codec}: {name}"
        decoded = how.decode(case.codec, planes, ac.ArraySpec(case.shape, case.dtype), {})
        same = case.codec.decode(want, ac.ArraySpec(case.shape, case.dtype))
        assert arraycodec_torch.to_numpy(decoded).tobytes() == same.tobytes(), f"{case.codec}: decoded"


def test_every_family_has_cases() -> None:
    assert set(CASES) == set(TRITON) - {"delta", "gguf"}  # which have tests of their own: test_triton_*.py


@pytest.mark.parametrize("name", TYPES)
def test_gguf(name: str) -> None:
    codec, spec = ac.Gguf(name), ac.ArraySpec((33, 512), "bfloat16")
    planes = any_bytes(codec.planes(spec), 0)
    decoded = arraycodec_torch.IMPLEMENTATIONS["triton"].decode(codec, on_gpu(planes), spec, {})
    assert arraycodec_torch.to_numpy(decoded).tobytes() == codec.decode(planes, spec).tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bandwidth(dtype: torch.dtype, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes read and written per second, of planes and elements, over those of a device copy. It prints, and it fails
    only where a family is off by more than a factor of ten."""
    how = arraycodec_torch.IMPLEMENTATIONS["triton"]
    x = torch.randn(SHAPE, device="cuda").to(dtype)
    out, spec = torch.empty_like(x), arraycodec_torch.spec(x)
    copy = 2 * x.nbytes / seconds(lambda: out.copy_(x))
    lines = [f"{torch.cuda.get_device_name()}, {dtype}, {SHAPE}: a copy moves {copy / 1e9:.0f} GB/s"]
    slow = []
    for scheme in SCHEMES:
        codec = ac.codec(scheme) if isinstance(scheme, str) else scheme
        planes = how.encode(x, codec, {})
        moved = x.nbytes + sum(plane.nbytes for plane in planes.values())
        encode = moved / seconds(lambda c=codec: how.encode(x, c, {}))
        decode = moved / seconds(lambda c=codec, p=planes: how.decode(c, p, spec, {}, out))
        lines.append(f"{scheme!s:70} encode {encode / copy:6.1%}  decode {decode / copy:6.1%} of a copy's bytes/s")
        slow += [scheme] if min(encode, decode) < copy / 10 else []
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert not slow


@pytest.mark.parametrize("how", ["torch", "triton"])
def test_lossless_examples(how: str) -> None:
    """Every layout of `Lossless`, every kind of plan of `Delta`, and what someone changed in their planes."""
    decode = arraycodec_torch.IMPLEMENTATIONS[how].decode
    for name, make in lossless_cases.examples(more=True).items():
        example = make()
        same_bits(arraycodec_torch.to_numpy(decode(ac.Lossless(), on_gpu(example.planes), example.spec, {})),
                  example.array, name)  # fmt: skip
        for seed in range(20 if example.array.size else 0):
            planes = lossless_cases.broken(example, seed)
            try:
                want = ac.Lossless().decode(planes, example.spec)
            except CorruptError:
                with pytest.raises(CorruptError):
                    decode(ac.Lossless(), on_gpu(planes), example.spec, {})
            else:
                got = decode(ac.Lossless(), on_gpu(planes), example.spec, {})
                same_bits(arraycodec_torch.to_numpy(got), want, f"{name}, seed {seed}")
    for name, make in delta_cases.EXAMPLES.items():
        example = make()
        base = on_gpu({"base": example.base})
        same_bits(arraycodec_torch.to_numpy(decode(ac.Delta(), on_gpu(example.planes), example.spec, base)),
                  example.array, name)  # fmt: skip


@pytest.mark.parametrize("mode", ["balanced", "storage", "inference"])
def test_lossless_bandwidth(mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes decoded per second, with what the host does; it prints, and it fails only where nothing is left of them."""
    how = arraycodec_torch.IMPLEMENTATIONS["triton"]
    x = (torch.randn(4096, 4096) * 0.02).to(torch.bfloat16)
    planes = {name: plane.to("cuda") for name, plane in ac.encode(x, ac.Lossless(mode)).planes.items()}
    spec, out = arraycodec_torch.spec(x), torch.empty_like(x, device="cuda")
    speed = x.nbytes / seconds(lambda: how.decode(ac.Lossless(mode), planes, spec, {}, out)) / 1e9
    assert torch.equal(out.cpu().view(torch.int16), x.view(torch.int16))
    with capsys.disabled():
        print(f"\n{torch.cuda.get_device_name()}: lossless, {mode}, decodes {speed:.1f} GB/s of bfloat16")
    assert speed > 1


def on_gpu(planes: Planes) -> Planes:
    """Planes as tensors on the GPU."""
    return {name: arraycodec_torch.from_numpy(plane, "cuda") for name, plane in planes.items()}


def seconds(run: Callable[[], Any], repeats: int = 7, calls: int = 10) -> float:
    """The median time of a call on the device, of several in a row, so that it never waits for Python."""
    run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times)
