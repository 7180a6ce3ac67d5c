"""How much of a run's time is useful when it is killed again and again, and what a kill costs.

python tests/benchmarks/killed.py, longer than an unkilled run by far, and not yet seen to its end

The run is that of `ratchet run lessons` without its imitation arm, with a checkpoint every three seconds. Its process
is killed, by SIGKILL, a minute after it began, and begun again at once, until it has ended. Shares are those that
`ratchet status` tells: useful time over all time, from the first process to the last, what was compiled left out.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

from etils import epath
from figures import report

from ratchet.bootstrap.report.goodput import goodput

RESULT = Path(__file__).parent / "results" / "killed.json"
EVERY = 60
"""Seconds that a process lives."""
RUN = "run lessons --controls.no-imitation --train.engine.save-minutes 0.05 --out"
BOUNDS = {"lessons": {"goodput": -0.95, "kills": -2}}


def lessons() -> dict[str, float]:
    place, kills = Path(tempfile.mkdtemp(prefix="killed-")) / "run", 0
    while True:
        begun = (place / "config.json").exists()
        words = [*(["resume"] if begun else RUN.split()), str(place)]
        process = subprocess.Popen([sys.executable, "-m", "ratchet.launch", *words], stdout=subprocess.DEVNULL)
        try:
            if code := process.wait(EVERY):
                sys.exit(f"killed: {place} ended with {code}")
            break
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    found = goodput(epath.Path(place))
    lost = found["total_elapsed_time"] - found["goodput_time"] - found["badput_time"].get("PROGRAM_STARTUP", 0.0)
    return {
        "goodput": found["share"],
        "kills": kills,
        "seconds in all": found["total_elapsed_time"],
        "seconds lost to a kill": lost / max(kills, 1),
        **found["badput_time"],
    }


if __name__ == "__main__":
    report(sys.argv[1:], {"lessons": lessons}, BOUNDS, RESULT)
