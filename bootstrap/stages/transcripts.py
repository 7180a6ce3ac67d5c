"""Simulate, review and targets: a function of (generation, what came before, unit) each, committed unit by unit."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from ratchet.bootstrap import targets
from ratchet.bootstrap.checks import reject_repeated
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.progress import Reached
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.simulate import draft, finish
from ratchet.bootstrap.targets import Target, make_targets
from ratchet.bootstrap.teacher.client import Counts
from ratchet.bootstrap.transcript import Review, Transcript, review_from_json, to_json, transcript_from_json
from ratchet.bootstrap.worlds.world import content_id


class Reviewed(NamedTuple):
    """A unit of transcripts with their reviews."""

    transcripts: list[Transcript]
    reviews: list[Review]

    @property
    def heard(self) -> tuple[Transcript, ...]:
        """The accepted transcripts, which vote where siblings do."""
        return tuple(t for t, r in zip(*self, strict=True) if r.accepted)


def simulate(g: Generation) -> list[list[Transcript]]:
    """Transcripts by unit: n siblings of every task."""
    config, run, made = g.run.config.simulate, g.run, []
    stage = g.run.stage(g.directory / "simulate")
    with run.progress.stage(f"gen {g.number} simulate", len(g.tasks) * config.samples) as advance:
        for unit, tasks in enumerate(g.parts(g.tasks)):

            def make(tasks=tasks) -> list[bytes]:
                salt = f"{run.config.seed} {g.number}"
                drafts = [draft(g.writer, g.index, t, n, salt) for t in tasks for n in range(config.samples)]
                how = {"generation": g.number, "seed": g.seed("simulate"), "advance": advance}
                if g.teacher:
                    written = g.teacher.finish(drafts, g.passages, **how)
                else:
                    written = finish(g.author(), g.index, drafts, **how)
                return [to_json(t) for t in written]

            inputs = g.inputs("simulate", unit, *(t.id for t in tasks))
            if stage.has(unit, inputs):
                advance(len(tasks) * config.samples, found=True)
            made.append([transcript_from_json(p) for p in stage.unit(unit, inputs, make)])
    if g.teacher and g.teacher.summary:
        run.progress.line(f"gen {g.number} {g.teacher.summary}")
    return made


def review(g: Generation, reviewer: Reviewer, units: Sequence[Sequence[Transcript]]) -> list[Reviewed]:
    """One review per transcript, by unit; one that repeats an accepted sibling is rejected where the rubric says so."""
    run, made = g.run, []
    stage, before = g.run.stage(g.directory / "review"), g.run.stage(g.directory / "simulate")
    thresholds = content_id([c.model_dump() for c in reviewer.criteria])
    distinct = next((c for c in reviewer.criteria if c.id == "distinct"), None)
    with run.progress.stage(f"gen {g.number} review", sum(map(len, units))) as advance:
        for unit, transcripts in enumerate(units):

            reached = Reached(advance)

            def make(transcripts=transcripts, unit=unit, reached=reached) -> list[bytes]:
                counting = lambda share: reached(int(share * len(transcripts)))
                reviews = reviewer.review(transcripts, g.read, g.passages, reached=counting)
                if distinct:
                    reviews = reject_repeated(transcripts, reviews, distinct.limit, distinct.required)
                if share := run.config.controls.random_share:
                    reviews = _at_random(reviews, share, g.seed("random review", unit))
                return [to_json(r) for r in reviews]

            inputs = g.inputs("review", unit, before.sha256(unit), thresholds)
            found = stage.has(unit, inputs)
            reviews = [review_from_json(p) for p in stage.unit(unit, inputs, make)]
            advance(len(transcripts), found=True) if found else reached(len(transcripts))
            made.append(Reviewed(list(transcripts), reviews))
    if reviewer.far and reviewer.far.client.counts != Counts():
        run.progress.line(f"gen {g.number} judge: {reviewer.far.client.counts}")
    return made


def _at_random(reviews: Sequence[Review], share: float, seed: int) -> list[Review]:
    """The control: accepted without looking."""
    lots = np.random.default_rng(seed).random(len(reviews))
    return [replace(r, accepted=bool(lot < share)) for r, lot in zip(reviews, lots, strict=True)]


def kept(unit: Reviewed, per_task: int) -> list[Transcript]:
    """The accepted transcripts, at most `per_task` of each task, in the order sampled; those with tool calls, which are
    rare, before the others."""
    count: Counter[str] = Counter()
    chosen = []
    accepted = [t for t, r in zip(*unit, strict=True) if r.accepted]
    for t in sorted(accepted, key=lambda t: not t.called):
        count[t.task_id] += 1
        if count[t.task_id] <= per_task:
            chosen.append(t)
    return chosen


def target(
    g: Generation, reviewer: Reviewer, units: Sequence[Reviewed], per_task: int, of: tuple[str, str],
    right: Sequence[Transcript] = (),
) -> list[list[Target]]:  # fmt: skip
    """Targets of the kept transcripts, by unit; `of` names the stage and the one whose units they are made from, such
    as ("targets", "review"). Answers that are `right` vote as well, each where its task is asked."""
    run, made = g.run, []
    stage, before = g.run.stage(g.directory / of[0]), g.run.stage(g.directory / of[1])
    chosen = [kept(unit, per_task) for unit in units]
    if not units:
        return []
    with run.progress.stage(f"gen {g.number} {of[0]}", sum(map(len, chosen))) as advance:
        for unit, (siblings, accepted) in enumerate(zip(units, chosen, strict=True)):

            reached = Reached(advance)

            def make(siblings=siblings, accepted=accepted, unit=unit, reached=reached) -> list[bytes]:
                half = lambda first, share: reached(int((first + share) / 2 * len(accepted)))
                judged = functools.partial(half, 1)
                asked = {t.task_id for t in accepted}
                said = (*siblings.heard, *(t for t in right if t.task_id in asked))
                heard = [t for t in said if t.source == "answer"]  # a correction would be an answer's second vote
                beside = lambda drafts: reviewer.review(drafts, g.read, g.passages, heard, judged)
                seed, sampled = g.seed(of[0], unit), functools.partial(half, 0)
                writer = g.author(captured=False)
                found = make_targets(writer, reviewer.scorer, beside, accepted, run.config.targets, seed, sampled)
                return [targets.to_json(t) for t in found]

            inputs = g.inputs(of[0], unit, before.sha256(unit))
            found = stage.has(unit, inputs)
            made.append([targets.from_json(p) for p in stage.unit(unit, inputs, make)])
            advance(len(accepted), found=True) if found else reached(len(accepted))
    return made


def accepted(g: Generation, units: Sequence[Reviewed]) -> Counter[str]:
    """Accepted transcripts by the documents that they learned from, whose ids are joined by a space."""
    return Counter(
        " ".join(g.read[t.task_id].document_ids) for unit in units for t, r in zip(*unit, strict=True) if r.accepted
    )
