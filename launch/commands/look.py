"""What shows what there is: `status` and `recipes`."""

import dataclasses
from dataclasses import dataclass

from rich.table import Column, Table

from ratchet.bootstrap import config_files
from ratchet.bootstrap.report import terminal
from ratchet.bootstrap.report.goodput import said
from ratchet.bootstrap.report.status import status as status_of
from ratchet.launch.lines import one_line
from ratchet.launch.options import Directory, Json, located, parse
from ratchet.launch.output import make_console, print_json, quiet
from ratchet.launch.recipes import RECIPES


@dataclass(frozen=True)
class Status:
    """Shows the stages of a run, units done, and a table of its generations."""

    directory: Directory
    json: Json = False


@dataclass(frozen=True)
class Recipes:
    """Lists what there is to run, how long it takes, and what it should reach."""

    json: Json = False


def status(words: list[str]) -> int:
    asked = parse("status", Status, words)
    quiet()
    directory = located(asked.directory)
    config_files.saved(directory)
    found, console = status_of(directory), make_console()
    if asked.json:
        print_json(found)
        return 0
    goodput = [said(found["goodput"])] if found["goodput"] else []
    for line in (*terminal.standing(found), *goodput):
        console.print(one_line(line), soft_wrap=True, highlight=False, markup=False)
    if found["stages"]:
        console.print(terminal.units(found), terminal.figures(found))
    return 0


def recipes(words: list[str]) -> int:
    asked = parse("recipes", Recipes, words)
    if asked.json:
        print_json({"recipes": {name: dataclasses.asdict(recipe) for name, recipe in RECIPES.items()}})
        return 0
    told = (Column(head, overflow="fold") for head in ("what it does", "takes", "should reach"))
    table = Table(Column("recipe", min_width=max(map(len, RECIPES))), *told, box=None)
    for name, r in RECIPES.items():
        table.add_row(name, r.summary, r.takes, r.reaches)
    make_console().print(table)
    return 0
