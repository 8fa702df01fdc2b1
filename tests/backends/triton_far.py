"""The end of tensors of more than 2^31 elements, where an index of 32 bits has overflowed.

Their memory is never touched but for the last elements, so the system gives it only those pages; the launchers run as
on a GPU, and of each launch the PTX interpreter executes the last program (see `tests.backends.triton_emulation`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch

import arraycodec as ac
from arraycodec.base import Codec, Planes
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays, to_numpy
from tests.backends.triton_emulation import HUGE, sample

LEAST = 64  # elements in a row that the last program has at least


class Far(NamedTuple):
    """A codec, the columns of a matrix of bfloat16, and how many of its last rows are compared."""

    codec: Codec
    columns: int = 4096
    rows: int = 2  # whole tiles, and at least what the last program has
    given: bool = False  # whether encoding is given the scales of its tiles; the pass that finds them goes far as well

    @property
    def lines(self) -> int:
        """The rows of the whole matrix, a multiple of those compared."""
        return (HUGE // self.columns // self.rows + 2) * self.rows

    def encode(self, how: Any) -> None:
        """Run each kernel of an encoder on the end; require the bits of the reference."""
        x = sample(self.rows * self.columns, "bfloat16", seed=1).reshape(self.rows, self.columns)
        known = {name: plane for name, plane in self.codec.encode(x).items() if self.given and name != "codes"}
        want, spec = self.codec.encode(x, known), ArraySpec((self.lines, self.columns), "bfloat16")
        own = {name: far(spec_of_plane, known[name]) for name, spec_of_plane in self.specs(spec, known).items()}
        got = how.encode(far(spec, x), self.codec, own)
        self.same(to_numpy(got["codes"]), want["codes"], self.codec.planes(ArraySpec((1, 4096), "bfloat16")))

    def decode(self, how: Any) -> None:
        """The same of a decoder."""
        x = sample(self.rows * self.columns, "bfloat16", seed=1).reshape(self.rows, self.columns)
        planes, spec = self.codec.encode(x), ArraySpec((self.lines, self.columns), "bfloat16")
        own = {name: far(plane, planes[name]) for name, plane in self.specs(spec, planes).items()}
        got = how.decode(self.codec, own, spec, {})
        self.same(to_numpy(got), self.codec.decode(planes, ArraySpec(x.shape, "bfloat16")), {})

    def specs(self, spec: ArraySpec, planes: Planes) -> dict[str, ArraySpec]:
        """The specs of these planes for the whole matrix."""
        return {name: plane for name, plane in self.codec.planes(spec).items() if name in planes}

    def same(self, got: np.ndarray, want: np.ndarray, packed: dict[str, ArraySpec]) -> None:
        """Require the same bytes at the end, as many as the last program has written."""
        got, want = got.reshape(-1).view(np.uint8), want.reshape(-1).view(np.uint8)
        bits = 16 if not packed else packed["codes"].nbytes * 8 // 4096
        least = LEAST * bits // 8
        end = got[-want.size :]
        done = end != 0  # by the last program; what the others would write is zero
        done[-least:] = True
        assert (end[done] == want[done]).all(), f"{self.codec} differs behind 2^31 elements"


def far(spec: ArraySpec, end: np.ndarray) -> torch.Tensor:
    """A tensor of which only the end is touched."""
    x = arrays.empty(spec)
    content = arrays.flat(arrays.from_numpy(np.ascontiguousarray(end)))
    flat = x.view(-1)
    flat[flat.numel() - content.numel() :] = content
    return x


FAR = {
    "nf4": Far(ac.Codebook("nf4")),
    "nf4-whole": Far(ac.Codebook("nf4", block_size=None), rows=1),
    "nf4-96": Far(ac.Codebook("nf4", block_size=96), columns=4992, given=True),
    "nf4-5002": Far(ac.Codebook("nf4", block_size=5002), columns=5002, given=True),
    "linear-line": Far(ac.codec("w4a16")),
    "linear-column": Far(ac.Linear(6, block_size=(2, 20)), given=True),
    "linear-flow": Far(ac.Linear(3, block_size=(1, 5)), columns=4095, rows=8, given=True),
    "linear-band": Far(ac.Linear(8, block_size=(None, 64)), rows=64),
    "linear-whole": Far(ac.Linear(8, block_size=None), rows=1),
    "minifloat-chunk": Far(ac.codec("fp8-block"), rows=128, given=True),
    "llm_int8": Far(ac.LLMInt8()),
}
MORE_FAR = {  # at level full and above: what has no indices of its own
    "mxfp6": Far(ac.codec("mxfp6")),
    "nvfp4": Far(ac.NVFP4(), given=True),
}
