"""Settings in files: those that a run keeps beside its results, and those that a user gives in YAML."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import yaml
from etils import epath

from ratchet.bootstrap.config import Config, ConfigError, from_json
from ratchet.models.extras import installing
from ratchet.train import buckets
from ratchet.train.commits import Commits
from ratchet.train.files import typed, whole

KEPT, PASSED_BACK = "config.json", "config.yaml"
"""What a run reads, and the same for people, which `ratchet run --config` takes."""
_HEADER = "# Every setting of this run, for `ratchet run --config`. The run itself reads {} beside this file.\n"
_SCIENTIFIC = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


class _Reader(yaml.SafeLoader):
    """Reads 1e-5 as a number, as YAML 1.2 does."""


class _Writer(yaml.SafeDumper):
    """Quotes a text that `_Reader` would take for a number."""


for _kind in (_Reader, _Writer):
    _kind.add_implicit_resolver("tag:yaml.org,2002:float", _SCIENTIFIC, list("-+.0123456789"))


def save(directory: epath.Path, config: Config) -> None:
    """Writes a run's settings into its directory. The file that marks it as a run appears last."""
    fields = asdict(config)
    if config.base:  # the sizes are the folder's own, and are read there again
        fields["model"] = {"max_length": config.model.max_length}
    with whole(directory / PASSED_BACK) as fresh:
        fresh.write_text(_HEADER.format(KEPT) + yaml.dump(fields, Dumper=_Writer, sort_keys=False, allow_unicode=True))
    Commits(directory).write(directory / KEPT, asdict(config))


def begin(directory: epath.Path, config: Config) -> None:
    """Begins a run in a directory. Raises ConfigError where generations of a run lie there that is no more: this one
    would take them for its own."""
    left = [*directory.glob("gen-[0-9][0-9][0-9]"), *(directory / "checkpoints").glob("*-[0-9][0-9][0-9]")]
    if left:
        raise ConfigError(f"{left[0]} is what a run left whose {KEPT} is gone; give another --out")
    save(directory, config)


def saved(directory: epath.Path) -> Config:
    """The settings of the run in a directory. Raises ConfigError when there is none, or none that can be read."""
    path = directory / KEPT
    if begun(directory) and not path.exists():
        raise ConfigError(f"{path} is missing, which the run was made with; put it back, or start a new run")
    if not path.exists():
        raise ConfigError(
            f"{directory} holds no run: {path} is missing; start one with "
            f"`ratchet run lessons --out {typed(directory)}`"
        )
    try:
        return from_json(path.read_text())
    except (OSError, ValueError, TypeError, RecursionError) as error:
        if buckets.reason(error):
            raise  # a bucket may answer another time
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"{path} cannot be read: {reason}; put it back, or start a new run; one that another revision of Ratchet "
            "began goes on with that revision"
        ) from error


def begun(directory: epath.Path) -> bool:
    """Whether a run was begun in a directory, of which files may be missing by now."""
    return (directory / KEPT).exists() or Commits(directory).knows(directory / KEPT)


def read(path: epath.Path) -> dict[str, Any]:
    """The settings in a YAML file by dotted name, as {"train.steps": 300}. In the file they may be nested, dotted, or
    spelled with dashes as on the command line.

    Raises ConfigError, in one line with the place, for what is no YAML, is no mapping, or is given twice.
    """
    try:
        given = yaml.load(path.read_text(), _Reader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(f"{path}, line {mark.line + 1}: {error.problem}; mend the YAML") from error
    except ImportError as error:
        raise ConfigError(f"{path} lies in a bucket; {installing('buckets')} to read it") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise ConfigError(f"{path} cannot be read: {reason}; give --config a YAML file of settings") from error
    if not isinstance(given or {}, Mapping):
        raise ConfigError(f"{path}: holds a {type(given).__name__}, not settings by name, such as `generations: 5`")
    found: dict[str, Any] = {}
    for name, value in _by_name(given or {}):
        if name in found:
            raise ConfigError(f"{path}: {name} is given twice; keep one")
        found[name] = value
    return found


def _by_name(given: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting in a mapping of mappings."""
    for key, value in given.items():
        name = prefix + str(key).replace("-", "_")
        if isinstance(value, Mapping):
            yield from _by_name(value, name + ".")
        else:
            yield name, value
