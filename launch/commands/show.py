"""What shows what a run made: `show` and `report`."""

from dataclasses import dataclass

import tyro

from ratchet.bootstrap import config_files, lineage
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.report import page, transcript
from ratchet.launch.console import Terminal
from ratchet.launch.lines import UserError
from ratchet.launch.options import Directory, Json, described, located, parse
from ratchet.launch.output import make_console, print_json, quiet
from ratchet.train.commits import Commits

Transcript = described(
    tyro.conf.Positional[str], "a transcript's id or its beginning", metavar="ID", help_behavior_hint="(required)"
)


@dataclass(frozen=True)
class Show:
    """Shows one transcript with its documents, verdicts, branches and targets, and where it was trained."""

    directory: Directory
    transcript: Transcript = ""
    json: Json = False


@dataclass(frozen=True)
class Report:
    """Rebuilds the page of a run."""

    directory: Directory
    json: Json = False


def show(words: list[str]) -> int:
    asked = parse("show", Show, words)
    quiet()
    directory = located(asked.directory)
    config = config_files.saved(directory)
    if not asked.transcript:
        some = lineage.such_as(directory)
        raise UserError(f"show: give ID, a transcript's id or its beginning{f', such as {some}' if some else ''}")
    progress = Terminal(make_console(aside=True))
    run = runs.prepare(directory, config, progress, writes=False)
    found = lineage.trace(run, asked.transcript)
    print_json(found) if asked.json else make_console().print(transcript.transcript(found))
    return 0


def report(words: list[str]) -> int:
    asked = parse("report", Report, words)
    quiet()
    directory = located(asked.directory)
    config_files.saved(directory)
    Commits(directory).check()
    built = str(page.build(directory))
    print_json({"page": built}) if asked.json else print(built)
    return 0
