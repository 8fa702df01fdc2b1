"""What JAX users do with an Encoded: jit, vmap, scan, grad, donation, closures; and what the backend refuses."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax import lax  # noqa: E402

import arraycodec as ac  # noqa: E402
import arraycodec_jax as backend  # noqa: E402
from arraycodec.base import Codec, Encoded  # noqa: E402
from arraycodec.spec import spec_of  # noqa: E402
from arraycodec_conformance.compare import same_bits  # noqa: E402
from arraycodec_conformance.strategies import Recipe  # noqa: E402

X = Recipe((8, 128), "float32", "normal", 0, 0).array()
NAMES = ("nf4-double", "w4a16", "fp8-channel", "mxfp6", "nvfp4")


def same(enc: Encoded, x: np.ndarray) -> None:
    """The planes of `enc` are those of the reference."""
    for name, plane in enc.codec.encode(x).items():
        same_bits(np.asarray(enc.planes[name]), plane, f"{enc.codec}: {name}", x)


# -- pytree


def test_a_traced_encode_is_the_first_thing_a_program_does() -> None:
    """The backend is imported, and Encoded registered, while jit already traces."""
    code = (
        "import jax, numpy as np, arraycodec as ac, sys\n"
        "x = np.arange(128, dtype=np.float32)\n"
        "enc = jax.jit(lambda x: ac.encode(x, 'nf4'))(x)\n"
        "assert bytes(enc.planes['codes']) == ac.encode(x, 'nf4').planes['codes'].tobytes()\n"
        "assert (np.asarray(jax.jit(ac.decode)(enc)) == ac.decode(ac.encode(x, 'nf4'))).all()\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_planes_are_leaves_with_key_paths() -> None:
    enc = ac.encode(jnp.asarray(X), "nf4")
    leaves, treedef = jax.tree_util.tree_flatten_with_path({"w": enc})
    assert [jax.tree_util.keystr(path) for path, _ in leaves] == ["['w'].planes['absmax']", "['w'].planes['codes']"]
    assert hash(treedef) == hash(jax.tree_util.tree_structure({"w": ac.encode(jnp.asarray(-X), "nf4")}))
    assert treedef != jax.tree_util.tree_structure({"w": ac.encode(jnp.asarray(X), "fp4")})


def test_unflattening_never_validates() -> None:
    enc = ac.encode(jnp.asarray(X), "nf4-double")
    leaves, treedef = jax.tree_util.tree_flatten(enc)
    for leaf in (None, object(), "anything", 3):
        rebuilt = jax.tree_util.tree_unflatten(treedef, [leaf] * len(leaves))
        assert (rebuilt.codec, rebuilt.spec) == (enc.codec, enc.spec)
    shapes = jax.eval_shape(lambda x: ac.encode(x, "nf4"), jnp.asarray(X))
    assert shapes.planes["codes"].shape == (8, 64)
    assert jax.eval_shape(ac.decode, shapes).shape == X.shape
    on_host = jax.tree.map(np.asarray, enc)
    assert isinstance(ac.decode(on_host), np.ndarray)


# -- jit


@pytest.mark.parametrize("name", NAMES)
def test_jit(name: str) -> None:
    enc = jax.jit(lambda x: ac.encode(x, name))(X)
    same(enc, X)
    want = ac.decode(ac.encode(X, name))
    same_bits(np.asarray(jax.jit(ac.decode)(enc)), want, "decoded under jit")
    same_bits(np.asarray(ac.decode(enc)), want, "decoded")
    assert ac.decode(enc, dtype="bfloat16").dtype == jnp.bfloat16


def test_fusion_with_what_comes_before_and_after_changes_no_bit() -> None:
    """A product that becomes the input, a sum that takes the output, and a cast on either side: in one program."""
    a, b = (Recipe((64, 1024), "float32", "normal", 0, seed).array() for seed in (1, 2))
    codec = ac.Codebook("nf4", offset=True)

    @jax.jit
    def program(a: Any, b: Any) -> tuple[Any, Encoded, Any, Encoded]:
        x = a * b
        enc = ac.encode(x, codec)
        return x, enc, ac.decode(enc) + b, ac.encode((x + a).astype(jnp.bfloat16), "dynamic")

    x, enc, added, narrow = program(a, b)
    same_bits(np.asarray(x), a * b, "the product")
    same(enc, a * b)
    same_bits(np.asarray(added), codec.decode(codec.encode(a * b), spec_of(a)) + b, "decoded + b")
    for name, plane in ac.codec("dynamic").encode(np.asarray((jnp.asarray(a * b) + a).astype(jnp.bfloat16))).items():
        # x + a is a * b + a in there: contracted by XLA, so that only nearly all elements are the same.
        assert (np.asarray(narrow.planes[name]) == plane).mean() > 0.99

    plain = jax.jit(lambda enc, b: ac.decode(enc) + b)(ac.encode(jnp.asarray(a), "nf4"), b)
    same_bits(np.asarray(plain), ac.decode(ac.encode(a, "nf4")) + b, "decoded + b, without offset")


@pytest.mark.parametrize("name", NAMES)
def test_lowers_for_accelerators_that_are_not_here(name: str) -> None:
    export = pytest.importorskip("jax.export")
    shape = jax.ShapeDtypeStruct((64, 512), jnp.bfloat16)
    encode = jax.jit(lambda x: ac.encode(x, name))
    exported = export.export(encode, platforms=["cpu", "cuda", "rocm", "tpu"])(shape)
    assert exported.platforms == ("cpu", "cuda", "rocm", "tpu")
    export.export(jax.jit(ac.decode), platforms=["cuda", "tpu"])(jax.eval_shape(encode, shape))


def test_values_at_hand_are_staged_inside_jit() -> None:
    """Closed-over planes are decoded by the compiled program, not while tracing into a large constant."""
    enc = ac.encode(jnp.asarray(X), "nf4")
    seen: list[str] = []

    def product(v: Any) -> Any:
        seen.append(backend.choose(enc.planes["codes"]))
        return ac.decode(enc) @ v

    got = jax.jit(product)(jnp.ones(128))
    np.testing.assert_allclose(got, ac.decode(ac.encode(X, "nf4")) @ np.ones(128), rtol=1e-4)
    assert seen == ["eager"] and backend.choose(enc.planes["codes"]) == "reference"
    jaxpr = jax.make_jaxpr(product)(jnp.ones(128))
    assert all(const.size < X.size for const in jaxpr.consts)


def test_donation_is_harmless() -> None:
    x = jnp.asarray(X)
    enc = ac.encode(x, "nf4")
    jax.jit(lambda x: x + 1, donate_argnums=0)(x).block_until_ready()
    same(enc, X)
    donated = jax.jit(ac.decode, donate_argnums=0)
    with pytest.warns(UserWarning, match="donated buffers were not usable"):
        decoded = donated(enc)
    same_bits(np.asarray(decoded), ac.decode(ac.encode(X, "nf4")), "decoded")


def test_given_planes_are_kept_and_never_shared_with_numpy() -> None:
    absmax = np.full((8, 2), 3, np.float32)
    enc = ac.encode(jnp.asarray(X), "nf4", given={"absmax": absmax})
    absmax[:] = 0
    assert (np.asarray(enc.planes["absmax"]) == 3).all()
    own = jnp.full((8, 2), 3.0)
    assert ac.encode(jnp.asarray(X), "nf4", given={"absmax": own}).planes["absmax"] is own
    traced = jax.jit(lambda x, absmax: ac.encode(x, "nf4", given={"absmax": absmax}))(X, own)
    same_bits(np.asarray(traced.planes["codes"]), np.asarray(enc.planes["codes"]), "codes")


# -- vmap, scan, grad


@pytest.mark.parametrize("name", NAMES)
def test_vmap_gives_planes_with_a_leading_axis(name: str) -> None:
    xs = np.stack([X, -X, X * 3])
    enc = jax.vmap(lambda x: ac.encode(x, name))(xs)
    assert enc.batch_shape == (3,) and enc.spec.shape == X.shape
    want = np.stack([ac.decode(ac.encode(x, name)) for x in xs])
    same_bits(np.asarray(ac.decode(enc)), want, "a loop over the reference")
    same_bits(np.asarray(jax.jit(ac.decode)(enc)), want, "vmap under jit")
    same_bits(np.asarray(jax.vmap(ac.decode)(enc)), want, "the user's vmap")
    for i, x in enumerate(xs):
        same(jax.tree.map(lambda plane, i=i: plane[i], enc), x)


def test_two_leading_axes_and_none_of_any_length() -> None:
    xs = np.stack([X, -X, X * 3, X * 5, X, X]).reshape(2, 3, *X.shape)
    enc = jax.jit(jax.vmap(jax.vmap(lambda x: ac.encode(x, "nf4"))))(xs)
    assert enc.batch_shape == (2, 3)
    one = jax.jit(ac.decode).lower(enc).as_text()
    assert one.count('"stablehlo.gather"(') == 1, "a decode that is mapped, not one per element"
    want = ac.decode(ac.encode(xs, "nf4"))
    same_bits(np.asarray(ac.decode(enc)), want, "reference")
    same_bits(np.asarray(jax.jit(ac.decode)(enc)), want, "jit")
    nothing = jax.tree.map(lambda plane: plane[:, :0], enc)
    assert ac.decode(nothing).shape == jax.jit(ac.decode)(nothing).shape == (2, 0, *X.shape)


def test_scan_decodes_one_layer_per_step() -> None:
    layers = np.stack([np.eye(128, dtype=np.float32) * (1 + i) + X.mean() for i in range(4)])
    enc = jax.vmap(lambda w: ac.encode(w, "nf4-double"))(layers)

    @jax.jit
    def forward(enc: Encoded, x: Any) -> tuple[Any, Any]:
        def step(x: Any, layer: Encoded) -> tuple[Any, Any]:
            w = ac.decode(layer)
            return jnp.tanh(w @ x), w

        return lax.scan(step, x, enc)

    out, decoded = forward(enc, jnp.asarray(X[0]))
    want = np.stack([ac.decode(ac.encode(w, "nf4-double")) for w in layers])
    same_bits(np.asarray(decoded), want, "decoded layers")
    x = X[0]
    for w in want:
        x = np.tanh(w @ x)
    np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-5)

    def packing(carry: int, w: Any) -> tuple[int, Encoded]:
        return carry, ac.encode(w, "nf4-double")

    _, stacked = lax.scan(packing, 0, jnp.asarray(layers))
    for name, plane in enc.planes.items():
        same_bits(np.asarray(stacked.planes[name]), np.asarray(plane), name)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_planes_are_constants_for_autodiff(wrap: Any) -> None:
    enc = ac.encode(jnp.asarray(X), "nf4-double")
    w = ac.decode(ac.encode(X, "nf4-double"))
    gradient = wrap(jax.grad(lambda v: (ac.decode(enc) @ v).sum()))(jnp.ones(128))
    np.testing.assert_allclose(gradient, w.sum(axis=0), rtol=1e-4, atol=1e-4)
    through = wrap(jax.grad(lambda x: ac.decode(ac.encode(x, "nf4")).sum()))(jnp.asarray(X))
    assert not np.asarray(through).any()


# -- the protocol


def test_reference_shares_memory_with_jax() -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        aligned = ac.empty(ac.ArraySpec((64, 64), dtype))
        aligned[:] = 1
        x = backend.from_numpy(aligned)
        assert x.unsafe_buffer_pointer() == aligned.ctypes.data == backend.to_numpy(x).ctypes.data
        assert ac.decode(ac.encode(x, "nf4")).dtype == x.dtype


def test_nothing_is_transferred_in_silence() -> None:
    x = jnp.asarray(X)
    with jax.transfer_guard("disallow"):
        ac.decode(ac.encode(x, "nf4-double"))


def test_choose() -> None:
    x, chosen = jnp.asarray(X), []
    assert backend.choose(x) == "reference" and backend.concrete(x)
    jax.jit(lambda x: (chosen.append((backend.choose(x), backend.concrete(x))), x)[1])(x)
    jax.vmap(lambda x: (chosen.append((backend.choose(x), backend.concrete(x))), x)[1])(x)
    assert chosen == [("eager", False), ("jit", False)]


def test_what_is_refused() -> None:
    x = jnp.asarray(X)
    enc = ac.encode(x, "nf4")
    with pytest.raises(ac.UnsupportedByBackend, match="codebook: the jax backend has no out="):
        ac.decode(enc, out=x)
    with pytest.raises(ac.UnsupportedByBackend, match="immutable"):
        backend.empty(enc.spec)
    with pytest.raises(ac.UnsupportedByBackend, match="a traced array has no values"):
        jax.jit(lambda x: ac.encode(x, "nf4", check=True))(x)
    with pytest.raises(ac.NonFiniteError, match="1 of 16 blocks"):
        ac.encode(x.at[0, 0].set(jnp.nan), "nf4")
    with pytest.raises(ac.ArgumentError, match="strictly rising"):
        jax.jit(lambda x: ac.encode(x, ac.Codebook("user4"), given={"codebook": np.ones(16, np.float32)}))(x)
    with pytest.raises(ac.ArgumentError, match="given must hold the plane 'codebook'"):
        jax.jit(lambda x: ac.encode(x, ac.Codebook("user4")))(x)
    with pytest.raises(ac.UnsupportedByBackend, match="float64 arrays need"):
        backend.from_numpy(np.ones(3))
    with pytest.raises(ac.UnsupportedByBackend, match="arrays on one CPU device, got one on a trace"):
        jax.jit(lambda x: backend.IMPLEMENTATIONS["reference"].encode(x, enc.codec, {}))(x)


def test_a_codec_without_a_traceable_form_is_named() -> None:
    class Other(Codec):
        name = "other"
        dtypes = ("float32",)
        planes = encode = decode = None  # type: ignore[assignment]  # never called

    Other.__abstractmethods__ = frozenset()
    with pytest.raises(ac.UnsupportedByBackend, match="other: the jax backend has no traceable form"):
        backend.IMPLEMENTATIONS["jit"].encode(jnp.asarray(X), Other(), {})
