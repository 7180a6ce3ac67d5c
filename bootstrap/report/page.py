"""The run as one self-contained page: `<run>/report/index.html`, for a phone or a desk, with no network and no scripts.

Everything from the run goes through jinja2 with autoescape on; the plots hold only numbers and words of ours. An
unfinished run gets a page with the sections that it has files for.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from markupsafe import Markup

from ratchet.bootstrap.report import plots
from ratchet.bootstrap.report.plots import Curve
from ratchet.bootstrap.report.status import (
    COLUMNS,
    cells,
    count,
    decimals,
    duration,
    figure,
    generation_directories,
    percent,
    promoted,
    read_json,
    status,
    value_of,
)
from ratchet.train.records import whole

LOSS_POINTS = 160
"""Points drawn of a loss curve, each the mean of its neighbours."""
SHOWN_SETTINGS = (
    "seed",
    "generations",
    "targets.kind",
    "train.start",
    "train.mixture",
    "model.vocab_size",
    "world.slice",
    "simulate.samples",
    "model.width",
    "model.layers",
    "model.heads",
    "train.steps",
    "train.batch",
)
"""Settings in the opening paragraph's box; the rest can be folded out."""
HEADLINE = (
    ("pass_rate", "pass rate on a fresh slice"),
    ("harmful", "harmful"),
    ("knowledge", "knowledge"),
    ("recovery", "recovery"),
)
"""Metrics in large type at the top."""
MEASURED = ("pass_at_k", "entropy", "wrong_thought_logprob")
"""Metrics that stand in a table of their own."""
SOURCES = {
    "inverted": "of the inverted lesson",
    "incumbent": "of the incumbent itself",
    "random": "of the incumbent moved at random",
    "spoiled": "spoiled by rule",
}
"""What the page calls the sources of wrong thoughts."""


@dataclass(frozen=True)
class Generation:
    """The files of one generation's directory, {} where there is none."""

    number: int
    calibration: dict[str, Any]
    funnel: dict[str, Any]
    audit: dict[str, Any]
    evaluation: dict[str, Any]
    decision: dict[str, Any]
    wrongthink: dict[str, Any]
    stages: dict[str, Any]
    samples: dict[str, Any]

    @classmethod
    def read(cls, number: int, path: epath.Path) -> "Generation":
        names = [f.name for f in dataclasses.fields(cls) if f.name != "number"]
        return cls(number, **{name: read_json(path / f"{name}.json") for name in names})


def build(directory: epath.Path) -> epath.Path:
    """Writes the page from whatever the run directory holds, and returns its path."""
    directory = epath.Path(directory)
    page = _environment().get_template("page.html.jinja").render(_content(directory))
    target = directory / "report" / "index.html"
    with whole(target) as fresh:
        fresh.write_text(page)
    return target


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": percent,
        "count": count,
        "decimals": decimals,
        "duration": duration,
        "figure": figure,
        "promoted": promoted,
        "share": share,
    }
    return environment


def share(part: Any, whole: Any = 1.0) -> str:
    """The width of a bar for `part` of `whole`, in CSS per cent."""
    a, b = value_of(part) or 0.0, value_of(whole) or 0.0
    return f"{min(100.0, max(0.0, 100 * a / b if b else 0.0)):.1f}%"


def _content(directory: epath.Path) -> dict[str, Any]:
    """Everything that the template shows."""
    config = read_json(directory / "config.json")
    generations = [Generation.read(n, path) for n, path in generation_directories(directory).items()]
    imitation = {name: read_json(directory / "imitation" / f"{name}.json") for name in ("evaluation", "stages")}
    state = status(directory)
    metrics = _metrics_lines(directory / "metrics.jsonl")
    flat = _flat(config)
    return {
        "config": flat,
        "shown_settings": {name: flat[name] for name in SHOWN_SETTINGS if name in flat},
        "status": state,
        "header": [name for name, *_ in COLUMNS],
        "rows": [(row, cells(row)) for row in state["generations"]],
        "arms": [(arm, cells({"arm": arm} | row)) for arm, row in state["baselines"].items()],
        "headline": _headline(state),
        "generations": generations,
        "curves": _curves(state, generations),
        "forms": _forms(state),
        "measured": _measured(generations, imitation["evaluation"]),
        "judged": _judged(generations),
        "loss": _loss(metrics),
        "funnel": _last(generations, lambda g: g.funnel),
        "calibrated": _last(generations, lambda g: g.calibration),
        "audited": _last(generations, lambda g: g.audit),
        "evaluated": _last(generations, lambda g: g.evaluation),
        "transcribed": _last(generations, lambda g: g.samples.get("transcripts")),
        "token": _token(_last(generations, lambda g: g.samples.get("token"))),
        "wrongthink": _wrongthink(_last(generations, lambda g: g.wrongthink)),
        "imitation": imitation,
        "time": _time(generations, imitation["stages"]),
    }


def _last(generations: list[Generation], has: Callable[[Generation], Any]) -> Generation | None:
    return next((g for g in reversed(generations) if has(g)), None)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted name, as text."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def _metrics_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; one torn by a kill is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            lines.append(value)
    return lines


def _evaluated(state: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The rows of the first model that was evaluated and of the incumbent."""
    evaluated = [r for r in state["generations"] if any(r[name] is not None for name, _ in HEADLINE)]
    kept = [r for r in evaluated if r["promoted"] is not False]
    return (evaluated[0], (kept or evaluated)[-1]) if evaluated else (None, None)


def _imitation_label(row: dict[str, Any], metric: str) -> str:
    """The imitation arm's name, with the form in which it was asked for a metric where that is not the chat."""
    form = row.get("form") if metric in row.get("forms", {}) else None
    return "imitation" if form in (None, "chat") else f"imitation, in {form} form"


def _forms(state: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The incumbent and the imitation arm as (name, means by metric and form), where they were asked differently."""
    _, row = _evaluated(state)
    imitation = state["baselines"].get("imitation")
    if not row or not imitation or row["form"] == imitation["form"]:
        return []
    return [(f"generation {row['generation']}", row["forms"]), ("imitation", imitation["forms"])]


def _headline(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Metrics of the incumbent: its generation, value and interval, gen-000's value and the imitation arm's."""
    first, row = _evaluated(state)
    if row is None:
        return []
    imitation = state["baselines"].get("imitation", {})
    return [
        {
            "label": label,
            "generation": row["generation"],
            "value": row[name],
            "interval": row["intervals"].get(name),
            "seed": first[name] if first is not row else None,
            "imitation": imitation.get(name),
            "arm": _imitation_label(imitation, name),
        }
        for name, label in HEADLINE
    ]


def _curve(state: dict[str, Any], name: str, colour: int, part: str | None = None) -> Curve:
    """A figure of the rows by generation."""
    rows = [(r, r[name] if part is None else r[name][part]) for r in state["generations"]]
    rows = [(r, value) for r, value in rows if value is not None]
    return Curve(
        x=[r["generation"] for r, _ in rows],
        y=[value for _, value in rows],
        bounds=[r["intervals"].get(part or name) for r, _ in rows],
        colour=colour,
        hollow=[r["generation"] for r, _ in rows if r["promoted"] is False],
    )


def _curves(state: dict[str, Any], generations: list[Generation]) -> list[dict[str, Any]]:
    """Small plots: title, what the colours mean as (label, colour counted from 1, dashed), and the SVG."""
    imitation = state["baselines"].get("imitation", {})
    wanted = (
        ("Pass rate on the fresh slice", (("pass rate", "pass_rate", None),), None),
        ("Harmful answers", (("mean", "harmful", None), ("worst context", "harmful_worst", None)), "harmful"),
        ("Knowledge", (("knowledge", "knowledge", None),), "knowledge"),
        ("Recovery after a wrong start", (("recovery", "recovery", None),), "recovery"),
        ("The reviewer", (("precision", "review", "precision"), ("recall", "review", "recall")), None),
    )
    shown = []
    for title, series, baseline in wanted:
        curves = [_curve(state, name, colour, part) for colour, (_, name, part) in enumerate(series)]
        if not any(curve.x for curve in curves):
            continue
        level = imitation.get(baseline) if baseline else None
        legend = [(label, colour, False) for colour, (label, *_) in enumerate(series, 1)]
        legend += [(_imitation_label(imitation, baseline), 8, True)] if level is not None else []
        svg = plots.by_generation(title, curves, [(level, 7)] if level is not None else [])
        shown.append({"title": title, "legend": legend if len(legend) > 1 else [], "svg": svg})
    return shown + _acceptance(generations)


def _acceptance(generations: list[Generation]) -> list[dict[str, Any]]:
    """The plot of transcripts that pass each criterion, one colour a criterion."""
    passed = {g.number: g.funnel.get("accepted_by_criterion") or {} for g in generations}
    names = list(dict.fromkeys(name for found in passed.values() for name in found))
    curves = []
    for index, name in enumerate(names):
        points = [
            (n, value_of(found.get(name))) for n, found in passed.items() if value_of(found.get(name)) is not None
        ]
        colour, dashed = index % len(plots.SERIES), index >= len(plots.SERIES)
        curves.append(Curve([n for n, _ in points], [v for _, v in points], colour=colour, dashed=dashed))
    if not curves:
        return []
    legend = [(name, c.colour + 1, c.dashed) for name, c in zip(names, curves, strict=True)]
    svg = plots.by_generation("acceptance", curves)
    return [{"title": "Passing, by criterion", "legend": legend, "svg": svg}]


def _loss(metrics: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Loss curves of the trained models; later generations are drawn stronger, side runs are left out."""
    arms: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for line in metrics:
        step, value = value_of(line.get("step")), value_of(line.get("loss"))
        if step is not None and value is not None and line.get("arm") in ("seed", "loop", "imitation"):
            arms.setdefault((line["arm"], int(line.get("generation") or 0)), []).append((step, value))
    if not arms:
        return None
    newest = max([1, *(generation for arm, generation in arms if arm == "loop")])
    curves, legend = [], []
    for (arm, generation), points in sorted(arms.items(), key=lambda item: (item[0][0] != "seed", item[0])):
        x, y = _thinned(points)
        colour = {"seed": 1, "loop": 0, "imitation": 7}[arm]
        strength = 0.35 + 0.65 * generation / newest if arm == "loop" else 1.0
        curves.append(Curve(x, y, colour=colour, dashed=arm == "imitation", strength=min(strength, 1.0)))
        legend.append((f"generation {generation}" if arm == "loop" else arm, colour + 1, arm == "imitation", strength))
    return {"svg": plots.loss("loss", curves), "legend": legend}


def _thinned(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most LOSS_POINTS points, each a mean over consecutive steps; a step logged again (resume) counts once."""
    points = sorted(dict(points).items())
    size = -(-len(points) // LOSS_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple([sum(p[k] for p in group) / len(group) for group in groups] for k in (0, 1))


def _measured(generations: list[Generation], imitation: dict[str, Any]) -> dict[str, Any] | None:
    """Rows (name, value by metric) of MEASURED, and the first, highest and last log-probability of a wrong thought."""
    rows = [(str(g.number), g.evaluation) for g in generations] + [("imitation", imitation)]
    rows = [(name, {m: value_of((e.get("metrics") or {}).get(m)) for m in MEASURED}) for name, e in rows]
    rows = [(name, values) for name, values in rows if any(v is not None for v in values.values())]
    likely = [(name, values[MEASURED[-1]]) for name, values in rows if name != "imitation"]
    likely = [(name, value) for name, value in likely if value is not None]
    ends = (likely[0], max(likely, key=lambda pair: pair[1]), likely[-1]) if len(likely) > 1 else None
    return {"rows": rows, "wrong_thought": ends} if rows else None


def _judged(generations: list[Generation]) -> dict[str, Any] | None:
    """The model criteria against the oracle: their names, and (generation, agreement by name)."""
    rows = [(g.number, (g.audit.get("oracle") or {}).get("criteria") or {}) for g in generations]
    names = list(dict.fromkeys(name for _, found in rows for name in found))
    return {"names": names, "rows": [row for row in rows if row[1]]} if names else None


def _token(generation: Generation | None) -> dict[str, Any] | None:
    """One position's distributions: rows (piece, teacher's probability, reviewed probability, emitted)."""
    if generation is None:
        return None
    token = generation.samples["token"]
    teacher, reviewed = (dict(map(tuple, token.get(name) or ())) for name in ("teacher", "reviewed"))
    pieces = dict.fromkeys([*teacher, *reviewed])
    rows = [
        (piece, teacher.get(piece, 0.0), reviewed.get(piece, 0.0), piece == token.get("chosen")) for piece in pieces
    ]
    rows.sort(key=lambda row: -max(row[1], row[2]))
    return {
        "generation": generation.number,
        "context": token.get("context"),
        "rows": rows[:12],
        "branches": token.get("branches") or [],
    }


def _wrongthink(generation: Generation | None) -> dict[str, Any] | None:
    """The last corrections: their sources, how λ was chosen, and examples."""
    if generation is None:
        return None
    found = generation.wrongthink
    rows = sorted(
        (row for row in found.get("sweep") or () if value_of(row.get("lambda")) is not None),
        key=lambda row: row["lambda"],
    )
    chosen = value_of(found.get("lambda"))
    wrong_at = {row["lambda"]: value_of(row.get("wrong")) for row in rows}
    wrong_share = (wrong_at.get(chosen), wrong_at.get(0))
    svg: Markup | None = None
    if rows:
        formed, wrong = (_sweep_curve(rows, name, colour) for name, colour in (("formed", 0), ("wrong", 1)))
        svg = plots.sweep("sweep", formed, wrong, chosen)
    return {
        "generation": generation.number,
        "chosen": chosen,
        "rows": rows,
        "svg": svg,
        "skipped": found.get("skipped"),
        "wrong_share": wrong_share if None not in wrong_share else None,
        "corrections": {s: n for s, n in (found.get("corrections") or {}).items() if n["made"]},
        "source_names": SOURCES,
        "examples": found.get("examples") or [],
    }


def _sweep_curve(rows: Iterable[dict[str, Any]], name: str, colour: int) -> Curve:
    points = [(row["lambda"], value_of(row.get(name))) for row in rows if value_of(row.get(name)) is not None]
    return Curve([x for x, _ in points], [y for _, y in points], colour=colour)


def _time(generations: list[Generation], imitation: dict[str, Any]) -> dict[str, Any]:
    """Seconds by stage of every generation and the imitation arm: the stages in order, and (name, seconds, total)."""
    rows = [(f"gen {g.number}", g.stages) for g in generations] + [("imitation", imitation)]
    rows = [(name, {s: v for s, v in took.items() if value_of(v) is not None}) for name, took in rows]
    rows = [(name, took, sum(took.values())) for name, took in rows if took]
    order = dict.fromkeys(("simulate", "review", "targets", "wrongthink", "train", "evaluate", "promote"))
    stages = [s for s in order | dict.fromkeys(s for _, took, _ in rows for s in took) if any(s in r[1] for r in rows)]
    return {
        "stages": stages,
        "rows": rows,
        "longest": max((r[2] for r in rows), default=0),
        "total": sum(r[2] for r in rows),
    }
