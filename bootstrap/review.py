"""Transcripts to verdicts: many small criteria, each asked on its own.

An answer that cannot be read is a rejection with that reason, never a default score.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flax import nnx

from ratchet.bootstrap.checks import GENERAL
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.signals import SHARES, Measured, agreement, roles, turned
from ratchet.bootstrap.teacher.judging import SURE, FarJudge, Posed
from ratchet.bootstrap.transcript import UNREADABLE, Review, Transcript, Verdict
from ratchet.bootstrap.worlds.world import Case, Check, Document, Message, Step, Task
from ratchet.models.scorer import Question, Scorer
from ratchet.models.wording import ANSWERS, asking, context

Part = tuple[Case, Sequence[Step]]
"""A case, and those of its steps that are judged."""
Owned = tuple[tuple[str, int], Measured]
"""What a model measured of a step or of the whole, by criterion and number of the case."""
Answers = Mapping[tuple[str, int], Sequence[Measured]]
"""All that models measured, by criterion and number of the case: {("gain", 0): [Measured(0.4, "0.40 nats ...")]}."""
AGREEMENT = "agreement"
"""The likelihood that only other answers to the same task can decide."""
TOO_LONG = f"{UNREADABLE}: sources and question"
"""What a doubt begins with where a judge cannot read everything at once."""


@dataclass(frozen=True)
class Reviewer:
    """The model that reviews, with the criteria and their thresholds."""

    scorer: Scorer
    params: nnx.State
    tokenizer: Any
    criteria: tuple[Criterion, ...]
    checks: Mapping[str, Check]
    """The world's criteria by rule."""
    steps: Callable[[str], Sequence[Step]]
    """Where the world cuts an answer."""
    interruption: str
    room: int
    """Tokens at most of what a judge reads, and of an answer after what it was asked."""
    seed: Callable[[], nnx.State]
    """Gives the weights of the judge `seed`."""
    far: FarJudge | None = None
    """The judge by address; None: no criterion names it."""

    def review(
        self,
        transcripts: Sequence[Transcript],
        tasks: Mapping[str, Task],
        passages: Mapping[str, Document],
        siblings: Sequence[Transcript] | None = None,
        reached: Callable[[float], None] = lambda share: None,
    ) -> list[Review]:
        """One review for each transcript. Those given together that pass when no sibling is heard are each other's
        siblings, unless others are given: what is cut off or rejected must not outvote what is right. Whether other
        answers to the same task agree is asked of all that are well formed. `reached` hears which share of the
        questions is answered, time after time."""
        cases = [self.case(t, tasks[t.task_id], passages) for t in transcripts]
        asked = self._ask([(case, case.steps) for case in cases], reached=reached)
        beside = siblings
        if siblings is None:
            alone = self.verdicts(cases, asked)
            siblings = [t for t, of in zip(transcripts, alone, strict=True) if t.finished and self._accepts(of, True)]
            beside = [t for t, of in zip(transcripts, alone, strict=True) if t.finished and self._formed(of)]
        heard, ids = tuple(t.text for t in siblings), {t.id for t in siblings}
        with_others = lambda case, t: replace(case, siblings=heard, others=_others(t, beside), among=t.id in ids)
        cases = [with_others(case, t) for case, t in zip(cases, transcripts, strict=True)]
        found = self.verdicts(cases, asked)
        return [Review(t.id, of, self._accepts(of)) for t, of in zip(transcripts, found, strict=True)]

    def _accepts(self, verdicts: Mapping[str, Verdict], alone: bool = False) -> bool:
        """Whether all required criteria pass; `alone` leaves out the one that only others can decide."""
        return all(verdicts[c.id].passed for c in self.criteria if c.required and not (alone and c.id == AGREEMENT))

    def _formed(self, verdicts: Mapping[str, Verdict]) -> bool:
        return all(verdicts[c.id].passed for c in self.criteria if c.required and c.of == "form")

    def case(self, t: Transcript, task: Task, passages: Mapping[str, Document]) -> Case:
        """A transcript as text, with no siblings yet."""
        own = tuple(passages[p] for p in t.passages)
        return Case(task, t.text, t.forced_text, t.finished, t.calls, tuple(self.steps(t.text)), own, ())

    def verdicts(self, cases: Sequence[Case], asked: Answers | None = None) -> list[dict[str, Verdict]]:
        """By case, the verdict of every criterion. `asked` are the model's answers where they are known already."""
        if asked is None:
            asked = self._ask([(case, case.steps) for case in cases])
        return [
            {c.id: self._verdict(c, case, asked.get((c.id, number), ())) for c in self.criteria}
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
                verdict = self._verdict(c, part, asked.get((c.id, at), ()))
                if verdict.reason and verdict.readable:  # what cannot be read is no fault
                    found[number] = (n, f"{c.id}: {verdict.reason}")
                    break
        return [found.get(number, (-1, "")) for number in range(len(cases))]

    def formed(self, cases: Sequence[Case]) -> list[bool]:
        """By case, whether every required criterion of the form passes."""
        judge = replace(self, criteria=tuple(c for c in self.criteria if c.of == "form"))
        return [judge._formed(found) for found in judge.verdicts(cases)]

    def scores(self, c: Criterion) -> bool:
        """Whether a criterion is measured, and passes from its threshold on; a check of the world takes the place of a
        share of the same name."""
        return c.kind != "rule" or (c.id in SHARES and c.id not in self.checks)

    def _verdict(self, c: Criterion, case: Case, answers: Sequence[Measured]) -> Verdict:
        """What a criterion makes of a case and of what a model measured of it."""
        if not self.scores(c):
            own = self.checks.get(c.id)
            reason = own(case) if own else GENERAL[c.id](case, c.limit, self.interruption)
            return Verdict(float(not reason), not reason, reason)
        if c.kind == "rule":
            answers = [SHARES[c.id](case.text[s.start : s.end], case.passages) for s in _parts(c, case, case.steps)]
        elif c.id == AGREEMENT:
            answers = [agreement(case.text, case.others)]
        return _least(c, answers)

    def _ask(
        self,
        parts: Sequence[Part],
        criteria: Sequence[Criterion] | None = None,
        reached: Callable[[float], None] = lambda share: None,
    ) -> Answers:
        """What the judges of model criteria say, and how likely what was said is; asked together, they share contexts.
        Sources that are too long to be read beside a question are read in halves, and so on."""
        chosen = self.criteria if criteria is None else criteria
        found = self._ask_at_once(parts, chosen, reached)
        for c in chosen:
            long = [n for n in range(len(parts)) if any(m.doubt.startswith(TOO_LONG) for m in found.get((c.id, n), ()))]
            long = [n for n in long if len(parts[n][0].passages) > 1]
            halves = self._ask([half for n in long for half in _halves(parts[n])], [c]) if long else {}
            for place, n in enumerate(long):
                of_both = zip(halves[c.id, 2 * place], halves[c.id, 2 * place + 1], strict=True)
                found[c.id, n] = [_over_sources(c, both) for both in of_both]
        return found

    def _ask_at_once(
        self, parts: Sequence[Part], chosen: Sequence[Criterion], reached: Callable[[float], None]
    ) -> dict[tuple[str, int], list[Measured]]:
        """What `_ask` finds, in one reading of all sources: where they are too long, there is only that doubt."""
        found: dict[tuple[str, int], list[Measured]] = {}
        afar = [c for c in chosen if c.judge == "address"]
        jobs = [("self", self._from_afar, afar)] if afar else []
        for judge in dict.fromkeys(c.judge for c in chosen if c not in afar):
            own = [c for c in chosen if c.judge == judge and c.id != AGREEMENT]
            ways = (
                (self._yes_or_no, [c for c in own if c.kind == "model" and not c.labels]),
                (self._in_words, [c for c in own if c.kind == "model" and c.labels]),
                (self._how_likely, [c for c in own if c.kind == "likelihood"]),
            )
            jobs += [(judge, ask, criteria) for ask, criteria in ways if criteria]
        for number, (judge, ask, criteria) in enumerate(jobs):
            params = self.params if judge == "self" else self.seed()
            share = lambda of, number=number: reached((number + of) / len(jobs))
            for owner, measured in ask(params, parts, criteria, share):
                found.setdefault(owner, []).append(measured)
        return found

    def _yes_or_no(
        self, params: nnx.State, parts: Sequence[Part], criteria: Sequence[Criterion], reached: Callable[[float], None]
    ) -> Iterator[Owned]:
        """What a judge answers to the questions of model criteria."""
        asked, owners = [], []
        for c, number, _, prompt, about in self._prompts(parts, criteria):
            doubt = self._too_long(sum(map(len, prompt)))
            asked += [] if doubt else [prompt]
            owners.append((c.id, number, about, doubt))
        answers_N2 = iter(self.scorer(params, asked, self.tokenizer.verdicts, reached) if asked else ())
        for name, number, about, doubt in owners:
            yield (name, number), doubt or _yes(*map(float, next(answers_N2)), about)

    def _in_words(
        self, params: nnx.State, parts: Sequence[Part], criteria: Sequence[Criterion], reached: Callable[[float], None]
    ) -> Iterator[Owned]:
        """What a judge answers by the labels of model criteria."""
        asked, owners = [], []
        for c, number, _, prompt, about in self._prompts(parts, criteria):
            words = [self.tokenizer.spoken(label) for label in c.labels]
            doubt = self._too_long(sum(map(len, prompt)) + max(map(len, words)))
            asked += [] if doubt else [((*prompt[0], *prompt[1]), word) for word in words]
            owners.append((c, number, about, doubt))
        given = iter(self.scorer.log_likelihoods(params, asked, reached) if asked else ())
        for c, number, about, doubt in owners:
            of = {} if doubt else {label: math.exp(float(next(given).sum())) for label in c.labels}
            passing = sum(share for label, share in of.items() if label in c.passing_labels)
            yield (c.id, number), doubt or _yes(passing, sum(of.values()) - passing, about, c.labels)

    def _from_afar(
        self, params: nnx.State, parts: Sequence[Part], criteria: Sequence[Criterion], reached: Callable[[float], None]
    ) -> Iterator[Owned]:
        """What the judge by address answers to the questions of model criteria."""
        asked, owners = [], []
        for c, number, (texts, messages, question), prompt, about in self._prompts(parts, criteria):
            words, passing = (c.labels, c.passing_labels) if c.labels else (ANSWERS, ANSWERS[:1])
            doubt = self._too_long(sum(map(len, prompt)))
            asked += [] if doubt else [Posed(context(texts, messages) + asking(question, c.labels), words, passing)]
            owners.append((c, number, about, doubt))
        answers = iter(self.far(asked, reached) if asked else ())
        for c, number, about, doubt in owners:
            yield (c.id, number), doubt or _yes(*next(answers), about, c.labels or ("yes", "no"))

    def _prompts(self, parts: Sequence[Part], criteria: Sequence[Criterion]) -> Iterator[tuple]:
        """(criterion, number of the case, its question with what is shown, both in tokens, the words it is about) of
        all that a judge is asked."""
        for c in criteria:
            for number, (case, steps) in enumerate(parts):
                texts = [p.text for p in case.passages]
                for question, about in questions(c, case, steps):
                    shown = *_shown(c, texts, case.task), question
                    yield c, number, shown, self.prompt(c, question, texts, case.task), about

    def _too_long(self, tokens: int) -> Measured | None:
        """The doubt about what a judge has no room to read: nothing of it is cut."""
        if tokens <= self.room:
            return None
        return Measured(0.0, f"{TOO_LONG} take {tokens} tokens, and a judge reads {self.room}")

    def _how_likely(
        self, params: nnx.State, parts: Sequence[Part], criteria: Sequence[Criterion], reached: Callable[[float], None]
    ) -> Iterator[Owned]:
        """Log-probabilities of what was said, beside those that it is compared with: without sources for `gain`, with
        names in each other's place for `roles`."""
        prompts: dict[tuple, list[int]] = {}
        asked, owners = [], []
        for c in criteria:
            for number, (case, steps) in enumerate(parts):
                seen = self._asked(case.task, case.passages, prompts)
                for step in _parts(c, case, steps):
                    about = case.text[step.start : step.end]
                    said, others = self._said(seen, case, step), turned(about) if c.id == "roles" else []
                    if not said[1]:
                        continue
                    doubt = self._too_long(sum(map(len, said)))
                    given = [said, *(self._said(seen, *_instead(case, step, other)) for other in others)]
                    if c.id == "gain":
                        given.append(self._said(self._asked(case.task, (), prompts), case, step))
                    asked += [] if doubt else given
                    owners.append((c, number, about, others, doubt, len(given)))
        found = iter(self.scorer.log_likelihoods(params, asked, reached) if asked else ())
        for c, number, about, others, doubt, count in owners:
            yield (c.id, number), doubt or _compared(c, about, others, [next(found) for _ in range(count)])

    def _asked(self, task: Task, view: Sequence[Document], known: dict[tuple, list[int]]) -> list[int]:
        """A task in tokens with passages in view, from those that are `known`."""
        key = (task.id, *(p.id for p in view))
        if key not in known:
            known[key] = self.tokenizer.render(task.messages, passages=[p.text for p in view])
        return known[key]

    def _said(self, prompt: Sequence[int], case: Case, step: Step) -> Question:
        """(what stands before a part of an answer, the part) in tokens."""
        encode, start = self.tokenizer.encode, max((s.end for s in case.steps if s.end <= step.start), default=0)
        begun = [*prompt, *(encode(case.before) if case.before else ())]
        space = " " if case.before else ""
        if start:
            return (*begun, *encode(space + case.text[:start])), tuple(encode(case.text[start : step.end]))
        return tuple(begun), tuple(encode(space + case.text[: step.end]) if case.text[: step.end].strip() else ())

    def prompt(
        self, criterion: Criterion, question: str, passages: Sequence[str], task: Task
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(context, question) in tokens; the next token is the verdict."""
        shown, messages = _shown(criterion, passages, task)
        before, asked = self.tokenizer.ask(question, passages=shown, messages=messages, words=criterion.labels)
        return tuple(before), tuple(asked)


def _shown(criterion: Criterion, passages: Sequence[str], task: Task) -> tuple[Sequence[str], Sequence[Message]]:
    """The passages and messages that a criterion shows beside its question."""
    return (
        passages if "passages" in criterion.show else (),
        task.messages[-1:] if "question" in criterion.show else (),
    )


def _halves(part: Part) -> tuple[Part, Part]:
    """A part with the first half of its sources in view, and with the second."""
    case, steps = part
    middle = len(case.passages) // 2
    first, second = case.passages[:middle], case.passages[middle:]
    return (replace(case, passages=first), steps), (replace(case, passages=second), steps)


def _over_sources(criterion: Criterion, measured: Sequence[Measured]) -> Measured:
    """What was measured with some sources in view, and with others, as one: any of them may do, or all must. Who did
    what is decided by those that make the text likeliest; by others, both ways round are nearly alike."""
    readable = [m for m in measured if not m.doubt.startswith(UNREADABLE)]
    if criterion.sources == "all" or not readable:
        unreadable = [m for m in measured if m not in readable]
        return unreadable[0] if unreadable else min(measured, key=lambda m: m.score)
    return max(readable, key=lambda m: m.likely if criterion.id == "roles" else m.score)


def _others(t: Transcript, beside: Sequence[Transcript]) -> tuple[str, ...]:
    """The other answers to the same task."""
    return tuple(o.text for o in beside if o.id != t.id and o.task_id == t.task_id and o.source == "answer")


def _parts(criterion: Criterion, case: Case, steps: Sequence[Step]) -> Sequence[Step]:
    """What a criterion measures: steps, or the whole answer."""
    return steps if criterion.of == "step" else (Step(0, len(case.text)),)


def _instead(case: Case, step: Step, text: str) -> tuple[Case, Step]:
    """A case up to a step that says something else, and that step."""
    changed = case.text[: step.start] + text
    return replace(case, text=changed), Step(step.start, len(changed))


def questions(criterion: Criterion, case: Case, steps: Sequence[Step]) -> list[tuple[str, str]]:
    """(question, the words it is about) of a model criterion: one for each step that has the fields it names, or one
    for the answer."""
    before = "".join(f"{criterion.question.format(**e.words)} {criterion.says(e.passes)}\n" for e in criterion.examples)
    if criterion.of != "step":
        calls = "; ".join(f"{name} {json.dumps(arguments)}" for name, arguments in case.calls)
        words = {"answer": case.text, "question": case.task.question, "calls": calls or "no call"}
        return [(before + criterion.question.format(**words), case.text)]
    texts = [case.text[s.start : s.end] for s in steps]
    filled = [(text, {**s.fields, "step": text}) for text, s in zip(texts, steps, strict=True)]
    askable = [(text, words) for text, words in filled if criterion.named <= words.keys()]
    return [(before + criterion.question.format(**words), text) for text, words in askable]


def _yes(yes: float, no: float, about: str, answers: Sequence[str] = ("yes", "no")) -> Measured:
    """P(yes) among yes and no, or what stands for them, if all answers together are likely."""
    if not yes + no >= SURE:  # which holds of NaN as well
        return Measured(0.0, f"{UNREADABLE}: {' and '.join(answers)} together have probability {yes + no:.2f}")
    return Measured(yes / (yes + no), f"doubts: {about}")


def _compared(criterion: Criterion, about: str, others: Sequence[str], found: Sequence[np.ndarray]) -> Measured:
    """What the log-probabilities of a text's tokens, and then of what it is compared with, say of it."""
    own, *beside = found
    if criterion.id == "roles":
        return roles(float(own.sum()), [float(of_N.sum()) for of_N in beside], others)
    return _nats(criterion, float(own.mean()) - sum(float(of_N.mean()) for of_N in beside), about)


def _nats(criterion: Criterion, nats: float, about: str) -> Measured:
    """How likely something is, or how much likelier, if that is a number."""
    if not math.isfinite(nats):
        return Measured(0.0, f"{UNREADABLE}: its log-probability is {nats}")
    return Measured(nats, f"{nats:.2f} nats a token{' by the sources' if criterion.id == 'gain' else ''}: {about}")


def _least(criterion: Criterion, answers: Sequence[Measured]) -> Verdict:
    """The verdict on the part that is doubted most."""
    unreadable = [a.doubt for a in answers if a.doubt.startswith(UNREADABLE)]
    if unreadable or not answers:
        return Verdict(0.0, False, unreadable[0] if answers else f"{UNREADABLE}: there is nothing to ask about")
    least = min(answers, key=lambda a: a.score)
    passed = least.score >= criterion.threshold
    return Verdict(least.score, passed, "" if passed else least.doubt)


def with_thresholds(reviewer: Reviewer, calibration: dict) -> Reviewer:
    """The reviewer with the thresholds and standings that an earlier calibration found. Raises ValueError when that was
    one of other criteria."""
    measured = calibration["criteria"]
    if strange := {c.id for c in reviewer.criteria} ^ measured.keys():
        raise ValueError(
            f"review: {min(strange)} stands only in one of rubric and calibration.json; restore the rubric that the "
            "run began with, or start a new run"
        )
    found = lambda c: {name: measured[c.id][name] for name in ("threshold", "standing")}
    return replace(reviewer, criteria=tuple(c.model_copy(update=found(c)) for c in reviewer.criteria))
