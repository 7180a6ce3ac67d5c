"""Probes of a reviewer: answers whose right verdicts are known, and junk that nobody may let pass."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from ratchet.bootstrap.calibration import Probe, ReviewerBelowFloor, calibrate
from ratchet.bootstrap.examples import judged_view
from ratchet.bootstrap.progress import Reached
from ratchet.bootstrap.review import AGREEMENT, Reviewer
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import Writer, draft, finish
from ratchet.bootstrap.teacher.afar import Afar
from ratchet.bootstrap.transcript import Transcript, certain, to_json, transcript_from_json
from ratchet.bootstrap.worlds.world import Document, Task
from ratchet.train.records import Example

SAYS_NOTHING = ("", " ", ":", ".", "yes", "Thought process:", "Let's solve this problem step by step.", "解", "解析：")
"""Answers that judges are known to let pass (arXiv 2507.08794)."""
JUNK_OF, JUNK = 8, len(SAYS_NOTHING) + 2
"""One labelled answer in so many gives junk probes, and about how many."""


def siblings_of(run: Run) -> int:
    """How many answers to each task are probes: more than two only where it may decide how many of them agree."""
    decides = any(c.id == AGREEMENT and c.standing != "advisory" for c in run.rubric)
    return run.config.simulate.samples if decides else 2


def judged_by_seed(run: Run) -> bool:
    """Whether a run's evaluations are judged by the seed model's review, calibrated on its own answers."""
    return bool(run.world.known and not run.world.has_oracle)


def own_answers(
    run: Run, writer: Writer, tasks: Sequence[Task], number: int, seed: int, teacher: Afar | None = None
) -> list[Transcript]:
    """A writer's own answers to worked tasks, `siblings_of` of each, in generation `number`; those of a teacher by
    address, where one writes what is reviewed."""
    siblings = siblings_of(run)
    drafts = [draft(writer, run.seed_index, t, n, f"probe {number}") for t in tasks for n in range(siblings)]
    with run.progress.stage(f"gen {number} worked tasks", len(drafts)) as advance:
        if teacher:
            passages = {p.id: p for p in run.seed_index.passages}
            asked = replace(teacher, index=run.seed_index, scribe=replace(teacher.scribe, rescored=False))
            written = asked.finish(drafts, passages, generation=number, seed=seed, advance=advance)
            if teacher.summary:
                run.progress.line(f"gen {number} {teacher.summary}")
            return written
        return finish(writer, run.seed_index, drafts, generation=number, seed=seed, advance=advance)


def labelled_probes(run: Run, tasks: Sequence[Task], written: Sequence[Transcript]) -> list[Probe]:
    """What `own_answers` gave to worked tasks, labelled by what the world knows, and junk."""
    siblings = siblings_of(run)
    grades = [run.world.known(tasks[n // siblings], t.text, "") for n, t in enumerate(written)]
    graded = {name for grade in grades for step in grade.steps for name in step}
    passages = {p.id: p for p in run.seed_index.passages}
    probes = []
    for n, (t, grade) in enumerate(zip(written, grades, strict=True)):
        task = tasks[n // siblings]
        labels = {name: label for name in graded if (label := grade.of(name)) is not None}
        probes.append(Probe(t, task, grade.right and t.finished, labels))
        if n % JUNK_OF == 0:
            probes += junk_probes(t, task, [passages[p] for p in t.passages], run.tokenizer)
    return probes


PRACTISED = "practice.json"
"""What a generation's writer answered to the tasks that reviewers practise on, with the passages in view."""


def kept_answers(run: Run, number: int, answer: Callable[[], Sequence[Transcript]]) -> list[Transcript]:
    """The committed answers to what reviewers practise on, sampled first where there are none: a GPU would sample
    others when a run goes on. What they were asked in tokens is not kept."""

    def make() -> list[dict]:
        short = [replace(t, prompt=(), student_prompt=(), capture=certain(())) for t in answer()]
        return [json.loads(to_json(t)) for t in short]

    kept = run.commits.once(run.generation(number) / PRACTISED, make)
    return [transcript_from_json(json.dumps(one).encode()) for one in kept]


@dataclass(frozen=True)
class Views:
    """What a reviewer had in view where it was taught verdicts about worked tasks, up to generation `number`."""

    run: Run
    writer: Writer
    number: int

    def __call__(self, e: Example, task: Task) -> list[tuple[Document, ...]]:
        """The views that an example about a worked task may have: a demonstration that of the task, and what was got
        wrong in practice those of the answers that said so."""
        if e.origin == "seed":
            return [judged_view(self.writer, self.run.seed_index, task)]
        said, generation = (task.id, e.lineage.get("said")), e.lineage.get("generation")
        views = dict.fromkeys(self._answers(generation).get(said, ()) if isinstance(generation, int) else ())
        return [tuple(self._passages[i] for i in view) for view in views]

    def _answers(self, number: int) -> dict[tuple[str, str], list[tuple[str, ...]]]:
        """The passages in view of what was practised on in a generation, by (task's id, text)."""
        place = self.run.generation(number) / PRACTISED
        if number not in self._read:
            found = self._read[number] = {}
            known = 0 < number <= self.number and self.run.commits.has(place)
            for one in self.run.commits.read(place) if known else ():
                found.setdefault((one["task_id"], one["text"]), []).append(tuple(one["passages"]))
        return self._read[number]

    @cached_property
    def _read(self) -> dict[int, dict[tuple[str, str], list[tuple[str, ...]]]]:
        """What `_answers` found before."""
        return {}

    @cached_property
    def _passages(self) -> dict[str, Document]:
        return {p.id: p for p in self.run.seed_index.passages}


def junk_probes(t: Transcript, task: Task, passages: Sequence[Document], tokenizer) -> list[Probe]:
    """Answers that no reviewer may wave through: what says nothing, the source pasted back, a shuffled transcript."""
    words = t.text.split()
    random.Random(t.id).shuffle(words)
    texts = [*SAYS_NOTHING, passages[0].text if passages else "", " ".join(words)]
    made = []
    for number, text in enumerate(texts):
        if text != t.text:
            tokens = tuple(tokenizer.encode(text))
            said = {"text": text, "tokens": tokens, "finished": True}  # or it would be rejected for having no end
            junk = replace(t, id=f"{t.id}-junk{number}", source="junk", **said)
            made.append(Probe(junk, task, False, {}, junk=True))
    return made


def calibrated(
    run: Run, number: int, reviewer: Reviewer, probes: Sequence[Probe], passages: Mapping[str, Document]
) -> dict:
    """What `calibrate` measures with the probes of generation `number`, shown as it goes. Where the target is out of
    reach, thresholds are the strictest tried, and "below_floor" says why."""
    with run.progress.stage(f"gen {number} calibrate", len(probes)) as advance:
        reached = Reached(advance)
        counting = lambda share: reached(int(share * len(probes)))
        try:
            return calibrate(reviewer, probes, passages, run.config.review, counting)[1]
        except ReviewerBelowFloor as below:
            return below.measured | {"below_floor": str(below)}


def calibration_of_seed(run: Run) -> dict:
    """What the seed model's own answers to the held-out worked tasks call for, measured once a run, as `calibrated`
    has it."""

    def make() -> dict:
        params = run.seed_weights
        answers = own_answers(run, run.writer(params), run.probes, 0, run.seed("judge"))
        probes = labelled_probes(run, run.probes, answers)
        return calibrated(run, 0, run.reviewer(params), probes, {p.id: p for p in run.seed_index.passages})

    return run.commits.once(run.generation(0) / "calibration.json", make)
