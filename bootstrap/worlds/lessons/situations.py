"""Situations of the lessons world, the stories that are told about them, and the questions that are asked.

A situation has two or three possible actions, and exactly one is wise. What each action leads to is arbitrary, so it
can only be known from the stories. Everything is drawn from the world's seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from ratchet.bootstrap.worlds.lessons.language import (
    AGENTS,
    ASKINGS,
    BAD_VERBS,
    FORWARD,
    GENRES,
    GOOD_VERBS,
    NOUNS,
    PLACES,
    SEEN,
    SUBJECTS,
    THINGS,
    VERBS,
    Claim,
    Context,
)
from ratchet.bootstrap.worlds.world import Document, Task, content_id

EXISTING = len(PLACES) * len(THINGS)
"""How many situations exist."""


@dataclass(frozen=True)
class Situation:
    """A thing that fails somewhere, and what each possible action leads to."""

    place: str
    thing: str
    actions: tuple[str, ...]
    outcomes: tuple[str, ...]
    wise: int
    """The index of the wise action."""

    @property
    def id(self) -> str:
        return content_id(self.place, self.thing)

    def claim(self, action: int) -> Claim:
        """What is true about the action of this index."""
        return Claim(self.actions[action], self.outcomes[action], "good" if action == self.wise else "bad")


def draw(seed: int, parts: Sequence[tuple[int, float]]) -> list[tuple[Situation, ...]]:
    """Situations in parts, each of which begins where the last ended.

    A part is (number of situations, share of them that has three actions instead of two): `[(260, 0.2), (108, 0.4)]`.
    A part is the same whatever comes after it, and the beginning of one that is longer.
    """
    random = Random(f"lessons {seed}")
    keys = [(place, thing) for place in PLACES for thing in THINGS]
    random.shuffle(keys)
    left = iter(keys)
    return [
        tuple(_situation(random, *next(left), 2 + _falls(number, share)) for number in range(count))
        for count, share in parts
    ]


def _falls(number: int, share: float) -> bool:
    """True for exactly this share of consecutive numbers."""
    return int((number + 1) * share) > int(number * share)


def _situation(random: Random, place: str, thing: str, count: int) -> Situation:
    verbs, nouns = random.sample(VERBS, count), random.sample(NOUNS, count)
    actions = tuple(f"{verb} {noun}" for verb, noun in zip(verbs, nouns, strict=True))
    wise = random.randrange(count)
    subjects = random.sample(SUBJECTS, count)
    bad = random.sample(BAD_VERBS, count)
    ends = [random.choice(GOOD_VERBS) if i == wise else bad[i] for i in range(count)]
    outcomes = tuple(f"{subject} {end}" for subject, end in zip(subjects, ends, strict=True))
    return Situation(place, thing, actions, outcomes, wise)


def stories(situation: Situation, seed: int) -> tuple[Document, ...]:
    """What is written about one situation: its wise action is told once, its unwise ones three times in all.

    Every action is told at least once in the order in which things happened.
    """
    random = Random(f"{seed} {situation.id}")
    unwise = [i for i in range(len(situation.actions)) if i != situation.wise]
    told = [situation.wise, *(unwise * 3)[:3]]
    genres = [""] * len(told)
    while {action for action, genre in zip(told, genres, strict=True) if genre in FORWARD} != set(told):
        genres = random.sample(sorted(GENRES), len(told))
    documents = []
    for action, genre in zip(told, genres, strict=True):
        text = GENRES[genre].format(
            place=situation.place,
            thing=situation.thing,
            agent=random.choice(AGENTS),
            action=situation.actions[action],
            outcome=situation.outcomes[action],
        )
        meta = {"genre": genre, "topic": situation.id, "source": "lessons world", "license": "CC0-1.0"}
        documents.append(Document(content_id(text), text, meta))
    random.shuffle(documents)
    return tuple(documents)


def ask(situation: Situation, seed: int, context: Context, turn: int = 0, also: Sequence[Context] = ()) -> Task:
    """The question about a situation in one context, with its options rotated by `turn`.

    `also` are other contexts, whose questions become the task's askings. They keep the order of the options, because
    answers follow it.
    """
    first = turn % len(situation.actions)
    options = situation.actions[first:] + situation.actions[:first]
    asked = [c.messages(situation.place, situation.thing, options) for c in (context, *also)]
    told = tuple(story.id for story in stories(situation, seed))
    return Task(content_id(seed, asked[0]), told, asked[0], tuple(asked[1:]), seek=options)


def questions(situation: Situation, seed: int, first: int, count: int) -> tuple[Task, ...]:
    """`count` tasks about a situation, in the contexts from number `first` of those that training may see on."""
    tasks = []
    for turn in range(count):
        context = SEEN[(first + turn) % len(SEEN)]
        others = [c for c in (*SEEN, *ASKINGS) if c != context]
        also = Random(f"askings {situation.id} {turn}").sample(others, len(SEEN))
        tasks.append(ask(situation, seed, context, turn, also))
    return tuple(tasks)
