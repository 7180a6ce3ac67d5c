"""The whole cycle: documents → simulate → review → targets → wrongthink → train → evaluate → promote, and again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from etils import epath
from flax import nnx

from ratchet.bootstrap import generation as stages
from ratchet.bootstrap import outcome, seed
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.corrections import KEPT, corrections
from ratchet.bootstrap.generation import Generation, TooFewAccepted
from ratchet.bootstrap.ledger import once, write_json
from ratchet.bootstrap.outcome import timed
from ratchet.bootstrap.progress import Progress
from ratchet.bootstrap.review import ReviewerBelowFloor
from ratchet.bootstrap.seed import Run
from ratchet.bootstrap.transcript import Task
from ratchet.train.records import Example


class RunEnded(RuntimeError):
    """The run cannot go on; its message is the result."""


@dataclass(frozen=True)
class Past:
    """What earlier generations left: the last promotion, its weights, all examples, accepted transcripts by source."""

    incumbent: int
    params: nnx.State
    examples: tuple[Example, ...]
    read: tuple[Task, ...]
    accepted: Counter[tuple[str, ...]]
    rollbacks: int


def run(directory: epath.Path, config: Config, progress: Progress) -> None:
    """Runs the loop in `directory` from whatever is committed there to its end.

    Raises RunEnded when the accepted set is empty or too small, a reviewer is below its floor, or two roll-backs came
    in a row.
    """
    r = seed.prepare(directory, config, progress)
    try:
        made = seed.seed_examples(r)
        demonstrations = seed.blend(made, config.train.seed_mixture)
        with timed(r.generation(0), "train"):
            base = seed.train_seed_model(r, made)
        with timed(r.generation(0), "evaluate"):
            outcome.evaluate_generation(r, 0, base)
        past = Past(0, base, (), (), Counter(), 0)
        for number in range(1, config.generations + 1):
            past = turn(r, number, past, base, demonstrations)
        if config.imitation and r.oracle:
            outcome.imitate(r, base, past.read)
    except (RunEnded, ReviewerBelowFloor, TooFewAccepted) as ended:
        write_json(directory / "ended.json", {"reason": str(ended)})
        raise RunEnded(str(ended)) from ended
    finally:
        r.metrics.close()


def turn(r: Run, number: int, past: Past, base: nnx.State, demonstrations: Sequence[Example]) -> Past:
    """One generation, from its documents to its promotion."""
    fresh = r.slices[number - 1]
    again = [t for t in past.read if past.accepted[t.document_ids] < r.config.simulate.revisit]
    g = Generation(r, number, past.incumbent, past.params, (*fresh, *again))
    outcome.plan(g)
    with timed(r.generation(number), "simulate"):
        transcripts = stages.simulate(g)
    with timed(r.generation(number), "review"):
        reviewer, calibration, reviewer_lessons = stages.calibration(g)
        reviews = stages.review(g, reviewer, transcripts)
    units = list(zip(transcripts, reviews, strict=True))
    outcome.samples(g, units)
    if not any(review.accepted for unit in reviews for review in unit):
        outcome.funnel(g, units, [], ([], [], []), 0, past.accepted)
        asked = sum(map(len, transcripts))
        raise RunEnded(
            f"generation {number}: no transcript passed the review ({asked} sampled, {asked} reviewed, 0 accepted); "
            f"`ratchet report {r.directory}` shows the rejected ones and why"
        )
    with timed(r.generation(number), "targets"):
        found = stages.target(g, reviewer, units, r.config.targets.per_task)
    with timed(r.generation(number), "wrongthink"):
        lessons = stages.student_examples(g, units, found)
        chosen = [t for unit in units for t in stages.kept(*unit, r.config.targets.per_task)]
        written, judged = corrections(g, reviewer, lessons, chosen)
        corrected = stages.target(g, reviewer, [(written, judged)], KEPT, "corrections") if written else [[]]
    batches = [*((t, f) for (t, _), f in zip(units, found, strict=True)), (written, corrected[0])]
    newest = stages.dataset(g, batches, reviewer_lessons)
    outcome.audit_generation(g, [*newest, *past.examples], units, [*found, corrected[0]], calibration)
    accepted = past.accepted + outcome.accepted(g, units)
    outcome.funnel(g, units, found, (written, judged, corrected[0]), len(newest), accepted)
    outcome.token_of(g, units, found)
    outcome.correction_samples(g, (written, judged))

    with timed(r.generation(number), "train"):
        start = base if r.config.train.start == "base" else past.params
        params = stages.train(g, start, newest, past.examples, demonstrations)
    with timed(r.generation(number), "evaluate"):
        outcome.evaluate_generation(r, number, params)
    with timed(r.generation(number), "promote"):
        promoted = outcome.promote(g)
    meter = r.sampler.meter
    r.metrics.log(number, "sampler", number, {"busy": meter.busy, "steps": meter.steps, "dispatches": meter.dispatches})
    once(g.directory / "DONE.json", dict)
    rollbacks = 0 if promoted else past.rollbacks + 1
    if rollbacks == 2:
        raise RunEnded(f"generation {number}: two roll-backs in a row; generation {past.incumbent} is the result")
    examples = (*past.examples, *newest) if r.config.train.mixture == "accumulate" else ()
    kept = (number, params) if promoted else (past.incumbent, past.params)
    return Past(*kept, examples, (*past.read, *fresh), accepted, rollbacks)
