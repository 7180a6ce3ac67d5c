"""The wrongthink stage: who thinks wrongly about what was read, the interruptions, and their reviews."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

from flax import nnx

from ratchet.bootstrap import wrongthink
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.thinkers import Knower
from ratchet.bootstrap.transcript import Pair, Review, Transcript, review_from_json, to_json, transcript_from_json
from ratchet.bootstrap.worlds.world import Task, content_id

ATTEMPTS = 3
"""Corrections that are tried of a wrong thought until one passes the review."""


def corrections(
    g: Generation, reviewer: Reviewer, right: Sequence[Transcript]
) -> list[tuple[list[Transcript], list[Review]]]:
    """Interrupted wrong thoughts about what was read, as (transcripts, reviews) by unit.

    `right` are accepted answers, this generation's first: they are spoiled by rule, and they vote where siblings do.
    The units follow the tasks read so far. There are none before the first generation that makes corrections.
    """
    c, run = g.run.config.wrongthink, g.run
    if not c.first_generation or g.number < c.first_generation or not right:
        return []
    known, made = run.read(g.incumbent), []  # what a generation that was rolled back read, nobody knows
    thinker = functools.cache(_thinker(g, reviewer, known, right))
    before, stage = {t.id for t in known}, g.run.stage(g.directory / "wrongthink")
    units, fingerprint = g.parts(list(g.read.values())), content_id(sorted(t.id for t in right))
    with run.progress.stage(f"gen {g.number} wrongthink", len(units)) as advance:
        for unit, tasks in enumerate(units):

            def make(tasks=tasks, unit=unit) -> list[bytes]:
                pairs = _unit(g, reviewer, thinker, tasks, before, right, unit)
                return [part for t, r in pairs for part in (to_json(t), to_json(r))]

            inputs = g.inputs("wrongthink", unit, fingerprint, *(t.id for t in tasks))
            found = stage.has(unit, inputs)
            payloads = stage.unit(unit, inputs, make)
            written, judged = map(transcript_from_json, payloads[::2]), map(review_from_json, payloads[1::2])
            made.append((list(written), list(judged)))
            advance(1, found=found)
    return made


def _thinker(
    g: Generation, reviewer: Reviewer, known: Sequence[Task], right: Sequence[Transcript]
) -> Callable[[], nnx.State | None]:
    """What gives the weights of the model that thinks wrongly, if there is one, and makes them when they are missing;
    how it was chosen stands in wrongthink.json."""
    source = next((s for s in g.run.config.wrongthink.sources if s != "spoiled"), None)
    if source in (None, "incumbent") or not known:
        skipped = None if source in (None, "incumbent") else "nothing was read before"
        _measured(g, lambda: {"source": source, "lambda": None, "sweep": [], "control": [], "skipped": skipped})
        return lambda: g.params if source == "incumbent" else None
    one_each = list({t.task_id: t for t in right}.values())
    knower = Knower(g.run, g.number, g.params, g.base, known, one_each, list(g.passages.values()))

    made: list[nnx.State | None] = []

    def make() -> dict:
        vector = knower.vector(source)
        params, chosen = knower.choose(reviewer, source, vector)
        made.append(params)
        random = None if vector is None or source == "random" else knower.random_like(vector)
        del vector  # it is as large as the model
        control = [] if random is None else knower.sweep(reviewer, random, "random")
        return chosen | {"control": control}

    found = _measured(g, make)
    if found["skipped"]:
        g.run.progress.line(f"gen {g.number} wrongthink: {found['skipped']}")
    if made or found["lambda"] is None:
        return lambda: made[0] if made else None
    return lambda: wrongthink.against(g.params, knower.vector(source), found["lambda"])


def _measured(g: Generation, make: Callable[[], dict]) -> dict:
    """What wrongthink.json says, to which more is added later; made first when it is missing."""
    path = g.directory / "wrongthink.json"
    if not g.run.commits.has(path):
        g.run.commits.write(path, make())
    return g.run.commits.read(path)


def _unit(
    g: Generation,
    reviewer: Reviewer,
    thinker: Callable[[], nnx.State | None],
    tasks: Sequence[Task],
    before: set[str],
    right: Sequence[Transcript],
    unit: int,
) -> list[Pair]:
    """The corrections of one unit's `tasks` with their reviews, in an order in which no source comes first. A model
    thinks wrongly about those of `before`; all `right` answers vote on what is said."""
    run, own, asked = g.run, {t.id for t in tasks}, [t for t in tasks if t.id in before]
    answers = [t for t in right if t.task_id in own]
    heard, c, pairs = tuple(t.text for t in answers), run.config.wrongthink, []
    if asked and (params := thinker()) is not None:
        source = next(s for s in c.sources if s != "spoiled")
        begun, seed = {t.task_id: t.tokens for t in answers}, g.seed("think", unit)
        said = wrongthink.think(run.writer(params), run.world, asked, c.samples, seed=seed, right=begun)
        found = wrongthink.supervise(reviewer, said, list(g.passages.values()), heard, source)
        pairs += _tried(g, reviewer, [thought for thought in found if thought], right, unit)
    if "spoiled" in c.sources:
        spoiled = _spoiled(g, answers, heard)
        pairs += zip(spoiled, reviewer.review(spoiled, g.read, g.passages, right), strict=True)
    return sorted(pairs, key=lambda pair: content_id(pair[0].task_id, pair[0].forced))


def _tried(
    g: Generation, reviewer: Reviewer, thoughts: Sequence[wrongthink.Thought], right: Sequence[Transcript], unit: int
) -> list[Pair]:
    """Corrections of wrong thoughts with their reviews; one that fails is tried again, or hard cases would be rare."""
    left, done = list(thoughts), []
    for attempt in range(ATTEMPTS):
        if not left:
            break
        seed, interruption = g.seed("interrupt", unit, attempt), g.run.config.wrongthink.interruption
        found = wrongthink.interrupt(g.author(), g.index, left, interruption, generation=g.number, seed=seed)
        if missing := len(left) - len(found):
            left_out = f"{missing} wrong thoughts leave no room to go on, and are left out"
            g.run.progress.line(f"gen {g.number} wrongthink: {left_out}")
        written = [replace(t, id=content_id(t.id, attempt)) for _, t in found]
        reviews = reviewer.review(written, g.read, g.passages, right)
        done += zip(written, reviews, strict=True)
        left = [one for (one, _), r in zip(found, reviews, strict=True) if not r.accepted]
    return done


def _spoiled(g: Generation, answers: Sequence[Transcript], heard: tuple[str, ...]) -> list[Transcript]:
    """Corrections of accepted answers with each step spoiled by rule: errors that the model might make, but does not
    make here."""
    run, count, found = g.run, {}, []
    c, longest = run.config.wrongthink, run.config.model.max_length
    for t in answers:
        count[t.task_id] = count.get(t.task_id, 0) + 1
        if count[t.task_id] <= c.samples:
            task = g.read[t.task_id]
            found += wrongthink.spoil(run.world, run.tokenizer, t, task, heard, c.interruption, g.number)
    return [t for t in found if len(t.prompt) + len(t.forced) + len(t.tokens) <= longest]
