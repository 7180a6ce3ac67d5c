"""Seed demonstrations of the lessons world: a few labelled examples of simulating, reviewing and interrupting.

They are about made-up situations that the corpus does not contain, and easier than it: fewer options. General prose
teaches words without facts.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ratchet.bootstrap.worlds.language import (
    ASKINGS,
    BAD_VERBS,
    CHOICE,
    CONTEXTS,
    GOOD_VERBS,
    NOUNS,
    STYLES,
    SUBJECTS,
    VERBS,
    Claim,
    render_claim,
)
from ratchet.bootstrap.worlds.lessons import Situation


@dataclass(frozen=True)
class Answer:
    """An ideal answer with the passages in view: an optional lookup first, then the reasoning and the choice."""

    lookup: str
    text: str


def ideal_answer(
    situation: Situation, options: Sequence[str], rng: random.Random, *, missing: Sequence[str] = ()
) -> Answer:
    """Weighs the options as they were asked, in some style, and takes the wise one; looks up what no passage tells."""
    style = rng.randrange(len(STYLES))
    claims = [render_claim(situation.claim(situation.actions.index(o)), style) for o in options]
    choice = CHOICE.format(action=situation.actions[situation.wise])
    return Answer(missing[0] if missing else "", " ".join([*claims, choice]))


def wrong_claim(situation: Situation, action: int, rng: random.Random) -> Claim:
    """A claim about an action that is false: another action's outcome, a made-up one, or the opposite judgement."""
    right = situation.claim(action)
    kind = rng.choice(("swapped", "invented", "judged"))
    if kind == "judged":
        return right._replace(judgement="bad" if right.judgement == "good" else "good")
    if kind == "swapped":
        outcome = situation.outcomes[rng.choice([i for i in range(len(situation.actions)) if i != action])]
    else:
        outcome = rng.choice([o for o in _all_outcomes() if o not in situation.outcomes])
    return Claim(right.action, outcome, "good" if outcome.split()[-1] in GOOD_VERBS else "bad")


def interruption(situation: Situation, options: Sequence[str], rng: random.Random) -> tuple[str, str]:
    """(wrong thought, continuation): reasoning up to its first wrong step, and how it goes on after a "no,"."""
    style = rng.randrange(len(STYLES))
    order = [situation.actions.index(o) for o in options]
    wrong_at = rng.randrange(len(order) + 1)
    thought = [render_claim(situation.claim(i), style) for i in order[:wrong_at]]
    rest = [render_claim(situation.claim(i), style) for i in order[wrong_at:]]
    if wrong_at < len(order):
        thought.append(render_claim(wrong_claim(situation, order[wrong_at], rng), style))
    else:
        unwise = rng.choice([a for i, a in enumerate(situation.actions) if i != situation.wise])
        thought.append(CHOICE.format(action=unwise))
        rest.append(render_claim(situation.claim(situation.actions.index(unwise)), style))
    choice = CHOICE.format(action=situation.actions[situation.wise])
    return " ".join(thought), " ".join([*rest, choice])


def labelled_claims(situation: Situation, rng: random.Random) -> list[tuple[Claim, bool]]:
    """Two claims about each action and whether the stories tell them; the judgement always fits the outcome."""
    labelled = []
    for action in [*range(len(situation.actions))] * 2:
        claim = situation.claim(action)
        if rng.random() < 0.5:
            while (claim := wrong_claim(situation, action, rng)).outcome == situation.outcomes[action]:
                pass
        labelled.append((claim, claim.outcome == situation.outcomes[action]))
    return labelled


TELLINGS = (
    "{action}, {outcome}.",
    "{action}: {outcome}.",
    "{action} and {outcome}.",
    "{action} means {outcome}.",
    "{action} brings {outcome}.",
    "{action} so {outcome}.",
)
REVERSED = ("{outcome} after {action}.", "{outcome}? {action}!", "{outcome} from {action}.")


def prose(rng: random.Random, lines: int) -> list[tuple[str, str]]:
    """General sentences: what is good and what is bad, and hearsay that is told again. No situation's facts.

    Each is (beginning, continuation): what cannot be foreseen stands in the beginning.
    """
    asked = " ".join(f"{c.system} {c.question}" for c in (*CONTEXTS, *ASKINGS))
    words = sorted(set(re.findall(r"\w+[.,:!?]?", asked)))
    makers = (_hearsay, _hearsay, _hearsay, _hearsay, _judgements, _offers)
    made = [rng.choice(makers)(rng) for _ in range(lines)]
    return [(f"{rng.choice(words)} {beginning}".strip(), continuation) for beginning, continuation in made]


def _hearsay(rng: random.Random) -> tuple[str, str]:
    """A few rumours, each in its own wording, then told twice again, each time in another order and wording."""
    count = rng.choice((2, 3, 3, 4))
    actions = [f"{v} {n}" for v, n in zip(rng.sample(VERBS, count), rng.sample(NOUNS, count), strict=True)]
    rumours = list(zip(actions, rng.sample(_all_outcomes(), count), strict=True))
    wordings = [rng.choice(rng.choice((TELLINGS, REVERSED))) for _ in rumours]
    first = [w.format(action=action, outcome=outcome) for w, (action, outcome) in zip(wordings, rumours, strict=True)]
    again = [
        " ".join(telling.format(action=action, outcome=outcome) for action, outcome in rng.sample(rumours, count))
        for telling in rng.sample(TELLINGS, 2)
    ]
    return " ".join(first), " ".join(again)


def _judgements(rng: random.Random) -> tuple[str, str]:
    forms = ("{0} is {1}.", "{0}, {1}.", "{0}: {1}.", "{0}. {1}.")
    return "", " ".join(rng.choice(forms).format(o, _judge(o)) for o in rng.sample(_all_outcomes(), 6))


def _offers(rng: random.Random) -> tuple[str, str]:
    """Options, and someone who names each of them again."""
    options = [f"{v} {n}" for v, n in zip(rng.sample(VERBS, 3), rng.sample(NOUNS, 3), strict=True)]
    again = " ".join(f"{rng.choice(('if', 'i'))} {o}." for o in options)
    return f"{' or '.join(options)}?", again


def _judge(outcome: str) -> str:
    return "good" if outcome.split()[-1] in GOOD_VERBS else "bad"


def _all_outcomes() -> list[str]:
    return [f"{s} {v}" for s in SUBJECTS for v in BAD_VERBS + GOOD_VERBS]
