"""What people say of a review: `label` and `calibrate`."""

import sys
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.panel import Panel
from rich.text import Text

from ratchet.bootstrap import certificate, config_files, lineage, loop
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.certificate import OVERALL, Label
from ratchet.bootstrap.report.terminal import Fitted, shown
from ratchet.bootstrap.report.transcript import called
from ratchet.bootstrap.review import Reviewer, with_thresholds
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.transcript import Review, Transcript
from ratchet.launch.console import Terminal
from ratchet.launch.lines import UserError
from ratchet.launch.options import Directory, Json, described, located, parse
from ratchet.launch.output import make_console, print_json, quiet
from ratchet.train.buckets import place_of
from ratchet.train.files import object_in, typed, write_json

KEYS = "y right, n wrong, s skip, u back, q quit"
"""What a person may say of an answer, by key."""
WRITTEN = "certificate.json"
"""The file of a generation that holds its certificate."""
Reviewed = described(int | None, "a generation with a review", metavar="N", help_behavior_hint="(default: newest)")


@dataclass(frozen=True)
class Calibrate:
    """Compares a generation's review with labels of people, and certifies its precision.

    Without --labels, shows the certificate that an earlier call has written, if it still holds for this generation's
    judge and rubric.
    """

    directory: Directory
    labels: str = ""
    """A JSONL file, such as `ratchet label` writes: {"transcript": ID, "criterion": "overall", "label": true}."""
    generation: Reviewed = None
    json: Json = False


@dataclass(frozen=True)
class Labelled:
    """Shows answers of a generation, accepted and rejected in turn, and asks of each whether it is right.

    One key each. Every answer is written at once; called again, it goes on with those that have no label yet.
    """

    directory: Directory
    generation: Reviewed = None
    criterion: str = OVERALL
    """What is asked about: the whole answer, or a criterion of the rubric by its id."""
    labels: str = ""
    """The JSONL file that labels are added to; default labels.jsonl in the run's directory."""
    accepted: bool = False
    """Only accepted answers, which are those that a certificate counts."""
    json: Json = False


def calibrate(words: list[str]) -> int:
    asked = parse("calibrate", Calibrate, words)
    quiet()
    run, number = _reviewed_generation(asked.directory, asked.generation)
    reviewer = _reviewer(run, number)
    if not asked.labels:
        return _show_certificate(run, number, reviewer, asked.json)
    path = place_of(asked.labels)
    if not path.exists():
        made = f"ratchet label {typed(asked.directory)}{_of(asked.generation)} --labels {typed(path)}"
        raise UserError(f"calibrate: {path} is missing; make it with `{made}`")
    if path.is_dir():
        raise UserError(f"calibrate: {path} is a directory; give the file that `ratchet label` wrote")
    answers, labels = _answers(run, number), certificate.read_labels(path)
    known, ids = [label for label in labels if label.transcript in answers], {c.id for c in reviewer.criteria}
    if strange := {label.criterion for label in known} - ids - {OVERALL}:
        raise UserError(f"calibrate: {path} labels {min(strange)}; the rubric has {', '.join(sorted(ids))}")
    if not known:
        raise UserError(f"calibrate: {path} labels no answer of generation {number}; give another --generation")
    found: dict[str, Any] = {"generation": number, "labels": len(known), "elsewhere": len(labels) - len(known)}
    found["criteria"] = certificate.compared(
        {i: r for i, (_, r) in answers.items()}, known, {i: t.task_id for i, (t, _) in answers.items()}
    )
    if OVERALL in found["criteria"] and not run.config.controls.random_share:
        found["certificate"] = certificate.certificate(found["criteria"][OVERALL], reviewer, number)
        write_json(run.generation(number) / WRITTEN, found["certificate"])
    if asked.json:
        print_json(found)
        return 0
    console = make_console()
    console.print(_table(found))
    by_lot = "lots accept its answers (controls.random_share), and what they accept says nothing of the review"
    why_none = by_lot if run.config.controls.random_share else f"none of the labels is {OVERALL}"
    made = found.get("certificate")
    console.print(_line(made) if made else f"no certificate: {why_none}", soft_wrap=True, highlight=False)
    return 0


def label(words: list[str]) -> int:
    asked = parse("label", Labelled, words)
    quiet()
    run, number = _reviewed_generation(asked.directory, asked.generation)
    path = place_of(asked.labels) if asked.labels else run.directory / certificate.LABELS
    questions = {OVERALL: "Is this answer right?"} | {c.id: c.question for c in run.rubric}
    if asked.criterion not in questions:
        raise UserError(f"label: there is no criterion {asked.criterion}; there are {', '.join(questions)}")
    there = certificate.read_labels(path) if path.exists() else []
    done = {one.transcript for one in there if one.criterion == asked.criterion}
    answers = {i: pair for i, pair in _answers(run, number).items() if not pair[1].repeats}
    order = certificate.in_turn({i: r.accepted for i, (_, r) in answers.items()}, number, asked.accepted)
    left = [answers[i][0] for i in order if i not in done]
    texts, console = {p.id: p.text for p in run.passages(number)}, make_console(aside=asked.json)
    at, added = 0, 0
    while at < len(left):
        _show(console, left[at], texts, questions[asked.criterion], f"{at + 1} of {len(left)}")
        key = _key()
        if key in ("y", "n"):
            certificate.add_label(path, Label(left[at].id, asked.criterion, key == "y"))
            added += 1
        elif key in ("q", ""):
            break
        at = max(0, at - 1) if key == "u" else at + (key in ("y", "n", "s"))
    if asked.json:
        print_json({"added": added, "labels": str(path)})
        return 0
    said = f"{added} labels added to {path}"
    if added or there:
        compared = f"ratchet calibrate {typed(asked.directory)}{_of(asked.generation)} --labels {typed(path)}"
        said += f"; `{compared}` compares the review with them"
    console.print(said, soft_wrap=True, highlight=False, markup=False)
    return 0


def _of(number: int | None) -> str:
    """The option that names a generation where one was given."""
    return "" if number is None else f" --generation {number}"


def _reviewed_generation(directory: str, number: int | None) -> tuple[Run, int]:
    """A run, which is only read, and one of its generations that has been reviewed."""
    place = located(directory)
    run = runs.prepare(place, config_files.saved(place), Terminal(make_console(aside=True)), writes=False)
    there = [n for n in range(1, run.config.generations + 1) if (run.generation(n) / "review").exists()]
    if not there:
        raise UserError(f"{directory} has reviewed nothing yet; see `ratchet status {typed(directory)}`")
    if number is not None and number not in there:
        raise UserError(f"{directory} has reviews of generations {', '.join(map(str, there))}; set --generation to one")
    return run, there[-1] if number is None else number


def _answers(run: Run, number: int) -> dict[str, tuple[Transcript, Review]]:
    """The answers of a generation with their reviews, by id; not its corrections."""
    transcripts, reviews = lineage.reviewed(run.generation(number))
    return {i: (t, reviews[i]) for i, t in transcripts.items() if t.source == "answer" and i in reviews}


def _reviewer(run: Run, number: int) -> Reviewer:
    """The reviewer of a generation: the incumbent's weights, at the thresholds that stood then."""
    past = loop.left_by(run, number - 1) if number > 1 else None
    calibrated = run.commits.read(run.generation(number) / "calibration.json")
    return with_thresholds(run.reviewer(run.weights(past.incumbent if past else 0)), calibrated)


def _show(console: Console, t: Transcript, texts: dict[str, str], question: str, place: str) -> None:
    console.rule(place)
    for passage in t.passages:
        console.print(Panel(shown(texts.get(passage, "")), title="source", title_align="left"))
    for line in called(t.messages):
        console.print(Panel(shown(line), title="called", title_align="left"))
    asked = next((m["content"] for m in reversed(t.messages) if m["role"] == "user"), "")
    console.print(shown(f"Question: {asked}"), shown(f"Answer: {t.answer}", style="bold"), sep="\n")
    console.print(Text(f"{question}  ({KEYS})", style="cyan"))


def _key() -> str:
    """The next key of a terminal, or letter of a pipe; "" at its end."""
    if sys.stdin.isatty():
        try:
            return click.getchar().lower()
        except EOFError:
            return ""
    return next((letter for letter in iter(lambda: sys.stdin.read(1), "") if letter.strip()), "").lower()


def _show_certificate(run: Run, number: int, reviewer: Reviewer, as_json: bool) -> int:
    """Prints the certificate of this generation, or the newest of the run that holds for its judge and rubric too."""
    numbers = [number, *range(run.config.generations, 0, -1)]
    paths = [run.generation(n) / WRITTEN for n in numbers if (run.generation(n) / WRITTEN).exists()]
    if not paths:
        raise UserError(
            f"calibrate: {run.directory} has no certificate; label some answers with "
            f"`ratchet label {typed(run.directory)}` and give --labels {typed(run.directory / certificate.LABELS)}"
        )
    found = {path: object_in(path) for path in paths}
    path = next((path for path, c in found.items() if certificate.holds_for(c, reviewer)), paths[0])
    certificate.check(made := found[path], reviewer, f"calibrate: {path}")
    print_json({"certificate": made}) if as_json else make_console().print(_line(made), soft_wrap=True, highlight=False)
    return 0


def _table(found: dict[str, Any]) -> Fitted:
    measured = ("labels", "passed", "κ", "TPR", "TNR", "AUC", "right, corrected", "precision", "at least")
    rows = []
    for name, f in found["criteria"].items():
        rate, auc = f["rate"], f["auc"] and f["auc"]["value"]
        corrected = f"{rate['value']:.3f} ({rate['low']:.3f} – {rate['high']:.3f})" if rate else "–"
        figures = map(_figure, (f["passed"], f["kappa"], f["tpr"], f["tnr"], auc))
        rows.append(
            [name, str(f["labels"]), *figures, corrected, _figure(f["precision"]), _figure(f["precision_floor"])]
        )
    title = f"generation {found['generation']}: the review against {found['labels']} labels"
    return Fitted(["criterion", *measured], rows, [title])


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(made: dict[str, Any]) -> str:
    """A certificate in a line."""
    of = f"{made['wrong']} of {made['accepted']} accepted answers that were labelled are wrong"
    what = f"precision ≥ {certificate.PRECISION:.0%} at one-sided {certificate.CONFIDENCE:.0%}"
    bound = f"judge {made['judge']}, rubric {made['rubric']}, generation {made['generation']}"
    if made["holds"]:
        return f"certified: {what} ({of}: at least {made['precision_floor']:.3f}); {bound}"
    return f"not certified: {what} takes {made['needed']} with {made['wrong']} wrong ones, and {of}; {bound}"
