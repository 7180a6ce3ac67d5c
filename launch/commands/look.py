"""What shows what there is: `status`, `show`, `report` and `recipes`."""

import json
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ratchet.bootstrap import lineage
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.report import page
from ratchet.bootstrap.report import status as run_status
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
    asked, found, console = parse(Status, rest, Status()), run_status.status(directory), make_console()
    if asked.json:
        print(json.dumps(found, indent=1))
        return 0
    units = Table("stage", "generation", "units", box=None)
    for s in found["stages"]:
        units.add_row(s["stage"], str(s["generation"]), f"{s['done']}/{s['total']}")
    console.print(units)
    console.print(run_status.table(found))
    if found["ended"]:
        console.print(f"ended: {found['ended']}", soft_wrap=True, highlight=False)
    return 0


def show(words: list[str]) -> int:
    directory, rest = directory_of(words)
    if len(rest) != 1:
        raise UserError("show: give the id of one transcript; `samples.json` of a generation and the report list some")
    run = runs.prepare(directory, saved_config(directory), Terminal(make_console()))
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
