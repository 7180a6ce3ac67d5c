"""What shows a few tasks before anything trains: `preview`."""

import dataclasses
import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from etils import epath
from flax import nnx
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from ratchet.bootstrap import config_files, previews
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config, ConfigError, flat
from ratchet.bootstrap.given import base_weights
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.report.transcript import called, shortened
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.transcript import Verdict
from ratchet.launch import api
from ratchet.launch.lines import UserError, say
from ratchet.launch.options import (
    File,
    Json,
    Settings,
    described,
    first_word,
    lacks_documents,
    lacks_place,
    located,
    parse_run,
)
from ratchet.launch.output import make_console, print_json, quiet


@dataclass(frozen=True)
class Preview:
    """Asks a few tasks of a run that would begin so, or of one that there is, and shows every answer and verdict."""

    config: Settings
    tasks: described(int, "how many tasks to show, at least 1", metavar="N") = 8
    file: File = ""
    json: Json = False


def preview(words: list[str]) -> int:
    named = first_word(Preview, words)
    quiet()
    directory = located(named, may_be_file=True)
    if named and (directory / config_files.KEPT).exists():
        kept = ["--config", str(directory / "config.yaml")]
        asked, own = (parse_run("preview", Preview, [*kept, *more]) for more in (_without(words, named), []))
        own, given = flat(own.config), flat(asked.config)
        if other := [name for name in own if own[name] != given[name]]:
            raise UserError(f"preview: {named} has settings of its own; leave out --{other[0].replace('_', '-')}")
        _check(asked)
        model = api.load(named)
        return _show(model.run, model.weights, asked, model.number + 1)
    asked = parse_run("preview", Preview, words)
    _check(asked)
    config = _of_one_generation(asked.config)
    given = runs.check(config)
    with tempfile.TemporaryDirectory() as place:
        config_files.save(epath.Path(place), config)
        run = runs.prepare(epath.Path(place), config, Silent(), given=given)
        return _show(run, base_weights(config, run.mesh, say), asked, 1)


def _check(asked: Preview) -> None:
    if asked.tasks < 1:
        raise UserError(f"preview: --tasks is {asked.tasks}; it must be at least 1")
    if reason := lacks_documents("preview", asked.config) or lacks_place(asked.config):
        raise UserError(reason)


def _without(words: list[str], word: str) -> list[str]:
    at = words.index(word)
    return [*words[:at], *words[at + 1 :]]


def _of_one_generation(config: Config) -> Config:
    """The settings of a run that reads one slice. Raises UserError for a model from scratch, which cannot answer."""
    if not config.base:
        raise UserError("preview: a model from scratch has to be trained first; give --base, or the directory of a run")
    try:
        return runs.with_base(replace(config, generations=1))
    except ConfigError as error:
        raise UserError(f"preview: {error}") from error


def _show(run: Run, weights: nnx.State, asked: Preview, number: int) -> int:
    """Shows what would be asked in generation `number`, which a model with these weights writes."""
    found = previews.preview(run, weights, asked.tasks, number)
    print_json(_as_json(found)) if asked.json else _print(found, run, make_console())
    return 0


def _as_json(found: previews.Preview) -> dict:
    tasks = [
        {
            "id": shown.task.id,
            "documents": list(shown.task.document_ids),
            "question": shown.task.question,
            "askings": [messages[-1]["content"] for messages in shown.task.askings],
            "answers": [
                {"text": t.text, "messages": list(t.messages), "accepted": r.accepted,
                 "verdicts": {n: vars(v) for n, v in r.verdicts.items()}}
                for t, r in zip(shown.transcripts, shown.reviews, strict=True)
            ],
        }
        for shown in found.tasks
    ]
    return {"refused": [dataclasses.asdict(p) for p in found.refused], "tasks": tasks}


def _print(found: previews.Preview, run: Run, console: Console) -> None:
    def say(text: str, indent: int = 0) -> None:  # on a terminal, what has no room goes on below its own beginning
        if console.is_terminal:
            console.print(Padding.indent(Text(text), indent))
        else:
            console.print(Text(" " * indent + text), soft_wrap=True)

    for proposal in found.refused:
        say(f"refused: {proposal.document} ({proposal.kind}): {proposal.question or '-'}")
        say(proposal.reason, 4)
    decides = {c.id for c in run.rubric if c.required}
    floors = {c.id: c.threshold for c in run.rubric}
    for number, shown in enumerate(found.tasks, 1):
        texts = {document.id: document.text for document in shown.documents}
        say(f"\n{number}. {shown.task.question}")
        for i in shown.task.document_ids:
            say(f"{i}: {shortened(texts[i])}" if i in texts else i, 2)
        for t, review in zip(shown.transcripts, shown.reviews, strict=True):
            say(f"{'accepted' if review.accepted else 'rejected'}: {t.text}", 2)
            for line in called(t.messages):
                say(line, 6)
            for line in _verdicts(review.verdicts, decides, floors):
                say(line, 6)
    reviews = [r for shown in found.tasks for r in shown.reviews]
    tasks = "1 task" if len(found.tasks) == 1 else f"{len(found.tasks)} tasks"
    say(f"\n{tasks}; {sum(r.accepted for r in reviews)} of {len(reviews)} answers accepted")


def _verdicts(verdicts: Mapping[str, Verdict], decides: Set[str], floors: Mapping[str, float]) -> list[str]:
    """Lines about the verdicts of an answer: one names all of those that `decides` holds which pass for certain, and
    each other has its own, with the floor that its score is measured by where that is no plain yes or no."""
    certain = [name for name, v in verdicts.items() if v.passed and v.score == 1.0 and name in decides]
    lines = [f"pass: {', '.join(certain)}"] if certain else []
    for name, v in verdicts.items():
        if name not in certain:
            said = "pass" if v.passed else f"fail ({v.reason})"
            said += f", passes from {floors[name]:.3g}" if not v.score.is_integer() else ""
            lines.append(f"{name:<12}{v.score:6.2f}  {said}{'' if name in decides else ', advisory'}")
    return lines
