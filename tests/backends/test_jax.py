"""JAX: zero-copy through the reference, eager and jitted jax.numpy."""

from arraycodec_conformance.suite import BackendSuite


class TestJax(BackendSuite):
    backend = "arraycodec_jax"
    shapes = ((3, 64), (7,), (33, 130), (), (0,))  # each shape is compiled anew for each codec
