"""The whole cycle: documents → simulate → review → targets → wrongthink → train → evaluate → promote, and again."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from weakref import WeakKeyDictionary

import jax
from etils import epath
from flax import nnx

from ratchet.bootstrap import ahead, config_files
from ratchet.bootstrap.arms import forget_checkpoints
from ratchet.bootstrap.calibration import ReviewerBelowFloor
from ratchet.bootstrap.config import Config, ConfigError
from ratchet.bootstrap.config_changes import changed
from ratchet.bootstrap.forecast import FORECAST, write_forecast
from ratchet.bootstrap.generation import Generation
from ratchet.bootstrap.given import INPUTS, Given
from ratchet.bootstrap.ledger import same_units, units_of
from ratchet.bootstrap.lineage import accepted_answers
from ratchet.bootstrap.probes import calibration_of_seed
from ratchet.bootstrap.progress import Noted, Progress
from ratchet.bootstrap.run import Run, prepare
from ratchet.bootstrap.stages import audit, baselines, promote, propose, seed, summary, train, transcripts
from ratchet.bootstrap.stages.calibrate import calibration, probed
from ratchet.bootstrap.stages.corrections import corrections
from ratchet.bootstrap.stages.evaluate import evaluation
from ratchet.bootstrap.stages.transcripts import Reviewed
from ratchet.bootstrap.thinkers import Knower
from ratchet.train import goodput
from ratchet.train.commits import FILE as COMMITS
from ratchet.train.files import typed
from ratchet.train.holder import holding
from ratchet.train.monitor import Watchdog
from ratchet.train.records import Example, has_examples
from ratchet.train.stopping import Ends
from ratchet.train.together import ALONE, Together, connect


class RunEnded(Ends):
    """The run cannot go on; its message is the result."""


@dataclass(frozen=True)
class Past:
    """What earlier generations left: the last promotion, accepted transcripts by their documents, and roll-backs in a
    row."""

    incumbent: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    rollbacks: int = 0


@dataclass(frozen=True)
class Seed:
    """The seed model, and the demonstrations that later generations go on being shown. Each is made when first
    needed."""

    run: Run
    datasets: dict[int, list[Example]] = field(default_factory=dict)
    """By generation, the datasets that this process has made or read."""
    explained: MutableMapping[Example, bool] = field(default_factory=WeakKeyDictionary)
    """Whether audits have accounted for an example."""

    @cached_property
    def skills(self) -> seed.Skills:
        return seed.demonstrations(self.run, self.run.fresh_weights())

    @cached_property
    def weights(self) -> nnx.State:
        return seed.train_seed_model(self.run, lambda: self.skills)

    @cached_property
    def demonstrations(self) -> list[Example]:
        return seed.blend(self.skills, self.run.config.train.seed_mixture)


def run(
    directory: epath.Path, config: Config, progress: Progress, *, foretell: bool = False, together: Together = ALONE,
    given: Given | None = None,
) -> None:  # fmt: skip
    """Runs the loop in `directory` from whatever is committed there to its end, as the only one that works there: one
    process, or several `together`, each of which calls this alike. What it reads is read first, unless it is `given`.

    To `foretell` is to time this machine for some seconds first, so that progress tells how long a new run takes.
    Raises RunEnded when the accepted set is empty or too small, a reviewer is below its floor, the audit finds what
    must not be trained on, or too many roll-backs came in a row; ServerRefused or ServerStopped where a server by
    address does not answer; before anything is written, Busy when another process works on the run, and ConfigError
    when the directory holds a run of other settings.
    """
    with holding(directory, progress.line, together) as holder, _watched(config, together) as beat:
        began, _ = time.time(), jax.devices()
        found_devices = time.time()
        r = _opened(directory, config, Noted(progress, holder, beat), together, given)
        holder.meter = r.sampler.meter
        try:
            with goodput.recording(directory, began, found_devices) if together.first else nullcontext():
                _run(r, foretell)
        except (RunEnded, ReviewerBelowFloor, train.TooFewAccepted, propose.NoTasks, audit.AuditFailed) as ended:
            r.commits.write(directory / "ended.json", {"reason": str(ended)})
            raise RunEnded(str(ended)) from ended
        finally:
            r.metrics.close()


@contextmanager
def _watched(config: Config, together: Together) -> Iterator[Callable[[str], None]]:
    """Ends a process whose peers have not come on for too long. Gives what takes where this one is."""
    if together.count == 1:
        yield lambda at: None  # there is nobody to hang for
        return
    with Watchdog(config.train.engine.stall_minutes, "run") as watchdog:
        yield watchdog.beat


def _opened(
    directory: epath.Path, config: Config, progress: Progress, together: Together, given: Given | None
) -> Run:
    """A run that is there or begins. Where its first beginning fails, as on a vocabulary that is too small, nothing of
    it stays, so that it can be begun otherwise in the same place."""

    def begin() -> bool:
        if begun := config_files.begun(directory):
            return not begun
        config_files.begin(directory, config)
        return True

    begins = together.decided("whether the run begins", begin)
    if differences := changed(config_files.saved(directory), config):
        raise ConfigError(f"{directory}: the run is another; {differences[0]}")
    try:
        r = prepare(directory, config, progress, together=together, given=given)
    except ValueError:
        for name in (config_files.KEPT, config_files.PASSED_BACK, INPUTS, COMMITS) if begins and together.first else ():
            (directory / name).unlink(missing_ok=True)
        raise
    if together.count > 1:
        connect(r.mesh)
    return r


def _run(r: Run, foretell: bool) -> None:
    arms = [baselines.PLACE] if r.config.controls.imitation else []
    plan = {"generations": r.config.generations, "arms": arms, "stages": planned(r, arms)}
    r.commits.write(r.directory / "plan.json", plan)
    if r.config.teacher.url:
        _ = r.teacher  # met before anything is spent on the run
    _ = r.judge
    new = lambda: not (r.directory / FORECAST).exists() and not r.generation(0).exists()
    if foretell and r.decided("whether anything is done", new):
        write_forecast(r, plan["stages"])
    start, past = Seed(r), Past()
    with ahead.compiling(r) as beside:
        begin(r, start, beside)
        for number in range(1, r.config.generations + 1):
            past = finished(r, number) or turn(r, number, past, start, beside.wait)
            if past.rollbacks == r.config.evaluate.rollbacks:
                said = f"generation {number}: {past.rollbacks} roll-backs in a row"
                raise RunEnded(f"{said}; generation {past.incumbent} is the result")
        if arms:
            imitate(r, start)


def planned(r: Run, arms: Sequence[str]) -> list[dict]:
    """Every stage of the run that has work, in order: its place, its name, and how much there is to do.

    `work` is in examples of training, transcripts, tasks, or documents that get some; the same stage of another
    generation takes as long for as much. Tasks that will be returned to are not known beforehand, and of those that a
    model proposes it is not known how many will be kept: all that may be.
    """
    c, last, found = r.config, r.config.generations, []

    def tasks_of(number: int) -> int:
        material = r.material(number)
        return len(material.tasks) or len(material.documents) * r.world.per_document

    def proposed(number: int) -> int:
        material = r.material(number)
        return len(material.documents) if r.kinds and not material.tasks else 0

    def add(place: str, **work: int) -> None:
        found.extend({"place": place, "stage": stage, "work": amount} for stage, amount in work.items() if amount)

    examples = lambda number: train.steps_of(c, number) * c.train.batch
    seeds = c.train.seed_steps * sum(asdict(c.train.seed_mixture).values()) if r.shown else 0
    add("gen-000", train=seeds, propose=proposed(0) + proposed(1), calibrate=probed(r, 0), evaluate=tasks_of(1))
    for number in range(1, last + 1):
        place, tasks = r.generation(number).name, tasks_of(number)
        read = sum(map(tasks_of, range(1, number + 1)))
        correcting = read if 0 < c.wrongthink.first_generation <= number else 0
        samples = tasks * c.simulate.samples
        add(place, propose=proposed(number) if number > 1 else 0, simulate=samples, calibrate=probed(r, number))
        add(place, review=samples, targets=tasks, wrongthink=correcting, corrections=correcting)
        add(place, train=examples(number), evaluate=read)
    for arm in arms:
        add(arm, train=examples(last), evaluate=sum(map(tasks_of, range(1, last + 1))))
    return found


def begin(r: Run, start: Seed, beside: ahead.Beside = ahead.NOTHING) -> None:
    """Generation 0: the seed model, and what it is worth. What compiles `beside` hears how far it is."""
    if not r.has_weights(place := r.generation(0)):
        with r.timed(place, "train"):
            _ = start.weights
            beside.seed_is_there()
    if missing := [number for number in (0, 1) if propose.missing(r, number)]:
        with r.timed(place, "propose"):
            for number in missing:
                propose.propose(r, number, start.weights)
    beside.tasks_are_there()
    if probed(r, 0) and not r.commits.has(place / "calibration.json"):
        with r.timed(place, "calibrate"):
            calibration_of_seed(r)
    if r.commits.has(place / "evaluation.json"):
        return
    with r.timed(place, "evaluate"):
        r.commits.once(place / "evaluation.json", lambda: evaluation(r, 0, start.weights, None))


def finished(r: Run, number: int) -> Past | None:
    """What a finished generation left; None when it is not finished, or something of it is missing and has to be made
    again."""
    place, past = r.generation(number), left_by(r, number)
    if not past:
        return None
    paths, units = r.commits.within(place), r.commits.read(place / "DONE.json")["units"]
    there = lambda: (
        all(path.exists() for path in paths) and has_examples(train.dataset_of(r, number)) and units_of(place) == units
    )
    return past if r.has_weights(place) and r.decided(f"whether {place.name} is whole", there) else None


def left_by(r: Run, number: int) -> Past | None:
    """What a generation left that was finished once; None when it never was."""
    path = r.generation(number) / "DONE.json"
    if not r.commits.has(path):
        return None
    done = r.commits.read(path)
    return Past(done["incumbent"], Counter(done["accepted"]), done["rollbacks"])


def turn(r: Run, number: int, past: Past, start: Seed, weights_are_there: Callable[[], None] = lambda: None) -> Past:
    """One generation, from its documents to its promotion. Of a finished one, what is missing is made again; raises
    ValueError when that comes out otherwise than it was. `weights_are_there` is called before they are evaluated.
    """
    params = incumbents(r, past, start)
    if number > 1 and propose.missing(r, number):
        with r.timed(r.generation(number), "propose"):
            propose.propose(r, number, params)
    g = _generation(r, number, past, params, start)
    summary.plan(g)
    with r.timed(g.directory, "simulate"):
        written = transcripts.simulate(g)
    with r.timed(g.directory, "calibrate"):
        reviewer, _, mistakes = calibration(g, [t for unit in written for t in unit])
    with r.timed(g.directory, "review"):
        units = transcripts.review(g, reviewer, written)
    pairs = [pair for unit in units for pair in zip(*unit, strict=True)]
    summary.samples(g, pairs)
    accepted = past.accepted + transcripts.accepted(g, units)
    if not any(review.accepted for _, review in pairs):
        summary.funnel(g, pairs, [], [], 0, accepted)
        raise RunEnded(
            f"generation {number}: no transcript passed the review ({len(pairs)} sampled, {len(pairs)} reviewed, 0 "
            f"accepted); `ratchet report {typed(r.directory)}` shows the rejected ones and why; more to read, more "
            "--simulate.samples or a larger --base may help"
        )
    with r.timed(g.directory, "targets"):
        found = transcripts.target(g, reviewer, units, r.config.targets.per_task, ("targets", "review"))
    with r.timed(g.directory, "wrongthink"):
        right = [t for unit in units for t in transcripts.kept(unit, r.config.targets.per_task)]
        right += accepted_answers(r, range(1, number))
        corrected = [Reviewed(*unit) for unit in corrections(g, reviewer, right)]
    with r.timed(g.directory, "corrections"):
        of, per_task = ("corrections", "wrongthink"), r.config.wrongthink.per_task
        more = transcripts.target(g, reviewer, corrected, per_task, of, right)
    summary.asked(g)
    taught = [(unit.transcripts, t) for unit, t in zip([*units, *corrected], [*found, *more], strict=True)]
    newest = train.dataset(g, taught, mistakes)
    targets = [one for unit in [*found, *more] for one in unit]
    repaired = [pair for unit in corrected for pair in zip(*unit, strict=True)]
    summary.funnel(g, pairs, repaired, targets, len(newest), accepted)
    summary.token_of(g, pairs, targets)
    summary.correction_samples(g, repaired)
    params = train.trained_weights(g)
    if params is None:
        about = (pairs, repaired, targets, reviewer, start.explained)
        params = _trained(g, newest, start, lambda trained: audit.audit_generation(g, trained, *about))
    with r.timed(g.directory, "evaluate"):
        weights_are_there()
        summary.likelihood_of_wrong_thoughts(g, repaired, params)
        known = knower(r, number, params, start)
        found = lambda: evaluation(r, number, params, known)
        r.commits.once(g.directory / "evaluation.json", found)
        if known:
            ahead.compile_contrast(known)
    with r.timed(g.directory, "promote"):
        promoted = promote.promote(g)
    log_sampler(r, number)
    rollbacks = 0 if promoted else past.rollbacks + 1
    return _ended(g, Past(number if promoted else past.incumbent, accepted, rollbacks))


def log_sampler(r: Run, number: int) -> None:
    """Writes down how busy the sampler was up to the end of a generation."""
    meter = r.sampler.meter
    r.metrics.log(number, "sampler", number, {"busy": meter.busy, "steps": meter.steps, "dispatches": meter.dispatches})


def _trained(
    g: Generation, newest: Sequence[Example], start: Seed, audited: Callable[[Sequence[Example]], None]
) -> nnx.State:
    """The weights of a generation, whose training step is compiled while what they are trained on is audited."""
    earlier = train.earlier_examples(g, start.datasets)
    learned = [*newest, *earlier, *start.demonstrations]
    try:
        ready = train.prepared(g, newest, earlier, start.demonstrations)
    except (train.TooFewAccepted, ValueError):
        audited(learned)
        raise
    there = g.run.has_weights(g.directory)
    with nullcontext() if there else ahead.compiling_step(ready.arm, train.start_of(g)):
        audited(learned)
    if g.run.config.controls.mixture == "accumulate":  # of what is replaced nothing is needed again
        start.datasets[g.number] = list(newest)
    with g.run.timed(g.directory, "train"):
        return train.train(g, ready)


def _ended(g: Generation, left: Past) -> Past:
    """What a generation left, committed as its end. Raises ValueError when its units are not those of the first end."""
    forget_checkpoints(g.run, g.number)
    units = g.run.decided("the units", lambda: units_of(g.directory))
    done = g.run.commits.once(g.directory / "DONE.json", lambda: vars(left) | {"units": units})
    same_units(g.directory, done["units"], units)
    return left


def incumbents(r: Run, past: Past, start: Seed) -> nnx.State:
    """The weights of the last promotion."""
    return r.weights(past.incumbent) if past.incumbent else start.weights


def _generation(r: Run, number: int, past: Past, params: nnx.State, start: Seed) -> Generation:
    """A generation of an incumbent's weights reads its own slice, and documents of which too little was accepted."""
    enough = r.config.simulate.revisit
    again = [t for t in r.read(number - 1) if past.accepted[" ".join(t.document_ids)] < enough]
    read = {t.id: t for t in r.read(number)}
    return Generation(r, number, past.incumbent, params, start.weights, (*r.tasks(number), *again), read)


def knower(r: Run, number: int, params: nnx.State, start: Seed) -> Knower | None:
    """A generation's weights with accepted answers about what was read, for wrong-thinkers in an evaluation."""
    first = r.config.wrongthink.first_generation
    if not first or not number:
        return None
    right = list({t.task_id: t for t in accepted_answers(r, range(1, number + 1))}.values())
    answered = {a.task_id for a in right}
    tasks = [t for t in r.read(number) if t.id in answered]
    return Knower(r, number, params, start.weights, tasks, right, r.passages(number))


def imitate(r: Run, start: Seed) -> None:
    """The imitation arm, and what it is worth."""
    place = r.directory / baselines.PLACE
    if r.commits.has(place / "evaluation.json") and r.has_weights(place):
        return
    with r.timed(place, "train"):
        params = baselines.imitate(r, start.weights)
    with r.timed(place, "evaluate"):
        last = r.config.generations
        r.commits.once(place / "evaluation.json", lambda: evaluation(r, last, params, None, baselines.PLACE))
