"""What reached the loss: tokens by origin, and proof that raw stories and rejected transcripts did not.

The audit reads the dataset as it lies on disk. An n-gram counts against it when all its tokens carry weight.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ratchet.bootstrap.examples import first_names
from ratchet.bootstrap.transcript import Document, Review, Transcript
from ratchet.models.tokenizer import Tokenizer
from ratchet.train.records import Example

GRAM = 8
"""Tokens of an n-gram: longer than any claim, so that a true statement is not mistaken for a copied story."""


def audit(examples: Sequence[Example], documents: Iterable[Document], transcripts: Sequence[Transcript],
          reviews: Mapping[str, Review], tokenizer: Tokenizer) -> dict:  # fmt: skip
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
        spans = list(_weighted_spans(first_names(tokenizer, e), e.weights))
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
        "tokens_by_origin": dict(sorted(origins.items())), "raw_tokens": raw_tokens, "rejected_tokens": rejected_tokens,
        "overlap": {"raw": raw_tokens / max(total, 1), "rejected": rejected_tokens / max(total, 1)},
    }  # fmt: skip


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
