"""What shows what there is: `status`, `show`, `report` and `recipes`."""

import dataclasses
from dataclasses import dataclass

import tyro
from rich.table import Table

from ratchet.bootstrap import config_files, lineage
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.report import page, terminal, transcript
from ratchet.bootstrap.report.goodput import said
from ratchet.bootstrap.report.status import status as status_of
from ratchet.launch.console import Terminal
from ratchet.launch.options import Directory, Json, UserError, described, located, parse
from ratchet.launch.output import make_console, print_json
from ratchet.launch.recipes import RECIPES
from ratchet.train.commits import Commits

Transcript = described(tyro.conf.Positional[str], "a transcript's id or its beginning; the page has some", metavar="ID")


@dataclass(frozen=True)
class Status:
    """Shows the stages of a run, units done, and a table of its generations."""

    directory: Directory
    json: Json = False


@dataclass(frozen=True)
class Show:
    """Shows one transcript with its documents, verdicts, branches and targets, and where it was trained."""

    directory: Directory
    transcript: Transcript
    json: Json = False


@dataclass(frozen=True)
class Report:
    """Rebuilds the page of a run."""

    directory: Directory
    json: Json = False


@dataclass(frozen=True)
class Recipes:
    """Lists what there is to run, how long it takes, and what it should reach."""

    json: Json = False


def status(words: list[str]) -> int:
    asked = parse("status", Status, words)
    directory = located(asked.directory)
    config_files.saved(directory)
    found, console = status_of(directory), make_console()
    if asked.json:
        print_json(found)
        return 0
    goodput = [said(found["goodput"])] if found["goodput"] else []
    for line in (*terminal.standing(found), *goodput):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if found["stages"]:
        console.print(terminal.units(found), terminal.figures(found))
    return 0


def show(words: list[str]) -> int:
    asked = parse("show", Show, words)
    if not asked.transcript:
        raise UserError("show: give ID, a transcript's id or its beginning; the page has some")
    directory = located(asked.directory)
    progress = Terminal(make_console(aside=True))
    run = runs.prepare(directory, config_files.saved(directory), progress, writes=False)
    found = lineage.trace(run, asked.transcript)
    print_json(found) if asked.json else make_console().print(transcript.transcript(found))
    return 0


def report(words: list[str]) -> int:
    asked = parse("report", Report, words)
    directory = located(asked.directory)
    config_files.saved(directory)
    Commits(directory).check()
    built = str(page.build(directory))
    print_json({"page": built}) if asked.json else print(built)
    return 0


def recipes(words: list[str]) -> int:
    asked = parse("recipes", Recipes, words)
    if asked.json:
        print_json({"recipes": {name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()}})
        return 0
    table = Table("recipe", "what it does", "takes", "should reach", box=None)
    for name, r in RECIPES.items():
        table.add_row(name, r.summary, r.takes, r.reaches)
    make_console().print(table)
    return 0
