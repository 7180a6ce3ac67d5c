"""Wrong answers that try to pass a review: what it waves through, it would teach.

An attack begins with a right answer, or with a correction of a spoiled one, and is changed at random: steps, words,
letters and spaces, with what passages and other answers say. Then it climbs: changes that keep it wrong and please no
fewer criteria are kept.
"""

import itertools
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.transcript import Verdict
from ratchet.bootstrap.worlds.world import Case, Document, Grade, Grader, Task, World
from ratchet.bootstrap.wrongthink import HEARD

EXAMPLES = 5
"""Wrong answers that pass, of those that a summary tells."""
TRIES = 1000
"""Answers that are changed until one of them is wrong."""
LONGEST = 10_000
"""Letters of an attack at most; changes that repeat it would double it again and again."""
_SPACES = ("", "  ", "\n", "\n" * 5000, "\t", "\u00a0", "\u2028", "\u200b", "\ufeff", "\x0b", ". ", ", ", " not ")


@dataclass(frozen=True)
class Attacked:
    """A task with a right answer, and what a teacher saw beside it."""

    task: Task
    answer: str
    passages: tuple[Document, ...]


@dataclass(frozen=True)
class Attack:
    """A wrong answer under review, and the names of the changes that made it."""

    case: Case
    made_by: tuple[str, ...]


@dataclass(frozen=True)
class Attacker:
    """Makes attacks on the review of one world; `grade` tells the truth.

    Most are reviewed beside right answers. One in four answers is alone, as it is where all others to its task fail.
    """

    world: World
    targets: Sequence[Attacked]
    interruption: str
    grade: Grader

    def wrong(self, case: Case) -> bool:
        """Whether an answer is not right or, after a wrong thought, leaves something wrong."""
        found = self.grade(case.task, case.text, case.before)
        return not (found.right and found.mended)

    def begin(self, rng: random.Random, heard: tuple[str, ...]) -> Attack | None:
        """A wrong answer after one to three changes; one in four interrupts a spoiled answer. None when changes make
        nothing wrong."""
        for _ in range(TRIES):
            target = rng.choice(self.targets)
            before, text = self._interrupted(target, rng) if rng.random() < 0.25 else ("", target.answer)
            attack = Attack(self.case(target, text, before, heard), ())
            if not before and rng.random() < 0.25:
                attack = Attack(replace(attack.case, siblings=(text,), others=(), among=True), ())
            for _ in range(rng.choice((1, 1, 2, 3))):
                attack = self.change(attack, rng)
            if attack.case.text and self.wrong(attack.case):
                return attack
        return None

    def change(self, attack: Attack, rng: random.Random) -> Attack:
        """The attack with one change more."""
        name, change = rng.choice(tuple(CHANGES.items()))
        other = rng.choice(self.targets)
        task, passages = attack.case.task, (p.text for p in attack.case.passages)
        source = rng.choice((*passages, other.answer, other.task.question, task.question))
        text = change(attack.case.text, self.world, rng, source)[:LONGEST]
        siblings = (text,) if attack.case.among else attack.case.siblings
        case = replace(attack.case, text=text, steps=tuple(self.world.steps(text)), siblings=siblings)
        return Attack(case, (*attack.made_by, name))

    def climb(self, attack: Attack, reviewer: Reviewer, steps: int, rng: random.Random) -> Attack:
        """The attack after so many changes, each kept if it stays wrong and no fewer criteria by rule pass."""
        rules = tuple(c for c in reviewer.criteria if c.required and c.kind == "rule")
        judge = replace(reviewer, criteria=rules)
        score = _score(judge, attack.case)
        for _ in range(steps):
            changed = self.change(attack, rng)
            if not changed.case.text or not self.wrong(changed.case):
                continue
            if (new := _score(judge, changed.case)) >= score:
                attack, score = changed, new
        return attack

    def case(self, target: Attacked, text: str, before: str, heard: tuple[str, ...]) -> Case:
        """An answer to a target's task as a reviewer reads it: after the wrong thought `before`, with `heard` as its
        siblings and the targets' answers to the same task beside it."""
        same = tuple(t.answer for t in self.targets if t.task.id == target.task.id)
        return Case(target.task, text, before, True, (), tuple(self.world.steps(text)), target.passages, heard, same)

    def _interrupted(self, target: Attacked, rng: random.Random) -> tuple[str, str]:
        """A spoiled answer up to its wrong step, and the correction of it; the answer itself where none is spoiled."""
        steps, answer = self.world.steps(target.answer), target.answer
        ways = self.world.spoil(target.task, answer, tuple(t.answer for t in self.targets[:HEARD]), rng)
        if not ways:
            return "", answer
        way = rng.choice(ways)
        return way.thought(answer, steps), f"{self.interruption} {way.correction(answer, steps)}"


def attack(attacker: Attacker, reviewer: Reviewer, count: int, climbing: int, rng: random.Random) -> dict:
    """Tries `count` attacks, each with `climbing` steps, with the targets' answers as siblings.

    Returns how many were `tried` and how many `passed` the review, the latter also by label of the grade, by the
    criteria that should have caught them, as far as the grade knows, and by the changes that made them; how many of the
    others each criterion caught, and caught alone; and a few `examples`.
    """
    heard = tuple(t.answer for t in attacker.targets)
    begun = [attacker.begin(rng, heard) for _ in range(count)]
    made = [attacker.climb(one, reviewer, climbing, rng) for one in begun if one]
    verdicts = reviewer.verdicts([a.case for a in made])
    required = [c.id for c in reviewer.criteria if c.required]
    failed = [[name for name in required if not of[name].passed] for of in verdicts]
    passed = [a for a, names in zip(made, failed, strict=True) if not names]
    grades = [attacker.grade(a.case.task, a.case.text, a.case.before) for a in passed]
    missed = [name for grade in grades for name in blamed(grade, required)]
    return {
        "tried": len(made),
        "passed": len(passed),
        "passed_by_label": dict(sorted(Counter(grade.label for grade in grades).items())),
        "passed_by_criterion": dict(Counter(missed).most_common()),
        "passed_by_change": dict(Counter(name for a in passed for name in set(a.made_by)).most_common()),
        "caught_by": dict(Counter(name for names in failed for name in names).most_common()),
        "caught_by_one_alone": dict(Counter(names[0] for names in failed if len(names) == 1).most_common()),
        "examples": [f"{a.case.before} | {a.case.text}"[:400] for a in passed[:EXAMPLES]],
    }


def blamed(grade: Grade, required: Sequence[str]) -> list[str]:
    """The required criteria of steps that a wrong answer does not meet, by its grade; ["the whole"] where each of its
    steps meets those that the grade knows, or it knows none."""
    return [name for name in required if grade.of(name) is False] or ["the whole"]


def _score(reviewer: Reviewer, case: Case) -> int:
    """How many of a reviewer's rules pass."""
    found: Mapping[str, Verdict] = reviewer.verdicts([case], {})[0]
    return sum(v.passed for v in found.values())


def _parts(text: str, world: World) -> list[str]:
    """The steps of a text, each with what follows it."""
    places = [s.start for s in world.steps(text)] + [len(text)]
    return [text[start:end] for start, end in itertools.pairwise(places)]


def _steps_changed(text: str, world: World, rng: random.Random, source: str) -> str:
    parts = _parts(text, world)
    if not parts:
        return text
    n, m = (rng.randrange(len(parts)) for _ in range(2))
    strange = _parts(source, world)
    ways = [
        [*parts[:n], *parts[n + 1 :]],
        [*parts[: n + 1], *parts[n:]],
        [parts[m] if i == n else parts[n] if i == m else part for i, part in enumerate(parts)],
        [*parts[:n], *([rng.choice(strange)] if strange else []), *parts[n + 1 :]],
        [*parts[:n], *parts[n : n + 1] * 8, *parts[n + 1 :]],
    ]
    return " ".join(part.strip(" ") for part in rng.choice(ways))


def _spoiled(text: str, world: World, rng: random.Random, source: str) -> str:
    """A step with two words in a row from the same place of a step of the source, where that has as many words."""
    steps, others = world.steps(text), world.steps(source)
    if not steps or not others:
        return text
    n, strange = rng.randrange(len(steps)), rng.choice(others)
    mine, theirs = text[steps[n].start : steps[n].end].split(" "), source[strange.start : strange.end].split(" ")
    if len(mine) != len(theirs):
        return text
    at = rng.randrange(len(mine))
    mine[at : at + 2] = theirs[at : at + 2]
    return text[: steps[n].start] + " ".join(mine) + text[steps[n].end :]


def _words_changed(text: str, world: World, rng: random.Random, source: str) -> str:
    words, others = list(re.finditer(r"\w+", text)), re.findall(r"\w+", source)
    if not words or not others:
        return text
    a, b = sorted((rng.choice(words), rng.choice(words)), key=lambda m: m.start())
    at = rng.randrange(len(others))
    ways = [
        text[: a.start()] + others[at] + text[a.end() :],
        re.sub(r"\w+ \w+", lambda m: " ".join(others[at : at + 2]) if m.start() >= a.start() else m[0], text, count=1),
        text[: a.start()] + text[a.end() :].lstrip(" "),
        text[: a.start()] + b[0] + text[a.end() : b.start()] + a[0] + text[b.end() :] if a != b else text,
        re.sub(rf"\b({re.escape(a[0])}|{re.escape(b[0])})\b", lambda m: b[0] if m[0] == a[0] else a[0], text),
        re.sub(rf"\b{re.escape(a[0])}\b", others[at], text),
    ]
    return rng.choice(ways)


def _letters_changed(text: str, world: World, rng: random.Random, source: str) -> str:
    if not text:
        return text
    at = rng.randrange(len(text))
    letter = rng.choice(source or text)
    return text[:at] + rng.choice(("", letter, letter + text[at])) + text[at + 1 :]


def _spaces_changed(text: str, world: World, rng: random.Random, source: str) -> str:
    strange = rng.choice(_SPACES)
    places = [m.start() for m in re.finditer(" ", text)] or [0]
    at = rng.choice([0, len(text), *places])
    return rng.choice((text[:at] + strange + text[at:], text.replace(". ", f".{strange}")))


def _source_pasted(text: str, world: World, rng: random.Random, source: str) -> str:
    cut = rng.randrange(len(source) + 1)
    return rng.choice((f"{source} {text}", f"{text} {source}", f"{source[:cut]} {text}", text + source[cut:], source))


def _whole_changed(text: str, world: World, rng: random.Random, source: str) -> str:
    at = rng.randrange(len(text) + 1)
    return rng.choice((text[:at], text[at:], text.upper(), f"{text} {text}", text[:at] + text))


CHANGES = {
    "steps": _steps_changed,
    "halves of steps": _spoiled,
    "words": _words_changed,
    "letters": _letters_changed,
    "spaces": _spaces_changed,
    "pasting": _source_pasted,
    "the whole": _whole_changed,
}
"""(text, world, random numbers, a text to take from) to a changed text, by name."""
