"""A teacher and a judge by address, on two servers that have nothing in common: ours, and that of transformers.

`make bench-teachers` installs what the second needs and writes results/teachers.json. Both serve SmolLM2. A run asks
each for answers about four short texts, is killed when a third of them are there, and goes on; then the server judges
what was said, and its verdicts are put beside those that the run gets from the same weights itself.
"""

import contextlib
import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from etils import epath  # noqa: E402
from support import changed  # noqa: E402

from ratchet.bootstrap import config_files  # noqa: E402
from ratchet.bootstrap import run as runs  # noqa: E402
from ratchet.bootstrap.generation import Generation  # noqa: E402
from ratchet.bootstrap.given import base_weights  # noqa: E402
from ratchet.bootstrap.progress import Silent  # noqa: E402
from ratchet.bootstrap.review import Reviewer  # noqa: E402
from ratchet.bootstrap.stages import transcripts  # noqa: E402
from ratchet.bootstrap.transcript import Transcript  # noqa: E402
from ratchet.launch.recipes import RECIPES  # noqa: E402
from ratchet.models import huggingface, pretrained  # noqa: E402
from ratchet.train.sharding import MeshConfig, make_mesh, state_sharding  # noqa: E402

RESULT = HERE / "results" / "teachers.json"
TEXTS, SAMPLES = 4, 2


def main() -> None:
    found, versions = {}, {name: importlib.metadata.version(name) for name in ("transformers", "openai")}
    with tempfile.TemporaryDirectory() as place:
        for name, command in commands(Path(place)).items():
            with serving(command) as address:
                found[name] = asked(Path(place) / name, address)
            print(name, json.dumps(found[name], indent=1), flush=True)
            RESULT.write_text(json.dumps(found | {"versions": versions}, indent=1) + "\n")


def commands(place: Path) -> dict[str, list[str]]:
    """How each server is started, but for its port. The second reads a folder, which is written first."""
    base, folder = pretrained.find("smollm2"), epath.Path(place) / "smollm2"
    weights = base.weights(lambda params: state_sharding(make_mesh(MeshConfig()), params))
    huggingface.save(folder, base.config, weights, "float32")
    base.tokenizer().save(folder, of_run=False)
    theirs = "from transformers.cli.transformers import main; main()"
    return {
        "transformers serve": [sys.executable, "-c", theirs, "serve", str(folder), "--device", "cpu"],
        "ratchet serve": [sys.executable, "-m", "ratchet.launch", "serve", "--base", "smollm2", "--slots", "8"],
    }


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[str]:
    """The address of a server while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    around = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}  # several threads wait for each other
    server = subprocess.Popen([*command, "--port", str(port)], env=around)
    try:
        while server.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(1)
        assert server.poll() is None, "it does not start"
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait()


def generation(place: Path, address: str) -> Generation:
    """The first generation of a run in a directory, which the server writes and judges."""
    directory = epath.Path(place)
    config = RECIPES["documents"].config
    config = runs.with_base(changed(
        config, generations=1, documents__path="tales", documents__slice=TEXTS, documents__fresh=1,
        documents__question="What does {title} say?", simulate__samples=SAMPLES, targets__kind="one_hot",
        teacher__url=address, judge__url=address, teacher__concurrency=1, judge__concurrency=1,
        simulate__new_tokens=24,
    ))  # fmt: skip
    if not config_files.begun(directory):
        config_files.save(directory, config)
    run = runs.prepare(directory, config, Silent())
    params = base_weights(config, run.mesh)
    return Generation(run, 1, 0, params, params, run.tasks(1), {t.id: t for t in run.read(1)})


def simulate(place: Path, address: str) -> None:
    """What the process does that is killed."""
    transcripts.simulate(generation(place, address))


def asked(place: Path, address: str) -> dict:
    """What the server can do, what became of the answers, and what its verdicts are worth."""
    kept = lambda: {file.name: file.stat().st_mtime_ns for file in (place / "teacher" / "answers").glob("*.json")}
    began, child = time.monotonic(), subprocess.Popen([sys.executable, __file__, "simulate", str(place), address])
    while len(kept()) < TEXTS * SAMPLES // 3 and child.poll() is None:
        time.sleep(0.05)
    child.kill()
    child.wait()
    before = kept()
    g = generation(place, address)
    written = [t for unit in transcripts.simulate(g) for t in unit]
    counts, after = g.run.teacher.counts, kept()
    assert counts.kept == len(before) and before.items() <= after.items(), "nothing is asked for twice"
    return {
        "probed": json.loads((place / "teacher" / "probe.json").read_text()),
        "answers": len(written), "ended by themselves": sum(t.finished for t in written),
        "there when the run was killed": len(before), "asked for after that": counts.answered,
        "attempts that failed": dict(counts.again), "tokens": sum(map(tokens_of, (place / "teacher").rglob("*.json"))),
        "seconds": round(time.monotonic() - began), "judge": judged(g, written),
    }  # fmt: skip


def tokens_of(file: Path) -> int:
    answer = json.loads(file.read_text()).get("answer") or {}
    return (answer.get("usage") or {}).get("total_tokens", 0)


def judged(g: Generation, written: list[Transcript]) -> dict:
    """The server's verdicts on answers, beside those of the same weights in the run's own hands."""
    criteria = tuple(c for c in g.run.rubric if c.kind == "model")
    far = replace(g.run.reviewer(g.params), criteria=criteria)
    pairs = [
        (v, own.verdicts[name])
        for theirs, own in zip(reviewed(g, far, written), reviewed(g, replace(far, far=None), written), strict=True)
        for name, v in theirs.verdicts.items()
    ]
    readable = [(v, own) for v, own in pairs if v.readable and own.readable]
    return {
        "counts": asdict(far.far.client.counts), "verdicts": len(pairs), "readable": sum(v.readable for v, _ in pairs),
        "readable by the run itself": sum(own.readable for _, own in pairs),
        "of these alike": sum(v.passed == own.passed for v, own in readable),
        "largest difference of P(yes)": max((abs(v.score - own.score) for v, own in readable), default=None),
    }  # fmt: skip


def reviewed(g: Generation, reviewer: Reviewer, written: list[Transcript]) -> list:
    return reviewer.review(written, g.read, g.passages)


if __name__ == "__main__":
    simulate(Path(sys.argv[2]), sys.argv[3]) if sys.argv[1:2] == ["simulate"] else main()
