"""torch on the CPU: plain torch operations, and the reference on the memory of tensors."""

from arraycodec_conformance.cases import CASES
from arraycodec_conformance.suite import BackendSuite

FEW = list({(case.codec.name, len(case.given)): case for case in CASES}.values())


class TestTorch(BackendSuite):
    backend = "arraycodec_torch"
    implementations = ("torch",)


class TestReferenceOnTensors(BackendSuite):
    """What the reference computes is not in question here, only how tensors get there: a few cases of each family."""

    backend = "arraycodec_torch"
    implementations = ("reference",)
    cases = FEW
