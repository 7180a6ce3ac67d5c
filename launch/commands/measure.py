"""What measures: `evaluate`, `compare` and `preflight`."""

import contextlib
import dataclasses
import sys
from dataclasses import dataclass

import tyro
from rich.table import Table

from ratchet.bootstrap import config_files
from ratchet.launch import api
from ratchet.launch import compare as comparison
from ratchet.launch import preflight as preflights
from ratchet.launch.console import Terminal
from ratchet.launch.lines import UserError, say, tell
from ratchet.launch.options import (
    Directory,
    Generation,
    Json,
    described,
    lacks_base,
    located,
    needed_for,
    parse,
    parse_run,
)
from ratchet.launch.output import ends_as_found, make_console, print_json, quiet
from ratchet.launch.preflight import Preflight
from ratchet.train.commits import Commits
from ratchet.train.files import typed
from ratchet.train.stopping import heeded

SLOTS = 16
"""Texts that are scored, and answers that are sampled, at a time for lm-eval."""
Directories = described(
    tyro.conf.Positional[tuple[str, ...]], "directories of finished runs", metavar="DIR [DIR ...]",
    help_behavior_hint="(required)",
)  # fmt: skip
Varied = described(
    tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]], "a setting and its value in each arm",
    metavar="SETTING VALUE VALUE ...", help_behavior_hint="(required; may be given again)",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluate:
    """Evaluates a finished generation again: the same numbers. With --tasks, by lm-eval instead."""

    directory: Directory
    generation: Generation
    tasks: tuple[str, ...] = ()
    """Tasks of lm-eval by name, or YAML files of its form; the generation is served to it on this machine alone."""
    limit: int = 0
    """Questions of each such task; 0: all."""
    json: Json = False


@dataclass(frozen=True)
class Compare:
    """Trains arms that differ in a setting from one generation's data, for as many steps, and shows one table."""

    directories: Directories
    vary: Varied = ()
    generation: int = 1
    """The generation whose data the arms share."""
    out: str = "runs/compare"
    """Where the arms' runs lie."""
    json: Json = False


def evaluate(words: list[str]) -> int:
    asked = parse("evaluate", Evaluate, words)
    quiet()
    model = api.load(located(asked.directory), asked.generation, Terminal(make_console(aside=asked.json)))
    if asked.tasks:
        return _by_lm_eval(model, asked)
    found = model.evaluate()
    if asked.json:
        print_json(found)
        return 0
    table = Table("metric", "value", "95 % interval", title=f"generation {asked.generation}")
    for name, m in found["metrics"].items():
        interval = f"{m['low']:.4f} – {m['high']:.4f}" if "low" in m else ""
        table.add_row(name, *((f"{m['value']:.4f}", interval) if m.get("n") != 0 else ("–", "nothing was asked")))
    make_console().print(table)
    return 0


def _by_lm_eval(model: api.Model, asked: Evaluate) -> int:
    """The figures of lm-eval's tasks."""
    needed_for("evaluate --tasks", "eval", "lm_eval")
    needed_for("evaluate --tasks", "serve", "starlette", "uvicorn")
    from ratchet.launch.serve import served, tasks

    with contextlib.redirect_stdout(sys.stderr):  # it prints as it goes
        found = tasks.evaluated(served.of_run(model, SLOTS, 0), asked.tasks, asked.limit)
    if asked.json:
        print_json({"tasks": found})
        return 0
    table = Table("task", "metric", "value", title=f"generation {asked.generation}")
    for task, metrics in found.items():
        for name, value in metrics.items():
            table.add_row(task, name, f"{value:.4f}")
    make_console().print(table)
    return 0


def compare(words: list[str]) -> int:
    asked = parse("compare", Compare, words)
    if not asked.directories:
        raise UserError("compare: give DIR, the directory of a finished run, or several, before --vary")
    if not asked.vary or not all(asked.vary):
        raise UserError("compare: say what to vary, as in --vary targets.kind one_hot reviewed")
    quiet()
    directories, out = [located(d) for d in asked.directories], located(asked.out)
    saved = [config_files.saved(d) for d in directories]
    arms = comparison.arms_of(asked.vary, saved[0])
    for directory, config in zip(directories, saved, strict=True):
        if asked.generation not in range(1, config.generations + 1):
            raise UserError(f"compare: {directory} has generations 1 to {config.generations}; set --generation to one")
        commits, decided = Commits(directory), directory / f"gen-{asked.generation:03d}" / "decision.json"
        if not (commits.has(decided) or commits.has(directory / "ended.json")):  # which may be why it is looked into
            unfinished = f"{directory} has not finished generation {asked.generation}"
            raise UserError(f"compare: {unfinished}; see `ratchet status {typed(directory)}`")
        comparison.check_distributions(config, asked.generation, arms)
    progress, found = Terminal(make_console(aside=asked.json)), []
    advice = "the same command goes on from what is committed"
    with heeded(say, patient=True, end=ends_as_found(), advice=advice):
        for directory, name in zip(directories, comparison.names_of(directories), strict=True):
            found.append(comparison.compare(directory, asked.generation, arms, out / name, progress))
    arms = [dataclasses.replace(a, metrics=of_runs) for a, of_runs in zip(arms, zip(*found, strict=True), strict=True)]
    if asked.json:
        print_json({"arms": [dataclasses.asdict(a) for a in arms]})
    else:
        make_console().print(comparison.table(arms))
    return 0


def preflight(words: list[str]) -> int:
    asked = parse_run("preflight", Preflight, words)
    quiet()
    reason = lacks_base(asked.config)
    notes = [f"preflight: this is of a model of the recipe's own shape: {reason} when you run it"] if reason else []

    def said(text: str) -> None:
        while notes:
            tell(notes.pop())
        tell(text)

    found = preflights.preflight(asked, said)
    if asked.json:
        print_json(found)
    else:
        preflights.show(found, make_console())
    return 0 if found["fits"] else 1
