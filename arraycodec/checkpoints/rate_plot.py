"""Bits per weight against SNR, drawn: the picture that `demo` and `bench --rates` share. Imports matplotlib.

Two views of the same points: SNR with the Gaussian bound as a line, and the distance to that line, which spreads what
is crowded in the first. There every point has its name, in the first those with room beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.transforms import Bbox

from arraycodec import registry
from arraycodec.base import Then
from arraycodec.checkpoints.rates import DB_PER_BIT, Rate, frontier

INK, QUIET, FAINT = "#1f2933", "#7b8794", "#cbd2d9"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
MARKERS = ("o", "D", "s", "^")  # with a colour: what tells families apart when the colours are used up
WIDEST, LOWEST = 10.0, -28.0  # bits, and decibels to the bound: what is farther stands at the edge, with its figure
OFFSETS = [(x * d, y * d) for d in (0.6, 1, 1.5, 2.2, 3, 4, 5, 6.5) for x, y in
           ((1, 0), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8), (0, 1), (0, -1),
            (1, 0.4), (1, -0.4), (-1, 0.4), (-1, -0.4))]  # fmt: skip
STEP = 11  # points that an offset of 1 is
BESIDE, NEAR = 1.8, 0.9  # offsets of labels in the first view, and of those that need no line to their points

Place = tuple[float, float]


@dataclass(frozen=True)
class Spot:
    """A point of the picture: where it is drawn, and what stands beside it."""

    rate: Rate
    at: Place
    marker: str | None  # None: the family's
    label: str
    first: bool  # named before others


def family(scheme: str) -> str:
    """The codec of a scheme, by which it is coloured; a composed one has its outermost codec's.

    >>> family("nf4-double")
    'codebook'
    """
    codec = registry.codec(scheme)
    while isinstance(codec, Then):
        codec = codec.outer
    return codec.name


def styles() -> dict[str, tuple[str, str]]:
    """Family -> colour and marker, no two alike, and the same in every picture."""
    families = dict.fromkeys(family(scheme) for scheme in registry.SCHEMES)
    return {
        name: (COLOURS[index % len(COLOURS)], MARKERS[index // len(COLOURS)]) for index, name in enumerate(families)
    }


def draw_rates(figure: Any, against_bits: Any, to_bound: Any, rates: Sequence[Rate]) -> None:
    """Draw the points into two axes of a figure, after all else of the figure is there: labels keep clear of it."""
    lossy = sorted((rate for rate in rates if math.isfinite(rate.snr_db)), key=lambda rate: (rate.bits, rate.snr_db))
    best = frontier(lossy)
    views = [(against_bits, _snr_view(lossy, best), "SNR [dB]"),
             (to_bound, _bound_view(lossy, best), "SNR less the Gaussian bound [dB]")]  # fmt: skip
    for axes, spots, title in views:
        plain(axes)
        for name, (colour, marker) in styles().items():
            for shape in dict.fromkeys(spot.marker for spot in spots):
                own = [spot.at for spot in spots if family(spot.rate.scheme) == name and spot.marker == shape]
                if own:
                    axes.scatter([x for x, _ in own], [y for _, y in own], s=40, color=colour, marker=shape or marker,
                                 edgecolor="white", linewidth=0.6, zorder=3, clip_on=False,
                                 label=name if shape is None else f"_{name}")  # fmt: skip
        axes.set_xlim(0, WIDEST)
        axes.set_xlabel("bits per weight: codes, scales and codebooks", color=INK)
        axes.set_ylabel(title, color=INK)
    joined = [rate for rate in best if rate.bits <= WIDEST]
    against_bits.plot([rate.bits for rate in joined], [rate.snr_db for rate in joined], color=FAINT, linewidth=2,
                      zorder=1, label="_frontier")  # fmt: skip
    top = max([DB_PER_BIT, *(rate.snr_db for rate in lossy)]) * 1.12
    against_bits.set_ylim(min([0.0, *(rate.snr_db for rate in lossy)]), top)
    against_bits.set_title("size against error: up and left is better", loc="left", fontsize=10, color=INK)
    to_bound.set_ylim(LOWEST, max([0.0, *(-rate.below_bound for rate in lossy)]) + 2.5)
    to_bound.set_title("the same, from the bound", loc="left", fontsize=10, color=INK)
    _bound(against_bits, to_bound)
    if lossy:
        against_bits.legend(frameon=False, loc="upper left", fontsize=8, title_fontsize=8, title="codec", ncols=2,
                            bbox_to_anchor=(0, 0.98), handletextpad=0.2)  # fmt: skip
    if exact := [rate for rate in rates if rate.snr_db == math.inf]:
        told = "\n".join(["exact:", *(f"{rate.scheme}  {rate.bits:.2f} bits" for rate in exact)])
        to_bound.text(0.015, 0.03, told, transform=to_bound.transAxes, fontsize=8, color=INK, va="bottom")
    figure.draw_without_rendering()  # sets the axes' places, from which labels are laid out
    figure.set_layout_engine("none")
    _name(figure, against_bits, views[0][1], [(x, y) for x, y in OFFSETS if math.hypot(x, y) <= BESIDE])
    _name(figure, to_bound, views[1][1], OFFSETS)


def plain(axes: Any) -> None:
    """What all our pictures have: a faint grid, two spines."""
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)


def _snr_view(rates: Sequence[Rate], best: Sequence[Rate]) -> list[Spot]:
    """Bits and SNR; at the right edge what is larger than is shown."""
    spots = []
    for rate in rates:
        beyond = rate.bits > WIDEST
        told = f"{rate.scheme}, {rate.bits:.1f} bits" if beyond else rate.scheme
        at = (min(rate.bits, WIDEST), rate.snr_db)
        spots.append(Spot(rate, at, ">" if beyond else None, told, rate in best))
    return spots


def _bound_view(rates: Sequence[Rate], best: Sequence[Rate]) -> list[Spot]:
    """Bits and the distance to the bound; at the lower edge what is farther than is shown."""
    spots = []
    for rate in rates:
        wide, low = rate.bits > WIDEST, -rate.below_bound < LOWEST
        figures = [f"{rate.bits:.1f} bits"] * wide + [f"{-rate.below_bound:.0f} dB"] * low
        at = (min(rate.bits, WIDEST), max(-rate.below_bound, LOWEST))
        told = ", ".join([rate.scheme, *figures])
        spots.append(Spot(rate, at, "v" if low else ">" if wide else None, told, rate in best))
    return spots


def _bound(against_bits: Any, to_bound: Any) -> None:
    """The line that no code of independent normal numbers is above."""
    told = f"Gaussian bound, {DB_PER_BIT:.2f} dB a bit"
    against_bits.plot([0, WIDEST], [0, WIDEST * DB_PER_BIT], color=INK, linewidth=1, linestyle="--", zorder=2,
                      label="_bound")  # fmt: skip
    top = against_bits.get_ylim()[1]
    x = 0.62 * min(WIDEST, top / DB_PER_BIT)
    against_bits.text(x, x * DB_PER_BIT + 0.012 * top, told, fontsize=8.5, color=INK, ha="center", va="bottom",
                      rotation=math.degrees(math.atan(DB_PER_BIT)), rotation_mode="anchor",
                      transform_rotates_text=True)  # fmt: skip
    to_bound.plot([0, WIDEST], [0, 0], color=INK, linewidth=1, linestyle="--", zorder=2, label="_bound")
    to_bound.annotate(told, (0, 0), xytext=(4, 4), textcoords="offset points", fontsize=8.5, color=INK)


def _name(figure: Any, axes: Any, spots: Sequence[Spot], offsets: Sequence[Place]) -> None:
    """Write labels where there is room, the best schemes' first; points on top of each other have one label."""
    renderer = figure.canvas.get_renderer()
    scale = figure.dpi / 72
    view = axes.get_window_extent(renderer)
    pixels = axes.transData.transform
    corners = [(x, y) for x, y in (pixels(spot.at) - 4 * scale for spot in spots)]
    taken = [Bbox.from_bounds(x, y, 8 * scale, 8 * scale) for x, y in corners]
    taken += [text.get_window_extent(renderer).padded(2 * scale) for text in axes.texts if not text.get_rotation()]
    if legend := axes.get_legend():
        taken.append(legend.get_window_extent(renderer))
    inside = Bbox.from_extents(view.x0, view.y0, view.x1 + 6 * scale, view.y1)
    crossed = _crossing(axes, pixels)
    for spot in _together(sorted(spots, key=lambda spot: not spot.first), lambda spot: pixels(spot.at), 3 * scale):
        size, weight = (8, "bold") if spot.first else (7, "normal")
        text = axes.annotate(spot.label, spot.at, xytext=(0, 0), textcoords="offset points", fontsize=size,
                             fontweight=weight, color=INK, zorder=4, annotation_clip=False)  # fmt: skip
        text.set_in_layout(False)
        for x, y in offsets:
            text.set_horizontalalignment("left" if x > 0.1 else "right" if x < -0.1 else "center")
            text.set_verticalalignment("bottom" if y > 0.5 else "top" if y < -0.5 else "center")
            text.set_position((STEP * x, STEP * y))
            box = text.get_window_extent(renderer)
            if _within(box, inside) and not crossed(box) and not any(box.overlaps(other) for other in taken):
                taken.append(box.padded(scale))
                if math.hypot(x, y) > NEAR:
                    _lead(axes, spot.at, box, pixels)
                break
        else:
            text.remove()


def _lead(axes: Any, at: Place, box: Bbox, pixels: Callable[[Any], Any]) -> None:
    """A thin line from a point to the nearest end of its label."""
    x, y = pixels(at)
    end = (min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1))
    to = axes.transData.inverted().transform(end)
    style = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 2}
    axes.annotate("", at, xytext=to, zorder=2, annotation_clip=False, arrowprops=style)


def _within(box: Bbox, outer: Bbox) -> bool:
    return outer.x0 <= box.x0 and box.x1 <= outer.x1 and outer.y0 <= box.y0 and box.y1 <= outer.y1


def _crossing(axes: Any, pixels: Callable[[Any], Any]) -> Callable[[Bbox], bool]:
    """Whether a box lies on one of the lines that were drawn."""
    drawn = [line for line in axes.get_lines() if line.get_label() == "_bound"]
    lines = [line.get_path().transformed(line.get_transform()) for line in drawn]
    return lambda box: any(line.intersects_bbox(box, filled=False) for line in lines)


def _together(spots: Sequence[Spot], place: Callable[[Spot], Any], near: float) -> list[Spot]:
    """One spot for those that cover each other, with the names of all of them."""
    groups: list[list[Spot]] = []
    for spot in spots:
        for group in groups:
            if math.dist(place(group[0]), place(spot)) <= near:
                group.append(spot)
                break
        else:
            groups.append([spot])
    return [Spot(group[0].rate, group[0].at, group[0].marker, ", ".join(spot.label for spot in group), group[0].first)
            for group in groups]  # fmt: skip
