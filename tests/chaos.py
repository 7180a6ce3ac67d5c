"""Kills runs of three worlds at random moments, goes on with them, and compares them with runs that nothing stopped.

python tests/chaos.py [KILLS [SEED]] [--bucket gs|s3], twenty minutes for 40 kills on two cores

Every run is the command in a process of its own, or in two that run together. Every kill is a SIGKILL or a SIGTERM, of
one process or of both, at a random moment after the run began to write. Of two processes one may also hang: a SIGSTOP,
after which the other has to end by itself. Two processes are compared with one that has as many devices. A run that
ends before its world's kills are spent is followed by another. Prints the place of each kill, how long what was left of
the processes took to end, and how many files differ; the exit status is 1 when any does that counts.

With a bucket, of Google's kind or of Amazon's, the runs that are killed are in one on this machine, which now and then
refuses, and a process works alone: of those that worked together, only silence would tell that all are gone.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

os.environ["JAX_PLATFORMS"] = "cpu"

import fsspec
import portpicker
import stores
from etils import epath
from runs import LEFT_OUT, contents, different
from support import write_model

from ratchet.train.buckets import in_bucket
from ratchet.train.stopping import AGAIN

SUMS = "--arithmetic.columns 1 --arithmetic.worked 12 --arithmetic.slice 6 --arithmetic.pages 1 --arithmetic.asked 2"
WORLDS = {
    "lessons": "--world lessons --wrongthink.sources contrast spoiled",
    "arithmetic": f"--world arithmetic {SUMS} --generations 1 --wrongthink.first-generation 1",
    "mute": "--world mute:create --base {base} --simulate.new-tokens 16 --simulate.calls 0 --train.batch 4"
    " --model.max-length 192 --train.columns 192 --controls.no-imitation --controls.random-share 0.7",
}
"""How the recipe `tiny` is changed: the embedded worlds, and one of documents that a folder's model reads."""
PROCESSES = {"lessons": 1, "arithmetic": 2, "mute": 1, "lessons together": 2}
"""How many processes work on a run, by the world and perhaps more words."""
BUCKETS = {"gs": stores.google, "s3": stores.amazon}
"""Stores on this machine by the kind of their buckets."""
DEVICES = 2
ENDS = {0, -signal.SIGKILL, -signal.SIGABRT, AGAIN, 128 + signal.SIGTERM}
"""How a process may end that was killed, or whose peer was. JAX aborts what waits for a peer that is gone."""


class Command(NamedTuple):
    """`ratchet run` of one world and place, or `ratchet resume` once there is something to go on with, in so many
    processes, which have two devices together."""

    place: epath.Path
    settings: Sequence[str]
    processes: int
    said: Path
    """The file of this machine that its errors go to."""

    def start(self) -> list[subprocess.Popen]:
        begun, port = (self.place / "config.json").exists(), portpicker.pick_unused_port()
        words = ["resume", self.place] if begun else ["run", "tiny", "--out", self.place, *self.settings]
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        devices = {"JAX_NUM_CPU_DEVICES": str(DEVICES // self.processes), "NPROC": str(DEVICES)}
        joined = [["--join", f"localhost:{port}/{self.processes}/{n}"] for n in range(self.processes)]
        with self.said.open("w") as said:
            return [
                subprocess.Popen(
                    [sys.executable, "-m", "ratchet.launch", *map(str, words), *(more if self.processes > 1 else [])],
                    env=os.environ | {"PYTHONPATH": path} | devices, stdout=subprocess.DEVNULL, stderr=said,
                )
                for more in joined
            ]

    def newest(self) -> tuple[str, str]:
        """When something was last written in the run, and what it was; not who works on it, or TensorBoard's files."""
        there = self._in_a_bucket() if in_bucket(self.place) else self._on_a_disk()
        passed_by = {"tensorboard", "lock", "working.json", "working"}
        own = ((when, name) for when, name in there if not passed_by & {*name.split("/")})
        return max(own, default=("", "nothing"))

    def _on_a_disk(self) -> Iterator[tuple[str, str]]:
        for file in Path(self.place).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # it may be renamed meanwhile
                if file.is_file():
                    yield f"{file.stat().st_mtime_ns:020d}", str(file.relative_to(self.place))

    def _in_a_bucket(self) -> Iterator[tuple[str, str]]:
        store, place = fsspec.core.url_to_fs(str(self.place))
        for name, found in store.find(place, detail=True).items():
            if when := found.get("updated") or found.get("LastModified"):  # not where only the beginning of a name is
                yield str(when), name.removeprefix(f"{place}/")

    def lives(self, seconds: float | None, number: int = signal.SIGKILL, struck: Sequence[int] = ()) -> float | None:
        """Goes on until so many seconds after it first writes something, when a signal of this number strikes some of
        its processes, or to the end; None if it came to it, else how many seconds the others took to end. Processes
        that hang are killed once the others have noticed."""
        before, started = self.newest()[0], self.start()
        while all(process.poll() is None for process in started) and self.newest()[0] == before:
            time.sleep(0.02)
        struck_at = time.monotonic()
        try:
            started[0].wait(seconds)
        except subprocess.TimeoutExpired:
            struck_at = time.monotonic()
            for index in struck:
                started[index].send_signal(number)
            if number == signal.SIGSTOP:
                for index in set(range(len(started))) - set(struck):
                    started[index].wait()
                for index in struck:
                    started[index].kill()
        codes = [process.wait() for process in started]
        took = time.monotonic() - struck_at
        if not {*codes} <= ENDS:
            sys.exit(f"chaos: {self.place} ended with {codes}: {self.said.read_text()[-2000:]}")
        return took if any(codes) else None


def chaos(
    world: str, settings: Sequence[str], kills: int, rng: random.Random, out: Path, bucket: epath.Path | None
) -> list[str]:
    """Spends the kills on runs of one world, in a bucket if there is one; returns what differs from a run on a disk
    that nothing stopped."""
    name, number, runs, strange = world.replace(" ", "-"), 0, 0, []
    processes = 1 if bucket else PROCESSES[world]
    of = lambda place, count: Command(place, settings, count, out / f"{place.name}.err")
    began, whole = time.monotonic(), epath.Path(out) / f"{name}-whole"
    of(whole, 1).lives(None)
    took = time.monotonic() - began
    print(f"{world}: {len(contents(whole))} things that count, made in {took:.0f} s", flush=True)
    while number < kills:
        command = of((bucket or epath.Path(out)) / f"{name}-{runs}", processes)
        while number < kills:
            after, struck = rng.uniform(0.0, took / 3), rng.choice([range(processes), [rng.randrange(processes)]])
            hang = [signal.SIGSTOP] if len(struck) < processes else []
            which = rng.choice([signal.SIGKILL, signal.SIGTERM, *hang])
            if (ended := command.lives(after, which, struck)) is None:
                break
            number += 1
            print(
                f"{world}: {which.name} {number} of process {', '.join(map(str, struck))} after {after:.1f} s; "
                f"{command.newest()[1]} was written last; all had ended {ended:.1f} s later", flush=True,
            )  # fmt: skip
        else:
            command.lives(None)
        found, runs = different(whole, command.place), runs + 1
        strange += [f"{command.place.name}/{thing}" for thing in found]
        print(f"{world}: {command.place.name} has ended, {len(found)} things differ", flush=True)
    return strange


@contextlib.contextmanager
def refusing_bucket(kind: str | None) -> Iterator[epath.Path | None]:
    """A bucket of a kind, which now and then refuses; None where no kind is asked for."""
    if kind is None:
        yield None
        return
    with BUCKETS[kind]() as store:
        store.refuse = stores.now_and_then(500)
        yield store.bucket


def main(kills: int, seed: int, bucket: str | None) -> int:
    out, rng, began = Path(tempfile.mkdtemp(prefix="chaos-")), random.Random(seed), time.monotonic()
    print(f"{out}; these do not count:")
    for name, why in LEFT_OUT.items():
        print(f"  {name}: {why}")
    (out / "base").mkdir()
    base, strange = write_model(out / "base"), []
    worlds = list(WORLDS if bucket else PROCESSES)
    with refusing_bucket(bucket) as place:
        for number, world in enumerate(worlds):
            own = kills // len(worlds) + (number < kills % len(worlds))
            settings = WORLDS[world.split()[0]].format(base=base).split()
            strange += chaos(world, settings, own, rng, out, place)
    minutes = (time.monotonic() - began) / 60
    print(f"{kills} kills in {minutes:.1f} minutes, {len(strange)} things differ", *strange, sep="\n  ")
    return 1 if strange else 0


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("kills", type=int, nargs="?", default=40)
    asked.add_argument("seed", type=int, nargs="?", default=0)
    asked.add_argument("--bucket", choices=list(BUCKETS))
    sys.exit(main(**vars(asked.parse_args())))
