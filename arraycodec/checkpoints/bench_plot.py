"""The four pictures of `bench --results`. Imports matplotlib."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from arraycodec.checkpoints.bench_page import PICTURES
from arraycodec.checkpoints.bench_peers import Peer
from arraycodec.checkpoints.bench_results import Results
from arraycodec.checkpoints.rate_plot import FAINT, INK

OURS, INTO = "arraycodec", "arraycodec, out="
BLUE, ORANGE, GREEN, AMBER = "#0072b2", "#d55e00", "#009e73", "#e69f00"  # Okabe and Ito: safe for the colour-blind
STYLES = {  # series -> colour and marker
    OURS: (BLUE, "o"),
    INTO: ("#7fb8d8", "o"),
    "bitsandbytes": (ORANGE, "s"),
    "compressed-tensors": (GREEN, "D"),
    "torchao": ("#cc79a7", "^"),
    "optimum-quanto": (AMBER, "v"),
    "gguf": ("#000000", "P"),
    "blocks": (BLUE, "o"),
    "whole matrix": (AMBER, "s"),
    "blocks, outliers": (GREEN, "D"),
    "whole matrix, outliers": (ORANGE, "^"),
}
Point = tuple[str, str, float]  # scheme, series, value


def draw(found: Results, folder: Path) -> list[Path]:
    """Write the pictures into a folder; no window is opened, and pyplot's global state is not touched."""
    cases, peers = found.blocks.cases, found.blocks.peers
    copy = 1e3 * median(case.copy for case in cases)
    on = f"[ms], float32, {found.shape[0]} × {found.shape[1]}"
    figures = {
        "quantise.png": _timed(
            [(c.scheme, OURS, 1e3 * c.encode) for c in cases] + _of_peers(peers, lambda p: 1e3 * p.encode), on, copy
        ),
        "dequantise.png": _timed(
            [(c.scheme, OURS, 1e3 * c.decode_allocating) for c in cases]
            + [(c.scheme, INTO, 1e3 * c.decode) for c in cases]
            + _of_peers(peers, lambda p: 1e3 * p.decode),
            on, copy,
        ),
        "mae.png": _errors(found),
        "bytes.png": _bytes(found),
    }  # fmt: skip
    for name, (figure, _) in figures.items():
        figure.suptitle(f"{PICTURES[name]} {figure.get_label()}", x=0.01, ha="left", fontsize=11, color=INK)
        figure.savefig(folder / name)
    return [folder / name for name in figures]


def _of_peers(peers: Iterable[Peer], value: Any) -> list[Point]:
    return [(peer.scheme.partition(",")[0], peer.name, value(peer)) for peer in peers]


def _timed(points: list[Point], label: str, copy: float) -> tuple[Figure, Any]:
    """Points on a logarithmic axis, and a line where a copy is."""
    figure, axes = _figure(points, label)
    _logarithmic(axes)
    axes.axvline(copy, color=INK, linewidth=1, linestyle=":")
    axes.annotate("copy", (copy, 1), xycoords=("data", "axes fraction"), xytext=(3, -10), textcoords="offset points",
                  fontsize=8, color=INK)  # fmt: skip
    return figure, axes


def _errors(found: Results) -> tuple[Figure, Any]:
    sections = {"blocks": found.blocks, "whole matrix": found.whole, "blocks, outliers": found.outliers,
                "whole matrix, outliers": found.whole_outliers}  # fmt: skip
    points = [(loss.scheme, label, loss.mae) for label, section in sections.items() for loss in section.quality]
    figure, axes = _figure(points, "of normal numbers, standard deviation 1")
    _logarithmic(axes)
    return figure, axes


def _bytes(found: Results) -> tuple[Figure, Any]:
    ours = [(loss.scheme, OURS, loss.bytes_per_element) for loss in found.blocks.quality]
    figure, axes = _figure([*ours, *_of_peers(found.blocks.peers, lambda p: p.quality.bytes_per_element)], "")
    axes.barh(range(len(ours)), [value for *_, value in ours], height=0.5, color=FAINT, zorder=1)
    axes.set_xlim(0)
    return figure, axes


def _figure(points: list[Point], label: str) -> tuple[Figure, Any]:
    """A row for every scheme, a mark on it for every series; ours are large, so that others show on top of them."""
    schemes = list(dict.fromkeys(scheme for scheme, _, _ in points))
    figure = Figure(figsize=(9, 1.5 + 0.24 * len(schemes)), dpi=120, layout="constrained", label=label)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(axis="both", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="both", which="both", colors=INK, length=0, labelsize=8)
    used = {series for _, series, _ in points}
    for name, (colour, marker) in STYLES.items():
        own = [(value, schemes.index(scheme)) for scheme, series, value in points if series == name]
        if own:
            large = name in (OURS, INTO)
            axes.scatter(*zip(*own, strict=True), s=60 if large else 26, color=colour, marker=marker,
                         edgecolor="white", linewidth=0.5, zorder=2 if large else 3, label=name)  # fmt: skip
    axes.set_yticks(range(len(schemes)), schemes)
    axes.set_ylim(len(schemes) - 0.4, -0.6)
    if len(used) > 1:
        figure.legend(loc="outside lower left", ncols=7, frameon=False, fontsize=8, handletextpad=0.2)
    return figure, axes


def _logarithmic(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
