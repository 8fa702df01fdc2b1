"""What `bench --rates` writes: a picture, and a page with the table behind it."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from arraycodec.checkpoints.rate_plot import INK, draw_rates
from arraycodec.checkpoints.rates import DB_PER_BIT, Rate, Rates, frontier

PAGE, PICTURE = "rate_distortion.md", "rate_distortion.png"
TEXT = """# Rate and distortion of {source}

<!-- Written by `{command}`. -->

`{command}`

{weights}

![bits per weight against SNR, with the Gaussian bound]({picture})

*Bits* are all planes per weight: codes, scales, codebooks, tables of an entropy coder; not the rest of a file. *SNR* is
`10 log10(sum w^2 / sum (w - w')^2)` over all matrices as if they were one. The line is the Gaussian bound: no code of
independent normal numbers of one variance has more than {step:.2f} dB a bit. Weights are not quite that: where rows or
matrices differ in their variance, or the tails are long, a code can come nearer to the line than it could with normal
numbers, or cross it. *To the bound* is how far below the line a scheme is. Bold are those that no other scheme beats in
both. A scheme whose size depends on the data has the size that was measured.

{table}
{notes}"""


def write(found: Rates, folder: Path) -> list[Path]:
    """Write the page and its picture into a folder that is there, and return their paths."""
    path = folder / PAGE
    path.write_text(page(found), encoding="utf-8")
    figure(found).savefig(folder / PICTURE)
    return [path, folder / PICTURE]


def figure(found: Rates) -> Figure:
    """The picture; no window is opened, and pyplot's global state is not touched."""
    drawn = Figure(figsize=(16, 8.5), dpi=120, layout="constrained")
    FigureCanvasAgg(drawn)
    title = f"{found.source}: {found.matrices} matrices, {found.elements / 1e6:.1f} M weights"
    drawn.suptitle(title, x=0.01, ha="left", fontsize=13, color=INK)
    left, right = drawn.subplots(1, 2, width_ratios=[1, 1.25])
    draw_rates(drawn, left, right, found.rates)
    return drawn


def page(found: Rates) -> str:
    """The whole page."""
    weights = (
        f"The {found.matrices} matrices of `{found.source}` that `compress` encodes: {found.elements:,} weights, "
        f"{', '.join(found.dtypes)}."
    )
    notes = f"\nNot measured: {'; '.join(found.notes)}.\n" if found.notes else ""
    return TEXT.format(source=found.source, command=found.command, weights=_filled(weights), picture=PICTURE,
                       step=DB_PER_BIT, table=table(found.rates),
                       notes=_filled(notes) if notes else "").rstrip("\n") + "\n"  # fmt: skip


def table(rates: Iterable[Rate]) -> str:
    """A Markdown table, the fewest bits first."""
    rows = sorted(rates, key=lambda rate: (rate.bits, -rate.snr_db, rate.scheme))
    best = frontier(rows)
    lines = ["| scheme | bits per weight | SNR [dB] | to the bound [dB] |", "|---|---:|---:|---:|"]
    for rate in rows:
        name = f"**`{rate.scheme}`**" if rate in best else f"`{rate.scheme}`"
        finite = math.isfinite(rate.snr_db)
        snr = f"{rate.snr_db:.2f}" if finite else "exact" if rate.snr_db > 0 else "lost"
        lines.append(f"| {name} | {rate.bits:.4f} | {snr} | {f'{rate.below_bound:.2f}' if finite else ''} |")
    return "\n".join(lines) + "\n"


def _filled(text: str) -> str:
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n" * text.endswith("\n")
