"""Preflight of Qwen3's shapes: training on five topologies, sampling and scoring on one.

python tests/benchmarks/preflights.py [RESULT.json], twenty minutes.
"""

import json
import subprocess
import sys
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "preflight.json"
SHAPES = ("qwen3-0.6b", "qwen3-1.7b", "qwen3-8b")
TOPOLOGIES = (("v5e:4x4", 1), ("v5e:16x16", 1), ("v6e:4x4", 1), ("v5p:2x2x2", 1), ("v5e:4x4", 2))
ASKED = [("train", *where) for where in TOPOLOGIES] + [(step, *TOPOLOGIES[0]) for step in ("sample", "score")]


def main(result: Path) -> None:
    found = {}
    for shape in SHAPES:
        for step, topology, slices in ASKED:
            words = ["preflight", shape, "--topology", topology, "--slices", str(slices), "--step", step, "--json"]
            run = subprocess.run([sys.executable, "-m", "ratchet.launch", *words], capture_output=True, text=True)
            if run.returncode not in (0, 1):
                sys.exit(f"{' '.join(words)}: {run.stderr[-500:]}")
            found[f"{step} {shape} on {slices} × {topology}"] = one = json.loads(run.stdout)
            needed = one["memory"]["needed"]
            memory = "-" if needed is None else f"{needed / 2**30:.2f} GiB"
            bound = one.get("bound", {}).get("by")
            print(step, shape, topology, slices, memory, one["memory"]["of"], bound, flush=True)
            result.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RESULT)
