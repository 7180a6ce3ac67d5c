"""What evaluations measured, as the page shows it: tiles, small plots, ways of asking and answers.

Which metrics there are, what they are called and in which order they stand is said by the evaluations themselves; only
the primary one is known by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ratchet.bootstrap.report import plots
from ratchet.bootstrap.report.numbers import value_of
from ratchet.bootstrap.report.plots import Curve
from ratchet.bootstrap.report.status import in_columns

PRIMARY = "open_book"
"""The metric that decides about a promotion and stands first."""
TILES = 4
"""Metrics in large type at the top, the primary one among them."""
WORST = "_worst"
"""Ends the name of a metric that is another one's value in its worst context; both share a plot."""

Row = Mapping[str, Any]
"""A row of `status`: one generation, or another arm."""


def arm_colour(number: int) -> int:
    """The colour of the arm with this number: arms take the last colours, generations and metrics the first."""
    return len(plots.SERIES) - 1 - number % len(plots.SERIES)


def first_and_incumbent(state: Mapping[str, Any]) -> tuple[Row | None, Row | None]:
    """The rows of the first generation that was evaluated, and of the last one that was kept."""
    evaluated = [row for row in state["generations"] if row["metrics"]]
    kept = [row for row in evaluated if row["promoted"] or row["generation"] == 0]
    return (evaluated[0], (kept or evaluated)[-1]) if evaluated else (None, None)


def headline(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The incumbent's primary metric and the rates that follow it, each beside the first model's and other arms'."""
    first, row = first_and_incumbent(state)
    if row is None:
        return []
    return [
        {
            "title": state["metrics"][name]["title"],
            "generation": row["generation"],
            "value": row["metrics"].get(name),
            "interval": row["intervals"].get(name),
            "of": row["out_of"].get(name),
            "first": first["metrics"].get(name) if first is not row else None,
            "arms": _arms_with(state, name),
        }
        for name in _rates(state)[:TILES]
    ]


def by_generation(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A small plot of every rate that has a column, with the levels of other arms, and one of the reviewer.

    Each has a title, a legend of (label, colour counted from 1, dashed), and its SVG.
    """
    names, shown = _rates(state), []
    for name in names:
        if name.endswith(WORST) and name.removesuffix(WORST) in names:
            continue
        lines = [
            (state["metrics"][n]["title"], _curve(state, n, lambda row, n=n: row["metrics"].get(n)))
            for n in (name, name + WORST)
            if n in names
        ]
        shown.append(_plot(state["metrics"][name]["title"], lines, _arms_with(state, name)))
    reviewer = [
        (part, _curve(state, f"review.{part}", lambda row, part=part: row["review"][part]))
        for part in ("precision", "recall")
    ]
    shown.append(_plot("the reviewer", reviewer, ()))
    return [plot for plot in shown if plot]


def _rates(state: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that have a column and are rates, the primary one first."""
    rates = [name for name, metric in in_columns(state["metrics"]).items() if metric["unit"] == "%"]
    return sorted(rates, key=lambda name: name != PRIMARY)


def _arms_with(state: Mapping[str, Any], name: str) -> list[tuple[str, float, int]]:
    """(label, value, colour) of each arm that has a metric; the label says in which form unless that is a chat."""
    found = []
    for number, (arm, row) in enumerate(state["baselines"].items()):
        form = row["form"] if name in row["forms"] else None
        label = arm if form in (None, "chat") else f"{arm}, in {form} form"
        if row["metrics"].get(name) is not None:
            found.append((label, row["metrics"][name], arm_colour(number)))
    return found


def _curve(state: Mapping[str, Any], name: str, value: Callable[[Row], float | None]) -> Curve:
    """A figure by generation with its intervals, which stand under `name`; generations without it are left out."""
    rows = [row for row in state["generations"] if value(row) is not None]
    return Curve(
        x=[row["generation"] for row in rows],
        y=[value(row) for row in rows],
        bounds=[row["intervals"].get(name) for row in rows],
        hollow=[row["generation"] for row in rows if row["promoted"] is False],
    )


def _plot(
    title: str, lines: Sequence[tuple[str, Curve]], arms: Sequence[tuple[str, float, int]]
) -> dict[str, Any] | None:
    """Labelled lines in the first colours, dashed when these have run out, and the levels of arms; None without any."""
    if not any(curve.x for _, curve in lines):
        return None
    count = len(plots.SERIES)
    curves = [replace(curve, colour=i % count, dashed=i >= count) for i, (_, curve) in enumerate(lines)]
    legend = [(label, curve.colour + 1, curve.dashed) for (label, _), curve in zip(lines, curves, strict=True)]
    legend += [(label, colour + 1, True) for label, _, colour in arms]
    svg = plots.by_generation(title, curves, [(value, colour) for _, value, colour in arms])
    return {"title": title, "legend": legend if len(legend) > 1 else [], "svg": svg}


def trends(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Metrics without a column of which less is better, with (generation, value) of the `first`, `highest` and `last`
    one."""
    found = []
    for name, metric in state["metrics"].items():
        points = [(row["generation"], row["metrics"].get(name)) for row in state["generations"]]
        points = [(number, value) for number, value in points if value is not None]
        if metric["less_is_better"] and not metric["column"] and len(points) > 1:
            ends = {"first": points[0], "highest": max(points, key=lambda point: point[1]), "last": points[-1]}
            found.append(metric | ends)
    return found


def contexts(evaluation: Row, metrics: Mapping[str, Row]) -> dict[str, Any] | None:
    """One evaluation by context: `columns` (name, title, unit) of whatever metrics its contexts hold, and `rows`
    (context, whether training may see it, its metrics by name)."""
    found = evaluation.get("contexts") or {}
    names = dict.fromkeys(name for context in found.values() for name in context.get("metrics", ()))
    columns = [(n, *(metrics[n][key] for key in ("title", "unit"))) if n in metrics else (n, n, "%") for n in names]
    rows = [(name, context.get("seen"), context.get("metrics", {})) for name, context in found.items()]
    return {"columns": columns, "rows": rows} if rows else None


def examples(evaluation: Row, metrics: Mapping[str, Row]) -> list[dict[str, Any]]:
    """Answers that the evaluation shows, with their `scores` as (title of the metric, score).

    `missed` is true of an answer that has a score at the wrong end: 1 where less is better, 0 elsewhere.
    """
    shown = []
    for example in evaluation.get("examples") or ():
        scores = {n: value_of(score) for n, score in (example.get("scores") or {}).items() if n in metrics}
        missed = any(score == float(metrics[n]["less_is_better"]) for n, score in scores.items())
        shown.append(example | {"missed": missed, "scores": [(metrics[n]["title"], s) for n, s in scores.items()]})
    return shown
