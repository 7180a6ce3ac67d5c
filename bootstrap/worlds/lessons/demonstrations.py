"""What the seed of the lessons world shows: ideal answers and general prose; and wrong thoughts, to be evaluated.

General prose teaches words without facts.
"""

import re
from collections.abc import Sequence
from random import Random

from ratchet.bootstrap.worlds.lessons.language import (
    ASKINGS,
    CHOICE,
    CONTEXTS,
    NOUNS,
    OUTCOMES,
    STYLES,
    VERBS,
    Claim,
    judge,
    render_claim,
)
from ratchet.bootstrap.worlds.lessons.situations import Situation


def ideal_answer(situation: Situation, options: Sequence[str], random: Random) -> str:
    """Weighs the options in the order in which they were asked, in some style, and takes the wise one."""
    style = random.randrange(len(STYLES))
    claims = [render_claim(situation.claim(situation.actions.index(option)), style) for option in options]
    return " ".join([*claims, CHOICE.format(action=situation.actions[situation.wise])])


def wrong_thought(situation: Situation, options: Sequence[str], random: Random) -> str:
    """Reasoning about the options up to and with its first wrong step, which is a claim or the choice."""
    style = random.randrange(len(STYLES))
    order = [situation.actions.index(option) for option in options]
    wrong_at = random.randrange(len(order) + 1)
    thought = [render_claim(situation.claim(action), style) for action in order[:wrong_at]]
    if wrong_at < len(order):
        thought.append(render_claim(wrong_claim(situation, order[wrong_at], random), style))
    else:
        unwise = random.choice([a for i, a in enumerate(situation.actions) if i != situation.wise])
        thought.append(CHOICE.format(action=unwise))
    return " ".join(thought)


def wrong_claim(situation: Situation, action: int, random: Random) -> Claim:
    """A claim about an action that is false: another action's outcome, a made-up one, or the opposite judgement."""
    right = situation.claim(action)
    kind = random.choice(("swapped", "invented", "judged"))
    if kind == "judged":
        return right._replace(judgement="bad" if right.judgement == "good" else "good")
    if kind == "swapped":
        outcome = situation.outcomes[random.choice([i for i in range(len(situation.actions)) if i != action])]
    else:
        outcome = random.choice([o for o in OUTCOMES if o not in situation.outcomes])
    return Claim(right.action, outcome, judge(outcome))


TELLINGS = (
    "{action}, {outcome}.",
    "{action}: {outcome}.",
    "{action} and {outcome}.",
    "{action} means {outcome}.",
    "{action} brings {outcome}.",
    "{action} so {outcome}.",
)
REVERSED = ("{outcome} after {action}.", "{outcome}? {action}!", "{outcome} from {action}.")


def prose(random: Random, lines: int) -> tuple[tuple[str, str], ...]:
    """General sentences: what is good and what is bad, and hearsay that is told again. No situation's facts.

    Each is (beginning, continuation): what cannot be foreseen stands in the beginning.
    """
    asked = " ".join(f"{c.system} {c.question}" for c in (*CONTEXTS, *ASKINGS))
    words = sorted(set(re.findall(r"\w+[.,:!?]?", asked)))
    makers = (_hearsay, _hearsay, _hearsay, _hearsay, _judgements, _offers)
    made = [random.choice(makers)(random) for _ in range(lines)]
    return tuple((f"{random.choice(words)} {beginning}".strip(), continuation) for beginning, continuation in made)


def _hearsay(random: Random) -> tuple[str, str]:
    """A few rumours, each in its own wording, then told twice again, each time in another order and wording."""
    count = random.choice((2, 3, 3, 4))
    actions = _actions(random, count)
    rumours = list(zip(actions, random.sample(OUTCOMES, count), strict=True))
    wordings = [random.choice(random.choice((TELLINGS, REVERSED))) for _ in rumours]
    first = [w.format(action=action, outcome=outcome) for w, (action, outcome) in zip(wordings, rumours, strict=True)]
    again = [
        " ".join(telling.format(action=action, outcome=outcome) for action, outcome in random.sample(rumours, count))
        for telling in random.sample(TELLINGS, 2)
    ]
    return " ".join(first), " ".join(again)


def _judgements(random: Random) -> tuple[str, str]:
    """A few outcomes, and what each is judged."""
    forms = ("{0} is {1}.", "{0}, {1}.", "{0}: {1}.", "{0}. {1}.")
    return "", " ".join(random.choice(forms).format(o, judge(o)) for o in random.sample(OUTCOMES, 6))


def _offers(random: Random) -> tuple[str, str]:
    """Options, and someone who names each of them again."""
    options = _actions(random, 3)
    again = " ".join(f"{random.choice(('if', 'i'))} {option}." for option in options)
    return f"{' or '.join(options)}?", again


def _actions(random: Random, count: int) -> list[str]:
    verbs, nouns = random.sample(VERBS, count), random.sample(NOUNS, count)
    return [f"{verb} {noun}" for verb, noun in zip(verbs, nouns, strict=True)]
