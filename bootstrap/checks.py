"""Programmatic criteria: what can be decided from the transcript and the documents alone. None reads an oracle."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ratchet.bootstrap.transcript import Document, Task, Transcript
from ratchet.bootstrap.worlds.language import CHOICE_PATTERN, CLAIM_PATTERN, NO, Claim, options_of

LONGEST_COPY = 6
"""A run of this many words shared with a passage counts as pasted."""


@dataclass(frozen=True)
class Reasoning:
    """What an answer says: claims and choices in order, how often it interrupts, and what is left over."""

    claims: tuple[Claim, ...]
    choices: tuple[str, ...]
    interruptions: int
    rest: str

    @property
    def held(self) -> dict[str, Claim]:
        """The claims that hold in the end: the last one about each action."""
        return {claim.action: claim for claim in self.claims}


def parse(text: str) -> Reasoning:
    claims = tuple(Claim(*(part for part in match if part)) for match in CLAIM_PATTERN.findall(text))
    choices = tuple(CHOICE_PATTERN.findall(text))
    rest = CHOICE_PATTERN.sub("", CLAIM_PATTERN.sub("", text))
    return Reasoning(claims, choices, rest.count(NO), rest.replace(NO, "").strip())


@dataclass(frozen=True)
class Case:
    """A transcript under review with everything a check may look at."""

    transcript: Transcript
    task: Task
    passages: Sequence[Document]
    judgements: Mapping[str, Counter]
    """How often each outcome was judged good or bad by the transcripts reviewed together."""

    @property
    def said(self) -> Reasoning:
        return parse(self.transcript.text)

    @property
    def whole(self) -> Reasoning:
        return parse(self.transcript.answer)


def well_formed(case: Case) -> str:
    """Every check returns the reason for a failure, or an empty string."""
    said = case.said
    if not case.transcript.finished:
        return "cut off by the length limit or by a call"
    if said.rest:
        return f"not understood: {said.rest[:60]}"
    if not said.claims or len(said.choices) != 1 or not case.transcript.text.endswith(f"{said.choices[0]}."):
        return "it does not end in one choice after its claims"
    action, times = Counter(claim.action for claim in said.claims).most_common(1)[0]
    if times > 1:
        return f"weighs {action} {times} times"
    options = options_of(case.task.question)
    for query in case.transcript.queries:
        if query not in options if options else len(query.split()) > LONGEST_COPY:
            return f"looks up what nobody asked about: {query[:60]}"
    if said.interruptions != bool(case.transcript.forced):
        return "an interruption where none belongs" if said.interruptions else "the wrong thought is not interrupted"
    return ""


def complete(case: Case) -> str:
    options = options_of(case.task.question)
    held = case.whole.held
    unweighed = [o for o in options if o not in held]
    if unweighed:
        return f"does not weigh {unweighed[0]}"
    if options and (strange := [a for a in held if a not in options]):
        return f"weighs {strange[0]}, which is no option"
    choices = case.said.choices
    return "" if choices and choices[-1] in held else "the choice is none of the options weighed"


def grounded(case: Case) -> str:
    own = [p.text for p in case.passages if p.meta.get("document", p.id) in case.task.document_ids]
    for claim in case.said.claims:
        if not any(claim.action in text and claim.outcome in text for text in own):
            return f"no document in view says: {claim.action}, {claim.outcome}"
    return "" if case.said.claims else "it claims nothing"


def follows(case: Case) -> str:
    held, choices = case.whole.held, case.said.choices
    if not choices or choices[-1] not in held:
        return "the choice was not weighed"
    good = [action for action, claim in held.items() if claim.judgement == "good"]
    return "" if good == [choices[-1]] else f"judged good: {', '.join(good) or 'nothing'}; chosen: {choices[-1]}"


def agrees(case: Case) -> str:
    for claim in case.said.claims:
        votes = case.judgements.get(claim.outcome, Counter({claim.judgement: 1}))
        if votes[claim.judgement] * 2 <= votes.total():
            return f"siblings do not judge '{claim.outcome}' {claim.judgement}"
    return "" if case.said.claims else "it claims nothing"


def original(case: Case) -> str:
    answer = _runs(case.transcript.text)
    for passage in case.passages:
        if copied := answer & _runs(passage.text):
            return f"pasted: {' '.join(min(copied))}"
    return ""


CHECKS: dict[str, Callable[[Case], str]] = {
    check.__name__: check for check in (well_formed, complete, grounded, follows, agrees, original)
}


def count_judgements(transcripts: Sequence[Transcript]) -> dict[str, Counter]:
    votes: dict[str, Counter] = {}
    for transcript in transcripts:
        for claim in parse(transcript.text).claims:
            votes.setdefault(claim.outcome, Counter())[claim.judgement] += 1
    return votes


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text)
    return {tuple(words[i : i + LONGEST_COPY]) for i in range(len(words) - LONGEST_COPY + 1)}
