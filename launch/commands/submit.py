"""`submit`: a run for several processes, here or on a platform."""

import sys

from ratchet.bootstrap.engines import check_slots
from ratchet.launch import preflight
from ratchet.launch.options import UserError, asks_for_help, lacks_base, parse_run, value_of
from ratchet.launch.output import make_console, quiet
from ratchet.launch.submit import PLATFORMS
from ratchet.launch.submit.asked import OnSlices
from ratchet.launch.submit.local import Local
from ratchet.launch.submit.slurm import Slurm
from ratchet.train.sharding import mesh_shape


def submit(words: list[str]) -> int:
    to = value_of("--to", words)
    if to not in PLATFORMS and not (asks_for_help(words) and not to):
        named = f"there is no platform {to!r}" if to else "say where to run it"
        raise UserError(f"submit: {named}; give --to {', '.join(list(PLATFORMS)[:-1])} or {list(PLATFORMS)[-1]}")
    platform = PLATFORMS[to or "local"]
    asked = parse_run("submit", platform.kind, words)
    if reason := lacks_base(asked.config):
        raise UserError(f"submit: {reason}")
    manifest = platform.manifest(asked)  # before anything slow: what it refuses is known at once
    if asked.dry_run:
        print(manifest, end="")
        return 0
    quiet()
    if not isinstance(asked, OnSlices):
        _check_that_it_divides(asked)
    elif not asked.force:
        _check_that_it_fits(asked)
    return platform.submit(asked)


def _check_that_it_divides(asked: Slurm | Local) -> None:
    """Says why preflight is not asked about a machine that has no TPUs, and looks at what is known without a compiler:
    whether the mesh and the sampler's slots divide over a cluster's devices. Raises UserError where they do not."""
    where = "the run begins on this machine and shows it at once"
    if isinstance(asked, Slurm):
        where = "programs for GPUs are compiled where there are some, and the job shows it when it begins"
        try:
            data, fsdp, _ = mesh_shape(asked.config.mesh, asked.nodes * asked.gpus)
            check_slots(asked.config, data * fsdp)
        except ValueError as error:
            raise UserError(f"submit: on {asked.nodes} nodes of {asked.gpus} GPUs: {error}") from None
    print(f"submit: preflight was not asked whether the run fits: {where}", file=sys.stderr, flush=True)


def _check_that_it_fits(asked: OnSlices) -> None:
    """Compiles all steps of a generation and prints what they take. Raises UserError for what does not fit."""
    question = preflight.Preflight(
        asked.config, asked.topology, asked.slices, "generation", dollars_per_chip_hour=asked.dollars_per_chip_hour
    )
    found = preflight.preflight(question, lambda text: print(text, file=sys.stderr, flush=True))
    preflight.show(found, make_console(aside=True))
    if too_large := [step for step, one in found["steps"].items() if not one["fits"]]:
        raise UserError(
            f"submit: {' and '.join(too_large)} would not fit {asked.topology}; change what the table advises, take "
            "more chips, or submit all the same with --force"
        )
