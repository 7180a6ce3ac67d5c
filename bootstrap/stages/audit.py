"""What reached the loss: tokens by origin, and proof that raw documents and rejected transcripts did not.

The audit reads the dataset as it lies on disk. An n-gram counts against it when all its tokens carry weight. With an
oracle, the review's verdicts are audited too; that never feeds training.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ratchet.bootstrap.examples import first_names
from ratchet.bootstrap.intervals import agreement, proportion
from ratchet.bootstrap.ledger import write_json
from ratchet.bootstrap.lineage import reviewed
from ratchet.bootstrap.run import Generation
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Review, Transcript
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.records import Example

GRAM = 8
"""Tokens of an n-gram: long enough that a true statement is not mistaken for a copied document."""
Pair = tuple[Transcript, Review]


def audit_generation(
    g: Generation,
    trained: Sequence[Example],
    pairs: Sequence[Pair],
    corrected: Sequence[Pair],
    found: Sequence[Target],
    graded: Sequence[str],
) -> None:
    """Writes audit.json: all that will be trained on against all that was ever rejected; with an oracle also the
    review's verdicts, and those of the model criteria named in `graded`."""
    run = g.run
    transcripts, reviews = {}, {}
    for n in range(1, g.number + 1):
        more, judged = reviewed(run.generation(n))
        assert not more.keys() & transcripts.keys(), "one generation's verdicts would pass for another's"
        transcripts, reviews = transcripts | more, reviews | judged
    documents = [d for material in run.world.slices[: g.number] for d in material.documents]
    result = audit(trained, documents, list(transcripts.values()), reviews, run.tokenizer)
    result["unreviewed_mass"] = float(np.mean([one.unreviewed for one in found])) if found else 0.0
    if run.world.oracle:
        result["oracle"] = _oracle_audit(g, pairs, graded) | {"corrections": _of_corrections(g, corrected)}
    write_json(g.directory / "audit.json", result)


def audit(
    examples: Sequence[Example],
    documents: Iterable[Document],
    transcripts: Sequence[Transcript],
    reviews: Mapping[str, Review],
    tokenizer,
) -> dict:
    """Counts weighted tokens by origin, and those inside n-grams of raw documents or of rejected transcripts alone.

    `transcripts` are all that were sampled, corrections included, each with its tool calls; an n-gram that an accepted
    one of the same task also has is not a rejected one's. Renamed examples are read under their first names.
    """
    raw = {gram for d in documents for gram in _grams(tokenizer.encode(d.text))}
    accepted, rejected = {}, {}
    for t in transcripts:
        side = accepted if reviews[t.id].accepted else rejected
        said = [t.tokens, *(t.prompt[start:end] for start, end in t.called)]
        side.setdefault(t.task_id, set()).update(gram for tokens in said for gram in _grams(tokens))
    refused_ids = {t.id for t in transcripts if not reviews[t.id].accepted}
    origins: Counter[str] = Counter()
    raw_tokens = rejected_tokens = total = 0
    for e in examples:
        spans = list(_weighted_spans(first_names(e), e.weights))
        count = sum(len(s) for s in spans)
        origins[e.origin] += count
        if e.origin in ("seed", "prose"):
            continue
        total += count
        task = e.lineage.get("task", "")
        refused = rejected.get(task, set()) - accepted.get(task, set())
        raw_tokens += count if e.origin == "imitation" else sum(_inside(s, raw) for s in spans)
        from_refused = e.lineage.get("transcript") in refused_ids
        rejected_tokens += count if from_refused else sum(_inside(s, refused) for s in spans)
    return {
        "tokens_by_origin": dict(sorted(origins.items())),
        "raw_tokens": raw_tokens,
        "rejected_tokens": rejected_tokens,
        "overlap": {"raw": raw_tokens / max(total, 1), "rejected": rejected_tokens / max(total, 1)},
    }


def _oracle_audit(g: Generation, pairs: Sequence[Pair], graded: Sequence[str]) -> dict:
    """True precision and recall of the review and of its model criteria."""
    pairs = [(t, r) for t, r in pairs if not r.repeats]
    grades = [g.run.world.oracle(g.read[t.task_id], t.text, "") for t, _ in pairs]
    right = np.array([grade.right and t.finished for grade, (t, _) in zip(grades, pairs, strict=True)], bool)
    accepted = np.array([r.accepted for _, r in pairs], bool)
    by_criterion = {}
    for name in graded:
        labels = np.array([all(step.get(name, True) for step in grade.steps) for grade in grades], bool)
        if any(name in step for grade in grades for step in grade.steps):
            by_criterion[name] = agreement(np.array([r.verdicts[name].passed for _, r in pairs], bool), labels)
    items = [f"{t.task_id} {t.id}" for t, _ in pairs]
    groups = {i: t.task_id for i, (t, _) in zip(items, pairs, strict=True)}
    both = dict(zip(items, (accepted & right).astype(float), strict=True))
    return {
        "precision": proportion({i: both[i] for i, a in zip(items, accepted, strict=True) if a}, groups),
        "recall": proportion({i: both[i] for i, ok in zip(items, right, strict=True) if ok}, groups),
        "pass_rate": float(right.mean()) if len(right) else 0.0,
        "criteria": by_criterion,
        "false_accepts": [t.text for (t, _), a, ok in zip(pairs, accepted, right, strict=True) if a and not ok][:10],
    }


def _of_corrections(g: Generation, corrected: Sequence[Pair]) -> dict:
    """Of accepted corrections, the shares that put everything right, and whose reason names the wrong step and is
    true."""
    kept = [t for t, r in corrected if r.accepted]
    grades = {t.id: g.run.world.oracle(g.read[t.task_id], t.text, t.forced_text) for t in kept}
    groups = {t.id: t.task_id for t in kept}
    return {
        "right": proportion({i: float(grade.mended) for i, grade in grades.items()}, groups),
        "reason": proportion({i: float(grade.reason) for i, grade in grades.items()}, groups),
    }


def _weighted_spans(tokens: np.ndarray, weights: np.ndarray) -> Iterable[list[int]]:
    """Runs of consecutive tokens that carry weight."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], weights > 0, [0]])))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        yield tokens[start:end].tolist()


def _grams(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]


def _inside(span: Sequence[int], grams: set[tuple[int, ...]]) -> int:
    """Tokens of a span that lie inside any of the n-grams."""
    covered: set[int] = set()
    for start, gram in enumerate(_grams(span)):
        if gram in grams:
            covered.update(range(start, start + GRAM))
    return len(covered)
