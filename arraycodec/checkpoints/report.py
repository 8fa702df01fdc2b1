"""What compressing did, or would do: one row per tensor, totals, and the same as JSON."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, fields
from typing import Any

from arraycodec import registry
from arraycodec.base import Codec, Then
from arraycodec.codecs.tied import Tied


@dataclass(frozen=True)
class Row:
    """One tensor: what it is, what becomes of it and why, and its bytes before and after."""

    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    codec: Codec | None  # None: it stays plain
    reason: str
    before: int
    after: int | None  # None: a dry run cannot know the size, since it depends on the data

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON values; the codec by its scheme's name and in full."""
        return {
            "file": self.file,
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "scheme": codec_label(self.codec),
            "codec": self.codec and self.codec.to_json(),
            "reason": self.reason,
            "bytes_before": self.before,
            "bytes_after": self.after,
        }


class Outcome:
    """What reports of files that were written have in common; `rows` are those of their tensors."""

    rows: tuple[Any, ...]
    files: tuple[tuple[str, int, int | None], ...]  # name, bytes before, bytes after

    @property
    def elements(self) -> int:
        """The number of weights of all tensors."""
        return sum(math.prod(row.shape) for row in self.rows)

    @property
    def before(self) -> int:
        """Bytes of the files read."""
        return sum(before for _, before, _ in self.files)

    @property
    def after(self) -> int | None:
        """Bytes of the files written."""
        return total([after for _, _, after in self.files])


@dataclass(frozen=True)
class Report(Outcome):
    """The outcome of `compress`: rows of all tensors, and sizes of whole files.

    `rows` and their order, and every byte written, are the same whatever `jobs` was.
    """

    src: str
    dst: str
    scheme: str
    dry_run: bool
    rows: tuple[Row, ...]
    files: tuple[tuple[str, int, int | None], ...]  # name, bytes before, bytes after
    base: str | None = None  # the checkpoint that deltas are to

    @property
    def encoded(self) -> tuple[Row, ...]:
        """The rows of tensors that were encoded."""
        return tuple(row for row in self.rows if row.codec is not None)

    @property
    def kinds(self) -> dict[str, int]:
        """How many of the encoded tensors each scheme encodes; ties and deltas are kinds of their own."""
        return dict(Counter(codec_label(row.codec) or "" for row in self.encoded))

    @property
    def reads_base(self) -> bool:
        """Whether a tensor is the difference to one of the base, which is needed again then."""
        return any(is_delta(row.codec) for row in self.rows)

    @property
    def ratio(self) -> float | None:
        """How many times smaller the files became."""
        return self.before / self.after if self.after else None

    def to_json(self) -> dict[str, Any]:
        """Everything, with stable keys."""
        return {
            "src": self.src,
            "dst": self.dst,
            "scheme": self.scheme,
            "base": self.base,
            "dry_run": self.dry_run,
            "tensors_encoded": len(self.encoded),
            "tensors_plain": len(self.rows) - len(self.encoded),
            "schemes": self.kinds,
            "reads_base": self.reads_base,
            "elements": self.elements,
            "bytes_before": self.before,
            "bytes_after": self.after,
            "ratio": self.ratio,
            "reasons": dict(Counter(row.reason for row in self.rows)),
            "files": [{"name": n, "bytes_before": b, "bytes_after": a} for n, b, a in self.files],
            "tensors": [row.to_json() for row in self.rows],
        }


def total(sizes: list[int | None]) -> int | None:
    """The sum, unless one of the sizes is not known."""
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def is_delta(codec: Codec | None) -> bool:
    """Whether the codec takes an array of another checkpoint.

    >>> from arraycodec import Delta, Tied
    >>> is_delta(Delta()), is_delta(Tied("embed.weight"))
    (True, False)
    """
    return codec is not None and "base" in codec.inputs and not isinstance(codec, Tied)


def codec_label(codec: Codec | None) -> str | None:
    """The name of the scheme with this codec, or the codec's repr where no scheme has it.

    A scheme with some of its planes coded losslessly is called as the one with all of them; of a tied tensor and of a
    delta the codec's name says it all.

    >>> from arraycodec import DQ, Codebook, Tied
    >>> codec_label(Codebook("nf4")), codec_label(Tied("embed.weight")), codec_label(DQ(snr=30))
    ('nf4', 'tied', 'DQ(bits=None, snr=30.0, step=None)')
    """
    schemes = {value: name for name, value in reversed(registry.SCHEMES.items())}  # of two names the first
    if codec is None or codec in schemes:
        return schemes.get(codec) if codec else None
    if isinstance(codec, Then):
        parts = {part for _, part in codec.parts}
        if len(parts) == 1 and (part := parts.pop()).lossless and part in schemes:
            return f"{codec_label(codec.outer)}+{schemes[part]}"
    return codec.name if "base" in codec.inputs else repr(codec)


def short_label(codec: Codec | None) -> str:
    """The same for tables: "plain", a scheme's name, or the codec's name with the parameters that say what it costs.

    >>> from arraycodec import DQ, TCQ, Linear
    >>> short_label(Linear(3, block_size=(1, 64), flavour="compressed-tensors", arithmetic="eager"))
    'linear(bits=3, block_size=(1, 64))'
    >>> short_label(TCQ(4, outliers=0.0)), short_label(DQ(snr=30))
    ('tcq(bits=4, outliers=0.0)', 'dq(snr=30.0)')
    """
    label = codec_label(codec)
    if codec is None or label is None or "(" not in label:
        return label or "plain"
    if isinstance(codec, Then):
        parts = ", ".join(f"{plane}={short_label(part)}" for plane, part in codec.parts)
        return f"{short_label(codec.outer)} with {parts}"
    kept = [field for field in fields(codec) if field.name not in ("flavour", "arithmetic")]
    values = {field: getattr(codec, field.name) for field in kept}
    first = next((field for field, value in values.items() if value is not None), None)
    told = [(field.name, value) for field, value in values.items() if value != field.default or field is first]
    return f"{codec.name}({', '.join(f'{name}={value!r}' for name, value in told)})"
