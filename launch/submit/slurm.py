"""Slurm: one sbatch file for a cluster of GPUs whose machines share a file system."""

import re
import sys
from dataclasses import dataclass
from typing import Literal

from ratchet.launch.lines import UserError
from ratchet.launch.submit import starting
from ratchet.launch.submit.asked import Job, rendered
from ratchet.launch.submit.clients import hand_over
from ratchet.train import stopping

_LONGEST = 63
"""Letters of a job's name."""
NOTICE = 180
"""Seconds before its time is over that Slurm asks a job to end."""
SHORTEST = 600
"""Seconds that a job takes at least: it is asked to end up to a minute early, and starts before."""


@dataclass(frozen=True)
class Slurm(Job):
    """A batch job of Slurm, a process for each GPU. The machines see this installation and the run's directory."""

    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs of each machine."""
    card: Literal["", "h100", "h200"] = ""
    """What the GPUs are: then preflight is asked first whether the run fits, as of `ratchet preflight --topology
    h100:8`; where it is not said, nothing is compiled here."""
    force: bool = False
    """Submit without asking preflight whether the run fits."""
    cpus: int = 0
    """Cores for each GPU's process; 0: as many as the cluster gives unasked, which may be one."""
    mem: str = ""
    """Memory of each machine, such as 500G, or 0 for all; default the cluster's own."""
    time: str = "24:00:00"
    """Longest time of the job; it is put back into the queue when this is over."""
    partition: str = ""
    """Slurm's partition; default the cluster's own."""
    account: str = ""
    """Who pays; default the user's own."""

    def __post_init__(self):
        super().__post_init__()
        if min(self.nodes, self.gpus) < 1:
            raise UserError(f"submit: --nodes {self.nodes}, --gpus {self.gpus}; both must be at least 1")
        if self.cpus < 0:
            raise UserError(f"submit: --cpus is {self.cpus}; it must be at least 0")
        for option in ("mem", "time", "partition", "account"):
            if any(letter.isspace() for letter in getattr(self, option)):
                raise UserError(f"submit: --{option} {getattr(self, option)!r}: take one word of Slurm's")
        if (seconds := _seconds(self.time)) is not None and seconds < SHORTEST:
            raise UserError(f"submit: --time {self.time} is {seconds} seconds; give at least {SHORTEST}")


def _seconds(time: str) -> int | None:
    """The seconds of a time as Slurm writes it, such as 90, 24:00:00 or 2-12; None for what is written otherwise, and
    where there is no limit, which is 0."""
    written = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", time)
    if not written:
        return None
    days, *parts = (int(part) if part else None for part in written.groups())
    first, second, third = parts
    if days is None and third is None:  # minutes, and seconds of one
        return 60 * first + (second or 0) or None
    return 86400 * (days or 0) + 3600 * first + 60 * (second or 0) + (third or 0) or None


def manifest(asked: Slurm) -> str:
    """The file for sbatch."""
    return rendered(
        "slurm.sbatch.jinja",
        name=asked.named(_LONGEST),
        nodes=asked.nodes,
        gpus=asked.gpus,
        cpus=asked.cpus,
        mem=asked.mem,
        time=asked.time,
        partition=asked.partition,
        account=asked.account,
        cache=f"{asked.directory}/xla",
        notice=NOTICE,
        again=stopping.AGAIN,
        restarts=asked.restarts,
        # The module of this interpreter: a job does not know what the shell here has activated.
        command=[sys.executable, "-m", "ratchet.launch", *starting.words(asked.config, asked.directory, "auto")],
    )


def submit(asked: Slurm) -> int:
    """Hands the file to sbatch; returns its exit code."""
    return hand_over(["sbatch"], manifest(asked))
