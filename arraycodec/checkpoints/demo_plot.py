"""The plot of `demo`: bits per weight against error, and the error of every tensor. Imports matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from arraycodec import registry
from arraycodec.base import Then

if TYPE_CHECKING:
    from arraycodec.checkpoints.demo import Outcome

INK, FAINT = "#1f2933", "#cbd2d9"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito


def draw(outcomes: list[Outcome], title: str, path: Path) -> None:
    """Write the PNG; no window is opened, and pyplot's global state is not touched."""
    lossy = [outcome for outcome in outcomes if math.isfinite(outcome.snr_db)]
    figure = Figure(figsize=(13, max(5.6, 1.6 + 0.22 * len(lossy))), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1])
    for axes in (left, right):
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=8)
    families = list(dict.fromkeys(family(outcome.scheme) for outcome in lossy))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(families)}
    _against_bits(left, lossy, colours)
    _per_tensor(right, lossy, colours)
    if lossy:
        left.legend(frameon=False, loc="lower right", title="codec", fontsize=8)
    figure.suptitle(f"{title}: every scheme of arraycodec", x=0.01, ha="left", fontsize=13, color=INK)
    figure.savefig(path)


def _against_bits(axes, outcomes: list[Outcome], colours: dict[str, str]) -> None:
    """Every scheme as a point; the best for their size are joined and named."""
    best = pareto([(outcome.bits_per_weight, outcome.snr_db) for outcome in outcomes])
    axes.plot(*zip(*best, strict=True) if best else ([], []), color=FAINT, linewidth=2, zorder=1)
    for name, colour in colours.items():
        own = [(o.bits_per_weight, o.snr_db) for o in outcomes if family(o.scheme) == name]
        axes.scatter(*zip(*own, strict=True), s=46, color=colour, edgecolor="white", zorder=2, label=name)
    for outcome in outcomes:
        if (outcome.bits_per_weight, outcome.snr_db) in best:
            axes.annotate(outcome.scheme, (outcome.bits_per_weight, outcome.snr_db), xytext=(-6, 5), ha="right",
                          textcoords="offset points", fontsize=8, color=INK)  # fmt: skip
    axes.margins(0.16, 0.1)
    axes.set_xlabel("bits per weight, whole file", color=INK)
    axes.set_ylabel("SNR of the encoded tensors [dB]", color=INK)
    axes.set_title("size against error: up and left is better", loc="left", fontsize=10, color=INK)


def _per_tensor(axes, outcomes: list[Outcome], colours: dict[str, str]) -> None:
    """A row for every scheme, a thin mark for every tensor, a dot for all of them."""
    for row, outcome in enumerate(outcomes):
        values = [value for value in outcome.tensors.values() if math.isfinite(value)]
        colour = colours[family(outcome.scheme)]
        axes.scatter(values, [row] * len(values), marker="|", s=50, color=colour, alpha=0.5, linewidth=0.8)
        axes.scatter(outcome.snr_db, row, s=30, color=colour, edgecolor="white", zorder=2)
    axes.set_yticks(range(len(outcomes)), [f"{outcome.scheme}  {outcome.bits_per_weight:.2f}" for outcome in outcomes])
    axes.set_ylim(len(outcomes) - 0.4, -0.6)
    axes.set_xlabel("SNR [dB]", color=INK)
    axes.set_title("every encoded tensor, and all of them; bits per weight", loc="left", fontsize=10, color=INK)


def family(scheme: str) -> str:
    """The codec of a scheme, by which it is coloured; a composed one has its outermost codec's.

    >>> family("nf4-double")
    'codebook'
    """
    codec = registry.codec(scheme)
    while isinstance(codec, Then):
        codec = codec.outer
    return codec.name


def pareto(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both: fewer bits and more SNR.

    >>> pareto([(4.5, 20.0), (4.6, 19.0), (8.5, 44.0)])
    [(4.5, 20.0), (8.5, 44.0)]
    """
    best: list[tuple[float, float]] = []
    for bits, snr in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or snr > best[-1][1]:
            best.append((bits, snr))
    return best
