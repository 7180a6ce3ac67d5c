"""Criteria as users write them: a YAML file, read with every mistake named by file and line."""

import itertools
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import pydantic
import yaml
from etils import epath

from ratchet.bootstrap import rubrics
from ratchet.bootstrap.checks import GENERAL
from ratchet.bootstrap.signals import LIKELIHOODS, SHARES, scale
from ratchet.bootstrap.worlds.world import World
from ratchet.models.wording import ANSWERS
from ratchet.train.buckets import place_of

PACKS = {file.stem: file for file in sorted(epath.resource_path(rubrics).glob("*.yaml"))}
"""Rubrics that fit any world, by name."""
OF_ANSWERS = {"answer", "question", "calls"}
"""What the question of a criterion of a whole answer may name."""
EXAMPLE = "bootstrap/worlds/documents.yaml"
"""A rubric to copy, which mistakes in other ones point to."""


class Example(pydantic.BaseModel, frozen=True, extra="forbid"):
    """An example for a judge: the words that the question of its criterion names, such as {"step": "It rains."}, and
    its right verdict."""

    words: dict[str, str]
    passes: bool


class Criterion(pydantic.BaseModel, frozen=True, extra="forbid"):
    """One yes/no question of the review, and how it is answered.

    A `rule` is decided by the text: a check of the world or of every world (`bootstrap.checks`), or a share of words
    (`bootstrap.signals`). A `model` criterion is answered by P(yes) of a judge: `self`, the model that reviews, `seed`,
    that of generation 0, which does not drift, or `address`, the server of `judge.url`. Its question names {step} and
    any fields of the world's steps, or {answer}, {question} and {calls}. A `likelihood` criterion is a number that says
    how likely the answer is (`bootstrap.signals`). What is measured, and not only decided, passes from `threshold` on:
    calibration sets it in each generation where right verdicts are known, and without any it stays.

    A criterion `of` a step is decided for each step of an answer, and may interrupt it there; one of the form says how
    an answer is written, not whether it is true. An answer is accepted when all `required` criteria pass; one that
    calibration finds no better than chance becomes advisory for that generation, unless it `always` decides or is a
    likelihood without which the target precision is out of reach; an `advisory` one is measured and decides nothing,
    and so is one whose say is to be `earned`, until calibration finds it better than chance. `limit` is a number that a
    check takes.

    Sources that are too long for a judge are shown to it in parts: what `any` of them lets pass then passes, or only
    what `all` do.

    A judge answers yes or no or, given `labels`, by one of these words; it passes what it answers by one of
    `passing_labels`. `examples` stand before its question. `tags` are for people: the report shows them.
    """

    id: str
    kind: Literal["rule", "model", "likelihood"]
    question: str
    of: Literal["form", "step", "answer"] = "answer"
    show: tuple[Literal["passages", "question"], ...] = ()
    sources: Literal["any", "all"] = "any"
    judge: Literal["self", "seed", "address"] = "self"
    standing: Literal["required", "always", "earned", "advisory"] = "required"
    threshold: float = pydantic.Field(default_factory=lambda given: scale(given.get("id", "")).usual)
    limit: float | None = pydantic.Field(None, gt=0.0)
    labels: tuple[str, ...] = ()
    passing_labels: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()
    tags: tuple[str, ...] = ()

    @pydantic.field_validator("threshold")
    @classmethod
    def _within_its_scale(cls, threshold: float, given: pydantic.ValidationInfo) -> float:
        if not (0.0 <= threshold <= 1.0 or scale(given.data.get("id", "")).in_nats):
            raise ValueError("must be from 0 to 1")
        return threshold

    @property
    def required(self) -> bool:
        """Whether an answer that fails it is rejected."""
        return self.standing in ("required", "always")

    def says(self, passes: bool) -> str:
        """What a judge says of what passes, or does not."""
        failing = [label for label in self.labels if label not in self.passing_labels]
        return (self.passing_labels if passes else failing)[0] if self.labels else ANSWERS[not passes]

    @property
    def named(self) -> set[str]:
        """The words in braces that its question names."""
        return {name for _, name, _, _ in string.Formatter().parse(self.question) if name is not None}


class Rubric(pydantic.BaseModel, frozen=True, extra="forbid"):
    """A file of criteria. `version` says what its fields mean. What cannot be read rejects the answer, which a file may
    say and not change."""

    version: Literal[1]
    on_unreadable: Literal["reject"] = "reject"
    criteria: tuple[Criterion, ...] = pydantic.Field(min_length=1)


def load_rubric(path: str, world: World) -> tuple[Criterion, ...]:
    """Reads criteria from a YAML file, from the pack of that name, or the world's own for "". Raises ValueError naming
    file, line, criterion and remedy."""
    where = (PACKS.get(path) or place_of(path)) if path else f"of the world {world.name}"
    try:
        text = where.read_text() if path else world.rubric
        entries, lines = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise ValueError(
            f"rubric: {where} {what}; set --review.rubric to a YAML file of criteria, or to {', '.join(PACKS)}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"rubric: {where} is no YAML: {' '.join(str(error).split())}; mend it") from error
    try:
        return _criteria(entries, [*GENERAL, *SHARES, *world.checks])
    except _Mistake as mistake:
        line = _line(lines, mistake.place)
        raise ValueError(f"rubric: {where}, line {line}: {mistake}") from None


def seated(criteria: Sequence[Criterion], afar: bool) -> tuple[Criterion, ...]:
    """Criteria with the judges that a run has. Where there is one at an address and none names it, it takes the place
    of `self`. Raises ValueError for a judge at an address that is named and not there, or there and not asked."""
    named = [c.id for c in criteria if c.judge == "address"]
    if named and not afar:
        raise ValueError(f"rubric: {named[0]} asks a judge by address; set --judge.url, or its judge to self or seed")
    if afar and not named:
        own = {"judge": "address"}
        criteria = [c.model_copy(update=own) if (c.kind, c.judge) == ("model", "self") else c for c in criteria]
    if afar and not any(c.judge == "address" for c in criteria):
        raise ValueError("judge.url: no criterion of the rubric asks it; leave it out, or add one of kind model")
    return tuple(criteria)


class _Mistake(Exception):
    """What is wrong with a rubric; `place` is the path to it by keys and numbers."""

    def __init__(self, message: str, *place: str | int):
        super().__init__(message)
        self.place = place


def _criteria(entries: object, rules: Sequence[str]) -> tuple[Criterion, ...]:
    try:
        criteria = Rubric.model_validate(entries).criteria
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = first["loc"]
        of = f"criterion {_name(entries, place[1])}: " if place[:1] == ("criteria",) and len(place) > 1 else ""
        field = "".join(f"{part}: " for part in (place[2:] if of else place))
        raise _Mistake(f"{of}{field}{first['msg'].removeprefix('Value error, ')}; see {EXAMPLE}", *place) from None
    for number, c in enumerate(criteria):
        if reason := _unusable(c, rules):
            raise _Mistake(reason, "criteria", number)
    if twice := [i for i, count in Counter(c.id for c in criteria).items() if count > 1]:
        raise _Mistake(f"two criteria have the id {twice[0]}; rename one", "criteria")
    if not any(c.required for c in criteria):
        raise _Mistake("no criterion is required, so everything would pass; require at least one", "criteria")
    return criteria


def _name(entries: dict, number: int) -> object:
    entry = entries["criteria"][number]
    return entry.get("id", number + 1) if isinstance(entry, dict) else number + 1


def _unusable(c: Criterion, rules: Sequence[str]) -> str:
    """Why a criterion cannot be decided, or ""."""
    if c.kind == "rule" and c.id not in rules:
        return f"there is no rule {c.id}; there are {', '.join(rules)}"
    if c.kind == "likelihood" and c.id not in LIKELIHOODS:
        return f"there is no likelihood {c.id}; there are {', '.join(LIKELIHOODS)}"
    if c.kind != "likelihood" and c.id in LIKELIHOODS:
        return f"{c.id} is the name of a likelihood; call the {c.kind} criterion something else"
    if c.id == "agreement" and c.of != "answer":
        return "agreement is of a whole answer; leave out its `of`"
    if c.kind != "model" and (c.labels or c.examples):
        return f"{c.id} asks no judge; leave out its labels and examples"
    if c.kind != "model" and c.judge == "address":
        return f"{c.id} asks no judge by address; leave out its judge, or set it to self or seed"
    if (c.labels or c.passing_labels) and not set() < set(c.passing_labels) < set(c.labels):
        return f"passing_labels of {c.id} must be some of its labels, and not all"
    if begins := [a for a, b in itertools.permutations(c.labels, 2) if b.startswith(a)]:
        return f"the label {begins[0]!r} of {c.id} begins another; name them otherwise"
    try:
        strange = {n for n in c.named if not n.isidentifier()} if c.of == "step" else c.named - OF_ANSWERS
        if not strange:
            c.question.format(**dict.fromkeys(c.named, ""))
    except (ValueError, LookupError) as error:
        return f"the question of {c.id} cannot be filled in: {error}; write braces as {{step}}"
    if strange:
        return (
            f"the question of {c.id} names {{{min(strange)}}}; there are {{answer}}, {{question}}, {{calls}}, and of "
            "steps {step} and the fields of the world's steps"
        )
    if any(c.named != e.words.keys() for e in c.examples):
        return f"an example of {c.id} must have the words {', '.join(sorted(c.named))}, and no other"
    return ""


def _line(node: yaml.Node | None, place: Sequence[str | int]) -> int:
    """The number of the line at which a place, or what holds it, begins."""
    line = node.start_mark.line if node else 0
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == part]
        else:
            found = [(v, v) for v in node.value[part : part + 1]] if isinstance(node, yaml.SequenceNode) else []
        if not found:
            break
        line, node = found[0][0].start_mark.line, found[0][1]
    return line + 1
