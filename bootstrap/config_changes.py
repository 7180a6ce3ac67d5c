"""How the settings of two runs differ, and with which others a run can be resumed."""

from typing import Any

from ratchet.bootstrap.config import Config, flat

_MAY_GROW = ("generations", "train.columns")
"""Settings that resuming a run may raise: what was made before stays as it is."""
_MAY_MOVE = ("teacher.url", "judge.url")
"""Servers that may be at another address when a run is resumed, but can neither leave nor join it."""
_MAY_CHANGE = (
    *_MAY_MOVE,
    "wandb",
    *(f"train.engine.{name}" for name in ("save_every", "save_minutes", "stall_minutes", "profile")),
    *(f"{section}.{name}" for section in ("teacher", "judge") for name in ("concurrency", "budget", "prices")),
    *(f"rollouts.{name}" for name in ("url", "concurrency", "directory")),
)
"""Settings that resuming a run may change, since nothing that comes of it depends on them."""


def refusal(old: Config, new: Config) -> str:
    """Why a run with the settings `old` cannot go on with those of `new`; "" where it can."""
    for name, (before, after) in _differences(old, new).items():
        if name in _MAY_GROW and after < before:
            return f"the run has {before} {name.rpartition('.')[2]}; --{name} can be more, not fewer"
        if name not in (*_MAY_GROW, *_MAY_CHANGE) or (name in _MAY_MOVE and not (before and after)):
            return f"{name}: {before!r} → {after!r} differs from the run; start a new run to change it"
    return ""


def changed(old: Config, new: Config) -> list[str]:
    """One line for every setting in which two configs differ: "seed: 0 → 1"."""
    return [f"{name}: {before!r} → {after!r}" for name, (before, after) in _differences(old, new).items()]


def _differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """(value before, value after) of every setting in which two configs differ."""
    before, after = flat(old), flat(new)
    return {name: (before[name], after[name]) for name in before if before[name] != after[name]}
