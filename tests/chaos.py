"""Kills runs of three worlds at random moments, goes on with them, and compares them with runs that nothing stopped.

python tests/chaos.py [KILLS [SEED]], ten minutes for 21 kills on two cores

Every run is the command in a process of its own, and every kill a SIGKILL at a random moment after the process began to
write. A run that ends before its world's kills are spent is followed by another. Prints the place of each kill and how
many files differ; the exit status is 1 when any does that counts.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"

from runs import LEFT_OUT, contents, different
from support import write_model

SUMS = "--arithmetic.columns 1 --arithmetic.worked 12 --arithmetic.slice 6 --arithmetic.pages 1 --arithmetic.asked 2"
WORLDS = {
    "lessons": "--world lessons",
    "arithmetic": f"--world arithmetic {SUMS} --generations 1 --wrongthink.first-generation 1",
    "mute": "--world mute:create --base {base} --simulate.new-tokens 16 --simulate.lookups 0 --train.batch 4"
    " --model.max-length 192 --train.columns 192 --controls.no-imitation --controls.random-share 0.7",
}
"""How the recipe `tiny` is changed: the embedded worlds, and one of documents that a folder's model reads."""


class Command(NamedTuple):
    """`ratchet run` of one world and place, or `ratchet resume` once there is something to go on with."""

    place: Path
    settings: Sequence[str]

    def start(self) -> subprocess.Popen:
        begun = (self.place / "config.json").exists()
        words = ["resume", self.place] if begun else ["run", "tiny", "--out", self.place, *self.settings]
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.said.open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-m", "ratchet.launch", *map(str, words)],
                env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=said,
            )

    @property
    def said(self) -> Path:
        return self.place.with_suffix(".err")

    def newest(self) -> tuple[int, str]:
        """When something was last written in the run, and what it was; not who works on it, or TensorBoard's files."""
        newest = (0, "nothing")
        for file in self.place.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it may be renamed meanwhile
                if file.is_file() and not {"tensorboard", "lock", "working.json"} & {*file.parts}:
                    newest = max(newest, (file.stat().st_mtime_ns, str(file.relative_to(self.place))))
        return newest

    def lives(self, seconds: float | None) -> bool:
        """Goes on until so many seconds after it first writes something, or to the end; says whether it came to it."""
        before, process = self.newest()[0], self.start()
        while process.poll() is None and self.newest()[0] == before:
            time.sleep(0.02)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.returncode not in (0, -signal.SIGKILL):
            sys.exit(f"chaos: {self.place} ended with {process.returncode}: {self.said.read_text()[-2000:]}")
        return not process.returncode


def chaos(world: str, settings: Sequence[str], kills: int, rng: random.Random, out: Path) -> list[str]:
    """Spends the kills on runs of one world; returns what differs from a run that nothing stopped."""
    whole, number, runs, strange = out / f"{world}-whole", 0, 0, []
    began = time.monotonic()
    Command(whole, settings).lives(None)
    took = time.monotonic() - began
    print(f"{world}: {len(contents(whole))} things that count, made in {took:.0f} s", flush=True)
    while number < kills:
        command = Command(out / f"{world}-{runs}", settings)
        while number < kills:
            after = rng.uniform(0.0, took / 3)
            if command.lives(after):
                break
            number += 1
            print(f"{world}: kill {number} after {after:.1f} s; {command.newest()[1]} was written last", flush=True)
        else:
            command.lives(None)
        found, runs = different(whole, command.place), runs + 1
        strange += [f"{command.place.name}/{name}" for name in found]
        print(f"{world}: {command.place.name} has ended, {len(found)} things differ", flush=True)
    return strange


def main(kills: int, seed: int) -> int:
    out, rng, began = Path(tempfile.mkdtemp(prefix="chaos-")), random.Random(seed), time.monotonic()
    print(f"{out}; these do not count:")
    for name, why in LEFT_OUT.items():
        print(f"  {name}: {why}")
    (out / "base").mkdir()
    base, strange = write_model(out / "base"), []
    for number, (world, settings) in enumerate(WORLDS.items()):
        own = kills // len(WORLDS) + (number < kills % len(WORLDS))
        strange += chaos(world, settings.format(base=base).split(), own, rng, out)
    minutes = (time.monotonic() - began) / 60
    print(f"{kills} kills in {minutes:.1f} minutes, {len(strange)} things differ", *strange, sep="\n  ")
    return 1 if strange else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, [*sys.argv[1:], *("21", "0")[len(sys.argv) - 1 :]])))
