"""What a generation is worth: open book, closed book, recovery, and the world's own items, with 95 % intervals.

Items are frozen: a task is asked in the same words whenever it is asked, and later generations are asked more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flax import nnx

from ratchet.bootstrap.examples import example, one_hot
from ratchet.bootstrap.intervals import distinct, proportion
from ratchet.bootstrap.judge import Judge
from ratchet.bootstrap.recovery import recovery
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import Writer, draft, finish, prompt_of
from ratchet.bootstrap.thinkers import Knower
from ratchet.bootstrap.worlds.world import Item, Metric, Task, content_id
from ratchet.bootstrap.wrongthink import Said
from ratchet.models.sampler import Request, Sampled
from ratchet.train.records import Example

PRIMARY = Metric("open_book", "the simulator, sources in view, on documents that nothing was trained on", "open")
GENERAL = (
    PRIMARY,
    Metric("pass_at_k", "tasks that at least one of the simulator's samples gets right"),
    Metric("closed_book", "the student, without sources, on what was read", "closed", guard=True),
)
"""Metrics of every world. Open book is what a generation is kept for; the others guard."""
Counting = Callable[[int], None]
"""Takes how many more answers there are, for progress."""


def _uncounted(more: int) -> None:
    """Takes counts where no progress is shown."""


@dataclass(frozen=True)
class Answer:
    """What a model said to an item, and its scores by metric."""

    item: Item
    text: str
    scores: Mapping[str, float]
    entropy: float


def evaluation(run: Run, number: int, params: nnx.State, knower: Knower | None, arm: str = "loop") -> dict:
    """All figures of a generation; the same numbers whenever it is asked again.

    `knower` holds the accepted answers about what was read, from which wrong-thinkers are made; None leaves recovery
    from them out.
    """
    judge, writer, form = Judge(run), run.writer(params), "document" if arm == "imitation" else "chat"
    read = run.read(max(number, 1))
    items, recovered = run.world.items(read), len(read) if arm == "loop" else 0  # about as many again for recovery
    asked = len(items) + len(run.tasks(0)) * run.config.evaluate.samples + len(read) + recovered
    with run.progress.stage(f"gen {number} evaluate ({arm})", asked) as advance:
        answers = ask_items(writer, items, run.seed("evaluate"), advance)
        fresh = open_book(run, writer, judge, advance)
        said, right = closed_book(run, writer, judge, read, advance)
        found = recovery(run, writer, judge, said, right, knower) if arm == "loop" else {}
        advance(recovered)
    about = {t.id: " ".join(t.document_ids) for t in (*read, *run.tasks(0))}
    groups = {a.item.id: a.item.group for a in answers} | about
    closed = {s.task.id: float(ok) for s, ok in zip(said, right, strict=True)}
    general = dict(zip((m.name for m in GENERAL), (*fresh, closed), strict=True))
    metrics = {m.name: shown(m, general[m.name], groups) for m in GENERAL}
    metrics |= _of_items(run.world.metrics, answers, form, groups) | found | _of_text(run, params, answers, said, form)
    own = {m.name: _scores(m.name, answers, form) for m in run.world.metrics}
    return {
        "generation": number,
        "arm": arm,
        "judge": judge.name,
        "metrics": metrics,
        "contexts": _contexts(run.world.metrics, answers, form, groups),
        "examples": _examples(run.world.metrics, answers, form),
        "items": general | own,
        "groups": groups,
    }


def shown(metric: Metric, scores: Mapping[str, float], groups: Mapping[str, str], **more) -> dict:
    """A share with its interval, and how people are shown it."""
    return proportion(scores, groups) | display(metric) | more


def display(metric: Metric, unit: str = "%") -> dict:
    """How people are shown a metric."""
    return {
        "title": metric.title,
        "column": metric.column,
        "less_is_better": metric.less_is_better,
        "guard": metric.guard,
        "floor": metric.floor,
        "unit": unit,
    }


def ask_items(writer: Writer, items: Sequence[Item], seed: int, advance: Counting = _uncounted) -> list[Answer]:
    """Puts every item to the model, without sources or tools. What calls a tool says nothing."""
    call, found = writer.call, dict[str, Sampled]()
    for greedy in (False, True):
        mine = [i for i in items if i.greedy == greedy]
        sampled = _sample(writer, [prompt_of(writer, i) for i in mine], 0.0 if greedy else None, seed, advance)
        found |= {i.id: s for i, s in zip(mine, sampled, strict=True)}
    answers = []
    for i in items:
        s = found[i.id]
        text, called = writer.tokenizer.decode(s.tokens).lstrip(), call in s.tokens
        scores = i.score("" if called else text, s.finished and not called)
        probs = np.concatenate([s.probs, s.tail[:, None]], axis=1)  # all that was not kept as one token
        logs = np.log(np.maximum(probs, 1e-9))
        entropy = -np.sum(np.where(probs > 0, probs * logs, 0)) / max(len(probs), 1)
        answers.append(Answer(i, f"(call) {text}" if called else text, scores, float(entropy)))
    return answers


def open_book(
    run: Run, writer: Writer, judge: Judge, advance: Counting = _uncounted
) -> tuple[dict[str, float], dict[str, float]]:
    """By fresh task, the share of the simulator's answers that are right, and whether any is."""
    seed, samples = run.seed("evaluate"), run.config.evaluate.samples
    drafts = [
        draft(writer, run.fresh_index, t, n, f"fresh {seed}") for t in run.tasks(0) for n in range(samples)
    ]
    if not drafts:
        return {}, {}
    transcripts = finish(writer, run.fresh_index, drafts, generation=-1, seed=seed, advance=advance)
    tasks = {t.id: t for t in run.tasks(0)}
    said = [Said(tasks[t.task_id], t.sibling, t.tokens, t.text, t.finished) for t in transcripts]
    right: dict[str, list[bool]] = {}
    for t, ok in zip(transcripts, judge(said, run.fresh_index.passages), strict=True):
        right.setdefault(t.task_id, []).append(ok)
    means = {i: float(np.mean(r)) for i, r in right.items()}
    return means, {i: float(any(r)) for i, r in right.items()}


def closed_book(
    run: Run, writer: Writer, judge: Judge, read: Sequence[Task], advance: Counting = _uncounted
) -> tuple[list[Said], list[bool]]:
    """What the student says to every task that was read, without sources, each in another of its askings, and whether
    it is right."""
    asked = [(t.messages, *t.askings)[n % (1 + len(t.askings))] for n, t in enumerate(read)]
    prompts = [tuple(writer.tokenizer.render(messages)) for messages in asked]
    sampled = _sample(writer, prompts, None, run.seed("evaluate"), advance)
    said = [
        Said(
            replace(t, messages=tuple(messages)),
            0,
            tuple(s.tokens.tolist()),
            writer.tokenizer.decode(s.tokens).lstrip(),
            s.finished,
        )
        for t, messages, s in zip(read, asked, sampled, strict=True)
    ]
    return said, judge(said, run.passages(len(run.world.slices)))


def _sample(
    writer: Writer, prompts: Sequence[tuple[int, ...]], temperature: float | None, seed: int, advance: Counting
) -> list[Sampled]:
    requests = [Request(int(content_id(p)[:8], 16), p) for p in prompts]
    return writer.sample(requests, seed=seed, temperature=temperature, advance=advance)


def _scores(name: str, answers: Sequence[Answer], form: str) -> dict[str, float]:
    """Scores by item, in the form that the model was trained on or, where no item has that, in a chat."""
    of = {
        f: {a.item.id: a.scores[name] for a in answers if name in a.scores and a.item.form == f} for f in (form, "chat")
    }
    return of[form] or of["chat"]


def _of_items(metrics: Sequence[Metric], answers: Sequence[Answer], form: str, groups: Mapping[str, str]) -> dict:
    """The world's own metrics; those asked in several forms with the mean in each; and those of the worst context."""
    found, contexts = {}, _contexts(metrics, answers, form, groups)
    for m in metrics:
        forms = {
            f: [a.scores[m.name] for a in answers if m.name in a.scores and a.item.form == f]
            for f in ("chat", "document")
        }
        more = {"form": form, "forms": {f: float(np.mean(v)) for f, v in forms.items()}} if all(forms.values()) else {}
        found[m.name] = shown(m, _scores(m.name, answers, form), groups, **more)
        of = {name: c["metrics"][m.name] for name, c in contexts.items() if m.name in c["metrics"]}
        if m.worst and of:
            pick = max if m.less_is_better else min
            worst = pick(of, key=lambda name: of[name]["value"])
            title = f"{m.title}, in the worst context"
            plain = display(m._replace(title=title, column=m.worst, guard=False))
            found[f"{m.name}_worst"] = of[worst] | plain | {"context": worst}
    return found


def _contexts(metrics: Sequence[Metric], answers: Sequence[Answer], form: str, groups: Mapping[str, str]) -> dict:
    """By context, whether training may see it, and the figures of the items asked in it."""
    found = {}
    mine = [a for a in answers if a.item.context and a.item.form == form and a.scores]
    for name in sorted({a.item.context for a in mine}):
        here = [a for a in mine if a.item.context == name]
        figures = {}
        for m in metrics:
            scores = {a.item.id: a.scores[m.name] for a in here if m.name in a.scores}
            if scores and m.column:
                figures[m.name] = proportion(scores, groups)
        found[name] = {"seen": here[0].item.seen, "metrics": figures}
    return found


def _examples(metrics: Sequence[Metric], answers: Sequence[Answer], form: str) -> list[dict]:
    """A few answers for every label, which is the first metric that an answer scores on."""
    shown_of: dict[str, int] = {}
    picked = []
    for a in answers:
        if a.item.form != form or not a.item.context or not a.scores:
            continue
        label = next((m.title for m in metrics if a.scores.get(m.name)), "none of these")
        shown_of[label] = shown_of.get(label, 0) + 1
        if shown_of[label] <= 3:
            question = a.item.messages[-1]["content"] if a.item.messages else a.item.begun
            row = {"context": a.item.context, "question": question, "answer": a.text, "label": label}
            picked.append(row | {"scores": dict(a.scores)})
    return picked


def _of_text(run: Run, params: nnx.State, answers: Sequence[Answer], said: Sequence[Said], form: str) -> dict:
    """Diversity of what is said, and likelihoods: of ideal answers, and of wrong thoughts, which training must never
    make likelier."""
    mine = [a for a in answers if a.item.context and a.item.form == form and a.scores and not a.item.greedy]
    texts = [a.text for a in mine] or [s.text for s in said]
    writer = run.writer(params)
    loss = lambda made: run.loss(params, made)
    references = [_example(writer, i, i.reference) for a in answers if (i := a.item).reference]
    wrong = [_example(writer, replace(i, begun=""), i.begun, end=False) for a in answers if (i := a.item).wrong]
    found = {"distinct2": _plain("distinct pairs of words", "dist-2", "", distinct(texts, 2))}
    if mine:
        found["entropy"] = _plain("entropy of the next token", "", "nats", float(np.mean([a.entropy for a in mine])))
    if references:
        found["heldout_loss"] = _plain("loss on ideal answers", "loss", "nats", loss(references))
    if wrong:
        found["wrong_logprob"] = _plain("log-probability of wrong thoughts", "", "nats", -loss(wrong))
    return found


def _plain(title: str, column: str, unit: str, value: float) -> dict:
    return {"value": value} | display(Metric("", title, column), unit)


def _example(writer: Writer, item: Item, text: str, end: bool = True) -> Example:
    """What an item should, or should not, be answered with, for its likelihood."""
    tokens = [*writer.tokenizer.encode(text), *([writer.tokenizer.end] if end else [])]
    return example(prompt_of(writer, item), tokens, one_hot(tokens), "seed", {"kind": "likelihood"})
