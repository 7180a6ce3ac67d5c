"""Whether an example is what it says that it is.

Its question, its tokens, their weights and their targets have to be those of the accepted transcript that it names, or
of a demonstration of the world. A verdict has to be the right one, beside sources that were in view. What was made
otherwise is not accounted for, whatever it teaches.

T is the number of tokens of an example, N that of weighted tokens, K the kept ids.
"""

import random
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from ratchet.bootstrap.examples import (
    as_named_first,
    exchanged,
    judged_steps,
    judging_order,
    labelled,
    name_ids,
    one_hot,
    prose_example,
)
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.tools import LOOKUP, call_text
from ratchet.bootstrap.transcript import Capture, Transcript
from ratchet.bootstrap.worlds.world import Document, Task, World
from ratchet.bootstrap.wrongthink import spoiled_again
from ratchet.train.records import Example

ROUNDED = 1e-3
"""What a probability may differ by after it was written down twice."""


@dataclass(frozen=True, eq=False)
class Sources:
    """All that examples may be made of."""

    world: World
    tokenizer: Any
    tasks: Mapping[str, Task]
    """Those that were read, by id."""
    shown: Sequence[Task]
    """The worked tasks that are demonstrated; several may have one id."""
    practice: Sequence[Task]
    """The worked tasks that reviewers practise on."""
    reviewer: Reviewer
    """Whose model criteria verdicts are about."""
    accepted: Mapping[str, Transcript]
    targets: Mapping[str, Target]
    """What accepted transcripts are trained towards, by the id of each."""
    views: Callable[[Example, Task], Iterable[tuple[Document, ...]]]
    """What a reviewer can have had in view where it was taught verdicts about a worked task."""
    explained: MutableMapping[Example, bool] = field(default_factory=dict)
    """What was found before, but of verdicts. It is the same in all later generations of a run, which have these
    sources and more."""

    def explain(self, e: Example) -> bool:
        """Whether an example is made of these: prose and demonstrations of the world, verdicts, or what the transcript
        that it names teaches students and simulators. Weights are 0 or 1."""
        if e.origin == "review":  # whose criteria are measured anew each generation
            return self._explain(e)
        if e not in self.explained:
            self.explained[e] = self._explain(e)
        return self.explained[e]

    def _explain(self, e: Example) -> bool:
        if not np.isin(e.weights, (0, 1)).all() or not self._renamed(e):
            return False
        if e.origin in ("prose", "seed", "review"):
            return _towards(e, _said(e)) and self._shown(e)
        t = self.accepted.get(e.lineage.get("transcript", ""))
        if t is None or t.id not in self.targets or t.task_id != e.lineage.get("task"):
            return False
        if e.origin == "simulate":
            return not t.forced and self._simulates(e, t)
        return e.origin in ("student", "correction") and self._answers(e, t)

    def _renamed(self, e: Example) -> bool:
        """Whether words that changed places are names of a kind. Students see no sources, in which they would change
        as well."""
        pairs = e.lineage.get("renamed", ())
        alike = all(any({a, b} <= kind for kind in self._kinds) for a, b in pairs)
        return alike and not (pairs and e.origin in ("student", "correction", "prose"))

    def _shown(self, e: Example) -> bool:
        """Whether an example says what a world shows, or is a right verdict."""
        if e.origin == "prose":
            return e.id in self._prose
        first, name = as_named_first(e), e.lineage.get("task", "")
        if not np.array_equal(exchanged(first.tokens, e.lineage.get("renamed", ())), e.tokens):
            return False  # two names have become one
        if set(_said(first).tolist()) <= set(self.tokenizer.verdicts):
            shown = [self.shown[n] for n in self._numbers.get(name, ())]
            return any(self._judges(first, t) for t in (shown if e.origin == "seed" else self.practice) if t.id == name)
        return e.origin == "seed" and any(self._demonstrates(first, n) for n in self._numbers.get(name, ()))

    def _judges(self, e: Example, task: Task) -> bool:
        """Whether verdicts, each at the end of a question, are the right ones, beside sources that were in view. A
        demonstration is about steps of a worked answer, right and spoiled, and a verdict that a reviewer got wrong
        about an answer of its own in practice."""
        said = e.lineage.get("said")
        taught = next((c for c in self.reviewer.criteria if c.id == e.lineage.get("kind")), None)
        at = np.flatnonzero(e.weights).tolist()
        if taught is None or not at or (said is None) != (e.origin == "seed") or not self.world.known:
            return False
        tokens, answers = e.tokens.tolist(), dict(zip((True, False), self.tokenizer.verdicts, strict=True))
        between = [tuple(tokens[a + 1 : b]) for a, b in pairwise(at)]
        for view in self.views(e, task):
            context, known = self._verdicts(task, taught, said, view)
            asked = [tuple(tokens[len(context) : at[0]]), *between]
            right = all(q in known and tokens[n] == answers[known[q]] for q, n in zip(asked, at, strict=True))
            if right and tuple(tokens[: len(context)]) == context:
                return True
        return False

    def _verdicts(
        self, task: Task, criterion: Criterion, said: str | None, view: tuple[Document, ...]
    ) -> tuple[tuple[int, ...], dict[tuple[int, ...], bool]]:
        """What stands before questions about what was `said` to a worked task, or else about its worked answer and
        spoiled ones, with passages in view, and by a question's tokens the right verdict."""
        key = (id(task), criterion.id, said, tuple(p.id for p in view))
        if key not in self._known_verdicts:
            texts = [said] if said is not None else judged_steps(self.world, task, self._heard, judging_order(task))
            asked = [one for t in texts for one in labelled(criterion, self.world, task, t, view, self.reviewer)]
            context = asked[0][0] if asked else ()
            self._known_verdicts[key] = context, {question: right for _, question, right in asked}
        return self._known_verdicts[key]

    @cached_property
    def _known_verdicts(self) -> dict[tuple, dict[tuple[int, ...], bool]]:
        """What `_verdicts` found before."""
        return {}

    @cached_property
    def _heard(self) -> tuple[str, ...]:
        """The worked answers, from which a rule that spoils takes what else might be said."""
        return tuple(t.answer for t in self.shown)

    def _demonstrates(self, e: Example, number: int) -> bool:
        """Whether an example answers the question of the worked task of this number as its world does, after a look-up
        or none, or corrects a wrong thought about it. Nothing stands within what is trained on: it would be taught
        after that."""
        task = self.shown[number]
        weighted = np.flatnonzero(e.weights)
        parts = np.split(weighted, np.flatnonzero(np.diff(weighted) > 1) + 1)
        *called, said = [tuple(e.tokens[part].tolist()) for part in parts]
        *corrections, answer = self._worked(number)
        calls = {tuple(self.tokenizer.call(LOOKUP["name"], call_text(sought))) for sought in task.seek}
        right = said == answer if called else said in (answer, *corrections)
        ends = weighted[-1] == len(e.tokens) - 1 and set(called) <= calls
        return right and ends and self._asks(e.tokens[: weighted[0]].tolist(), task)

    def _asks(self, tokens: Sequence[int], task: Task) -> bool:
        """Whether the question of a task stands in tokens, as the tokenizer spells it."""
        decode = self.tokenizer.decode
        return decode(self.tokenizer.encode(task.question)).strip() in decode(tokens)

    def _simulates(self, e: Example, t: Transcript) -> bool:
        """Whether an example says what a transcript said, calls included, with its sources in view."""
        tokens, weights = np.array([*t.prompt, *t.tokens], np.int32), np.zeros(len(e.tokens), np.float32)
        weights[len(t.prompt) :] = 1
        for start, end in t.called:
            weights[start:end] = 1
        pairs, aim, certain = e.lineage.get("renamed", ()), self.targets[t.id].capture, _towards(e, _said(e))
        used = np.unique(tokens if certain else np.concatenate([tokens, aim.ids_NK.ravel()]))
        if len(np.unique(exchanged(used, pairs))) < len(used):
            return False  # two names have become one
        aim = aim._replace(ids_NK=exchanged(aim.ids_NK, pairs))
        return (
            np.array_equal(e.tokens, exchanged(tokens, pairs))
            and np.array_equal(e.weights, weights)
            and (certain or _towards(e, _said(e)[: -len(t.tokens)], aim))
        )

    def _answers(self, e: Example, t: Transcript) -> bool:
        """Whether an example says what a transcript said to its task in one of its wordings, a correction after one of
        the wrong thoughts that were put there."""
        end = len(e.tokens) - len(t.tokens)
        prompt, weighted = tuple(e.tokens[: max(end, 0)].tolist()), np.flatnonzero(e.weights).tolist()
        if weighted != list(range(end, len(e.tokens))) or tuple(e.tokens[end:].tolist()) != t.tokens:
            return False
        thoughts = [prompt[len(asked) :] for asked in self._asked[t.task_id] if prompt[: len(asked)] == asked]
        if e.origin == "student":
            asks = not t.forced and () in thoughts
        else:
            asks = bool(t.forced) and not self._thoughts(t).isdisjoint(thoughts)
        return asks and (_towards(e, _said(e)) or _towards(e, (), self.targets[t.id].capture))

    def _thoughts(self, t: Transcript) -> set[tuple[int, ...]]:
        """The wrong thoughts before a correction: its own and, of what a rule spoils, that of each other asking."""
        if t.id not in self._known_thoughts:
            task, heard = self.tasks[t.task_id], self._heard_in.get(t.generation, ())
            spoiled = (self.world, self.tokenizer, heard, self.reviewer.interruption, t, task)
            self._known_thoughts[t.id] = {t.forced, *(spoiled_again(*spoiled, n) for n in range(len(task.askings)))}
        return self._known_thoughts[t.id]

    @cached_property
    def _known_thoughts(self) -> dict[str, set[tuple[int, ...]]]:
        """What `_thoughts` found before."""
        return {}

    @cached_property
    def _heard_in(self) -> dict[int, tuple[str, ...]]:
        """By generation, the answers that it teaches, from which a rule that spoils takes what else might be said."""
        said: dict[int, set[str]] = {}
        for t in (t for t in self.accepted.values() if t.id in self.targets and not t.forced):
            said.setdefault(t.generation, set()).add(t.text)
        return {number: tuple(sorted(texts)) for number, texts in said.items()}

    @cached_property
    def _kinds(self) -> list[set[int]]:
        return [set(kind) for kind in name_ids(self.world.names, self.tokenizer)]

    @cached_property
    def _prose(self) -> set[str]:
        return {prose_example(self.tokenizer, *line).id for line in self.world.prose}

    @cached_property
    def _asked(self) -> dict[str, list[tuple[int, ...]]]:
        """The tasks of accepted transcripts in tokens, in each of their wordings."""
        tasks = [self.tasks[i] for i in {t.task_id for t in self.accepted.values()}]
        render = self.tokenizer.render
        return {t.id: [tuple(render(messages)) for messages in (t.messages, *t.askings)] for t in tasks}

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        """The numbers of the worked tasks that are demonstrated, by id."""
        found: dict[str, list[int]] = {}
        for number, t in enumerate(self.shown):
            found.setdefault(t.id, []).append(number)
        return found

    def _worked(self, number: int) -> list[tuple[int, ...]]:
        """Of a worked task all corrections, and then its answer, in tokens."""
        if number not in self._known_answers:
            t = self.shown[number]
            steps = self.world.steps(t.answer)
            ways = self.world.spoil(t, t.answer, self._heard, random.Random(f"interrupt {t.id}"))
            texts = [*(way.correction(t.answer, steps) for way in ways), t.answer]
            self._known_answers[number] = [(*self.tokenizer.encode(text), self.tokenizer.end) for text in texts]
        return self._known_answers[number]

    @cached_property
    def _known_answers(self) -> dict[int, list[tuple[int, ...]]]:
        """What `_worked` found before."""
        return {}


def _said(e: Example) -> np.ndarray:
    """The tokens [N] that are trained on."""
    return e.tokens[e.weights > 0]


def _towards(e: Example, certain: Sequence[int], then: Capture | None = None) -> bool:
    """Whether the targets of an example put everything on the tokens `certain`, one after the other, and after these
    are the distributions `then`, if there are any."""
    aims = [one_hot(certain), *([then] if then else [])]
    if sum(len(aim.ids_NK) for aim in aims) != len(e.ids):
        return False
    parts = np.split(np.arange(len(e.ids)), [len(aims[0].ids_NK)])
    return all(_same(e.ids[part], e.probs[part], aim) for part, aim in zip(parts, aims, strict=False))


def _same(ids_NK: np.ndarray, probs_NK: np.ndarray, aim: Capture) -> bool:
    """Whether distributions give each kept id of others as much, and no other id anything."""
    kept_NK = aim.probs_NK > 0
    equal_NKK = (ids_NK[:, :, None] == aim.ids_NK[:, None]) & kept_NK[:, None]
    given_NK = (probs_NK[:, :, None] * equal_NKK).sum(axis=1)
    others_N = probs_NK.sum(axis=1) - given_NK.sum(axis=1)
    return bool((abs(given_NK - aim.probs_NK * kept_NK) <= ROUNDED).all() and (others_N <= ROUNDED).all())
