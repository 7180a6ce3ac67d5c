"""Situations, and texts about them, for the tests of the lessons world. Its own wordings render them."""

from ratchet.bootstrap.worlds.lessons import LessonsConfig, create
from ratchet.bootstrap.worlds.lessons.language import CHOICE, PLAIN, render_claim
from ratchet.bootstrap.worlds.lessons.reasoning import steps
from ratchet.bootstrap.worlds.lessons.situations import ask, draw, stories
from ratchet.bootstrap.worlds.world import Case

SEED = 3
SMALL = LessonsConfig(slice=10, fresh=5, demonstrations=14, held_out=8, prose=60, third_option=0.5)
WORLD = create(SMALL, SEED, 2)
SITUATIONS = draw(SEED, [(24, 0.5)])[0]
FLIP = {"good": "bad", "bad": "good"}


def answer(claims, action, style=0):
    """Claims in one wording, and a choice."""
    return " ".join([*(render_claim(claim, style) for claim in claims), CHOICE.format(action=action)])


def scene(number, turn=0):
    """(situation, plain task, its stories, the true claims as they are asked, the wise action, an unwise one)."""
    s = SITUATIONS[number]
    task = ask(s, SEED, PLAIN, turn)
    claims = [s.claim(s.actions.index(option)) for option in task.seek]
    wise = s.actions[s.wise]
    return s, task, stories(s, SEED), claims, wise, next(a for a in s.actions if a != wise)


def failed(check, task, text, passages=(), before="", siblings=()):
    """The reason for which a check fails an answer, or ""."""
    return check(Case(task, text, before, True, (), steps(text), tuple(passages), (text, *siblings)))


def corrected(text, spoiled):
    """(the thought that a spoiled step ends, what is said after it)."""
    said = [text[step.start : step.end] for step in steps(text)]
    return " ".join([*said[: spoiled.step], spoiled.text]), " ".join(["no,", *(said[n] for n in spoiled.then)])
