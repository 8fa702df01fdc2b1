"""The vectors of a format page: read them, and run them on any implementation.

`python docs/vectors.py docs/format/codebook.md` runs the vectors of a page on the reference; docs/format/overview.md
defines their syntax. tests/test_docs.py runs them on every backend.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arraycodec import registry
from arraycodec.base import Codec
from arraycodec.errors import UnsupportedByBackend
from arraycodec.spec import ArraySpec, numpy_dtype, spec_of
from arraycodec_conformance.cases import Case
from arraycodec_conformance.compare import same_bits

Call = Callable[[list[str]], list[str]]  # the words of a function's arguments -> those of its results


class Fence(NamedTuple):
    """A fenced block of a page: the word after the backticks, its text, and where the text starts."""

    language: str
    text: str
    page: Path
    line: int


def fences(page: Path) -> Iterator[Fence]:
    """The fenced blocks of a page; a fence ends with as many backticks as it starts with."""
    opened: tuple[str, str, int] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if opened is None:
            if found := re.match(r"(`{3,})(\S*)", line):
                opened, lines = (found[1], found[2], number + 1), []
        elif line.rstrip() == opened[0]:
            yield Fence(opened[1], "\n".join(lines) + "\n", page, opened[2])
            opened = None
        else:
            lines.append(line)


@dataclass(frozen=True)
class FunctionVector:
    """One line `name words -> words`: bit patterns in hexadecimal, as wide as the function's types."""

    where: str
    name: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]

    def run(self, functions: dict[str, Call]) -> None:
        """Require that the function of this name gives these results."""
        got = tuple(functions[self.name](list(self.arguments)))
        assert got == self.results, f"{self.where}: {self.name} {' '.join(self.arguments)} gave {' '.join(got)}"


@dataclass(frozen=True)
class CodecVector:
    """One block that starts with `codec`: an input, its planes and what they decode to, or a part of these."""

    where: str
    codec: Codec
    spec: ArraySpec
    x: np.ndarray | None = None
    given: dict[str, np.ndarray] = field(default_factory=dict)
    planes: dict[str, np.ndarray] = field(default_factory=dict)
    decoded: np.ndarray | None = None
    reads: tuple[tuple[int, int, np.ndarray], ...] = ()

    def run(self, implementation: Any, wrap: Callable[..., Any], unwrap: Callable[..., np.ndarray]) -> None:
        """Require these planes and this decoded array; `wrap` makes the implementation's arrays from NumPy ones."""
        if self.x is not None:
            given = {name: wrap(plane.copy()) for name, plane in self.given.items()}
            try:
                planes = implementation.encode(wrap(self.x.copy()), self.codec, given)
            except UnsupportedByBackend:
                if not Case(self.codec, self.given).host_encoded:
                    raise
                planes = None
            for name, want in self.planes.items() if planes else ():
                same_bits(unwrap(planes[name]), want, f"{self.where}: plane {name}", self.x)
        if self.decoded is not None:
            planes = {name: wrap(plane.copy()) for name, plane in self.planes.items()}
            inputs = {name: wrap(array.copy()) for name, array in self.given.items() if name == "base"}
            decoded = unwrap(implementation.decode(self.codec, planes, self.spec, inputs))
            same_bits(decoded, self.decoded, f"{self.where}: decoded")

    def run_reads(self) -> None:
        """Require that the codec reads these ranges out of the planes."""

        def fetch(name: str, piece: slice) -> np.ndarray:
            plane = self.planes[name] if name in self.planes else self.given[name]
            return plane if piece == slice(None) else plane.reshape(-1)[piece]

        for start, stop, want in self.reads:
            got = self.codec.read(fetch, self.spec, start, stop)
            same_bits(got, want, f"{self.where}: read {start}:{stop}")


def vectors(page: Path) -> Iterator[FunctionVector | CodecVector]:
    """The vectors of a page, in order."""
    for fence in fences(page):
        if fence.language != "vector":
            continue
        lines = list(_logical_lines(fence))
        if lines and lines[0][1] == "codec":
            yield _codec_vector(f"{page.name}:{lines[0][0]}", [(key, value) for _, key, value in lines])
            continue
        for number, name, text in lines:
            where = f"{page.name}:{number}"
            arguments, arrow, results = text.partition("->")
            if not arrow:
                raise ValueError(f"{where}: a function's vector is `name words -> words`, got {name} {text}")
            yield FunctionVector(where, name, tuple(_repeated(arguments)), tuple(_repeated(results)))


def _logical_lines(fence: Fence) -> Iterator[tuple[int, str, str]]:
    """(line number, first word, the rest) of each line; an indented one continues the line above it."""
    joined: list[tuple[int, str]] = []
    for number, line in enumerate(fence.text.splitlines(), fence.line):
        text = line.partition("#")[0].rstrip()
        if text[:1].isspace():
            joined[-1] = joined[-1][0], f"{joined[-1][1]} {text.strip()}"
        elif text:
            joined.append((number, text))
    for number, text in joined:
        key, _, value = text.partition(" ")
        yield number, key, value.strip()


def _codec_vector(where: str, lines: list[tuple[str, str]]) -> CodecVector:
    keys = dict(lines)
    data = json.loads(keys.pop("codec"))
    codec = registry.codec(data) if isinstance(data, str) else registry.from_json(data)
    x = _typed(where, keys.pop("x")) if "x" in keys else None
    spec = spec_of(x) if x is not None else _spec(where, keys.pop("spec"))
    given, planes, reads, decoded = {}, {}, [], None
    contract = codec.planes(spec)
    for key, text in keys.items():
        if key == "decoded":
            decoded = _plain(f"{where}: decoded", text, spec)
        elif key.startswith("read."):
            start, stop = (int(word) for word in key[5:].split(":"))
            reads.append((start, stop, _plain(f"{where}: {key}", text, ArraySpec((stop - start,), spec.dtype))))
        elif key.startswith("given."):
            given[key[6:]] = _typed(where, text)
        elif key not in contract:
            raise ValueError(f"{where}: must be codec, x, spec, given.*, read.*, decoded or a plane, got {key}")
        elif (plane := _plain(f"{where}: {key}", text, contract[key])) is not None:
            planes[key] = plane
    if missing := set(contract) - set(keys):
        raise ValueError(f"{where}: the vector lacks the planes {sorted(missing)}")
    return CodecVector(where, codec, spec, x, given, planes, decoded, tuple(reads))


def _plain(where: str, text: str, spec: ArraySpec) -> Any:
    """Bytes, or a typed array that must have this spec; None where there is a type alone."""
    if spec.fixed and not re.match(r"\w+\[", text):
        raw = np.array([int(word, 16) for word in _repeated(text)], np.uint8)
        if raw.size != spec.nbytes:
            raise ValueError(f"{where}: must have {spec.nbytes} bytes, got {raw.size}")
        return raw.view(numpy_dtype(spec.dtype)).reshape(spec.known_shape)
    own = _spec(where, text)
    fits = len(own.shape) == len(spec.shape) and all(w in (None, n) for w, n in zip(spec.shape, own.shape, strict=True))
    if own.dtype != spec.dtype or not fits:
        raise ValueError(f"{where}: must be {spec.dtype}{list(spec.shape)}, got {text.split()[0]}")
    return _typed(where, text) if text.split("]", 1)[1].strip() or not own.size else None


def _typed(where: str, text: str) -> np.ndarray:
    """`dtype[shape] words`: a word with a point is a number, any other a bit pattern in hexadecimal."""
    spec = _spec(where, text)
    dtype, words = numpy_dtype(spec.dtype), _repeated(text.split("]", 1)[1])
    integer = np.dtype(f"u{dtype.itemsize}")
    x = np.zeros(len(words), dtype)
    for i, word in enumerate(words):
        if "." in word:
            x[i] = float(word)
        else:
            x[i : i + 1] = np.array([int(word, 16)], integer).view(dtype)
    if x.size != spec.size:
        raise ValueError(f"{where}: {text.split()[0]} has {spec.size} elements, got {x.size}")
    return x.reshape(spec.known_shape)


def _spec(where: str, text: str) -> ArraySpec:
    found = re.match(r"(\w+)\[([\d,]*)\]", text)
    if not found:
        raise ValueError(f"{where}: must start with dtype[shape], got {text!r}")
    return ArraySpec(tuple(int(axis) for axis in found[2].split(",") if axis), found[1])


def _repeated(text: str) -> list[str]:
    """The words of a text, `word*3` standing for three of them."""
    words = []
    for word in text.split():
        once, _, times = word.partition("*")
        words += [once] * int(times or 1)
    return words


# -- the functions of docs/format/arithmetic.md


def words(x: np.ndarray) -> list[str]:
    """The elements of an array of unsigned integers, or of floats as such, in hexadecimal."""
    bits = np.ascontiguousarray(x).reshape(-1).view(f"u{x.dtype.itemsize}")
    return [f"{int(word):0{2 * x.dtype.itemsize}x}" for word in bits]


def uint32(arguments: list[str]) -> np.ndarray:
    """Words as uint32."""
    return np.array([int(word, 16) for word in arguments], np.uint32)


def reference() -> dict[str, Call]:
    """The functions as the reference has them."""
    from arraycodec.codecs import codebook
    from arraycodec.primitives import blocks, casts, floats, scales
    from arraycodec.primitives.formats import FORMATS

    def of_bits(function: Callable[..., Any], out: Any = np.uint32) -> Call:
        return lambda arguments: words(np.array([function(word) for word in uint32(arguments)], out))

    def small(format: str) -> Call:
        return of_bits(lambda word: casts.float32_to_small(word, FORMATS[format].casting()), np.uint8)

    def scaled(arguments: list[str]) -> list[str]:
        run, absmax = np.split(uint32(arguments), [-1])
        scales.scale_run(run, absmax[0], np.float32(1))
        return words(run)

    def div_rn(arguments: list[str]) -> list[str]:
        x, y = uint32(arguments).view(np.float32)
        with np.errstate(all="ignore"):
            return words(np.asarray(x / y))

    def mul_add(arguments: list[str]) -> list[str]:
        a, b, c = (uint32([word]).view(np.float32) for word in arguments)
        codebook.settle(a, b[0], c[0], True)
        return words(a)

    return {
        "recip_rn": of_bits(floats.recip_rn),
        "div_rn": div_rn,
        "flushed": of_bits(floats.flushed),
        "bfloat16_to_float32": of_bits(floats.bfloat16_to_float32),
        "half_to_float32": of_bits(floats.half_to_float32),
        "float32_to_bfloat16": of_bits(floats.float32_to_bfloat16, np.uint16),
        "float32_to_half": of_bits(floats.float32_to_half, np.uint16),
        "float32_to_e4m3fn": small("float8_e4m3fn"),
        "float32_to_e5m2fnuz": small("float8_e5m2fnuz"),
        "float32_to_e3m2fn": small("float6_e3m2fn"),
        "stored_scale": lambda arguments: words(np.array([scales.stored_scale(_largest(arguments))], np.uint32)),
        "used_scale": of_bits(scales.used_scale),
        "scaled": scaled,
        "mul_add": mul_add,
        "tree_sum": lambda arguments: words(np.asarray(blocks.tree_sum(uint32(arguments).view(np.float32)))),
        "mean": lambda arguments: words(codebook.mean(blocks.without_subnormals(uint32(arguments).view(np.float32)))),
    }


def _largest(arguments: list[str]) -> np.uint32:
    from arraycodec.primitives import floats, scales

    return np.uint32(scales.largest(np.array([floats.flushed(word) for word in uint32(arguments)], np.uint32)))


def main(pages: list[str]) -> None:
    """Run the vectors of these pages on the reference."""
    from arraycodec import reference as numpy_backend

    functions = reference()
    for page in map(Path, pages):
        count = 0
        for vector in vectors(page):
            if isinstance(vector, FunctionVector):
                vector.run(functions)
            else:
                vector.run(numpy_backend, np.asarray, np.asarray)
                vector.run_reads()
            count += 1
        print(f"{page}: {count} vectors, all equal")


if __name__ == "__main__":
    main(sys.argv[1:])
