"""`TwoFour` on GPUs: launches the kernels of `arraycodec_torch.kernels.two_four`.

Unless it prunes, the number of groups with more than two elements is fetched from the device.
"""

from __future__ import annotations

import torch

from arraycodec.base import Given, Planes
from arraycodec.codecs.two_four import TwoFour, values_per_row
from arraycodec.primitives.bitmasks import kind_of, rows_of
from arraycodec.spec import ArraySpec
from arraycodec_torch import arrays
from arraycodec_torch.kernels import two_four as kernels
from arraycodec_torch.sparse import unsigned_words
from arraycodec_torch.triton_bitmask import BYTES, numbers, programs
from arraycodec_torch.triton_blockwise import check_device, launch


def encode(x: torch.Tensor, codec: TwoFour, given: Given) -> Planes:
    """The planes of `x`, found on its device."""
    codec.supports(spec := arrays.spec(x))
    check_device(codec, x.device)
    planes, rows = {name: arrays.empty(plane, x.device) for name, plane in codec.planes(spec).items()}, rows_of(spec)
    crowded = torch.zeros(planes["bitmask"].numel(), dtype=torch.uint8, device=x.device)
    if spec.size:
        launch(
            kernels.choose, programs(rows), unsigned_words(x), unsigned_words(planes["values"]),
            arrays.flat(planes["bitmask"]), crowded, *numbers(rows), values_per_row(rows.columns),
            WORD=8 * x.element_size(), KIND=kind_of(spec.dtype), NEGATIVE_ZEROS=not codec.drop_negative_zero,
            BLOCK=BYTES,
        )  # fmt: skip
    if not codec.prune:
        codec.refuse(int(crowded.sum()), spec)
    return planes


def decode(codec: TwoFour, planes: Planes, spec: ArraySpec, given: Given, out: torch.Tensor) -> None:
    """Write the tensor of these planes into `out`."""
    check_device(codec, out.device)
    rows = rows_of(spec)
    if spec.size:
        launch(
            kernels.spread, programs(rows), unsigned_words(planes["values"]), arrays.flat(planes["bitmask"]),
            unsigned_words(out), *numbers(rows), values_per_row(rows.columns),
            EVEN=rows.columns % 8 == 0, BLOCK=BYTES,
        )  # fmt: skip
