"""The plot of `demo`: bits per weight against error, and the error of every tensor. Imports matplotlib."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from arraycodec.checkpoints.demo import Outcome

MARKERS = "osD^vP*Xh<>p"
INK, FAINT = "#1f2933", "#cbd2d9"
MOST = 48  # tensors with a name under the right plot; beyond that names are left out


def draw(outcomes: list[Outcome], title: str, path: Path) -> None:
    """Write the PNG; no window is opened, and pyplot's global state is not touched."""
    figure = Figure(figsize=(13, 5.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    lossy = [outcome for outcome in outcomes if math.isfinite(outcome.snr_db)]
    for axes in (left, right):
        axes.grid(color=FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK)
    colours = {outcome.scheme: f"C{index}" for index, outcome in enumerate(outcomes)}
    hull = pareto([(outcome.bits_per_weight, outcome.snr_db) for outcome in lossy])
    left.plot(*zip(*hull, strict=True) if hull else ([], []), color=FAINT, linewidth=2, zorder=1)
    for index, outcome in enumerate(lossy):
        left.scatter(
            outcome.bits_per_weight, outcome.snr_db, s=70, color=colours[outcome.scheme],
            marker=MARKERS[index % len(MARKERS)], edgecolor="white", zorder=2, label=outcome.scheme,
        )  # fmt: skip
    left.margins(0.12)
    left.set_xlabel("bits per weight, whole file")
    left.set_ylabel("SNR of the encoded tensors [dB]")
    left.set_title("size against error: up and left is better", loc="left", fontsize=10, color=INK)
    _per_tensor(right, lossy, colours)
    if lossy:
        left.legend(frameon=False, loc="lower right")
    figure.suptitle(f"{title}: every scheme of arraycodec", x=0.01, ha="left", fontsize=13, color=INK)
    figure.savefig(path)


def _per_tensor(axes, outcomes: list[Outcome], colours: dict[str, str]) -> None:
    names = list(dict.fromkeys(name for outcome in outcomes for name in outcome.tensors))
    for index, outcome in enumerate(outcomes):
        places = [k for k, name in enumerate(names) if math.isfinite(outcome.tensors.get(name, math.inf))]
        axes.plot(
            places, [outcome.tensors[names[k]] for k in places], color=colours[outcome.scheme], linewidth=0.8,
            marker=MARKERS[index % len(MARKERS)], markersize=4, alpha=0.9,
        )  # fmt: skip
    if len(names) <= MOST:
        axes.set_xticks(range(len(names)), [short(name) for name in names], rotation=90, fontsize=6)
    axes.set_title("SNR of every encoded tensor [dB]", loc="left", fontsize=10, color=INK)


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


def short(name: str) -> str:
    """A tensor's name as it fits under an axis: `model.layers.0.mlp.up_proj.weight` is `0.mlp.up_proj`."""
    name = re.sub(r"^(model|transformer|encoder|decoder)\.|\.weight$", "", name)
    return re.sub(r"^(layers|layer|h|blocks)\.", "", name)[-32:]
