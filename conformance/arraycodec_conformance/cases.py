"""The codec values that every backend must reproduce: one line each. A new codec adds its lines here."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from arraycodec.base import Codec, Planes, Then
from arraycodec.codecs.bitmask import Bitmask
from arraycodec.codecs.codebook import Codebook
from arraycodec.codecs.delta import Delta
from arraycodec.codecs.dq import DQ
from arraycodec.codecs.gguf import Gguf
from arraycodec.codecs.linear import Linear
from arraycodec.codecs.llm_int8 import LLMInt8
from arraycodec.codecs.lossless import Lossless
from arraycodec.codecs.lut import Lut
from arraycodec.codecs.microscaling import Microscaling
from arraycodec.codecs.minifloat import Minifloat
from arraycodec.codecs.nvfp4 import NVFP4
from arraycodec.codecs.permuted import Permuted
from arraycodec.codecs.pqr import PQR
from arraycodec.codecs.tcq import TCQ
from arraycodec.codecs.tied import Tied
from arraycodec.codecs.two_four import TwoFour
from arraycodec.primitives.gguf_blocks import TYPES
from arraycodec.registry import SCHEMES
from arraycodec.spec import ArraySpec, spec_of

NESTED = Codebook("dynamic", block_size=256, offset=True)
RISING16 = np.array([-3, -2, -1.5, -1, -0.75, -0.5, -0.25, -0.125, 0, 0.1, 0.2, 0.4, 0.8, 1, 2, 5], np.float32)
UNEVEN16 = (RISING16[:-1] * np.float32(0.25) + RISING16[1:] * np.float32(0.75)).astype(np.float32)
HUNDRED = np.full(1, 100, np.float32)
TENTH, THREE = np.full(1, 0.1, np.float32), np.full(1, 3, np.int8)
LEVELS8 = np.array([[-30000, -9000, -9000, -1, 0, 7000, 32767, 32767]], np.int16)
LEVELS256 = np.linspace(-32767, 32767, 256).astype(np.int16)[None]
RISING256 = np.concatenate([np.linspace(-1, -0.01, 127), np.linspace(0, 1, 129)]).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A codec, and the planes and inputs that encoding with it is given.

    base     the array that is given as "base" to encode and to decode an array, made from that array
    fitted   planes that encoding is given besides, made from the array
    written  planes of these specs as others write them, from a seed: for a codec that decodes only
    """

    codec: Codec
    given: dict[str, np.ndarray] = field(default_factory=dict, compare=False, hash=False)
    base: Callable[[np.ndarray], np.ndarray] | None = field(default=None, compare=False, hash=False)
    fitted: Callable[[np.ndarray], dict[str, np.ndarray]] | None = field(default=None, compare=False, hash=False)
    written: Callable[[dict[str, ArraySpec], int], Planes] | None = field(default=None, compare=False, hash=False)

    def __str__(self) -> str:
        inputs = f"+{'+'.join(self.given)}" if self.given else ""
        return f"{_short(self.codec)}{inputs}"

    def inputs(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """What decoding `x` is given."""
        return {"base": self.base(x)} if self.base else {}

    def encoding(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """What encoding `x` is given."""
        return {**self.given, **self.inputs(x), **(self.fitted(x) if self.fitted else {})}

    def planes(self, x: np.ndarray) -> Planes:
        """The planes of `x` by the reference; of a codec that decodes only, some planes of an array like `x`."""
        if self.written is not None:
            return self.written(self.codec.planes(spec_of(x)), zlib.crc32(x.tobytes()))
        return self.codec.encode(x, self.encoding(x))

    @property
    def host_encoded(self) -> bool:
        """Whether an implementation may leave encoding to the reference: what is lossless or trained, also as parts.

        Not what is trained where the case gives the codebook, unless it is rotated first, in float64.
        """
        return _on_host(self.codec, "codebook" not in self.given)


def _on_host(codec: Codec, training: bool) -> bool:
    if isinstance(codec, Then):
        return _on_host(codec.outer, training) or any(_on_host(part, True) for _, part in codec.parts)
    return codec.lossless or (codec.trained and (training or bool(getattr(codec, "rotate", 0))))


def _short(codec: Codec) -> str:
    """A codec without the parameters that have their default value."""
    if isinstance(codec, Then):
        return ">".join([_short(codec.outer), *(f"{plane}={_short(part)}" for plane, part in codec.parts)])
    plain, params = type(codec)().to_json(), codec.to_json()
    return "-".join([codec.name, *(f"{k}={v}" for k, v in params.items() if k != "name" and v != plain[k])])


def near(x: np.ndarray) -> np.ndarray:
    """An array of which most words differ from those of `x`, by little; the first by its sign."""
    words = np.ascontiguousarray(x).reshape(-1).view(f"u{x.dtype.itemsize}").copy()
    words ^= (np.arange(words.size, dtype=np.uint64) * np.uint64(2654435761) >> np.uint64(29)).astype(words.dtype) & 7
    words[:1] ^= words.dtype.type(1 << (8 * words.itemsize - 1))
    return words.view(x.dtype).reshape(x.shape)


def shuffled(axis: int) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """A random order of the columns along an axis, always the same for as many."""

    def order(x: np.ndarray) -> dict[str, np.ndarray]:
        columns = np.atleast_1d(x).shape[axis]
        return {"order": np.random.default_rng(columns).permutation(columns).astype(np.int32)}

    return order


def importance(x: np.ndarray) -> dict[str, np.ndarray]:
    """Columns that count more and more, the first one not at all."""
    columns = np.atleast_1d(x).shape[-1]
    return {"importance": np.linspace(0, 1, columns, dtype=np.float32) if columns > 1 else np.ones(columns, np.float32)}


def any_bytes(specs: dict[str, ArraySpec], seed: int) -> Planes:
    """uint8 planes of any bytes."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, spec.known_shape, np.uint8) for name, spec in specs.items()}


CASES = [
    Case(Codebook("nf4")),
    Case(Codebook("nf4", block_size=16)),
    Case(Codebook("nf4", block_size=5)),
    Case(Codebook("nf4", block_size=4096)),
    Case(Codebook("nf4", block_size=None)),
    Case(Codebook("fp4")),
    Case(Codebook("fp4", block_size=100)),
    Case(Codebook("fp4", flavour="bnb-cpu")),
    Case(Codebook("dynamic", block_size=256)),
    Case(Codebook("dynamic", block_size=None)),
    Case(Codebook("nf4", offset=True)),
    Case(Codebook("user4", block_size=32), {"codebook": RISING16}),
    Case(Codebook("user4"), {"codebook": RISING16, "bounds": UNEVEN16}),
    Case(Codebook("user8"), {"codebook": RISING256}),
    Case(SCHEMES["nf4-double"]),
    Case(Then(Codebook("fp4", block_size=32), absmax=NESTED)),
    Case(Codebook("af4")),
    Case(Codebook("nf8")),
    Case(Codebook("dynamic-unsigned", block_size=None)),
    Case(Codebook("linear", block_size=256)),
    Case(Codebook("fp8-e5m2", block_size=100)),
    Case(Codebook("dynamic", block_size=256, flavour="bnb-cpu")),
    Case(Linear(8)),
    Case(Linear(4)),
    Case(Linear(3, block_size=None)),
    Case(Linear(4, symmetric=False, block_size=(1, None))),
    Case(Linear(5, block_size=(None, 1))),
    Case(Linear(6, symmetric=False, block_size=(32, 48))),
    Case(Linear(7, block_size=(1, 5))),
    Case(SCHEMES["w4a16"]),
    Case(Linear(1, False, (1, 64), "compressed-tensors", "eager")),
    Case(Linear(2, False, (1, 64), "compressed-tensors", "eager")),
    Case(Linear(8, False, (1, None), "compressed-tensors")),
    Case(Linear(8, False, block_size=None), {"scales": TENTH, "zero_points": THREE}),
    Case(LLMInt8()),
    Case(LLMInt8(threshold=2.0)),
    Case(Minifloat()),
    Case(Minifloat("float8_e5m2fnuz", block_size=(1, None))),
    Case(Minifloat("float6_e3m2fn", block_size=(32, 48))),
    Case(Minifloat("float4_e2m1fn", block_size=5)),
    Case(SCHEMES["fp8-channel"]),
    Case(SCHEMES["fp8-block"]),
    Case(Minifloat(block_size=(None, 1), flavour="compressed-tensors")),
    Case(Minifloat("float8_e5m2", block_size=None, overflow="nonfinite"), {"scales": TENTH}),
    Case(Minifloat("float6_e2m3fn", scaled=False)),
    Case(Minifloat(scaled=False, overflow="nonfinite")),
    Case(Microscaling()),
    Case(Microscaling("float8_e4m3fn")),
    Case(Microscaling("float6_e3m2fn")),
    Case(Microscaling("float8_e5m2", block_size=64)),
    Case(Microscaling("int8")),
    Case(Microscaling("float4_e2m1fn", flavour="compressed-tensors")),
    Case(Microscaling("float6_e2m3fn", flavour="compressed-tensors")),
    Case(Microscaling("float8_e4m3fn", flavour="compressed-tensors")),
    Case(NVFP4()),
    Case(NVFP4(arithmetic="eager")),
    Case(NVFP4(block_size=32), {"global_scale": HUNDRED}),
    Case(NVFP4(flavour="modelopt")),
    Case(NVFP4(block_size=32, flavour="modelopt"), {"global_scale": TENTH}),
    Case(Lossless()),
    Case(Lossless("storage")),
    Case(Lossless("inference")),
    Case(Then(Codebook("nf4"), codes=Lossless(), absmax=Lossless("storage"))),
    Case(Lut()),
    Case(Lut(4)),
    Case(Lut(1, block_size=None)),
    Case(Lut(2, (1, 5), training="optimum")),
    Case(Lut(3, (32, 48), "row")),
    Case(Lut(5, 64, scope=100)),
    Case(Lut(6, (1, None), "row", "optimum"), fitted=importance),
    Case(Lut(8, (1, 128)), {"codebook": LEVELS256}),
    Case(Lut(3, 64), {"codebook": LEVELS8}),
    Case(TCQ()),
    Case(TCQ(1, block_size=None, outliers=0.0)),
    Case(TCQ(2, 64, outliers=0.0)),
    Case(TCQ(3, 256, (1, 64), 0.0)),
    Case(TCQ(5, block_size=100, outliers=0.01)),
    Case(TCQ(6, block_size=(32, 48), outliers=0.1)),
    Case(TCQ(7, outliers=0.0, rotate=16)),
    Case(TCQ(8), fitted=importance),
    Case(TCQ(4, block_size=64, outliers=0.02, rotate=64)),
    Case(TCQ(2, outliers=0.05), {"codebook": LEVELS8[0]}),
    Case(TCQ(3, 64, (1, 64), 0.0), {"codebook": LEVELS256[0, ::16]}, fitted=importance),
    Case(DQ()),
    Case(Delta(), base=near),
    Case(Delta("storage"), base=near),
    Case(Tied("embed.weight"), base=lambda x: x),
    Case(Permuted(), fitted=shuffled(-1)),
    Case(Permuted(axis=0), fitted=shuffled(0)),
    Case(Then(Permuted(), values=Linear(4, False, (1, 32))), fitted=shuffled(-1)),
    Case(SCHEMES["pqr"]),
    Case(PQR(scope=128, codebook="float32")),
    Case(PQR((3, 2, 2), scope="row", codebook="float32")),
    Case(PQR((4, 3), scope=100, block_size=5, gain=True), fitted=importance),
    Case(PQR((6, 4), dim=2, scope=192, block_size=(1, None))),
    Case(PQR((6, 5, 2), dim=4, block_size=(32, 48), gain=True)),
    *(Case(Gguf(name), written=any_bytes) for name in TYPES),
    Case(Bitmask()),
    Case(Bitmask(drop_negative_zero=True)),
    Case(Then(Bitmask(), values=Minifloat())),
    Case(Then(Linear(8, block_size=(1, None)), codes=Bitmask())),
    Case(TwoFour(prune=True)),
    Case(TwoFour(prune=True, drop_negative_zero=True)),
    Case(Then(TwoFour(prune=True), values=Linear(4, block_size=(1, 32)))),
]
