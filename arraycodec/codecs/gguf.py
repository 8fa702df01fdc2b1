"""`Gguf`: the quantised blocks of ggml, as they stand in GGUF files of llama.cpp. Reading only.

The specification is docs/format/gguf.md. The block types are data in `arraycodec.primitives.gguf_blocks`; what kernels
make of them is in `gguf_layout` beside it, the kernels in `gguf_decode`. Decoding a block, in the order in which every
backend does it:
    1  the integers of the block: codes, and scales and minima of its sub-blocks;
    2  the step of each sub-block, d * scale, or a table's entry; its minimum, m * minimum;
    3  element = step * value - minimum, of which only the subtraction rounds;
    4  a NaN is the canonical one; round once to the dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from arraycodec.base import Codec, Fetch, Given, Planes
from arraycodec.errors import ArgumentError
from arraycodec.primitives.floats import FLOAT32, KINDS
from arraycodec.primitives.gguf_blocks import TYPES, BlockType
from arraycodec.primitives.gguf_decode import decode_tiles, decode_tiles_rounded
from arraycodec.primitives.gguf_layout import TILE, layout_of
from arraycodec.primitives.memory import bits, empty, writable_bits
from arraycodec.primitives.threads import split
from arraycodec.spec import ArraySpec


@dataclass(frozen=True)
class Gguf(Codec):
    """The blocks of llama.cpp's quantised tensors, decoded to the bits of gguf-py. It does not encode.

    type  "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "TQ1_0",
          "TQ2_0", "MXFP4" or "NVFP4": ggml's name of the block type.

    Arrays are float32, bfloat16 or float16 of any shape. The plane is `blocks`, uint8, the blocks of each row one after
    another; where rows are not whole blocks it is flat, and the last block is padded.

    >>> import numpy as np, arraycodec as ac
    >>> block = np.frombuffer(np.float16(0.5).tobytes() + bytes(range(0x80, 0x90)), np.uint8)
    >>> enc = ac.Encoded(ac.Gguf("Q4_0"), ac.ArraySpec((32,), "float32"), {"blocks": block})
    >>> ac.decode(enc)[[0, 1, 15, 16]]
    array([-4. , -3.5,  3.5,  0. ], dtype=float32)
    """

    name: ClassVar[str] = "gguf"
    dtypes: ClassVar[tuple[str, ...]] = tuple(KINDS)
    computed: ClassVar[tuple[str, ...]] = ("blocks",)

    type: str = "Q4_K"

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise self.fail("type", f"one of {', '.join(TYPES)}", self.type)

    @property
    def block(self) -> BlockType:
        """What is known of the block type."""
        return TYPES[self.type]

    def planes(self, spec: ArraySpec) -> dict[str, ArraySpec]:
        elements, nbytes = self.block.elements, self.block.nbytes
        *rows, columns = spec.known_shape or (1,)
        if spec.shape and columns % elements == 0:
            return {"blocks": ArraySpec((*rows, columns // elements * nbytes), "uint8")}
        return {"blocks": ArraySpec((-(-spec.size // elements) * nbytes,), "uint8")}

    @property
    def no_encoder(self) -> ArgumentError:
        """What every backend raises instead of encoding."""
        return ArgumentError(f"{self.name} {self.type}: cannot encode; blocks are made by llama.cpp and only read here")

    def encode(self, x: np.ndarray, given: Given | None = None) -> Planes:
        """Raises ArgumentError."""
        raise self.no_encoder

    def decode(
        self, planes: Planes, spec: ArraySpec, given: Given | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        out = empty(spec) if out is None else out
        blocks, target, nbytes = bits(planes["blocks"]), writable_bits(out), layout_of(self.type).nbytes
        whole, rest = divmod(target.size, TILE)
        self._decode_tiles(blocks, target, spec, whole)
        if rest:  # kernels take whole tiles only
            padded, tile = np.zeros(nbytes, np.uint8), np.empty(TILE, target.dtype)
            last = blocks[whole * nbytes :]
            padded[: last.size] = last
            self._decode_tiles(bits(padded), tile, spec, 1)
            target[whole * TILE :] = tile[:rest]
        return out

    def _decode_tiles(self, blocks: np.ndarray, target: np.ndarray, spec: ArraySpec, tiles: int) -> None:
        layout, kind = layout_of(self.type), KINDS[spec.dtype]

        def work(first: int, last: int) -> None:
            if kind == FLOAT32:
                decode_tiles(blocks, layout, target, first, last)
            else:
                decode_tiles_rounded(blocks, layout, target, kind, first, last)

        split(work, tiles, target.size)

    def read(self, fetch: Fetch, spec: ArraySpec, start: int, stop: int) -> np.ndarray:
        """Whole blocks around the range."""
        elements, nbytes = self.block.elements, self.block.nbytes
        first, last = start // elements, -(-stop // elements) if start < stop else start // elements
        part = ArraySpec((min(last * elements, spec.size) - first * elements if start < stop else 0,), spec.dtype)
        planes = {"blocks": fetch("blocks", slice(first * nbytes, last * nbytes))}
        return self.decode(planes, part)[start - first * elements : stop - first * elements]
