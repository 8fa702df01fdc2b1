"""`Lossless`, `Delta` and `Tied` in jnp: bits of every layout, the plan at hand or traced, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import arraycodec as ac  # noqa: E402
from arraycodec.base import Encoded, Planes  # noqa: E402
from arraycodec.errors import CorruptError, UnsupportedByBackend  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_jax import IMPLEMENTATIONS  # noqa: E402
from tests.backends import delta_cases, lossless_cases  # noqa: E402
from tests.backends.lossless_cases import CHOSEN, MORE, Example, broken  # noqa: E402

CODEC, DELTA = ac.Lossless(), ac.Delta()
EXAMPLES = {name: make for name, make in (lossless_cases.EXAMPLES | CHOSEN | MORE).items() if "64" not in name}
DEFAULT = ("units", "zeros", "a lone word", "window", "nothing")
SHARED = ("one table", "streams of any length", "units", "window")  # of one spec, so that one program decodes them all
DELTAS = ("float32", "equal")
# Large enough for the planes of all that share a program.
ROOM = {"plan": 16, "tables": 1024, "index": 512, "streams": 2048, "raw": 4096, "words": 64}


def some(names: Any, default: tuple[str, ...]) -> list[Any]:
    """All names, of which those that are not in `default` are for more thorough runs: each compiles a program."""
    return [name if name in default else pytest.param(name, marks=pytest.mark.level("full")) for name in names]


def on_jax(planes: Planes, room: dict[str, int] | None = None) -> Planes:
    """The planes as JAX arrays, with zeros after them where there is room."""
    return {
        name: jnp.asarray(np.pad(plane, (0, room[name] - plane.size)) if room else plane)
        for name, plane in planes.items()
    }


@jax.jit
def traced(enc: Encoded) -> Any:
    """Decoded by a program that is not compiled for the plan."""
    return ac.decode(enc)


def decode_traced(example: Example, planes: Planes, room: dict[str, int] | None = None) -> np.ndarray:
    """The array of these planes, all of them arguments of a program."""
    return np.asarray(traced(Encoded(CODEC, example.spec, on_jax(planes, room))))


@pytest.mark.parametrize("name", some(EXAMPLES, DEFAULT))
def test_bits(name: str) -> None:
    example = EXAMPLES[name]()
    if example.array.dtype.itemsize > 4:
        with pytest.raises(UnsupportedByBackend, match="words of 8, 16 or 32 bits, got"):
            IMPLEMENTATIONS["jit"].decode(CODEC, example.planes, example.spec, {})
        return
    got = IMPLEMENTATIONS["jit"].decode(CODEC, on_jax(example.planes), example.spec, {})
    same_bits(np.asarray(got), example.array, "decoded")


@pytest.mark.parametrize("name", some(EXAMPLES, ("nothing",)))
def test_bits_where_the_plan_is_traced(name: str) -> None:
    example = EXAMPLES[name]()
    if example.array.dtype.itemsize <= 4:
        same_bits(decode_traced(example, example.planes), example.array, "decoded")


def test_one_program_decodes_every_plan() -> None:
    before = traced._cache_size()
    for name in SHARED:
        example = EXAMPLES[name]()
        same_bits(decode_traced(example, example.planes, ROOM), example.array, name)
    assert traced._cache_size() - before <= 1


def test_broken_planes() -> None:
    """The bits of the reference where it decodes; else any array, and nothing worse."""
    refused = 0
    for name in SHARED:
        example = EXAMPLES[name]()
        for seed in range(25):
            planes = broken(example, seed)
            got = decode_traced(example, planes, ROOM)
            try:
                want = CODEC.decode(planes, example.spec)
            except CorruptError:
                refused += 1
            else:
                same_bits(got, want, f"{name}, broken by {seed}")
    assert 20 < refused < 90


def test_a_bad_plan_is_refused_where_it_is_at_hand() -> None:
    example = EXAMPLES["one table"]()
    plan = example.planes["plan"].copy()
    plan[5] = 0
    with pytest.raises(CorruptError, match=r"streams of 1\.\.32768 elements"):
        IMPLEMENTATIONS["jit"].decode(CODEC, on_jax(example.planes | {"plan": plan}), example.spec, {})


@pytest.mark.level("full")
def test_leading_axes_are_mapped_over() -> None:
    """Arrays of one spec, each with another plan."""
    found = [EXAMPLES[name]() for name in SHARED]
    planes = [on_jax(example.planes, ROOM) for example in found]
    enc = Encoded(CODEC, found[0].spec, {name: jnp.stack([own[name] for own in planes]) for name in planes[0]})
    for decoded in (jax.vmap(ac.decode)(enc), jax.jit(ac.decode)(enc)):
        same_bits(np.asarray(decoded), np.stack([example.array for example in found]), "mapped")


def test_planes_at_hand_inside_a_program() -> None:
    """Closed-over planes: the plan is known, and the array is computed by the program."""
    example = EXAMPLES["columns"]()
    enc = Encoded(CODEC, example.spec, on_jax(example.planes))
    got = jax.jit(lambda flip: ac.decode(enc).view(jnp.uint16) ^ flip)(jnp.uint16(5))
    same_bits(np.asarray(got), example.array.view(np.uint16) ^ np.uint16(5), "decoded and changed")


@pytest.mark.parametrize("known", [False, True])
def test_lowers_for_accelerators_that_are_not_here(known: bool) -> None:
    export = pytest.importorskip("jax.export")
    example = EXAMPLES["units"]()
    enc = Encoded(CODEC, example.spec, on_jax(example.planes))
    shapes = jax.tree.map(lambda plane: jax.ShapeDtypeStruct(plane.shape, plane.dtype), enc)

    def decode(own: Encoded) -> Any:
        return ac.decode(Encoded(CODEC, own.spec, own.planes | {"plan": enc.planes["plan"]} if known else own.planes))

    export.export(jax.jit(decode), platforms=["cuda", "rocm", "tpu"])(shapes)


def test_parts_of_other_codecs() -> None:
    codec = ac.Then(ac.Codebook("nf4"), codes=CODEC)
    x = lossless_cases.weights((16, 128), "float32")
    planes = codec.encode(x)
    got = IMPLEMENTATIONS["jit"].decode(codec, on_jax(planes), ac.ArraySpec(x.shape, "float32"), {})
    same_bits(np.asarray(got), codec.decode(planes, ac.ArraySpec(x.shape, "float32")), "decoded")


@pytest.mark.parametrize("codec", [CODEC, DELTA, ac.Tied("w")], ids=str)
def test_encoding_is_for_the_host(codec: ac.Codec) -> None:
    x = jnp.ones((4, 64), jnp.bfloat16)
    given = {"base": x} if codec.inputs else {}
    assert ac.encode(x, codec, given=given).planes
    with pytest.raises(UnsupportedByBackend, match=f"{codec.name}: the encoder runs on the host"):
        jax.jit(lambda x: ac.encode(x, codec, given=given))(x)
    with pytest.raises(UnsupportedByBackend, match=f"{codec.name}: the encoder runs on the host"):
        IMPLEMENTATIONS["jit"].encode(x, codec, given)


# -- with a base


@pytest.mark.parametrize("name", some(delta_cases.EXAMPLES, DELTAS))
def test_delta(name: str) -> None:
    example = delta_cases.EXAMPLES[name]()
    base = {"base": jnp.asarray(example.base)}
    got = IMPLEMENTATIONS["jit"].decode(DELTA, on_jax(example.planes), example.spec, base)
    same_bits(np.asarray(got), example.array, "decoded")


@pytest.mark.parametrize("name", some(delta_cases.EXAMPLES, ("float32",)))
def test_delta_where_the_plan_is_traced(name: str) -> None:
    example = delta_cases.EXAMPLES[name]()
    decode = jax.jit(lambda enc, base: ac.decode(enc, given={"base": base}))
    got = decode(Encoded(DELTA, example.spec, on_jax(example.planes)), jnp.asarray(example.base))
    same_bits(np.asarray(got), example.array, "decoded")


def test_tied() -> None:
    x = lossless_cases.weights((30, 20), "bfloat16")
    codec, base = ac.Tied("w"), jnp.asarray(x)
    enc = ac.encode(base, codec, given={"base": base})
    same_bits(np.asarray(jax.jit(lambda enc, base: ac.decode(enc, given={"base": base}))(enc, base)), x, "traced")
    same_bits(np.asarray(IMPLEMENTATIONS["jit"].decode(codec, enc.planes, enc.spec, {"base": base})), x, "decoded")


@pytest.mark.parametrize("codec", [DELTA, ac.Tied("w")], ids=str)
def test_another_base_is_refused_where_it_is_at_hand(codec: ac.Codec) -> None:
    base = jnp.arange(64.0)
    enc = ac.encode(base, codec, given={"base": base})
    with pytest.raises(CorruptError, match=f"{codec.name}: the"):
        IMPLEMENTATIONS["jit"].decode(codec, enc.planes, enc.spec, {"base": base + 1})
    with pytest.raises(ac.ArgumentError, match=f"{codec.name}: given must hold 'base'"):
        IMPLEMENTATIONS["jit"].decode(codec, enc.planes, enc.spec, {})
