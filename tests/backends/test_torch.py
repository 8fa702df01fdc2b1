"""torch on the CPU: zero-copy through the reference, and plain torch operations."""

from arraycodec_conformance.suite import BackendSuite


class TestTorch(BackendSuite):
    backend = "arraycodec_torch"
    implementations = ("reference", "torch")
