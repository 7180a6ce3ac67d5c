"""Compiling ahead: while a seed model trains on an accelerator, a thread has those programs compiled that come after
it.

The thread has untrained weights answer and review what the next stages ask, and throws away what they say. Nothing that
the run makes depends on it.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import jax
from flax import nnx

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import Writer, draft, finish
from ratchet.bootstrap.targets import make_targets
from ratchet.bootstrap.thinkers import control_text
from ratchet.bootstrap.wrongthink import Said, against, as_cases, difference, random_like
from ratchet.models import programs
from ratchet.models.decoder import DecoderConfig
from ratchet.models.sampler import Meter, Request

SMALL = 1 / 32
"""The part of a device's memory that weights may take, so that a sampler has room beside training."""
REVIEWED = 64
"""Worked answers that are reviewed."""


class _Ended(Exception):
    """Training has ended, and what comes after it begins."""


@contextlib.contextmanager
def compiling(run: Run) -> Iterator[None]:
    """Within, a thread compiles what samples and scores. At the end, the program that it is at is waited for.

    It does nothing where that would not pay or could go wrong: on CPUs, on several devices, whose programs have to run
    in one order, from a model of others, and with weights that leave a sampler no room beside training. Raises what the
    thread raised.
    """
    device = run.mesh.devices.flat[0]
    if not programs.few(device) or run.mesh.size > 1 or run.config.base:
        yield
        return
    params, memory = run.fresh_weights(), device.memory_stats() or {}
    if sum(leaf.nbytes for leaf in jax.tree.leaves(params)) > SMALL * memory.get("bytes_limit", math.inf):
        yield
        return
    ended = threading.Event()

    def reached(*_) -> None:
        if ended.is_set():
            raise _Ended

    with ThreadPoolExecutor(1, "compiling") as pool:
        rehearsed = pool.submit(rehearse, run, params, reached)
        try:
            yield
        finally:
            ended.set()
        with contextlib.suppress(_Ended):
            rehearsed.result()


def rehearse(run: Run, params: nnx.State, reached: Callable[..., None]) -> None:
    """Inverts a lesson, answers what an evaluation asks, answers and reviews the tasks of generation 1, calls a tool,
    and goes on from prompts as long as they may become; `reached` is called after every dispatch. What no generation
    before the second needs comes first, and last what is needed by chance."""
    against(params, random_like(difference(params, params), 0), 1.0)
    if control := control_text(run):
        run.loss(params, control)
    writer = replace(run.writer(params), sampler=replace(run.sampler, meter=Meter()))
    reviewer = replace(run.reviewer(params), seed=lambda: params)
    tasks, passages = run.tasks(1), run.passages(1)
    encoded = lambda item: (*run.tokenizer.render(item.messages), *run.tokenizer.encode(item.begun))
    asked = [encoded(item) for item in run.world.items(tasks) if item.form == "chat"]
    writer.sample([Request(n, prompt) for n, prompt in enumerate(asked)], seed=0, advance=reached)
    index = Index(passages)
    drafts = [draft(writer, index, t, 0, "ahead") for t in tasks]
    said = finish(writer, index, drafts, generation=1, seed=0, advance=reached)
    if (calls := writer.caller) and drafts and len(drafts[-1].prompt) + len(calls.opening) <= writer.room:
        writer.sample([drafts[-1].request(0, calls.opening, calls.grammar)], seed=0, advance=reached)
    worked = [Said(t, 0, tuple(run.tokenizer.encode(t.answer)), t.answer, True) for t in run.shown[:REVIEWED]]
    reviewer.verdicts(as_cases(reviewer, worked, run.seed_index.passages, ()))
    own = {"tasks": {t.id: t for t in tasks}, "passages": {p.id: p for p in passages}}
    review = partial(reviewer.review, **own, siblings=said, reached=reached)
    review(said)
    make_targets(writer, run.scorer, review, said, run.config.targets, 0, reached)
    shown = [*asked, *(d.prompt for d in drafts)]
    _every_width(writer, run.config.model, shown, [p.text for p in passages], reached)


def _every_width(
    writer: Writer, model: DecoderConfig, prompts: Sequence[Sequence[int]], passages: Sequence[str],
    reached: Callable[..., None],
) -> None:  # fmt: skip
    """Goes on from prompts of every width, few and many, with a grammar and without: those of the prompts, and of what
    becomes of one when a tool is called, a passage answers, and a branch or a correction begins with what is said then.

    Which of these a generation needs is chance: whether a model calls tools, and how many do.
    """
    calls, said, sampler = writer.caller, writer.config.new_tokens, writer.sampler
    shortest, longest = min(map(len, prompts), default=1), max(map(len, prompts), default=1)
    if calls:
        answer = max((len(writer.tokenizer.answered(text)) for text in passages), default=0)
        longest = max(longest, min(longest + len(calls.opening) + said + answer, writer.room))
    lengths = {sampler.columns(model, n): n for n in range(shortest, longest + said + 1)}  # the longest of each width
    for length in lengths.values():
        for grammar in (None, calls.grammar) if calls else (None,):
            for count in (1, sampler.slots):  # few prompts are read by a program of their own
                alike = [Request(n, (n % model.vocab_size,) * length, grammar) for n in range(count)]
                writer.sample(alike, seed=0, advance=reached)
