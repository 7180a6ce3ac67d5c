"""Transcripts to verdicts: many small criteria, each asked on its own.

An answer that cannot be read is a rejection with that reason, never a default score.
"""

import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import pydantic
import yaml
from etils import epath
from flax import nnx

from ratchet.bootstrap.checks import GENERAL
from ratchet.bootstrap.transcript import Review, Transcript, Verdict
from ratchet.bootstrap.worlds.world import Case, Check, Document, Step, Task, World
from ratchet.models.scorer import Scorer


class Criterion(pydantic.BaseModel, frozen=True, extra="forbid"):
    """One question of the rubric.

    A criterion `of` a step is decided for each step of an answer, and may interrupt it there; one of the form says how
    an answer is written, not whether it is true. A model criterion's question names {step} and any fields of the
    world's steps, or {answer} and {question}; it passes from the P(yes) `threshold` on, which calibration replaces
    where probes know the right answers. `limit` is a number that a programmatic criterion takes.
    """

    name: str
    kind: Literal["model", "programmatic"]
    question: str
    of: Literal["form", "step", "answer"] = "answer"
    show: tuple[Literal["passages", "question"], ...] = ()
    required: bool = True
    threshold: float = pydantic.Field(0.5, ge=0.0, le=1.0)
    limit: float | None = pydantic.Field(None, gt=0.0)

    @property
    def named(self) -> set[str]:
        """The words in braces that its question names."""
        return {name for _, name, _, _ in string.Formatter().parse(self.question) if name is not None}


def load_rubric(path: str, world: World) -> tuple[Criterion, ...]:
    """Reads criteria from a YAML file, or the world's own for "". Raises ValueError naming file, criterion and
    remedy."""
    where = epath.Path(path) if path else f"of the world {world.name}"
    try:
        entries = yaml.safe_load(where.read_text() if path else world.rubric)
    except FileNotFoundError as error:
        raise ValueError(f"rubric: {where} is missing; set --review.rubric to a YAML file of criteria") from error
    except yaml.YAMLError as error:
        raise ValueError(f"rubric: {where} is no YAML: {' '.join(str(error).split())}; mend it") from error
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"rubric: {where} holds no list of criteria; write one as in bootstrap/worlds/documents.yaml")
    known = [*GENERAL, *world.checks]
    try:
        criteria = tuple(_criterion(number, entry, known) for number, entry in enumerate(entries, 1))
        if twice := [name for name, count in Counter(c.name for c in criteria).items() if count > 1]:
            raise ValueError(f"two criteria are named {twice[0]}; rename one")
        if not any(c.required for c in criteria):
            raise ValueError("no criterion is required, so everything would pass; require at least one")
    except ValueError as error:
        raise ValueError(f"rubric: {where}: {error}") from error
    return criteria


def _criterion(number: int, entry: object, checks: Sequence[str]) -> Criterion:
    try:
        c = Criterion.model_validate(entry)
    except pydantic.ValidationError as error:
        named = entry.get("name", number) if isinstance(entry, dict) else number
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(f"criterion {named}: {field}{first['msg']}; see bootstrap/worlds/documents.yaml") from error
    if c.kind == "programmatic" and c.name not in checks:
        raise ValueError(f"no programmatic criterion {c.name}; there are {', '.join(checks)}")
    try:
        strange = c.named - {"answer", "question"} if c.of != "step" else {n for n in c.named if not n.isidentifier()}
        if not strange:
            c.question.format(**dict.fromkeys(c.named, ""))
    except (ValueError, LookupError) as error:
        raise ValueError(f"the question of {c.name} cannot be filled in: {error}; write braces as {{step}}") from error
    if strange:
        raise ValueError(
            f"the question of {c.name} names {{{min(strange)}}}; there are {{answer}} and {{question}}, and for a "
            "criterion `of: step` {step} and the fields of the world's steps"
        )
    return c


UNREADABLE = "unreadable"
"""What the reason of a verdict begins with that the model did not answer by yes or no."""


class Asked(NamedTuple):
    """One question of a model criterion with its answer, and the words that it was asked about."""

    yes: float
    no: float
    about: str


@dataclass(frozen=True)
class Reviewer:
    """The model that answers the model criteria, with the criteria and their thresholds."""

    scorer: Scorer
    params: nnx.State
    tokenizer: Any
    criteria: tuple[Criterion, ...]
    checks: Mapping[str, Check]
    """The world's programmatic criteria."""
    steps: Callable[[str], Sequence[Step]]
    """Where the world cuts an answer."""
    interruption: str
    room: int
    """Tokens of a prompt at most."""

    def review(
        self,
        transcripts: Sequence[Transcript],
        tasks: Mapping[str, Task],
        passages: Mapping[str, Document],
        siblings: Sequence[str] | None = None,
        reached: Callable[[float], None] = lambda share: None,
    ) -> list[Review]:
        """One review for each transcript. Those given together that pass when no sibling is heard are each other's
        siblings, unless others are given: what is cut off or rejected must not outvote what is right. `reached` hears
        which share of the questions is answered, time after time."""
        cases = [self.case(t, tasks[t.task_id], passages, tuple(siblings or ())) for t in transcripts]
        asked = self._ask([(case, case.steps) for case in cases], reached=reached)
        if siblings is None:
            alone = map(self._accepts, self.verdicts(cases, asked))
            heard = tuple(t.text for t, passes in zip(transcripts, alone, strict=True) if passes and t.finished)
            cases = [replace(case, siblings=heard) for case in cases]
        found = self.verdicts(cases, asked)
        return [Review(t.id, of, self._accepts(of)) for t, of in zip(transcripts, found, strict=True)]

    def _accepts(self, verdicts: Mapping[str, Verdict]) -> bool:
        return all(verdicts[c.name].passed for c in self.criteria if c.required)

    def case(self, t: Transcript, task: Task, passages: Mapping[str, Document], siblings: tuple[str, ...]) -> Case:
        """A transcript as text."""
        own = tuple(passages[p] for p in t.passages)
        return Case(task, t.text, t.forced_text, t.finished, t.calls, tuple(self.steps(t.text)), own, siblings)

    def verdicts(
        self, cases: Sequence[Case], asked: Mapping[tuple[str, int], Sequence[Asked]] | None = None
    ) -> list[dict[str, Verdict]]:
        """By case, the verdict of every criterion. `asked` are the model's answers where they are known already."""
        if asked is None:
            asked = self._ask([(case, case.steps) for case in cases])
        return [
            {
                c.name: self._check(c, case) if c.kind == "programmatic" else _verdict(c, asked[c.name, number])
                for c in self.criteria
            }
            for number, case in enumerate(cases)
        ]

    def first_faults(self, cases: Sequence[Case]) -> list[tuple[int, str]]:
        """By case, (number of the first step at which a required criterion of steps fails, why); (-1, "") without one.

        This is the supervisor: it reads step by step, and judges what was said so far as the review would.
        """
        judged = [c for c in self.criteria if c.required and c.of == "step"]
        parts = [
            (number, n, replace(case, text=case.text[: step.end], steps=case.steps[: n + 1]))
            for number, case in enumerate(cases)
            for n, step in enumerate(case.steps)
        ]
        asked = self._ask([(part, part.steps[-1:]) for *_, part in parts], judged)
        found: dict[int, tuple[int, str]] = {}
        for at, (number, n, part) in enumerate(parts):
            if number in found:
                continue
            for c in judged:
                if c.kind == "programmatic":
                    reason = self._check(c, part).reason
                else:
                    verdict = _verdict(c, asked[c.name, at])
                    reason = "" if verdict.reason.startswith(UNREADABLE) else verdict.reason  # which is no fault
                if reason:
                    found[number] = (n, f"{c.name}: {reason}")
                    break
        return [found.get(number, (-1, "")) for number in range(len(cases))]

    def formed(self, cases: Sequence[Case]) -> list[bool]:
        """By case, whether every required criterion of the form passes."""
        judge = replace(self, criteria=tuple(c for c in self.criteria if c.required and c.of == "form"))
        return [all(v.passed for v in found.values()) for found in judge.verdicts(cases)]

    def _ask(
        self,
        asked_of: Sequence[tuple[Case, Sequence[Step]]],
        criteria: Sequence[Criterion] | None = None,
        reached: Callable[[float], None] = lambda share: None,
    ) -> dict[tuple[str, int], list[Asked]]:
        """By model criterion and case, the answers about its steps or about the whole; asked together, they share
        contexts."""
        prompts, owners = [], []
        for c in self.criteria if criteria is None else criteria:
            for number, (case, steps) in enumerate(asked_of if c.kind == "model" else ()):
                for question, about in questions(c, case, steps):
                    prompts.append(self.prompt(c, question, [p.text for p in case.passages], case.task))
                    owners.append((c.name, number, about))
        answers_N2 = self.scorer(self.params, prompts, self.tokenizer.verdicts, reached)
        names = [c.name for c in self.criteria if c.kind == "model"]
        asked: dict[tuple[str, int], list[Asked]] = {(n, i): [] for n in names for i in range(len(asked_of))}
        for (name, number, about), (yes, no) in zip(owners, answers_N2, strict=True):
            asked[name, number].append(Asked(float(yes), float(no), about))
        return asked

    def prompt(
        self, criterion: Criterion, question: str, passages: Sequence[str], task: Task
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(context, question) in tokens; the next token is the verdict. Passages are cut to fit."""
        shown = passages if "passages" in criterion.show else ()
        messages = task.messages[-1:] if "question" in criterion.show else ()
        context, asked = self.tokenizer.ask(question, passages=shown, messages=messages, room=self.room)
        return tuple(context), tuple(asked)

    def _check(self, criterion: Criterion, case: Case) -> Verdict:
        if criterion.name in self.checks:
            reason = self.checks[criterion.name](case)
        else:
            reason = GENERAL[criterion.name](case, criterion.limit, self.interruption)
        return Verdict(float(not reason), not reason, reason)


def questions(criterion: Criterion, case: Case, steps: Sequence[Step]) -> list[tuple[str, str]]:
    """(question, the words it is about) of a model criterion: one for each step that has the fields it names, or one
    for the answer."""
    if criterion.of != "step":
        return [(criterion.question.format(answer=case.text, question=case.task.question), case.text)]
    texts = [case.text[s.start : s.end] for s in steps]
    filled = [(text, {**s.fields, "step": text}) for text, s in zip(texts, steps, strict=True)]
    return [(criterion.question.format(**words), text) for text, words in filled if criterion.named <= words.keys()]


def _verdict(criterion: Criterion, answers: Sequence[Asked]) -> Verdict:
    if not answers:
        return Verdict(0.0, False, f"{UNREADABLE}: there is nothing to ask about")
    for yes, no, _ in answers:
        if not yes + no >= 0.5:  # which holds of NaN as well
            return Verdict(0.0, False, f"{UNREADABLE}: yes and no together have probability {yes + no:.2f}")
    yes, no, about = min(answers, key=lambda a: a.yes / (a.yes + a.no))
    p_pass = yes / (yes + no)
    passed = p_pass >= criterion.threshold
    return Verdict(p_pass, passed, "" if passed else f"doubts: {about}")


def with_thresholds(reviewer: Reviewer, calibration: dict) -> Reviewer:
    """The reviewer with the thresholds of an earlier calibration. Raises ValueError when that had other criteria."""
    if strange := {c.name for c in reviewer.criteria} ^ calibration["criteria"].keys():
        raise ValueError(
            f"review: {min(strange)} stands only in one of rubric and calibration.json; restore the rubric that the "
            "run began with, or start a new run"
        )
    criteria = tuple(
        c.model_copy(update={"threshold": calibration["criteria"][c.name]["threshold"]}) for c in reviewer.criteria
    )
    return replace(reviewer, criteria=criteria)
