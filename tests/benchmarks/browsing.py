"""A run of 100,000 transcripts in a browser: how soon its pages are there, while they are indexed and afterwards.

python tests/benchmarks/browsing.py [NUMBER OF TRANSCRIPTS], two minutes.

The run is made: answers of 40 to 60 words, which are as frequent as those of a language, judged by 14 criteria, in four
generations. Every record has a capture of the size of a real one beside its text.
"""

import json
import random
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from urllib.parse import quote

import uvicorn
from etils import epath
from figures import report

from ratchet.bootstrap import config_files
from ratchet.bootstrap.config import Config
from ratchet.launch.ui import following as followed
from ratchet.launch.ui.app import Site
from ratchet.train.files import write_json, write_unit

RESULT = Path(__file__).parent / "results" / "browsing.json"
COUNT, GENERATIONS, UNIT, CRITERIA, CAPTURE = 100_000, 4, 1000, 14, 6000
BOUNDS = {"transcripts": {"first view, s": 1.0, "first view while indexing, s": 1.0, "slowest search, s": 1.0}}
WORDS = [f"w{n}" for n in range(50_000)]
WEIGHTS = list(accumulate(1 / (n + 10) for n in range(len(WORDS))))
SEARCHES = (
    "words=w0", "words=w1&verdict=failed", "words=w4999", "words=w12+w40", "words=%22w0+w1%22", "words=9999",
    "words=nowhere", "criterion=c3&verdict=failed", "criterion=c3&verdict=passed&words=w2", "generation=2&page=900",
    "words=w0&page=2000",
)  # fmt: skip
"""Frequent and rare words, several, a phrase, parts of words, what is nowhere, filters, and pages far behind."""


def make(directory: epath.Path, count: int) -> None:
    """A run whose records have the fields of real ones."""
    rng = random.Random(0)
    config_files.save(directory, Config(generations=GENERATIONS))
    capture = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=CAPTURE))
    for number in range(0, count, UNIT):
        generation = 1 + number * GENERATIONS // count
        place, unit = directory / f"gen-{generation:03d}", number // UNIT
        made = [transcript(rng, f"{number + n:016x}", generation, capture) for n in range(min(UNIT, count - number))]
        reviews = [review(rng, t["id"]) for t in made]
        for stage, records in (("simulate", made), ("review", reviews)):
            (place / stage).mkdir(parents=True, exist_ok=True)
            path = place / stage / f"unit-{unit:05d}.array_record"
            digest = write_unit(path, [json.dumps(record).encode() for record in records])
            write_json(path.with_suffix(".json"), {"sha256": digest, "inputs": ""})


def transcript(rng: random.Random, name: str, generation: int, capture: str) -> dict:
    said = lambda count: " ".join(rng.choices(WORDS, cum_weights=WEIGHTS, k=count))
    asked, answer = said(12), said(rng.randint(40, 60))
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    about = {"id": name, "task_id": str(rng.randrange(20_000)), "generation": generation, "source": "answer"}
    return about | {"text": answer, "forced_text": "", "messages": messages, "capture": capture}


def review(rng: random.Random, name: str) -> dict:
    verdicts = {f"c{n}": {"score": rng.random(), "passed": rng.random() < 0.9, "reason": ""} for n in range(CRITERIA)}
    accepted = all(verdict["passed"] for verdict in verdicts.values())
    return {"transcript_id": name, "verdicts": verdicts, "accepted": accepted}


def seconds(address: str) -> float:
    """Until all of a page is there."""
    began = time.monotonic()
    with urllib.request.urlopen(address, timeout=60) as answer:
        answer.read()
    return time.monotonic() - began


def shown(runs: list) -> Iterator[str]:
    """The address of a server."""
    server = uvicorn.Server(uvicorn.Config(Site(runs).app(), port=0, log_config=None, access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def measured(count: int) -> dict[str, float]:
    """Seconds of each kind of page."""
    with tempfile.TemporaryDirectory() as folder:
        followed.cached = lambda directory: Path(folder) / "index.sqlite"
        directory = epath.Path(folder) / "run"
        make(directory, count)
        pages = ["/runs/0/transcripts", "/runs/0", "/"]
        found: dict[str, float] = {"transcripts": count}
        with followed.following([directory]) as runs:
            for address in shown(runs):
                began = time.monotonic()
                first, during = [seconds(address + path) for path in pages], []
                while runs[0].index.left():
                    during += [seconds(address + path) for path in pages]
                    time.sleep(0.5)
                found |= {"indexed in, s": time.monotonic() - began, "index, GiB": _size(Path(folder)) / 2**30}
                found |= {"first page of all, s": max(first), "pages while indexing, s": statistics.median(during)}
                found["first view while indexing, s"] = max(*first, *during)
        with followed.following([directory]) as runs:
            for address in shown(runs):
                found["first view, s"] = max(seconds(address + path) for path in pages)
                for asked in SEARCHES:
                    found[f"search {asked}, s"] = seconds(f"{address}/runs/0/transcripts?{asked}")
                name = quote(f"{count // 2:016x}")
                found["one transcript, s"] = seconds(f"{address}/runs/0/transcripts/{name}")
        found["slowest search, s"] = max(value for name, value in found.items() if name.startswith("search "))
    return found


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("index.sqlite*"))


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    report([], {"transcripts": lambda: measured(count)}, BOUNDS, RESULT)
