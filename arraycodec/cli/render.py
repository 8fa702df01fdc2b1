"""Tables, sizes and the progress bar. Tables go to stdout; the bar to stderr, and only where that is a terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from arraycodec.cli.failures import printable
from arraycodec.cli.tables import Rows

R = TypeVar("R")
WIDE = 160  # columns where no terminal says how many there are: lines of a pipe are not for folding


def console(stderr: bool = False) -> Any:
    """rich's console on stdout or stderr."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(file=stream, width=None if stream.isatty() else WIDE, highlight=False, soft_wrap=False)


def table(*columns: str, title: str | None = None) -> Rows:
    """An empty table; what the marks before the columns' titles mean is `Rows`'."""
    return Rows(columns, title)


def cell(value: object, style: str = "") -> Any:
    """A value as text: never markup, control characters escaped."""
    from rich.text import Text

    return Text(printable(str(value)), style=style)


def emit_json(value: Any) -> None:
    """A value as JSON on stdout; ASCII, so nothing in a name can drive the terminal."""
    print(json.dumps(value, indent=2, allow_nan=False))


def size(nbytes: float | None) -> str:
    """Bytes for people: 1 MB is 10^6 bytes.

    >>> size(12_948_032), size(None)
    ('12.9 MB', '?')
    """
    if nbytes is None:
        return "?"
    for unit in ("B", "KB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" or abs(nbytes) >= 99.95 else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:.2f} TB"


def decibels(value: float | None) -> str:
    """An SNR; the infinite one of equal arrays as `exact`."""
    return "exact" if value is None or value == float("inf") else f"{value:.2f} dB"


def dimensions(shape: tuple[int, ...]) -> str:
    """A shape: `4096 × 11008`."""
    return " × ".join(map(str, shape)) or "scalar"


def grouped(
    rows: Iterable[R], name: Callable[[R], str], like: Callable[[R], Hashable], every: bool = False
) -> list[tuple[str, list[R]]]:
    """Rows that are alike but for the numbers in their names, under a name with `*` in their place."""
    groups: dict[Hashable, list[R]] = {}
    for index, row in enumerate(rows):
        key = index if every else (re.sub(r"\d+", "*", name(row)), like(row))
        groups.setdefault(key, []).append(row)
    return [(_common([name(row) for row in group]), group) for group in groups.values()]


def _common(names: list[str]) -> str:
    """The names' text with `*` for the numbers in which they differ."""
    parts = [re.split(r"(\d+)", name) for name in names]
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in zip(*parts, strict=True))


def times(count: int) -> str:
    """How many a row stands for; nothing where it is one."""
    return f"×{count}" if count > 1 else ""


@contextmanager
def progress(title: str, shown: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """A callback that moves a bar on stderr; None where there is no terminal or it is not to be shown."""
    if not shown or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[what]}", markup=False), console=console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(title, what="")
        yield lambda done, total, what: bar.update(task, completed=done, total=total, what=printable(what)[-40:])


@contextmanager
def status(title: str, shown: bool) -> Iterator[Callable[[str], None]]:
    """A callback that says on stderr what is going on; it does nothing where there is no terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda what: None
        return
    with console(stderr=True).status(cell(title)) as line:
        yield lambda what: line.update(cell(f"{title} {what}"))
