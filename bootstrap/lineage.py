"""From a transcript to everything about it: documents, verdicts, branch reviews, targets, corrections, and where it was
trained."""

import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from ratchet.bootstrap import targets
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Review, Transcript, review_from_json, transcript_from_json
from ratchet.bootstrap.wrongthink import correction_id
from ratchet.train.records import read_examples


def trace(run: Run, transcript_id: str) -> dict[str, Any]:
    """The lineage of one transcript as JSON. Raises ValueError when the run has none with this id (or prefix).

    A verdict says which `score` its criterion passes from. `corrections` are those that were made by spoiling this
    transcript; one that was made so itself `corrects` the answer with that id.
    """
    for generation in sorted(run.directory.glob("gen-*")):
        if found := _in_generation(run, generation, transcript_id):
            return found
    raise ValueError(
        f"show: {run.directory} has no transcript {transcript_id}; the report and gen-*/samples.json list some"
    )


def _in_generation(run: Run, generation: epath.Path, wanted: str) -> dict[str, Any] | None:
    transcripts, reviews = reviewed(generation)
    t = next((t for i, t in transcripts.items() if i.startswith(wanted)), None)
    if t is None:
        return None
    made = [targets.from_json(p) for stage in ("targets", "corrections") for p in Stage(generation / stage).committed()]
    target = next((one for one in made if one.transcript_id == t.id), None)
    sources = {p.id: p.text for p in run.passages(len(run.world.slices))}
    review = reviews.get(t.id)
    return {
        "transcript": t.id,
        "generation": t.generation,
        "task": t.task_id,
        "source": t.source,
        "messages": list(t.messages),
        "wrong thought": t.forced_text,
        "fault": t.fault,
        "text": t.text,
        "steps": [t.text[step.start : step.end] for step in run.world.steps(t.text)],
        "finished": t.finished,
        "documents": {i: sources.get(i, "") for i in t.passages},
        "accepted": review.accepted if review else None,
        "verdicts": _verdicts(run, generation, review) if review else {},
        "targets": _readable(run, t, target) if target else [],
        "branches": [vars(b) | {"piece": run.tokenizer.piece(b.token)} for b in target.branches] if target else [],
        "corrects": _corrected(run.directory, t) if t.source == "spoiled" else None,
        "corrections": _corrections(run.directory, t),
        "trained": _trained(run.directory, t.id),
    }


def _verdicts(run: Run, generation: epath.Path, review: Review) -> dict[str, dict]:
    """Verdicts with the kinds of their criteria and the thresholds that stood in that generation."""
    place = generation / "calibration.json"
    measured = json.loads(place.read_text()).get("criteria", {}) if place.exists() else {}
    known = {c.id: {"kind": c.kind, "threshold": c.threshold} for c in run.rubric}
    known |= {name: {key: c[key] for key in ("kind", "threshold")} for name, c in measured.items()}
    return {name: vars(verdict) | known[name] for name, verdict in review.verdicts.items()}


def _corrected(directory: epath.Path, correction: Transcript) -> str | None:
    """The id of the answer that a correction interrupts, from its generation or an earlier one."""
    made = [p for place in sorted(directory.glob("gen-*")) for p in Stage(place / "simulate").committed()]
    answers = (json.loads(payload)["id"] for payload in made)
    is_of = lambda answer: correction.id == correction_id(answer, correction.forced, correction.generation)
    return next(filter(is_of, answers), None)


def _corrections(directory: epath.Path, t: Transcript) -> list[dict]:
    """The corrections that were made by spoiling a transcript, in its generation and later ones."""
    found = []
    for generation in sorted(directory.glob("gen-*")):
        payloads = map(json.loads, Stage(generation / "wrongthink").committed())
        found += [
            {
                "transcript": made["id"],
                "generation": made["generation"],
                "wrong thought": made["forced_text"],
                "text": made["text"],
                "accepted": review["accepted"],
            }
            for made, review in zip(payloads, payloads, strict=True)
            if made["id"] == correction_id(t.id, tuple(made["forced"]), made["generation"])
        ]
    return found


def reviewed(generation: epath.Path) -> tuple[dict[str, Transcript], dict[str, Review]]:
    """Every transcript of a generation, corrections included, and every review, by transcript id."""
    corrected = Stage(generation / "wrongthink").committed()
    transcripts = map(transcript_from_json, [*Stage(generation / "simulate").committed(), *corrected[::2]])
    reviews = map(review_from_json, [*Stage(generation / "review").committed(), *corrected[1::2]])
    return {t.id: t for t in transcripts}, {r.transcript_id: r for r in reviews}


def accepted_answers(run: Run, generations: Iterable[int]) -> list[Transcript]:
    """One accepted answer to every task of each of these generations."""
    found = []
    for number in generations:
        place = run.generation(number)
        passed = {r.transcript_id for r in map(review_from_json, Stage(place / "review").committed()) if r.accepted}
        answers = map(transcript_from_json, Stage(place / "simulate").committed())
        found += {t.task_id: t for t in answers if t.id in passed}.values()
    return found


def _readable(run: Run, t: Transcript, target: Target) -> list[dict]:
    piece, c = run.tokenizer.piece, target.capture
    return [
        {
            "token": piece(token),
            "target": {piece(i): round(p, 4) for i, p in zip(ids, probs, strict=True) if p > 0},
        }
        for token, ids, probs in zip(t.tokens, c.ids_NK.tolist(), c.probs_NK.tolist(), strict=True)
    ]


def _trained(directory: epath.Path, transcript_id: str) -> list[dict]:
    """The examples made of the transcript, with the dataset they are in and the teacher that gave their targets."""
    found = []
    for dataset in sorted(directory.glob("gen-*/dataset/*")):
        if (dataset / "dataset_info.json").exists():
            found += [
                {
                    "example": e.id,
                    "dataset": str(dataset.relative_to(directory)),
                    "origin": e.origin,
                    "trained tokens": int((e.weights > 0).sum()),
                    "teacher": e.lineage["teacher"],
                }
                for e in read_examples(dataset)
                if e.lineage.get("transcript") == transcript_id
            ]
    return found
