"""A million short documents: read, cut into passages, indexed and sampled, with the time and memory that it takes.

python tests/benchmarks/reading.py [NUMBER OF DOCUMENTS], ten minutes for a million.

The documents are made: 40 to 60 words each, which are as frequent as those of a language, and one in fifty repeats the
one before.
"""

import json
import random
import resource
import sys
import tempfile
import time
from itertools import accumulate
from pathlib import Path

from figures import report

from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.passages import passages_of
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.worlds import DocumentsConfig, load

RESULT = Path(__file__).parent / "results" / "reading.json"
COUNT = 1_000_000
WORDS, REPEATED, SAMPLED = 200_000, 50, 200
ASKED = "What does {title} say?"
BOUNDS = {"documents": {"GiB": 6.0}}


def make(path: Path, count: int) -> None:
    """Documents of words that are as frequent as their rank says (Zipf's law)."""
    rng, words = random.Random(0), [f"w{n}" for n in range(WORDS)]
    weights = list(accumulate(1 / (n + 10) for n in range(WORDS)))
    with path.open("w") as file:
        for number in range(count):
            if not number or number % REPEATED:
                text = " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(40, 60))) + "."
            file.write(json.dumps({"id": f"d{number}", "text": text, "license": "CC0"}) + "\n")


def measured(count: int) -> dict[str, float]:
    """Seconds by step, the most memory, and how many documents there were."""
    found: dict[str, float] = {"made": count}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.jsonl"
        make(path, count)
        began = time.monotonic()

        def done(step: str) -> None:
            nonlocal began
            found[f"seconds to {step}"] = time.monotonic() - began
            began = time.monotonic()

        config = DocumentsConfig(str(path), question=ASKED, slice=count, fresh=1000)
        world = load("documents", (config, None, None), 0, 1, read)
        done("read")
        passages = passages_of((*world.fresh.documents, *world.slices[0].documents), 200)
        done("cut")
        index = Index(passages)
        done("index")
        for task in random.Random(1).sample(world.slices[0].tasks, SAMPLED):
            (own,) = index.of(task.document_ids[0], task.question)
            assert own in index.search(" ".join(own.text.split()[:12]), 3)
        done(f"sample {SAMPLED}")
    gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found | {"read": len(passages), "GiB": gib}


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    report([], {"documents": lambda: measured(count)}, BOUNDS, RESULT)
