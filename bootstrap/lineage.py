"""From a transcript to everything about it: documents, verdicts, branch reviews, targets, corrections, and where it was
trained."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from ratchet.bootstrap import targets
from ratchet.bootstrap.ledger import Stage, check_units
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Review, Transcript, review_from_json, transcript_from_json
from ratchet.bootstrap.wrongthink import correction_id
from ratchet.train.files import object_in
from ratchet.train.records import read_examples


def trace(run: Run, transcript_id: str) -> dict[str, Any]:
    """The lineage of one transcript as JSON. Raises ValueError when the run has none whose id begins so, or several.

    A verdict says which `score` its criterion passes from. `corrections` are those that were made by spoiling this
    transcript; one that was made so itself `corrects` the answer with that id.
    """
    found: dict[str, tuple[epath.Path, Transcript, Review | None]] = {}
    for generation in sorted(run.directory.glob("gen-*")):
        found |= _found(generation, transcript_id)
    if not found:
        some = f"; there is {ids}" if (ids := such_as(run.directory)) else ""
        raise ValueError(f"show: {run.directory} has no transcript {transcript_id}{some}")
    if len(found) > 1 and transcript_id not in found:
        some = ", ".join(list(found)[:3])
        raise ValueError(f"show: {len(found)} transcripts begin with {transcript_id}, such as {some}; give more of one")
    return _traced(run, *found.get(transcript_id, next(iter(found.values()))))


def such_as(directory: epath.Path) -> str:
    """Two ids of transcripts, joined by "or", from the newest generation that has samples; "" where none has."""
    files = sorted(directory.glob("gen-*/samples.json"))
    shown = object_in(files[-1]).get("transcripts") if files else None
    return " or ".join(one["id"] for one in shown[:2]) if shown else ""


def _found(generation: epath.Path, wanted: str) -> dict[str, tuple[epath.Path, Transcript, Review | None]]:
    """The transcripts of a generation whose ids begin so, with their reviews. Others are not read. Raises RecordError
    where a unit of a finished generation is gone."""
    check_units(generation)
    corrected = Stage(generation / "wrongthink").committed()
    made = _with(f'"id":"{wanted}', [*Stage(generation / "simulate").committed(), *corrected[::2]])
    begun = [t for t in map(transcript_from_json, made) if t.id.startswith(wanted)]
    judged = [*Stage(generation / "review").committed(), *corrected[1::2]] if begun else []
    reviews = {r.transcript_id: r for t in begun for r in map(review_from_json, _with(t.id, judged))}
    return {t.id: (generation, t, reviews.get(t.id)) for t in begun}


def _traced(run: Run, generation: epath.Path, t: Transcript, review: Review | None) -> dict[str, Any]:
    kept = [p for stage in ("targets", "corrections") for p in _with(t.id, Stage(generation / stage).committed())]
    target = next((one for one in map(targets.from_json, kept) if one.transcript_id == t.id), None)
    sources = passages(run, t.passages)
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
        "at random": bool(review and t.source == "answer" and run.config.controls.random_share),
        "verdicts": verdicts(run, generation, review) if review else {},
        "targets": _readable(run, t, target) if target else [],
        "branches": [vars(b) | {"piece": run.tokenizer.piece(b.token)} for b in target.branches] if target else [],
        "corrects": _corrected(run.directory, t) if t.source == "spoiled" else None,
        "corrections": _corrections(run.directory, t),
        "trained": _trained(run, t),
    }


def _with(text: str, payloads: Iterable[bytes]) -> list[bytes]:
    """The payloads in whose JSON a text stands; the others need not be read."""
    return [p for p in payloads if text.encode() in p]


def passages(run: Run, ids: Iterable[str]) -> dict[str, str]:
    """The texts of all passages of the documents that these passages are of, by id."""
    named = {name for i in ids for name in (i, i.rpartition("#")[0])}
    documents = [d for material in run.world.slices for d in material.documents if d.id in named]
    return {p.id: p.text for p in run.cut(documents)}


def verdicts(run: Run, generation: epath.Path, review: Review) -> dict[str, dict]:
    """Verdicts with the kinds of their criteria, and with the thresholds and the standing that these had in that
    generation."""
    place = generation / "calibration.json"
    measured = run.commits.read(place).get("criteria", {}) if run.commits.has(place) else {}
    of = ("kind", "threshold", "standing")
    known = {c.id: {key: getattr(c, key) for key in of} for c in run.rubric}
    known |= {name: {key: c[key] for key in of} for name, c in measured.items()}
    return {name: vars(verdict) | known[name] for name, verdict in review.verdicts.items()}


def _corrected(directory: epath.Path, correction: Transcript) -> str | None:
    """The id of the answer that a correction interrupts, from its generation or an earlier one."""
    places, task = sorted(directory.glob("gen-*")), json.dumps(correction.task_id)
    made = [p for place in places for p in _with(task, Stage(place / "simulate").committed())]
    answers = (json.loads(payload)["id"] for payload in made)
    is_of = lambda answer: correction.id == correction_id(answer, correction.forced, correction.generation)
    return next(filter(is_of, answers), None)


def _corrections(directory: epath.Path, t: Transcript) -> list[dict]:
    """The corrections that were made by spoiling a transcript, in its generation and later ones."""
    found, task = [], json.dumps(t.task_id).encode()
    for generation in sorted(directory.glob("gen-*")):
        payloads = Stage(generation / "wrongthink").committed()
        pairs = zip(payloads[::2], payloads[1::2], strict=True)
        same = [(json.loads(made), review) for made, review in pairs if task in made]
        found += [
            {
                "transcript": made["id"],
                "generation": made["generation"],
                "wrong thought": made["forced_text"],
                "text": made["text"],
                "accepted": json.loads(review)["accepted"],
            }
            for made, review in same
            if made["id"] == correction_id(t.id, tuple(made["forced"]), made["generation"])
        ]
    return found


def reviewed(generation: epath.Path) -> tuple[dict[str, Transcript], dict[str, Review]]:
    """Every transcript of a generation, corrections included, and every review, by transcript id. Raises RecordError
    where a unit of a finished generation is gone."""
    check_units(generation)
    corrected = Stage(generation / "wrongthink").committed()
    transcripts = map(transcript_from_json, [*Stage(generation / "simulate").committed(), *corrected[::2]])
    reviews = map(review_from_json, [*Stage(generation / "review").committed(), *corrected[1::2]])
    return {t.id: t for t in transcripts}, {r.transcript_id: r for r in reviews}


def taught(generation: epath.Path) -> dict[str, Target]:
    """The targets of every transcript of a generation that something is trained on, by transcript id."""
    stages = (Stage(generation / stage) for stage in ("targets", "corrections"))
    return {t.transcript_id: t for stage in stages for t in map(targets.from_json, stage.committed())}


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
            "target": _added_up([(piece(i), p) for i, p in zip(ids, probs, strict=True) if p > 0]),
        }
        for token, ids, probs in zip(t.tokens, c.ids_NK.tolist(), c.probs_NK.tolist(), strict=True)
    ]


def _added_up(pairs: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Probabilities by how their tokens are spelled; parts of a letter are all spelled alike."""
    found: dict[str, float] = {}
    for piece, probability in pairs:
        found[piece] = found.get(piece, 0.0) + probability
    return {piece: round(probability, 4) for piece, probability in found.items()}


def _trained(run: Run, t: Transcript) -> list[dict]:
    """The examples made of the transcript, with the dataset they are in and the teacher that gave their targets."""
    found = []
    for dataset in sorted(run.generation(t.generation).glob("dataset/*")):
        if (dataset / "dataset_info.json").exists():
            found += [
                {
                    "example": e.id,
                    "dataset": str(dataset.relative_to(run.directory)),
                    "origin": e.origin,
                    "trained tokens": int((e.weights > 0).sum()),
                    "teacher": e.lineage["teacher"],
                }
                for e in read_examples(dataset, mentioning=t.id)
                if e.lineage.get("transcript") == t.id
            ]
    return found
