"""Documents to transcripts: retrieve, show the teacher what it needs, let it look things up, sample siblings.

A unit holds the transcripts of a few tasks. Everything random is derived from (seed, generation, task, sibling).
"""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flax import nnx

from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.tools import LOOKUP, call_grammar, lookup
from ratchet.bootstrap.transcript import Capture, Document, Task, Transcript, content_id
from ratchet.bootstrap.worlds.language import options_of
from ratchet.models.grammar import Grammar
from ratchet.models.sampler import Request, Sampled, Sampler
from ratchet.models.tokenizer import Tokenizer

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

    def request(self, turn: int, begun: tuple[int, ...] = (), grammar: Grammar | None = None) -> Request:
        """To go on, after tokens that the turn has `begun` with."""
        number = int(content_id(self.task.id, self.sibling, turn, self.forced, *begun)[:8], 16)
        return Request(number, self.prompt + self.forced + begun, grammar)


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
    waiting = dict(enumerate(drafts))
    fits = lambda d, more=0: len(d.prompt) + more + config.new_tokens <= writer.max_length
    for turn in range(config.lookups + 1):
        # A turn that begins with the call symbol ends there: its arguments are sampled by their grammar.
        stop = (control["end"], control["call"] if turn < config.lookups else control["end"])
        said = _sampled(writer, config, seed, stop, {at: d.request(turn) for at, d in waiting.items()})
        calls = [at for at, s in said.items() if s.finished and s.stop == control["call"] and not len(s.tokens)]
        grammar = call_grammar(writer.tokenizer) if calls else None
        asked = {at: waiting[at].request(turn, (control["call"],), grammar) for at in calls if fits(waiting[at], 1)}
        called = _sampled(writer, config, seed, (control["end"],), asked)
        after = {at: _after_call(writer, index, waiting[at], s) for at, s in called.items() if s.finished}
        still = {at: d for at, d in after.items() if fits(d)}
        ended = {at: _transcript(writer, waiting[at], s, generation) for at, s in said.items() if at not in still}
        finished, waiting = finished | ended, still
        advance(len(ended))
    return [finished[i] for i in range(len(drafts))]


def _sampled(writer: Writer, config: SimulateConfig, seed: int, stop: tuple[int, ...],
             requests: Mapping[int, Request]) -> dict[int, Sampled]:  # fmt: skip
    sampled = writer.sampler(
        writer.params, list(requests.values()), seed=seed, temperature=config.temperature, stop=stop,
        top_k=config.top_k, top_p=config.top_p, min_p=config.min_p,
    )  # fmt: skip
    return dict(zip(requests, sampled, strict=True))


def _after_call(writer: Writer, index: Index, d: Draft, s: Sampled) -> Draft:
    """The draft with the model's call and the tool's answer appended; neither is part of the final turn."""
    tokenizer = writer.tokenizer
    arguments = tokenizer.decode(s.tokens)
    found = lookup(index, d.task.question, json.loads(arguments)["query"].strip(), d.passages)
    text = found.text if found else "nothing found."
    call = (tokenizer.control["call"], *s.tokens.tolist(), s.stop)
    called = (len(d.prompt), len(d.prompt) + len(call))
    turn = [*call, *tokenizer.turn("tool", text), tokenizer.control["assistant"]]
    call_id = content_id(d.task.id, d.sibling, arguments)
    function = {"name": LOOKUP["name"], "arguments": arguments}
    messages = (
        {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call_id, "content": text},
    )
    return Draft(
        d.task, d.sibling, d.passages + ((found.id,) if found else ()), d.prompt + tuple(turn), d.forced,
        (*d.called, called), (*d.messages, *messages),
    )  # fmt: skip


def _transcript(writer: Writer, d: Draft, s: Sampled, generation: int) -> Transcript:
    tokens, control = tuple(int(t) for t in s.tokens) + ((s.stop,) if s.finished else ()), writer.tokenizer.control
    text = writer.tokenizer.decode(s.tokens)
    if tokens[:1] == (control["call"],):
        text = f"(call) {text}"
    capture = Capture(tuple(map(tuple, s.ids.tolist())), tuple(map(tuple, s.probs.tolist())), tuple(s.tail.tolist()))
    return Transcript(
        id=content_id(d.task.id, d.prompt, d.forced, tokens, generation, d.sibling),
        task_id=d.task.id, generation=generation, sibling=d.sibling, prompt=d.prompt,
        student_prompt=tuple(writer.tokenizer.chat(d.task.messages)), tokens=tokens, text=text,
        passages=d.passages, finished=s.finished and s.stop == control["end"], capture=capture, forced=d.forced,
        forced_text=writer.tokenizer.decode(d.forced), called=d.called,
        messages=(*d.messages, {"role": "assistant", "content": text}),
    )  # fmt: skip
