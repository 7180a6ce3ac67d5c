"""How an answer of the lessons world reasons: its steps, how it is checked, and how it is made wrong by rule.

An answer says what each option leads to and then chooses: "if open valve, roof leaks: bad. if tie rope, crew rests:
good. so i tie rope." A correction begins with "no," and what is true about the action of the wrong step.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from ratchet.bootstrap.worlds.lessons.language import CHOICE, GENRES, NO, OUTCOMES, STYLES, Claim, judge, render_claim
from ratchet.bootstrap.worlds.world import Case, Spoiled, Step, Task

_WORDS = {"action": r"(\w+ \w+)", "outcome": r"(\w+ \w+)", "judgement": "(good|bad)"}
_STEP = re.compile("|".join(wording.replace(".", r"\.").format(**_WORDS) for wording in (*STYLES, CHOICE)))
_STORY = _WORDS | {"action": r"(?P<action>\w+ \w+)", "outcome": r"(?P<outcome>\w+ \w+)"}
_STORIES = tuple(
    re.compile(rf"\b{re.escape(text)}".replace(r"\{", "{").replace(r"\}", "}").format(
        **_STORY, **dict.fromkeys(("place", "thing", "agent"), r"\w+")
    ))
    for text in GENRES.values()
)  # fmt: skip
"""How a story tells what an action leads to."""
_BETWEEN = re.compile(rf"({re.escape(NO)} )*\0( ({re.escape(NO)} )*\0)*")
"""What is left of an answer of which each step is replaced by NUL: single spaces, and interruptions before steps."""


@dataclass(frozen=True)
class Reasoning:
    """What a text says: its claims and choices in order, how often it interrupts, and what is left over."""

    claims: tuple[Claim, ...]
    choices: tuple[str, ...]
    interruptions: int
    rest: str

    @property
    def held(self) -> dict[str, Claim]:
        """The claims that hold in the end, by action: the last one about each."""
        return {claim.action: claim for claim in self.claims}


def steps(text: str) -> tuple[Step, ...]:
    """Every claim and every choice in a text is a step; what stands between them belongs to none."""
    return tuple(Step(match.start(), match.end(), _fields(match)) for match in _STEP.finditer(text))


def _fields(match: re.Match) -> dict[str, str]:
    words = [word for word in match.groups() if word]
    return Claim(*words)._asdict() if len(words) == 3 else {"choice": words[0]}


@lru_cache(maxsize=4096)
def parse(text: str) -> Reasoning:
    """The reasoning of a text."""
    said = [step.fields for step in steps(text)]
    claims = tuple(Claim(**fields) for fields in said if "choice" not in fields)
    choices = tuple(fields["choice"] for fields in said if "choice" in fields)
    rest = _STEP.sub("", text)
    plain = "\0" not in text and _BETWEEN.fullmatch(_STEP.sub("\0", text))
    left_over = "" if plain else rest.replace(NO, "").strip(" ") or repr(rest)
    return Reasoning(claims, choices, rest.count(NO), left_over)


@lru_cache(maxsize=4096)
def told(text: str) -> frozenset[tuple[str, str]]:
    """Every (action, outcome) that the stories in a text tell."""
    return frozenset((m["action"], m["outcome"]) for story in _STORIES for m in story.finditer(text))


def spelled(case: Case) -> str:
    """An answer is made of claims and choices, some of each, and of nothing else but interruptions."""
    said = parse(case.text)
    if said.rest:
        return f"not understood: {said.rest[:60]}"
    return "" if said.claims and said.choices else "it does not both claim and choose"


def well_formed(case: Case) -> str:
    """An answer is claims, at most one about each action, and one choice; only its beginning may interrupt."""
    said = parse(case.text)
    if said.rest:
        return f"not understood: {said.rest[:60]}"
    if said.interruptions > case.text.startswith(NO):
        return "it interrupts itself"
    if not said.claims or len(said.choices) != 1 or not case.text.endswith(f"{said.choices[0]}."):
        return "it does not end in one choice after its claims"
    action, times = Counter(claim.action for claim in said.claims).most_common(1)[0]
    return f"weighs {action} {times} times" if times > 1 else ""


def complete(case: Case) -> str:
    """The options that the question offers are weighed, all of them and no other, and one of them is chosen."""
    held, choices = _whole(case).held, parse(case.text).choices
    if unweighed := [option for option in case.task.seek if option not in held]:
        return f"does not weigh {unweighed[0]}"
    if strange := [action for action in held if action not in case.task.seek]:
        return f"weighs {strange[0]}, which is no option"
    return "" if choices and choices[-1] in held else "the choice is none of the options weighed"


def grounded(case: Case) -> str:
    """A passage in view of the task's own documents tells that the action of each claim leads to its outcome. That is
    asked of what an answer claims, and of what it leaves standing of a thought that it interrupts."""
    own = [told(p.text) for p in case.passages if p.document_id in case.task.document_ids]
    claims = parse(case.text).claims
    for claim in (*claims, *_whole(case).held.values()):
        if not any((claim.action, claim.outcome) in pairs for pairs in own):
            return f"no document in view says: {claim.action}, {claim.outcome}"
    return "" if claims else "it claims nothing"


def follows(case: Case) -> str:
    """What is chosen is the only action judged good. Before there is a choice, nothing can be wrong with it."""
    held, choices = _whole(case).held, parse(case.text).choices
    if not choices:
        return ""
    if choices[-1] not in held:
        return "the choice was not weighed"
    good = [action for action, claim in held.items() if claim.judgement == "good"]
    return "" if good == [choices[-1]] else f"judged good: {', '.join(good) or 'nothing'}; chosen: {choices[-1]}"


def agrees(case: Case) -> str:
    """More than half of the siblings that claim the same outcomes judge them alike, those left standing too.

    One of the siblings, and a correction beside siblings, need another one that judges as they do: no answer vouches
    for itself.
    """
    claims, votes = parse(case.text).claims, _votes(case.siblings)
    vouched = case.among or (case.before and case.siblings)
    for claim in (*claims, *_whole(case).held.values()):
        cast = votes.get(claim.outcome, Counter())
        if vouched and cast[claim.judgement] <= case.among:
            return f"no other sibling judges '{claim.outcome}' {claim.judgement}"
        if cast and cast[claim.judgement] * 2 <= cast.total():
            return f"siblings do not judge '{claim.outcome}' {claim.judgement}"
    return "" if claims else "it claims nothing"


def reasoned(case: Case) -> str:
    """A correction begins by saying what was wrong with the last step before it."""
    return reason_fault(case.before, case.text) if case.before else ""


def reason_fault(before: str, text: str) -> str:
    """What is wrong with the reason that `text` gives for interrupting `before`, or "".

    A reason is a claim right after "no,". It is about the action of the last step before, and says something else; of
    a chosen action, it says that this is bad.
    """
    thought, said = steps(before), steps(text)
    if not thought:
        return "there is no step to interrupt"
    if not said or "choice" in said[0].fields or text[: said[0].start].strip() != NO:
        return f'it does not begin with "{NO}" and a claim'
    wrong, claim = thought[-1].fields, said[0].fields
    action = wrong.get("choice") or wrong["action"]
    if claim["action"] != action:
        return f"its reason is about {claim['action']}, the wrong step about {action}"
    agreed = claim["judgement"] == "good" if "choice" in wrong else claim == wrong
    return f"its reason finds nothing wrong with the step before it: {text[: said[0].end]}" if agreed else ""


CHECKS = {check.__name__: check for check in (spelled, well_formed, complete, grounded, follows, agrees, reasoned)}
"""The world's rules, by the id that its rubric gives them."""


def spoil(task: Task, answer: str, heard: Sequence[str], random: Random) -> tuple[Spoiled, ...]:
    """Each claim of an answer made wrong, then each wrong choice; () unless it is claims and one choice at the end.

    After a wrong claim, the answer is said again from there on. After a wrong choice, the claim about what was chosen
    comes again, and then the right choice. `heard` are answers whose outcomes may be claimed wrongly.
    """
    said, parts = parse(answer), steps(answer)
    unwise = [number for number, claim in enumerate(said.claims) if claim.action not in said.choices]
    ends_in_choice = len(said.choices) == 1 and "choice" in parts[-1].fields
    if said.rest or said.interruptions or not ends_in_choice or not unwise:
        return ()
    last, judged, made = len(said.claims), _judged(tuple(heard)), []
    for number, claim in enumerate(said.claims):
        style = (_STEP.match(answer, parts[number].start).lastindex - 1) // len(Claim._fields)
        wrong = render_claim(_wrong(claim, said.claims, judged, random), style)
        made.append(Spoiled(number, wrong, tuple(range(number, last + 1))))
    made += [Spoiled(last, CHOICE.format(action=said.claims[number].action), (number, last)) for number in unwise]
    return tuple(made)


def _wrong(claim: Claim, claims: Sequence[Claim], judged: Mapping[str, str], random: Random) -> Claim:
    """The claim with another action's outcome, with an outcome that was heard elsewhere, or with another judgement."""
    wrong = {
        "swapped": [(c.outcome, c.judgement) for c in claims if c.outcome != claim.outcome],
        "invented": [(outcome, judgement) for outcome, judgement in judged.items() if outcome != claim.outcome],
        "judged": [(claim.outcome, "bad" if claim.judgement == "good" else "good")],
    }
    # An outcome of the situation itself, but of another action, is the hardest to notice; a judgement the easiest.
    shares = {"swapped": 3, "invented": 2, "judged": 1}
    kinds = [kind for kind, share in shares.items() if wrong[kind] for _ in range(share)]
    return Claim(claim.action, *random.choice(wrong[random.choice(kinds)]))


@lru_cache(maxsize=8)
def _judged(heard: tuple[str, ...]) -> dict[str, str]:
    """Every outcome that is claimed, in order, with its judgement; all that exist when none is claimed."""
    claimed = sorted({(claim.outcome, claim.judgement) for text in heard for claim in parse(text).claims})
    return dict(claimed) or {outcome: judge(outcome) for outcome in OUTCOMES}


@lru_cache(maxsize=8)
def _votes(siblings: tuple[str, ...]) -> dict[str, Counter]:
    """How many siblings judge each outcome good or bad in the end. Thousands of cases share their siblings, so it is
    counted once."""
    votes: dict[str, Counter] = {}
    for text in siblings:
        for outcome, judgement in {(claim.outcome, claim.judgement) for claim in parse(text).held.values()}:
            votes.setdefault(outcome, Counter())[judgement] += 1
    return votes


def _whole(case: Case) -> Reasoning:
    return parse(f"{case.before} {case.text}")
