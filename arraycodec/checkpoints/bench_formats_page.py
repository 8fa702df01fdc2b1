"""The tables that `bench --formats --results` writes: one for each group of formats, between marks of a page.

What else stands on the page stays. A table that was not measured stays too, so that libraries which exclude each other
can be measured one after another.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from arraycodec.checkpoints.bench_formats import GROUPS, FormatBench, FormatSpeed
from arraycodec.errors import ArgumentError

PAGE = "checkpoints.md"
FIELDS = ("encode", "peer_encode", "times_encode", "decode", "decode_into", "peer_decode", "times_decode")
PACKAGES = ("python", "arraycodec", "numpy", "numba", "torch", "compressed-tensors", "gguf")
NEW = "# Checkpoints of others, measured\n\n" + "".join(
    f"## {group}\n\n<!-- speeds:{group} -->\n<!-- /speeds -->\n\n" for group in GROUPS
)


def write(found: FormatBench, folder: Path) -> Path:
    """Put the tables that were measured on `checkpoints.md`, which is made where it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    text = path.read_text(encoding="utf-8") if path.exists() else NEW.rstrip("\n") + "\n"
    path.write_text(page(found, text), encoding="utf-8")
    return path


def page(found: FormatBench, text: str) -> str:
    """The page with the tables that were measured in place of those that it has."""
    for group in GROUPS:
        if rows := [row for row in found.rows if row.group == group]:
            mark = re.compile(rf"(<!-- speeds:{group} -->\n).*?(<!-- /speeds -->)", re.S)
            made = f"\n{told(found)}\n\n{table(rows)}\n"
            text, count = mark.subn(lambda old, made=made: old[1] + made + old[2], text)
            if not count:
                raise ArgumentError(f"bench: {PAGE} must have the marks <!-- speeds:{group} --> and <!-- /speeds -->")
    return text


def told(found: FormatBench) -> str:
    """What the figures were measured on, in a sentence."""
    machine = found.machine
    versions = ", ".join(f"{name} {machine[name]}" for name in PACKAGES if name in machine)
    load = " to ".join(f"{value:g}" for value in dict.fromkeys(found.load))
    text = (
        f"{found.date}, {found.shape[0]} × {found.shape[1]}; {machine['cpu']}, {machine['cores_available']} of "
        f"{machine['cores']} cores; {versions}." + (f" Load before and after: {load}." if load else "")
    )
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def table(rows: Sequence[FormatSpeed]) -> str:
    """One line for each format, with a pair of figures where it ran with one thread and with more."""
    formats: dict[str, list[FormatSpeed]] = {}
    for row in rows:
        formats.setdefault(row.format, []).append(row)
    threads = " / ".join(str(row.threads) for row in next(iter(formats.values())))
    encodes = any(row.encode for row in rows)
    head = ["format", *(["encode", "peer", "times"] if encodes else []), "decode", "`out=`", "peer", "times", "bits"]
    lines = [f"GB/s of the dense side with {threads} threads.", "", f"| {' | '.join(head)} |",
             "|---|" + "---:|" * (len(head) - 2) + "---|"]  # fmt: skip
    for name, own in formats.items():
        cells = [_pair([_figure(row, field) for row in own]) for field in FIELDS[0 if encodes else 3 :]]
        bits = {None: "", "": "equal"}.get(own[0].differs, f"differs: {own[0].differs}")
        lines.append(f"| {' | '.join([name, *cells, bits])} |")
    return "\n".join(lines) + "\n"


def _figure(row: FormatSpeed, field: str) -> float | None:
    value = getattr(row, field)
    return value if field.startswith("times") else row.gb_s(value)


def _pair(values: Sequence[float | None]) -> str:
    return " / ".join(number(value) for value in values if value is not None)


def number(value: float) -> str:
    """Two digits at least, and no more than tell something.

    >>> number(0.0312), number(0.312), number(3.12), number(31.2), number(1312)
    ('.031', '.31', '3.1', '31', '1,312')
    """
    if value < 0.995:
        return f"{value:.{3 if value < 0.0995 else 2}f}".lstrip("0")
    return f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"
