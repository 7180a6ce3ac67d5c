"""Training examples from demonstrations and from reviewed transcripts: which tokens carry weight, with what targets.

N is the number of weighted tokens, K the kept ids.
"""

import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import LABELLED, Criterion, criterion_prompt
from ratchet.bootstrap.simulate import draft
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.tools import call_text, lookup
from ratchet.bootstrap.transcript import Document, Task, Transcript
from ratchet.bootstrap.worlds.demonstrations import ideal_answer, interruption, labelled_claims
from ratchet.bootstrap.worlds.language import EXCHANGEABLE, NO, options_of
from ratchet.bootstrap.worlds.lessons import Situation
from ratchet.bootstrap.wrongthink import spoil_again
from ratchet.models.tokenizer import Tokenizer
from ratchet.train.records import Example

Targets = tuple[np.ndarray, np.ndarray, np.ndarray]
"""ids int32 [N, K], probs float32 [N, K], tail float32 [N]."""


def one_hot(tokens: Sequence[int]) -> Targets:
    ids_NK = np.asarray(tokens, np.int32)[:, None]
    return ids_NK, np.ones(ids_NK.shape, np.float32), np.zeros(len(ids_NK), np.float32)


def example(prompt: Sequence[int], trained: Sequence[int], targets: Targets, origin: str, lineage: dict,
            spans: Sequence[tuple[int, int]] = ()) -> Example:  # fmt: skip
    """An example that trains on `trained` after `prompt`, and one-hot on `spans` of the prompt (tool calls)."""
    tokens = np.asarray([*prompt, *trained], np.int32)
    weights = np.zeros(len(tokens), np.float32)
    weights[len(prompt) :] = 1.0
    early = [i for start, end in spans for i in range(start, end)]
    weights[early] = 1.0
    weights[0] = 0.0
    ids, probs, tail = targets
    if early:
        before = one_hot(tokens[early])
        widen = ((0, 0), (0, ids.shape[1] - 1))
        ids, probs = np.concatenate([np.pad(before[0], widen), ids]), np.concatenate([np.pad(before[1], widen), probs])
        tail = np.concatenate([before[2], tail])
    return Example.create(tokens, weights, ids, probs, tail, origin=origin, lineage=lineage)


def simulate_demonstration(
    tokenizer: Tokenizer, index: Index, situation: Situation, task: Task, config: SimulateConfig, room: int, salt: str
) -> Example:
    """What an ideal teacher writes with these passages in view, its lookup included.

    Twice as many demonstrations need one as transcripts will: calling is the rarest skill.
    """
    d = draft(tokenizer, index, task, 0, replace(config, withhold=min(1.0, 2 * config.withhold)), room, salt)
    texts = [p.text for p in index.passages if p.id in d.passages]
    missing = [a for a in situation.actions if not any(a in text for text in texts)]
    answer = ideal_answer(situation, options_of(task.question), random.Random(f"{salt} {task.id}"), missing=missing)
    prompt, spans = list(d.prompt), []
    if answer.lookup:
        call = [tokenizer.control["call"], *tokenizer.encode(call_text(answer.lookup)), tokenizer.control["end"]]
        found = lookup(index, task.question, answer.lookup, d.passages)
        spans.append((len(prompt), len(prompt) + len(call)))
        prompt += [*call, *tokenizer.turn("tool", found.text if found else ""), tokenizer.control["assistant"]]
    trained = [*tokenizer.encode(answer.text), tokenizer.control["end"]]
    return example(prompt, trained, one_hot(trained), "seed", {"kind": "simulate", "task": task.id}, spans)


def interrupt_demonstration(
    tokenizer: Tokenizer, index: Index, situation: Situation, task: Task, config: SimulateConfig, room: int, salt: str
) -> Example:
    """A wrong thought and the supervisor's "no," with weight 0, then the right continuation."""
    d = draft(tokenizer, index, task, 1, config, room, salt)
    thought, correction = interruption(
        situation, options_of(task.question), random.Random(f"interrupt {salt} {task.id}")
    )
    trained = [*tokenizer.encode(correction), tokenizer.control["end"]]
    prompt = [*d.prompt, *tokenizer.encode(f"{thought} {NO}")]
    return example(prompt, trained, one_hot(trained), "seed", {"kind": "interrupt", "task": task.id})


def verdict_example(tokenizer: Tokenizer, context: Sequence[int], asked: Sequence[tuple[Sequence[int], bool]],
                    origin: str, lineage: dict) -> Example:  # fmt: skip
    """Labelled questions asked one after the other in the same context; only the answers are trained on."""
    tokens, spans = list(context), []
    for question, passes in asked:
        tokens += [*question, tokenizer.control["yes" if passes else "no"]]
        spans.append((len(tokens) - 1, len(tokens)))
    trained = tokens[spans[-1][0] :]
    return example(tokens[: spans[-1][0]], trained, one_hot(trained), origin, lineage, spans[:-1])


def review_demonstrations(
    tokenizer: Tokenizer, index: Index, situation: Situation, task: Task, criteria: Sequence[Criterion],
    config: SimulateConfig, room: int, salt: str,
) -> list[Example]:  # fmt: skip
    """For every model criterion whose right answers are known, labelled claims about each action with the passages in
    view. Others get none: with made-up labels they would learn to say yes."""
    d = draft(tokenizer, index, task, 2, config, room, salt)
    texts = [p.text for p in index.passages if p.id in d.passages]
    rng = random.Random(f"review {salt} {task.id}")
    made = []
    for criterion in (c for c in criteria if c.name in LABELLED):
        asked = []
        for claim, told in labelled_claims(situation, rng):
            flipped = criterion.name == "sound" and rng.random() < 0.5
            judgement = {"good": "bad", "bad": "good"}[claim.judgement] if flipped else claim.judgement
            if criterion.name == "told" and not any(claim.action in text for text in texts):
                continue
            label = told if criterion.name == "told" else not flipped
            context, question = criterion_prompt(
                tokenizer, criterion, texts, task, claim._replace(judgement=judgement), room
            )
            asked.append((question, label))
        if asked:
            made.append(verdict_example(tokenizer, context, asked, "seed", {"kind": criterion.name, "task": task.id}))
    return made


def prose_example(tokenizer: Tokenizer, beginning: str, continuation: str) -> Example:
    """General prose as plain text; its continuation is trained on."""
    trained = [*tokenizer.encode(continuation), tokenizer.control["end"]]
    prompt = [tokenizer.control["system"], *tokenizer.encode(beginning)]
    return example(prompt, trained, one_hot(trained), "prose", {})


def for_students(
    tokenizer: Tokenizer, t: Transcript, target: Target, task: Task, teacher: str,
    outcomes: Mapping[str, str] = MappingProxyType({}),
) -> list[Example]:  # fmt: skip
    """What one accepted transcript trains students in, who see no sources: its answer or correction in each asking.

    A wrong thought in front of a correction is part of the prompt: it has weight 0. In every other asking, the student
    meets another error in the same claim (`outcomes`: what may be claimed, with its judgement); the correction was
    reviewed after the first.
    """
    origin = "correction" if t.forced else "student"
    given = t.tokens, _arrays(target), origin, _lineage(t, task, teacher)
    students = [example([*t.student_prompt, *t.forced], *given)]
    for number, messages in enumerate(task.askings):
        thought = spoil_again(tokenizer, t, outcomes, f"{t.id} {number}") if t.forced else ()
        students.append(example([*tokenizer.chat(messages), *thought], *given))
    return students


def for_simulator(t: Transcript, target: Target, task: Task, teacher: str) -> Example:
    """What one accepted answer trains the simulator in, who has the sources in view and looks things up."""
    assert not t.forced, "after many corrections the simulator interrupts and repeats what is right"
    return example(t.prompt, t.tokens, _arrays(target), "simulate", _lineage(t, task, teacher), t.called)


def _arrays(target: Target) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.asarray(target.ids, np.int32), np.asarray(target.probs, np.float32), np.asarray(target.tail, np.float32)


def _lineage(t: Transcript, task: Task, teacher: str) -> dict:
    return {
        "transcript": t.id, "task": task.id, "documents": list(task.document_ids), "generation": t.generation,
        "teacher": teacher, "kind": "correction" if t.forced else "answer",
    }  # fmt: skip


def renamed(tokenizer: Tokenizer, e: Example, copies: int) -> list[Example]:
    """Copies in which words of a kind have changed places, in sources, question, answer and targets alike.

    What a model remembers of the facts is no help with them: they keep it reading (arXiv 1506.03340 anonymises
    entities to the same end). With 0 copies, the example as it is.
    """
    made = []
    for copy in range(copies):
        lineage = e.lineage | {"renamed": f"{e.id} {copy}"}
        exchange_V = _exchange(tokenizer, lineage["renamed"], e)
        tokens, ids = exchange_V[e.tokens], exchange_V[e.ids]
        made.append(Example.create(tokens, e.weights, ids, e.probs, e.tail, origin=e.origin, lineage=lineage))
    return made or [e]


def first_names(tokenizer: Tokenizer, e: Example) -> np.ndarray:
    """The tokens [T] of an example as they were before it was renamed."""
    if "renamed" not in e.lineage:
        return e.tokens
    return np.argsort(_exchange(tokenizer, e.lineage["renamed"], e))[e.tokens]


def _exchange(tokenizer: Tokenizer, salt: str, e: Example) -> np.ndarray:
    """A permutation of ids: the words of each kind change places at random, everything else stays. Models also sample
    ids that no piece has."""
    rng = random.Random(salt)
    largest = max(int(e.ids.max(initial=0)), int(e.tokens.max(initial=0)))
    exchange_V = np.arange(max(tokenizer.vocab_size, largest + 1), dtype=np.int32)
    for kind in _exchangeable(tokenizer):
        exchange_V[kind] = rng.sample(kind, len(kind))
    return exchange_V


@functools.lru_cache(maxsize=8)
def _exchangeable(tokenizer: Tokenizer) -> list[list[int]]:
    """The ids of the words of each kind that are one piece."""
    pieces = [[tokenizer.encode(word) for word in kind] for kind in EXCHANGEABLE]
    return [list(dict.fromkeys(piece[0] for piece in kind if len(piece) == 1)) for kind in pieces]


def imitation_example(tokenizer: Tokenizer, document: Document) -> Example:
    """A raw story to imitate, one-hot: what Ratchet never trains on, for contrast."""
    tokens = [tokenizer.control["document"], *tokenizer.encode(document.text), tokenizer.control["end"]]
    return example(tokens[:1], tokens[1:], one_hot(tokens[1:]), "imitation", {"documents": [document.id]})
