"""The lessons world: what each action leads to is arbitrary, so it can only be known from the documents.

A situation has two or three possible actions; exactly one is wise. Documents are short stories in six genres, and in
most of them somebody takes an unwise action and pays for it. Everything is drawn from `random.Random(seed)`.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ratchet.bootstrap.transcript import Document, Task, content_id
from ratchet.bootstrap.worlds.language import (
    AGENTS,
    BAD_VERBS,
    FORWARD,
    GENRES,
    GOOD_VERBS,
    NOUNS,
    PLACES,
    SUBJECTS,
    THINGS,
    VERBS,
    Claim,
    Context,
    render_story,
)


@dataclass(frozen=True)
class Situation:
    """A thing that fails somewhere, and what each possible action leads to."""

    place: str
    thing: str
    actions: tuple[str, ...]
    outcomes: tuple[str, ...]
    wise: int

    @property
    def id(self) -> str:
        return content_id(self.place, self.thing)

    def claim(self, action: int) -> Claim:
        return Claim(self.actions[action], self.outcomes[action], "good" if action == self.wise else "bad")


@dataclass(frozen=True)
class Lessons:
    """A seeded corpus of situations, and separate made-up situations for the seed demonstrations.

    `situations` are what the corpus tells of, in the order in which generations read them; `demonstrations` never
    appear in the corpus.
    """

    situations: tuple[Situation, ...]
    demonstrations: tuple[Situation, ...]
    seed: int

    @classmethod
    def create(cls, seed: int, situations: int, demonstrations: int, third_option: float) -> "Lessons":
        """`third_option` is the share of corpus situations with three actions; demonstrations have half of it."""
        rng = random.Random(f"lessons {seed}")
        keys = [(p, t) for p in PLACES for t in THINGS]
        if situations + demonstrations > len(keys):
            raise ValueError(
                f"world: {situations + demonstrations} situations asked for, {len(keys)} exist; "
                "lower --generations, --world.slice or --world.demonstrations"
            )
        rng.shuffle(keys)
        shares = [third_option if i < situations else third_option / 2 for i in range(len(keys))]
        counts = [2 + _falls(i, share) for i, share in enumerate(shares)]
        made = [_situation(rng, *key, count) for key, count in zip(keys, counts, strict=True)]
        return cls(tuple(made[:situations]), tuple(made[situations : situations + demonstrations]), seed)

    def documents(self) -> list[Document]:
        """The corpus: unwise actions are told more often than the wise one."""
        return [story for s in self.situations for story in stories(s, random.Random(f"{self.seed} {s.id}"))]

    def task(self, situation: Situation, context: Context, turn: int = 0, also: Sequence[Context] = ()) -> Task:
        """The question in one context; options rotate with `turn`. `also` are other ways to ask the same.

        They keep the order of the options: answers follow it, and a student that cannot foresee it repeats itself.
        """
        first = turn % len(situation.actions)
        options = situation.actions[first:] + situation.actions[:first]
        asked = [c.messages(situation, options) for c in (context, *also)]
        ids = tuple(story.id for story in stories(situation, random.Random(f"{self.seed} {situation.id}")))
        return Task(content_id(self.seed, asked[0]), ids, asked[0], tuple(asked[1:]))


def stories(situation: Situation, rng: random.Random) -> list[Document]:
    """What is written about one situation: its wise action once, its unwise ones three times in all.

    Every action is told at least once in the order in which things happened.
    """
    unwise = [i for i in range(len(situation.actions)) if i != situation.wise]
    told = [situation.wise, *(unwise * 3)[:3]]
    genres = [""] * len(told)
    while {a for a, genre in zip(told, genres, strict=True) if genre in FORWARD} != set(told):
        genres = rng.sample(sorted(GENRES), len(told))
    documents = []
    for action, genre in zip(told, genres, strict=True):
        text = render_story(genre, situation, situation.claim(action), rng.choice(AGENTS))
        meta = {"genre": genre, "topic": situation.id, "source": "lessons world", "licence": "CC0-1.0"}
        documents.append(Document(content_id(text), text, meta))
    rng.shuffle(documents)
    return documents


def _falls(number: int, share: float) -> bool:
    """True for exactly this share of consecutive numbers."""
    return int((number + 1) * share) > int(number * share)


def _situation(rng: random.Random, place: str, thing: str, count: int) -> Situation:
    verbs, nouns = rng.sample(VERBS, count), rng.sample(NOUNS, count)
    actions = tuple(f"{v} {n}" for v, n in zip(verbs, nouns, strict=True))
    wise = rng.randrange(count)
    subjects = rng.sample(SUBJECTS, count)
    bad = rng.sample(BAD_VERBS, count)
    ends = [rng.choice(GOOD_VERBS) if i == wise else bad[i] for i in range(count)]
    outcomes = tuple(f"{s} {e}" for s, e in zip(subjects, ends, strict=True))
    return Situation(place, thing, actions, outcomes, wise)
