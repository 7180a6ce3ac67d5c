"""What starts a run, or goes on with one: `run` and `resume`."""

import contextlib
import errno
import os
from dataclasses import dataclass

import tyro
from etils import epath

from ratchet.bootstrap import config as configs
from ratchet.bootstrap import config_files, loop
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config, flat
from ratchet.bootstrap.given import Given
from ratchet.bootstrap.report import page
from ratchet.bootstrap.report.status import status
from ratchet.launch.console import Terminal
from ratchet.launch.events import Events
from ratchet.launch.options import (
    AsEvents,
    Directory,
    File,
    Settings,
    UserError,
    asks_for_help,
    first_word,
    located,
    parse,
    parse_run,
)
from ratchet.launch.output import make_console, quiet
from ratchet.launch.recipes import RECIPES
from ratchet.train.commits import AlteredError, Commits
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
    json: AsEvents = False


@dataclass(frozen=True)
class Resume:
    """Goes on with a run from whatever is committed.

    --generations and --train.columns may be raised, and what only watches or
    saves training may change: --train.engine.save-every, .save-minutes,
    .stall-minutes and .profile; of a teacher by address --teacher.url,
    .concurrency and .budget, and the same of a judge; --wandb. Other
    settings stay the run's own.
    """

    directory: Directory
    config: Settings
    json: AsEvents = False


def run(words: list[str]) -> int:
    asked = parse_run("run", New, words)
    usual, config = RECIPES[asked.config.recipe].config, asked.config
    directory = located(asked.out or f"runs/{config.recipe}")
    if config_files.begun(directory):
        raise UserError(
            f"{directory} holds a run already; go on with `ratchet resume {directory}` or give another --out"
        )
    sizes, model = flat(usual.model), flat(config.model)
    own = [name for name in sizes if model[name] != sizes[name] and name != "max_length"]
    if config.base and own:
        raise UserError(f"--model.{own[0].replace('_', '-')} is for a model from scratch; with --base, leave it out")
    config = runs.with_base(config)
    given = runs.check(config)  # before anything is written: a mistake shall not leave a run that cannot be mended
    return _go(directory, config, asked.json, given)


def resume(words: list[str]) -> int:
    named = first_word(Resume, words)
    directory = located(named)
    saved = config_files.saved(directory) if named and not asks_for_help(words) else Config()
    given = parse("resume", Resume, words, Resume(named or tyro.MISSING, saved))
    asked = given.config
    if reason := configs.refusal(saved, asked):
        raise UserError(f"resume: {directory}: {reason}")
    commits = Commits(directory)
    if commits.has(directory / "ended.json"):
        reason = commits.read(directory / "ended.json")["reason"]
        raise UserError(f"{directory} has ended: {reason}; what may help is for a new run")
    quiet()
    world = loop.extend(directory, asked) if asked != saved else None
    return _go(directory, asked, given.json, world)


def _go(directory: epath.Path, config: Config, as_events: bool, given: Given | None) -> int:
    """Runs to the end in the world that is `given`, or is read first, showing people or programs how it goes; table and
    report are made however it ends."""
    quiet()
    progress = Events(directory) if as_events else Terminal(make_console(), directory)
    try:
        loop.run(directory, config, progress, foretell=True, given=given)
    except (Busy, AlteredError):  # nothing was written, and no report is
        raise
    except BaseException as error:
        said = _with_remedy(error, directory)
        if (directory / config_files.KEPT).exists():  # else the run could not even begin
            with contextlib.suppress(Exception):  # why it stopped matters more than that its report cannot be made
                progress.result(str(said) or type(said).__name__, str(page.build(directory)), status(directory))
        if said is error:
            raise
        raise said from error
    progress.result(None, str(page.build(directory)), status(directory))
    return 0


def _with_remedy(error: BaseException, directory: epath.Path) -> BaseException:
    """What ended a run, with what to do where the error itself does not know."""
    if _is_disk_full(error):
        return DiskFull(
            f"{directory}: the disk is full or a quota is reached; free some space, then `ratchet resume {directory}` "
            "goes on from what is committed"
        )
    if isinstance(error, Stopped):
        return Stopped(error.number, f"`ratchet resume {directory}` goes on from what is committed")
    return error


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, says so; array_record and Orbax have errors of their own for it."""
    reasons = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    return any(reason in str(one) for one in chain for reason in reasons)
