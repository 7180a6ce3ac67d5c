"""Kills runs in a bucket at random moments, goes on with them, and compares them with runs on a disk.

python tests/chaos_bucket.py KILLS SEED gs|s3

The bucket, of Google's kind or of Amazon's, is one on this machine, which now and then refuses.

Every run is the command in a process of its own, and every kill a SIGKILL at a random moment after the process began to
write. A run that ends before its world's kills are spent is followed by another. Prints the place of each kill and how
many files differ; the exit status is 1 when any does that counts.
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
import stores
from chaos import WORLDS
from etils import epath
from runs import LEFT_OUT, contents, different
from support import write_model

from ratchet.train.buckets import in_bucket

SOON = (
    "from ratchet.launch.__main__ import entry\n"
    "from ratchet.train import holder\n"
    "holder.BEAT, holder.SILENCE = 0.5, 2.0\n"
    "entry()"
)
"""The command, which in a bucket waits two seconds for who was killed, in place of ninety."""
BUCKETS = {"gs": stores.google, "s3": stores.amazon}
"""Stores on this machine by the kind of their buckets."""


class Command(NamedTuple):
    """`ratchet run` of one world and place, or `ratchet resume` once there is something to go on with."""

    place: epath.Path
    settings: Sequence[str]
    said: Path
    """The file of this machine that its errors go to."""

    def start(self) -> subprocess.Popen:
        begun = (self.place / "config.json").exists()
        words = ["resume", self.place] if begun else ["run", "tiny", "--out", self.place, *self.settings]
        path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        with self.said.open("w") as said:
            return subprocess.Popen(
                [sys.executable, "-c", SOON, *map(str, words)],
                env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=said,
            )

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
            yield str(found.get("updated") or found["LastModified"]), name.removeprefix(f"{place}/")

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


def chaos(
    world: str, settings: Sequence[str], kills: int, rng: random.Random, out: Path, where: epath.Path
) -> list[str]:
    """Spends the kills on runs of one world; returns what differs from a run on a disk that nothing stopped."""
    whole, number, runs, strange = epath.Path(out) / f"{world}-whole", 0, 0, []
    began = time.monotonic()
    Command(whole, settings, out / f"{world}-whole.err").lives(None)
    took = time.monotonic() - began
    print(f"{world}: {len(contents(whole))} things that count, made in {took:.0f} s", flush=True)
    while number < kills:
        command = Command(where / f"{world}-{runs}", settings, out / f"{world}-{runs}.err")
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


def main(kills: int, seed: int, kind: str) -> int:
    out, rng, began = Path(tempfile.mkdtemp(prefix="chaos-")), random.Random(seed), time.monotonic()
    print(f"{out}; these do not count:")
    for name, why in LEFT_OUT.items():
        print(f"  {name}: {why}")
    (out / "base").mkdir()
    base, strange = write_model(out / "base"), []
    with BUCKETS[kind]() as store:
        store.refuse = stores.now_and_then(500)
        for number, (world, settings) in enumerate(WORLDS.items()):
            own = kills // len(WORLDS) + (number < kills % len(WORLDS))
            strange += chaos(world, settings.format(base=base).split(), own, rng, out, store.bucket)
    minutes = (time.monotonic() - began) / 60
    print(f"{kills} kills in {minutes:.1f} minutes, {len(strange)} things differ", *strange, sep="\n  ")
    return 1 if strange else 0


if __name__ == "__main__":
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("kills", type=int)
    asked.add_argument("seed", type=int)
    asked.add_argument("kind", choices=list(BUCKETS))
    sys.exit(main(**vars(asked.parse_args())))
