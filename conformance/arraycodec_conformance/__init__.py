"""The conformance suite of arraycodec: inherit `BackendSuite`, and every codec is compared bit for bit.

    from arraycodec_conformance.suite import BackendSuite

    class TestMine(BackendSuite):
        backend = "my_package"

A backend is a module with the functions that `arraycodec.reference` lists. How thorough a run is, `pytest --level`
says: golden (stored vectors, seconds), default, full (at least 10^5 examples per backend), exhaustive (full sweeps).
"""
