"""Normalised integers in Triton: the functions of `arraycodec.primitives.normal`, step by step."""

import triton
import triton.language as tl

from arraycodec_torch.kernels.blockwise import rint
from arraycodec_torch.kernels.primitives import INFINITY, MIN_SCALE, NAN, inverse_scale, scale_run


@triton.jit
def scales_of(absmax, LARGEST: tl.constexpr):
    """The bits of scales from those of the largest magnitudes of tiles: rounded up to bfloat16, up to the largest."""
    scale = tl.minimum((absmax >> 16) + tl.where((absmax & 0xFFFF) != 0, 1, 0), LARGEST).to(tl.uint32) << 16
    return tl.where(absmax >= INFINITY, NAN, tl.where(absmax >= MIN_SCALE, scale, 0))


@triton.jit
def integers_of(run, scale):
    """The integers of elements under their scales, by bits."""
    inverse, lower = inverse_scale(scale)
    y = scale_run(run, inverse, lower) * 32768.0  # an exact product, but of what rounds to 0
    y = tl.where(y == y, y, 0)
    return rint(tl.minimum(tl.maximum(y, -32767.0), 32767.0))
