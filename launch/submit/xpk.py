"""xpk: one command line, for those who have its cluster."""

import shlex
from dataclasses import dataclass

from ratchet.launch.submit import starting
from ratchet.launch.submit.asked import OnSlices
from ratchet.launch.submit.clients import hand_over
from ratchet.launch.submit.gke import GRACE

_LONGEST = 40
"""Letters that xpk allows to the name of a workload."""


@dataclass(frozen=True)
class Xpk(OnSlices):
    """A workload on a cluster that xpk made. It starts again after exit code 42 and codes from 127 on."""

    cluster: str = ""
    """Name of the cluster."""
    project: str = ""
    """Project of the cloud; default gcloud's own."""
    zone: str = ""
    """Zone of the cluster; default gcloud's own."""
    priority: str = "medium"
    """xpk's: very-low, low, medium, high or very-high."""

    @property
    def needed(self) -> dict[str, str]:
        return {"cluster": "NAME (of a cluster that xpk made)"} | super().needed


def words(asked: Xpk) -> list[str]:
    """The command. Raises UserError for what xpk would refuse."""
    asked.check()
    name, directory = asked.named(_LONGEST), asked.directory
    process = ["ratchet", *starting.words(asked.config, directory, "auto")]
    options = {
        "cluster": asked.cluster,
        "workload": name,
        "tpu-type": asked.slice.accelerator,
        "num-slices": asked.slices,
        "docker-image": asked.image,
        "max-restarts": asked.restarts,
        "termination-grace-period-seconds": GRACE,
        "priority": asked.priority,
        **({"project": asked.project} if asked.project else {}),
        **({"zone": asked.zone} if asked.zone else {}),
        "env": f"JAX_COMPILATION_CACHE_DIR={directory}/xla",
        "command": shlex.join(process),
    }
    return ["xpk", "workload", "create", *(f"--{option}={value}" for option, value in options.items())]


def manifest(asked: Xpk) -> str:
    """The command as a line for a shell."""
    return shlex.join(words(asked)) + "\n"


def submit(asked: Xpk) -> int:
    """Runs xpk; returns its exit code."""
    return hand_over(words(asked))
