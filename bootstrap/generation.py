"""One generation, stage by stage. Each stage is a function of (run, its inputs, unit index) and writes units."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from flax import nnx

from ratchet.bootstrap import examples, targets
from ratchet.bootstrap.checks import parse
from ratchet.bootstrap.config import TrainConfig
from ratchet.bootstrap.dedupe import distinct_transcripts
from ratchet.bootstrap.ledger import Stage, once
from ratchet.bootstrap.review import (
    Probe,
    Reviewer,
    ReviewerBelowFloor,
    calibrate,
    criterion_prompt,
    junk_probes,
    with_thresholds,
)
from ratchet.bootstrap.seed import SEEN, Run, demonstration_index, train_arm
from ratchet.bootstrap.simulate import Writer, complete, draft
from ratchet.bootstrap.targets import Target, make_targets
from ratchet.bootstrap.transcript import (
    Document,
    Review,
    Task,
    Transcript,
    content_id,
    review_from_json,
    to_json,
    transcript_from_json,
)
from ratchet.bootstrap.worlds.language import Claim
from ratchet.bootstrap.worlds.lessons import Situation
from ratchet.bootstrap.worlds.oracle import grade, grade_claim
from ratchet.bootstrap.wrongthink import judged_outcomes
from ratchet.train.checkpoint import has_weights, load_weights, save_weights
from ratchet.train.records import Example, read_examples, write_examples


@dataclass(frozen=True)
class Generation:
    """A turn of the loop: its number, the incumbent that writes and reviews it, and the tasks that it reads."""

    run: Run
    number: int
    incumbent: int
    """The generation whose weights write this one."""
    params: nnx.State
    tasks: tuple[Task, ...]

    @property
    def directory(self):
        return self.run.generation(self.number)

    @property
    def writer(self) -> Writer:
        return self.run.writer(self.params)

    @property
    def reviewer(self) -> Reviewer:
        run = self.run
        return Reviewer(run.scorer, self.params, run.tokenizer, run.rubric, run.room)

    @property
    def read(self) -> dict[str, Task]:
        """Every task about the documents read so far, by id."""
        return {t.id: t for tasks in self.run.slices[: self.number] for t in tasks}

    def units(self) -> list[tuple[Task, ...]]:
        size = self.run.config.simulate.unit_tasks
        return [self.tasks[i : i + size] for i in range(0, len(self.tasks), size)]

    def inputs(self, stage: str, unit: int) -> str:
        """Fingerprint of what a unit is made from."""
        return content_id(stage, unit, self.number, self.incumbent, [t.id for t in self.units()[unit]])

    def seed(self, *parts) -> int:
        return self.run.seed(self.number, *parts)


class TooFewAccepted(RuntimeError):
    """What passed the review does not fill a batch."""


Batch = tuple[list[Transcript], list[Review]]


def simulate(g: Generation) -> list[list[Transcript]]:
    """Transcripts by unit: n siblings of every task, deduplicated."""
    config, run = g.run.config.simulate, g.run
    units, made = g.units(), []
    with run.progress.stage(f"gen {g.number} simulate", len(g.tasks) * config.samples) as advance:
        for number, tasks in enumerate(units):

            def make(tasks: tuple[Task, ...] = tasks) -> list[bytes]:
                drafts = [
                    draft(run.tokenizer, run.index, t, sibling, config, run.room, f"{run.config.seed} {g.number}")
                    for t in tasks
                    for sibling in range(config.samples)
                ]
                seed = g.seed("simulate")
                written = complete(
                    g.writer, run.index, drafts, config, generation=g.number, seed=seed, advance=advance
                )  # fmt: skip
                return [to_json(t) for t in written]

            payloads = Stage(g.directory / "simulate").unit(number, g.inputs("simulate", number), make)
            made.append([transcript_from_json(p) for p in payloads])
    return made


def calibration(g: Generation) -> tuple[Reviewer, dict, list[Example]]:
    """The calibrated reviewer, its measured quality, and its failures on the probes as training examples.

    Raises ReviewerBelowFloor; what was measured is then in calibration.json.
    """
    run = g.run
    probes, passages = _probes(g)
    found: list[Reviewer] = []

    def make() -> dict:
        try:
            reviewer, measured = calibrate(g.reviewer, probes, passages, run.config.review)
        except ReviewerBelowFloor as below:
            return below.measured | {"below_floor": str(below)}
        found.append(reviewer)
        return measured

    measured = once(g.directory / "calibration.json", make)
    if reason := measured.get("below_floor"):
        raise ReviewerBelowFloor(reason, measured)
    reviewer = found[0] if found else with_thresholds(g.reviewer, measured)
    return reviewer, measured, _reviewer_lessons(g, reviewer, probes, passages)


def _probes(g: Generation) -> tuple[list[Probe], dict[str, Document]]:
    """The incumbent's own transcripts about held-out seed situations, whose references are known, and junk."""
    run = g.run
    index = demonstration_index(run)
    passages = {p.id: p for p in index.passages}
    pairs = held_out_tasks(run)
    drafts = [
        draft(run.tokenizer, index, t, k, run.config.simulate, run.room, f"probe {g.number}")
        for _, t in pairs
        for k in range(2)
    ]
    written = complete(g.writer, index, drafts, run.config.simulate, generation=g.number, seed=g.seed("probes"))
    probes = []
    for number, t in enumerate(written):
        situation, task = pairs[number // 2]
        known = grade(situation, t.text)
        probes.append(Probe(t, task, known.right and t.finished, {"told": known.told, "sound": known.sound}))
        if number % 8 == 0:
            probes += junk_probes(t, task, [passages[p] for p in t.passages], run.tokenizer)
    return probes, passages


def held_out_tasks(run: Run) -> list[tuple[Situation, Task]]:
    """Seed situations that no demonstration shows, with a task each; their references are known."""
    held_out = run.world.demonstrations[run.config.world.demonstrations :]
    return [(s, run.world.task(s, SEEN[i % len(SEEN)])) for i, s in enumerate(held_out)]


def _reviewer_lessons(g: Generation, reviewer: Reviewer, probes: Sequence[Probe], passages) -> list[Example]:
    """Examples from the probes on which a model criterion was wrong, labelled by the references."""
    run = g.run
    reviews = reviewer.review([p.transcript for p in probes], {p.task.id: p.task for p in probes}, passages)
    situations = {t.id: s for s, t in held_out_tasks(run)}
    made = []
    for criterion in reviewer.criteria:
        for probe, review in zip(probes, reviews, strict=True):
            label = probe.labels.get(criterion.name)
            if criterion.kind != "model" or label is None or review.verdicts[criterion.name].passed == label:
                continue
            texts = [passages[p].text for p in probe.transcript.passages]
            for claim, right in _labelled(criterion.name, probe, situations[probe.task.id]):
                context, question = criterion_prompt(run.tokenizer, criterion, texts, probe.task, claim, run.room)
                lineage = {"kind": criterion.name, "task": probe.task.id, "generation": g.number}
                made.append(examples.verdict_example(run.tokenizer, context, [(question, right)], "review", lineage))
    return made


def _labelled(criterion: str, probe: Probe, situation: Situation) -> list[tuple[Claim, bool]]:
    """Every claim of a probe with the right verdict of a built-in model criterion, by the probe's own reference."""
    graded = [(c, grade_claim(situation, c)) for c in parse(probe.transcript.text).claims]
    return [(claim, told if criterion == "told" else sound) for claim, (told, sound) in graded]


def review(g: Generation, reviewer: Reviewer, units: Sequence[Sequence[Transcript]]) -> list[list[Review]]:
    """One review per transcript, by unit; duplicates of a sibling are rejected with that reason."""
    run = g.run
    tasks = g.read
    made = []
    with run.progress.stage(f"gen {g.number} review", sum(map(len, units))) as advance:
        for number, transcripts in enumerate(units):

            def make(transcripts: Sequence[Transcript] = transcripts, number: int = number) -> list[bytes]:
                reviews = reviewer.review(transcripts, tasks, run.passages)
                reviews = distinct_transcripts(transcripts, reviews)
                if share := run.config.review.random_share:
                    reviews = _at_random(reviews, share, g.seed("random review", number))
                advance(len(transcripts))
                return [to_json(r) for r in reviews]

            payloads = Stage(g.directory / "review").unit(number, g.inputs("review", number), make)
            made.append([review_from_json(p) for p in payloads])
    return made


def _at_random(reviews: Sequence[Review], share: float, seed: int) -> list[Review]:
    """The control: accepted without looking."""
    lots = np.random.default_rng(seed).random(len(reviews))
    return [replace(r, accepted=bool(lot < share)) for r, lot in zip(reviews, lots, strict=True)]


def kept(transcripts: Sequence[Transcript], reviews: Sequence[Review], per_task: int) -> list[Transcript]:
    """The accepted transcripts, at most `per_task` of each task, in the order sampled; those with lookups, which are
    rare, before the others."""
    count: Counter[str] = Counter()
    chosen = []
    accepted = [t for t, r in zip(transcripts, reviews, strict=True) if r.accepted]
    for t in sorted(accepted, key=lambda t: not t.called):
        count[t.task_id] += 1
        if count[t.task_id] <= per_task:
            chosen.append(t)
    return chosen


def target(
    g: Generation, reviewer: Reviewer, units: Sequence[Batch], per_task: int, stage: str = "targets"
) -> list[list[Target]]:
    """Targets of the kept transcripts, by unit."""
    run, made = g.run, []
    chosen = [kept(*unit, per_task) for unit in units]
    with run.progress.stage(f"gen {g.number} {stage}", sum(map(len, chosen))) as advance:
        for number, ((siblings, _), accepted) in enumerate(zip(units, chosen, strict=True)):

            def make(siblings=siblings, accepted=accepted, number=number) -> list[bytes]:
                found = make_targets(
                    g.writer, reviewer, accepted, siblings, g.read, run.passages, run.config.targets,
                    seed=g.seed(stage, number), temperature=run.config.simulate.temperature,
                )  # fmt: skip
                return [targets.to_json(t) for t in found]

            payloads = Stage(g.directory / stage).unit(number, g.inputs(stage, number), make)
            made.append([targets.from_json(p) for p in payloads])
            advance(len(accepted))
    return made


def dataset(
    g: Generation, batches: Sequence[tuple[Sequence[Transcript], Sequence[Target]]], lessons: Sequence[Example]
) -> list[Example]:
    """Writes what this generation adds to training, as a TFDS dataset, and reads it back checked."""
    run = g.run
    place = g.directory / "dataset" / "1.0.0"
    if not (place / "dataset_info.json").exists():
        tasks = g.read
        copies = run.config.train.renamed
        made = [copy for e in lessons for copy in examples.renamed(run.tokenizer, e, copies)]
        by_id = {t.id: t for transcripts, _ in batches for t in transcripts}
        chosen = [(by_id[one.transcript_id], one) for _, found in batches for one in found]
        outcomes = judged_outcomes([t for t, _ in chosen])
        for t, one in chosen:
            given = t, one, tasks[t.task_id], f"gen-{g.incumbent:03d}"
            made += examples.for_students(run.tokenizer, *given, outcomes)
            if not t.forced:
                made += examples.renamed(run.tokenizer, examples.for_simulator(*given), copies)
        header = {
            "vocab_size": run.config.model.vocab_size, "tokenizer": run.tokenizer.hash,
            "temperature": run.config.simulate.temperature, "K": run.config.simulate.keep, "unwarped": True,
            "targets": run.config.targets.kind,
        }  # fmt: skip
        write_examples(place, made, header=header)
    return read_examples(place, tokenizer=run.tokenizer.hash)


def student_examples(g: Generation, units: Sequence[Batch], found: Sequence[Sequence[Target]]) -> list[Example]:
    """What this slice's accepted transcripts teach a student, for the side run that measures the lesson."""
    tasks = g.read
    made = []
    for (transcripts, _), targets_found in zip(units, found, strict=True):
        by_id = {t.id: t for t in transcripts}
        for one in targets_found:
            t = by_id[one.transcript_id]
            made += examples.for_students(g.run.tokenizer, t, one, tasks[t.task_id], f"gen-{g.incumbent:03d}")
    return made


def train(g: Generation, start: nnx.State, newest: Sequence[Example], earlier: Sequence[Example],
          demonstrations: Sequence[Example]) -> nnx.State:  # fmt: skip
    """The next weights: half a batch newest, corrections among them up to their share, half everything earlier.

    Raises TooFewAccepted when what was accepted is less than a batch takes of it.
    """
    c = g.run.config
    place = g.directory / "model"
    if has_weights(place):
        return load_weights(place, start)
    pools = mixture(c.train, c.wrongthink.share, newest, earlier, demonstrations)
    found, needed = sum(e.origin == "student" for e in newest), pools[0][1]
    if found < needed:
        raise TooFewAccepted(
            f"generation {g.number}: the accepted transcripts make {found} student examples, a batch takes {needed}; "
            f"raise --simulate.samples or lower --train.batch; {g.directory / 'funnel.json'} shows where others went"
        )
    tokens = sum(count * float(np.mean([len(e.ids) for e in found])) for found, count in pools if found)
    once(g.directory / "training.json", lambda: {"steps": train_steps(g.run, g.number), "tokens_per_step": tokens})
    params = train_arm(g.run, g.number, "loop", start, pools, train_steps(g.run, g.number))
    save_weights(place, params)
    return params


def mixture(c: TrainConfig, corrected: float, newest: Sequence[Example], earlier: Sequence[Example],
            demonstrations: Sequence[Example]) -> list[tuple[list[Example], int]]:  # fmt: skip
    """(examples, count per step): half a batch newest, half everything earlier; students' and simulators' apart.

    Corrections of all generations share one pool: too many of them, and students interrupt right thoughts as well.
    """
    half = c.batch // 2 if c.mixture == "accumulate" else c.batch
    corrections = _evened([e for e in (*newest, *earlier) if e.origin == "correction"])
    students, simulators = _by_reader(newest)
    share = round(half * corrected) if corrections else 0
    taught = round((half - share) * c.student) if simulators else half - share
    shown = round((c.batch - half) * (c.demonstrations if earlier else 1.0))
    again = c.batch - half - shown
    old_students, old_simulators = _by_reader(earlier)
    recalled = round(again * c.student)
    return [
        (students, taught), (simulators, half - share - taught), (corrections, share), (list(demonstrations), shown),
        (old_students, recalled), (old_simulators, again - recalled),
    ]  # fmt: skip


def _by_reader(found: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Student examples, and what teaches the simulator and reviewer."""
    students = _evened([e for e in found if e.origin == "student"])
    simulators = _evened([e for e in found if e.origin == "simulate"])
    return students, simulators + [e for e in found if e.origin == "review"]


def _evened(found: Sequence[Example]) -> list[Example]:
    """Every document group as often as its answers are long, squared: what was hard to learn, and so passed the review
    less often, is not trained less, and what weighs more options, where more can go wrong, is trained more. No example
    is left out."""
    groups: dict[tuple, list[Example]] = {}
    for e in found:
        groups.setdefault(tuple(e.lineage["documents"]), []).append(e)
    shares = {documents: float(np.mean([len(e.ids) for e in group])) ** 2 for documents, group in groups.items()}
    most = max((len(group) / shares[documents] for documents, group in groups.items()), default=0.0)
    return [
        group[i % len(group)] for documents, group in groups.items() for i in range(round(most * shares[documents]))
    ]


def train_steps(run: Run, number: int) -> int:
    """Steps of a generation: the more slices there are to remember, the more."""
    return round(run.config.train.steps * (1 + (number - 1) * run.config.train.growth))
