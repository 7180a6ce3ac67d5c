"""What a command is asked, in words: options by tyro, a recipe, the directory of a run and its settings."""

import contextlib
import dataclasses
import difflib
import io
import itertools
import json
from dataclasses import dataclass
from typing import Annotated

import tyro
from etils import epath

from ratchet.bootstrap import config as configs
from ratchet.bootstrap.config import Config, ConfigError
from ratchet.launch.recipes import RECIPES
from ratchet.launch.recipes.recipe import Recipe


class UserError(ValueError):
    """Something the user can mend; shown as one line."""


@dataclass(frozen=True)
class Run:
    """Settings of a run. Every default comes from the recipe."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    out: str = ""
    """Directory of the run; default runs/RECIPE."""


def parse(kind: type, words: list[str], default):
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


def no_more(words: list[str]) -> None:
    if words:
        raise UserError(f"unknown setting {words[0]}; this command takes none")


def recipe_of(words: list[str]) -> Recipe:
    if not words or words[0] not in RECIPES:
        raise UserError(
            f"no recipe {words[0] if words else ''!r}; there are {', '.join(RECIPES)} (see `ratchet recipes`)"
        )
    return RECIPES[words[0]]


def directory_of(words: list[str]) -> tuple[epath.Path, list[str]]:
    if not words or words[0].startswith("-"):
        raise UserError("give the directory of a run, such as runs/lessons")
    return epath.Path(words[0]), words[1:]


def saved_config(directory: epath.Path) -> Config:
    path = directory / "config.json"
    if not path.exists():
        raise UserError(
            f"{directory} holds no run: {path} is missing; start one with `ratchet run lessons --out {directory}`"
        )
    try:
        return configs.from_json(path.read_text())
    except (json.JSONDecodeError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; restore it or start a new run") from error
