"""Compiling ahead: while a run goes on, a thread has those programs compiled that come next.

The step that trains a generation is compiled while what it trains on is audited. On accelerators there is more: while
the seed model trains on one device, the thread has untrained weights answer and review what the next stages ask,
and throws away what they say. After that, on several devices, and beside a model of others, it compiles what samples,
reviews and inverts a lesson, and runs nothing. Nothing that the run makes depends on it.
"""

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx

from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import Reviewer, questions
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.simulate import Draft, Writer, draft, finish, prompt_of
from ratchet.bootstrap.targets import make_targets
from ratchet.bootstrap.thinkers import Knower, control_text
from ratchet.bootstrap.tools import LOOKUP, Toolbox
from ratchet.bootstrap.worlds.world import Case, Document
from ratchet.bootstrap.wrongthink import Said, against, as_cases, compile_inverting, difference, random_like
from ratchet.models import decoder, programs
from ratchet.models.grammar import Grammar, Guides
from ratchet.models.sampler import Meter, Request
from ratchet.models.scorer import Question
from ratchet.train import goodput
from ratchet.train.sharding import laid_out, state_sharding
from ratchet.train.trainer import Training, compile_step

SMALL = 1 / 32
"""The part of a device's memory that what a rehearsal holds may take: weights, others laid out for sampling, and two
caches. The rest is training's."""
REVIEWED = 64
"""Worked answers that are reviewed."""


class _Ended(Exception):
    """What a thread was to do beside something has to end, since that has ended."""


@dataclass(frozen=True)
class Beside:
    """What a run tells the thread that compiles beside it, if there is one."""

    thread: threading.Thread | None = None
    trained: threading.Event = field(default_factory=threading.Event)
    tasks: threading.Event = field(default_factory=threading.Event)

    def seed_is_there(self) -> None:
        """From now on the thread only compiles, and runs nothing."""
        self.trained.set()

    def tasks_are_there(self) -> None:
        """From now on the thread may read the tasks of generation 1, which a model may have proposed."""
        self.tasks.set()

    def wait(self) -> None:
        """Waits until all is compiled that the thread has to compile; the time counts as compiling."""
        if not self.thread or not self.thread.is_alive():
            return
        began = time.monotonic()
        self.thread.join()
        goodput.compiled(time.monotonic() - began)


NOTHING = Beside()
"""Nothing compiles beside the run."""


@contextlib.contextmanager
def compiling(run: Run) -> Iterator[Beside]:
    """Within, a thread compiles what samples and scores, and hears when the seed model is there. At the end, the
    program that it is at is waited for.

    On several devices nothing is run at all, since programs have to run in one order on all of them, nor with weights
    that leave a sampler no room beside training, nor from a model of others, beside which nothing may train that long.
    Nothing is done where that would not pay or could go wrong: on CPUs, in several processes on GPUs, which wait for
    each other while they compile, and where the seed model is there. An error in the thread, such as too little memory,
    ends what it does, is shown in a line, and leaves the run as it is.
    """
    few = programs.few(run.mesh.devices.flat[0])
    if not few or _bound(run.mesh) or run.has_weights(run.generation(0)):
        yield NOTHING
        return
    trained, tasks, ended = threading.Event(), threading.Event(), threading.Event()
    if run.material(1).tasks:
        tasks.set()

    def until(event: threading.Event) -> Callable[..., None]:
        def reached(*_) -> None:
            if event.is_set():
                raise _Ended

        return reached

    def work() -> None:
        try:
            with contextlib.suppress(_Ended):
                if _has_room(run):
                    rehearse(run, run.fresh_weights(), until(trained))
            with contextlib.suppress(_Ended):
                compile_alone(run, tasks, until(ended))
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            run.progress.line(f"what comes next is compiled when it is needed: compiling ahead has ended, {said}")

    thread = threading.Thread(target=work, name="compiling")
    thread.start()
    try:
        yield Beside(thread, trained, tasks)
    finally:
        for event in (trained, ended, tasks):
            event.set()
        thread.join()


@contextlib.contextmanager
def compiling_step(arm: Training, params: nnx.State) -> Iterator[None]:
    """Within, a thread compiles the step that trains an arm from such weights. At the end it is waited for, also where
    that comes early by an error; one in the thread is raised at a right end, as training would raise it.

    Several processes on GPUs compile the step when they train, as `compiling` has it.
    """
    if _bound(arm.mesh):
        yield
        return
    with ThreadPoolExecutor(1, "compiling") as pool:
        compiled = pool.submit(compile_step, arm, params)
        yield
        began = time.monotonic()
        compiled.result()
        goodput.compiled(time.monotonic() - began)


def _bound(mesh: jax.sharding.Mesh) -> bool:
    """Whether processes wait for each other while they compile: several on GPUs measure kernels together."""
    return jax.process_count() > 1 and programs.platform(mesh.devices.flat[0]) == "gpu"


def _has_room(run: Run) -> bool:
    """Whether a sampler has room beside training on the one device that there is; a model of others leaves none."""
    if run.mesh.size > 1 or run.config.base:
        return False
    model, simulate = run.config.model, run.config.simulate
    _, shapes = decoder.shapes(model)
    memory = run.mesh.devices.flat[0].memory_stats() or {}
    weights = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    column = 2 * jnp.dtype(run.config.train.engine.dtype).itemsize * model.layers * model.kv_heads * model.head_size
    caches = 2 * simulate.slots * model.max_length * column  # of the slots, and of those who wait for one
    return 2 * weights + caches <= SMALL * memory.get("bytes_limit", math.inf)


def rehearse(run: Run, params: nnx.State, reached: Callable[..., None]) -> None:
    """Inverts a lesson, answers what an evaluation asks, answers and reviews the tasks of generation 1, and calls a
    tool; `reached` is called after every dispatch. What no generation before the second needs comes first.

    Nobody else hears of it: the only tool is the look-up, and a judge at an address is asked nothing.
    """
    against(params, random_like(difference(params, params), 0), 1.0)
    if control := control_text(run):
        run.loss(params, control)
    own = Toolbox(lookup=LOOKUP in run.tools.described)
    writer = replace(run.writer(params), sampler=replace(run.sampler, meter=Meter()), tools=own)
    here = tuple(c for c in run.rubric if c.judge != "address")
    reviewer = replace(run.reviewer(params), seed=lambda: params, criteria=here, far=None)
    tasks, passages = run.tasks(1), run.passages(1)
    writer.sample([Request(n, prompt) for n, prompt in enumerate(_asked(run, writer))], seed=0, advance=reached)
    index = Index(passages)
    drafts = [draft(writer, index, t, 0, "ahead") for t in tasks]
    said = finish(writer, index, drafts, generation=1, seed=0, advance=reached)
    if (calls := writer.caller) and drafts and len(drafts[-1].prompt) + len(calls.opening) <= writer.room:
        writer.sample([drafts[-1].request(0, calls.opening, calls.grammar)], seed=0, advance=reached)
    worked = [Said(t, 0, tuple(run.tokenizer.encode(t.answer)), t.answer, True) for t in run.shown[:REVIEWED]]
    reviewer.verdicts(as_cases(reviewer, worked, run.seed_index.passages, ()))
    about = {"tasks": {t.id: t for t in tasks}, "passages": {p.id: p for p in passages}}
    review = partial(reviewer.review, **about, siblings=said, reached=reached)
    review(said)
    make_targets(writer, run.scorer, review, said, run.config.targets, 0, reached)


def compile_alone(run: Run, tasks: threading.Event, reached: Callable[..., None]) -> None:
    """Compiles what inverts a lesson and, once the `tasks` of generation 1 are there, what answers the review's
    questions, what samples after prompts as long as they may become, and what gives corrections the teacher's
    distributions. It runs none of it: of the weights it needs the shapes alone. `reached` is called at the beginning,
    when there are tasks, and before what compiles long.
    """
    reached()
    _, shapes = decoder.shapes(run.config.model)
    params = laid_out(shapes, state_sharding(run.mesh, shapes))
    compile_inverting(params)
    if control := control_text(run):
        run.compile_loss(params, control)
    tasks.wait()
    reached()
    writer, index = run.writer(params), Index(run.passages(1))
    drafts = [draft(writer, index, t, 0, "ahead") for t in run.tasks(1)]
    if asked := _questions(run, run.reviewer(params), drafts, index.passages):
        run.scorer.compile(run.scorer.shapes(params), asked, run.tokenizer.verdicts)
    weights = writer.sampler.shapes(params)
    for length, grammar in _widths(run, writer, _lengths(run, writer, drafts)):
        reached()
        columns = writer.sampler.columns(run.config.model, length)
        words = Guides([grammar], run.config.model.vocab_size).words
        writer.sampler.compile(weights, columns, words, cuts=writer.warp.cuts)
    c = run.config
    if c.targets.kind in ("teacher", "students") and 0 < c.wrongthink.first_generation <= c.generations and drafts:
        given = _corrected(run, drafts)
        run.scorer.compile_distributions(run.scorer.shapes(params), given, writer.sampler.keep, reached)


def _questions(run: Run, reviewer: Reviewer, drafts: Sequence[Draft], passages: Sequence[Document]) -> list[Question]:
    """What model criteria would ask if all these drafts were answered by the longest worked answer."""
    of, text = {p.id: p for p in passages}, max((t.answer for t in run.shown), key=len, default="")
    views = [(d.task, tuple(of[i] for i in d.passages)) for d in drafts]
    cases = [Case(task, text, "", True, (), tuple(reviewer.steps(text)), view, ()) for task, view in views]
    judged = [c for c in reviewer.criteria if c.kind == "model" and not c.labels and c.judge != "address"]
    return [
        reviewer.prompt(c, question, [p.text for p in case.passages], case.task)
        for c in judged
        for case in cases
        for question, _ in questions(c, case, case.steps)
    ]


def _asked(run: Run, writer: Writer) -> list[tuple[int, ...]]:
    """What an evaluation asks about the tasks of generation 1, in tokens."""
    return [prompt_of(writer, item) for item in run.world.items(run.tasks(1)) if item.form == "chat"]


def compile_contrast(knower: Knower) -> None:
    """Compiles what the side runs of the next generation's contrast are trained with, if that is the first that makes
    corrections: it will have about as many answers, and so batches of the same shape, most likely."""
    run, c = knower.run, knower.run.config.wrongthink
    if "contrast" not in c.sources or not knower.number + 1 == c.first_generation <= run.config.generations:
        return
    if programs.few(run.mesh.devices.flat[0]) and not _bound(run.mesh):
        for arm in replace(knower, run=replace(run, progress=Silent())).asides():
            compile_step(arm, knower.params)


def _corrected(run: Run, drafts: Sequence[Draft]) -> list[Question]:
    """As many tokens as stand before corrections of answers to such prompts, and as corrections have, of every
    number. Who is corrected calls no tool."""
    said, prompts = run.config.simulate.new_tokens, [len(d.prompt) for d in drafts]
    least, most = min(prompts), max(prompts) + said
    longest = said + len(run.tokenizer.encode(f" {run.config.wrongthink.interruption}"))
    contexts = [((0,) * n, (0,)) for n in range(least, most + 1)]
    return contexts + [((0,) * least, (0,) * n) for n in range(1, longest + 1)]


def _lengths(run: Run, writer: Writer, drafts: Sequence[Draft]) -> Sequence[int]:
    """The lengths of what is asked, and of what becomes of it when a tool is called, a passage answers, and a branch or
    a correction begins with what is said then.

    Which of these a generation needs is chance: whether a model calls tools, and how many do.
    """
    prompts = [*_asked(run, writer), *(d.prompt for d in drafts)]
    calls, said, longest = writer.caller, writer.config.new_tokens, max(map(len, prompts), default=0)
    if calls and prompts:
        answer = max((len(writer.tokenizer.answered(p.text)) for p in run.passages(1)), default=0)
        longest = max(longest, min(longest + len(calls.opening) + said + answer, writer.room))
    return range(min(map(len, prompts)), longest + said + 1) if prompts else ()


def _widths(run: Run, writer: Writer, lengths: Sequence[int]) -> Iterator[tuple[int, Grammar | None]]:
    """The longest prompt of each width, without a grammar and with that of calls."""
    calls = writer.caller
    for length in {writer.sampler.columns(run.config.model, n): n for n in lengths}.values():
        yield length, None
        if calls:
            yield length, calls.grammar
