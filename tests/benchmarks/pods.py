"""What preflight predicts of the recipes for pods, on the topologies that they name: the table of
launch/recipes/README.md. A prediction is no measurement.

python tests/benchmarks/pods.py [RESULT.json]: half an hour on two cores. What the file holds already is not compiled
again. The last columns are the seconds that each of the three programs took, and those that the processor worked.
"""

import json
import subprocess
import sys
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "pods.json"
LARGE = ["--train.engine.micro-batches", "1", "--simulate.slots", "2048"]
"""For 256 chips: a part of a batch has a row for each."""
ASKED = [
    ("pod-0.6b", "v5e:4x4", []),
    ("pod-0.6b", "v6e:4x4", []),
    ("pod-1.7b", "v5e:4x4", []),
    ("pod-8b", "v6e:4x4", []),
    ("pod-1.7b", "v6e:4x4", []),
    ("pod-0.6b", "v5p:2x2x1", []),
    ("pod-8b", "v5p:2x2x1", []),
    ("pod-1.7b", "v5p:2x2x1", []),
    ("pod-8b", "v5e:16x16", [*LARGE[:2], "--mesh.tensor", "4", "--simulate.slots", "1024"]),
    ("pod-0.6b", "v5e:16x16", LARGE),
    ("pod-1.7b", "v5e:16x16", LARGE),
    ("pod-0.6b", "h100:8", []),
    ("pod-1.7b", "h100:8", []),
    ("pod-8b", "h100:8", []),
]


def main(result: Path) -> None:
    found = json.loads(result.read_text()) if result.exists() else {}
    for recipe, topology, more in ASKED:
        name = " ".join([recipe, "on", topology, *more])
        if name not in found:
            words = ["preflight", recipe, "--topology", topology, "--step", "generation", *more, "--json"]
            run = subprocess.run([sys.executable, "-m", "ratchet.launch", *words], capture_output=True, text=True)
            if run.returncode not in (0, 1):
                sys.exit(f"{name}: {run.stderr[-500:]}")
            found[name] = json.loads(run.stdout)
            result.write_text(json.dumps(found, indent=1))
        print(_row(name, found[name]), flush=True)


def _row(name: str, one: dict) -> str:
    needed = [step["memory"]["needed"] for step in one["steps"].values()]
    memory = " ".join("–" if n is None else f"{n / 2**30:.1f}" for n in needed)
    of = f"{one['steps']['train']['memory']['of'] / 2**30:.0f}"
    took = " | ".join(
        " ".join(f"{step[what]}" for step in one["steps"].values()) for what in ("seconds", "processor_seconds")
    )
    if not one["fits"]:
        return f"| {name} | {memory} of {of} | does not fit | | | | | | {took} |"
    p = one["predicted"]
    rates = (p["trained_tokens_a_second"], p["sampled_tokens_a_second"], p["questions_a_second"])
    cells = [name, f"{memory} of {of}", f"{p['step_seconds']:.2f} s", *(f"{rate:,.0f}" for rate in rates)]
    hours = f"{p['hours']:.2f}", f"{p['hours'] * one['chips']:.1f}"
    return "| " + " | ".join([*cells, *hours, took]) + " |"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT)
