"""What each criterion of the review is worth on labelled questions: python tests/benchmarks/reviewing.py FILE [COUNT].

FILE holds passages with questions as SQuAD has them, one a line: `title`, `context`, `questions` (`question`,
`answer`). SmolLM2 answers COUNT of the questions three times each, with their passages in view, and reviews what it
said. An answer is right when it holds the known one, or shares half of its words with it. A table is printed, and
results/reviewing.json written: the AUC of every criterion that has a score, with its 95 % interval, and precision and
recall of the whole review, as the rubric has it and calibrated on these same answers.
"""

import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from support import changed, start  # noqa: E402

from ratchet.bootstrap import run as runs  # noqa: E402
from ratchet.bootstrap.calibration import ReviewerBelowFloor, calibrate, measure  # noqa: E402
from ratchet.bootstrap.given import base_weights  # noqa: E402
from ratchet.bootstrap.probes import labelled_probes, own_answers  # noqa: E402
from ratchet.bootstrap.progress import Silent  # noqa: E402
from ratchet.bootstrap.review import Reviewer  # noqa: E402
from ratchet.bootstrap.rubric import Criterion  # noqa: E402
from ratchet.bootstrap.run import Run  # noqa: E402
from ratchet.bootstrap.transcript import Review  # noqa: E402
from ratchet.launch.recipes import RECIPES  # noqa: E402

RESULT = HERE / "results" / "reviewing.json"
COUNT, PRECISION = 80, 0.9
VERBATIM = Criterion(id="verbatim", kind="rule", question="Does it stand in a source?", standing="advisory")


@dataclass(frozen=True)
class Done(Reviewer):
    """A reviewer that has reviewed all that it is asked about."""

    reviews: tuple[Review, ...] = ()

    def review(self, *_, **__) -> list[Review]:
        return [*self.reviews]


def main(file: str, count: int = COUNT) -> None:
    began = time.process_time()
    with tempfile.TemporaryDirectory() as place:
        found = measured(prepared(Path(place), file, count))
    found |= {"questions": count, "cpu_minutes": round((time.process_time() - began) / 60, 1)}
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    for name, c in found["criteria"].items():
        auc = "{value:.2f} ({low:.2f}-{high:.2f})".format(**c["auc"]) if c["auc"] else "-"
        print(f"{name:12} {c['kind']:10} {auc:18} TPR {c['tpr']:.2f} TNR {c['tnr']:.2f} at {c['threshold']:.2f}")
    print(json.dumps({name: of for name, of in found.items() if name != "criteria"}, indent=1))


def prepared(place: Path, file: str, count: int) -> Run:
    """A run before its first stage whose documents are the passages, and whose probes are the questions."""
    rows = [json.loads(line) for line in Path(file).read_text().splitlines()]
    own = documents_in(place, rows)
    config = runs.with_base(changed(RECIPES["documents"].config, **own, review__probes=count))
    return runs.prepare(start(place / "run", config), config, Silent())


def documents_in(place: Path, rows: Sequence[Mapping]) -> dict[str, str]:
    """Settings of a run that reads passages and knows their questions, both of which are written into a folder."""
    texts = [{"id": f"passage {n}", "text": text_of(row)} for n, row in enumerate(rows)]
    asked = [{**q, "document": f"passage {n}"} for n, row in enumerate(rows) for q in row["questions"]]
    for name, lines in (("texts", texts), ("questions", asked)):
        (place / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return {"documents__path": str(place / "texts.jsonl"), "documents__questions": str(place / "questions.jsonl")}


def text_of(row: Mapping, text: str = "") -> str:
    """A passage, or another text about it, under the title of the article that it is from."""
    return f"{row['title']}\n{text or row['context']}"


def measured(run: Run) -> dict:
    """What the criteria make of the answers of the run's own base."""
    params = base_weights(run.config, run.mesh)
    said = own_answers(run, run.writer(params), run.probes, 0, run.seed("reviewing"))
    probes = [p for p in labelled_probes(run, run.probes, said) if not p.junk]
    passages = {p.id: p for p in run.seed_index.passages}
    reviewer = replace(run.reviewer(params), criteria=(*run.rubric, VERBATIM))
    reviews = reviewer.review([p.transcript for p in probes], {p.task.id: p.task for p in probes}, passages)
    done = Done(**vars(reviewer), reviews=tuple(reviews))
    found = measure(reviewer, probes, reviews)
    overall = {"as the rubric has it": found["review"]}
    try:
        aim = replace(run.config.review, target_precision=PRECISION)
        overall["calibrated"] = calibrate(done, probes, passages, aim)[1]["review"]
    except ReviewerBelowFloor as below:
        overall["calibrated"] = below.measured["review"] | {"below_floor": str(below)}
    right = sum(p.right for p in probes)
    return {"answers": len(probes), "right": right, "review": overall, "criteria": found["criteria"]}


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
