"""What the tiers of the Triton tests run of each family: few codecs, but every kind of patch, rule and packing."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import arraycodec as ac
from arraycodec.base import Codec
from arraycodec.spec import numpy_dtype
from arraycodec_conformance.strategies import PATTERNS
from tests.backends.triton_emulation import sample, sample_tiles

CT = "compressed-tensors"
SPARSE = ("bitmask", "two_four")
USER = np.linspace(-1, 1, 16, dtype=np.float32)  # a midpoint of it is zero
SMALL = np.array([2, 1, 0.9999999, 0.5, 2.0**-11, 0, -1, -0.9999999], np.float32) * np.float32(2.0**-89)
SCALES = np.array([1, -1, 0, 2.0**-101, 2.0**127, np.inf, 7, 1e-3], np.float32)
LEVELS = np.sort(np.random.default_rng(3).integers(-32767, 32768, (1, 256))).astype(np.int16)
EIGHT = np.array([0, 1, 100, 127, 128, 254, 255, 16], np.uint8)
ZEROS = np.array([0, 127, -128, 3, -1, 5, 0, 7], np.int8)


class Case(NamedTuple):
    """A codec, the array that it encodes (weights with special blocks among them), and what encoding is given."""

    codec: Codec
    shape: tuple[int, ...]
    dtype: str = "float32"
    given: dict[str, np.ndarray] = {}  # noqa: RUF012

    def array(self) -> np.ndarray:
        """The array."""
        tile = getattr(self.codec, "block_size", None)
        if isinstance(tile, tuple):
            return sample_tiles(self.shape, tile, self.dtype)
        if self.codec.name == "dq":  # a single element that is not finite would leave nothing to decode
            return np.asarray(np.random.default_rng(0).standard_normal(self.shape)).astype(numpy_dtype(self.dtype))
        x = sample(int(np.prod(self.shape)), self.dtype).reshape(self.shape)
        if self.codec.name in SPARSE:
            x[np.random.default_rng(1).random(self.shape) < 0.5] = 0
        return x


def tie_rows(largest: float) -> np.ndarray:
    """Rows whose largest magnitude makes multiples of 1/16 and halves of integers quotients by the scale."""
    grid = np.concatenate([np.arange(-96, 97) / 16, np.arange(-127, 128) / 2]).astype(np.float32)
    near = np.concatenate([grid, np.nextafter(grid, np.float32(np.inf)), np.nextafter(grid, np.float32(-np.inf))])
    near = near[np.abs(near) <= largest]
    rows = np.resize(near, (-(-near.size // 63), 63))
    return np.hstack([np.full((len(rows), 1), largest, np.float32), rows])


def beyond_huge_scales() -> list[tuple[Codec, np.ndarray, dict[str, np.ndarray]]]:
    """Codecs, an array with infinities and NaN, and given scales from 2^126 on, which lower other exponents only."""
    huge = np.array([2.0**125, 2.0**126, 2.0**127], np.float32)[:, None]
    x = np.resize(np.array([np.inf, -np.inf, np.nan, -np.nan, 3e38, -3e38, 1e-37, -1.0], np.float32), (3, 64))
    codecs = [ac.Linear(8, block_size=(1, None)), ac.Minifloat(), ac.LLMInt8(), ac.Codebook("nf4")]
    return [(c, x, {"absmax" if isinstance(c, ac.Codebook) else "scales": huge}) for c in codecs]


def nvfp4_ties() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Blocks of which each has another scale, and elements that are about halfway between two multiples of its step."""
    step = np.arange(0x08, 0x7F, dtype=np.uint8).view("float8_e4m3fn").astype(np.float32)[:, None] / np.float32(7)
    halves = np.array([6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], np.float32)
    return np.hstack([halves * step, np.nextafter(halves[1:] * step, 0), -step]), {"global_scale": np.full(1, 7, "f4")}


CASES: dict[str, list[Case]] = {
    "bitmask": [
        Case(ac.Bitmask(), (24, 256), "bfloat16"),
        Case(ac.Bitmask(drop_negative_zero=True), (33, 130)),
        Case(ac.Bitmask(), (5, 3), "float16"),
    ],
    "codebook": [
        Case(ac.Codebook("nf4"), (4096 * 2,)),
        Case(ac.Codebook("nf4"), (4096 + 37,), "bfloat16"),
        Case(ac.Codebook("fp4", block_size=5), (4099,)),
        Case(ac.Codebook("nf4", block_size=5000), (17_001,), "bfloat16"),
        Case(ac.Codebook("dynamic", block_size=256, offset=True), (5000,)),
        Case(ac.Codebook("fp8-e5m2"), (8, 64), given={"absmax": SMALL[:, None]}),
    ],
    "dq": [
        Case(ac.DQ(bits=3), (8, 16), "bfloat16"),
        Case(ac.DQ(step=2.0**-12), (1033,)),  # codes are stored raw
        Case(ac.DQ(), (3, 5), "float16"),
    ],
    "linear": [
        Case(ac.Linear(8), (4096 * 2,)),
        Case(ac.codec("w4a16"), (24, 256), "bfloat16"),
        Case(ac.Linear(6, symmetric=False, block_size=(32, 48)), (2, 65, 192)),
        Case(ac.Linear(7, block_size=(1, 5)), (33, 130)),
        Case(ac.Linear(2, False, (1, 64), CT, "eager"), (32, 128), "float16"),
        Case(ac.Linear(4, False, block_size=1), (1,)),
    ],
    "llm_int8": [
        Case(ac.LLMInt8(), (40, 64)),
        Case(ac.LLMInt8(), (3, 4133), "bfloat16"),
        Case(ac.LLMInt8(), (8, 64), given={"scales": SCALES[:, None]}),
    ],
    "lossless": [  # more in test_triton_lossless.py
        Case(ac.Lossless(), (12, 16), "bfloat16"),
        Case(ac.Lossless("storage", "EM2"), (300,), "float16"),
        Case(ac.Lossless("inference"), (4099,), "bfloat16"),
    ],
    "lut": [
        Case(ac.Lut(8), (24, 256), "bfloat16", {"codebook": LEVELS}),
        Case(ac.Lut(3, (32, 48)), (2, 65, 192), given={"codebook": LEVELS[:, 4::32]}),
        Case(ac.Lut(4, 5, scope=100), (1099,), "float16", {"codebook": np.resize(LEVELS[:, ::16], (11, 16))}),
    ],
    "minifloat": [
        Case(ac.Minifloat(), (4096 * 2,)),
        Case(ac.codec("fp8-channel"), (24, 192), "bfloat16"),
        Case(ac.codec("fp8-block"), (2, 130, 192), "float16"),
        Case(ac.Minifloat("float4_e2m1fn", block_size=5), (4099,), "bfloat16"),
        Case(ac.Minifloat("float6_e2m3fn", scaled=False), (4099,)),
    ],
    "microscaling": [
        Case(ac.Microscaling(), (4096 * 2,)),
        Case(ac.Microscaling("float6_e3m2fn"), (4099,), "bfloat16"),
        Case(ac.Microscaling(flavour=CT), (64, 64), "float16"),
        Case(ac.Microscaling("int8"), (8, 32), given={"scales": EIGHT[:, None]}),
    ],
    "pqr": [
        Case(ac.PQR((4, 4), scope=128, codebook="float32"), (24, 256), "bfloat16"),
        Case(ac.PQR((5, 2), scope=100, block_size=5, gain=True), (1099,), "float16"),
        Case(ac.PQR((7, 5), dim=2, scope="row", block_size=(1, None)), (33, 130)),
    ],
    "tcq": [
        Case(ac.TCQ(), (24, 256), "bfloat16"),
        Case(ac.TCQ(3, 256, (1, 64)), (5, 192)),
        Case(ac.TCQ(5, block_size=100, outliers=0.05), (2100,), "float16"),
        Case(ac.TCQ(3, outliers=0.02), (5, 24), "bfloat16", {"codebook": LEVELS[0, ::16]}),
        Case(ac.TCQ(2, 64, outliers=0.0), (35, 6), given={"codebook": LEVELS[0, ::32]}),
    ],
    "two_four": [
        Case(ac.TwoFour(prune=True), (24, 256), "bfloat16"),
        Case(ac.TwoFour(prune=True, drop_negative_zero=True), (33, 130)),
        Case(ac.TwoFour(prune=True), (5, 3), "float16"),
    ],
    "nvfp4": [
        Case(ac.NVFP4(), (4096 * 2,)),
        Case(ac.NVFP4(arithmetic="eager"), (33, 130), "bfloat16"),
        Case(ac.NVFP4(block_size=32), (8, 64), given={"global_scale": np.full(1, 100, np.float32)}),
        Case(ac.NVFP4(flavour="modelopt"), (33, 130), "bfloat16"),
    ],
}  # fmt: skip
MORE: dict[str, list[Case]] = {  # at level full and above
    "bitmask": [Case(ac.Bitmask(), (4099,)), Case(ac.Bitmask(), (1, 1), "bfloat16")],
    "two_four": [Case(ac.TwoFour(prune=True), (4099,)), Case(ac.TwoFour(prune=True), (17, 1), "bfloat16")],
    "codebook": [
        Case(ac.Codebook("fp4", block_size=4096), (4096 + 5,), "float16"),
        Case(ac.Codebook("nf4", block_size=2), (1001,)),
        Case(ac.Codebook("nf4", block_size=1), (300,), "bfloat16"),
        Case(ac.Codebook("nf4", block_size=None), (9_000,)),
        Case(ac.Codebook("dynamic", block_size=256), (4097,)),
        Case(ac.Codebook("dynamic", block_size=100), (4097,), "float16"),
        Case(ac.Codebook("nf4", block_size=30, offset=True), (5000,), "bfloat16"),
        Case(ac.Codebook("user4", block_size=32), (4096,), given={"codebook": USER}),
        Case(ac.Codebook("nf4"), (8, 64), given={"absmax": SCALES[:, None]}),
        Case(ac.Codebook("nf8"), (4096,), "bfloat16"),
        Case(ac.Codebook("af4"), (1, 1)),
    ],
    "linear": [
        Case(ac.Linear(4, symmetric=False, block_size=(1, None)), (40, 192), "float16"),
        Case(ac.Linear(5, block_size=(None, 1)), (65, 192), "bfloat16"),
        Case(ac.Linear(3, block_size=None), (4099,)),
        Case(ac.Linear(1, False, (1, 64), CT, "eager"), (32, 136), "bfloat16"),
        Case(ac.Linear(8, False, (1, None), CT), (33, 130)),
        Case(ac.Linear(8, False, (1, None)), (8, 64), given={"scales": SCALES[:, None], "zero_points": ZEROS[:, None]}),
        Case(ac.Linear(8, block_size=(1, 1)), (17, 1)),
    ],
    "llm_int8": [
        Case(ac.LLMInt8(), (4099,), "float16"),
        Case(ac.LLMInt8(), (5, 1)),
    ],
    "dq": [Case(ac.DQ(snr=40), (2, 100), "float16"), Case(ac.DQ(step=1), (), "bfloat16")],
    "lossless": [Case(ac.Lossless("storage", "EM2"), (997,), "float16")],
    "lut": [
        Case(ac.Lut(1, None), (4099,), given={"codebook": LEVELS[:, 60::100]}),
        Case(ac.Lut(6, (1, None), "row"), (33, 130), "bfloat16", {"codebook": np.resize(LEVELS[:, ::4], (33, 64))}),
        Case(ac.Lut(2, (1, 64)), (1, 1), given={"codebook": LEVELS[:, ::64]}),
    ],
    "minifloat": [
        Case(ac.Minifloat("float6_e3m2fn", block_size=(32, 48)), (65, 192)),
        Case(ac.Minifloat("float8_e5m2fnuz", block_size=(1, None)), (33, 130)),
        Case(ac.Minifloat(block_size=(None, 1), flavour=CT), (65, 192)),
        Case(ac.Minifloat("float8_e5m2", block_size=(1, None), overflow="nonfinite"), (8, 64),
             given={"scales": SCALES[:, None]}),
        Case(ac.Minifloat(scaled=False, overflow="nonfinite"), (4096,), "bfloat16"),
        Case(ac.Minifloat("float4_e2m1fn", block_size=None), (1, 1)),
    ],
    "microscaling": [
        Case(ac.Microscaling("float8_e5m2", block_size=64), (33, 130), "float16"),
        Case(ac.Microscaling("int8"), (64, 64)),
        Case(ac.Microscaling("float6_e2m3fn", flavour=CT), (64, 64)),
        Case(ac.Microscaling("float8_e4m3fn", flavour=CT), (64, 64), "bfloat16"),
        Case(ac.Microscaling("float8_e4m3fn"), (8, 32), given={"scales": EIGHT[:, None]}),
        Case(ac.Microscaling(block_size=1024), (1,)),
    ],
    "pqr": [
        Case(ac.PQR((3, 2, 2), scope="row", codebook="float32"), (33, 130), "float16"),
        Case(ac.PQR((5, 3), codebook="float32"), (7,)),
        Case(ac.PQR((10, 6), dim=2, block_size=(1, 64), gain=True), (40, 192)),
        Case(ac.PQR((4, 3), dim=8, block_size=(32, 48)), (2, 65, 192), "bfloat16"),
        Case(ac.PQR(), (1, 1)),
    ],
    "tcq": [
        Case(ac.TCQ(2, 256, outliers=0.0), (3, 9), given={"codebook": LEVELS[0, ::32]}),  # by plain torch ops
        Case(ac.TCQ(4, 8, 5, rotate=0), (99,), "float16", {"codebook": LEVELS[0, ::8]}),
    ],
    "nvfp4": [
        Case(ac.NVFP4(arithmetic="eager"), (4099,), "float16"),
        Case(ac.NVFP4(), (64, 64), "bfloat16", {"global_scale": np.full(1, 2.0**-117, np.float32)}),
        Case(ac.NVFP4(), (1,)),
    ],
}  # fmt: skip
NOT_STORED = (*SPARSE, "dq")  # whose planes are not any bytes
QUANTISERS = [family for family, own in CASES.items() if not own[0].codec.lossless and family not in NOT_STORED]
# What is run on all 2^16 patterns of a dtype: codecs whose steps are not those of another one here.
EVERY_PATTERN: dict[str, list[Codec]] = {
    "bfloat16": [ac.Codebook("nf4"), ac.Microscaling("float8_e5m2", block_size=64), ac.NVFP4(arithmetic="eager")],
    "float16": [ac.codec("w4a16"), ac.Minifloat("float6_e3m2fn", scaled=False)],
}
# Encoders by the largest magnitude of the rows that `tie_rows` makes for them.
TIES: dict[float, list[Codec]] = {
    127: [ac.Linear(8), ac.Linear(8, flavour=CT), ac.LLMInt8(), ac.Microscaling("int8")],
    6: [ac.Minifloat("float4_e2m1fn"), ac.Microscaling()],
    7.5: [ac.Microscaling("float6_e2m3fn")],
}
MORE_TIES: dict[float, list[Codec]] = {
    7: [ac.Linear(4), ac.Linear(4, symmetric=False, flavour=CT)],
    7.5: [ac.Minifloat("float6_e2m3fn")],
    28: [ac.Minifloat("float6_e3m2fn"), ac.Microscaling("float6_e3m2fn")],
}


def cases(family: str, more: bool) -> list[Case]:
    """The cases of a family, with those of level full or without."""
    return CASES[family] + (MORE[family] if more else [])


def stored(case: Case) -> dict[str, Any]:
    """Planes written by others: scales of every special pattern, and every byte of codes."""
    rng, planes = np.random.default_rng(5), dict(case.codec.encode(np.ones((len(PATTERNS), 192), "f4"), case.given))
    for name, plane in planes.items():
        if plane.dtype == np.float32:
            special = np.array(PATTERNS, np.uint32)
            fill = special if name == "global_scale" else np.resize(special, plane.size)
            planes[name] = fill[: plane.size].view("f4").reshape(plane.shape)
        elif plane.itemsize == 1:
            planes[name] = rng.integers(0, 256, plane.nbytes, np.uint8).view(plane.dtype).reshape(plane.shape)
    return planes
