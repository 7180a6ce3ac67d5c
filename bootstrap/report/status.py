"""Where a run stands: who works on it and how far, the units committed, and one row of figures per generation.

Nothing here needs a model. Every file may be missing: a run that is under way, was killed or ended early has a status.
What was measured, and how it is shown, stands in the evaluation's own file.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from ratchet.bootstrap.report.files import RunFiles, generation_directories
from ratchet.bootstrap.report.goodput import goodput, until
from ratchet.bootstrap.report.numbers import count, measure, percent, value_of
from ratchet.bootstrap.report.outlook import outlook
from ratchet.train.files import numbers_in
from ratchet.train.holder import holder_of

UNIT_STAGES = ("propose", "simulate", "review", "targets", "wrongthink", "corrections")
"""Stages that commit units, in their order; a plan may name others, which come after these."""
WHOLE_STAGES = {"train": "evaluation.json", "evaluate": "evaluation.json", "promote": "decision.json"}
"""Stages that are done at once, and a file that proves it where `stages.json` does not say so."""
DESCRIPTION = ("title", "column", "unit", "less_is_better", "guard")
"""What `evaluation.json` says about a metric besides what was measured."""
AUDITED = ("raw_tokens", "raw_pieces", "rejected_tokens", "unaccounted_tokens", "untaught_tokens")
"""What an audit counts beside the tokens of each origin."""


def status(directory: epath.Path) -> dict[str, Any]:
    """What `ratchet status --json` prints: where the run stands, and a row of figures per generation and arm.

    `altered` holds a line about each file that is not what was committed, of which nothing is shown, and about each
    unit of a finished generation that is not the one that it ended with, `missing` one about each that is gone.
    `holder` is the process at work, None where there is none; `outlook` says which of the run's stages is next or under
    way, and how long the rest takes, `goodput` where its time went. `metrics` describes what the newest evaluation
    measured, by name and in the order of display.
    """
    directory = epath.Path(directory)
    files = RunFiles(directory)
    config, plan = files.object(directory / "config.json"), files.object(directory / "plan.json")
    generations = generation_directories(directory)
    for path in generations.values():
        files.check(path)
    rows = [_row(files, number, path) for number, path in generations.items()]
    arms = {arm: directory / arm for arm in plan.get("arms", ()) if (directory / arm / "evaluation.json").exists()}
    ended = files.object(directory / "ended.json").get("reason")
    last = generations.get(plan.get("generations", -1))
    holder = holder_of(directory)
    now = until(directory, holder, time.time())
    complete = last is not None and (last / "DONE.json").exists() and len(arms) == len(plan.get("arms", ()))
    return {
        "recipe": config.get("recipe"),
        "world": config.get("world"),
        "directory": str(directory),
        "altered": files.altered,
        "missing": files.missing,
        "ended": ended,
        "finished": complete or ended is not None,
        "holder": holder,
        "outlook": _outlook(files, directory, (holder or {}).get("doing"), now),
        "goodput": goodput(directory, now),
        "stages": [s for number, path in generations.items() for s in _stages(files, number, path)],
        "metrics": _described(files, [*arms.values(), *generations.values()]),
        "generations": rows,
        "baselines": {arm: _row(files, None, path) for arm, path in arms.items()},
    }


def _outlook(
    files: RunFiles, directory: epath.Path, doing: Mapping[str, Any] | None, now: float | None
) -> dict[str, Any] | None:
    """The number of the stage that is next or under way, its place and name, of how many, the least and the most
    seconds to the end of the run, and the stages that these leave out since nothing is known of them; None before there
    is a plan."""
    found = outlook(directory, files.object, now)
    if not found.stages:
        return None
    ahead, current = doing["left"] if doing and found.is_current(doing["title"]) else None, found.current
    low, high, missing = found.left(ahead=ahead)
    next_one = {"place": current.place, "name": current.name} if current else {"place": None, "name": None}
    number = min(found.number, len(found.stages))
    left = {"seconds_left": [low, high], "not_measured": list(missing)}
    return {"stage": number, "of": len(found.stages), **next_one, **left}


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


def described(metric: Mapping[str, Any]) -> str:
    """A metric's title, with its unit unless that is per cent, and whether less of it is better.

    Example: "mean loss of held-out answers, in nats; less is better".
    """
    unit = f", in {metric['unit']}" if metric["unit"] not in ("", "%") else ""
    return metric["title"] + unit + ("; less is better" if metric["less_is_better"] else "")


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
    ("fooled", "review", "attacked", count),
)
"""The columns before the metrics: head, key of a row, part of it, and how it is shown."""
EXPLAINED = {
    "made": "transcripts that the simulator wrote",
    "accepted": "of these, accepted",
    "cover": "sources read so far that have an accepted transcript, %",
    "prec": "of accepted transcripts, those that are right (where no oracle knows, of accepted probes), %",
    "recall": "of right transcripts, those that are accepted (where no oracle knows, of right probes), %",
    "junk": "junk that is accepted, %",
    "fooled": "wrong answers that tried to pass and did",
    "promoted": "whether the generation was kept",
}
"""What the columns of the table of generations mean that are not metrics."""


def _stages(files: RunFiles, number: int, path: epath.Path) -> list[dict[str, Any]]:
    """Units done and in total of every stage; the seed model is only trained and evaluated."""
    took = numbers_in(path / "stages.json")
    units = files.object(path / "plan.json").get("units", {})
    stages = []
    for stage in dict.fromkeys((*UNIT_STAGES, *units)):
        done = len(list((path / stage).glob("unit-*.json")))
        total = units.get(stage, done if stage in took or units else None)  # which are known once all is proposed
        if done or total or stage in took:
            stages.append({"generation": number, "stage": stage, "done": done, "total": total})
    for stage, proof in WHOLE_STAGES.items() if number > 0 else list(WHOLE_STAGES.items())[:2]:
        done = stage in took or (path / proof).exists()
        stages.append({"generation": number, "stage": stage, "done": int(done), "total": 1})
    return stages


def _described(files: RunFiles, places: Sequence[epath.Path]) -> dict[str, dict[str, Any]]:
    """How the metrics of the last of these directories that has any are shown, by name."""
    defaults = {"column": "", "unit": "", "less_is_better": False, "guard": False}
    for place in reversed(places):
        if metrics := files.object(place / "evaluation.json").get("metrics"):
            known = {name: {"title": name} | defaults | metric for name, metric in metrics.items()}
            return {name: {key: metric[key] for key in DESCRIPTION} for name, metric in known.items()}
    return {}


def _row(files: RunFiles, number: int | None, path: epath.Path) -> dict[str, Any]:
    """The figures of one generation or of another arm.

    By name of the figure, `intervals` are of 95 %, and `out_of` says how many transcripts, sources or answers it is of.
    The review's quality is that of probes until the audit, and so is left out of a generation that waits for one.
    """
    funnel, audit = files.object(path / "funnel.json"), files.object(path / "audit.json")
    review = files.object(path / "calibration.json").get("review") or {}
    known = {k: v for k, v in (audit.get("oracle") or {}).items() if v is not None}
    waits = bool(number) and not audit and not files.object(path.parent / "ended.json")
    quality = {} if waits else review | known
    metrics = files.object(path / "evaluation.json").get("metrics", {})
    attacks = quality.get("attacked") or {}
    bounded = {"coverage": funnel.get("coverage")}
    bounded |= {f"review.{name}": quality.get(name) for name in ("precision", "recall")}
    forms = {name: metric["forms"] for name, metric in metrics.items() if "forms" in metric}
    return {
        "generation": number,
        "promoted": files.object(path / "decision.json").get("promoted"),
        "simulated": funnel.get("made"),
        "accepted": funnel.get("passed"),
        "coverage": value_of(funnel.get("coverage")),
        "review": {n: value_of(quality.get(n)) for n in ("precision", "recall", "junk")} | {
            "attacked": attacks.get("passed") if attacks.get("tried") else None
        },
        "unreviewed_mass": value_of(audit.get("unreviewed_mass")),
        "audit": {name: audit.get(name) for name in AUDITED},
        "metrics": {name: value_of(metric) for name, metric in metrics.items()},
        "intervals": _intervals(bounded | metrics),
        "out_of": {"accepted": funnel.get("made"), "review.attacked": attacks.get("tried")}
        | _numbers(bounded | metrics),
        "form": next((metrics[name].get("form") for name in forms), None),
        "forms": forms,
    }


def _intervals(measured: Mapping[str, Any]) -> dict[str, list[float]]:
    """The 95 % intervals of those that have one."""
    there = {name: metric for name, metric in measured.items() if isinstance(metric, dict) and metric.get("n") != 0}
    both = {name: [value_of(metric.get("low")), value_of(metric.get("high"))] for name, metric in there.items()}
    return {name: pair for name, pair in both.items() if None not in pair}


def _numbers(measured: Mapping[str, Any]) -> dict[str, int]:
    """How many are counted in each of those that say so."""
    return {name: m["n"] for name, m in measured.items() if isinstance(m, dict) and "n" in m}
