"""General rules: what can be decided from an answer and its passages alone, in every world."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rensa import RMinHash

from ratchet.bootstrap.transcript import Review, Transcript, Verdict
from ratchet.bootstrap.worlds.world import UNSPACED, Case, words

PASTED_WORDS = 12
"""`original`: a run of this many words shared with a passage counts as pasted, unless the rubric gives a `limit`. Each
letter of a script without spaces counts as a word."""
NEAR_DUPLICATE = 0.95
"""`distinct`: the similarity from which on a sibling is a near duplicate, unless the rubric gives a `limit`."""
_WORD_WITH_MARKS = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")


def finished(case: Case, limit: float | None, interruption: str) -> str:
    """An answer comes to an end by itself, and its text shows all of it."""
    return "" if case.finished else "cut off by the length limit or by a call, or its text does not show all of it"


def interrupts(case: Case, limit: float | None, interruption: str) -> str:
    """An answer interrupts once, at its beginning, where a wrong thought came before, and nowhere else."""
    times = len(re.findall(rf"(?:^|[.!?:;]\s+|[。！？：；।؟]\s*){re.escape(interruption)}", case.text))
    if case.before:
        once = case.text.startswith(interruption) and times == 1
        return "" if once else "the wrong thought is not interrupted once, at the beginning"
    return "an interruption where none belongs" if times else ""


def seeks(case: Case, limit: float | None, interruption: str) -> str:
    """Look-ups are for what the task has to seek or, where it does not say so, have at most PASTED_WORDS words."""
    queries = [str(arguments.get("query", "")).strip() for name, arguments in case.calls if name == "lookup"]
    for query in queries:
        if query not in case.task.seek if case.task.seek else len(words(query)) > PASTED_WORDS:
            return f"looks up what nobody asked about: {query[:60]}"
    return ""


def thrifty(case: Case, limit: float | None, interruption: str) -> str:
    """No call is made twice, and no more calls than the rubric's limit."""
    made = [json.dumps(call, sort_keys=True) for call in case.calls]
    if twice := [call for number, call in enumerate(made) if call in made[:number]]:
        return f"calls twice: {twice[0]}"
    return f"{len(made)} calls" if limit and len(made) > limit else ""


def original(case: Case, limit: float | None, interruption: str) -> str:
    """No passage is pasted into the answer or a call, and the answer is no passage, however short."""
    count = int(limit or PASTED_WORDS)
    texts = case.text, *_texts([arguments for _, arguments in case.calls])
    runs = set().union(*(_runs(text, count) for text in texts))
    for passage in case.passages:
        if copied := runs & _runs(passage.text, count):
            return f"pasted: {' '.join(min(copied))}"
    said = words(case.text)
    return f"pasted: {' '.join(said)}" if any(said == words(passage.text) for passage in case.passages) else ""


def distinct(case: Case, limit: float | None, interruption: str) -> str:
    """Passes here: it is decided among accepted siblings, by `reject_repeated`."""
    return ""


GENERAL = {check.__name__: check for check in (finished, interrupts, seeks, thrifty, original, distinct)}
"""By name, the rules that a rubric of any world may have. Each takes (case, `limit` of the criterion or None, what the
supervisor says first) and gives the reason for a failure, or ""."""


def reject_repeated(
    transcripts: Sequence[Transcript], reviews: Sequence[Review], limit: float | None, required: bool
) -> list[Review]:
    """Rejects accepted transcripts that repeat an earlier accepted sibling, by MinHash of word trigrams; where that is
    not `required`, its verdict alone says so.

    A transcript that called a tool does not repeat one that did not: the call is the lesson.
    """
    seen: dict[tuple[str, bool], list[RMinHash]] = {}
    kept = []
    for t, r in zip(transcripts, reviews, strict=True):
        sketch = RMinHash(num_perm=64, seed=0)
        sketch.update(_trigrams(t.text))
        earlier = seen.setdefault((t.task_id, bool(t.called)), [])
        if r.accepted and any(sketch.jaccard(other) >= (limit or NEAR_DUPLICATE) for other in earlier):
            verdict = Verdict(0.0, False, "repeats an accepted sibling")
            r = replace(r, accepted=not required, verdicts=r.verdicts | {"distinct": verdict})
        elif r.accepted:
            earlier.append(sketch)
        kept.append(r)
    return kept


def _trigrams(text: str) -> list[str]:
    found = _WORD_WITH_MARKS.findall(text)
    return [" ".join(found[i : i + 3]) for i in range(max(1, len(found) - 2))]


def _texts(value: Any) -> Iterator[str]:
    """All texts within a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | Sequence):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _runs(text: str, count: int) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + count]) for i in range(len(found) - count + 1)}
