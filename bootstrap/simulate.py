"""Documents to transcripts: retrieve, show the teacher what it needs, let it look things up, sample siblings.

A unit holds the transcripts of a few tasks. Everything random is derived from (seed, generation, task, sibling).
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flax import nnx

from bootstrap.config import SimulateConfig
from bootstrap.retrieval import Index
from bootstrap.tools import lookup
from bootstrap.transcript import Capture, Document, Task, Transcript, content_id
from bootstrap.worlds.language import options_of
from models.sampler import Request, Sampled, Sampler
from models.tokenizer import Tokenizer

ALIKE = 0.95
"""Passages that score at least this share of the best one tell an option as well."""


@dataclass(frozen=True)
class Writer:
    """A model that writes: the sampler and the weights it samples with."""

    sampler: Sampler
    params: nnx.State
    tokenizer: Tokenizer
    max_length: int


@dataclass(frozen=True)
class Draft:
    """A transcript in the making."""

    task: Task
    sibling: int
    passages: tuple[str, ...]
    prompt: tuple[int, ...]
    forced: tuple[int, ...] = ()
    called: tuple[tuple[int, int], ...] = ()
    messages: tuple[dict, ...] = ()


def shown_passages(index: Index, task: Task, sibling: int, config: SimulateConfig, salt: str) -> list[Document]:
    """A passage for each option of the question, then the best for the question, in the sibling's own order.

    Where several passages tell of an option, siblings see different ones. A share of the siblings (`withhold`) sees one
    passage less and has to look it up.
    """
    rng = random.Random(f"{salt} {task.id} {sibling}")
    found: dict[str, Document] = {}
    for option in options_of(task.question):
        chosen = rng.choice(index.search(f"{task.question} {option} {option}", config.passages, within=ALIKE))
        found[chosen.id] = chosen
    found |= {
        p.id: p for p in index.search(task.question, config.passages + len(found)) if len(found) < config.passages
    }
    shown = list(found.values())[: config.passages]
    keep = len(shown) - (rng.random() < config.withhold and len(shown) > 1)
    return rng.sample(shown, keep)


def teacher_prompt(tokenizer: Tokenizer, passages: Sequence[str], messages: Sequence[dict], room: int) -> list[int]:
    """Passages, then the task's messages, then an open assistant turn; passages are cut to fit into `room` tokens."""
    chat = tokenizer.chat(messages)
    context = tokenizer.passages(passages)
    return [*context[: max(0, room - len(chat))], *chat]


def draft(tokenizer: Tokenizer, index: Index, task: Task, sibling: int, config: SimulateConfig, room: int,
          salt: str) -> Draft:  # fmt: skip
    shown = shown_passages(index, task, sibling, config, salt)
    prompt = teacher_prompt(tokenizer, [p.text for p in shown], task.messages, room)
    return Draft(task, sibling, tuple(p.id for p in shown), tuple(prompt), messages=task.messages)


def complete(
    writer: Writer, index: Index, drafts: Sequence[Draft], config: SimulateConfig, *, generation: int, seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Transcript]:  # fmt: skip
    """Samples every draft to its end, running the tool calls between turns."""
    control = writer.tokenizer.control
    finished: dict[int, Transcript] = {}
    waiting = list(enumerate(drafts))
    for turn in range(config.lookups + 1):
        requests = [Request(_request_id(d, turn), d.prompt + d.forced) for _, d in waiting]
        sampled = writer.sampler(
            writer.params, requests, seed=seed, temperature=config.temperature, stop=(control["end"],),
            top_k=config.top_k, top_p=config.top_p, min_p=config.min_p,
        )  # fmt: skip
        still = []
        for (position, d), s in zip(waiting, sampled, strict=True):
            calls = len(s.tokens) > 0 and s.tokens[0] == control["call"] and s.finished
            after = _after_call(writer, index, d, s) if calls and turn < config.lookups else None
            if after and len(after.prompt) + config.new_tokens <= writer.max_length:
                still.append((position, after))
            else:
                finished[position] = _transcript(writer, d, s, generation)
                advance(1)
        waiting = still
    return [finished[i] for i in range(len(drafts))]


def _request_id(d: Draft, turn: int) -> int:
    return int(content_id(d.task.id, d.sibling, turn, d.forced)[:8], 16)


def _after_call(writer: Writer, index: Index, d: Draft, s: Sampled) -> Draft:
    """The draft with the model's call and the tool's answer appended; neither is part of the final turn."""
    tokenizer = writer.tokenizer
    query = tokenizer.decode(s.tokens)
    found = lookup(index, d.task.question, query, d.passages)
    text = found.text if found else "nothing found."
    called = (len(d.prompt), len(d.prompt) + len(s.tokens) + 1)
    turn = [*s.tokens.tolist(), s.stop, *tokenizer.turn("tool", text), tokenizer.control["assistant"]]
    call_id = content_id(d.task.id, d.sibling, query)
    messages = (
        {"role": "assistant", "tool_calls": [{"id": call_id, "function": {"name": "lookup", "arguments": query}}]},
        {"role": "tool", "tool_call_id": call_id, "content": text},
    )
    return Draft(
        d.task, d.sibling, d.passages + ((found.id,) if found else ()), d.prompt + tuple(turn), d.forced,
        (*d.called, called), (*d.messages, *messages),
    )  # fmt: skip


def _transcript(writer: Writer, d: Draft, s: Sampled, generation: int) -> Transcript:
    tokens = tuple(int(t) for t in s.tokens) + ((s.stop,) if s.finished else ())
    text = writer.tokenizer.decode(s.tokens)
    if len(s.tokens) and int(s.tokens[0]) == writer.tokenizer.control["call"]:
        text = f"(call) {text}"
    capture = Capture(tuple(map(tuple, s.ids.tolist())), tuple(map(tuple, s.probs.tolist())), tuple(s.tail.tolist()))
    return Transcript(
        id=content_id(d.task.id, d.prompt, d.forced, tokens, generation, d.sibling),
        task_id=d.task.id, generation=generation, sibling=d.sibling, prompt=d.prompt,
        student_prompt=tuple(writer.tokenizer.chat(d.task.messages)), tokens=tokens, text=text,
        passages=d.passages, finished=s.finished, capture=capture, forced=d.forced,
        forced_text=writer.tokenizer.decode(d.forced), called=d.called,
        messages=(*d.messages, {"role": "assistant", "content": text}),
    )  # fmt: skip
