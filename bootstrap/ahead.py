"""Compiling ahead: while a seed model trains on an accelerator, a thread has those programs compiled that come after
it.

The thread has untrained weights answer and review what the next stages ask, and throws away what they say. Nothing that
the run makes depends on it.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import jax
from flax import nnx

from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import draft, finish
from ratchet.bootstrap.targets import make_targets
from ratchet.bootstrap.thinkers import control_text
from ratchet.bootstrap.wrongthink import Said, against, as_cases, difference, random_like
from ratchet.models import programs
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
    """Inverts a lesson, answers what an evaluation asks, answers and reviews the tasks of generation 1, and calls a
    tool; `reached` is called after every dispatch. What no generation before the second needs comes first."""
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
