"""The reference: golden vectors and the public functions (test_toy.py holds the independent witness of its bits)."""

from arraycodec_conformance.suite import BackendSuite


class TestNumPy(BackendSuite):
    backend = "arraycodec.reference"
