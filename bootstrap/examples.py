"""Training examples from demonstrations and from reviewed transcripts: which tokens carry weight, with what targets.

T is the number of tokens of an example, N that of weighted tokens, K the kept ids.
"""

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import Reviewer, questions
from ratchet.bootstrap.rubric import Criterion
from ratchet.bootstrap.simulate import Writer, draft
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.tools import LOOKUP, call_text, lookup
from ratchet.bootstrap.transcript import Capture, Transcript, certain
from ratchet.bootstrap.worlds.world import Case, Document, Step, Task, World
from ratchet.train.records import Example


def example(
    prompt: Sequence[int],
    trained: Sequence[int],
    targets: Capture,
    origin: str,
    lineage: dict,
    spans: Sequence[tuple[int, int]] = (),
) -> Example:
    """An example that trains on the N tokens `trained` after `prompt`, towards their N `targets`, and one-hot on the
    parts (start, end) of the prompt in `spans`, such as tool calls.

    Without a prompt the first token has no weight: the others come after it.
    """
    tokens = np.asarray([*prompt, *trained], np.int32)
    weights = np.zeros(len(tokens), np.float32)
    weights[len(prompt) :] = 1.0
    early = [i for start, end in spans for i in range(start, end)]
    weights[early] = 1.0
    if early:
        before = certain(tuple(tokens[early].tolist()), targets.ids_NK.shape[1])
        targets = Capture(*(np.concatenate(pair) for pair in zip(before, targets, strict=True)))
    if weights[0]:  # nothing stands before it
        weights[0], targets = 0.0, Capture(*(of_N[1:] for of_N in targets))
    return Example.create(tokens, weights, *targets, origin=origin, lineage=lineage)


def one_hot(tokens: Sequence[int]) -> Capture:
    """Targets that put everything on the given tokens."""
    return certain(tuple(int(t) for t in tokens))


def answer_demonstration(writer: Writer, index: Index, task: Task) -> Example:
    """What an ideal teacher writes about a worked task with passages in view, its look-up included.

    It looks up what the task seeks and no passage in view tells. Twice as many demonstrations need a look-up as
    transcripts will: calling is the rarest skill.
    """
    tokenizer, c = writer.tokenizer, writer.config
    more = replace(writer, config=replace(c, withhold=min(1.0, 2 * c.withhold)))
    d = draft(more, index, task, 0, "demo")
    texts = [p.text for p in index.passages if p.id in d.passages]
    missing = [s for s in task.seek if not any(s in text for text in texts)]
    prompt, spans = list(d.prompt), []
    if missing and LOOKUP in writer.offered:
        call = tokenizer.call(LOOKUP["name"], call_text(missing[0]))
        limits = {"relevant": c.relevant, "repeated": c.repeated}
        found = lookup(index, task.question, missing[0], d.passages, **limits)
        spans.append((len(prompt), len(prompt) + len(call)))
        prompt += [*call, *tokenizer.answered(found.text if found else "")]
    trained = [*tokenizer.encode(task.answer), tokenizer.end]
    return example(prompt, trained, one_hot(trained), "seed", {"kind": "simulate", "task": task.id}, spans)


def interrupt_demonstration(
    writer: Writer, index: Index, world: World, task: Task, heard: Sequence[str], interruption: str
) -> Example | None:
    """A wrong thought about a worked task and the interruption with weight 0, then the right continuation; None where
    the world cannot spoil the answer."""
    rng = random.Random(f"interrupt {task.id}")
    ways = world.spoil(task, task.answer, heard, rng)
    if not ways:
        return None
    way, steps = rng.choice(ways), world.steps(task.answer)
    d = draft(writer, index, task, 1, "demo")
    trained = [*writer.tokenizer.encode(way.correction(task.answer, steps)), writer.tokenizer.end]
    prompt = [*d.prompt, *writer.tokenizer.encode(f"{way.thought(task.answer, steps)} {interruption}")]
    return example(prompt, trained, one_hot(trained), "seed", {"kind": "interrupt", "task": task.id})


def verdict_example(
    tokenizer: Any, context: Sequence[int], asked: Sequence[tuple[Sequence[int], bool]], origin: str, lineage: dict
) -> Example:
    """Labelled questions asked one after the other in the same context; only the verdicts are trained on."""
    yes, no = tokenizer.verdicts
    tokens, spans = list(context), []
    for question, passes in asked:
        tokens += [*question, yes if passes else no]
        spans.append((len(tokens) - 1, len(tokens)))
    trained = tokens[spans[-1][0] :]
    return example(tokens[: spans[-1][0]], trained, one_hot(trained), origin, lineage, spans[:-1])


def review_demonstrations(
    writer: Writer, index: Index, world: World, reviewer: Reviewer, task: Task, heard: Sequence[str]
) -> list[Example]:
    """For every model criterion that `World.known` grades, labelled steps of the ideal answer and of spoiled ones, with
    passages in view. Criteria that nothing grades get none: with made-up labels they would learn to say yes."""
    view, rng = judged_view(writer, index, task), judging_order(task)
    steps = judged_steps(world, task, heard, rng)
    made = []
    for criterion in (c for c in reviewer.criteria if c.kind == "model" and not c.labels):
        asked = []
        for text in rng.sample(steps, len(steps)):
            asked += labelled(criterion, world, task, text, view, reviewer)
        lineage = {"kind": criterion.id, "task": task.id}
        pairs = [(question, label) for _, question, label in asked]
        rows = [pairs] if writer.tokenizer.asks_in_a_row else [[pair] for pair in pairs]
        for row in rows if pairs else ():
            made.append(verdict_example(writer.tokenizer, asked[0][0], row, "seed", lineage))
    return made


def judged_view(writer: Writer, index: Index, task: Task) -> tuple[Document, ...]:
    """The passages in view where a reviewer is shown verdicts about a worked task."""
    d = draft(writer, index, task, 2, "demo")
    return tuple(p for p in index.passages if p.id in d.passages)


def labelled(
    criterion: Criterion, world: World, task: Task, text: str, view: tuple[Document, ...], reviewer: Reviewer
) -> list[tuple[tuple[int, ...], tuple[int, ...], bool]]:
    """(context, question, right verdict) of a model criterion about each step of a text that `World.known` grades.

    A step about what the task seeks is left out where no passage in view tells of it: nobody could judge it.
    """
    found, texts = [], [p.text for p in view]
    for said, question, right in known_verdicts(criterion, world, task, text):
        about = [s for s in task.seek if s in said]
        if "passages" in criterion.show and about and not any(a in shown for a in about for shown in texts):
            continue
        found.append((*reviewer.prompt(criterion, question, texts, task), right))
    return found


def known_verdicts(criterion: Criterion, world: World, task: Task, text: str) -> list[tuple[str, str, bool]]:
    """(what it is about, question, right verdict) of a model criterion about each step of a text that `World.known`
    grades. One of whole answers is asked once, and is right when it is of every step."""
    steps: Sequence[Step] = world.steps(text)
    case = Case(task, text, "", True, (), tuple(steps), (), (text,))
    grades = world.known(task, text, "").steps
    if len(grades) not in (0, len(steps)):
        counts = f"{len(grades)} of the {len(steps)} steps of an answer to {task.question!r}"
        raise ValueError(f"world: `known` of {world.name} grades {counts}; let it grade all of them, or none")
    graded = zip(steps, grades or [{}] * len(steps), strict=True)
    found = [([step], grades[criterion.id]) for step, grades in graded if criterion.id in grades]
    if criterion.of != "step" and found:
        found = [(steps, all(right for _, right in found))]
    return [
        (text[of[0].start : of[-1].end], question, right)
        for of, right in found
        for question, _ in questions(criterion, case, of)
    ]


def judging_order(task: Task) -> random.Random:
    """The random numbers by which steps of a worked answer are spoiled, and then mixed, for reviewers to judge."""
    return random.Random(f"review {task.id}")


def judged_steps(world: World, task: Task, heard: Sequence[str], rng: random.Random) -> list[str]:
    """The steps of a worked answer, and spoiled ones, about which reviewers are asked."""
    spoiled = [way.text for way in world.spoil(task, task.answer, heard, rng)]
    return [*(task.answer[s.start : s.end] for s in world.steps(task.answer)), *spoiled]


def prose_example(tokenizer: Any, beginning: str, continuation: str) -> Example:
    """General prose as plain text; its continuation is trained on."""
    trained = [*tokenizer.encode(continuation), tokenizer.end]
    return example(tokenizer.prose(beginning), trained, one_hot(trained), "prose", {})


def for_students(
    tokenizer: Any,
    t: Transcript,
    target: Target,
    task: Task,
    teacher: str,
    again: Callable[[Transcript, Task, int], tuple[int, ...]],
    step: int = 0,
) -> list[Example]:
    """What one accepted transcript trains students in, who see no sources: its answer or correction in each asking.

    A wrong thought in front of a correction is part of the prompt: it has weight 0. In every other asking it is what
    `again` makes of it, given the number of the asking (`wrongthink.spoiled_again`). `step` counts the steps before a
    correction.
    """
    lineage = _lineage(t, task, teacher) | ({"step": step} if t.forced else {})
    given = t.tokens, target.capture, "correction" if t.forced else "student", lineage
    students = [example([*t.student_prompt, *t.forced], *given)]
    for number, messages in enumerate(task.askings):
        thought = again(t, task, number) if t.forced else ()
        students.append(example([*tokenizer.render(messages), *thought], *given))
    return students


def for_simulator(t: Transcript, target: Target, task: Task, teacher: str) -> Example:
    """What one accepted answer trains the simulator in, who has the sources in view and looks things up."""
    assert not t.forced, "a simulator that learns from corrections interrupts what is right"
    return example(t.prompt, t.tokens, target.capture, "simulate", _lineage(t, task, teacher), t.called)


def _lineage(t: Transcript, task: Task, teacher: str) -> dict:
    return {
        "transcript": t.id,
        "task": task.id,
        "documents": list(task.document_ids),
        "generation": t.generation,
        "teacher": teacher,
        "kind": t.source,
    }


def renamed(names: Sequence[Sequence[str]], tokenizer: Any, e: Example, copies: int) -> list[Example]:
    """Copies in which words of a kind have changed places, in sources, question, answer and targets alike.

    What a model remembers of the facts is no help with them: they keep it reading (arXiv 1506.03340 anonymises
    entities to the same end). With 0 copies or no names in it, the example as it is. `lineage["renamed"]` holds the ids
    that changed, as [(before, after), ...].
    """
    kinds = name_ids(names, tokenizer)
    used = set(np.unique(np.concatenate([e.tokens, e.ids.ravel()])).tolist())
    made = []
    for copy in range(copies if kinds else 0):
        rng = random.Random(f"{e.id} {copy}")
        pairs: list[tuple[int, int]] = []
        for kind in kinds:
            pairs += [(a, b) for a, b in zip(kind, rng.sample(kind, len(kind)), strict=True) if a in used and a != b]
        if not pairs:
            continue
        lineage = e.lineage | {"renamed": pairs}
        tokens, ids = exchanged(e.tokens, pairs), exchanged(e.ids, pairs)
        made.append(Example.create(tokens, e.weights, ids, e.probs, e.tail, origin=e.origin, lineage=lineage))
    return made or [e]


def as_named_first(e: Example) -> Example:
    """An example as it was before it was renamed."""
    back = [(b, a) for a, b in e.lineage.get("renamed", ())]
    lineage = {key: value for key, value in e.lineage.items() if key != "renamed"}
    return replace(e, tokens=exchanged(e.tokens, back), ids=exchanged(e.ids, back), lineage=lineage)


def without_prompt(e: Example) -> Example:
    """The weighted tokens of an example alone. It is for reading, not for training, which the first token begins."""
    weighted = e.weights > 0
    return replace(e, tokens=e.tokens[weighted], weights=e.weights[weighted])


def as_said(e: Example) -> Example:
    """An example whose targets are the weighted tokens themselves. Like one without a prompt, it is for reading."""
    ids, probs, tail = one_hot(e.tokens[e.weights > 0].tolist())
    return replace(e, ids=ids, probs=probs, tail=tail)


def exchanged(ids: np.ndarray, pairs: Sequence[tuple[int, int]]) -> np.ndarray:
    """Ids with each `before` of (before, after) pairs replaced by its `after`."""
    if not pairs:
        return ids
    table = np.arange(int(ids.max(initial=0)) + 1, dtype=np.int32)
    for before, after in pairs:
        if before < len(table):
            table[before] = after
    return table[ids]


def name_ids(names: Sequence[Sequence[str]], tokenizer: Any) -> list[list[int]]:
    """The ids of the words of each kind that are one piece wherever they stand; a word of two kinds is of the first.

    There are none where a word after a space is another piece than one at the beginning, as most chat models have it:
    an id that stands for some of a word's places alone must not be exchanged.
    """
    return _one_piece(tuple(map(tuple, names)), tokenizer)


@functools.lru_cache(maxsize=8)
def _one_piece(names: tuple[tuple[str, ...], ...], tokenizer: Any) -> list[list[int]]:
    anywhere = lambda word: tokenizer.encode(word) == tokenizer.encode(f" {word}")
    pieces = [[tokenizer.encode(word) for word in kind if anywhere(word)] for kind in names]
    found, taken = [], set()
    for kind in pieces:
        found.append([i for i in dict.fromkeys(piece[0] for piece in kind if len(piece) == 1) if i not in taken])
        taken.update(found[-1])
    return found


def imitation_examples(tokenizer: Any, document: Document, longest: int) -> list[Example]:
    """A raw document to imitate, one-hot, in parts of at most `longest` tokens: what Ratchet never trains on, for
    contrast."""
    prompt, trained = tokenizer.document(""), [*tokenizer.encode(document.text), tokenizer.end]
    size = longest - len(prompt)
    parts = [trained[i : i + size] for i in range(0, len(trained), size)]
    return [example(prompt, part, one_hot(part), "imitation", {"documents": [document.id]}) for part in parts]
