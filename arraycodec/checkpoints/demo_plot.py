"""The plot of `demo`: bits per weight against error, and the error of every tensor. Imports matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from arraycodec.checkpoints.rate_plot import INK, draw_rates, family, plain, styles
from arraycodec.checkpoints.rates import Rate

if TYPE_CHECKING:
    from arraycodec.checkpoints.demo import Outcome


def draw(outcomes: list[Outcome], title: str, path: Path) -> Figure:
    """Write the PNG; no window is opened, and pyplot's global state is not touched."""
    encoded = [(outcome, outcome.encoded_bits) for outcome in outcomes if outcome.encoded_bits is not None]
    lossy = [(outcome, bits) for outcome, bits in encoded if math.isfinite(outcome.snr_db)]
    figure = Figure(figsize=(16, max(8, 1.6 + 0.22 * len(lossy))), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: every scheme of arraycodec", x=0.01, ha="left", fontsize=13, color=INK)
    axes = figure.subplot_mosaic([["bits", "tensors"], ["bound", "tensors"]], width_ratios=[1.25, 1])
    _per_tensor(axes["tensors"], sorted(lossy, key=lambda pair: pair[1]))
    rates = [Rate(outcome.scheme, bits, outcome.snr_db) for outcome, bits in encoded]
    draw_rates(figure, axes["bits"], axes["bound"], rates)
    figure.savefig(path)
    return figure


def _per_tensor(axes, outcomes: list[tuple[Outcome, float]]) -> None:
    """A row for every scheme, a thin mark for every tensor, a dot for all of them."""
    plain(axes)
    for row, (outcome, _) in enumerate(outcomes):
        values = [value for value in outcome.tensors.values() if math.isfinite(value)]
        colour, marker = styles()[family(outcome.scheme)]
        axes.scatter(values, [row] * len(values), marker="|", s=50, color=colour, alpha=0.5, linewidth=0.8)
        axes.scatter(outcome.snr_db, row, s=30, color=colour, marker=marker, edgecolor="white", zorder=2)
    axes.set_yticks(range(len(outcomes)), [f"{outcome.scheme}  {bits:.2f}" for outcome, bits in outcomes])
    axes.set_ylim(len(outcomes) - 0.4, -0.6)
    axes.set_xlabel("SNR [dB]", color=INK)
    axes.set_title("every encoded tensor, and all of them; bits per weight", loc="left", fontsize=10, color=INK)
