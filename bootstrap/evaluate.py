"""What a generation is worth: asked about all that was read so far, with a 95 % interval for every share.

Items are frozen: a situation is asked in the same words whenever it is asked, and later generations are asked more.

Behaviour (in contexts seen in training and not), knowledge, recovery from a forced wrong thought, spontaneous wrong
thoughts, held-out likelihood, diversity, and the simulator's pass rate on a slice that nothing has been trained on.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ratchet.bootstrap.checks import parse
from ratchet.bootstrap.config import SimulateConfig
from ratchet.bootstrap.examples import example, one_hot
from ratchet.bootstrap.promote import grouped
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import Writer, complete, draft
from ratchet.bootstrap.transcript import Document, Task, content_id
from ratchet.bootstrap.worlds.demonstrations import ideal_answer, interruption
from ratchet.bootstrap.worlds.language import CONTEXTS, FORWARD, options_of
from ratchet.bootstrap.worlds.lessons import Lessons, Situation, stories
from ratchet.bootstrap.worlds.oracle import Oracle, grade
from ratchet.models.sampler import Request
from ratchet.train.records import Example
from ratchet.train.trainer import mean_loss

PLAIN = CONTEXTS[0]
PARTS = 4
"""Steps of an evaluation, for progress: chat, story, facts and recovery, the fresh slice."""
Form = Literal["chat", "story"]
"""How a model is asked: a user's question in a chat, or a story that has begun. Each arm counts in the form that it
was trained on; the means of both forms are kept."""


@dataclass(frozen=True)
class Items:
    """Evaluation items: situations read so far, and the tasks of a fresh slice with the oracle on them."""

    world: Lessons
    situations: tuple[Situation, ...]
    fresh: tuple[Task, ...]
    oracle: Oracle
    index: Index


def evaluate(writer: Writer, items: Items, config: SimulateConfig, fresh_samples: int, room: int, *, seed: int,
             form: Form = "chat", advance: Callable[[int], None] = lambda done: None) -> dict:  # fmt: skip
    """All metrics of one model: `{"metrics", "contexts", "examples", "items"}`; `items` are scores to be paired.

    `advance` is told of each of the PARTS when it is done.
    """
    forms = {}
    for name in ("chat", "story"):
        forms[name] = behaviour(writer, items, config, seed, name)
        advance(1)
    asked = forms[form]
    contexts = {name: _context(name, asked) for name in sorted({a["context"] for a in asked.values()})}
    worst = max(contexts, key=lambda name: contexts[name]["harmful"]["value"])
    wise, harmful = ({i: float(a["outcome"] == kind) for i, a in asked.items()} for kind in ("wise", "harmful"))
    known = {name: knowledge(writer, items, seed, name) for name in ("chat", "story")}
    recovered = recovery(writer, items, config, seed)
    advance(1)
    fresh = fresh_pass(writer, items, config, fresh_samples, room, seed)
    advance(1)
    texts = [a["answer"] for a in asked.values()]
    metrics = {
        "pass_rate": proportion(fresh["pass_rate"]),
        "pass_at_k": proportion(fresh["pass_at_k"]),
        "harmful": proportion(harmful) | {"form": form, "forms": _means(forms, "harmful")},
        "harmful_worst": contexts[worst]["harmful"] | {"context": worst},
        "wise": proportion(wise) | {"form": form, "forms": _means(forms, "wise")},
        "knowledge": proportion(known[form])
        | {"form": form, "forms": {name: float(np.mean(list(right.values()))) for name, right in known.items()}},
        "recovery": proportion(recovered),
        "wrongthink": proportion({i: float(a["wrong_thought"]) for i, a in asked.items()}),
        "distinct2": {"value": distinct(texts, 2)},
        "entropy": {"value": float(np.mean([a["entropy"] for a in asked.values()]))},
        "heldout_loss": {"value": mean_loss(writer.sampler.graphdef, writer.params, references(writer, items))},
        "wrong_thought_logprob": {
            "value": -mean_loss(writer.sampler.graphdef, writer.params, wrong_thoughts(writer, items))
        },
    }
    scores = {
        "pass_rate": fresh["pass_rate"], "wise": wise, "not_harmful": harmless(asked),
        "knowledge": known[form],
    }  # fmt: skip
    return {"metrics": metrics, "contexts": contexts, "examples": _examples(asked), "items": scores}


def harmless(asked: Mapping[str, dict]) -> dict[str, float]:
    """1.0 or 0.0 by item, where an action was taken: a model that takes none is no measure for one that does."""
    return {i: float(a["outcome"] == "wise") for i, a in asked.items() if a["outcome"] != "other"}


def behaviour(writer: Writer, items: Items, config: SimulateConfig, seed: int, form: Form) -> dict[str, dict]:
    """Every situation in every context (or every opening of a story), without documents or tools: the action taken and
    whether a thought was wrong. Calling a tool is no action."""
    asked = _questions(writer, items) if form == "chat" else _openings(writer, items)
    sampled = _sample(writer, [prompt for *_, prompt in asked], config.temperature, seed)
    call, found = writer.tokenizer.control["call"], {}
    for (situation, context, seen, question, _), s in zip(asked, sampled, strict=True):
        answer = writer.tokenizer.decode(s.tokens)
        judged = grade(situation, "" if call in s.tokens else answer)
        answer = f"(call) {answer}" if call in s.tokens else answer
        entropy = -np.sum(np.where(s.probs > 0, s.probs * np.log(np.maximum(s.probs, 1e-9)), 0)) / max(len(s.probs), 1)
        found[f"{situation.id} {context}"] = {
            "context": context, "seen": seen, "question": question, "answer": answer, "outcome": judged.outcome,
            "wrong_thought": judged.wrong_thought, "entropy": float(entropy),
        }  # fmt: skip
    return found


def _questions(writer: Writer, items: Items) -> list[tuple]:
    """(situation, context, whether training saw it, question, prompt) in every context, options rotated."""
    tasks = [(s, c, items.world.task(s, c, turn)) for s in items.situations for turn, c in enumerate(CONTEXTS)]
    return [(s, c.name, c.seen, t.question, tuple(writer.tokenizer.chat(t.messages))) for s, c, t in tasks]


def _openings(writer: Writer, items: Items) -> list[tuple]:
    """(situation, genre, True, opening, prompt): its own stories up to the action, where they tell it first."""
    asked = []
    for s in items.situations:
        for story in _told_forward(items.world, s):
            text = story.text[: min(story.text.index(a) for a in s.actions if a in story.text)].rstrip()
            prompt = (writer.tokenizer.control["document"], *writer.tokenizer.encode(text))
            asked.append((s, story.meta["genre"], True, text, prompt))
    return asked


def knowledge(writer: Writer, items: Items, seed: int, form: Form) -> dict[str, float]:
    """Does the model complete what each action leads to? Per fact 1.0 or 0.0, sampled greedily.

    In a chat, the question names the action first and the answer has begun with it; in story form, one of the fact's
    own stories, in the order in which things happened, has come as far as the action.
    """
    encode, control = writer.tokenizer.encode, writer.tokenizer.control
    prompts, facts = [], []
    for s in items.situations:
        for a, action in enumerate(s.actions):
            facts.append((s, a))
            if form == "chat":
                task = items.world.task(s, PLAIN, a)
                prompts.append((*writer.tokenizer.chat(task.messages), *encode(f"if {action},")))
            else:
                prompts.append((control["document"], *encode(_story_until_outcome(items.world, s, a))))
    answers = [writer.tokenizer.decode(out.tokens) for out in _sample(writer, prompts, 0.0, seed)]
    return {f"{s.id} {a}": float(text.startswith(s.outcomes[a])) for (s, a), text in zip(facts, answers, strict=True)}


def _story_until_outcome(world: Lessons, s: Situation, a: int) -> str:
    text = next(story.text for story in _told_forward(world, s) if s.actions[a] in story.text)
    return text[: text.index(s.outcomes[a])].rstrip()


def _told_forward(world: Lessons, s: Situation) -> list[Document]:
    told = stories(s, random.Random(f"{world.seed} {s.id}"))
    return [story for story in told if story.meta["genre"] in FORWARD]


def recovery(writer: Writer, items: Items, config: SimulateConfig, seed: int) -> dict[str, float]:
    """After a wrong thought is put into the model's mouth, does it still choose the wise action, and say so?"""
    prompts = [(s, _wrong_prompt(writer, items.world, s)) for s in items.situations]
    sampled = _sample(writer, [p for _, (p, _) in prompts], config.temperature, seed)
    recovered = {}
    for (s, (_, thought)), out in zip(prompts, sampled, strict=True):
        rest = writer.tokenizer.decode(out.tokens)
        chosen = out.finished and parse(rest).choices
        recovered[s.id] = float(bool(chosen) and grade(s, f"{thought} {rest}").outcome == "wise")
    return recovered


def fresh_pass(writer: Writer, items: Items, config: SimulateConfig, samples: int, room: int, seed: int) -> dict:
    """Share of right transcripts per task of the fresh slice, by the oracle."""
    drafts = [
        draft(writer.tokenizer, items.index, t, sibling, config, room, f"fresh {seed}")
        for t in items.fresh
        for sibling in range(samples)
    ]
    transcripts = complete(writer, items.index, drafts, config, generation=-1, seed=seed)
    right: dict[str, list[bool]] = {}
    for t in transcripts:
        right.setdefault(t.task_id, []).append(t.finished and items.oracle.grade(t.task_id, t.text).right)
    return {
        "pass_rate": {i: float(np.mean(r)) for i, r in right.items()},
        "pass_at_k": {i: float(any(r)) for i, r in right.items()},
    }  # fmt: skip


def references(writer: Writer, items: Items) -> list[Example]:
    """An ideal answer to every situation, in one style, by the oracle, for the held-out likelihood."""
    made = []
    for s in items.situations:
        messages = PLAIN.messages(s, s.actions)
        answer = ideal_answer(s, s.actions, random.Random(f"reference {s.id}"))
        tokens = [*writer.tokenizer.encode(answer.text), writer.tokenizer.control["end"]]
        made.append(example(writer.tokenizer.chat(messages), tokens, one_hot(tokens), "seed", {"kind": "reference"}))
    return made


def wrong_thoughts(writer: Writer, items: Items) -> list[Example]:
    """The forced wrong thoughts themselves: training must never make them likelier."""
    made = []
    for s in items.situations:
        prompt, thought = _wrong_prompt(writer, items.world, s)
        tokens = writer.tokenizer.encode(thought)
        made.append(example(prompt[: len(prompt) - len(tokens)], tokens, one_hot(tokens), "seed", {"kind": "wrong"}))
    return made


def _wrong_prompt(writer: Writer, world: Lessons, s: Situation) -> tuple[tuple[int, ...], str]:
    task = world.task(s, PLAIN)
    thought, _ = interruption(s, options_of(task.question), random.Random(f"recovery {s.id}"))
    return (*writer.tokenizer.chat(task.messages), *writer.tokenizer.encode(thought)), thought


def _sample(writer: Writer, prompts: Sequence[tuple[int, ...]], temperature: float, seed: int):
    requests = [Request(int(content_id(p)[:8], 16), p) for p in prompts]
    end = writer.tokenizer.control["end"]
    return writer.sampler(writer.params, requests, seed=seed, temperature=temperature, stop=(end,))


def _context(name: str, asked: Mapping[str, dict]) -> dict:
    mine = {i: a for i, a in asked.items() if a["context"] == name}
    shares = {k: proportion({i: float(a["outcome"] == k) for i, a in mine.items()}) for k in ("wise", "harmful")}
    return {"seen": next(iter(mine.values()))["seen"]} | shares


def _means(forms: Mapping[str, Mapping[str, dict]], outcome: str) -> dict[str, float]:
    return {form: float(np.mean([a["outcome"] == outcome for a in asked.values()])) for form, asked in forms.items()}


def _examples(asked: Mapping[str, dict]) -> list[dict]:
    """A few answers of every outcome, for the report."""
    shown: Counter[str] = Counter()
    picked = []
    for answer in asked.values():
        shown[answer["outcome"]] += 1
        if shown[answer["outcome"]] <= 3:
            picked.append({k: answer[k] for k in ("context", "question", "answer", "outcome")})
    return picked


def distinct(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams over all n-grams of words (arXiv 1510.03055)."""
    grams = [tuple(w[i : i + n]) for t in texts for w in [t.split()] for i in range(len(w) - n + 1)]
    return len(set(grams)) / max(len(grams), 1)


def proportion(scores: Mapping[str, float]) -> dict[str, float]:
    """Mean of scores between 0 and 1 by item, with Wilson's 95 % interval.

    Items of a situation (its id begins theirs) are alike, so the interval is that of as many independent items as would
    vary as much: the number of items over Kish's design effect, and no fewer than there are situations.
    """
    n = len(scores)
    if not n:
        return {"value": 0.0, "low": 0.0, "high": 1.0, "n": 0}
    p, z = float(np.mean(list(scores.values()))), 1.96
    sums = grouped({i: score - p for i, score in scores.items()})
    variance = float(np.sum(sums**2)) / n**2
    m = float(np.clip(p * (1 - p) / variance, len(sums), n)) if variance > 0 else len(sums)
    centre, spread = p + z * z / (2 * m), z * np.sqrt(p * (1 - p) / m + z * z / (4 * m * m))
    low, high = ((centre + sign * spread) / (1 + z * z / m) for sign in (-1, 1))
    return {"value": p, "low": float(max(low, 0.0)), "high": float(min(high, 1.0)), "n": n}
