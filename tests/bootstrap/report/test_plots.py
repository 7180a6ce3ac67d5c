"""Plots in which every line can be seen and read."""

import re

import pytest

from ratchet.bootstrap.report import plots
from ratchet.bootstrap.report.plots import Curve, apart


def heights(svg: str, colour: int) -> list[float]:
    """Heights of the points of each line in a colour, from the top of the figure."""
    drawn = re.findall(rf'<path d="([^"]*)"[^>]*stroke: var\(--s{colour}\)', svg)
    return [float(y) for y in re.findall(r"[ML] \S+ (\S+)", " ".join(drawn).replace("\n", " "))]


def test_losses_lie_on_a_logarithmic_axis():
    svg = plots.loss("loss", [Curve([0, 1, 2, 3], [10.0, 1.0, 0.1, 0.01])])
    steps = [b - a for a, b in zip(heights(svg, 1), heights(svg, 1)[1:], strict=False)]
    assert len(steps) == 3 and max(steps) == pytest.approx(min(steps), abs=1e-3), "a tenth is as far everywhere"
    assert "0.01" in svg and "log scale" in svg


@pytest.mark.parametrize("losses", [[0.0, 0.0], [1.0, 0.0, 0.5], [-1.0, 2.0], [0.3]])
def test_losses_that_have_no_logarithm_are_left_out(losses):
    assert "<svg" in plots.loss("loss", [Curve(range(len(losses)), losses)])


def test_lines_with_the_same_values_are_both_seen():
    svg = plots.by_generation("p", [Curve([0, 1], [0.5, 1.0]), Curve([0, 1], [0.5, 1.0], colour=1)])
    widths = [re.search(rf"stroke: var\(--s{c}\)[^\"]*stroke-width: ([\d.]+)", svg)[1] for c in (1, 2)]
    assert float(widths[0]) > float(widths[1]) > 0


def test_the_last_value_of_every_line_and_level_stands_beside_it_in_its_colour():
    curves = [Curve([0, 1], [0.5, 0.013]), Curve([0, 1], [0.9, 0.02], colour=1)]
    svg = plots.by_generation("p", curves, [(0.669, 7)])
    named = re.findall(r'<text style="[^"]*fill: var\(--s(\d)\)[^>]*>([\d.]+)</text>', svg)
    assert sorted(named) == [("1", "1.3"), ("2", "2"), ("8", "66.9")]


@pytest.mark.parametrize("values", [[50.0], [0.0, 1.3], [100.0, 96.4], [100.0] * 4, [99.0, 0.0, 98.0, 1.0], []])
def test_names_of_ends_are_moved_apart_in_their_order(values):
    moved = apart(values, 10)
    order = sorted(range(len(values)), key=lambda i: values[i])
    assert all(moved[b] - moved[a] >= 10 for a, b in zip(order, order[1:], strict=False))
    assert all(0 <= m <= 110 for m in moved)
    assert apart([20.0, 60.0], 10) == [20.0, 60.0]
