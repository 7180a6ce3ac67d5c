"""The report's plots as inline SVG whose colours are CSS variables, so that they follow the page into dark mode.

Only numbers and fixed words are drawn here: names that come from a run (criteria, contexts, tokens) are set as HTML
by the template, which escapes them. The same numbers give the same bytes.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import LogScale
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

SERIES = tuple(f"#0{i}0{i}fe" for i in range(1, 9))
"""Stand-ins for the CSS colours --s1 ... --s8."""
INK, MUTED, GRID, PAPER = "#0101fd", "#0202fd", "#0303fd", "#0404fd"
CSS_COLOURS = {INK: "ink", MUTED: "muted", GRID: "line", PAPER: "card"} | {s: f"s{i}" for i, s in enumerate(SERIES, 1)}

STYLE = {
    "svg.fonttype": "none",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0,
    "xtick.major.size": 2.5,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """A line: x, y and, where known, the 95 % interval (low, high) at every point.

    colour: index into SERIES, counted from 0. hollow: points drawn as rings (generations that were rolled back).
    """

    x: Sequence[float]
    y: Sequence[float]
    bounds: Sequence[tuple[float, float] | None] = ()
    colour: int = 0
    dashed: bool = False
    strength: float = 1.0
    hollow: Sequence[float] = ()


def by_generation(name: str, curves: Sequence[Curve], levels: Sequence[tuple[float, int]] = ()) -> Markup:
    """Rates (0 to 1) by generation with their bands; `levels` are dashed horizontal lines (rate, colour).

    The last value of every line and each level stand beside their ends.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(3.1, 1.9)
        for value, colour in levels:
            axes.axhline(100 * value, color=SERIES[colour], linewidth=1.3, linestyle=(0, (4, 3)))
        _lines_with_bands(axes, curves)
        _name_ends(axes, [*((curve.y[-1], curve.colour) for curve in curves if curve.x), *levels])
        generations = sorted({x for curve in curves for x in curve.x})
        axes.set_xlim(min(generations, default=0) - 0.25, max(generations, default=1) + 0.25)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        _in_per_cent(axes)
        axes.set_xlabel("generation")
        return _svg(figure, name)


def loss(name: str, curves: Sequence[Curve]) -> Markup:
    """Training loss in nats per token by step, on a logarithmic axis; losses that are not above 0 leave gaps."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(4.3, 2.6)
        for curve in curves:
            style = (0, (3, 2)) if curve.dashed else "-"
            colour = SERIES[curve.colour]
            axes.plot(curve.x, curve.y, color=colour, linewidth=1.3, linestyle=style, alpha=curve.strength)
        if any(value > 0 for curve in curves for value in curve.y):
            axes.set_yscale(LogScale(axes.yaxis, nonpositive="mask"))
            lowest, highest = axes.get_ylim()
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if highest < 1000 * lowest else (1,)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.set_xlabel("step")
        axes.set_ylabel("nats per token, log scale")
        return _svg(figure, name)


def sweep(name: str, curves: Sequence[Curve], chosen: float | None) -> Markup:
    """Shares (0 to 1) of a wrong-thinker's samples by λ; a vertical line marks the λ that was taken."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _figure(3.1, 1.9)
        if chosen is not None:
            axes.axvline(chosen, color=MUTED, linewidth=1, linestyle=(0, (1, 2)))
        _lines_with_bands(axes, curves)
        _in_per_cent(axes)
        axes.set_xlabel("λ")
        return _svg(figure, name)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure (inches) with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _in_per_cent(axes: Axes) -> None:
    """The vertical axis from 0 to 100 %."""
    axes.set_ylim(-3, 104)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100 %"])


def _name_ends(axes: Axes, ends: Sequence[tuple[float, int]]) -> None:
    """Writes rates (rate, colour) in per cent to the right of the axes, moved apart where they would overlap."""
    heights, beside = apart([100 * rate for rate, _ in ends], 10), axes.get_yaxis_transform()
    for (rate, colour), height in zip(ends, heights, strict=True):
        text = f"{100 * rate:.1f}".removesuffix(".0")
        axes.text(1.02, height, text, transform=beside, color=SERIES[colour], va="center")


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Values in per cent moved up or down until neighbours are at least `gap` apart, the lowest no lower than it was
    or than leaves room for all of them below 100."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    moved, room = list(values), 100 - gap * (len(values) - 1)
    for number, i in enumerate(order):
        lowest = moved[order[number - 1]] + gap if number else -float("inf")
        moved[i] = max(lowest, min(values[i], room + gap * number))
    return moved


def _lines_with_bands(axes: Axes, curves: Sequence[Curve]) -> None:
    """Draws each line thinner than the ones below it, so that none hides another that has the same values."""
    for number, curve in enumerate(curves):
        _line_with_band(axes, curve, 1.6 + 1.2 * (len(curves) - 1 - number))


def _line_with_band(axes: Axes, curve: Curve, width: float) -> None:
    colour = SERIES[curve.colour]
    y = [100 * v for v in curve.y]
    style = (0, (4, 3)) if curve.dashed else "-"
    bounded = [(x, 100 * b[0], 100 * b[1]) for x, b in zip(curve.x, curve.bounds, strict=False) if b]
    if len(bounded) > 1:
        axes.fill_between(*zip(*bounded, strict=True), color=colour, alpha=0.15, linewidth=0)
    for x, low, high in bounded if len(bounded) == 1 else ():
        axes.plot([x, x], [low, high], color=colour, linewidth=4, alpha=0.25)
    axes.plot(curve.x, y, color=colour, linestyle=style, linewidth=width, alpha=curve.strength, clip_on=False)
    for x, v in zip(curve.x, y, strict=True):
        face = PAPER if x in curve.hollow else colour
        axes.plot([x], [v], "o", markersize=2.4 + width, color=colour, markerfacecolor=face, clip_on=False)


def _svg(figure: Figure, name: str) -> Markup:
    """The figure as an `<svg>` that scales with its box, with CSS colours and without unused ids."""
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>| font-family: [^;]*;", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r'\1 role="presentation"', text, count=1)
    used = set(re.findall(r"#([\w-]+)", text))
    text = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", text)
    for stand_in, variable in CSS_COLOURS.items():
        text = text.replace(stand_in, f"var(--{variable})")
    return Markup(re.sub(r"\n\s*", "\n", text))
