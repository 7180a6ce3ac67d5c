"""What a submission is asked, and what several targets have in common of it."""

import functools
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import yaml

from ratchet.launch.lines import UserError
from ratchet.launch.options import File, Settings, described
from ratchet.launch.submit.slices import Slice, slice_of

Target = described(
    Literal["gke", "xpk", "tpu-vm", "slurm", "local"],
    "where it runs: local is this machine; `--to gke --help` lists the options of gke, and likewise of the others",
    help_behavior_hint="(required)",
)

Shown = described(bool, "with --dry-run, print that as one JSON object, for programs")


@dataclass(frozen=True)
class Submission:
    """A run for several processes. Every default of a setting is the recipe's."""

    config: Settings
    to: Target = "local"  # which `submit` refuses to take for granted
    out: str = ""
    """Directory of the run, which all processes see. One that holds a run already is gone on with."""
    restarts: int = 8
    """How often the run is started again after exit code 42 or a killed process."""
    dry_run: bool = False
    """Print what would be submitted, and do nothing."""
    json: Shown = False
    file: File = ""

    def __post_init__(self):
        if self.json and not self.dry_run:
            raise UserError("submit: --json is how --dry-run prints; give both, or none")
        if self.restarts < 0:
            raise UserError(f"submit: --restarts is {self.restarts}; it must be at least 0")

    @property
    def directory(self) -> str:
        """The run's directory."""
        return (self.out or f"runs/{self.config.recipe}").rstrip("/")


@dataclass(frozen=True)
class Job(Submission):
    """A run that a platform knows by a name."""

    name: str = ""
    """Name of the job; default the recipe's."""

    def named(self, longest: int) -> str:
        """The name: the given one, or the recipe's with what no name may hold left out.

        Raises UserError for a name that is no label of the domain name system (RFC 1035: lower-case letters, digits and
        dashes, a letter first and no dash last), or has more than `longest` letters, to which suffixes are added.
        """
        usual = re.sub(r"[^a-z0-9]+", "-", self.config.recipe.lower()).strip("-")
        name = self.name or usual[:longest].rstrip("-")
        if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
            raise UserError(f"submit: --name {name!r}: take a-z, 0-9 and -, a letter first, no dash last")
        if len(name) > longest:
            raise UserError(
                f"submit: --name {name!r} has {len(name)} letters; with what is added it may have {longest}"
            )
        return name


@dataclass(frozen=True)
class OnSlices(Job):
    """A run on slices of TPUs in the cloud."""

    topology: str = "v5e:4x4"
    """Chips of a slice, as of `ratchet preflight`: v5e:4x4, v5e:16x16, v6e:4x4, v5p:2x2x1, tpu7x:2x2x1."""
    slices: int = 1
    """Slices, joined by a slower network along the data axis."""
    image: str = ""
    """The container that holds Ratchet, as launch/Containerfile builds it, where the machines can pull it."""
    dollars_per_chip_hour: float = 0.0
    """What a chip costs; the predicted cost of a generation is printed when it is given."""
    force: bool = False
    """Submit without asking preflight whether the run fits."""

    def __post_init__(self):
        super().__post_init__()
        if self.slices < 1:
            raise UserError(f"submit: --slices is {self.slices}; it must be at least 1")
        if self.dollars_per_chip_hour < 0:
            raise UserError(f"submit: --dollars-per-chip-hour is {self.dollars_per_chip_hour}; it must be at least 0")

    @property
    def slice(self) -> Slice:
        """What --topology names. Raises UserError for what there is not."""
        return slice_of(self.topology)

    @property
    def needed(self) -> dict[str, str]:
        """By option, what has to be given, in words. These machines share no disk."""
        return {
            "out": "gs://BUCKET/runs/NAME (a bucket that all machines see)",
            "image": "IMAGE (the container that launch/Containerfile builds)",
        }

    def check(self) -> None:
        """Raises UserError, which names all that is needed and missing."""
        there = lambda option: getattr(self, option) if option != "out" else re.match(r"(gs|s3)://[^/]", self.out)
        if missing := [f"--{option} {what}" for option, what in self.needed.items() if not there(option)]:
            raise UserError(f"submit: --to {self.to}: give {', '.join(missing)}")


@functools.cache
def _templates() -> jinja2.Environment:
    """Templates know the filters `quote`, which makes a word of a shell of any text, and `yaml`, a scalar of YAML."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["quote"] = shlex.quote
    made.filters["yaml"] = lambda text: yaml.safe_dump(str(text), default_style='"', width=math.inf).strip()
    return made


def rendered(template: str, **values: Any) -> str:
    """A template of this package, filled in; a value that it asks for and is not given is an error."""
    return _templates().get_template(template).render(**values)
