"""From a transcript to everything about it: documents, verdicts, branch reviews, targets, and where it was trained."""

from typing import Any

from etils import epath

from ratchet.bootstrap import documents, targets
from ratchet.bootstrap.config import from_json
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.seed import load_tokenizer
from ratchet.bootstrap.transcript import Review, Transcript, review_from_json, transcript_from_json
from ratchet.models.tokenizer import Tokenizer
from ratchet.train.records import read_examples


def trace(directory: epath.Path, transcript_id: str) -> dict[str, Any]:
    """The lineage of one transcript as JSON. Raises ValueError when the run has none with this id (or prefix)."""
    for generation in sorted(directory.glob("gen-*")):
        found = _in_generation(directory, generation, transcript_id)
        if found:
            return found
    raise ValueError(
        f"show: {directory} has no transcript {transcript_id}; the report and gen-*/samples.json list some"
    )


def _in_generation(directory: epath.Path, generation: epath.Path, wanted: str) -> dict[str, Any] | None:
    transcripts, reviews = reviewed(generation)
    t = next((t for i, t in transcripts.items() if i.startswith(wanted)), None)
    if t is None:
        return None
    made = [targets.from_json(p) for stage in ("targets", "corrections") for p in Stage(generation / stage).committed()]
    target = next((one for one in made if one.transcript_id == t.id), None)
    tokenizer = load_tokenizer(directory)
    sources = _sources(directory)
    review = reviews.get(t.id)
    return {
        "transcript": t.id, "generation": t.generation, "task": t.task_id, "messages": list(t.messages),
        "wrong thought": t.forced_text, "text": t.text, "finished": t.finished,
        "documents": {i: sources.get(i, "") for i in t.passages},
        "accepted": review.accepted if review else None,
        "verdicts": {n: vars(v) for n, v in review.verdicts.items()} if review else {},
        "targets": _readable(tokenizer, t.tokens, target),
        "branches": [vars(b) for b in target.branches] if target else [],
        "trained": _trained(directory, t.id),
    }  # fmt: skip


def reviewed(generation: epath.Path) -> tuple[dict[str, Transcript], dict[str, Review]]:
    """Every transcript of a generation, corrections included, and every review, by transcript id."""
    corrected = Stage(generation / "wrongthink").committed()
    transcripts = map(transcript_from_json, [*Stage(generation / "simulate").committed(), *corrected[::2]])
    reviews = map(review_from_json, [*Stage(generation / "review").committed(), *corrected[1::2]])
    return {t.id: t for t in transcripts}, {r.transcript_id: r for r in reviews}


def _readable(tokenizer: Tokenizer, tokens, target) -> list[dict]:
    if target is None:
        return []
    return [
        {
            "token": tokenizer.piece(token),
            "target": {tokenizer.piece(i): round(p, 4) for i, p in zip(ids, probs, strict=True) if p > 0},
        }
        for token, ids, probs in zip(tokens, target.ids, target.probs, strict=True)
    ]


def _trained(directory: epath.Path, transcript_id: str) -> list[dict]:
    """The examples made of the transcript, with the dataset they are in and the teacher that gave their targets."""
    found = []
    for dataset in sorted(directory.glob("gen-*/dataset/*")):
        if (dataset / "dataset_info.json").exists():
            found += [
                {"example": e.id, "dataset": str(dataset.relative_to(directory)), "origin": e.origin,
                 "trained tokens": int((e.weights > 0).sum()), "teacher": e.lineage["teacher"]}
                for e in read_examples(dataset) if e.lineage.get("transcript") == transcript_id
            ]  # fmt: skip
    return found


def _sources(directory: epath.Path) -> dict[str, str]:
    config = from_json((directory / "config.json").read_text())
    place = epath.Path(config.documents.path) if config.documents.path else directory / "corpus" / "1.0.0"
    return {p.id: p.text for p in documents.passages(documents.read(place), config.documents.passage_words)}
