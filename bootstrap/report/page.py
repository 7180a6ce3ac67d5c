"""The run as one self-contained page: `<run>/report/index.html`, for a phone or a desk, with no network and no scripts.

Everything from the run goes through jinja2 with autoescape on; the plots hold only numbers and words of ours. An
unfinished run gets a page with the sections that it has files for.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from ratchet.bootstrap.report import figures, plots, tables
from ratchet.bootstrap.report.figures import arm_colour
from ratchet.bootstrap.report.files import RunFiles, generation_directories, lines_in
from ratchet.bootstrap.report.goodput import said, spent
from ratchet.bootstrap.report.numbers import count, decimals, duration, figure, measure, percent, value_of
from ratchet.bootstrap.report.plots import Curve
from ratchet.bootstrap.report.status import described, status
from ratchet.bootstrap.report.tables import narrowing, wrong_thinkers
from ratchet.bootstrap.report.units import advisory, is_advisory
from ratchet.bootstrap.report.wrongthink import wrongthink
from ratchet.train.files import whole

LOSS_POINTS = 160
"""Points drawn of a loss curve, each the mean of its neighbours."""
TOKEN_ROWS = 12
"""Pieces shown of one position's distributions at most."""
TOKEN_SHARE = 5e-4
"""The least probability of a piece that is shown: smaller ones would read as 0 %."""
SHOWN_SETTINGS = ("recipe", "world", "seed", "generations", "base")
"""Settings at the top of the page, where they are set; all of them can be folded out."""


@dataclass(frozen=True)
class Files:
    """The files of one generation's directory, {} where there is none."""

    number: int
    calibration: dict[str, Any]
    certificate: dict[str, Any]
    funnel: dict[str, Any]
    audit: dict[str, Any]
    evaluation: dict[str, Any]
    decision: dict[str, Any]
    wrongthink: dict[str, Any]
    samples: dict[str, Any]

    @classmethod
    def read(cls, files: RunFiles, number: int, path: epath.Path) -> "Files":
        """Reads all of them."""
        names = [f.name for f in dataclasses.fields(cls) if f.name != "number"]
        return cls(number, **{name: files.object(path / f"{name}.json") for name in names})


def build(directory: epath.Path) -> epath.Path:
    """Writes the page from whatever the run directory holds, and returns its path."""
    directory = epath.Path(directory)
    page = environment().get_template("page.html.jinja").render(content(directory))
    target = directory / "report" / "index.html"
    with whole(target) as fresh:
        fresh.write_bytes(encoded(page))
    return target


def encoded(page: str) -> bytes:
    """A page in UTF-8. What a run's JSON holds and UTF-8 cannot, half a letter, is spelled out."""
    return page.encode(errors="backslashreplace")


def environment(*more: Path) -> Environment:
    """The templates of the report, and those in `more` directories, which come first; all of them escape what they
    show."""
    made = Environment(
        loader=FileSystemLoader([*more, Path(__file__).parent]),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    numbers = (percent, count, decimals, duration, figure, measure)
    shown = (*numbers, described, share, headed, narrowing, said, spent, advisory, is_advisory)
    made.filters |= {show.__name__: show for show in shown}
    return made


def share(part: Any, whole: Any = 1.0) -> str:
    """The width of a bar for `part` of `whole`, in CSS per cent."""
    a, b = value_of(part) or 0.0, value_of(whole) or 0.0
    return f"{min(100.0, max(0.0, 100 * a / b if b else 0.0)):.1f}%"


def headed(title: str) -> str:
    """A title as a heading: its first letter is a capital."""
    return title[:1].upper() + title[1:]


def content(directory: epath.Path) -> dict[str, Any]:
    """Everything that the template shows."""
    files = RunFiles(directory)
    config = files.object(directory / "config.json")
    generations = [Files.read(files, n, path) for n, path in generation_directories(directory).items()]
    state, settings = status(directory), _flat(config)
    thinkers = wrongthink({g.number: g.wrongthink for g in generations}, config.get("wrongthink") or {})
    arms = {arm: directory / arm for arm in files.object(directory / "plan.json").get("arms", ())}
    evaluated = _last(generations, lambda g: g.evaluation.get("metrics"))
    evaluations = [(f"generation {evaluated.number}", evaluated.evaluation)] if evaluated else []
    evaluations += [(arm, files.object(path / "evaluation.json")) for arm, path in arms.items()]
    took = (state["goodput"] or {}).get("stages", {})
    took_by = {f"gen {g.number}": took.get(f"gen-{g.number:03d}", {}) for g in generations}
    took_by |= {arm: took.get(arm, {}) for arm in arms}
    return {
        "config": settings,
        "shown_settings": {name: settings[name] for name in SHOWN_SETTINGS if settings.get(name)},
        "status": state,
        "all_metrics": state["metrics"],
        "judge": evaluated.evaluation.get("judge") if evaluated else None,
        "headline": figures.headline(state),
        "generations": generations,
        "tables": _tables(state, generations, took_by) | {"wrongthink": wrong_thinkers(thinkers)},
        "curves": figures.by_generation(state),
        "trends": figures.trends(state),
        "contexts": _named(evaluations, lambda e: figures.contexts(e, state["metrics"])),
        "answers": _named(evaluations, lambda e: figures.examples(e, state["metrics"])),
        "loss": _loss(lines_in(directory / "metrics.jsonl"), list(arms)),
        "funnel": _last(generations, lambda g: g.funnel),
        "calibrated": _last(generations, lambda g: g.calibration),
        "certified": _last(generations, lambda g: g.certificate.get("accepted")),
        "audited": _last(generations, lambda g: g.audit),
        "transcribed": _last(generations, lambda g: g.samples.get("transcripts")),
        "token": _token(_last(generations, lambda g: g.samples.get("token"))),
        "wrongthink": thinkers,
        "goodput": state["goodput"],
    }


def _tables(state: dict[str, Any], generations: Sequence[Files], took: dict[str, dict]) -> dict[str, Any]:
    """The tables with a column for each generation, by name; None where there is nothing to show."""
    funnels = {g.number: g.funnel for g in generations}
    oracles = {g.number: g.audit.get("oracle") or {} for g in generations}
    return {
        "generations": tables.generations(state),
        "forms": tables.forms(state, figures.first_and_incumbent(state)[1]),
        "measured": tables.measured(state),
        "funnel": tables.funnel(funnels),
        "passing": tables.passing(funnels),
        "audit": tables.audit({g.number: g.audit for g in generations}),
        "graded": tables.graded(oracles),
        "criteria": tables.criteria(oracles),
        "time": tables.time(took),
    }


def _last(generations: Sequence[Files], has: Callable[[Files], Any]) -> Files | None:
    return next((g for g in reversed(generations) if has(g)), None)


def _named(evaluations: Sequence[tuple[str, dict]], show: Callable[[dict], Any]) -> list[tuple[str, Any]]:
    """(whose evaluation, what it shows), where it shows anything."""
    shown = [(name, show(evaluation)) for name, evaluation in evaluations]
    return [(name, found) for name, found in shown if found]


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Settings by dotted name, as text."""
    found: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value if isinstance(value, str) else json.dumps(value)
    return found


def _loss(lines: Iterable[dict[str, Any]], arms: Sequence[str]) -> dict[str, Any] | None:
    """Loss curves of the trained models; later generations are drawn stronger, side runs are left out."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for line in lines:
        step, value = value_of(line.get("step")), value_of(line.get("loss"))
        known = line.get("arm") in ("seed", "loop", *arms) and isinstance(line.get("generation"), int)
        if known and step is not None and value is not None:
            found.setdefault((line["arm"], line["generation"]), []).append((step, value))
    if not found:
        return None
    colours = {"seed": 1, "loop": 0} | {arm: arm_colour(number) for number, arm in enumerate(arms)}
    newest = max([1, *(generation for arm, generation in found if arm == "loop")])
    curves, legend = [], []
    for (arm, generation), points in sorted(found.items(), key=lambda item: (list(colours).index(item[0][0]), item[0])):
        x, y = _thinned(points)
        strength = min(1.0, 0.35 + 0.65 * generation / newest) if arm == "loop" else 1.0
        curves.append(Curve(x, y, colour=colours[arm], dashed=arm in arms, strength=strength))
        legend.append((f"generation {generation}" if arm == "loop" else arm, colours[arm] + 1, arm in arms, strength))
    return {"svg": plots.loss("loss", curves), "legend": legend}


def _thinned(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most LOSS_POINTS points, each a mean over consecutive steps; a step logged again (resume) counts once."""
    points = sorted(dict(points).items())
    size = -(-len(points) // LOSS_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return tuple([sum(p[k] for p in group) / len(group) for group in groups] for k in (0, 1))


def _added_up(pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Probabilities by how their tokens are spelled; parts of a letter are all spelled alike."""
    found: dict[str, float] = {}
    for piece, probability in pairs:
        found[piece] = found.get(piece, 0.0) + probability
    return found


def _token(generation: Files | None) -> dict[str, Any] | None:
    """One position's distributions: rows (piece, teacher's probability, reviewed probability, emitted)."""
    if generation is None:
        return None
    token = generation.samples["token"]
    teacher, reviewed = (_added_up(token.get(name) or ()) for name in ("teacher", "reviewed"))
    pieces = dict.fromkeys([*teacher, *reviewed])
    rows = [
        (piece, teacher.get(piece, 0.0), reviewed.get(piece, 0.0), piece == token.get("chosen")) for piece in pieces
    ]
    rows = sorted((row for row in rows if max(row[1], row[2]) >= TOKEN_SHARE), key=lambda row: -max(row[1], row[2]))
    return {
        "generation": generation.number,
        "context": token.get("context"),
        "rows": rows[:TOKEN_ROWS],
        "branches": token.get("branches") or [],
    }
