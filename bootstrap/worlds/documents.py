"""The user's own documents as a world: slices of what was read, tasks about it, and labelled questions."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from ratchet.bootstrap.worlds.answers import f1, grade
from ratchet.bootstrap.worlds.bounds import bounded
from ratchet.bootstrap.worlds.world import Document, Grader, Item, Material, Metric, Task, World, content_id, title_of

RUBRIC, KINDS = (Path(__file__).with_name(name) for name in ("documents.yaml", "tasks.yaml"))
OWN_TALES = Path(__file__).with_name("tales")
TALES = "tales"
"""A path that stands for the short texts in the folder beside this file, where there is none of that name."""


class Question(NamedTuple):
    """A question whose answer is known, about the document with an id."""

    question: str
    answer: str
    document: str


class Source(Protocol):
    """What was read from a user's path: documents, and labelled questions about them."""

    documents: Sequence[Document]
    questions: Sequence[Question]


@dataclass(frozen=True)
class DocumentsConfig:
    """Source material of a user's own."""

    path: str = ""
    """A folder of files (.txt, .md, .html, .pdf, .docx, .jsonl, .csv, .parquet), one such file, a TFDS dataset by name
    or folder, or a Hugging Face dataset saved to disk; what lies in a bucket (gs://, s3://) is copied first."""
    globs: tuple[str, ...] = ()
    """Which files of the folder to read, such as "*.md" or "notes/**/*.txt"; none: all of a known kind."""
    text_key: str = "text"
    """The column of a table or dataset that holds the text."""
    id_key: str = ""
    """The column that names each document; empty: `id` where there is one, else the number of the row."""
    license: str = ""
    """The licence of documents that name none themselves; each passage carries it."""
    strict: bool = False
    """Whether a file or row that cannot be read stops the run, instead of being left out, listed and counted."""
    questions: str = ""
    """A JSONL file with `question`, `answer` and `document`: half of the questions probe the reviewer, the others are
    asked in evaluations. Nothing is trained on them."""
    slice: int = bounded(50, "at least 1")
    """Documents that each generation reads for the first time."""
    fresh: int = bounded(20, "at least 1")
    """Documents that no generation reads, on which the simulator is measured."""
    tasks: str = ""
    """A YAML file of the kinds of tasks that the model proposes about each document; empty: questions, advice, false
    beliefs, lessons and more, as bootstrap/worlds/tasks.yaml has them."""
    per_document: int = bounded(3, "at least 1")
    """Proposed tasks that are kept of a document at most."""
    question: str = ""
    """One question that is asked about each document instead, such as "What does {title} say?"; {title} is its id in
    words."""


METRICS = (
    Metric("labelled", "labelled questions answered rightly, without sources", "label"),
    Metric("labelled_f1", "words that answers to labelled questions share with the known ones (F1)", "F1"),
)


def create(config: DocumentsConfig, seed: int, generations: int, read: Callable[[DocumentsConfig], Source]) -> World:
    """Makes a world of what is read; the order of its documents is drawn from the seed.

    Half of the labelled questions, by hash, probe the reviewer, the others are the items of evaluations. Raises
    ValueError when there are too few documents for the generations asked for.
    """
    if not config.path:
        raise ValueError(
            f"documents: say what to read, as in `ratchet run documents FOLDER`; {TALES} are short texts of our own"
        )
    source = read(_with_tales(config))
    found = sorted(source.documents, key=lambda d: d.id)
    random.Random(f"documents {seed}").shuffle(found)
    needed = config.fresh + config.slice * (generations - 1) + 1
    if len(found) < needed:
        raise ValueError(
            f"documents: {config.path} holds {len(found)} documents, {generations} generations need {needed}; lower "
            "--generations, --documents.slice or --documents.fresh"
        )
    if config.question and "{title}" not in config.question and len(found) > 1:
        raise ValueError(
            "documents.question: it is the same about every document, of which a student sees none; say {title} where "
            "the document's title belongs"
        )
    fresh, rest = found[: config.fresh], found[config.fresh :]
    parts = [rest[i * config.slice : (i + 1) * config.slice] for i in range(generations)]
    known = _known(source.questions)
    probes = {asked: answers for asked, answers in known.items() if int(content_id(*asked), 16) % 2}
    items = {asked: answers for asked, answers in known.items() if asked not in probes}
    return World(
        name="documents",
        slices=tuple(_material(part, config.question) for part in parts),
        rubric=RUBRIC.read_text(),
        fresh=_material(fresh, config.question),
        kinds=_kinds(config.tasks),
        per_document=config.per_document,
        probes=_probes(probes, found),
        untaught=tuple(question for question, _ in known),
        known=_grader(probes) if probes else None,
        items=_asker(items),
        metrics=METRICS if items else (),
    )


def _with_tales(config: DocumentsConfig) -> DocumentsConfig:
    """The settings with the place of the texts that come with Ratchet, and of the questions about them."""
    if config.path != TALES or Path(TALES).exists():
        return config
    return replace(config, path=str(OWN_TALES), questions=config.questions or str(OWN_TALES.with_suffix(".jsonl")))


Known = Mapping[tuple[str, str], tuple[str, ...]]
"""The answers to a question about a document, by (question, id of the document)."""


def _known(questions: Sequence[Question]) -> Known:
    known: dict[tuple[str, str], tuple[str, ...]] = {}
    for q in questions:
        asked = q.question, q.document
        known[asked] = (*known.get(asked, ()), q.answer)
    return known


def _probes(known: Known, found: Sequence[Document]) -> Material:
    """A worked task for each question, and the documents that they are about. Those that no generation of this run
    reads come first, then those of the latest generations: they tell most about documents that nothing was trained on.
    The fresh ones, by which generations are promoted, come last."""
    place = {d.id: n for n, d in enumerate(found)}
    order = sorted(known, key=lambda asked: (-place[asked[1]], asked))
    tasks = tuple(replace(_asked(*asked), answer=known[asked][0]) for asked in order)
    return Material(tuple(found[place[i]] for i in dict.fromkeys(i for _, i in order)), tasks)


def _grader(known: Known) -> Grader:
    answers = {_asked(*asked).id: given for asked, given in known.items()}
    return lambda task, text, before: grade(text, answers[task.id])


def _asker(known: Known) -> Callable[[Sequence[Task]], Sequence[Item]]:
    """What to ask about documents that were read."""
    items: dict[str, list[Item]] = {}
    for (question, document), answers in known.items():
        task, score = _asked(question, document), partial(_score, answers)
        item = Item(task.id, document, score, task.messages, context="labelled", greedy=True, reference=answers[0])
        items.setdefault(document, []).append(item)
    return lambda tasks: [i for d in dict.fromkeys(d for t in tasks for d in t.document_ids) for i in items.get(d, ())]


def _score(answers: Sequence[str], text: str, finished: bool) -> dict[str, float]:
    return {"labelled": float(grade(text, answers).right), "labelled_f1": f1(text, answers)}


def _kinds(path: str) -> str:
    """The YAML of the kinds of tasks that are proposed."""
    try:
        return (Path(path) if path else KINDS).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"documents.tasks: {path} cannot be read ({error}); give a YAML file of kinds") from error


def _material(documents: Sequence[Document], question: str) -> Material:
    """Documents with a task for each, or without tasks where no question is given."""
    return Material(tuple(documents), tuple(_task(d, question) for d in documents) if question else ())


def _task(document: Document, question: str) -> Task:
    return _asked(question.replace("{title}", title_of(document)), document.id)


def _asked(question: str, document: str) -> Task:
    messages = ({"role": "user", "content": question},)
    return Task(content_id(document, messages), (document,), messages)
