"""`submit`: a run for several processes, here or on a platform."""

import sys

from ratchet.launch import preflight
from ratchet.launch.options import UserError, asks_for_help, parse_run, value_of
from ratchet.launch.output import make_console, quiet
from ratchet.launch.submit import PLATFORMS
from ratchet.launch.submit.asked import OnSlices


def submit(words: list[str]) -> int:
    to = value_of("--to", words)
    if to not in PLATFORMS and not (asks_for_help(words) and not to):
        named = f"there is no platform {to!r}" if to else "say where to run it"
        raise UserError(f"submit: {named}; give --to {', '.join(list(PLATFORMS)[:-1])} or {list(PLATFORMS)[-1]}")
    platform = PLATFORMS[to or "local"]
    asked = parse_run("submit", platform.kind, words)
    manifest = platform.manifest(asked)  # before anything slow: what it refuses is known at once
    if asked.dry_run:
        print(manifest, end="")
        return 0
    quiet()
    if isinstance(asked, OnSlices) and not asked.force:
        _check_that_it_fits(asked)
    return platform.submit(asked)


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
