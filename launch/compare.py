"""`ratchet compare`: arms that differ in one setting or a few, from one generation's data, in one table.

Every arm is a run directory of its own that begins with what the compared run committed before the varied setting has
any effect: its arms train as many steps of as many examples, from the same seed model, and are asked the same items.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from ratchet.bootstrap import config_files, loop
from ratchet.bootstrap.config import Config, ConfigError, flat, in_place_of, with_settings
from ratchet.bootstrap.config_changes import changed
from ratchet.bootstrap.given import INPUTS
from ratchet.bootstrap.progress import Progress
from ratchet.bootstrap.report.terminal import Fitted
from ratchet.bootstrap.run import check_adapters
from ratchet.train.commits import Commits
from ratchet.train.files import whole
from ratchet.train.stopping import Stopped
from ratchet.train.trainer import TrainingDiverged

_REVIEWED = ("propose", "practice.json", "simulate", "review", "calibration.json", "samples.json")
_WRITTEN = (*_REVIEWED, "targets", "wrongthink", "wrongthink.json", "corrections", "dataset")
KEPT = {"targets": _REVIEWED, "wrongthink": (*_REVIEWED, "targets"), "train": _WRITTEN, "controls": _WRITTEN}
"""By section of a varied setting, what of the compared generation no arm has to make anew."""
EARLY = (
    "controls.random_share", "controls.imitation", "wrongthink.interruption", "train.seed_", "train.renamed",
    "train.columns",
)  # fmt: skip
"""How settings of these sections begin that have had their effect before, or have none here."""


@dataclass(frozen=True)
class Arm:
    """One arm: what it changes, as {"targets.kind": "one_hot"}, and its figures by seed run."""

    name: str
    changes: dict[str, Any]
    metrics: tuple[dict[str, dict], ...] = ()


def arms_of(varied: Sequence[Sequence[str]], config: Config) -> list[Arm]:
    """Every combination of the values of [[setting, value, ...], ...], as in [["train.steps", "4", "8"]]. The parts of
    a tuple are joined by "+", as in "0.3+0.5", and "none" is an empty one.

    Raises ConfigError for a setting that is unknown, has no value, or comes too early for arms to share data, and for a
    value that it cannot have.
    """
    known, lists = flat(config), []
    for name, *texts in varied:
        name = name.replace("-", "_")
        if name not in known:
            raise ConfigError(f"compare: unknown setting {name}; {in_place_of(name)}")
        if name.split(".")[0] not in KEPT or name.startswith(EARLY):
            raise ConfigError(f"compare: {name} changes what arms share; vary one of {', '.join(KEPT)}")
        if not texts:
            raise ConfigError(f"compare: {name} has no values; give them after it")
        lists.append([(name, text, _value(known[name], text, name)) for text in texts])
    arms = [
        Arm(", ".join(f"{n.split('.')[-1]} {text}" for n, text, _ in chosen), {n: v for n, _, v in chosen})
        for chosen in itertools.product(*lists)
    ]
    for arm in arms:  # before the first of them trains
        check_adapters(with_settings(config, arm.changes))
    return arms


def check_distributions(config: Config, number: int, arms: Sequence[Arm]) -> None:
    """Raises ConfigError where arms differ in their kind of targets, and generation `number` of a run has none but
    one-hot ones: what servers wrote for those was never given distributions."""
    served = config.rollouts.url or (config.teacher.url and number <= config.teacher.generations)
    if config.targets.kind == "one_hot" and served and any("targets.kind" in arm.changes for arm in arms):
        raise ConfigError(
            f"compare: servers wrote generation {number} for one_hot targets, without distributions; vary another "
            "setting"
        )


def _value(like: Any, text: str, name: str) -> Any:
    """The value that a text means, of the type of another value of the setting."""
    if isinstance(like, tuple):
        return [] if text == "none" else [_value(like[0] if like else "", part, name) for part in text.split("+")]
    if isinstance(like, str):
        return text
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"compare: {name} is {text!r}; it must be like {json.dumps(like)}") from error


def compare(
    directory: epath.Path, number: int, arms: Sequence[Arm], out: epath.Path, progress: Progress
) -> list[dict[str, dict]]:
    """Trains and evaluates every arm of generation `number` of a run, each in a directory of its own in `out`; returns
    their metrics, {} of one that has ended before it was evaluated, which is said in a line. What is there already is
    not made again. Raises ConfigError where an arm of another run is there."""
    found = []
    Commits(directory).check()
    for arm in arms:
        place = out / arm.name.replace(" ", "_").replace(",", "")
        config = _begin(directory, number, arm, place)
        commits, evaluated = Commits(place), place / f"gen-{number:03d}" / "evaluation.json"
        if not commits.has(evaluated):
            progress.line(f"compare {directory.name}: {arm.name}")
            try:
                loop.run(place, config, progress)
            except (loop.RunEnded, TrainingDiverged) as ended:
                progress.line(f"{arm.name}: {ended}")
            except Stopped as stopped:
                raise Stopped(stopped.number, "the same command goes on from what is committed") from stopped
        found.append(commits.read(evaluated)["metrics"] if commits.has(evaluated) else {})
    return found


def names_of(directories: Sequence[epath.Path]) -> list[str]:
    """A name for each of several runs: that of its directory or, where several are called alike, its whole path in one
    word, such as "runs-a-lessons"."""
    short = [directory.name for directory in directories]
    whole = [re.sub(r"[^\w.]+", "-", str(directory)).strip("-") for directory in directories]
    return [one if short.count(one) == 1 else path for one, path in zip(short, whole, strict=True)]


def _begin(directory: epath.Path, number: int, arm: Arm, place: epath.Path) -> Config:
    """An arm's run directory: the earlier generations, and what of this one its changes leave as it was."""
    own = {"generations": number, "controls.imitation": False}
    config = with_settings(config_files.saved(directory), arm.changes | own)
    if (place / config_files.KEPT).exists():
        if differences := changed(config_files.saved(place), config):
            raise ConfigError(f"compare: {place} is an arm of another run ({differences[0]}); give another --out")
        if strange := _strange(directory, number, place):
            raise ConfigError(f"compare: {place} is an arm of another run (its {strange}); give another --out")
        return config
    with_all = min((KEPT[name.split(".")[0]] for name in arm.changes), key=len)
    names = ["inputs.json", "tokenizer", *(f"gen-{n:03d}" for n in range(number))]
    names += [f"gen-{number:03d}/{name}" for name in with_all]
    for name in names:
        _copy(directory / name, place / name)
        Commits(place).inherit(Commits(directory), place / name)
    _forget_training(Commits(place), place / f"gen-{number:03d}" / "wrongthink.json")
    config_files.save(place, config)
    return config


def _forget_training(commits: Commits, path: epath.Path) -> None:
    """Leaves out what the training of another arm did to the likelihood of wrong thoughts."""
    if commits.has(path) and commits.holds(path, "likelihood"):
        commits.write(path, {name: found for name, found in commits.read(path).items() if name != "likelihood"})


def _strange(directory: epath.Path, number: int, place: epath.Path) -> str:
    """What an arm that is there did not get from this run; "" where there is nothing."""
    whose, own = Commits(directory), Commits(place)
    given, had = whose.read(directory / INPUTS), own.read(place / INPUTS)
    if any(given[name] != had[name] for name in given.keys() & had.keys()):
        return INPUTS
    earlier = (f"gen-{n:03d}" for n in range(number))
    return next((name for name in earlier if not own.agrees(whose, place / name)), "")


def _copy(source: epath.Path, target: epath.Path) -> None:
    if source.is_dir():
        for file in source.iterdir():
            _copy(file, target / file.name)
    elif source.exists():
        with whole(target) as fresh:
            fresh.write_bytes(source.read_bytes())


def table(arms: Sequence[Arm], show: Callable[[float], str] = lambda v: f"{100 * v:.1f}") -> Fitted:
    """Arms by metrics that are rates, in %: the mean over runs, and the interval of one run or the spread of several.
    One that was evaluated in no run has a dash."""
    evaluated = [run for arm in arms for run in arm.metrics if run]
    first = evaluated[0] if evaluated else {}
    names = [n for n, m in first.items() if m.get("unit") == "%" and (m["column"] or n == "recovery_own")]
    names = [n for n in names if all(n in run for run in evaluated)]
    rows = []
    for arm in arms:
        cells = []
        for n in names:
            of_runs = [run for run in arm.metrics if run and run[n].get("n") != 0]
            if not of_runs:
                cells.append("–")
                continue
            values = [run[n]["value"] for run in of_runs]
            m = of_runs[0][n]
            spread = (
                (m.get("low", values[0]), m.get("high", values[0])) if len(values) == 1 else (min(values), max(values))
            )
            cells.append(f"{show(float(np.mean(values)))} ({show(spread[0])}–{show(spread[1])})")
        rows.append([arm.name, *cells])
    return Fitted(["arm", *(first[n]["column"] or n for n in names)], rows)
