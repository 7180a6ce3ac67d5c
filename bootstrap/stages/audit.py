"""What reached the loss: tokens by origin, and how many of them teach raw documents or rejected transcripts.

The audit reads the datasets as they lie on disk, and the demonstrations beside them, and compares tokens. With an
oracle, the review's verdicts are audited too; that never feeds training.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from random import Random

import numpy as np

from ratchet.bootstrap.attack import Attacked, Attacker, attack
from ratchet.bootstrap.copies import GRAM, Texts, copied, copied_and_pieces
from ratchet.bootstrap.examples import as_named_first, as_said, prose_example, without_prompt
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.intervals import agreement, proportion
from ratchet.bootstrap.lineage import reviewed, taught
from ratchet.bootstrap.probes import Views
from ratchet.bootstrap.provenance import Sources
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Pair, Review, Transcript
from ratchet.bootstrap.worlds.world import Task, World, words
from ratchet.train.records import Example

CLIMBING = 20
"""Changes by which each attack tries to please more criteria."""
LIKELIEST = 0.5
"""The share of a target from which on an id is read where rejected transcripts are sought."""
NEVER = {
    "rejected_tokens": "teach rejected transcripts",
    "untaught_tokens": "ask labelled questions",
    "unaccounted_tokens": "are not what the accepted transcript that their example names teaches",
}
"""Counts of an audit of which any but 0 ends a run, and what such tokens do. Raw ones do not: the review lets answers
quote as many words as its criterion `original` allows, and those are more tokens."""


class AuditFailed(RuntimeError):
    """What would be trained on holds tokens that must not be; nothing was trained on it."""


def audit_generation(
    g: Generation,
    trained: Sequence[Example],
    pairs: Sequence[Pair],
    corrected: Sequence[Pair],
    found: Sequence[Target],
    reviewer: Reviewer,
    explained: MutableMapping[Example, bool] | None = None,
) -> None:
    """Writes audit.json: all that will be trained on against all that was ever rejected; with an oracle also the
    verdicts of the review and of its model criteria, and how many wrong answers pass that are made to pass. In
    `explained` is kept whether an example is accounted for, as `Sources` has it.

    Raises AuditFailed when something is found that must never be trained on.
    """
    run = g.run
    transcripts, reviews, aims = {}, {}, {}
    for n in range(1, g.number + 1):
        more, judged = reviewed(run.generation(n))
        assert not more.keys() & transcripts.keys(), "one generation's verdicts would pass for another's"
        transcripts, reviews, aims = transcripts | more, reviews | judged, aims | taught(run.generation(n))
    encode = run.tokenizer.encode
    documents = Texts(encode(d.text) for material in run.world.slices[: g.number] for d in material.documents)
    said = [prose_example(run.tokenizer, *line).tokens for line in run.world.prose]
    own = Texts([*said, *(encode(t.answer) for t in run.shown)])
    content = lambda e: (e.id, e.weights.tobytes(), e.ids.tobytes(), e.probs.tobytes())
    once_each = list({content(e): e for e in dict.fromkeys(trained)}.values())
    quoted = max((int(c.limit or 0) for c in run.rubric if c.id == "original"), default=0)
    result = audit(once_each, documents, own, list(transcripts.values()), reviews, max(GRAM, quoted))
    accepted = {i: t for i, t in transcripts.items() if reviews[i].accepted}
    views, known = Views(run, g.writer, g.number), {} if explained is None else explained
    sources = Sources(run.world, run.tokenizer, g.read, run.shown, run.practice, reviewer, accepted, aims, views, known)
    result["unaccounted_tokens"] = unaccounted_tokens(once_each, sources)
    result["untaught_tokens"] = untaught_tokens(once_each, run.world, g.read, run.tokenizer.decode)
    result["unreviewed_mass"] = float(np.mean([one.unreviewed for one in found])) if found else 0.0
    if run.world.oracle:
        graded = [c.id for c in reviewer.criteria if c.kind == "model"]
        result["oracle"] = _oracle_audit(g, pairs, graded) | {"corrections": _of_corrections(g, corrected)}
        result["oracle"]["attacked"] = _attacked(g, pairs, reviewer)
    path = g.directory / "audit.json"
    run.commits.write(path, result)
    if never := [f"{result[name]:,} that {does}" for name, does in NEVER.items() if result[name]]:
        raise AuditFailed(
            f"generation {g.number}: of the tokens to be trained on, the audit found {', '.join(never)}; nothing was "
            f"trained on them, and {path} has the counts"
        )


def audit(
    examples: Sequence[Example],
    documents: Texts,
    own: Texts,
    transcripts: Sequence[Transcript],
    reviews: Mapping[str, Review],
    gram: int = GRAM,
) -> dict:
    """Counts weighted tokens by origin, and those of three kinds that should not be there.

    Raw ones teach a document, `gram` tokens in a row or more, and some are pieces of one. Rejected ones teach what
    rejected transcripts alone say.

    `own` are the texts that the world itself gives to train on, its prose and its worked answers: what demonstrations
    and prose share with them is no document's. `transcripts` are all that were sampled, corrections included, each with
    its tool calls.
    """
    origins: Counter[str] = Counter()
    for e in examples:
        origins[e.origin] += _count(e)
    (raw_tokens, raw_pieces), total = _raw(examples, documents, own, gram), origins.total()
    rejected_tokens = _rejected(examples, transcripts, reviews)
    return {
        "tokens_by_origin": dict(sorted(origins.items())),
        "raw_tokens": raw_tokens,
        "raw_pieces": raw_pieces,
        "rejected_tokens": rejected_tokens,
        "overlap": {"raw": raw_tokens / max(total, 1), "rejected": rejected_tokens / max(total, 1)},
    }


def _count(e: Example) -> int:
    return int((e.weights > 0).sum())


def _raw(examples: Sequence[Example], documents: Texts, own: Texts, gram: int) -> tuple[int, int]:
    """How many weighted tokens teach a document, as all of those do that imitate one, and how many pieces of one."""
    shown = [e for e in examples if e.origin in ("seed", "prose")]
    made = [e for e in examples if e.origin not in ("seed", "prose", "imitation")]
    imitated = sum(_count(e) for e in examples if e.origin == "imitation")
    found = copied_and_pieces(made, documents, gram=gram), copied_and_pieces(shown, documents, [own], gram=gram)
    whole, parts = (int(sum(of.sum() for of in both)) for both in zip(*found, strict=True))
    return imitated + whole, parts


def _rejected(examples: Sequence[Example], transcripts: Sequence[Transcript], reviews: Mapping[str, Review]) -> int:
    """How many weighted tokens teach a rejected transcript: all of an example that names one, and copies of one to the
    same task, where no accepted one to it says the same.

    Targets are read where most of them put more than half of their mass on another id than is said: the reviewed
    alternatives of an accepted answer are fewer, and do not belong together. Examples are read without what has no
    weight, such as the wrong thought before a correction, and under the names that they had: under others they may
    chance upon what was rejected.
    """
    sides: dict[tuple[str, bool], list[Sequence[int]]] = {}
    for t in transcripts:
        said = [t.tokens, *(t.prompt[start:end] for start, end in t.called)]
        sides.setdefault((t.task_id, reviews[t.id].accepted), []).extend(said)
    of_task: dict[str, list[Example]] = {}
    total = 0
    for e in examples:
        named = reviews.get(e.lineage.get("transcript", ""))
        if named and not named.accepted:
            total += _count(e)
        elif (e.lineage.get("task", ""), False) in sides:
            read = as_named_first(without_prompt(e))
            other = ((read.probs > LIKELIEST) & (read.ids != read.tokens[:, None])).any(axis=1)
            of_task.setdefault(e.lineage.get("task", ""), []).append(read if other.mean() >= 0.5 else as_said(read))
    for task, found in of_task.items():
        refused, passed = (Texts(sides.get((task, accepted), ())) for accepted in (False, True))
        total += int(copied(found, refused, [passed], LIKELIEST).sum())
    return total


def unaccounted_tokens(examples: Iterable[Example], sources: Sources) -> int:
    """Counts weighted tokens of examples that are not what they say that they are: see `bootstrap.provenance`."""
    return sum(_count(e) for e in examples if not sources.explain(e))


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
            found += _count(e)
    return found


def _words(text: str) -> str:
    return " ".join(words(text.lower()))


def _oracle_audit(g: Generation, pairs: Sequence[Pair], graded: Sequence[str]) -> dict:
    """True precision and recall of the review and of its model criteria."""
    pairs = [(t, r) for t, r in pairs if not r.repeats]
    grades = [g.run.world.oracle(g.read[t.task_id], t.text, "") for t, _ in pairs]
    right = np.array([grade.right and t.finished for grade, (t, _) in zip(grades, pairs, strict=True)], bool)
    accepted = np.array([r.accepted for _, r in pairs], bool)
    by_criterion = {}
    for name in graded:
        of = [grade.of(name) for grade in grades]
        if any(label is not None for label in of):
            labels = np.array([ok if label is None else label for label, ok in zip(of, right, strict=True)], bool)
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
