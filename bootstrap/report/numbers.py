"""Numbers of a run's files as people read them."""

import math
from typing import Any


def value_of(metric: Any) -> float | None:
    """The value of a metric, with or without its interval; None when absent, not a number or a share of nothing."""
    value = metric.get("value") if isinstance(metric, dict) and metric.get("n") != 0 else metric
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if number else None


def percent(value: Any) -> str:
    """A rate between 0 and 1 in per cent, one decimal at most."""
    number = value_of(value)
    return "–" if number is None else f"{100 * number:.1f}".removesuffix(".0")


def count(value: Any) -> str:
    """A whole number with commas."""
    number = value_of(value)
    return "–" if number is None else f"{number:,.0f}"


def decimals(value: Any) -> str:
    """A number with two decimals."""
    number = value_of(value)
    return "–" if number is None else f"{number:.2f}"


def chance(probability: float) -> str:
    """A probability with two decimals, or that it is less than they can say."""
    return "< 0.01" if 0 < probability < 0.005 else f"{probability:.2f}"


def figure(value: Any) -> str:
    """A number with three decimals."""
    number = value_of(value)
    return "–" if number is None else f"{number:.3f}"


def measure(value: Any, unit: str) -> str:
    """A metric's value in its unit, without naming it: rates in per cent, all else with three decimals."""
    return percent(value) if unit == "%" else figure(value)


def pace(rate: float) -> str:
    """How fast items are made, by how many there are in a second: "12.5/s", or "48 s each" of those that take long."""
    return f"{rate:,.1f}/s" if rate >= 0.5 else f"{1 / rate:,.0f} s each"


def duration(seconds: Any) -> str:
    """Seconds as people say them: "41.0 s", "12 min 54 s", "1 h 02 min"."""
    exact = value_of(seconds)
    if exact is None or math.isinf(exact):
        return "–"
    if round(exact, 1) < 60:
        return f"{exact:.1f} s"
    s = round(exact)
    return f"{s // 60} min {s % 60:02} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60:02} min"
