"""The wrongthink stage: who thinks wrongly about this slice, the interruptions, and their reviews."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

from flax import nnx

from ratchet.bootstrap import wrongthink
from ratchet.bootstrap.checks import count_judgements, parse
from ratchet.bootstrap.config import WrongthinkConfig
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.ledger import Stage, once
from ratchet.bootstrap.lineage import reviewed
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.seed import control_text, train_arm
from ratchet.bootstrap.transcript import Review, Transcript, content_id, review_from_json, to_json, transcript_from_json
from ratchet.train.records import Example
from ratchet.train.trainer import mean_loss

ATTEMPTS = 3
"""Corrections that are tried of a wrong thought until one passes the review."""
KEPT = 8
"""Accepted corrections of a task that a generation trains on."""
SPOILED = 50
"""Sample number from which spoiled answers count; a wrong-thinker's samples count from 0 and are fewer."""


def corrections(
    g: Generation, reviewer: Reviewer, lessons: Sequence[Example], accepted: Sequence[Transcript]
) -> tuple[list[Transcript], list[Review]]:
    """Interrupted wrong thoughts about what was read, with reviews; both empty before the first such generation."""
    c = g.run.config.wrongthink
    if not c.first_generation or g.number < c.first_generation or not lessons:
        return [], []

    def make() -> list[bytes]:
        thoughts = _wrong_thoughts(g, lessons, accepted)
        spoiled = _spoiled(g, accepted) if "spoiled" in c.sources else []
        with g.run.progress.stage(f"gen {g.number} wrongthink", len(thoughts) + len(spoiled)) as advance:
            pairs = _interrupted(g, reviewer, thoughts, advance)
            votes = count_judgements([*spoiled, *(t for t, _ in pairs)])
            pairs += zip(spoiled, reviewer.review(spoiled, g.read, g.run.passages, votes), strict=True)
            advance(len(spoiled))
        # attempts stay together, in the order made; otherwise neither source comes first
        pairs.sort(key=lambda pair: content_id(pair[0].task_id, pair[0].forced))
        return [part for t, r in pairs for part in (to_json(t), to_json(r))]

    payloads = Stage(g.directory / "wrongthink").unit(0, g.inputs("wrongthink", 0), make)
    return [transcript_from_json(p) for p in payloads[::2]], [review_from_json(p) for p in payloads[1::2]]


def _interrupted(
    g: Generation, reviewer: Reviewer, thoughts: Sequence[wrongthink.Thought], advance: Callable[[int], None]
) -> list[tuple[Transcript, Review]]:
    """Corrections of wrong thoughts with their reviews; one that fails is tried again, or hard cases would be rare."""
    run, left = g.run, list(thoughts)
    done: list[tuple[Transcript, Review]] = []
    for attempt in range(ATTEMPTS):
        if not left:
            break
        written = wrongthink.interrupt(
            g.writer, run.index, left, run.config.simulate, run.room, generation=g.number,
            seed=g.seed("interrupt", attempt),
        )  # fmt: skip
        votes = count_judgements([*(t for t, _ in done), *written])
        reviews = reviewer.review(written, g.read, run.passages, votes)
        done += zip(written, reviews, strict=True)
        tried, left = len(left), [one for one, r in zip(left, reviews, strict=True) if not r.accepted]
        advance(tried - len(left))
    return done


def source_of(g: Generation, correction: Transcript) -> str | None:
    """Where the wrong thought that it interrupts came from: one of the configured sources."""
    return "spoiled" if correction.sibling >= wrongthink.CORRECTED + SPOILED else _source(g.run.config.wrongthink)


def why_wrong(g: Generation, correction: Transcript) -> str:
    """The fault of the interrupted thought; "" where the supervisor finds none, as in a spoiled judgement."""
    documents = {d.id: d for d in g.run.corpus}
    return wrongthink.first_wrong_step(g.writer, g.read[correction.task_id], correction.forced, documents)[1]


def _spoiled(g: Generation, accepted: Sequence[Transcript]) -> list[Transcript]:
    """Corrections of accepted transcripts with each claim, and the choice in each way, spoiled by rule: errors that the
    model might make, but does not make here.

    Earlier generations' accepted transcripts are spoiled too, so that what was learned first can be recovered as well.
    """
    run = g.run
    chosen = [*accepted, *(t for n in range(1, g.number) for t in _accepted_in(g, n))]
    outcomes = wrongthink.judged_outcomes(chosen)
    count: Counter[str] = Counter()
    found: list[Transcript | None] = []
    for t in chosen:
        count[t.task_id] += 1
        if count[t.task_id] <= run.config.wrongthink.samples:
            for step in range(2 * len(parse(t.text).claims) - 1):
                given = {"step": step, "sample": SPOILED + len(found), "generation": g.number}
                found.append(wrongthink.spoil(run.tokenizer, t, outcomes, **given))
    longest = run.config.model.max_length
    return [t for t in found if t and len(t.prompt) + len(t.forced) + len(t.tokens) <= longest]


def _accepted_in(g: Generation, number: int) -> list[Transcript]:
    """One accepted answer to every task of an earlier generation."""
    transcripts, reviews = reviewed(g.run.generation(number))
    answers = [t for i, t in transcripts.items() if reviews[i].accepted and not t.forced]
    return list({t.task_id: t for t in answers}.values())


def _wrong_thoughts(
    g: Generation, lessons: Sequence[Example], accepted: Sequence[Transcript]
) -> list[wrongthink.Thought]:
    """Samples the wrong-thinker, if there is one, about this slice and cuts each thought at its first wrong step."""
    c, run, simulate_config = g.run.config.wrongthink, g.run, g.run.config.simulate
    documents = {d.id: d for d in run.corpus}
    params, measured = _wrong_thinker(g, lessons, documents)
    once(g.directory / "wrongthink.json", lambda: measured)
    if measured["skipped"]:
        run.progress.line(f"gen {g.number} wrongthink: {measured['skipped']}")
    if params is None:
        return []
    thoughts = []
    right = {t.task_id: t.tokens for t in accepted}
    said = wrongthink.think(run.writer(params), g.tasks, c.samples, simulate_config, seed=g.seed("think"), right=right)
    for task, number, tokens, _, _ in said:
        cut, reason = wrongthink.first_wrong_step(g.writer, task, tokens, documents)
        if cut:
            thoughts.append(wrongthink.Thought(task, number, cut, run.tokenizer.decode(cut), reason))
    return thoughts


def _wrong_thinker(g: Generation, lessons: Sequence[Example], documents) -> tuple[nnx.State | None, dict]:
    """The wrong-thinker's weights and how it was chosen; None without such a source, or when no λ is wrong enough
    within the budget."""
    c, run = g.run.config.wrongthink, g.run
    if _source(c) in (None, "incumbent"):
        unswept = {"source": _source(c), "lambda": None, "sweep": [], "skipped": None}
        return (g.params if _source(c) else None), unswept
    pools = [(lessons, run.config.train.batch)]
    after = train_arm(run, g.number, "lesson", g.params, pools, c.steps, rate_scale=0.1)
    if _source(c) == "random":
        after = wrongthink.random_vector(g.params, after, g.seed("random vector"))
    control = control_text(run)
    candidates = {scale: wrongthink.invert(g.params, after, scale) for scale in (0.0, *c.lambdas)}
    probe = g.tasks[:: max(1, len(g.tasks) // 60)][:60]
    scale, rows = wrongthink.sweep(
        g.writer, candidates, probe, documents, lambda params: math.exp(mean_loss(run.graphdef, params, control)), c,
        run.config.simulate, seed=g.seed("sweep"),
    )  # fmt: skip
    skipped = None if scale is not None else "no λ was wrong enough while well formed and within the perplexity budget"
    measured = {"source": _source(c), "lambda": scale, "sweep": rows, "skipped": skipped}
    return (candidates[scale] if scale is not None else None), measured


def _source(c: WrongthinkConfig) -> str | None:
    """The model that thinks wrongly, if any does."""
    return next((source for source in c.sources if source != "spoiled"), None)
