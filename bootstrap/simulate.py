"""Documents to transcripts: retrieve, show the teacher what it needs, let it call tools, sample siblings.

Everything random is derived from (seed, generation, task, sibling).
"""

import heapq
import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from flax import nnx

from ratchet.bootstrap.config import Config, SimulateConfig
from ratchet.bootstrap.passages import passages_of
from ratchet.bootstrap.progress import Reached, counted
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.toolkit.source import Answered, Asked
from ratchet.bootstrap.tools import LOOKUP, Called, Caller, Toolbox, caller, lookup
from ratchet.bootstrap.transcript import Capture, Source, Transcript
from ratchet.bootstrap.worlds.world import Document, Item, Message, Task, World, content_id
from ratchet.models.draw import Warp
from ratchet.models.grammar import Grammar
from ratchet.models.sampler import Request, Sampled

LONGEST_QUESTIONS = 8
"""Questions with the most letters of which one is taken to have the most tokens."""

BLANKS = 2
"""Letters of white space at most that an answer may begin with."""


class Shown(NamedTuple):
    """Worked answers that come before a task in the teacher's view: further sources, and messages about them. Students
    see none of it."""

    texts: tuple[str, ...] = ()
    messages: tuple[Message, ...] = ()

    def prompt(self, tokenizer: Any, messages: Sequence[Message], passages: Sequence[str], **more: Any) -> list[int]:
        """Messages in tokens, with passages and what is shown in view; `more` is what `render` takes."""
        first = messages[: messages[0]["role"] == "system"]
        whole = (*first, *self.messages, *messages[len(first) :])
        return tokenizer.render(whole, passages=[*self.texts, *passages], **more)


class Sampling(Protocol):
    """What goes on from prompts, as `models.sampler.Sampler` does, and keeps so many ids of each distribution."""

    @property
    def keep(self) -> int: ...

    def __call__(
        self, params: nnx.State, requests: Sequence[Request], *, seed: int, temperature: float, stop: tuple[int, ...],
        **more: Any,
    ) -> list[Sampled]: ...  # fmt: skip


@dataclass(frozen=True)
class Writer:
    """A model that writes: the sampler, the weights it samples with, and what it may read and call."""

    sampler: Sampling
    params: nnx.State
    tokenizer: Any
    config: SimulateConfig
    max_length: int
    tools: Toolbox
    shown: Shown = Shown()

    @property
    def room(self) -> int:
        """Tokens that a prompt may have."""
        return self.max_length - self.config.new_tokens

    @property
    def offered(self) -> Sequence[Mapping[str, Any]]:
        """The tools that it may call, described; none where no call is allowed."""
        return self.tools.described if self.config.calls else ()

    @property
    def caller(self) -> Caller | None:
        """How it calls tools; None where there are none to call."""
        return caller(self.offered, self.tokenizer) if self.offered else None

    @property
    def call(self) -> int:
        """The id that every call begins with; -1 where there are none."""
        return self.caller.opening[0] if self.caller else -1

    @property
    def warp(self) -> Warp:
        """What its distributions go through before a token is drawn."""
        c = self.config
        return Warp(c.temperature, c.top_k, c.top_p, c.min_p)

    def sample(
        self,
        requests: Sequence[Request],
        *,
        seed: int,
        temperature: float | None = None,
        stop: tuple[int, ...] = (),
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Sampled]:
        """Goes on from each request's prompt to any id of `stop`, or else to the end of the turn. A `temperature` takes
        the place of the setting, and `advance` counts requests as they end. What ends a text ends a turn too."""
        warp = self.warp if temperature is None else self.warp._replace(temperature=temperature)
        stop = stop or (self.tokenizer.end,)
        ends = self.tokenizer.special_ids["eos_token_id"]
        stop = (*stop, *(i for i in ends if i not in stop))
        found = self.sampler(self.params, requests, seed=seed, stop=stop, advance=advance, **warp._asdict())
        return [_closed(s, ends) if s.finished and s.stop in ends and ends[1:] else s for s in found]


def _closed(s: Sampled, ends: Sequence[int]) -> Sampled:
    """An answer as if the first of `ends` had ended it, with the probability of all of them."""
    ids_NK, probs_NK = s.ids.copy(), s.probs.copy()
    ids_K, probs_K = ids_NK[-1], probs_NK[-1]
    places = np.flatnonzero(np.isin(ids_K, ends))
    if len(places):  # there are none where nothing is captured
        at, whole = next((n for n in places if ids_K[n] == ends[0]), places[0]), probs_K[places].sum()
        probs_K[places] = 0
        ids_K[at], probs_K[at] = ends[0], whole
    return replace(s, stop=ends[0], ids=ids_NK, probs=probs_NK)


def prompt_of(writer: Writer, item: Item) -> tuple[int, ...]:
    """An item in tokens, what the answer has begun with included."""
    if item.form == "document":
        return tuple(writer.tokenizer.document(item.begun))
    return (*writer.tokenizer.render(item.messages), *writer.tokenizer.encode(item.begun))


@dataclass(frozen=True)
class Draft:
    """A transcript in the making."""

    task: Task
    sibling: int
    passages: tuple[str, ...]
    prompt: tuple[int, ...]
    forced: tuple[int, ...] = ()
    source: Source = "answer"
    called: tuple[tuple[int, int], ...] = ()
    messages: tuple[dict, ...] = ()
    seconds: float = 0.0
    """That tools have taken."""

    def request(self, turn: int, begun: tuple[int, ...] = (), grammar: Grammar | None = None) -> Request:
        """To go on, after tokens that the turn has `begun` with."""
        number = int(content_id(self.task.id, self.sibling, turn, self.forced, *begun)[:8], 16)
        return Request(number, self.prompt + self.forced + begun, grammar)


class Made(NamedTuple):
    """A call with which a draft goes on: what it says, and its ids whole."""

    draft: Draft
    called: Called
    ids: tuple[int, ...]


def shown_passages(index: Index, task: Task, sibling: int, config: SimulateConfig, salt: str) -> list[Document]:
    """A passage for each thing that the task seeks, or else those of its own documents; then the best for its question,
    in the sibling's own order.

    Where several passages tell what is sought, siblings see different ones. Of its own documents, each gives its best
    passage for the question before any gives a second. A share of the siblings (`withhold`) sees one passage less and
    has to look it up.
    """
    rng = random.Random(f"{salt} {task.id} {sibling}")
    found: dict[str, Document] = {}
    for sought in task.seek:
        near = index.search(task.question, config.passages, twice=sought, within=config.alike)
        chosen = rng.choice(near)
        found[chosen.id] = chosen
    if not task.seek:
        own = itertools.zip_longest(*(index.of(document, task.question) for document in task.document_ids))
        found = {p.id: p for ranked in own for p in ranked if p}
    if len(found) < config.passages:
        found |= {p.id: p for p in index.search(task.question, config.passages + len(found))}
    shown = list(found.values())[: config.passages]
    keep = len(shown) - (rng.random() < config.withhold and len(shown) > 1)
    return rng.sample(shown, keep)


def draft(writer: Writer, index: Index, task: Task, sibling: int, salt: str) -> Draft:
    """What the teacher sees before it writes: whole passages and the task's messages.

    Where not all passages fit, some are left out, and none is cut: those of other documents first, then those of the
    task's own that its question finds last. Raises ValueError where not even one fits beside the messages.
    """
    shown = shown_passages(index, task, sibling, writer.config, salt)
    def render() -> list[int]:
        return writer.shown.prompt(writer.tokenizer, task.messages, [p.text for p in shown], tools=writer.offered)

    prompt = render()
    if len(prompt) > writer.room:
        rank = {p.id: n for document in task.document_ids for n, p in enumerate(index.of(document, task.question))}
        while len(prompt) > writer.room and len(shown) > 1:
            shown.remove(max(shown, key=lambda p: rank.get(p.id, len(rank))))
            prompt = render()
    if len(prompt) > writer.room:
        raise ValueError(
            f"simulate: a passage and the question take {len(prompt)} tokens, and {writer.room} are left for them: "
            f"{task.question[:60]!r}; start a new run with a higher --model.max-length"
        )
    return Draft(task, sibling, tuple(p.id for p in shown), tuple(prompt), messages=task.messages)


def longest_passage(tokenizer: Any, config: Config, tools: Toolbox, shown: Shown, world: World) -> int:
    """Tokens that a passage may have: what the longest questions leave of a prompt, and at most three quarters of what
    any leaves. They are those that are the same however many generations there are. Raises ValueError when that is
    nothing."""
    parts = (world.seed, world.probes, world.fresh, world.slices[0])
    longest = _longest(t for part in parts for t in part.tasks)
    left = _room_beside(tokenizer, config, tools, shown)
    most = min([left(({"role": "user", "content": "so?"},)) * 3 // 4, *(left(t.messages) for t in longest)])
    if most < 1:
        raise _no_room(longest[0] if longest else None, config)
    return most


def check_later(tokenizer: Any, config: Config, tools: Toolbox, shown: Shown, world: World) -> None:
    """Raises ValueError when one of the longest questions of later generations leaves no room for a passage of its own
    documents: a run that begins shall not end with it."""
    most, left = longest_passage(tokenizer, config, tools, shown, world), _room_beside(tokenizer, config, tools, shown)
    texts = {d.id: d for part in world.slices for d in part.documents}
    tokens = lambda text: len(tokenizer.encode(text))
    for t in _longest(t for part in world.slices[1:] for t in part.tasks):
        own = [texts[i] for i in t.document_ids if i in texts]
        passages = passages_of(own, config.simulate.passage_words, lambda text: tokens(text) <= most)
        if left(t.messages) < max((tokens(p.text) for p in passages), default=0):
            raise _no_room(t, config)


def _longest(tasks: Iterable[Task]) -> list[Task]:
    """Those with the most letters, a few."""
    return heapq.nlargest(LONGEST_QUESTIONS, tasks, key=lambda t: sum(len(m["content"]) for m in t.messages))


def _room_beside(tokenizer: Any, config: Config, tools: Toolbox, shown: Shown) -> Callable[[Sequence[Message]], int]:
    """Gives the tokens that messages leave for a passage."""
    described = tools.described if config.simulate.calls else ()
    beside = lambda messages: len(shown.prompt(tokenizer, messages, ["so."], tools=described))
    return lambda messages: config.model.max_length - config.simulate.new_tokens - beside(messages)


def _no_room(asked: Task | None, config: Config) -> ValueError:
    room = config.model.max_length - config.simulate.new_tokens
    what = f"the question {asked.question[:60]!r}" if asked else "what is said beside every question"
    return ValueError(
        f"simulate: {what} leaves no room for a passage in {room} tokens; raise --model.max-length or lower "
        "--simulate.new-tokens"
    )


def finish(
    writer: Writer,
    index: Index,
    drafts: Sequence[Draft],
    *,
    generation: int,
    seed: int,
    advance: Callable[[int], None] = lambda done: None,
) -> list[Transcript]:
    """Samples every draft to its end, running the tool calls between turns; `advance` counts them as they end."""
    tokenizer, config = writer.tokenizer, writer.config
    finished: dict[int, Transcript] = {}
    waiting = dict(enumerate(drafts))
    calling = writer.caller
    opening, most = (calling.opening, config.calls) if calling else ((tokenizer.end,), 0)
    reached = Reached(advance)
    fits = lambda d, more=0: len(d.prompt) + more + config.new_tokens <= writer.max_length
    for turn in range(most + 1):
        # A turn that begins as a call does ends there: the rest of it is sampled by a grammar.
        stop = (tokenizer.end, opening[0] if turn < most else tokenizer.end)
        asked = {at: d.request(turn) for at, d in waiting.items()}
        said = _sampled(writer, seed, stop, asked, counted(reached, len(finished)))
        calls = [at for at, s in said.items() if s.finished and s.stop != tokenizer.end and not len(s.tokens)]
        grammar = calling.grammar if calls else None
        room = len(opening)
        arguments = {at: waiting[at].request(turn, opening, grammar) for at in calls if fits(waiting[at], room)}
        called = _sampled(writer, seed, (tokenizer.end,), arguments)
        made = {at: _made(writer, waiting[at], s) for at, s in called.items() if s.finished}
        after = after_calls(writer, index, made, lambda asked: writer.tools.answers([*asked.values()]))
        still = {at: d for at, d in after.items() if fits(d)}
        ended = {at: transcript_of(writer, waiting[at], s, generation) for at, s in said.items() if at not in still}
        finished, waiting = finished | ended, still
        reached(len(finished))
    return [finished[i] for i in range(len(drafts))]


def _sampled(
    writer: Writer,
    seed: int,
    stop: tuple[int, ...],
    requests: Mapping[int, Request],
    advance: Callable[[int], None] = lambda done: None,
) -> dict[int, Sampled]:
    sampled = writer.sample(list(requests.values()), seed=seed, stop=stop, advance=advance)
    return dict(zip(requests, sampled, strict=True))


def _made(writer: Writer, d: Draft, s: Sampled) -> Made:
    """The call that was sampled after its opening."""
    ids = (*writer.caller.opening, *s.tokens.tolist(), *writer.tokenizer.call_end)
    return Made(d, writer.caller.read(writer.tokenizer.decode(s.tokens)), ids)


def after_calls(
    writer: Writer, index: Index, made: Mapping[int, Made], ask: Callable[[Mapping[int, Asked]], Sequence[Answered]]
) -> dict[int, Draft]:
    """The drafts after the calls that were made: tools are asked for all of them at once, by `ask`, in order."""
    of_tools = [at for at, (_, called, _) in made.items() if called.name != LOOKUP["name"]]
    left = lambda at: writer.config.call_seconds - made[at].draft.seconds
    asked = {at: Asked(made[at].called.name, json.loads(made[at].called.arguments), left(at)) for at in of_tools}
    answers = dict(zip(of_tools, ask(asked), strict=True))
    found = {at: _looked_up(writer, index, *made[at][:2]) for at in made if at not in answers}
    answers |= {at: Answered(passage.text if passage else "nothing found.", 0.0) for at, passage in found.items()}
    return {at: _answered(writer, one, answers[at], found.get(at)) for at, one in made.items()}


def _looked_up(writer: Writer, index: Index, d: Draft, called: Called) -> Document | None:
    c, query = writer.config, json.loads(called.arguments)["query"].strip()
    return lookup(index, d.task.question, query, d.passages, relevant=c.relevant, repeated=c.repeated)


def _answered(writer: Writer, made: Made, answer: Answered, found: Document | None) -> Draft:
    """The draft with the call and the tool's answer appended; neither is part of the final turn. A passage that was
    found is in view from then on."""
    d, called, call = made
    call_id = content_id(d.task.id, d.sibling, len(d.called), called.arguments)[:9]  # as Mistral's templates want
    function = {"name": called.name, "arguments": called.arguments}
    messages = (
        {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": call_id, "content": answer.text},
    )
    return replace(
        d,
        passages=d.passages + ((found.id,) if found else ()),
        prompt=(*d.prompt, *call, *writer.tokenizer.answered(answer.text)),
        called=(*d.called, (len(d.prompt), len(d.prompt) + len(call))),
        messages=(*d.messages, *messages),
        seconds=d.seconds + answer.seconds,
    )


def shows(tokenizer: Any, tokens: Sequence[int]) -> bool:
    """Whether the text of an answer shows all of its tokens but the one that ends it: a reviewer reads the text, and
    training the tokens. Symbols have no text, and space before the first word is left out of it."""
    said = tokens[:-1] if tokens and tokens[-1] == tokenizer.end else tokens
    if any(i in tokenizer.left_out or i >= tokenizer.vocab_size for i in said):
        return False
    text = tokenizer.decode(said)
    return len(text) - len(text.lstrip()) <= BLANKS


def transcript_of(writer: Writer, d: Draft, s: Sampled, generation: int) -> Transcript:
    """What a draft became by what was sampled after it."""
    tokenizer = writer.tokenizer
    tokens = tuple(int(t) for t in s.tokens) + ((s.stop,) if s.finished else ())
    text = tokenizer.decode(s.tokens).lstrip()
    if tokens[:1] == (writer.call,):
        text = f"(call) {text}"
    return Transcript(
        id=content_id(d.task.id, d.prompt, d.forced, tokens, generation, d.sibling),
        task_id=d.task.id,
        generation=generation,
        sibling=d.sibling,
        source=d.source,
        prompt=d.prompt,
        student_prompt=tuple(tokenizer.render(d.task.messages)),
        tokens=tokens,
        text=text,
        passages=d.passages,
        finished=s.finished and s.stop == tokenizer.end and shows(tokenizer, tokens),
        capture=Capture(s.ids, s.probs, s.tail),
        forced=d.forced,
        forced_text=tokenizer.decode(d.forced),
        called=d.called,
        messages=(*d.messages, {"role": "assistant", "content": text}),
    )
