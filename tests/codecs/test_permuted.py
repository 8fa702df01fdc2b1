"""`Permuted` beyond the suite: every dtype and axis, groups of columns that are not neighbours, what is no order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import arraycodec as ac
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.compare import same_bits

GROUPED = ac.Then(ac.Permuted(), values=ac.Linear(4, False, (1, 32)))


def anything(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Random bits of a dtype, NaN payloads included."""
    row = numpy_dtype(dtype)
    high = 2 if dtype == "bool" else 256
    data = np.random.default_rng(0).integers(0, high, int(np.prod(shape)) * row.itemsize, np.uint8)
    return data.view(row).reshape(shape)


def shuffle(columns: int) -> np.ndarray:
    return np.random.default_rng(columns).permutation(columns).astype(np.int32)


@pytest.mark.parametrize("dtype", ac.Permuted.dtypes)
@pytest.mark.parametrize(("shape", "axis"), [((), -1), ((7,), 0), ((0, 3), 1), ((4, 6), -2), ((3, 5, 2), 1)])
def test_every_dtype_and_axis(dtype: str, shape: tuple[int, ...], axis: int) -> None:
    x, order = anything(shape, dtype), shuffle(shape[axis] if shape else 1)
    enc = ac.encode(x, ac.Permuted(axis), given={"order": order})
    same_bits(ac.decode(enc), x, dtype)
    if shape:
        same_bits(np.take(enc.planes["values"], order, axis), x, f"{dtype}: column j is column order[j] of the values")
    out = ac.empty(enc.spec)
    assert ac.decode(enc, out=out) is out
    same_bits(out, x, dtype)
    same_bits(ac.from_bytes(ac.to_bytes(enc)).planes["values"], enc.planes["values"], "through a frame")


def test_columns_of_a_group_share_a_scale() -> None:
    """Groups of equal magnitude, interleaved: what is no group of neighbours is one of places."""
    rng, g_idx = np.random.default_rng(0), np.arange(128) % 4
    x = (rng.standard_normal((8, 128)) * np.float32(16) ** g_idx).astype(np.float32)
    order = np.argsort(np.argsort(g_idx, kind="stable")).astype(np.int32)
    assert (order // 32 == g_idx).all()
    enc = ac.encode(x, GROUPED, given={"order": order})
    together = ac.encode(x[:, np.argsort(g_idx, kind="stable")], ac.Linear(4, False, (1, 32)))
    for name, plane in together.planes.items():
        same_bits(enc.planes[f"values.{name}"], plane, name)
    same_bits(ac.decode(enc), ac.decode(together)[:, order], "decoded")
    neighbours = ac.decode(ac.encode(x, ac.Linear(4, False, (1, 32))))
    small = g_idx == 0
    assert np.abs(ac.decode(enc) - x)[:, small].mean() < np.abs(neighbours - x)[:, small].mean() / 4


def test_another_dtype_is_that_of_the_values() -> None:
    """Permuted alone is lossless and has one dtype; a part that rounds once may round to another."""
    x, order = np.random.default_rng(2).standard_normal((4, 128)).astype(np.float16), shuffle(128)
    inner = ac.Linear(4, False, (1, 32), "compressed-tensors", "eager")
    enc = ac.encode(x, ac.Then(ac.Permuted(), values=inner), given={"order": order})
    values = {name.removeprefix("values."): plane for name, plane in enc.planes.items() if name != "order"}
    for dtype in ("float32", "bfloat16"):
        want = ac.decode(ac.Encoded(inner, enc.spec, values), dtype=dtype)[:, order]
        same_bits(ac.decode(enc, dtype=dtype), want, dtype)
    for codec in (ac.Permuted(), ac.Then(ac.Permuted(), values=ac.Lossless())):
        with pytest.raises(ac.ArgumentError, match="gives float16 only"):
            ac.decode(ac.encode(x, codec, given={"order": order}), dtype="float32")


@pytest.mark.parametrize("codec", [ac.Permuted(), ac.Permuted(1), ac.Permuted(0), GROUPED], ids=repr)
def test_a_part_reads_whole_rows_only(codec: ac.Codec) -> None:
    x = np.random.default_rng(1).standard_normal((6, 4, 64)).astype(np.float32)
    axis = getattr(codec, "axis", -1)
    enc, fetched = ac.encode(x, codec, given={"order": shuffle(x.shape[axis])}), []

    def fetch(plane: str, piece: slice) -> np.ndarray:
        found = enc.planes[plane] if piece == slice(None) else enc.planes[plane].reshape(-1)[piece]
        fetched.append(found.nbytes)
        return found

    flat = ac.decode(enc).reshape(-1)
    for start, stop in ((0, 1536), (70, 71), (130, 500), (1535, 1536), (9, 9)):
        same_bits(codec.read(fetch, enc.spec, start, stop), flat[start:stop], f"{codec} {start}:{stop}")
    fetched.clear()
    codec.read(fetch, enc.spec, 70, 71)
    assert axis == 0 or sum(fetched) < enc.nbytes / 4


def test_rows_of_a_file(tmp_path: Path) -> None:
    x = anything((40, 96), "bfloat16")
    ac.save_file({"w": ac.encode(x, ac.Permuted(), given={"order": shuffle(96)})}, tmp_path / "w.safetensors")
    with ac.open_file(tmp_path / "w.safetensors") as file:
        same_bits(file["w"][7:19], x[7:19], "rows")
        same_bits(file["w"].decode(), x, "whole")


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1, 3], [0, -1, 2], [3, 4, 5], [2**31 - 1, 0, 1]])
def test_what_is_no_order(order: list[int], tmp_path: Path) -> None:
    x, bad = np.arange(6, dtype=np.float32).reshape(2, 3), np.array(order, np.int32)
    with pytest.raises(ac.ArgumentError, match=r"permuted: order must be a permutation of 0 to 2, got \["):
        ac.encode(x, ac.Permuted(), given={"order": bad})
    enc = ac.encode(x, ac.Permuted(), given={"order": np.array([2, 0, 1], np.int32)})
    broken = ac.Encoded(enc.codec, enc.spec, enc.planes | {"order": bad})
    with pytest.raises(ac.CorruptError, match="order must be a permutation of 0 to 2"):
        broken.codec.check(broken.planes, broken.spec)
    near = np.clip(bad, 0, 2)  # decoding stays inside
    same_bits(ac.decode(broken), enc.planes["values"][:, near], "decoded")
    with pytest.raises(ac.CorruptError, match="order must be a permutation"):
        ac.from_bytes(ac.to_bytes(broken))


def test_bad_arguments() -> None:
    x = np.zeros((2, 3), np.float32)
    for axis in (True, 1.0, "x", None):
        with pytest.raises(ac.ArgumentError, match="permuted: axis must be an integer, got"):
            ac.Permuted(axis)  # type: ignore[arg-type]
    for axis in (2, -3):
        with pytest.raises(ac.ArgumentError, match=r"axis must be one of the 2 axes of float32\[2, 3\], got"):
            ac.encode(x, ac.Permuted(axis), given={"order": np.arange(3, dtype=np.int32)})
    for given in (None, {}):
        with pytest.raises(ac.ArgumentError, match="permuted: given must hold 'order'"):
            ac.encode(x, ac.Permuted(), given=given)
    for order in (np.arange(4, dtype=np.int32), np.arange(3)):
        with pytest.raises(ac.ArgumentError, match=r"given plane 'order' must be int32\[3\], got"):
            ac.encode(x, ac.Permuted(), given={"order": order})
    with pytest.raises(ac.ArgumentError, match="cannot hold 'values'"):
        ac.encode(x, ac.Permuted(), given={"order": np.arange(3, dtype=np.int32), "values": x})


def test_plain_torch_ops_and_jnp_on_every_dtype() -> None:
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    import arraycodec_jax
    import arraycodec_torch

    order = shuffle(6)
    for dtype in ac.Permuted.dtypes:
        x = anything((4, 6), dtype)
        for backend, name in ((arraycodec_torch, "torch"), (arraycodec_jax, "eager")):
            if backend is arraycodec_jax and jax.dtypes.canonicalize_dtype(x.dtype) != x.dtype:
                continue
            how, own = backend.IMPLEMENTATIONS[name], backend.from_numpy(order)
            planes = how.encode(backend.from_numpy(x), ac.Permuted(), {"order": own})
            decoded = how.decode(ac.Permuted(), planes, ac.ArraySpec((4, 6), dtype), {})
            same_bits(backend.to_numpy(decoded), x, f"{name} {dtype}")
            same_bits(backend.to_numpy(planes["values"])[:, order], x, f"{name} {dtype}: values")
    bad = torch.tensor([0, 1, 1, 2, 3, 4], dtype=torch.int32)
    with pytest.raises(ac.ArgumentError, match="must be a permutation of 0 to 5"):
        arraycodec_torch.IMPLEMENTATIONS["torch"].encode(torch.zeros(2, 6), ac.Permuted(), {"order": bad})
    with pytest.raises(ac.ArgumentError, match="must be a permutation of 0 to 5"):
        arraycodec_jax.IMPLEMENTATIONS["jit"].encode(jax.numpy.zeros((2, 6)), ac.Permuted(), {"order": bad.numpy()})
