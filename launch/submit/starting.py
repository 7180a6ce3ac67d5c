"""The words that each process of a run starts with, and what its exit codes mean to whatever started it."""

from typing import Any

from ratchet.bootstrap.config import Config, flat
from ratchet.launch.lines import UserError
from ratchet.launch.recipes import RECIPES
from ratchet.launch.recipes.documents import fitted
from ratchet.train import stopping

LAST = (1, 2, 126, 127)
"""Exit codes after which starting again does not help: the run failed, the user is mistaken, no such command."""


def is_worth_repeating(code: int) -> bool:
    """Whether a run is started again after an exit code, as a shell counts it: 42, or above 128 when a signal has
    killed the process, for one because memory ran out."""
    return code == stopping.AGAIN or code > 128


def settings(config: Config) -> list[str]:
    """The options that make the settings of a run from those of its recipe, in the order of `ratchet run --help`.
    Raises UserError for one that a file of settings alone can have."""
    usual = RECIPES[config.recipe].config
    usual = flat(fitted(usual, config.train.lora) if config.base else usual)
    own = {name: value for name, value in flat(config).items() if value != usual[name]}
    if strange := [name for name in own if name.startswith("model.family.")]:
        raise UserError(f"submit: {strange[0]} is no option that a process starts with; leave it to --base")
    return [word for name, value in own.items() for word in _option(name, value)]


def _option(name: str, value: Any) -> list[str]:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        *sections, leaf = name.split(".")
        return ["--" + ".".join([*sections, leaf if value else f"no-{leaf}"])]
    if isinstance(value, tuple):
        return [f"--{name}", *map(str, value)]
    return [f"--{name}={value}"]


def words(config: Config, directory: str, join: str) -> list[str]:
    """The words after `ratchet` of each process of a run; `join` says how it finds the others. They are the same when
    it starts again: processes that join one another go on with the run that the directory holds."""
    return ["run", config.recipe, f"--out={directory}", f"--join={join}", *settings(config)]
