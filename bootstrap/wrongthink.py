"""Wrong thoughts and their corrections.

The wrong-thinker is before − λ·(after − before), where `after` has learned the slice's lessons and `before` has not.
It reasons; the supervisor, who has the documents, interrupts at the first wrong step: "no, ..."; the teacher goes on.
Only the correction carries weight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bootstrap.checks import Case, grounded, parse
from bootstrap.config import SimulateConfig, WrongthinkConfig
from bootstrap.retrieval import Index
from bootstrap.simulate import Draft, Writer, complete, draft
from bootstrap.transcript import Capture, Document, Task, Transcript, content_id
from bootstrap.worlds.language import CHOICE_PATTERN, CLAIM_PATTERN, NO
from models.sampler import Request

STEP_ENDS = (CLAIM_PATTERN, CHOICE_PATTERN)


@dataclass(frozen=True)
class Thought:
    """Reasoning of the wrong-thinker about a task; `tokens` end at the first wrong step, "" where none was found."""

    task: Task
    sample: int
    tokens: tuple[int, ...]
    text: str
    reason: str


def invert(before: nnx.State, after: nnx.State, scale: float) -> nnx.State:
    """before − λ·(after − before), the negated task vector of arXiv 2212.04089."""
    return jax.tree.map(lambda b, a: b - scale * (a - b), before, after)


def random_vector(before: nnx.State, after: nnx.State, seed: int) -> nnx.State:
    """`before` moved as far as `after` is from it, in a random direction: the control that should do nothing."""
    leaves, treedef = jax.tree.flatten(jax.tree.map(lambda a, b: a - b, after, before))
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noise = [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    scaled = [n * jnp.linalg.norm(leaf) / jnp.linalg.norm(n) for n, leaf in zip(noise, leaves, strict=True)]
    return jax.tree.map(lambda b, v: b + v, before, jax.tree.unflatten(treedef, scaled))


def think(writer: Writer, tasks: Sequence[Task], samples: int, config: SimulateConfig, *, seed: int) -> list[tuple]:
    """(task, sample number, tokens, text, finished) of unaided reasoning: no documents, no tools."""
    prompts = [(t, n, tuple(writer.tokenizer.chat(t.messages))) for t in tasks for n in range(samples)]
    requests = [Request(int(content_id("think", t.id, n)[:8], 16), prompt) for t, n, prompt in prompts]
    end = writer.tokenizer.control["end"]
    sampled = writer.sampler(writer.params, requests, seed=seed, temperature=config.temperature, stop=(end,))
    return [
        (t, n, tuple(s.tokens.tolist()), writer.tokenizer.decode(s.tokens), s.finished)
        for (t, n, _), s in zip(prompts, sampled, strict=True)
    ]


def first_wrong_step(writer: Writer, task: Task, tokens: tuple[int, ...], documents: Mapping[str, Document]) -> tuple:
    """(tokens up to and with the first wrong step, why), or ((), "") when the supervisor finds no fault.

    The supervisor reads step by step with the task's documents in view: a claim is wrong when no document says it, a
    choice when it is not the only option judged good.
    """
    own = [documents[i] for i in task.document_ids if i in documents]
    start = 0
    for end in range(1, len(tokens) + 1):
        text = writer.tokenizer.decode(tokens[start:end])
        if not any(p.search(text) for p in STEP_ENDS):
            continue
        start = end
        reason = _fault(task, text, writer.tokenizer.decode(tokens[:end]), own)
        if reason:
            return tokens[:end], reason
    return (), ""


def _fault(task: Task, step: str, so_far: str, own: Sequence[Document]) -> str:
    t = Transcript("", task.id, 0, 0, (), (), (), step, tuple(d.id for d in own), True)
    whole = parse(so_far)
    if parse(step).claims:
        return grounded(Case(t, task, own, {}))
    choice = whole.choices[-1]
    good = [a for a, c in whole.held.items() if c.judgement == "good"]
    return "" if good == [choice] else f"{choice} is not what the documents call for"


def sweep(
    writer: Writer, candidates: Mapping[float, nnx.State], tasks: Sequence[Task], documents: Mapping[str, Document],
    perplexity: Callable[[nnx.State], float], config: WrongthinkConfig, simulate: SimulateConfig, *, seed: int,
) -> tuple[float | None, list[dict]]:  # fmt: skip
    """Measures wrong-thinkers by λ; returns the most wrong one that stays well formed and within the budget, or None.

    Perplexity is on control text, relative to λ = 0.
    """
    rows = []
    for scale, params in candidates.items():
        thoughts = think(replace(writer, params=params), tasks, 1, simulate, seed=seed)
        formed = [parse(text) for *_, text, finished in thoughts if finished]
        whole = [r for r in formed if r.claims and r.choices and not r.rest]
        wrong = [bool(first_wrong_step(writer, t, tokens, documents)[0]) for t, _, tokens, *_ in thoughts]
        rows.append({"lambda": scale, "formed": len(whole) / len(thoughts), "wrong": float(np.mean(wrong)),
                     "perplexity": perplexity(params)})  # fmt: skip
    base = next(row["perplexity"] for row in rows if row["lambda"] == 0)
    for row in rows:
        row["perplexity"] /= base
    fit = [
        r for r in rows
        if r["lambda"] > 0 and r["formed"] >= config.minimum_formed and r["perplexity"] <= config.perplexity_budget
    ]  # fmt: skip
    best = max(fit, key=lambda r: (r["wrong"], -r["lambda"]), default=None)
    return (best["lambda"] if best and best["wrong"] >= 0.2 else None), rows


def interrupt(
    writer: Writer, index: Index, thoughts: Sequence[Thought], config: SimulateConfig, room: int, *, generation: int,
    seed: int,
) -> list[Transcript]:  # fmt: skip
    """The teacher, documents in view, interrupts each wrong thought with "no," and goes on."""
    said = tuple(writer.tokenizer.encode(NO))
    drafts: list[Draft] = []
    for thought in thoughts:
        d = draft(writer.tokenizer, index, thought.task, 100 + thought.sample, config, room, f"wrongthink {seed}")
        drafts.append(replace(d, forced=(*thought.tokens, *said)))
    corrections = complete(writer, index, drafts, replace(config, lookups=0), generation=generation, seed=seed)
    return [_with_interruption(writer, t, len(said)) for t in corrections]


def _with_interruption(writer: Writer, t: Transcript, length: int) -> Transcript:
    """The supervisor's "no," moved from the forced prefix to the trained tokens, as certain ones."""
    thought, said = t.forced[:-length], t.forced[-length:]
    k = len(t.capture.ids[0])
    pad = (0,) * (k - 1)
    capture = Capture(
        tuple((token, *pad) for token in said) + t.capture.ids, ((1.0, *map(float, pad)),) * length + t.capture.probs,
        (0.0,) * length + t.capture.tail,
    )  # fmt: skip
    tokens = (*said, *t.tokens)
    text = writer.tokenizer.decode(tokens)
    return replace(
        t, id=content_id(t.id, "interrupted"), forced=thought, forced_text=writer.tokenizer.decode(thought),
        tokens=tokens, text=text, capture=capture, messages=(*t.messages[:-1], {"role": "assistant", "content": text}),
    )  # fmt: skip
