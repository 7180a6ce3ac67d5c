"""What starts a run, or goes on with one: `run` and `resume`."""

import contextlib
import errno
import os
from dataclasses import dataclass, replace

import jax
import tyro
from etils import epath

from ratchet.bootstrap import config_changes, config_files, loop
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.config import Config, flat
from ratchet.bootstrap.given import Given
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.report import page
from ratchet.bootstrap.report.status import status
from ratchet.bootstrap.stages.promote import asked_about, never
from ratchet.launch import extending
from ratchet.launch.console import Terminal
from ratchet.launch.events import Events
from ratchet.launch.lines import UserError, say
from ratchet.launch.options import (
    AsEvents,
    Directory,
    File,
    Join,
    Settings,
    asks_for_help,
    first_word,
    lacks_base,
    lacks_documents,
    lacks_place,
    located,
    parse,
    parse_run,
)
from ratchet.launch.output import ends_as_found, make_console, quiet
from ratchet.launch.recipes import RECIPES
from ratchet.train.buckets import causes, in_bucket, may_come_back
from ratchet.train.buckets import reason as said_by_the_store
from ratchet.train.checkpoint import check_that_all_save
from ratchet.train.commits import AlteredError, Commits
from ratchet.train.files import typed
from ratchet.train.holder import Busy
from ratchet.train.stopping import AGAIN, Ends, Stopped, heeded
from ratchet.train.together import ALONE, PeerGone, Together, current


class DiskFull(Ends):
    """There is no room left for the run."""


class BucketFailed(Ends):
    """The bucket of the run failed, and went on failing when it was asked again; the run is to be started `again`
    unless the bucket lets it in no more."""

    def __init__(self, line: str, again: bool):
        super().__init__(line)
        self.status = AGAIN if again else self.status


class OutOfMemory(Ends):
    """A device has too little memory for what is asked of it."""


@dataclass(frozen=True)
class New:
    """Starts a run. Every default is the recipe's."""

    config: Settings
    out: str = ""
    """Directory of the run; default runs/RECIPE."""
    file: File = ""
    json: AsEvents = False
    join: Join = ""


@dataclass(frozen=True)
class Resume:
    """Goes on with a run from whatever is committed.

    --generations and --train.columns may be raised, and what only watches or
    saves training may change: --train.engine.save-every, .save-minutes,
    .stall-minutes and .profile; of a teacher by address --teacher.url,
    .concurrency and .budget, and the same of a judge; --rollouts.url,
    .concurrency and .directory; --wandb. Other settings stay the run's own.
    `ratchet run RECIPE --help` says what each of them means.
    """

    directory: Directory
    json: AsEvents = False
    join: Join = ""


@dataclass(frozen=True, kw_only=True)
class Resumed(Resume):
    """`Resume` with the run's settings, which the help of `resume` leaves out, since few of them may change."""

    config: Settings


def run(words: list[str]) -> int:
    quiet()
    asked = parse_run("run", New, words)
    usual, config = RECIPES[asked.config.recipe].config, asked.config
    if reason := lacks_documents("run", config):
        raise UserError(reason)
    if reason := lacks_base(config):
        raise UserError(f"run: {reason}")
    if reason := lacks_place(config):
        raise UserError(reason)
    directory = located(asked.out or f"runs/{config.recipe}")
    together = _joined(asked.join, config, directory)
    begun = together.decided("whether there is a run", lambda: config_files.begun(directory))
    if begun and not asked.join:
        raise UserError(
            f"{directory} holds a run already; go on with `ratchet resume {typed(directory)}` or give another --out"
        )
    sizes, model = flat(usual.model), flat(config.model)
    own = [name for name in sizes if model[name] != sizes[name] and name != "max_length"]
    if config.base and own:
        raise UserError(f"--model.{own[0].replace('_', '-')} is for a model from scratch; with --base, leave it out")
    config = runs.with_base(config)
    given = None
    if begun:  # who starts processes together starts them again in the same words, or in others that may be changed
        _refuse_ended(directory)
        given = _changed("run", directory, config, together)
    else:
        given = runs.check(config)  # before anything is written: a mistake shall not leave a run that cannot be mended
        if reason := never(given.world, config.evaluate):
            raise UserError(f"run: {reason}")
        if together.first and not asked_about(given.world, given.world.fresh):
            say(f"run: {given.world.name} has no tasks about fresh documents, by which a generation could be promoted")
    return _go(directory, config, asked.json, together, given)


def resume(words: list[str]) -> int:
    if asks_for_help(words):
        parse("resume", Resume, words)  # which ends the command
    named = first_word(Resumed, words)
    quiet()
    directory = located(named)
    saved = config_files.saved(directory) if named else Config()
    given = parse("resume", Resumed, words, Resumed(named or tyro.MISSING, config=saved))
    asked = given.config
    if reason := config_changes.refusal(saved, asked):
        raise UserError(f"resume: {directory}: {reason}")  # before processes wait for one another
    together = _joined(given.join, asked, directory)
    _refuse_ended(directory)
    return _go(directory, asked, given.json, together, _changed("resume", directory, asked, together))


def _changed(command: str, directory: epath.Path, config: Config, together: Together) -> Given | None:
    """Gives a run these settings if they are others; what it reads, in the process that has read it now. Raises
    UserError where it cannot go on with them."""
    read: list[Given] = []

    def change() -> None:
        saved = config_files.saved(directory)
        if reason := config_changes.refusal(saved, config):
            raise UserError(f"{command}: {directory}: {reason}")
        if config != saved:
            if command == "run":  # in the words of whoever began the run, which may set back what was changed since
                others = "; ".join(config_changes.changed(saved, config))
                say(f"run: {directory} goes on with other settings: {others}")
            read.append(extending.extend(directory, config))

    if together.count > 1:
        jax.devices()  # which all have to look for at once, and the first one needs now
    together.decided("other settings", change)
    return next(iter(read), None)


def _refuse_ended(directory: epath.Path) -> None:
    """Raises UserError for a run that cannot go on."""
    commits = Commits(directory)
    if commits.has(directory / "ended.json"):
        reason = commits.read(directory / "ended.json")["reason"]
        raise UserError(f"{directory} has ended: {reason}; what may help is for a new run")


def _joined(where: str, config: Config, directory: epath.Path) -> Together:
    """This process among those that it has joined when it began, if it did. Raises CheckpointError for a directory to
    which they cannot save together."""
    together = replace(current(), patience=60 * config.train.engine.stall_minutes) if where else ALONE
    check_that_all_save(directory, together.count)
    return together


def _go(directory: epath.Path, config: Config, as_events: bool, together: Together, given: Given | None = None) -> int:
    """Runs to the end in the world that is `given`, or is read first, showing people or programs how it goes; table and
    report are made however it ends. Of several processes the first one does so."""
    with heeded(say, patient=True, end=ends_as_found(), advice=_to_go_on(directory)):
        if not together.first:
            return _follow(directory, config, together)
        return _lead(directory, config, as_events, together, given)


def _lead(directory: epath.Path, config: Config, as_events: bool, together: Together, given: Given | None) -> int:
    """Runs to the end as the process that shows how it goes."""
    progress = Events(directory) if as_events else Terminal(make_console(), directory)
    try:
        loop.run(directory, config, progress, foretell=True, together=together, given=given)
    except (Busy, AlteredError):  # nothing was written, and no report is
        raise
    except BaseException as error:
        said = _with_remedy(error, directory, together)
        with contextlib.suppress(Exception):  # why it stopped matters more than that its report cannot be made
            if _begun(directory) and not isinstance(said, BucketFailed):
                progress.result(str(said) or type(said).__name__, str(page.build(directory)), status(directory))
        if said is error:
            raise
        raise said from error
    made = lambda: progress.result(None, str(page.build(directory)), status(directory))
    together.decided("the report", made)  # JAX kills all where one that has ended waits long for the one that makes it
    return 0


def _follow(directory: epath.Path, config: Config, together: Together) -> int:
    """Runs to the end beside the process that shows how it goes."""
    try:
        loop.run(directory, config, Silent(), foretell=True, together=together)
    except BaseException as error:
        said = _with_remedy(error, directory, together)
        if said is error:
            raise
        raise said from error
    together.decided("the report", lambda: None)
    return 0


def _with_remedy(error: BaseException, directory: epath.Path, together: Together) -> BaseException:
    """What ended a run, with what to do where the error itself does not know."""
    if _is_disk_full(error):
        return DiskFull(
            f"{directory}: the disk is full or a quota is reached; free some space, then "
            f"`ratchet resume {typed(directory)}` goes on from what is committed"
        )
    if in_bucket(directory) and (said := said_by_the_store(error)) and _begun(directory):
        return BucketFailed(
            f"{directory}: the bucket failed ({said}); once it answers, `ratchet resume {typed(directory)}` goes on "
            "from what is committed", may_come_back(error),
        )  # fmt: skip
    if isinstance(error, Stopped):
        return Stopped(
            error.number, _to_go_on(directory) if _begun(directory) else "the same command may be given again"
        )
    devices = [one for one in causes(error) if isinstance(one, jax.errors.JaxRuntimeError) or "Gloo" in str(one)]
    reason = " ".join(str(devices[-1]).split())[:200] if devices else ""
    if "RESOURCE_EXHAUSTED" in reason:
        return OutOfMemory(
            f"{directory}: a device has too little memory ({reason}); start a new run with a smaller --train.batch, "
            "fewer --simulate.slots, or --train.engine.remat full"
        )
    if devices and together.count > 1:
        return PeerGone(
            f"another process is gone or a device failed ({reason}); start all {together.count} processes again, and "
            "they go on from what is committed"
        )
    return error


def _to_go_on(directory: epath.Path) -> str:
    return f"`ratchet resume {typed(directory)}` goes on from what is committed"


def _begun(directory: epath.Path) -> bool:
    """Whether there is a run that could be gone on with, as far as a bucket tells."""
    try:
        return (directory / config_files.KEPT).exists()
    except Exception as error:
        if not said_by_the_store(error):
            raise
        return True


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error, or what it came from, says that the disk is full or a quota is reached. Its words count, since
    array_record and Orbax have types of their own for it."""
    reasons = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    return any(reason in str(one) for one in causes(error) for reason in reasons)
