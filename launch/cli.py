"""The `ratchet` command."""

import contextlib
import dataclasses
import difflib
import errno
import io
import itertools
import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro
from etils import epath
from rich.console import Console
from rich.table import Table

from ratchet.bootstrap import config as configs
from ratchet.bootstrap import lineage, loop
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config, ConfigError, flat
from ratchet.bootstrap.ledger import write_json
from ratchet.bootstrap.report import page, status, transcript
from ratchet.bootstrap.stages.evaluate import evaluation
from ratchet.launch import compare, folders, preflight
from ratchet.launch.console import Terminal
from ratchet.launch.folders import Export, Import
from ratchet.launch.preflight import Preflight
from ratchet.launch.recipes import RECIPES
from ratchet.launch.recipes.recipe import Recipe
from ratchet.train.checkpoint import has_weights
from ratchet.train.monitor import TrainingStopped
from ratchet.train.trainer import TrainingDiverged

USAGE = """ratchet: grow a language model on reviewed simulations of what it should do

  ratchet run RECIPE [--out DIR] [--generations 5 --train.steps 800 ...]   a new run
  ratchet resume DIR [--generations 8]                                    go on from whatever is committed
  ratchet status DIR [--json]                                             stages, units, table of generations
  ratchet evaluate DIR --generation N                                     evaluate a generation again
  ratchet show DIR TRANSCRIPT_ID [--json]                                 one transcript with its whole lineage
  ratchet report DIR                                                      rebuild the page
  ratchet compare DIR --generation N --vary SETTING VALUE VALUE ...       arms from one generation's data, one table
  ratchet recipes                                                         list recipes
  ratchet preflight RECIPE --topology v5e:4x4 [--slices 2] [--json]       compile for TPUs without one: memory, traffic
  ratchet import DIR [--template FILE] [--json]                           read a Hugging Face folder, say what it is
  ratchet export DIR --generation N --to FOLDER                           write one that transformers loads
  ratchet run RECIPE --help                                               every setting
"""


class UserError(ValueError):
    """Something the user can mend; shown as one line."""


class DiskFull(RuntimeError):
    """There is no room left for the run."""


@dataclass(frozen=True)
class Run:
    """Settings of a run. Every default comes from the recipe."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: str = ""
    """Directory of the run; default runs/RECIPE."""


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


@dataclass(frozen=True)
class Status:
    json: bool = False
    """Print everything as JSON."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 1 for a failure, 2 for a mistake of the user, 130 or 143
    when stopped by Ctrl-C or SIGTERM."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands = {
        "run": _run, "resume": _resume, "status": _status, "evaluate": _evaluate, "show": _show, "report": _report,
        "compare": _compare, "recipes": _recipes, "preflight": _preflight, "import": _import, "export": _export,
    }  # fmt: skip
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    try:
        if words[0] not in commands:
            raise UserError(f"unknown command {words[0]!r}; there are {', '.join(commands)}")
        return commands[words[0]](words[1:])
    except (loop.RunEnded, TrainingDiverged, DiskFull) as ended:
        print(f"ratchet: {ended}", file=sys.stderr)
        return 1
    except (UserError, ValueError, OSError) as error:
        print(f"ratchet: {error}", file=sys.stderr)
        return 2
    except TrainingStopped as stopped:
        print(f"ratchet: {stopped}", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        print("ratchet: stopped; `ratchet resume DIR` goes on from what is committed", file=sys.stderr)
        return 130


def _run(words: list[str]) -> int:
    recipe = _recipe(words)
    asked = _parse(Run, words[1:], Run(recipe.config))
    directory = epath.Path(asked.out or f"runs/{recipe.config.recipe}")
    if (directory / "config.json").exists():
        raise UserError(
            f"{directory} holds a run already; go on with `ratchet resume {directory}` or give another --out"
        )
    usual, model = flat(recipe.config.model), flat(asked.config.model)
    own = [name for name in usual if model[name] != usual[name] and name != "max_length"]
    if asked.config.base and own:
        raise UserError(f"--model.{own[0].replace('_', '-')} is for a model from scratch; with --base, leave it out")
    config = runs.with_base(asked.config)
    runs.check(config)  # before anything is written: a mistake shall not leave a run that cannot be mended
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", dataclasses.asdict(config))
    return _go(directory, config)


def _recipe(words: list[str]) -> Recipe:
    if not words or words[0] not in RECIPES:
        raise UserError(
            f"no recipe {words[0] if words else ''!r}; there are {', '.join(RECIPES)} (see `ratchet recipes`)"
        )
    return RECIPES[words[0]]


def _preflight(words: list[str]) -> int:
    recipe = _recipe(words)
    asked = _parse(Preflight, words[1:], Preflight(recipe.config))
    _quiet()
    found = preflight.preflight(asked)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        preflight.show(found, _console())
    return 0 if found["fits"] else 1


def _resume(words: list[str]) -> int:
    directory, rest = _directory(words)
    saved = _saved(directory)
    asked = _parse(Run, rest, Run(saved)).config
    if differences := configs.changed(dataclasses.replace(saved, generations=asked.generations), asked):
        raise UserError(f"resume: {differences[0]} differs from the run in {directory}; start a new run to change it")
    if asked.generations < saved.generations:
        raise UserError(
            f"resume: {directory} is a run of {saved.generations} generations; --generations can be more, not fewer"
        )
    if (directory / "ended.json").exists():
        raise UserError(f"{directory} has ended: {json.loads((directory / 'ended.json').read_text())['reason']}")
    if asked != saved:
        _quiet()
        loop.extend(directory, asked)
    return _go(directory, asked)


def _go(directory: epath.Path, config: Config) -> int:
    """Runs to the end; table and report are made however it ends."""
    _quiet()
    console = _console()
    try:
        loop.run(directory, config, Terminal(console))
    except BaseException as error:
        with contextlib.suppress(Exception):  # why the run stopped matters more than that its report cannot be made
            _show_result(directory, console)
        if _is_disk_full(error):
            raise DiskFull(
                f"{directory}: the disk is full or a quota is reached; free some space, then `ratchet resume "
                f"{directory}` goes on from what is committed"
            ) from error
        raise
    _show_result(directory, console)
    return 0


def _show_result(directory: epath.Path, console: Console) -> None:
    console.print(status.table(status.status(directory)))
    console.print(f"report: {page.build(directory)}", soft_wrap=True, highlight=False)


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, says so; array_record and Orbax have errors of their own for it."""
    reasons = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    return any(reason in str(one) for one in chain for reason in reasons)


def _status(words: list[str]) -> int:
    directory, rest = _directory(words)
    _saved(directory)
    asked, found, console = _parse(Status, rest, Status()), status.status(directory), _console()
    if asked.json:
        print(json.dumps(found, indent=1))
        return 0
    units = Table("stage", "generation", "units", box=None)
    for s in found["stages"]:
        units.add_row(s["stage"], str(s["generation"]), f"{s['done']}/{s['total']}")
    console.print(units)
    console.print(status.table(found))
    if found["ended"]:
        console.print(f"ended: {found['ended']}", soft_wrap=True, highlight=False)
    return 0


def _evaluate(words: list[str]) -> int:
    directory, rest = _directory(words)
    config = _saved(directory)
    number = _parse(Evaluate, rest, None).generation
    run = _prepared("evaluate", directory, config, number)
    params = run.weights(number)
    found = evaluation(run, number, params, loop.knower(run, number, params, loop.Seed(run)))
    table = Table("metric", "value", "95 % interval", title=f"generation {number}")
    for name, m in found["metrics"].items():
        table.add_row(name, f"{m['value']:.4f}", f"{m['low']:.4f} – {m['high']:.4f}" if "low" in m else "")
    Console().print(table)
    return 0


def _prepared(command: str, directory: epath.Path, config: Config, number: int) -> runs.Run:
    """A run that has this generation."""
    _quiet()
    run = runs.prepare(directory, config, Terminal(_console()))
    if not has_weights(run.generation(number) / "model"):
        raise UserError(f"{command}: {directory} has no finished generation {number}; see `ratchet status {directory}`")
    return run


def _import(words: list[str]) -> int:
    if not words or words[0].startswith("-"):
        raise UserError("import: give the folder of a model: config.json and safetensors")
    asked = _parse(Import, words[1:], Import())
    _quiet()
    found = folders.read(epath.Path(words[0]), asked.template)
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        _console().print(folders.table(found))
    return 0


def _export(words: list[str]) -> int:
    directory, rest = _directory(words)
    config, asked = _saved(directory), _parse(Export, rest, None)
    print(folders.write(_prepared("export", directory, config, asked.generation), asked))
    return 0


def _show(words: list[str]) -> int:
    directory, rest = _directory(words)
    ids = [word for word in rest if not word.startswith("-")]
    if len(ids) != 1:
        raise UserError("show: give the id of one transcript; `samples.json` of a generation and the report list some")
    asked = _parse(Status, [word for word in rest if word not in ids], Status())
    found = lineage.trace(runs.prepare(directory, _saved(directory), Terminal(_console())), ids[0])
    if asked.json:
        print(json.dumps(found, indent=1))
    else:
        Console().print(transcript.transcript(found))
    return 0


def _report(words: list[str]) -> int:
    directory, rest = _directory(words)
    _no_more(rest)
    _saved(directory)
    print(page.build(directory))
    return 0


def _compare(words: list[str]) -> int:
    directories = list(itertools.takewhile(lambda w: not w.startswith("-"), words))
    rest, varied = words[len(directories) :], []
    while "--vary" in rest:
        at = rest.index("--vary")
        values = list(itertools.takewhile(lambda w: not w.startswith("--"), rest[at + 1 :]))
        varied.append(values)
        rest = rest[:at] + rest[at + 1 + len(values) :]
    if not directories or not all(varied) or not varied:
        raise UserError("compare: give finished runs and what to vary: DIR --vary targets.kind one_hot reviewed")
    asked = _parse(Compare, rest, Compare())
    saved = [_saved(epath.Path(d)) for d in directories]
    arms = compare.arms_of(varied, saved[0])
    _quiet()
    console, found = _console(), []
    for name, config in zip(directories, saved, strict=True):
        if asked.generation not in range(1, config.generations + 1):
            raise UserError(f"compare: {name} has generations 1 to {config.generations}; set --generation to one")
        place = epath.Path(asked.out)
        found.append(compare.compare(epath.Path(name), asked.generation, arms, place, Terminal(console)))
    arms = [dataclasses.replace(a, metrics=of_runs) for a, of_runs in zip(arms, zip(*found, strict=True), strict=True)]
    if asked.json:
        print(json.dumps([dataclasses.asdict(a) for a in arms], indent=1))
    else:
        console.print(compare.table(arms))
    return 0


def _recipes(words: list[str]) -> int:
    _no_more(words)
    table = Table("recipe", "what it does", "takes", "should reach", box=None)
    for name, r in RECIPES.items():
        table.add_row(name, r.summary, r.takes, r.reaches)
    _console().print(table)
    return 0


def _parse(kind: type, words: list[str], default):
    """Options by tyro; one that is unknown is an error that names the nearest."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed, unknown = tyro.cli(
                kind, args=words, return_unknown_args=True, prog="ratchet", **({"default": default} if default else {})
            )
    except SystemExit as stopped:
        if not stopped.code:
            raise
        raise UserError(_plain(said.getvalue())) from None
    if unknown:
        name = unknown[0].lstrip("-").split("=")[0].replace("-", "_")
        own = [f.name for f in dataclasses.fields(kind) if f.name != "config"]
        close = difflib.get_close_matches(name, own, n=1) or ([configs.nearest(name)] if kind is Run else own)
        raise UserError(f"unknown setting {unknown[0]}; the nearest is --{close[0].replace('_', '-')}")
    return parsed


def _plain(box: str) -> str:
    """What tyro says in a box, up to its first rule, as one line."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    said = itertools.takewhile(lambda line: not line.startswith(("─", "╰")), lines)
    return " ".join(said) or " ".join(box.split())


def _no_more(words: list[str]) -> None:
    if words:
        raise UserError(f"unknown setting {words[0]}; this command takes none")


def _directory(words: list[str]) -> tuple[epath.Path, list[str]]:
    if not words or words[0].startswith("-"):
        raise UserError("give the directory of a run, such as runs/lessons")
    return epath.Path(words[0]), words[1:]


def _saved(directory: epath.Path) -> Config:
    path = directory / "config.json"
    if not path.exists():
        raise UserError(
            f"{directory} holds no run: {path} is missing; start one with `ratchet run lessons --out {directory}`"
        )
    try:
        return configs.from_json(path.read_text())
    except (json.JSONDecodeError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it or start a new run") from error


def _console() -> Console:
    """A console wide enough for the table where there is no terminal to fit into."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 132))


def _quiet() -> None:
    """Compiled programs are kept for the next start; libraries' notices about optional parts are not for users."""
    jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "ratchet" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    for chatty in ("absl", "bm25s", "orbax"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def entry() -> None:
    sys.exit(main())


if __name__ == "__main__":
    entry()
