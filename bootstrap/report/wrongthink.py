"""Wrong thoughts and their corrections, as the page shows them: how a wrong-thinker was found and what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ratchet.bootstrap.report import plots
from ratchet.bootstrap.report.numbers import value_of
from ratchet.bootstrap.report.plots import Curve

SOURCES = {
    "inverted": "of the inverted lesson",
    "contrast": "of the contrast of right answers and spoiled ones",
    "incumbent": "of the incumbent itself",
    "random": "of the incumbent moved at random",
    "spoiled": "spoiled by rule",
}
"""What the page calls the sources of wrong thoughts; another one goes by its own name."""

Row = Mapping[str, Any]
"""A wrong-thinker as it was measured: `{"lambda", "formed", "wrong", "perplexity"}`."""


def wrongthink(found: Mapping[int, Mapping[str, Any]], settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The newest of the files `wrongthink.json`, and a row of figures for each, by generation; None without any.

    `settings` bound what a wrong-thinker may lose, and its control as well.
    """
    found = {number: measured for number, measured in found.items() if measured}
    if not found:
        return None
    bounds = (settings.get("minimum_formed", 0.9), settings.get("perplexity_budget", 1.1))
    number, newest = max(found.items())
    rows, control = (_measured(newest.get(name)) for name in ("sweep", "control"))
    chosen, still = _at(rows, newest.get("lambda")), _at(rows, 0)
    return {
        "generation": number,
        "source": newest.get("source"),
        "skipped": newest.get("skipped"),
        "sources": SOURCES,
        "corrections": {s: n for s, n in (newest.get("corrections") or {}).items() if n["made"]},
        "examples": newest.get("examples") or [],
        "bounds": bounds,
        "rows": rows,
        "control": control,
        "chosen": chosen,
        "control_best": best(control, *bounds),
        "without": still,
        "no_more_wrong": bool(chosen and still) and _more(chosen.get("wrong"), still.get("wrong")) is False,
        "history": [_history(n, measured, bounds) for n, measured in found.items()],
    } | _plot(rows, control, chosen)


def best(rows: Iterable[Row], minimum_formed: float, perplexity_budget: float) -> Row | None:
    """The most wrong of these wrong-thinkers that is well formed and speaks as well as the bounds ask, if any is."""
    within = [
        row
        for row in rows
        if row["lambda"] > 0
        and (value_of(row.get("formed")) or 0.0) >= minimum_formed
        and (value_of(row.get("perplexity")) or float("inf")) <= perplexity_budget
    ]
    return max(within, key=lambda row: (value_of(row.get("wrong")) or 0.0, -row["lambda"]), default=None)


def _measured(rows: Sequence[Row] | None) -> list[Row]:
    """The rows by λ, without those that have none."""
    return sorted((row for row in rows or () if value_of(row.get("lambda")) is not None), key=lambda row: row["lambda"])


def _at(rows: Sequence[Row], scale: float | None) -> Row | None:
    return next((row for row in rows if scale is not None and row["lambda"] == scale), None)


def _history(number: int, measured: Mapping[str, Any], bounds: tuple[float, float]) -> dict[str, Any]:
    """One generation's wrong-thinker beside its control, and how likely its thoughts were before and after."""
    corrections, likelihood = measured.get("corrections") or {}, measured.get("likelihood") or {}
    return {
        "generation": number,
        "source": measured.get("source"),
        "chosen": _at(_measured(measured.get("sweep")), measured.get("lambda")) or {},
        "control": best(_measured(measured.get("control")), *bounds) or {},
        "likelihood": likelihood,
        "warning": "likelier" if _more(likelihood.get("after"), likelihood.get("before")) else "",
        "made": sum(n["made"] for n in corrections.values()),
        "passed": sum(n["passed"] for n in corrections.values()),
    }


def _more(one: Any, other: Any) -> bool | None:
    """Whether a number is larger than another; None where either is absent."""
    a, b = value_of(one), value_of(other)
    return None if a is None or b is None else a > b


def _plot(rows: Sequence[Row], control: Sequence[Row], chosen: Row | None) -> dict[str, Any]:
    """How well formed and how wrong by λ, with the control's share of wrong thoughts."""
    if not rows:
        return {"svg": None, "legend": []}
    lines = [("well formed", _curve(rows, "formed", 0)), ("wrong", _curve(rows, "wrong", 1))]
    if control:
        lines.append(("wrong, random vector", _curve(control, "wrong", 7, dashed=True)))
    svg = plots.sweep("sweep", [curve for _, curve in lines], chosen["lambda"] if chosen else None)
    return {"svg": svg, "legend": [(label, curve.colour + 1, curve.dashed) for label, curve in lines]}


def _curve(rows: Iterable[Row], name: str, colour: int, dashed: bool = False) -> Curve:
    points = [(row["lambda"], value_of(row.get(name))) for row in rows if value_of(row.get(name)) is not None]
    return Curve([x for x, _ in points], [y for _, y in points], colour=colour, dashed=dashed)
