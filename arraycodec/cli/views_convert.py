"""What `convert` prints."""

from __future__ import annotations

from typing import Any

from arraycodec.checkpoints.conversion import HOW, Conversion
from arraycodec.checkpoints.report import short_label, total
from arraycodec.cli.render import cell, console, dimensions, grouped, size, table, times
from arraycodec.cli.views import labelled

STYLES = {
    "kept": "green", "encoded": "green",
    "inverted": "yellow", "re-encoded": "yellow", "cast": "yellow", "dropped": "yellow",
}  # fmt: skip


def converted(found: Conversion, every: bool = False) -> None:
    """Every decision with its reason, then what it came to."""
    out = console()
    rows = table("~tensor", "", "?dtype", "?shape", "from", "to", "how", ">before", ">after", "|reason")
    like = grouped(found.rows, labelled, lambda r: (r.dtype, r.shape, r.source, r.codec, r.how, r.reason), every)
    for name, group in like:
        row, style = group[0], "dim" if group[0].how == "copied" else ""
        rows.add_row(
            cell(name, style), cell(times(len(group)), style), cell(row.dtype, style),
            cell(dimensions(row.shape), style), _codec(row.source), _codec(row.codec, row.how),
            cell(row.how, STYLES.get(row.how, style)), cell(size(sum(r.before for r in group)), style),
            cell(size(total([r.after for r in group])), style), cell(row.reason, style),
        )  # fmt: skip
    rows.show(out)
    out.print(cell(f"{found.src} → {found.dst}", "bold"), cell(f"  {found.source} → {found.to}"), soft_wrap=True)
    out.print(cell(f"{size(found.before)} → {size(found.after)}", "bold green"), end="")
    bits = f"  {8 * found.after / found.elements:.2f} bits per weight," if found.after and found.elements else " "
    out.print(cell(f"{bits} {_counts(found)}"), soft_wrap=True)
    for note in found.notes:
        out.print(cell(f"note: {note}", "yellow"), soft_wrap=True)
    if found.dry_run:
        out.print(cell("dry run: nothing was written", "bold yellow"))
    else:
        told = "equal" if found.exact else "how far they are"
        out.print(cell(f"check it:  arraycodec diff {found.src} {found.dst}  ({told})", "dim"), soft_wrap=True)


def _counts(found: Conversion) -> str:
    counts = ", ".join(f"{count} {how} ({HOW[how]})" for how, count in found.counts.items())
    return f"{len(found.rows)} tensors: {counts or 'none'}"


def _codec(codec: Any, how: str = "") -> Any:
    if how == "dropped":
        return cell("")
    return cell(short_label(codec), "green" if codec else "dim")
