"""Where a run stands: the units committed, and one row of figures per generation, read from its directory.

Nothing here needs a model. Every file may be missing: a run that is under way, was killed or ended early has a status.
"""

import json
import math
from typing import Any

from etils import epath
from rich import box
from rich.table import Table

UNIT_STAGES = ("simulate", "review", "targets", "wrongthink")
"""Stages that commit units."""
WHOLE_STAGES = {"train": "evaluation.json", "evaluate": "evaluation.json", "promote": "decision.json"}
"""Stages that are done at once, and a file that proves it where `stages.json` does not say so."""

METRICS = ("pass_rate", "harmful", "harmful_worst", "knowledge", "recovery", "wrongthink", "distinct2", "heldout_loss")
"""Metrics of `evaluation.json` that stand in a row."""


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
    return {int(number): found[number] for number in sorted(found) if number.isdigit()}


def value_of(metric: Any) -> float | None:
    """The value of a metric, with or without its interval; None when absent or not a number."""
    value = metric.get("value") if isinstance(metric, dict) else metric
    number = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if number else None


def status(directory: epath.Path) -> dict[str, Any]:
    """What `ratchet status --json` prints."""
    directory = epath.Path(directory)
    config = read_json(directory / "config.json")
    generations = generation_directories(directory)
    imitation = (directory / "imitation" / "evaluation.json").exists()
    ended = read_json(directory / "ended.json").get("reason")
    last = generations.get(config.get("generations", -1))
    complete = last is not None and (last / "DONE.json").exists() and (imitation or not config.get("imitation"))
    return {
        "recipe": config.get("recipe"),
        "directory": str(directory),
        "ended": ended,
        "finished": complete or ended is not None,
        "stages": [s for number, path in generations.items() for s in _stages(number, path)],
        "generations": [_row(number, path) for number, path in generations.items()],
        "baselines": {"imitation": _row(None, directory / "imitation")} if imitation else {},
    }


def table(status: dict[str, Any]) -> Table:
    """Generations and the imitation arm, one row each; rates in per cent. Fits into 120 columns."""
    caption = "\n".join(["rates in %, held-out loss in nats per token", *_asked_otherwise(status["baselines"])])
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 0), caption=caption)
    for number, (name, *_) in enumerate(COLUMNS):
        shown.add_column(name, justify="left" if number == 0 else "right", no_wrap=True)
    for row in [*status["generations"], *({"arm": arm} | row for arm, row in status["baselines"].items())]:
        shown.add_row(*cells(row))
    return shown


def _asked_otherwise(baselines: dict[str, Any]) -> list[str]:
    """A line for every arm that is not asked in a chat, as the generations are: what it gets when it is."""
    return [
        f"{arm} is asked in {row['form']} form; in a chat: "
        + ", ".join(f"{name} {percent(forms.get('chat'))}" for name, forms in row["forms"].items())
        for arm, row in baselines.items()
        if row["form"] not in (None, "chat")
    ]


def cells(row: dict[str, Any]) -> list[str]:
    """One row of the table as text, '–' where a figure is absent."""
    return [
        show(row.get(key) if part is None else (row.get(key) or {}).get(part)) for _, key, part, show in _columns(row)
    ]


def percent(value: Any) -> str:
    """A rate between 0 and 1 in per cent, one decimal at most."""
    number = value_of(value)
    return "–" if number is None else f"{100 * number:.1f}".removesuffix(".0")


def count(value: Any) -> str:
    number = value_of(value)
    return "–" if number is None else f"{number:,.0f}"


def decimals(value: Any) -> str:
    """A number with two decimals."""
    number = value_of(value)
    return "–" if number is None else f"{number:.2f}"


def duration(seconds: Any) -> str:
    """Seconds as people say them."""
    s = value_of(seconds)
    if s is None:
        return "–"
    if s < 60:
        return f"{s:.1f} s"
    return f"{s // 60:.0f} min {s % 60:02.0f} s" if s < 3600 else f"{s // 3600:.0f} h {s % 3600 // 60:02.0f} min"


def figure(value: Any) -> str:
    """A number with three decimals, for metrics of different units in one column."""
    number = value_of(value)
    return "–" if number is None else f"{number:.3f}"


def promoted(value: Any) -> str:
    return {True: "yes", False: "no"}.get(value if isinstance(value, bool) else None, "–")


COLUMNS = (
    ("gen", "generation", None, count),
    ("made", "simulated", None, count),
    ("pass", "pass_rate", None, percent),
    ("accepted", "accepted", None, count),
    ("cover", "coverage", None, percent),
    ("prec", "review", "precision", percent),
    ("recall", "review", "recall", percent),
    ("junk", "review", "junk", percent),
    ("harm", "harmful", None, percent),
    ("worst", "harmful_worst", None, percent),
    ("know", "knowledge", None, percent),
    ("recov", "recovery", None, percent),
    ("wrong", "wrongthink", None, percent),
    ("dist-2", "distinct2", None, decimals),
    ("loss", "heldout_loss", None, decimals),
    ("promoted", "promoted", None, promoted),
)
"""Header, key of a row, part of it, and how it is shown."""


def _columns(row: dict[str, Any]) -> tuple:
    return (("", "arm", None, str), *COLUMNS[1:]) if "arm" in row else COLUMNS


def _stages(number: int, path: epath.Path) -> list[dict[str, Any]]:
    """Units done and in total of every stage; the seed model is only trained and evaluated."""
    took = read_json(path / "stages.json")
    units = read_json(path / "plan.json").get("units", {})
    stages = []
    for stage in UNIT_STAGES if number > 0 else ():
        done, total = len(list((path / stage).glob("unit-*.json"))), units.get(stage)
        if done or total or stage in took:
            stages.append({"generation": number, "stage": stage, "done": done, "total": total})
    for stage, proof in WHOLE_STAGES.items() if number > 0 else list(WHOLE_STAGES.items())[:2]:
        done = stage in took or (path / proof).exists()
        stages.append({"generation": number, "stage": stage, "done": int(done), "total": 1})
    return stages


def _row(number: int | None, path: epath.Path) -> dict[str, Any]:
    funnel, audit = read_json(path / "funnel.json"), read_json(path / "audit.json")
    review = read_json(path / "calibration.json").get("review") or {}
    quality = review | {k: v for k, v in (audit.get("oracle") or {}).items() if v is not None}
    row = {
        "generation": number,
        "promoted": read_json(path / "decision.json").get("promoted"),
        "simulated": funnel.get("made"),
        "accepted": funnel.get("passed"),
        "coverage": value_of(funnel.get("coverage")),
        "review": {name: value_of(quality.get(name)) for name in ("precision", "recall", "junk")},
        "unreviewed_mass": value_of(audit.get("unreviewed_mass")),
        "audit": {name: audit.get(name) for name in ("raw_tokens", "rejected_tokens")},
    }
    metrics = read_json(path / "evaluation.json").get("metrics", {})
    bounded = {name: metrics.get(name) for name in METRICS}
    bounded |= {"coverage": funnel.get("coverage")} | {name: quality.get(name) for name in ("precision", "recall")}
    return row | _metrics(metrics) | {"intervals": _intervals(bounded)}


def _intervals(measured: dict[str, Any]) -> dict[str, list[float]]:
    """The 95 % intervals of those that have one."""
    both = {n: [value_of(m.get("low")), value_of(m.get("high"))] for n, m in measured.items() if isinstance(m, dict)}
    return {name: pair for name, pair in both.items() if None not in pair}


def _metrics(found: dict[str, Any]) -> dict[str, Any]:
    """Values of the metrics in a row, and in which form the model was asked, with the means in every form."""
    values = {name: value_of(found.get(name)) for name in METRICS}
    forms = {name: m["forms"] for name, m in found.items() if isinstance(m, dict) and "forms" in m}
    return values | {
        "form": next((found[name].get("form") for name in forms), None),
        "forms": forms,
    }
