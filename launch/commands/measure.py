"""What measures: `evaluate`, `compare` and `preflight`."""

import dataclasses
import itertools
import json
from dataclasses import dataclass

from etils import epath
from rich.console import Console
from rich.table import Table

from ratchet.bootstrap import loop
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.stages.evaluate import evaluation
from ratchet.launch import compare as comparison
from ratchet.launch import preflight as preflights
from ratchet.launch.console import Terminal
from ratchet.launch.options import UserError, directory_of, parse, recipe_of, saved_config
from ratchet.launch.output import make_console, quiet
from ratchet.launch.preflight import Preflight
from ratchet.train.checkpoint import has_weights


@dataclass(frozen=True)
class Evaluate:
    generation: int
    """Which generation to evaluate again."""


@dataclass(frozen=True)
class Compare:
    generation: int = 1
    """The generation whose data the arms share."""
    out: str = "runs/compare"
    """Where the arms' runs lie."""
    json: bool = False
    """Print every metric of every arm as JSON."""


def evaluate(words: list[str]) -> int:
    directory, rest = directory_of(words)
    config = saved_config(directory)
    number = parse(Evaluate, rest, None).generation
    run = prepared("evaluate", directory, config, number)
    params = run.weights(number)
    found = evaluation(run, number, params, loop.knower(run, number, params, loop.Seed(run)))
    table = Table("metric", "value", "95 % interval", title=f"generation {number}")
    for name, m in found["metrics"].items():
        table.add_row(name, f"{m['value']:.4f}", f"{m['low']:.4f} – {m['high']:.4f}" if "low" in m else "")
    Console().print(table)
    return 0


def prepared(command: str, directory: epath.Path, config: Config, number: int) -> runs.Run:
    """A run that has this generation, to look at."""
    quiet()
    if not has_weights(directory / f"gen-{number:03d}" / "model"):
        raise UserError(f"{command}: {directory} has no finished generation {number}; see `ratchet status {directory}`")
    return runs.prepare(directory, config, Terminal(make_console()), writes=False)


def compare(words: list[str]) -> int:
    directories = list(itertools.takewhile(lambda w: not w.startswith("-"), words))
    rest, varied = words[len(directories) :], []
    while "--vary" in rest:
        at = rest.index("--vary")
        values = list(itertools.takewhile(lambda w: not w.startswith("--"), rest[at + 1 :]))
        varied.append(values)
        rest = rest[:at] + rest[at + 1 + len(values) :]
    if not directories or not all(varied) or not varied:
        raise UserError("compare: give finished runs and what to vary: DIR --vary targets.kind one_hot reviewed")
    asked = parse(Compare, rest, Compare())
    saved = [saved_config(epath.Path(d)) for d in directories]
    arms = comparison.arms_of(varied, saved[0])
    quiet()
    console, found = make_console(), []
    for name, config in zip(directories, saved, strict=True):
        if asked.generation not in range(1, config.generations + 1):
            raise UserError(f"compare: {name} has generations 1 to {config.generations}; set --generation to one")
        place = epath.Path(asked.out)
        found.append(comparison.compare(epath.Path(name), asked.generation, arms, place, Terminal(console)))
    arms = [dataclasses.replace(a, metrics=of_runs) for a, of_runs in zip(arms, zip(*found, strict=True), strict=True)]
    if asked.json:
        print(json.dumps([dataclasses.asdict(a) for a in arms], indent=1))
    else:
        console.print(comparison.table(arms))
    return 0


def preflight(words: list[str]) -> int:
    recipe = recipe_of(words)
    asked = parse(Preflight, words[1:], Preflight(recipe.config))
    quiet()
    found = preflights.preflight(asked)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        preflights.show(found, make_console())
    return 0 if found["fits"] else 1
