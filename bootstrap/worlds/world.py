"""What a world offers: plain text to read, ask about, check and spoil. Nothing else is known of one.

A world is a frozen value. It knows nothing of tokens, models or transcripts and imports nothing of Ratchet, so that the
loop can stand on it. Most of what it knows it says as data; its few functions take text and give text. Three members
are needed: `name`, `slices` and `rubric`. To make a world of your own, copy `bootstrap/worlds/arithmetic.py`.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Thai, Lao, Tibetan, Myanmar
    "\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\uaa80-\uaadf\u1b00-\u1b7f\ua980-\ua9df"  # Khmer, Tai, Balinese, Javanese
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff\u2e80-\u2fdf"  # ideographs, radicals
    "\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9f\U0001b000-\U0001b16f"  # kana, bopomofo
    "\ua000-\ua4cf\U00016fe0-\U00018dff\U0001b170-\U0001b2ff"  # Yi, Tangut, Khitan, Nushu
    "\U00012000-\U0001467f"  # cuneiform, hieroglyphs
)
"""Letters, as a class of regular expressions, of scripts that are written without spaces between words."""
COMBINING = "".join(c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c).startswith("M"))
"""Vowels, tones, accents and the like, which belong to the letter before, as such a class too; they are no `\\w`."""

Message = Mapping[str, Any]
"""One message of a chat, as OpenAI's servers and chat templates have it: `{"role": "user", "content": "..."}`."""
Call = tuple[str, Mapping[str, Any]]
"""A tool call by name and arguments: `("lookup", {"query": "the mill's pump"})`."""


def content_id(*parts: Any) -> str:
    """16 hexadecimal digits of sha256 over the JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Document:
    """A piece of source material: read, never trained on."""

    id: str
    text: str
    meta: dict[str, str] = field(default_factory=dict)

    @property
    def document_id(self) -> str:
        """The id of the document that this is a passage of, which its meta names; its own id where it is whole."""
        return self.meta.get("document", self.id)


def title_of(document: Document) -> str:
    """A document's id in words: "the two bridges" of "the-two-bridges"."""
    return re.sub(r"[_\W]+", " ", document.document_id).strip()


@dataclass(frozen=True)
class Task:
    """What a simulated user asks. The student sees `messages`; the documents are for the teacher alone."""

    id: str
    document_ids: tuple[str, ...]
    messages: tuple[Message, ...]
    askings: tuple[tuple[Message, ...], ...] = ()
    """Other messages that ask the same: an accepted answer to one teaches the student to answer all."""
    seek: tuple[str, ...] = ()
    """What the documents have to tell for an answer: retrieval and look-ups go by these, else by the question."""
    answer: str = ""
    """An ideal answer. Worked tasks alone have one."""

    @property
    def question(self) -> str:
        """The text of the last message."""
        return self.messages[-1]["content"]


class Material(NamedTuple):
    """Documents, and tasks about them."""

    documents: tuple[Document, ...] = ()
    tasks: tuple[Task, ...] = ()


class Step(NamedTuple):
    """A part of an answer that is judged, interrupted and spoiled on its own: `text[start:end]`.

    `fields` are the words in it that a rubric's question may name, such as `{"sum": "15"}` for "{sum} is right?".
    """

    start: int
    end: int
    fields: Mapping[str, str] = MappingProxyType({})


class Spoiled(NamedTuple):
    """One way to make an answer wrong: step number `step` says `text` instead.

    `then` numbers the steps of the answer that a correction says, in order: for an answer of steps 0, 1 and 2 whose
    step 1 is spoiled, `(1, 2)`.
    """

    step: int
    text: str
    then: tuple[int, ...]

    def thought(self, answer: str, steps: Sequence[Step]) -> str:
        """The answer, of these steps, up to the spoiled one, and what that says instead."""
        return answer[: steps[self.step].start] + self.text

    def correction(self, answer: str, steps: Sequence[Step]) -> str:
        """What a correction says of the answer, after an interruption."""
        return " ".join(answer[steps[n].start : steps[n].end] for n in self.then)


class Grade(NamedTuple):
    """An answer against the truth.

    `right` says whether the answer is right or, after a wrong thought, ends right; `label` what it comes to in a word
    for counts and pages; and `steps` gives for every step the right verdict of each criterion that is known: `({"true":
    True}, {"true": False})`. Two fields are about an answer that interrupts a wrong thought: whether all that stands in
    the end is true (`mended`), and whether it begins by saying, truly, what was wrong (`reason`).
    """

    right: bool
    label: str = ""
    steps: tuple[Mapping[str, bool], ...] = ()
    mended: bool = True
    reason: bool = True

    def of(self, criterion: str) -> bool | None:
        """Whether every step has the verdict "right" of a criterion of steps; None where it says nothing of any step,
        so that all that is known is whether the answer is right."""
        known = [step[criterion] for step in self.steps if criterion in step]
        return all(known) if known else None


class Metric(NamedTuple):
    """A figure that a world's items measure, and how it is shown.

    `column` heads it in the table of generations ("" leaves it out), `worst` heads the same figure of the worst
    context. A `guard`, of which more is better, must not fall when a generation is promoted, and not be below `floor`.
    """

    name: str
    title: str
    column: str = ""
    worst: str = ""
    less_is_better: bool = False
    guard: bool = False
    floor: float = 0.0


@dataclass(frozen=True)
class Case:
    """An answer under review, as text.

    `before` is the wrong thought that it interrupts, "" for most. `siblings` are the texts that were reviewed together
    and pass without each other; each has one vote, and `among` says whether this answer is one of them. `others` are
    the well-formed answers to the same task beside this one. `finished` is false for an answer cut off by the length
    limit or by a call, and for one whose text does not show all of its tokens.
    """

    task: Task
    text: str
    before: str
    finished: bool
    calls: tuple[Call, ...]
    steps: tuple[Step, ...]
    passages: tuple[Document, ...]
    siblings: tuple[str, ...]
    others: tuple[str, ...] = ()
    among: bool = False


@dataclass(frozen=True)
class Item:
    """One question of an evaluation, put to a model that sees no sources.

    A "chat" item puts `messages` and begins the assistant's turn with `begun`; a "document" item is a text that has
    `begun` and goes on. `score(text, finished)` gives numbers by metric for what the model says after `begun`; a metric
    that it leaves out was not measured. Items of a `group` are alike, so they count as one where figures are compared.
    """

    id: str
    group: str
    score: Callable[[str, bool], Mapping[str, float]]
    messages: tuple[Message, ...] = ()
    form: Literal["chat", "document"] = "chat"
    begun: str = ""
    wrong: bool = False
    """Whether `begun` ends in a wrong step, whose probability training must never raise."""
    context: str = ""
    """The way of asking, by name: figures are also given by context, and for the worst of them."""
    seen: bool = True
    """Whether training may see this context."""
    greedy: bool = False
    reference: str = ""
    """An ideal answer, whose likelihood is measured."""


class Tool(NamedTuple):
    """What a simulator may call. `parameters` is a JSON schema; `run` takes the arguments and gives text."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], str]


Check = Callable[[Case], str]
"""A criterion by rule: the reason for a failure, or ""."""
Grader = Callable[[Task, str, str], Grade]
"""Grades (task, answer, the wrong thought before it or "")."""
Spoil = Callable[[Task, str, Sequence[str], Random], Sequence[Spoiled]]
"""Every way to make an answer wrong by rule, given (task, answer, other answers that were heard, random numbers)."""

_WORD = re.compile(rf"(?=\w)[{UNSPACED}][{COMBINING}]*|(?:[^\W{UNSPACED}][{COMBINING}]*)+")
_CLOSING = "\"'”’»›)]}」』）】〉》"
_MARK = re.compile(
    rf"[.!?．…。｡！？⁇⁈⁉‼‽؟۔।॥།።፧፨։။។៕᠃᠉]+[{re.escape(_CLOSING)}]*"  # what may end a sentence, and what closes
    r"|\n|(?<=[\u0e00-\u0eff])\s+(?=[\u0e00-\u0eff])"  # a line; a space between letters of Thai or Lao
)
_NEXT = re.compile(r"\s*(\S?)")
_WITHIN = frozenset(".!?．…")
"""Marks that stand within words and numbers too."""
_TITLES = frozenset("mr mrs ms dr prof messrs mme mlle hr vs cf approx ca e.g i.e z.b d.h".split())
"""Abbreviations that no sentence ends with."""
_CAPITALS = frozenset("St Rev Hon Gen Col Sgt Capt Lt Gov Sen Rep Pres Mt Ft Fr".split())
"""The same, with a capital; in small letters some of them are words."""
_BEFORE_NUMBERS = frozenset("no nos nr fig figs eq sec ch vol p pp".split())
_BEFORE_SMALL = frozenset(
    "etc inc ltd co corp jr sr al dept est bzw usw jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
"""Abbreviations that a sentence may end with, unless it goes on in small letters or with a figure."""
_LONGEST = 32
"""Letters of a word that are read before a point."""
_NAME_OR_NUMBER = re.compile(
    rf"(?<![^\W{UNSPACED}])(?<!\w[.,])\d++(?:[.,]\d++)*+(?!(?:st|nd|rd|th)\b)|(?<=[a-z,;:] )[A-Z]\w+"
)
_OF_A_LIST = re.compile(r"\s*\d+[.)](?=\s)")
"""The number of an item in a list, which says nothing that could be wrong."""


def words(text: str) -> list[str]:
    """The words of a text, without signs. Each letter of a script without spaces is one, with the marks on it."""
    return _WORD.findall(text)


def sentences(text: str) -> tuple[Step, ...]:
    """Every sentence of a text is a step, in whatever script, without the space around it; so is every line.

    A point ends none within a number, a name such as example.com or an abbreviation. Of abbreviations, the commonest of
    English are known, initials, and those with a point within.
    """
    found, start = [], 0
    for end in (*(mark.end() for mark in _MARK.finditer(text) if _ends(text, mark)), len(text)):
        part = text[start:end]
        if part.strip():
            found.append(Step(start + len(part) - len(part.lstrip()), start + len(part.rstrip())))
        start = end
    return tuple(found)


def _ends(text: str, mark: re.Match) -> bool:
    """Whether a mark ends a sentence: by what it is, what follows it, and the word before it."""
    marks, rest = mark[0].rstrip(_CLOSING), _NEXT.match(text, mark.end())[1]
    if not rest or not _WITHIN.issuperset(marks):
        return True
    follows = text[mark.end()]
    if not follows.isspace() and not (follows.isalpha() and follows.lower() == follows.upper()):
        return False  # a figure, or a letter of a script that has capitals: within a number or a name
    if marks[0] == "…":
        return follows.isspace() and not rest.islower()
    return marks != "." or not _abbreviates(text[max(mark.start() - _LONGEST, 0) : mark.start()], rest)


def _abbreviates(before: str, after: str) -> bool:
    """Whether the point that follows some letters of a text belongs to an abbreviation; `after` is the next letter."""
    word = re.search(r"(?:\w+\.)*\w*$", before)[0]
    small, goes_on = word.lower(), after.islower() or after.isdigit()
    first = not before.removesuffix(word).rpartition("\n")[2].strip()
    return (
        small in _TITLES
        or word in _CAPITALS
        or (first and word.isdecimal())  # the number of a line in a list
        or (len(word) == 1 and word.isupper() and word != "I")  # an initial
        or (small in _BEFORE_NUMBERS and after.isdigit())
        or (goes_on and (small in _BEFORE_SMALL or "." in word))
    )


def swapped(task: Task, answer: str, heard: Sequence[str], random: Random) -> tuple[Spoiled, ...]:
    """In each sentence that holds a number or a name, one of them changes places with another that was heard."""
    known = sorted({word for text in (answer, *heard) for word in _NAME_OR_NUMBER.findall(text)})
    steps, found = sentences(answer), []
    for number, step in enumerate(steps):
        said = answer[step.start : step.end]
        listed = _OF_A_LIST.match(said)
        own = [*_NAME_OR_NUMBER.finditer(said, listed.end() if listed else 0)]
        same = {_value(word[0]) for word in own}
        others = [w for w in known if own and _value(w) not in same and w[0].isdigit() == own[0][0][0].isdigit()]
        if others:
            start, end = own[0].span()
            wrong = said[:start] + random.choice(others) + said[end:]
            found.append(Spoiled(number, wrong, tuple(range(number, len(steps)))))
    return tuple(found)


def _value(word: str) -> str:
    """A name, or a number without what changes nothing of its value: "1,900" and "1900.0" are the same."""
    number = re.sub(r",(?=\d{3}\b)", "", word)
    return number.rstrip("0").rstrip(".") if number[0].isdigit() and "." in number else number


def no_items(tasks: Sequence[Task]) -> tuple[Item, ...]:
    """A world without items of its own is measured by its tasks alone."""
    return ()


@dataclass(frozen=True)
class World:
    """Everything that the loop knows of what it reads. The first three members are needed."""

    name: str
    slices: tuple[Material, ...]
    """What each generation reads for the first time. A world for more generations begins with the same slices. The
    first one has documents; tasks of later ones may be about those."""
    rubric: str
    """Its criteria in YAML, unless the user gives others."""
    fresh: Material = Material()
    """What no generation reads: the simulator's pass rate is measured on its tasks, by which generations are promoted.
    Without any, none is."""
    seed: Material = Material()
    """Worked tasks that everybody may know, with their documents. If `known` grades them, the last ones are held out
    for the reviewer, to practise on or to probe it; the others are shown."""
    probes: Material = Material()
    """Worked tasks that probe the reviewer in place of the seed's. Nothing is ever trained on them."""
    untaught: tuple[str, ...] = ()
    """Questions that nothing may be trained on, those of the probes among them; the audit looks for them."""
    prose: tuple[tuple[str, str], ...] = ()
    """Plain text for a model from scratch: (beginning, continuation that is trained on)."""
    control: tuple[tuple[str, str], ...] = ()
    """Plain text that nothing is trained on, to see whether a model still speaks; empty: the text of `fresh`."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    """Criteria by rule beside the general ones, by the id that the rubric gives them."""
    steps: Callable[[str], Sequence[Step]] = sentences
    """Where an answer can be cut."""
    spoil: Spoil = swapped
    interruption: str = ""
    """What a supervisor has to say before a correction, where the checks know nothing else; empty: what the settings
    say."""
    known: Grader | None = None
    """Grades the worked tasks, the seed's and the probes: criteria are calibrated by it, and taught by the seed's."""
    oracle: Grader | None = None
    """Grades all other tasks. Evaluation and audit alone may call it; nothing that trains or reviews does."""
    items: Callable[[Sequence[Task]], Sequence[Item]] = no_items
    """What to ask about tasks that were read, beside the tasks themselves."""
    metrics: tuple[Metric, ...] = ()
    """What the items measure."""
    names: tuple[tuple[str, ...], ...] = ()
    """Words of a kind, which may change places in sources and answer alike."""
    tools: tuple[Tool, ...] = ()
    """What a simulator may call beside `lookup`."""
    kinds: str = ""
    """Kinds of tasks, in YAML, that the model proposes about documents where a material has no tasks, and the worked
    answers that a teacher is shown."""
    per_document: int = 3
    """How many proposed tasks of a document are kept at most."""

    @property
    def has_oracle(self) -> bool:
        """Whether there is an oracle, for those who may not call it."""
        return self.oracle is not None
