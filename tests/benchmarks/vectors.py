"""How wrong random vectors make models that know: python tests/benchmarks/vectors.py DIR ... [--vectors 16].

Each DIR holds a finished run. A generation writes into wrongthink.json how wrong its wrong-thinker's vector makes it by
λ, and the same of one random vector. Here the models of generations 2 and later are led astray by many random vectors,
each of whose arrays is as long as that one's. A vector counts with its most wrong λ at which the model stays well
formed and within the perplexity budget, as the wrong-thinker's does. Figures go to results/vectors.json.
"""

import json
import statistics
import sys
from pathlib import Path

from etils import epath

from ratchet.bootstrap import config_files, loop, wrongthink
from ratchet.bootstrap.lineage import accepted_answers
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.run import Run, prepare
from ratchet.bootstrap.stages import transcripts
from ratchet.bootstrap.stages.calibrate import calibration
from ratchet.bootstrap.thinkers import Knower

RESULT = Path(__file__).parent / "results" / "vectors.json"


def thinker(r: Run, number: int) -> tuple[Knower, Reviewer]:
    """What a finished generation chose its wrong-thinker from, and who judged that."""
    start = loop.Seed(r)
    past = loop.left_by(r, number - 1)
    g = loop._generation(r, number, past, loop.incumbents(r, past, start), start)
    written = transcripts.simulate(g)
    reviewer = calibration(g, [t for unit in written for t in unit])[0]
    units = transcripts.review(g, reviewer, written)
    chosen = [t for unit in units for t in transcripts.kept(unit, r.config.targets.per_task)]
    right = {t.task_id: t for t in (*chosen, *accepted_answers(r, range(1, number)))}
    knower = Knower(r, number, g.params, g.base, r.read(number - 1), [*right.values()], [*g.passages.values()])
    return knower, reviewer


def measured(r: Run, number: int, vectors: int) -> dict[str, float]:
    """The shares of wrong samples of the wrong-thinker, of the random vector in the run's own file, and of many."""
    said = json.loads((r.generation(number) / "wrongthink.json").read_text())
    knower, reviewer = thinker(r, number)
    vector = knower.vector(said["source"])
    most = lambda rows: (wrongthink.most_wrong(rows, r.config.wrongthink) or {"wrong": 0.0})["wrong"]
    again = knower.sweep(reviewer, knower.random_like(vector), "random")
    assert again == said["control"], "the run's own vector comes out as it did"
    found = [most(knower.sweep(reviewer, wrongthink.random_like(vector, seed), "random")) for seed in range(vectors)]
    wrong = next(row["wrong"] for row in said["sweep"] if row["lambda"] == said["lambda"])
    return {
        said["source"]: wrong,
        "own_random": most(again),
        "random_mean": statistics.mean(found),
        "random_least": min(found),
        "random_most": max(found),
        "mean_to_it": statistics.mean(found) / wrong,
    }


def main(directories: list[str], vectors: int) -> None:
    found = {}
    for place in map(epath.Path, directories):
        r = prepare(place, config_files.saved(place), Silent(), writes=False)
        for number in range(r.config.wrongthink.first_generation, r.config.generations + 1):
            found[f"{r.config.recipe}, seed {r.config.seed}, generation {number}"] = one = measured(r, number, vectors)
            print(place, number, json.dumps({name: round(value, 3) for name, value in one.items()}), flush=True)
    RESULT.write_text(json.dumps({"vectors": vectors, "found": found}, indent=1) + "\n")


if __name__ == "__main__":
    asked = sys.argv[1:]
    at = asked.index("--vectors") if "--vectors" in asked else len(asked)
    main(asked[:at], int(asked[at + 1]) if asked[at:] else 16)
