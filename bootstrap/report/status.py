"""Where a run stands: the units committed, and one row of figures per generation, read from its directory.

Nothing here needs a model. Every file may be missing: a run that is under way, was killed or ended early has a status.
What was measured, and how it is shown, stands in the evaluation's own file.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath
from rich import box
from rich.table import Table

UNIT_STAGES = ("simulate", "review", "targets", "wrongthink", "corrections")
"""Stages that commit units, in their order; a plan may name others, which come after these."""
WHOLE_STAGES = {"train": "evaluation.json", "evaluate": "evaluation.json", "promote": "decision.json"}
"""Stages that are done at once, and a file that proves it where `stages.json` does not say so."""
DESCRIPTION = ("title", "column", "unit", "less_is_better", "guard")
"""What `evaluation.json` says about a metric besides what was measured."""


class RunFileError(ValueError):
    """A file of the run directory that cannot be read."""


def read_json(path: epath.Path) -> dict[str, Any]:
    """The object in a file; empty when there is no such file."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise RunFileError(f"{path}: not JSON ({error}); delete it and run `ratchet resume`") from None
    if not isinstance(value, dict):
        raise RunFileError(f"{path}: holds a {type(value).__name__}, not an object; delete it and run `ratchet resume`")
    return value


def generation_directories(directory: epath.Path) -> dict[int, epath.Path]:
    """The directories gen-000, gen-001, ... by number, in order."""
    found = {p.name.removeprefix("gen-"): p for p in directory.iterdir() if p.name.startswith("gen-")}
    numbers = sorted((number for number in found if number.isdigit()), key=int)
    return {int(number): found[number] for number in numbers}


def status(directory: epath.Path) -> dict[str, Any]:
    """What `ratchet status --json` prints: where the run stands, and a row of figures per generation and arm.

    `metrics` describes what the newest evaluation measured, by name and in the order of display.
    """
    directory = epath.Path(directory)
    config, plan = read_json(directory / "config.json"), read_json(directory / "plan.json")
    generations = generation_directories(directory)
    rows = [_row(number, path) for number, path in generations.items()]
    arms = {arm: directory / arm for arm in plan.get("arms", ()) if (directory / arm / "evaluation.json").exists()}
    ended = read_json(directory / "ended.json").get("reason")
    last = generations.get(plan.get("generations", -1))
    complete = last is not None and (last / "DONE.json").exists() and len(arms) == len(plan.get("arms", ()))
    return {
        "recipe": config.get("recipe"),
        "world": config.get("world"),
        "directory": str(directory),
        "ended": ended,
        "finished": complete or ended is not None,
        "stages": [s for number, path in generations.items() for s in _stages(number, path)],
        "metrics": _described([*arms.values(), *generations.values()]),
        "generations": rows,
        "baselines": {arm: _row(None, path) for arm, path in arms.items()},
    }


def table(status: dict[str, Any]) -> Table:
    """Generations and the other arms, one row each; rates in per cent. Fits into 132 columns."""
    metrics = in_columns(status["metrics"])
    caption = "\n".join(_caption(metrics, status["baselines"]))
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 0), caption=caption, caption_justify="left")
    for number, name in enumerate(header(metrics)):
        shown.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for row in status["generations"]:
        shown.add_row(*cells(row, metrics))
    for arm, row in status["baselines"].items():
        shown.add_row(arm, *cells(row, metrics)[1:])
    return shown


def in_columns(metrics: Mapping[str, dict]) -> dict[str, dict]:
    """The metrics that have a column in the table of generations."""
    return {name: metric for name, metric in metrics.items() if metric["column"]}


def header(metrics: Mapping[str, dict]) -> list[str]:
    """The heads of a table of generations with these metrics."""
    return [*(name for name, *_ in FIXED), *(metric["column"] for metric in metrics.values()), "promoted"]


def cells(row: dict[str, Any], metrics: Mapping[str, dict]) -> list[str]:
    """One row of the table of generations as text, '–' where a figure is absent."""
    fixed = [show(row[key] if part is None else row[key][part]) for _, key, part, show in FIXED]
    measured = [measure(row["metrics"].get(name), metric["unit"]) for name, metric in metrics.items()]
    return [*fixed, *measured, promoted(row["promoted"])]


def _caption(metrics: Mapping[str, dict], baselines: Mapping[str, dict]) -> list[str]:
    """What the columns of metrics mean, and what an arm that was asked in another form than a chat gets in a chat."""
    lines = ["rates in %", *(f"{m['column']}: {described(m)}" for m in metrics.values())]
    for arm, row in baselines.items():
        if row["form"] not in (None, "chat"):
            chat = [f"{metrics[n]['column']} {percent(f.get('chat'))}" for n, f in row["forms"].items() if n in metrics]
            lines.append(f"{arm} is asked in {row['form']} form; in a chat: {', '.join(chat) or 'not asked'}")
    return lines


def described(metric: Mapping[str, Any]) -> str:
    """A metric's title, with its unit unless that is per cent, and whether less of it is better.

    Example: "mean loss of held-out answers, in nats; less is better".
    """
    unit = f", in {metric['unit']}" if metric["unit"] not in ("", "%") else ""
    return metric["title"] + unit + ("; less is better" if metric["less_is_better"] else "")


def value_of(metric: Any) -> float | None:
    """The value of a metric, with or without its interval; None when absent or not a number."""
    value = metric.get("value") if isinstance(metric, dict) else metric
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


def figure(value: Any) -> str:
    """A number with three decimals."""
    number = value_of(value)
    return "–" if number is None else f"{number:.3f}"


def measure(value: Any, unit: str) -> str:
    """A metric's value in its unit, without naming it: rates in per cent, all else with three decimals."""
    return percent(value) if unit == "%" else figure(value)


def duration(seconds: Any) -> str:
    """Seconds as people say them."""
    s = value_of(seconds)
    if s is None:
        return "–"
    if s < 60:
        return f"{s:.1f} s"
    return f"{s // 60:.0f} min {s % 60:02.0f} s" if s < 3600 else f"{s // 3600:.0f} h {s % 3600 // 60:02.0f} min"


def promoted(value: Any) -> str:
    """Whether a generation was promoted; '–' where nothing was decided."""
    return {True: "yes", False: "no"}.get(value if isinstance(value, bool) else None, "–")


FIXED: tuple[tuple[str, str, str | None, Callable[[Any], str]], ...] = (
    ("gen", "generation", None, count),
    ("made", "simulated", None, count),
    ("accepted", "accepted", None, count),
    ("cover", "coverage", None, percent),
    ("prec", "review", "precision", percent),
    ("recall", "review", "recall", percent),
    ("junk", "review", "junk", percent),
)
"""The columns before the metrics: head, key of a row, part of it, and how it is shown."""


def _stages(number: int, path: epath.Path) -> list[dict[str, Any]]:
    """Units done and in total of every stage; the seed model is only trained and evaluated."""
    took = read_json(path / "stages.json")
    units = read_json(path / "plan.json").get("units", {})
    stages = []
    for stage in dict.fromkeys((*UNIT_STAGES, *units)) if number > 0 else ():
        done, total = len(list((path / stage).glob("unit-*.json"))), units.get(stage)
        if done or total or stage in took:
            stages.append({"generation": number, "stage": stage, "done": done, "total": total})
    for stage, proof in WHOLE_STAGES.items() if number > 0 else list(WHOLE_STAGES.items())[:2]:
        done = stage in took or (path / proof).exists()
        stages.append({"generation": number, "stage": stage, "done": int(done), "total": 1})
    return stages


def _described(places: Sequence[epath.Path]) -> dict[str, dict[str, Any]]:
    """How the metrics of the last of these directories that has any are shown, by name."""
    defaults = {"column": "", "unit": "", "less_is_better": False, "guard": False}
    for place in reversed(places):
        if metrics := read_json(place / "evaluation.json").get("metrics"):
            known = {name: {"title": name} | defaults | metric for name, metric in metrics.items()}
            return {name: {key: metric[key] for key in DESCRIPTION} for name, metric in known.items()}
    return {}


def _row(number: int | None, path: epath.Path) -> dict[str, Any]:
    """The figures of one generation or of another arm.

    By name of the figure, `intervals` are of 95 %, and `out_of` says how many transcripts, sources or answers it is of.
    """
    funnel, audit = read_json(path / "funnel.json"), read_json(path / "audit.json")
    review = read_json(path / "calibration.json").get("review") or {}
    quality = review | {k: v for k, v in (audit.get("oracle") or {}).items() if v is not None}
    metrics = read_json(path / "evaluation.json").get("metrics", {})
    bounded = {"coverage": funnel.get("coverage")}
    bounded |= {f"review.{name}": quality.get(name) for name in ("precision", "recall")}
    forms = {name: metric["forms"] for name, metric in metrics.items() if "forms" in metric}
    return {
        "generation": number,
        "promoted": read_json(path / "decision.json").get("promoted"),
        "simulated": funnel.get("made"),
        "accepted": funnel.get("passed"),
        "coverage": value_of(funnel.get("coverage")),
        "review": {name: value_of(quality.get(name)) for name in ("precision", "recall", "junk")},
        "unreviewed_mass": value_of(audit.get("unreviewed_mass")),
        "audit": {name: audit.get(name) for name in ("raw_tokens", "rejected_tokens")},
        "metrics": {name: value_of(metric) for name, metric in metrics.items()},
        "intervals": _intervals(bounded | metrics),
        "out_of": {"accepted": funnel.get("made")} | _numbers(bounded | metrics),
        "form": next((metrics[name].get("form") for name in forms), None),
        "forms": forms,
    }


def _intervals(measured: Mapping[str, Any]) -> dict[str, list[float]]:
    """The 95 % intervals of those that have one."""
    both = {n: [value_of(m.get("low")), value_of(m.get("high"))] for n, m in measured.items() if isinstance(m, dict)}
    return {name: pair for name, pair in both.items() if None not in pair}


def _numbers(measured: Mapping[str, Any]) -> dict[str, int]:
    """How many are counted in each of those that say so."""
    return {name: m["n"] for name, m in measured.items() if isinstance(m, dict) and "n" in m}
