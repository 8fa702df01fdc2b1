"""Tables that fit a terminal: columns are left out and names shortened before any figure is cut."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

RIGHT, WRAPS, NAME, SPARE = ">|~?"  # what a column's title may start with
WIDTH = 20  # columns that a name or a wrapped text has, before another column is left out for it
LEAST = 8  # that one has at last


@dataclass
class Rows:
    """The cells of a table, laid out once the width is known.

    columns  their titles, each after marks: `>` is set flush right, `|` is wrapped, `~` holds names, which are
             shortened with an ellipsis, and `?` may be left out. All others are shown whole, however narrow the
             terminal is.
    """

    columns: tuple[str, ...]
    title: str | None = None
    rows: list[tuple[Text, ...]] = field(default_factory=list)

    def add_row(self, *cells: Text) -> None:
        """Add a cell for every column."""
        self.rows.append(cells)

    def show(self, out: Any) -> None:
        """Print it on a console; in a pipe every cell is whole and in one line."""
        from rich.text import Text

        shown, widths = self._fitted(out.width if out.file.isatty() else sys.maxsize)
        before = out.width
        out.width = max(before, self._needed(shown, widths))  # what does not fit is the terminal's to fold
        out.print(self._made(shown, widths))
        out.width = before
        if left := dict.fromkeys(_name(self.columns[i]) for i in range(len(self.columns)) if i not in shown):
            out.print(Text(f"too narrow for: {', '.join(left)}", style="dim"), soft_wrap=True)

    def _natural(self) -> list[int]:
        """The columns that each would take."""
        from rich.cells import cell_len

        titles = map(_name, self.columns)
        return [
            max(cell_len(text) for text in (title, *(row[i].plain for row in self.rows)))
            for i, title in enumerate(titles)
        ]

    def _fitted(self, width: int) -> tuple[list[int], list[int]]:
        """The indexes of the columns to show, and how wide every column is."""
        shown = [*range(len(self.columns))]
        spare = [i for i in shown if SPARE in _marks(self.columns[i])]
        while self._needed(shown, widths := self._narrowed(shown, width, WIDTH)) > width:
            if not spare:
                return shown, self._narrowed(shown, width, LEAST)
            shown.remove(spare.pop(0))
        return shown, widths

    def _narrowed(self, shown: Sequence[int], width: int, least: int) -> list[int]:
        """The columns' widths, of wrapped texts and then of names only what is left to them, but `least`."""
        widths = self._natural()
        for mark in (WRAPS, NAME):
            for i in (i for i in shown if mark in _marks(self.columns[i])):
                excess = max(0, self._needed(shown, widths) - width)
                widths[i] = max(min(least, widths[i]), widths[i] - excess)
        return widths

    @staticmethod
    def _needed(shown: Sequence[int], widths: Sequence[int]) -> int:
        """The width of the table: a space at either side, three spaces between columns."""
        return sum(widths[i] for i in shown) + 3 * (len(shown) - 1) + 2

    def _made(self, shown: Sequence[int], widths: Sequence[int]) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        made = Table(box=box.SIMPLE_HEAD, title=self.title, title_justify="left", title_style="bold", pad_edge=False)
        for i in shown:
            marks = _marks(self.columns[i])
            made.add_column(
                Text(_name(self.columns[i])), justify="right" if RIGHT in marks else "left", width=widths[i],
                no_wrap=WRAPS not in marks, overflow="fold",
            )  # fmt: skip
        for row in self.rows:
            made.add_row(*(
                _shortened(row[i], widths[i]) if NAME in _marks(self.columns[i]) else row[i] for i in shown
            ))  # fmt: skip
        return made


def _marks(column: str) -> str:
    return column[: len(column) - len(_name(column))]


def _name(column: str) -> str:
    return column.lstrip(RIGHT + WRAPS + NAME + SPARE)


def _shortened(text: Text, width: int) -> Text:
    """A text with an ellipsis for its middle, where it is too wide."""
    from rich.cells import cell_len, set_cell_size
    from rich.text import Text

    if cell_len(text.plain) <= width:
        return text
    tail = width - 1 - width // 6  # names differ in their ends
    head, end = set_cell_size(text.plain, width - 1 - tail), set_cell_size(text.plain[::-1], tail)[::-1]
    return Text(f"{head}…{end}", style=text.style)
