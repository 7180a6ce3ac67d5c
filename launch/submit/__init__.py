"""Runs for several processes: rendered for a platform, and handed to its own client.

__init__.py   the targets, and what is done before something is submitted
asked.py      what a submission is asked; names; templates
starting.py   the words that a process starts with, and its exit codes
slices.py     what a topology of TPUs is called, and how many machines it has
clients.py    kubectl, xpk, gcloud and sbatch
gke.py        a JobSet of Kubernetes, with servers beside it     templates/jobset.yaml.jinja
xpk.py        one command line
tpu_vm.py     queued resources of Cloud TPU                      templates/tpu_vm.sh.jinja
slurm.py      a batch file                                       templates/slurm.sbatch.jinja
local.py      processes on this machine, and who watches them

Whoever starts processes acts on their exit codes, which are the same everywhere:

code      means                                              then
0         done                                               it is over
1         failed: a reviewer below its floor, two            it is over; what may help is said
          roll-backs, nothing accepted; a disk or a
          device's memory is full
2         a mistake in settings, files or the command        it is over
42        start me again: preempted, or asked to end and     all processes start again and go on from what is
          committed; a peer is gone or hangs; a port or      committed, at most `--restarts` times
          device is busy; servers answer no more
129-255   killed by a signal, for one as memory ran out      the same
126, 127  the container has no such command                  it is over

On GKE, host maintenance, preemption and eviction start all again without using up `--restarts`. xpk starts 127 again.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ratchet.launch.submit import gke, local, slurm, tpu_vm, xpk
from ratchet.launch.submit.asked import Submission


class Platform(NamedTuple):
    """Where a run can be submitted to."""

    kind: type[Submission]
    """What it is asked."""
    manifest: Callable[[Submission], str]
    """What would be submitted, as text."""
    submit: Callable[[Submission], int]
    """Submits it; returns the exit code of the platform's client, or of the run where the client stays with it."""


PLATFORMS: Mapping[str, Platform] = MappingProxyType(
    {
        "gke": Platform(gke.Gke, gke.manifest, gke.submit),
        "xpk": Platform(xpk.Xpk, xpk.manifest, xpk.submit),
        "tpu-vm": Platform(tpu_vm.TpuVm, tpu_vm.manifest, tpu_vm.submit),
        "slurm": Platform(slurm.Slurm, slurm.manifest, slurm.submit),
        "local": Platform(local.Local, local.manifest, local.submit),
    }
)
