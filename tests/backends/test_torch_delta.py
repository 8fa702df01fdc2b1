"""`Delta` in plain torch ops: bits of every kind of plan, bases that are not the right one, corrupt planes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import arraycodec as ac
from arraycodec.errors import ArgumentError, CorruptError, UnsupportedByBackend
from arraycodec_conformance.compare import same_bits
from arraycodec_torch import IMPLEMENTATIONS, from_numpy, scales, to_numpy
from tests.backends.delta_cases import EXAMPLES, Example, broken

CODEC = ac.Delta()


def decode(example: Example) -> np.ndarray:
    """By plain torch ops."""
    own = {name: from_numpy(plane) for name, plane in example.planes.items()}
    return to_numpy(IMPLEMENTATIONS["torch"].decode(CODEC, own, example.spec, {"base": from_numpy(example.base)}))


@pytest.mark.parametrize("name", EXAMPLES)
def test_bits(name: str) -> None:
    example = EXAMPLES[name]()
    want = CODEC.decode(example.planes, example.spec, {"base": example.base})
    same_bits(want, example.array, "decoded by the reference")
    same_bits(decode(example), example.array, "decoded")


def test_tiles_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(scales.TILE, "cpu", 37)
    example = EXAMPLES["float32"]()
    same_bits(decode(example), example.array, "decoded")


def test_products_may_flush_subnormals() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormals")
    example = EXAMPLES["float32"]()
    got = decode(example)
    torch.set_flush_denormal(False)
    same_bits(got, example.array, "decoded")


@pytest.mark.parametrize("name", ["bfloat16", "float32", "equal"])
def test_broken_planes_end_as_in_the_reference(name: str) -> None:
    """The same bits, or CorruptError in both."""
    example = EXAMPLES[name]()
    for seed in range(40):
        compare_broken(example, seed)


def compare_broken(example: Example, seed: int) -> None:
    """Decode planes that someone changed here and in the reference."""
    changed = example._replace(planes=broken(example, seed))
    try:
        want = CODEC.decode(changed.planes, example.spec, {"base": example.base})
    except CorruptError:
        with pytest.raises(CorruptError):
            decode(changed)
    else:
        same_bits(decode(changed), want, f"decoded, seed {seed}")


def test_another_base_is_refused() -> None:
    example = EXAMPLES["bfloat16"]()
    other = example.base.copy()
    other[9] *= 2
    with pytest.raises(CorruptError, match="base must have the hash"):
        decode(example._replace(base=other))
    with pytest.raises(CorruptError, match="base must be bfloat16"):
        decode(example._replace(base=example.base[:-1]))
    own = {name: from_numpy(plane) for name, plane in example.planes.items()}
    with pytest.raises(ArgumentError, match="given must hold 'base'"):
        IMPLEMENTATIONS["torch"].decode(CODEC, own, example.spec, {})


def test_encoding_is_for_the_host() -> None:
    with pytest.raises(UnsupportedByBackend, match=r"delta: the torch backend encodes on the host only.* on cpu"):
        IMPLEMENTATIONS["torch"].encode(torch.ones(4), CODEC, {"base": torch.ones(4)})


def test_a_base_of_another_framework_is_refused() -> None:
    base = torch.zeros(4, 8)
    encoded = ac.encode(base + 1, CODEC, given={"base": base})
    for given in ({"base": base.numpy()}, {"base": [0.0]}):
        with pytest.raises(ArgumentError, match="delta: must be given torch tensors, got"):
            ac.encode(base + 1, CODEC, given=given)
        with pytest.raises(ArgumentError, match="delta: must be given torch tensors, got"):
            ac.decode(encoded, given=given)
        with pytest.raises(ArgumentError, match="must be given torch tensors, got"):
            IMPLEMENTATIONS["torch"].decode(CODEC, encoded.planes, encoded.spec, given)
