"""The codec values that every backend must reproduce: one line each. A new codec adds its lines here."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from arraycodec.base import Codec, Then
from arraycodec.codecs.codebook import Codebook
from arraycodec.registry import SCHEMES

NESTED = Codebook("dynamic", block_size=256, offset=True)
RISING16 = np.array([-3, -2, -1.5, -1, -0.75, -0.5, -0.25, -0.125, 0, 0.1, 0.2, 0.4, 0.8, 1, 2, 5], np.float32)
UNEVEN16 = (RISING16[:-1] * np.float32(0.25) + RISING16[1:] * np.float32(0.75)).astype(np.float32)
RISING256 = np.concatenate([np.linspace(-1, -0.01, 127), np.linspace(0, 1, 129)]).astype(np.float32)


@dataclass(frozen=True)
class Case:
    """A codec, and the planes and inputs that encoding with it is given."""

    codec: Codec
    given: dict[str, np.ndarray] = field(default_factory=dict, compare=False, hash=False)

    def __str__(self) -> str:
        inputs = f"+{'+'.join(self.given)}" if self.given else ""
        return f"{_short(self.codec)}{inputs}"


def _short(codec: Codec) -> str:
    """A codec without the parameters that have their default value."""
    if isinstance(codec, Then):
        return ">".join([_short(codec.outer), *(f"{plane}={_short(part)}" for plane, part in codec.parts)])
    plain, params = type(codec)().to_json(), codec.to_json()
    return "-".join([codec.name, *(f"{k}={v}" for k, v in params.items() if k != "name" and v != plain[k])])


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
]
