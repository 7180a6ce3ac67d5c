"""What shows what there is: `status`, `show`, `report` and `recipes`."""

import json
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ratchet.bootstrap import lineage
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.report import page
from ratchet.bootstrap.report import table as run_table
from ratchet.bootstrap.report.status import status as status_of
from ratchet.launch.console import Terminal
from ratchet.launch.options import UserError, directory_of, no_more, parse, saved_config
from ratchet.launch.output import make_console
from ratchet.launch.recipes import RECIPES


@dataclass(frozen=True)
class Status:
    json: bool = False
    """Print everything as JSON."""


def status(words: list[str]) -> int:
    directory, rest = directory_of(words)
    saved_config(directory)
    asked, found, console = parse(Status, rest, Status()), status_of(directory), make_console()
    if asked.json:
        print(json.dumps(found, indent=1))
        return 0
    for line in run_table.standing(found):
        console.print(line, soft_wrap=True, highlight=False, markup=False)
    if found["stages"]:
        console.print(run_table.units(found), run_table.figures(found))
    return 0


def show(words: list[str]) -> int:
    directory, rest = directory_of(words)
    if len(rest) != 1:
        raise UserError("show: give the id of one transcript; `samples.json` of a generation and the report list some")
    run = runs.prepare(directory, saved_config(directory), Terminal(make_console()), writes=False)
    Console().print_json(json.dumps(lineage.trace(run, rest[0])))
    return 0


def report(words: list[str]) -> int:
    directory, rest = directory_of(words)
    no_more(rest)
    saved_config(directory)
    print(page.build(directory))
    return 0


def recipes(words: list[str]) -> int:
    no_more(words)
    table = Table("recipe", "what it does", "takes", "should reach", box=None)
    for name, r in RECIPES.items():
        table.add_row(name, r.summary, r.takes, r.reaches)
    make_console().print(table)
    return 0
