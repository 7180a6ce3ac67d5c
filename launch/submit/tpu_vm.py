"""TPU VMs by queued resources: a script that creates them, starts the run on all, follows it and deletes them."""

import shlex
from dataclasses import dataclass

from ratchet.launch.lines import UserError
from ratchet.launch.submit import starting
from ratchet.launch.submit.asked import OnSlices, rendered
from ratchet.launch.submit.clients import hand_over, needed
from ratchet.train import stopping

_LONGEST = 56
"""Letters of a name: a slice of several has a number after it, in 63."""
_AT_WORK = "systemctl is-active ratchet | grep --quiet --extended-regexp '^(active|activating|deactivating)$'"
_FOLLOW = (
    "sudo journalctl --unit=ratchet --follow --output=cat --lines=50 & "
    f"for turn in $(seq 60); do {_AT_WORK} || break; sleep 5; done; sudo kill $! 2> /dev/null"
)
"""What a worker is told to show until its run has ended, or for five minutes: then the others are looked after."""
_LAST_WORDS = "sudo journalctl --unit=ratchet --output=cat --lines=30 | sed \"s/^/$(hostname): /\""
"""What every worker is told to show of a run that failed, before its machine goes."""
_NOTE = "/run/ratchet-ended"
"""Where a worker notes how its run has ended, such as "exited 0" or "killed KILL", until it is rebooted: systemd itself
forgets a run that ended well, and one that was there before."""
_SIGN = "ratchet-ended-with-"
_ENDED = f"{_AT_WORK} || sed --quiet 's/^/{_SIGN}/p' {_NOTE}"
"""What a worker is told to say of its run when that has ended: its note, after a sign."""


@dataclass(frozen=True)
class TpuVm(OnSlices):
    """Cloud TPU's queued resources, by `gcloud`: created, worked on until the run ends, and deleted."""

    zone: str = ""
    """Zone of the TPUs, such as us-west4-a."""
    project: str = ""
    """Project of the cloud; default gcloud's own."""
    service_account: str = ""
    """Account of the machines, which may write to the bucket; default the project's own."""
    runtime: str = ""
    """Software of the machines; default what Cloud TPU names for the kind."""
    spot: bool = False
    """Take chips that may be taken back, at a lower price."""
    keep: bool = False
    """Leave the machines when the run has ended."""

    @property
    def needed(self) -> dict[str, str]:
        return {"zone": "ZONE (such as us-west4-a)"} | super().needed


def manifest(asked: TpuVm) -> str:
    """The script. Raises UserError for what Cloud TPU would refuse."""
    asked.check()
    runtime = asked.runtime or asked.slice.kind.runtime
    if not runtime:
        raise UserError(f"submit: --to tpu-vm: no software is known for {asked.topology}; give --runtime")
    directory, name = asked.directory, asked.named(_LONGEST)
    where = [f"--zone={asked.zone}", *([f"--project={asked.project}"] if asked.project else [])]
    created = [f"--accelerator-type={asked.slice.accelerator}", f"--runtime-version={runtime}"]
    created += [f"--node-id={name}"] if asked.slices == 1 else [f"--node-count={asked.slices}", f"--node-prefix={name}"]
    created += ["--spot"] if asked.spot else []
    created += [f"--service-account={asked.service_account}"] if asked.service_account else []
    start = _start(asked, directory)
    return rendered(
        "tpu_vm.sh.jinja",
        name=name,
        nodes=[name] if asked.slices == 1 else [f"{name}-{number}" for number in range(asked.slices)],
        topology=asked.topology,
        slices=asked.slices,
        where=where,
        created=created,
        start=f"{_AT_WORK} || {start}",
        again_if_forgotten=f"{_AT_WORK} || test -e {_NOTE} || {start}",
        follow=_FOLLOW,
        ended=_ENDED,
        last_words=_LAST_WORDS,
        sign=_SIGN,
        again=stopping.AGAIN,
        last=starting.LAST,
        keep=asked.keep,
    )


def _start(asked: TpuVm, directory: str) -> str:
    """What every worker is told that is not at work: to begin."""
    cache, process = f"JAX_COMPILATION_CACHE_DIR={directory}/xla", starting.words(asked.config, directory, "auto")
    container = ["docker", "run", "--name=ratchet", "--rm", "--privileged", "--network=host", "--ulimit=memlock=-1"]
    container += ["--shm-size=16g", "--stop-timeout=60", f"--env={cache}", asked.image, "ratchet"]
    rules = {
        "Restart": "on-failure",
        "RestartSec": 10,
        "RestartPreventExitStatus": " ".join(map(str, starting.LAST)),
        "StartLimitIntervalSec": "infinity",
        "StartLimitBurst": asked.restarts + 1,
        "ExecStartPre": "-/usr/bin/docker rm --force ratchet",
        "ExecStopPost": f'/bin/sh -c "echo $$EXIT_CODE $$EXIT_STATUS > {_NOTE}"',
    }
    properties = [f"--property={name}={value}" for name, value in rules.items()]
    # In what systemd is given to start, a dollar is doubled to stand for itself.
    started = ["/usr/bin/env", *(word.replace("$", "$$") for word in [*container, *process])]
    begin = shlex.join(["sudo", "systemd-run", "--unit=ratchet", *properties, *started])
    steps = [["sudo", "docker", "pull", "--quiet", asked.image]]
    registry = asked.image.partition("/")[0]
    if registry.endswith(("gcr.io", "pkg.dev")):  # which the machine's own account may read
        steps.insert(0, ["sudo", "gcloud", "auth", "configure-docker", registry, "--quiet"])
    prepare = " && ".join(map(shlex.join, steps))
    forget = f"sudo rm --force {_NOTE}; sudo systemctl reset-failed ratchet 2> /dev/null"
    return f"{{ {prepare} && {{ {forget} || true; }} && {begin}; }}"


def submit(asked: TpuVm) -> int:
    """Runs the script until the run has ended; returns its exit code."""
    needed("gcloud")
    return hand_over(["bash", "-s"], manifest(asked))
