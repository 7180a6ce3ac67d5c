"""Duplicates: exact ones by text, near ones by MinHash."""

from collections.abc import Sequence
from dataclasses import replace

from rensa import RMinHash

from ratchet.bootstrap.transcript import Review, Transcript, Verdict

SIMILAR = 0.95
"""Estimated Jaccard similarity of word trigrams above which a sibling is a near duplicate."""


def distinct_transcripts(transcripts: Sequence[Transcript], reviews: Sequence[Review]) -> list[Review]:
    """Rejects accepted transcripts that repeat an earlier accepted sibling.

    Who looked something up does not repeat one who was shown it: the call is the lesson.
    """
    seen: dict[tuple[str, bool], list[RMinHash]] = {}
    kept = []
    for t, r in zip(transcripts, reviews, strict=True):
        sketch = RMinHash(num_perm=64, seed=0)
        sketch.update(_trigrams(t.text))
        earlier = seen.setdefault((t.task_id, bool(t.called)), [])
        if r.accepted and any(sketch.jaccard(other) >= SIMILAR for other in earlier):
            verdict = Verdict(0.0, False, "repeats an accepted sibling")
            r = replace(r, accepted=False, verdicts=r.verdicts | {"distinct": verdict})
        elif r.accepted:
            earlier.append(sketch)
        kept.append(r)
    return kept


def _trigrams(text: str) -> list[str]:
    words = text.split()
    return [" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))]
