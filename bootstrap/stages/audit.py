"""What reached the loss: tokens by origin, and how many of them teach raw documents or rejected transcripts.

The audit reads the datasets as they lie on disk, and the demonstrations beside them. It compares tokens, and takes an
example's word for the task that it is about. With an oracle, the review's verdicts are audited too; that never feeds
training.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

import numpy as np

from ratchet.bootstrap.attack import Attacked, Attacker, attack
from ratchet.bootstrap.copies import GRAM, Texts, copied
from ratchet.bootstrap.examples import first_names, prose_example
from ratchet.bootstrap.intervals import agreement, proportion
from ratchet.bootstrap.ledger import write_json
from ratchet.bootstrap.lineage import reviewed
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.run import Generation
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Review, Transcript
from ratchet.bootstrap.worlds.world import Task, World
from ratchet.train.records import Example

CLIMBING = 20
"""Changes by which each attack tries to please more criteria."""
Pair = tuple[Transcript, Review]


def audit_generation(
    g: Generation,
    trained: Sequence[Example],
    pairs: Sequence[Pair],
    corrected: Sequence[Pair],
    found: Sequence[Target],
    reviewer: Reviewer,
) -> None:
    """Writes audit.json: all that will be trained on against all that was ever rejected; with an oracle also the
    verdicts of the review and of its model criteria, and how many wrong answers pass that are made to pass."""
    run = g.run
    transcripts, reviews = {}, {}
    for n in range(1, g.number + 1):
        more, judged = reviewed(run.generation(n))
        assert not more.keys() & transcripts.keys(), "one generation's verdicts would pass for another's"
        transcripts, reviews = transcripts | more, reviews | judged
    encode = run.tokenizer.encode
    documents = Texts(encode(d.text) for material in run.world.slices[: g.number] for d in material.documents)
    said = [prose_example(run.tokenizer, *line).tokens for line in run.world.prose]
    own = Texts([*said, *(encode(t.answer) for t in run.shown)])
    once_each = {(e.id, e.ids.tobytes(), e.probs.tobytes()): e for e in trained}
    result = audit(list(once_each.values()), documents, own, list(transcripts.values()), reviews)
    result["untaught_tokens"] = untaught_tokens(once_each.values(), run.world, g.read, run.tokenizer.decode)
    result["unreviewed_mass"] = float(np.mean([one.unreviewed for one in found])) if found else 0.0
    if run.world.oracle:
        graded = [c.id for c in reviewer.criteria if c.kind == "model"]
        result["oracle"] = _oracle_audit(g, pairs, graded) | {"corrections": _of_corrections(g, corrected)}
        result["oracle"]["attacked"] = _attacked(g, pairs, reviewer)
    write_json(g.directory / "audit.json", result)


def audit(
    examples: Sequence[Example],
    documents: Texts,
    own: Texts,
    transcripts: Sequence[Transcript],
    reviews: Mapping[str, Review],
) -> dict:
    """Counts weighted tokens by origin, those that teach a raw document or pieces of one, and those inside n-grams of
    rejected transcripts alone. The lineage's word is taken for the task of an example.

    `own` are the texts that the world itself gives to train on, its prose and its worked answers: what demonstrations
    and prose share with them is no document's. `transcripts` are all that were sampled, corrections included, each with
    its tool calls; an n-gram that an accepted one of the same task also has is not a rejected one's.
    """
    accepted, rejected = {}, {}
    for t in transcripts:
        side = accepted if reviews[t.id].accepted else rejected
        said = [t.tokens, *(t.prompt[start:end] for start, end in t.called)]
        side.setdefault(t.task_id, set()).update(gram for tokens in said for gram in _grams(tokens))
    refused_ids = {t.id for t in transcripts if not reviews[t.id].accepted}
    origins: Counter[str] = Counter()
    rejected_tokens = 0
    for e in examples:
        count = int((e.weights > 0).sum())
        origins[e.origin] += count
        task = e.lineage.get("task", "")
        refused = rejected.get(task, set()) - accepted.get(task, set())
        from_refused = e.lineage.get("transcript") in refused_ids
        ways = [] if from_refused else [first_names(e), *_rewritten(e)]
        inside = [sum(_inside(s, refused) for s in _weighted_spans(tokens, e.weights)) for tokens in ways]
        rejected_tokens += count if from_refused else max(inside)
    (raw_tokens, raw_pieces), total = _raw(examples, documents, own), origins.total()
    return {
        "tokens_by_origin": dict(sorted(origins.items())),
        "raw_tokens": raw_tokens,
        "raw_pieces": raw_pieces,
        "rejected_tokens": rejected_tokens,
        "overlap": {"raw": raw_tokens / max(total, 1), "rejected": rejected_tokens / max(total, 1)},
    }


def _raw(examples: Sequence[Example], documents: Texts, own: Texts) -> tuple[int, int]:
    """How many weighted tokens teach a document, as all of those do that imitate one, and how many pieces of one."""
    shown = [e for e in examples if e.origin in ("seed", "prose")]
    made = [e for e in examples if e.origin not in ("seed", "prose", "imitation")]
    imitated = sum(int((e.weights > 0).sum()) for e in examples if e.origin == "imitation")
    copies, pieces = copied(made, documents).sum(axis=1) + copied(shown, documents, own).sum(axis=1)
    return imitated + int(copies), int(pieces)


def untaught_tokens(
    examples: Iterable[Example], world: World, tasks: Mapping[str, Task], decode: Callable[[Sequence[int]], str]
) -> int:
    """Counts weighted tokens of examples about a probe of the world, or that ask one of its untaught questions.

    What an example asks is in the wordings of its task, which its lineage names among `tasks`, and, of a student's, in
    the prompt itself. Sources in view of a simulator may hold such a question: they are no question to it.
    """
    probes, wanted = {t.id for t in world.probes.tasks}, {_words(q) for q in world.untaught}
    if not probes and not wanted:
        return 0
    asks = {i: any(_words(m[-1]["content"]) in wanted for m in (t.messages, *t.askings)) for i, t in tasks.items()}
    found = 0
    for e in examples:
        task, begins = e.lineage.get("task", ""), int(np.argmax(e.weights > 0))
        asked = _words(decode(e.tokens[:begins].tolist())) if e.origin in ("student", "correction") else ""
        if task in probes or asks.get(task) or any(f" {question} " in f" {asked} " for question in wanted):
            found += int((e.weights > 0).sum())
    return found


def _words(text: str) -> str:
    """The words of a text in small letters, without signs."""
    return " ".join(re.findall(r"\w+", text.lower()))


def _rewritten(e: Example) -> list[np.ndarray]:
    """The tokens [T] of an example with each weighted one replaced by the id that its target makes likelier than not,
    if that changes half of them: the reviewed alternatives of an accepted answer change a few."""
    said, best = e.tokens[e.weights > 0], e.probs.argmax(axis=1)[:, None]
    likely = np.take_along_axis(e.probs, best, axis=1)[:, 0] > 0.5
    likeliest = np.where(likely, np.take_along_axis(e.ids, best, axis=1)[:, 0], said)
    if (likeliest != said).mean() < 0.5:
        return []
    taught = e.tokens.copy()
    taught[e.weights > 0] = likeliest
    return [taught]


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


def _attacked(g: Generation, pairs: Sequence[Pair], reviewer: Reviewer) -> dict:
    """What the review makes of attacks that begin with accepted answers which are right."""
    world, count = g.run.world, g.run.config.review.attacks
    right = {t.task_id: t for t, r in pairs if r.accepted and world.oracle(g.read[t.task_id], t.text, "").right}
    views = {i: tuple(g.passages[p] for p in t.passages) for i, t in right.items()}
    targets = [Attacked(g.read[i], t.text, views[i]) for i, t in right.items()]
    if not targets or not count:
        return {"tried": 0, "passed": 0}
    attacker = Attacker(world, targets, g.run.config.wrongthink.interruption, world.oracle)
    return attack(attacker, reviewer, count, CLIMBING, Random(g.seed("attack")))


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
