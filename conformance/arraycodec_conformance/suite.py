"""`BackendSuite`: inherit it, name a backend, and pytest compares every codec with the reference, bit for bit."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from arraycodec.base import Codec, Encoded, Given, Planes, Then
from arraycodec.errors import ArgumentError, UnsupportedByBackend
from arraycodec.registry import from_json
from arraycodec.spec import DTYPES, ArraySpec, numpy_dtype, spec_of
from arraycodec_conformance import vectors
from arraycodec_conformance.cases import CASES, Case
from arraycodec_conformance.compare import same_bits
from arraycodec_conformance.plugin import EXAMPLES, Level, example_count
from arraycodec_conformance.strategies import PATTERNS, SHAPES, Recipe, recipes


class BackendSuite:
    """The tests of one backend; a subclass sets `backend` and, where it must, the other class attributes.

    backend          import name of a module with the functions that `arraycodec.reference` lists
    implementations  those of its IMPLEMENTATIONS to test; None is all of them
    cases            the codecs; leave out what the backend does not have (it must raise UnsupportedByBackend)
    shapes           the shapes that examples are drawn from
    dtypes           the dtypes that the backend's arrays can have; None is all
    golden           the folder of golden vectors
    """

    backend: ClassVar[str]
    implementations: ClassVar[tuple[str, ...] | None] = None
    cases: ClassVar[list[Case]] = CASES
    shapes: ClassVar[tuple[tuple[int, ...], ...]] = SHAPES
    dtypes: ClassVar[tuple[str, ...] | None] = None
    golden: ClassVar[Path] = vectors.FOLDER

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """One test per implementation and per codec."""
        if "implementation" in metafunc.fixturenames:
            names = self.implementations or tuple(importlib.import_module(self.backend).IMPLEMENTATIONS)
            metafunc.parametrize("implementation", names)
        if "case" in metafunc.fixturenames:
            metafunc.parametrize("case", self.cases, ids=str)

    # -- the operations, forced to one implementation

    def module(self) -> Any:
        """The backend."""
        return importlib.import_module(self.backend)

    def encode(self, implementation: str, x: np.ndarray, case: Case) -> Planes:
        """The planes of `x` as NumPy arrays, computed by that implementation, or what it raises."""
        backend, how = self.module(), self.module().IMPLEMENTATIONS[implementation]
        own = {name: backend.from_numpy(plane) for name, plane in case.encoding(x).items()}
        planes = how.encode(backend.from_numpy(x), case.codec, own)
        return {name: backend.to_numpy(plane) for name, plane in planes.items()}

    def encoded(self, implementation: str, x: np.ndarray, case: Case) -> Planes:
        """As `encode`; no planes where the implementation leaves this codec to the reference, or none encodes."""
        if case.written is not None:
            with pytest.raises(ArgumentError, match="cannot encode"):
                self.encode(implementation, x, case)
            return {}
        try:
            return self.encode(implementation, x, case)
        except UnsupportedByBackend:
            if not case.host_encoded:
                raise
            return {}

    def decode(
        self, implementation: str, codec: Any, planes: Planes, spec: ArraySpec, inputs: Given | None = None
    ) -> np.ndarray:
        """The decoded array as a NumPy array, computed by that implementation."""
        backend, how = self.module(), self.module().IMPLEMENTATIONS[implementation]
        own = {name: backend.from_numpy(plane) for name, plane in planes.items()}
        given = {name: backend.from_numpy(array) for name, array in (inputs or {}).items()}
        return backend.to_numpy(how.decode(codec, own, spec, given))

    def compare(self, implementation: str, case: Case, x: np.ndarray) -> None:
        """Encode and decode `x` here and in the reference, and require the same bits of every plane."""
        inputs = case.inputs(x)
        want = case.planes(x)
        got = self.encoded(implementation, x, case)
        assert list(got or want) == list(case.codec.planes(spec_of(x))), "planes must come in the order of the contract"
        for name in got:
            same_bits(got[name], want[name], f"{case}: plane {name} of {x.dtype}{list(x.shape)}", x)
        decoded = case.codec.decode(want, spec_of(x), inputs)
        if case.codec.lossless:
            same_bits(decoded, x, f"{case}: decoded by the reference", x)
        same_bits(self.decode(implementation, case.codec, want, spec_of(x), inputs), decoded, f"{case}: decoded", x)
        EXAMPLES[f"{self.backend}/{implementation}"] += 1

    # -- the tests

    def test_golden_vectors(self, implementation: str) -> None:
        """What was committed once is still what comes out."""
        count = 0
        for path, vector in vectors.load(self.golden):
            case = Case(from_json(vector["codec"]), vectors.arrays(vector["given"]))
            if case.codec not in {c.codec for c in self.cases}:
                continue
            want, expected = vectors.arrays(vector["planes"]), vectors.array(vector["decoded"])
            if "x" in vector:  # not of a codec that decodes only
                x = vectors.array(vector["x"])
                for name, plane in self.encoded(implementation, x, case).items():
                    same_bits(plane, want[name], f"{path}: {name}", x)
            inputs = {name: array for name, array in case.given.items() if name == "base"}
            decoded = self.decode(implementation, case.codec, want, spec_of(expected), inputs)
            same_bits(decoded, expected, f"{path}: decoded")
            count += 1
        assert count, "no golden vector was found for the codecs of this suite"

    @pytest.mark.level("default")
    def test_same_bits_as_reference(self, implementation: str, case: Case, level: Level) -> None:
        """Arrays of every shape, dtype and distribution, with special patterns injected."""
        sharing = len(self.cases) * len(self.implementations or self.module().IMPLEMENTATIONS)
        count = example_count(level, sharing)
        self._examples(count, case, lambda recipe: self.compare(implementation, case, recipe.array()))

    @pytest.mark.level("default")
    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_every_pattern(self, implementation: str, case: Case, dtype: str) -> None:
        """All 2^16 inputs, neighbours in a block, and each with 1.0 (so that not all blocks are NaN or zero)."""
        patterns = np.arange(2**16, dtype=np.uint16).view(numpy_dtype(dtype))
        self.compare(implementation, case, patterns.reshape(-1, 64))
        with np.errstate(invalid="ignore"):  # signalling NaN
            finite = np.where(np.isfinite(patterns), patterns, patterns.dtype.type(1))
        self.compare(implementation, case, np.sort(finite).reshape(-1, 64))

    @pytest.mark.level("default")
    def test_edges_of_scale(self, implementation: str, case: Case) -> None:
        """Blocks whose scale lies at each special pattern, with neighbours of every size below it."""
        scales = np.array(PATTERNS, np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            x = scales[:, None] * np.linspace(-1, 1, 64, dtype=np.float32)
        x[:, 7] = scales
        for row in x:
            self.compare(implementation, case, row.reshape(1, 64))

    @pytest.mark.level("default")
    def test_any_stored_scale_decodes(self, implementation: str, case: Case) -> None:
        """Planes written by others: scales that are negative, tiny, huge, infinite or NaN, and every byte of codes."""
        rng, dtypes = np.random.default_rng(7), ("float32", "bfloat16", "float16")
        specs = [ArraySpec((len(PATTERNS), 1024), dtype) for dtype in dtypes]
        # one per contract: scales may have the array's dtype
        contracts = {tuple(case.codec.planes(spec).items()): spec for spec in specs}
        for spec in contracts.values():
            ones = np.ones(spec.known_shape, spec.numpy_dtype)
            inputs, contract = case.inputs(ones), case.codec.planes(spec)
            planes = {
                # a plane whose length depends on the data has rules that others must keep too, and so has what tells it
                name: _written_by_others(rng, name, plane, _scales(case.codec))
                if contract[name].fixed and name not in _telling(case.codec)
                else plane
                for name, plane in case.planes(ones).items()
            }
            for own in specs:
                if not case.codec.decodes_to(spec, own.dtype):
                    continue
                want = case.codec.decode(planes, own, inputs)
                what = f"{case}: {spec.dtype} decoded as {own.dtype}"
                same_bits(self.decode(implementation, case.codec, planes, own, inputs), want, what)

    @pytest.mark.level("default")
    def test_through_the_public_functions(self, case: Case) -> None:
        """`arraycodec.encode` and `decode` give this backend's arrays, the reference's bits, and leave x as it was."""
        import arraycodec as ac

        backend = self.module()
        x = Recipe((6, 64), "float32", "normal", 0, 1).array()
        own = backend.from_numpy(x.copy())
        inputs = case.inputs(x)
        given = {name: backend.from_numpy(array) for name, array in case.encoding(x).items()}
        want = case.planes(x)
        enc = Encoded(case.codec, spec_of(x), {name: backend.from_numpy(plane) for name, plane in want.items()})
        try:
            enc = ac.encode(own, case.codec, given=given) if case.written is None else enc
        except UnsupportedByBackend:
            if not case.host_encoded:
                raise
        assert backend.spec(own) == enc.spec
        same_bits(backend.to_numpy(own), x, "the input after encode")
        for name, plane in enc.planes.items():
            assert type(plane) is type(own), f"{name}: must be a {type(own)}, got {type(plane)}"
            same_bits(backend.to_numpy(plane), want[name], f"{case}: plane {name}", x)
        own_inputs = {name: given[name] for name in inputs}
        decoded = ac.decode(enc, given=own_inputs)
        assert type(decoded) is type(own)
        same_bits(backend.to_numpy(decoded), case.codec.decode(want, spec_of(x), inputs), f"{case}: decoded", x)
        if not case.codec.decodes_to(enc.spec, "bfloat16"):
            with pytest.raises(ArgumentError, match="bfloat16"):
                ac.decode(enc, dtype="bfloat16", given=own_inputs)
            return
        narrow = ac.decode(enc, dtype="bfloat16")
        want16 = case.codec.decode(want, ArraySpec(enc.spec.shape, "bfloat16"))
        same_bits(backend.to_numpy(narrow), want16, f"{case}: decoded as bfloat16", x)

    @pytest.mark.level("default")
    def test_leading_axes_are_mapped_over(self, case: Case) -> None:
        """Planes stacked under new axes decode to the stacked arrays."""
        import arraycodec as ac

        backend = self.module()
        fixed = not case.base and case.codec.fixed_size(ArraySpec((3, 64), "float32"))  # else equal arrays fit for sure
        xs = [Recipe((3, 64), "float32", "normal", 0, seed * fixed).array() for seed in range(4)]
        inputs = case.inputs(xs[0])  # codecs with inputs have planes of a length that depends on the data
        planes = [case.planes(x) for x in xs]
        stacked = {n: np.stack([p[n] for p in planes]).reshape(2, 2, *planes[0][n].shape) for n in planes[0]}
        enc = Encoded(case.codec, spec_of(xs[0]), {n: backend.from_numpy(p) for n, p in stacked.items()})
        assert enc.batch_shape == (2, 2)
        want = np.stack([case.codec.decode(p, spec_of(xs[0]), inputs) for p in planes]).reshape(2, 2, 3, 64)
        given = {name: backend.from_numpy(array) for name, array in inputs.items()}
        same_bits(backend.to_numpy(ac.decode(enc, given=given)), want, f"{case}: decoded with leading axes")

    @pytest.mark.level("default")
    def test_unsupported_dtypes_are_refused(self) -> None:
        """An integer array is an error that names the codec and the dtypes it takes."""
        import arraycodec as ac

        with pytest.raises((ArgumentError, UnsupportedByBackend), match="float32, bfloat16, float16"):
            ac.encode(self.module().from_numpy(np.arange(64, dtype=np.int32)), "nf4")

    def _examples(self, count: int, case: Case, check: Callable[[Recipe], None]) -> None:
        """Run `check` on drawn recipes; always the same ones, unless there are so many that fresh ones add to them."""
        dtypes = tuple(dtype for dtype in _supported(case.codec) if dtype in (self.dtypes or DTYPES))

        @settings(
            max_examples=count, deadline=None, database=None, derandomize=count < 100,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
        )  # fmt: skip
        @given(recipe=recipes(dtypes, self.shapes))
        def run(recipe: Recipe) -> None:
            check(recipe)

        run()


def _supported(codec: Codec) -> tuple[str, ...]:
    """The dtypes that a codec and all its parts take."""
    if not isinstance(codec, Then):
        return codec.dtypes
    outer = ((dtype, codec.outer.planes(ArraySpec((3, 64), dtype))) for dtype in codec.outer.dtypes)
    return tuple(t for t, planes in outer if all(planes[name].dtype in _supported(part) for name, part in codec.parts))


def _scales(codec: Codec) -> set[str]:
    """The names of the planes that hold scales."""
    if not isinstance(codec, Then):
        return {codec.scale} if codec.scale else set()
    parts = {f"{plane}.{name}" for plane, part in codec.parts for name in _scales(part)}
    return _scales(codec.outer) - {plane for plane, _ in codec.parts} | parts


def _telling(codec: Codec) -> set[str]:
    """The names of the planes that tell how long others are."""
    if not isinstance(codec, Then):
        return set(codec.sized_by)
    return _telling(codec.outer).union(*({f"{p}.{name}" for name in _telling(part)} for p, part in codec.parts))


def _written_by_others(rng: np.random.Generator, name: str, plane: np.ndarray, scales: set[str]) -> np.ndarray:
    """A plane of the same spec: special patterns in float32 scales, any bits in others and in codes of a byte."""
    if name in scales and plane.dtype == np.float32:
        return rng.choice(np.array(PATTERNS, np.uint32), plane.shape).view(np.float32)
    if name in scales or plane.itemsize == 1:
        return rng.integers(0, 256, plane.nbytes, np.uint8).view(plane.dtype).reshape(plane.shape)
    return plane


__all__ = ["BackendSuite"]
