"""Wrong thoughts and their corrections.

The wrong-thinker is before − λ·(after − before), where `after` has learned the slice's lessons and `before` has not.
It reasons; the supervisor, who has the documents, interrupts at the first wrong step: "no, ..."; the teacher goes on.
Only the correction carries weight.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ratchet.bootstrap.checks import Case, grounded, parse
from ratchet.bootstrap.config import SimulateConfig, WrongthinkConfig
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import Draft, Writer, complete, draft
from ratchet.bootstrap.transcript import Capture, Document, Task, Transcript, content_id
from ratchet.bootstrap.worlds.language import CHOICE_PATTERN, CLAIM_PATTERN, NO, Claim
from ratchet.models.sampler import Request
from ratchet.models.tokenizer import Tokenizer

STEP_ENDS = (CLAIM_PATTERN, CHOICE_PATTERN)
STEP = re.compile("|".join(p.pattern for p in STEP_ENDS))

CORRECTED = 100
"""Sibling numbers of corrections begin here; answers have lower ones."""


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


def think(writer: Writer, tasks: Sequence[Task], samples: int, config: SimulateConfig, *, seed: int,
          right: Mapping[str, tuple[int, ...]] = MappingProxyType({})) -> list[tuple]:  # fmt: skip
    """(task, sample number, tokens, text, finished) of unaided reasoning: no documents, no tools.

    Sample n of a task goes on after the first n steps of its `right` answer, where there is one: depth varies.
    """
    asked = []
    for t in tasks:
        ends = [0, *_step_ends(writer.tokenizer, right.get(t.id, ()))[:-1]]
        prefixes = [right.get(t.id, ())[: ends[n % len(ends)]] for n in range(samples)]
        asked += [(t, n, prefix) for n, prefix in enumerate(prefixes)]
    chats = [tuple(writer.tokenizer.chat(t.messages)) for t, *_ in asked]
    requests = [
        Request(int(content_id("think", t.id, n)[:8], 16), chat + prefix)
        for (t, n, prefix), chat in zip(asked, chats, strict=True)
    ]
    end = writer.tokenizer.control["end"]
    sampled = writer.sampler(writer.params, requests, seed=seed, temperature=config.temperature, stop=(end,))
    thoughts = [(*prefix, *s.tokens.tolist()) for (*_, prefix), s in zip(asked, sampled, strict=True)]
    return [
        (t, n, tokens, writer.tokenizer.decode(tokens), s.finished)
        for (t, n, _), tokens, s in zip(asked, thoughts, sampled, strict=True)
    ]


def first_wrong_step(writer: Writer, task: Task, tokens: tuple[int, ...], documents: Mapping[str, Document]) -> tuple:
    """(tokens up to and with the first wrong step, why), or ((), "") when the supervisor finds no fault.

    The supervisor reads step by step with the task's documents in view: a claim is wrong when no document says it, a
    choice when it is not the only option judged good.
    """
    own = [documents[i] for i in task.document_ids if i in documents]
    start = 0
    for end in _step_ends(writer.tokenizer, tokens):
        step, so_far = (writer.tokenizer.decode(tokens[i:end]) for i in (start, 0))
        start = end
        reason = _fault(task, step, so_far, own)
        if reason:
            return tokens[:end], reason
    return (), ""


def _step_ends(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    """Where each claim and the choice end."""
    ends = [0]
    for end in range(1, len(tokens) + 1):
        if any(p.search(tokenizer.decode(tokens[ends[-1] : end])) for p in STEP_ENDS):
            ends.append(end)
    return ends[1:]


def spoil(
    tokenizer: Tokenizer, t: Transcript, outcomes: Mapping[str, str], *, step: int, sample: int, generation: int
) -> Transcript | None:
    """A right answer with one step spoiled by rule, a "no,", and the answer going on from that step as it did.

    Spoiled is a claim (another action's outcome, any of `outcomes` with its judgement, the opposite judgement) or, as
    steps after the last claim, the choice, of each other action in turn: then the claim about it comes again before the
    right choice. Each token keeps the distribution that it was sampled from; branch review opens it after the wrong
    thought. Each generation spoils in its own way. None when the answer has no such step. Needs no truth but answers.
    """
    rng = random.Random(f"spoil {generation} {step} {t.id}")
    ends = [0, *_step_ends(tokenizer, t.tokens)]
    steps = [tokenizer.decode(t.tokens[i:j]) for i, j in pairwise(ends)]
    claims = parse(t.text).claims
    if len(steps) != len(claims) + 1 or not CHOICE_PATTERN.fullmatch(steps[-1]):
        return None
    right = parse(t.text).choices[-1]
    unwise = [i for i, c in enumerate(claims) if c.action != right]
    if not unwise or step >= len(claims) + len(unwise):
        return None
    if step < len(claims):
        spoiled = _spoiled_claim(steps[step], claims[step], claims, outcomes, rng)
        rest = range(ends[step], len(t.tokens))
    else:
        at = unwise[step - len(claims)]
        spoiled = steps[-1].replace(right, claims[at].action)
        rest = [*range(ends[at], ends[at + 1]), *range(ends[-2], len(t.tokens))]
    thought = " ".join([*steps[:-1][:step], spoiled])
    capture = Capture(*(tuple(of_N[i] for i in rest) for of_N in (t.capture.ids, t.capture.probs, t.capture.tail)))
    corrected = replace(
        t, generation=generation, sibling=CORRECTED + sample, tokens=tuple(t.tokens[i] for i in rest), capture=capture,
        forced=tuple(tokenizer.encode(thought)), forced_text=thought,
    )  # fmt: skip
    return _interrupted(tokenizer, corrected)


def spoil_again(tokenizer: Tokenizer, t: Transcript, outcomes: Mapping[str, str], salt: str) -> tuple[int, ...]:
    """The wrong thought of a correction with another error in the same claim; as it was, where the error is a choice.

    The correction is as true after it, and a student that meets many errors cannot learn them by heart: it has to
    compare.
    """
    *before, last = (m.group(0) for m in STEP.finditer(t.forced_text))
    wrong, claims = parse(last).claims, parse(t.text).claims
    if not wrong or not claims or wrong[0].action != claims[0].action:
        return t.forced
    right = STEP.search(t.text).group(0)
    known = [*parse(" ".join(before)).claims, *claims]
    spoiled = _spoiled_claim(right, claims[0], known, outcomes, random.Random(f"spoil again {salt}"))
    return tuple(tokenizer.encode(" ".join([*before, spoiled])))


def judged_outcomes(transcripts: Sequence[Transcript]) -> dict[str, str]:
    """Every outcome that is claimed, with its judgement; ordered."""
    return dict(sorted((c.outcome, c.judgement) for t in transcripts for c in parse(t.text).claims))


def _spoiled_claim(step: str, claim: Claim, claims: Sequence[Claim], outcomes: Mapping[str, str], rng) -> str:
    opposite = {"good": "bad", "bad": "good"}[claim.judgement]
    wrong = {
        "swapped": [(c.outcome, c.judgement) for c in claims if c.outcome != claim.outcome],
        "invented": [(outcome, judgement) for outcome, judgement in outcomes.items() if outcome != claim.outcome],
        "judged": [(claim.outcome, opposite)],
    }
    # An outcome of the situation itself, but of another action, is the hardest to notice; a judgement the easiest.
    shares = {"swapped": 3, "invented": 2, "judged": 1}
    kinds = [kind for kind, share in shares.items() if wrong[kind] for _ in range(share)]
    outcome, judgement = rng.choice(wrong[rng.choice(kinds)])
    return step.replace(f"{claim.judgement}.", f"{judgement}.").replace(claim.outcome, outcome)


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
    """The teacher, documents in view, interrupts each wrong thought with "no," and goes on. It looks nothing up, so
    none is withheld."""
    said = tuple(writer.tokenizer.encode(NO))
    own = replace(config, lookups=0, withhold=0.0)
    drafts: list[Draft] = []
    for thought in thoughts:
        d = draft(writer.tokenizer, index, thought.task, CORRECTED + thought.sample, own, room, f"wrongthink {seed}")
        drafts.append(replace(d, forced=(*thought.tokens, *said)))
    corrections = complete(writer, index, drafts, own, generation=generation, seed=seed)
    return [
        _interrupted(writer.tokenizer, replace(t, forced=thought.tokens, forced_text=thought.text))
        for t, thought in zip(corrections, thoughts, strict=True)
    ]


def _interrupted(tokenizer: Tokenizer, t: Transcript) -> Transcript:
    """A transcript that goes on after a wrong thought, with the supervisor's "no," before its tokens, as certain
    ones."""
    said = tuple(tokenizer.encode(NO))
    pad = (0,) * (len(t.capture.ids[0]) - 1)
    capture = Capture(
        tuple((token, *pad) for token in said) + t.capture.ids,
        ((1.0, *map(float, pad)),) * len(said) + t.capture.probs, (0.0,) * len(said) + t.capture.tail,
    )  # fmt: skip
    tokens = (*said, *t.tokens)
    text = tokenizer.decode(tokens)
    return replace(
        t, id=content_id(t.id, t.forced, t.generation, "interrupted"), tokens=tokens, text=text, capture=capture,
        messages=(*t.messages[:-1], {"role": "assistant", "content": text}),
    )  # fmt: skip
