"""The conformance suite on a GPU, where there is one: Triton kernels and plain torch ops on CUDA tensors."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import arraycodec_torch
from arraycodec_conformance.suite import BackendSuite

if not torch.cuda.is_available():
    pytest.skip("no GPU is at hand", allow_module_level=True)


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
        import arraycodec as ac

        x = torch.randn(64, 64, device="cuda")
        encoded = ac.encode(x, "nf4-double")
        assert {plane.device for plane in encoded.planes.values()} == {x.device}
        out = torch.empty_like(x)
        assert ac.decode(encoded, out=out) is out
        same = ac.decode(ac.encode(x.cpu(), "nf4-double"))
        assert np.array_equal(out.cpu().numpy(), same.numpy())
