"""What starts a run, or goes on with one: `run` and `resume`."""

import contextlib
import dataclasses
import errno
import json
import os
from dataclasses import dataclass

import tyro
from etils import epath
from rich.console import Console

from ratchet.bootstrap import config as configs
from ratchet.bootstrap import config_files, loop
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config, flat
from ratchet.bootstrap.report import page, terminal
from ratchet.bootstrap.report.status import status
from ratchet.launch.console import Terminal
from ratchet.launch.options import Directory, File, Settings, UserError, asks_for_help, first_word, parse, parse_run
from ratchet.launch.output import make_console, quiet
from ratchet.launch.recipes import RECIPES
from ratchet.train.holder import Busy
from ratchet.train.stopping import Stopped


class DiskFull(RuntimeError):
    """There is no room left for the run."""


@dataclass(frozen=True)
class New:
    """Starts a run. Every default is the recipe's."""

    config: Settings
    out: str = ""
    """Directory of the run; default runs/RECIPE."""
    file: File = ""


@dataclass(frozen=True)
class Resume:
    """Goes on with a run from whatever is committed, or for more --generations. Of a teacher by address, --teacher.url,
    .concurrency and .budget may change. Other settings stay the run's own."""

    directory: Directory
    config: Settings


def run(words: list[str]) -> int:
    asked = parse_run("run", New, words)
    usual, config = RECIPES[asked.config.recipe].config, asked.config
    directory = epath.Path(asked.out or f"runs/{config.recipe}")
    if (directory / config_files.KEPT).exists():
        raise UserError(
            f"{directory} holds a run already; go on with `ratchet resume {directory}` or give another --out"
        )
    sizes, model = flat(usual.model), flat(config.model)
    own = [name for name in sizes if model[name] != sizes[name] and name != "max_length"]
    if config.base and own:
        raise UserError(f"--model.{own[0].replace('_', '-')} is for a model from scratch; with --base, leave it out")
    config = runs.with_base(config)
    runs.check(config)  # before anything is written: a mistake shall not leave a run that cannot be mended
    return _go(directory, config)


def resume(words: list[str]) -> int:
    named = first_word(Resume, words)
    directory = epath.Path(named)
    saved = config_files.saved(directory) if named and not asks_for_help(words) else Config()
    asked = parse("resume", Resume, words, Resume(named or tyro.MISSING, saved)).config
    differences = configs.changed(dataclasses.replace(saved, generations=asked.generations), asked)
    if differences := [line for line in differences if not line.startswith(configs.MAY_CHANGE)]:
        raise UserError(f"resume: {differences[0]} differs from the run in {directory}; start a new run to change it")
    if asked.generations < saved.generations:
        raise UserError(
            f"resume: {directory} is a run of {saved.generations} generations; --generations can be more, not fewer"
        )
    if (directory / "ended.json").exists():
        raise UserError(f"{directory} has ended: {json.loads((directory / 'ended.json').read_text())['reason']}")
    if asked != saved:
        quiet()
        loop.extend(directory, asked)
    return _go(directory, asked)


def _go(directory: epath.Path, config: Config) -> int:
    """Runs to the end; table and report are made however it ends."""
    quiet()
    console = make_console()
    try:
        loop.run(directory, config, Terminal(console, directory))
    except Busy:
        raise
    except BaseException as error:
        with contextlib.suppress(Exception):  # why the run stopped matters more than that its report cannot be made
            _show_result(directory, console)
        if _is_disk_full(error):
            raise DiskFull(
                f"{directory}: the disk is full or a quota is reached; free some space, then `ratchet resume "
                f"{directory}` goes on from what is committed"
            ) from error
        if isinstance(error, Stopped):
            raise Stopped(error.number, f"`ratchet resume {directory}` goes on from what is committed") from error
        raise
    _show_result(directory, console)
    return 0


def _show_result(directory: epath.Path, console: Console) -> None:
    console.print(terminal.figures(status(directory)))
    console.print(f"report: {page.build(directory)}", soft_wrap=True, highlight=False)


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, says so; array_record and Orbax have errors of their own for it."""
    reasons = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    return any(reason in str(one) for one in chain for reason in reasons)
