"""Gives a run that has begun other settings, with which it can go on."""

from etils import epath

from ratchet.bootstrap import config_files, thinkers
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.given import INPUTS, Given, given_world
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.run import Run, prepare
from ratchet.bootstrap.stages import baselines, train
from ratchet.train.holder import holding


def extend(directory: epath.Path, config: Config) -> Given:
    """Gives the run in `directory` the settings of `config`, with which it can go on (see
    `config_changes.refusal`). Returns what it reads.

    With more generations, what was trained for the last one alone is removed, since there will be another last one.
    With longer rows, what is still in training begins anew, with the examples that had no room. Raises ValueError,
    before anything has changed, when another process works on the run, or the world has not enough for so many
    generations or begins differently for them.
    """
    with holding(directory):
        saved, given = config_files.saved(directory), given_world(config)
        if not (directory / INPUTS).exists():  # made again, to be what was committed, before the run reads more
            prepare(directory, saved, Silent()).metrics.close()
        r = prepare(directory, config, Silent(), given=given)
        if config.generations > saved.generations:
            baselines.forget(r)
        if config.train.columns > saved.train.columns:
            _begin_training_anew(r)
        r.metrics.close()
        config_files.save(directory, config)
    return given


def _begin_training_anew(r: Run) -> None:
    """Removes checkpoints of weights that are not there yet and of side runs, and datasets for such weights that lack
    examples, with what was written down of how those would be trained on."""
    untrained = [n for n in range(r.config.generations + 1) if not r.has_weights(r.generation(n))]
    for checkpoints in (r.directory / "checkpoints").glob("*-[0-9][0-9][0-9]"):
        arm, _, number = checkpoints.name.rpartition("-")
        missing = int(number) in untrained or (arm == baselines.PLACE and not r.has_weights(r.directory / arm))
        if missing or arm in thinkers.SIDES:
            checkpoints.rmtree()
    for number in untrained:
        if train.lacking(r, number):
            train.dataset_of(r, number).rmtree()
            r.commits.forget(train.dataset_of(r, number))
            (r.generation(number) / "training.json").unlink(missing_ok=True)
            r.commits.forget(r.generation(number) / "training.json")
