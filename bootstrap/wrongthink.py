"""Wrong thoughts, and what interrupts them.

The wrong-thinker is after − λ·(after − before): the difference that learning the lessons made, inverted, and applied to
the model that knows them; or another vector takes the place of the difference (`bootstrap/thinkers.py`). It reasons;
the supervisor, who has the documents, interrupts at the first wrong step: "No, <reason>"; the teacher goes on. Only
the correction carries weight.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ratchet.bootstrap.config import WrongthinkConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.simulate import Writer, draft, finish
from ratchet.bootstrap.transcript import Capture, Source, Transcript, certain
from ratchet.bootstrap.worlds.world import Case, Document, Step, Task, World, content_id
from ratchet.models.programs import compiled
from ratchet.models.sampler import Request

HEARD = 64
"""Answers at most from which a rule that spoils takes what else might be said."""


@dataclass(frozen=True)
class Said:
    """Number `sample` of a model's answers to a task, as supervisors and judges read it; `begun` of its tokens were put
    into its mouth."""

    task: Task
    sample: int
    tokens: tuple[int, ...]
    text: str
    finished: bool
    begun: int = 0


@dataclass(frozen=True)
class Thought:
    """A wrong thought: `tokens` end with the first wrong step, and `fault` says what is wrong with it."""

    task: Task
    sample: int
    tokens: tuple[int, ...]
    text: str
    fault: str
    source: Source


@jax.jit
def difference(after: nnx.State, before: nnx.State) -> nnx.State:
    """What training changed in the weights: the task vector of arXiv 2212.04089."""
    return jax.tree.map(lambda a, b: a - b, after, before)


def against(params: nnx.State, vector: nnx.State, scale: float) -> nnx.State:
    """params − λ·vector."""
    return _less(params, _scaled(vector, scale))


@jax.jit
def _scaled(vector: nnx.State, scale: jax.Array) -> nnx.State:
    return jax.tree.map(lambda v: scale * v, vector)


@functools.partial(jax.jit, donate_argnums=1)
def _less(params: nnx.State, scaled: nnx.State) -> nnx.State:
    return jax.tree.map(lambda p, s: p - s, params, scaled)


def random_like(vector: nnx.State, seed: int) -> nnx.State:
    """A random direction, each of whose arrays is as long as the vector's: the control that should do nothing."""
    return _random(vector, jax.random.key(seed))


@jax.jit
def _random(vector: nnx.State, key: jax.Array) -> nnx.State:
    leaves, treedef = jax.tree.flatten(vector)
    keys = jax.random.split(key, len(leaves))
    noise = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    scaled = [n * jnp.linalg.norm(leaf) / jnp.linalg.norm(n) for n, leaf in zip(noise, leaves, strict=True)]
    return jax.tree.unflatten(treedef, scaled)


def compile_inverting(params: nnx.State) -> None:
    """Compiles what inverts a lesson, and a random vector in its place, and runs none of it: of the weights, shapes
    with their layout are enough."""
    vector = compiled(difference, params, params)
    compiled(_random, vector, jax.random.key(0))
    compiled(_less, params, compiled(_scaled, vector, 1.0))


def think(
    writer: Writer,
    world: World,
    tasks: Sequence[Task],
    samples: int,
    *,
    seed: int,
    right: Mapping[str, tuple[int, ...]] = MappingProxyType({}),
) -> list[Said]:
    """Unaided reasoning: no documents, no tools.

    Sample n of a task goes on after the first n steps of its `right` answer, where there is one, so that depth varies.
    """
    asked = []
    for t in tasks:
        tokens = right.get(t.id, ())
        ends = [0, *step_ends(writer.tokenizer, tokens, world.steps(writer.tokenizer.decode(tokens).lstrip()))[:-1]]
        asked += [(t, n, tokens[: ends[n % len(ends)]]) for n in range(samples)]
    requests = [
        Request(int(content_id("think", t.id, n)[:8], 16), tuple(writer.tokenizer.render(t.messages)) + begun)
        for t, n, begun in asked
    ]
    sampled = writer.sample(requests, seed=seed)
    said = []
    for (t, n, begun), s in zip(asked, sampled, strict=True):
        tokens = (*begun, *s.tokens.tolist())
        said.append(Said(t, n, tokens, writer.tokenizer.decode(tokens).lstrip(), s.finished, len(begun)))
    return said


def step_ends(tokenizer: Any, tokens: Sequence[int], steps: Sequence[Step]) -> list[int]:
    """For each step of the tokens' text, how many tokens there are up to its end. Several tokens may spell one letter,
    and no step ends within those."""
    said = [tokenizer.decode(tokens[:n]).lstrip() for n in range(len(tokens) + 1)]
    ends = [(n, len(text)) for n, text in enumerate(said) if said[-1].startswith(text)]
    return [next((n for n, length in ends if length >= s.end), len(tokens)) for s in steps]


def as_cases(
    reviewer: Reviewer, said: Sequence[Said], passages: Sequence[Document], heard: tuple[str, ...]
) -> list[Case]:
    """Unaided reasoning as a reviewer reads it, with all passages of the task's own documents in view."""
    of: dict[str, list[Document]] = {}
    for p in passages:
        of.setdefault(p.document_id, []).append(p)
    views = [tuple(p for i in s.task.document_ids for p in of.get(i, ())) for s in said]
    return [
        Case(s.task, s.text, "", s.finished, (), tuple(reviewer.steps(s.text)), view, heard)
        for s, view in zip(said, views, strict=True)
    ]


def supervise(
    reviewer: Reviewer, said: Sequence[Said], passages: Sequence[Document], heard: tuple[str, ...], source: Source
) -> list[Thought | None]:
    """For each, the thought up to its first wrong step; None where the supervisor finds no fault, or one in what the
    model did not say itself."""
    cases = as_cases(reviewer, said, passages, heard)
    found: list[Thought | None] = []
    for s, case, (step, fault) in zip(said, cases, reviewer.first_faults(cases), strict=True):
        end = step_ends(reviewer.tokenizer, s.tokens, case.steps)[step] if step >= 0 else 0
        if end <= s.begun:
            found.append(None)
            continue
        tokens = s.tokens[:end]
        found.append(Thought(s.task, s.sample, tokens, reviewer.tokenizer.decode(tokens), fault, source))
    return found


def sweep(
    writer: Writer,
    world: World,
    tasks: Sequence[Task],
    vector: nnx.State,
    scales: Sequence[float],
    measure: Callable[[nnx.State, Sequence[Said]], dict[str, float]],
    seed: int,
) -> list[dict]:
    """Measures wrong-thinkers by λ, 0 first: the shares of samples that are well formed and wrong, and perplexity on
    control text relative to that of λ = 0."""
    rows = []
    for scale in (0.0, *scales):
        params = against(writer.params, vector, scale)
        said = think(replace(writer, params=params), world, tasks, 1, seed=seed)
        rows.append({"lambda": scale} | measure(params, said))
    return [row | {"perplexity": row["perplexity"] / rows[0]["perplexity"]} for row in rows]


def most_wrong(rows: Sequence[dict], config: WrongthinkConfig) -> dict | None:
    """The most wrong row that stays well formed and within the perplexity budget; None when none does."""
    fit = [
        r
        for r in rows
        if r["lambda"] > 0 and r["formed"] >= config.minimum_formed and r["perplexity"] <= config.perplexity_budget
    ]
    return max(fit, key=lambda r: (r["wrong"], -r["lambda"]), default=None)


def interrupt(
    writer: Writer, index: Index, thoughts: Sequence[Thought], interruption: str, *, generation: int, seed: int
) -> list[tuple[Thought, Transcript]]:
    """The teacher, sources in view, interrupts each wrong thought and goes on, as (thought, transcript). It looks
    nothing up, so none is withheld. A thought after which there is no room to go on is left out."""
    said = tuple(writer.tokenizer.encode(f" {interruption}"))
    own = replace(writer, config=replace(writer.config, calls=0, withhold=0.0))
    drafted = [
        (one, replace(draft(own, index, one.task, one.sample, f"wrongthink {seed}"), forced=(*one.tokens, *said)))
        for one in thoughts
    ]
    fits = [(one, d) for one, d in drafted if len(d.prompt) + len(d.forced) <= own.room]
    written = finish(own, index, [d for _, d in fits], generation=generation, seed=seed)
    whole = lambda one, t: replace(t, forced=one.tokens, forced_text=one.text, source=one.source, fault=one.fault)
    return [
        (one, interrupted(writer.tokenizer, whole(one, t), said))
        for (one, _), t in zip(fits, written, strict=True)
    ]


def spoil(
    world: World, tokenizer: Any, t: Transcript, task: Task, heard: Sequence[str], interruption: str, generation: int
) -> list[Transcript]:
    """A right answer in every way that the world can make one step of it wrong, interrupted there and gone on with.

    Each token of the correction keeps the distribution that it was sampled from; branch review opens it after the wrong
    thought. Each generation spoils in its own way. This needs no truth but right answers.
    """
    steps = world.steps(t.text)
    ends = [0, *step_ends(tokenizer, t.tokens, steps)]
    ends[-1] = len(t.tokens) - (t.tokens[-1:] == (tokenizer.end,))  # the end of the answer is no part of a step
    ended = [*range(ends[-1], len(t.tokens))]
    made = []
    for way in world.spoil(task, t.text, heard, Random(f"spoil {generation} {t.id}")):
        thought = way.thought(t.text, steps)
        rest = [i for step in way.then for i in range(ends[step], ends[step + 1])] + ended
        corrected = replace(
            t,
            source="spoiled",
            fault=f"says: {way.text}",
            generation=generation,
            tokens=tuple(t.tokens[i] for i in rest),
            capture=Capture(*(of_N[rest] for of_N in t.capture)),
            forced=tuple(tokenizer.encode(thought)),
            forced_text=thought,
        )
        first = corrected.tokens[0] if corrected.tokens else tokenizer.end
        glued = first != tokenizer.end and not _brings_space(tokenizer, first)  # a step that began its answer
        said = tuple(tokenizer.encode(f" {interruption}{' ' if glued else ''}"))
        made.append(interrupted(tokenizer, corrected, said))
    return made


def _brings_space(tokenizer: Any, token: int) -> bool:
    """Whether a token begins with white space after another; some tokenizers drop it at the start of a text."""
    before = tokenizer.encode("so")
    return tokenizer.decode([*before, token])[len(tokenizer.decode(before)) :][:1].isspace()


def spoiled_again(
    world: World, tokenizer: Any, heard: Sequence[str], interruption: str, t: Transcript, task: Task, number: int
) -> tuple[int, ...]:
    """The wrong thought of a spoiled correction with another error in the same step, for another asking of its task by
    number; as it was, where there is none.

    The correction is as true after it, and a student that meets many errors cannot learn them by heart.
    """
    before = world.steps(t.forced_text)
    if t.source != "spoiled" or not before:
        return t.forced
    kept, wrong = t.forced_text[: before[-1].start], len(before) - 1
    whole = kept + t.text.removeprefix(interruption).strip()
    steps = world.steps(whole)
    if wrong >= len(steps) or steps[wrong].fields.keys() != before[-1].fields.keys():
        return t.forced
    ways = world.spoil(task, whole, heard, Random(f"spoil again {t.id} {number}"))
    other = next((way for way in ways if way.step == wrong and way.then[:1] == (wrong,)), None)
    return tuple(tokenizer.encode(kept + other.text)) if other else t.forced


def correction_id(answer_id: str, thought: tuple[int, ...], generation: int) -> str:
    """The id of the correction that interrupts this thought in this answer: it tells what a correction is made of."""
    return content_id(answer_id, thought, generation, "interrupted")


def interrupted(tokenizer: Any, t: Transcript, said: tuple[int, ...]) -> Transcript:
    """A transcript that goes on after a wrong thought, with what the supervisor `said` before its tokens, as certain
    ones."""
    sure = certain(said, t.capture.ids_NK.shape[1])
    capture = Capture(*(np.concatenate([a, b]) for a, b in zip(sure, t.capture, strict=True)))
    tokens = (*said, *t.tokens)
    text = tokenizer.decode(tokens).lstrip()
    return replace(
        t,
        id=correction_id(t.id, t.forced, t.generation),
        tokens=tokens,
        text=text,
        capture=capture,
        messages=(*t.messages[:-1], {"role": "assistant", "content": text}),
    )
