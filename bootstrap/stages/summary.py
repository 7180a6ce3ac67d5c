"""What a generation comes to, for people: its plan, its funnel, and samples of what it wrote."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from flax import nnx

from ratchet.bootstrap import examples
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.intervals import evenly, proportion
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Pair, Review, Transcript
from ratchet.bootstrap.wrongthink import step_ends
from ratchet.train.records import Example

MEASURED = 256
"""Wrong thoughts whose likelihood is measured, of all generations' documents."""
SHOWN = 4
"""Accepted and rejected transcripts that are shown of a generation."""


def plan(g: Generation) -> None:
    """How many units each stage has, for `ratchet status`."""
    units, first = len(g.parts(g.tasks)), g.run.config.wrongthink.first_generation
    correcting = len(g.parts(list(g.read.values()))) if first and g.number >= first else 0
    counts = {"simulate": units, "review": units, "targets": units, "wrongthink": correcting, "corrections": correcting}
    g.run.commits.once(g.directory / "plan.json", lambda: {"units": counts})


def asked(g: Generation) -> None:
    """Says what servers with the incumbent's weights were asked, where there are some."""
    if g.rollouts and g.rollouts.summary:
        g.run.progress.line(f"gen {g.number} {g.rollouts.summary}")


def funnel(
    g: Generation,
    pairs: Sequence[Pair],
    corrected: Sequence[Pair],
    found: Sequence[Target],
    trained: int,
    accepted: Counter[str],
) -> None:
    """Counts from asked to trained, and acceptance by criterion. `accepted` counts accepted transcripts by the ids of
    their documents, joined by spaces. Acceptable transcripts passed every criterion, repetitions included; where lots
    accept, none are counted."""
    transcripts, reviews = [t for t, _ in pairs], [r for _, r in pairs]
    own = {t.id for t in transcripts}
    branches = [b for one in found for b in one.branches]
    read = {" ".join(t.document_ids) for t in g.read.values()}
    names = [c.id for c in g.run.rubric]
    by_lot = g.run.config.controls.random_share > 0
    g.run.commits.write(
        g.directory / "funnel.json",
        {
            "asked": len(g.tasks) * g.run.config.simulate.samples,
            "made": len(transcripts),
            "finished": sum(t.finished for t in transcripts),
            "distinct": len({(t.task_id, t.text) for t in transcripts}),
            "reviewed": len(reviews),
            **({} if by_lot else {"acceptable": sum(r.accepted or r.repeats for r in reviews)}),
            "passed": sum(r.accepted for r in reviews),
            "kept": sum(one.transcript_id in own for one in found),
            "branches": len(branches),
            "branches_passed": sum(b.passed for b in branches),
            "corrections": len(corrected),
            "corrections_passed": sum(r.accepted for _, r in corrected),
            "trained": trained,
            "called": sum(bool(t.called) for t in transcripts),
            "coverage": proportion({documents: float(documents in accepted) for documents in read}),
            "accepted_by_criterion": {n: float(np.mean([r.verdicts[n].passed for r in reviews])) for n in names},
        },
    )


def samples(g: Generation, pairs: Sequence[Pair]) -> None:
    """A few accepted and rejected transcripts with their verdicts; repetitions only if need be."""
    if g.run.commits.has(g.directory / "samples.json"):
        return
    faulty = [(t, r) for t, r in pairs if not r.accepted and not r.repeats]
    repeated = [(t, r) for t, r in pairs if not r.accepted and r.repeats]
    shown = []
    for chosen in ([(t, r) for t, r in pairs if r.accepted], faulty or repeated):
        shown += [_shown(g, t, r) for t, r in evenly(chosen, SHOWN)]
    g.run.commits.write(g.directory / "samples.json", {"transcripts": shown})


def _shown(g: Generation, t: Transcript, r: Review) -> dict:
    verdicts = {n: vars(v) for n, v in r.verdicts.items()}
    return {
        "id": t.id,
        "question": g.read[t.task_id].question,
        "passages": [g.passages[p].text for p in t.passages],
        "calls": [m for m in t.messages if m.get("tool_calls") or m["role"] == "tool"],
        "answer": t.answer,
        "accepted": r.accepted,
        "verdicts": verdicts,
    }


def token_of(g: Generation, pairs: Sequence[Pair], found: Sequence[Target]) -> None:
    """One branch-reviewed token: the position where a rejected alternative was likeliest."""
    transcripts = {t.id: t for t, _ in pairs}
    rejected = [(b.probability, one, b.position) for one in found for b in one.branches if not b.passed]
    rejected = [r for r in rejected if r[1].transcript_id in transcripts]
    if not rejected or g.run.commits.holds(g.directory / "samples.json", "token"):
        return
    shown = g.run.commits.read(g.directory / "samples.json")
    _, one, position = max(rejected, key=lambda r: (r[0], r[1].transcript_id, r[2]))
    t, piece = transcripts[one.transcript_id], g.run.tokenizer.piece
    rows = lambda c: [
        [piece(i), p] for i, p in zip(c.ids_NK[position].tolist(), c.probs_NK[position].tolist(), strict=True)
    ]
    shown["token"] = {
        "context": g.run.tokenizer.decode(t.tokens[:position]),
        "chosen": piece(t.tokens[position]),
        "teacher": rows(t.capture),
        "reviewed": [row for row in rows(one.capture) if row[1] > 0],
        "branches": [
            {"piece": piece(b.token), "passed": b.passed, "text": b.text, "reason": b.reason}
            for b in one.branches
            if b.position == position
        ],
    }
    g.run.commits.write(g.directory / "samples.json", shown)


def correction_samples(g: Generation, corrected: Sequence[Pair]) -> None:
    """Counts of corrections by source and a few of each, with what was wrong, added to wrongthink.json."""
    path = g.directory / "wrongthink.json"
    if not g.run.commits.has(path) or g.run.commits.holds(path, "corrections"):
        return
    measured = g.run.commits.read(path)
    counts, shown = {}, []
    for source in g.run.config.wrongthink.sources:
        mine = [(t, r) for t, r in corrected if t.source == source]
        counts[source] = {"made": len(mine), "passed": sum(r.accepted for _, r in mine)}
        one_each = {t.task_id: t for t, r in mine if r.accepted}.values()
        shown += [
            {
                "question": g.read[t.task_id].question,
                "thought": t.forced_text,
                "correction": t.text,
                "source": source,
                "fault": t.fault,
            }
            for t in list(one_each)[:3]
        ]
    g.run.commits.write(path, measured | {"corrections": counts, "examples": shown})


def likelihood_of_wrong_thoughts(g: Generation, corrected: Sequence[Pair], params: nnx.State) -> None:
    """Adds to wrongthink.json how likely the wrong steps of interrupted thoughts are before and after this generation's
    training, which must never make them likelier. The right steps before them become so, where it has learned them."""
    path = g.directory / "wrongthink.json"
    thoughts = {(t.task_id, t.forced): t for t, r in corrected if r.accepted}.values()
    if not thoughts or not g.run.commits.has(path) or g.run.commits.holds(path, "likelihood"):
        return
    measured = g.run.commits.read(path)
    made = [_wrong_step(g, t) for t in evenly(list(thoughts), MEASURED)]
    before, after = (-g.run.loss(p, made) for p in (g.params, params))
    g.run.commits.write(path, measured | {"likelihood": {"before": before, "after": after}})


def _wrong_step(g: Generation, t: Transcript) -> Example:
    """The last step of an interrupted thought, after all that comes before it."""
    tokenizer, forced = g.run.tokenizer, t.forced
    ends = step_ends(tokenizer, forced, g.run.world.steps(tokenizer.decode(forced).lstrip()))
    start = ends[-2] if len(ends) > 1 else 0
    wrong = forced[start:]
    prompt = [*t.student_prompt, *forced[:start]]
    return examples.example(prompt, wrong, examples.one_hot(wrong), "seed", {"kind": "wrong"})
