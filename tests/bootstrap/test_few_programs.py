"""With the shapes of accelerators, what comes after a first time of its kind is compiled no more.

Counted is what JAX tells of its compiler, by the name of the function.
"""

import itertools
import math
import queue
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import little
import pytest
from flax import nnx
from support import changed, compiling, little_config, random_examples, requests, start, transcript

from ratchet.bootstrap import ahead, engines, loop, wrongthink
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run, prepare
from ratchet.bootstrap.simulate import draft, finish
from ratchet.bootstrap.thinkers import Knower, control_text
from ratchet.bootstrap.tools import Toolbox, call_text
from ratchet.bootstrap.worlds.world import Case, Material
from ratchet.launch import extending
from ratchet.models import decoder, programs
from ratchet.models.decoder import DecoderConfig
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer
from ratchet.train.batches import Batches
from ratchet.train.checkpoint import Checkpoints
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig, make_mesh
from ratchet.train.trainer import EngineConfig, Training, fit, mean_loss

SHORT = {"seed": 0, "steps": 2, "columns": 48, "row_multiple": 2}


@pytest.fixture(autouse=True)
def accelerators(monkeypatch):
    """Shapes are chosen as on accelerators, and nothing is compiled that other tests have left."""
    jax.clear_caches()
    monkeypatch.setattr(programs, "few", lambda device=None: True)


def test_other_prompts_questions_and_stops_are_sampled_and_scored_by_the_same_programs(small):
    sampler, scorer = Sampler(small[0], slots=16, new_tokens=6, keep=4), Scorer(small[0], questions=8)

    def generation(seed: int, stop: tuple[int, ...]) -> None:
        asked = requests(40, seed=seed, longest=60 - seed)
        alike = [replace(r, prompt=asked[r.id % 2].prompt) for r in asked[: 9 + seed]]
        for part in (asked, asked[: 5 + seed], alike):
            sampler(small[1], part, seed=seed, temperature=1.0, stop=stop)
        contexts = [r.prompt for r in requests(3, seed=seed, longest=60 - 2 * seed)]
        asked = [(contexts[n % 3], r.prompt) for n, r in enumerate(requests(16, seed=seed, longest=40 - seed))]
        scorer(small[1], asked, (5, 9))
        scorer.log_likelihoods(small[1], asked)

    with compiling() as first:
        generation(0, (1,))
    with compiling() as later:
        generation(3, (1, 2))
        generation(7, (2,))
    assert {"jit(dispatch)", "jit(prefill)", "jit(answer_probabilities)"} <= set(first) and not later


@pytest.mark.parametrize("rank", [0, 2])
def test_training_for_longer_in_another_order_is_the_same_program(rank):
    graphdef, params = decoder.create(DecoderConfig(64, 16, 1, 2, 2, 32, 48, conv=1), 0)
    mesh, engine, examples = make_mesh(MeshConfig(), jax.devices()[:1]), EngineConfig(), random_examples(140, keep=3)
    shapes = set()

    def generation(seed: int, steps: int) -> None:
        exact, batches = (
            Batches([(examples, 180)], seed=seed, steps=steps, columns=48, few=few) for few in (False, True)
        )
        shapes.add((exact.rows, exact.predictions))
        assert exact.rows <= batches.rows <= 1.0625 * exact.rows
        run = Training(graphdef, batches, OptimizerConfig("adamw", 1e-2), mesh, engine, {}, rank=rank)
        trained = fit(run, params, None, lambda step, values: None)
        mean_loss(graphdef, trained, examples[seed : seed + 20])

    with compiling() as first:
        generation(0, 3)
    with compiling() as later:
        generation(1, 5)
        generation(3, 6)
    assert "jit(train_step)" in first and not later
    assert len(shapes) > 1, "by themselves they would have other shapes"


@pytest.mark.parametrize(("rank", "shape"), [(0, (1, 1, 1)), (0, (1, 2, 2)), (2, (2, 1, 1))])
def test_a_step_that_is_compiled_ahead_is_the_one_that_trains(tmp_path, rank, shape):
    """At first, and from a checkpoint."""
    graphdef, params = decoder.create(DecoderConfig(64, 16, 1, 2, 2, 32, 48, conv=1), 0)
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[: math.prod(shape)])
    batches, engine = Batches([(random_examples(40), 8)], **SHORT), EngineConfig(save_every=1)
    arm = Training(graphdef, batches, OptimizerConfig("muon", 1e-2, average=0.1), mesh, engine, {}, rank=rank)
    for reached in ([0, 1], [1]):
        jax.clear_caches()
        with compiling() as early, ahead.compiling_step(arm, params):
            pass
        steps = []
        with compiling() as later, Checkpoints(tmp_path / "saved", keep_every=1) as saved:
            fit(arm, params, saved, lambda step, values, steps=steps: steps.append(step))
        assert steps == reached and "jit(train_step)" in early and "jit(train_step)" not in later


def test_an_error_in_compiling_a_step_ahead_is_raised_and_several_processes_on_gpus_compile_none(monkeypatch):
    def full(arm, params):
        raise MemoryError("the device is full")

    monkeypatch.setattr(ahead, "compile_step", full)
    arm = SimpleNamespace(mesh=make_mesh(MeshConfig(), jax.devices()[:1]))
    with pytest.raises(MemoryError, match="the device is full"), ahead.compiling_step(arm, None):
        pass
    with pytest.raises(KeyError, match="the audit's"), ahead.compiling_step(arm, None):
        raise KeyError("the audit's")
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(programs, "platform", lambda device: "gpu")
    with ahead.compiling_step(arm, None):
        pass


def test_short_batches_have_one_shape():
    """A step of fewer tokens costs an accelerator as much: it waits for launches and weights."""
    examples = random_examples(60)
    batches = [Batches([(examples, count)], **SHORT | {"few": True}) for count in (4, 8, 20)]
    assert {(b.rows, b.predictions, b.segments, b.keep) for b in batches} == {(44, 48, 15, batches[0].keep)}
    assert Batches([(examples, 4)], **SHORT).rows < 8


@pytest.fixture
def begun(tmp_path, request):
    """A run of which nothing is made yet, with some settings changed."""
    config = little_config(**{"generations": 1, "controls__imitation": False} | getattr(request, "param", {}))
    return prepare(start(tmp_path / "run", config), config, Silent())


def there() -> threading.Event:
    """What says that tasks are there."""
    event = threading.Event()
    event.set()
    return event


def test_what_comes_after_the_seed_is_compiled_ahead(begun):
    with compiling() as first:
        ahead.rehearse(begun, begun.fresh_weights(), lambda *_: None)
        ahead.compile_alone(begun, there(), lambda: None)
    assert "jit(allow)" in first, "calls of tools keep to a grammar"
    with compiling() as inverted:
        params = begun.fresh_weights()
        lesson = wrongthink.difference(params, begun.fresh_weights())
        wrongthink.against(params, wrongthink.random_like(lesson, 7), 0.5)
    with compiling() as grown:
        _after_a_call(begun, params)
        _reviewed(begun, params)
    with compiling() as later:
        loop.run(begun.directory, begun.config, Silent())
    assert (begun.directory / "gen-001" / "DONE.json").exists()
    sampled = {"jit(dispatch)", "jit(prefill)", "jit(empty)", "jit(allow)"}
    assert not inverted and not grown and not {*sampled, "jit(answer_probabilities)"} & set(later)
    longer = replace(begun.config, generations=2)
    given = extending.extend(begun.directory, longer)
    with compiling() as second:
        loop.run(begun.directory, longer, Silent(), given=given)
    assert (begun.directory / "gen-002" / "DONE.json").exists() and not second


@pytest.mark.parametrize("begun", [{"targets__kind": "teacher", "generations": 2}], indirect=True)
def test_what_only_corrections_need_is_compiled_before_there_are_any(begun, deeds, monkeypatch):
    begun = replace(begun, config=changed(begun.config, wrongthink__sources=("contrast",)))
    params, tasks, passages = begun.fresh_weights(), begun.tasks(1), begun.passages(1)
    right = [transcript(t, little.answer(deeds, t), tokenizer=begun.tokenizer) for t in tasks]
    knower = Knower(begun, 1, params, params, tasks, right, passages)
    writer, index = begun.writer(params), Index(passages)
    drafts = [draft(writer, index, t, 0, "test") for t in tasks]
    with compiling() as first:
        ahead.compile_alone(begun, there(), lambda: None)
        ahead.compile_contrast(knower)
    said, keep = [d.prompt for d in drafts], writer.sampler.keep
    with compiling() as later:
        for t, prompt in zip(right, said, strict=True):
            for some in (t.tokens[:1], t.tokens):
                begun.scorer.distributions(params, [((*prompt, *some), t.tokens), (prompt, some)], keep)
        knower.vector("contrast")
    assert {"jit(token_distributions)", "jit(train_step)"} <= set(first)
    assert not {"jit(token_distributions)", "jit(train_step)"} & set(later)
    monkeypatch.setattr(Knower, "asides", lambda self: pytest.fail("there is nothing to compile"))
    inverts = replace(begun, config=changed(begun.config, wrongthink__sources=("inverted",)))
    short = replace(begun, config=changed(begun.config, generations=1))
    for other in ({"number": 2}, {"run": inverts}, {"run": short}):
        ahead.compile_contrast(replace(knower, **other))


def test_all_is_compiled_when_the_first_generation_is_evaluated(begun, monkeypatch):
    """However long the thread takes, a generation after the first has nothing left to compile."""
    is_trained, happened = threading.Event(), []
    train, evaluation = loop.train.train, loop.evaluation

    def compile_alone(run, tasks, reached):
        is_trained.wait()
        time.sleep(0.2)
        happened.append("compiled")

    def trained(g, ready):
        params = train(g, ready)
        happened.append("trained")
        is_trained.set()
        return params

    def evaluated(run, number, *given):
        happened.append(f"evaluated {number}")
        return evaluation(run, number, *given)

    monkeypatch.setattr(ahead, "rehearse", lambda run, params, reached: None)
    monkeypatch.setattr(ahead, "compile_alone", compile_alone)
    monkeypatch.setattr(loop.train, "train", trained)
    monkeypatch.setattr(loop, "evaluation", evaluated)
    loop.run(begun.directory, begun.config, Silent())
    assert happened == ["evaluated 0", "trained", "compiled", "evaluated 1"]


def test_what_is_rehearsed_nobody_else_hears(begun, monkeypatch):
    """An untrained model neither asks a judge at an address, which is paid, nor calls a tool that may do something."""
    monkeypatch.setattr(Run, "judge", property(lambda self: Judging()))
    tool = {"name": "delete", "description": "", "parameters": {"type": "object", "properties": {}}}
    source = SimpleNamespace(described=[tool], answers=lambda asked: pytest.fail("it was called"))
    own = next(c for c in begun.rubric if c.kind == "model")
    far = own.model_copy(update={"id": "far", "judge": "address"})
    run = replace(begun, rubric=(*begun.rubric, far), tools=Toolbox([source]))
    heard, ended = [], ahead.finish
    seen = lambda writer, *given, **more: heard.append(writer.offered) or ended(writer, *given, **more)
    monkeypatch.setattr(ahead, "finish", seen)
    ahead.rehearse(run, run.fresh_weights(), lambda *_: None)
    assert heard and all(tool not in offered for offered in heard)


class Judging:
    """A judge that may not be asked."""

    def __call__(self, *_):
        pytest.fail("it was asked")


def _reviewed(run: Run, params: nnx.State) -> None:
    """Answers are reviewed, one and many, with few different sources in view and with many."""
    reviewer, passages, text = run.reviewer(params), run.passages(1), run.shown[0].answer
    views = [some for n in range(1, 4) for some in itertools.combinations(passages, n)]
    case = Case(run.tasks(1)[0], text, "", True, (), tuple(reviewer.steps(text)), (), ())
    for count in (1, 3, 7, 14):
        asked = [replace(case, passages=view) for view in views[:count]]
        reviewer.verdicts(asked)
        reviewer.first_faults(asked)


def _after_a_call(run: Run, params: nnx.State) -> None:
    """Answers go on, few and many, after a tool was called and has answered, and so do branches of the last word."""
    writer, passages, answer = run.writer(params), run.passages(1), run.shown[0].answer
    drafts, index = [], Index(passages)
    for t in run.tasks(1):
        d = draft(writer, index, t, 0, "test")
        told = max((writer.tokenizer.answered(p.text) for p in passages), key=len)
        drafts.append(replace(d, prompt=(*d.prompt, *writer.tokenizer.encode(call_text(t.seek[0])), *told)))
    said = (*writer.tokenizer.encode(answer), *writer.tokenizer.encode(answer))[: writer.config.new_tokens - 1]
    many = [replace(d, task=replace(d.task, id=f"{d.task.id} {n}"), forced=(n,)) for d in drafts for n in range(2, 9)]
    for some in (drafts[:1], many):
        for begun in ((), said):
            asked = [replace(d, forced=(*d.forced, *begun)) for d in some]
            finish(writer, index, asked, generation=1, seed=1)
            writer.sample([d.request(0, writer.caller.opening, writer.caller.grammar) for d in some], seed=1)


def test_a_thread_rehearses_until_the_seed_model_is_there_and_compiles_until_the_run_ends(begun, monkeypatch):
    heard, began = [], {name: threading.Event() for name in ("rehearse", "compile_alone")}

    def until_it_has_to_end(name):
        def work(run, *given):
            began[name].set()
            try:
                while True:
                    given[-1]()
            finally:
                heard.append((name, run))

        return work

    for name in began:
        monkeypatch.setattr(ahead, name, until_it_has_to_end(name))
    with ahead.compiling(begun) as beside:
        assert began["rehearse"].wait(3600) and not began["compile_alone"].is_set()
        beside.seed_is_there()
        assert began["compile_alone"].wait(3600) and heard == [("rehearse", begun)]
    assert heard == [("rehearse", begun), ("compile_alone", begun)]
    heard.clear()
    with pytest.raises(KeyError, match="the run's own"), ahead.compiling(begun):
        raise KeyError("the run's own")
    assert heard == [("rehearse", begun), ("compile_alone", begun)]


def test_what_a_model_proposes_is_waited_for(begun, monkeypatch):
    """Documents have no tasks until a model has proposed them, and what is sampled then is compiled then."""
    proposed, happened, lesson = [], queue.Queue(), threading.Event()
    inverting = ahead.compile_inverting
    monkeypatch.setattr(Run, "material", lambda run, number: Material(run.world.slices[0].documents))
    monkeypatch.setattr(Run, "tasks", lambda run, number: happened.put(list(proposed)) or begun.world.slices[0].tasks)
    monkeypatch.setattr(ahead, "_has_room", lambda run: False)
    monkeypatch.setattr(ahead, "compile_inverting", lambda params: inverting(params) or lesson.set())
    with ahead.compiling(begun) as beside:
        assert lesson.wait(3600) and happened.empty()
        proposed.append("tasks")
        beside.tasks_are_there()
        assert happened.get(timeout=3600) == ["tasks"]
    lesson.clear()
    happened = queue.Queue()
    with ahead.compiling(begun):
        assert lesson.wait(3600)  # a run that ends now leaves nothing that waits, or reads what is not there
    assert happened.empty()


@pytest.mark.parametrize("work", ["rehearse", "compile_alone"])
def test_what_goes_wrong_in_the_thread_is_said_and_the_run_goes_on(begun, monkeypatch, work):
    lines, shown = queue.Queue(), Silent()
    monkeypatch.setattr(shown, "line", lines.put)
    for name in ("rehearse", "compile_alone"):
        monkeypatch.setattr(ahead, name, lambda *_: None)
    monkeypatch.setattr(ahead, work, lambda *_: 1 / 0)
    with ahead.compiling(replace(begun, progress=shown)) as beside:
        assert "compiling ahead has ended, ZeroDivisionError: division by zero" in lines.get(timeout=3600)
        beside.seed_is_there()
        beside.wait()
    assert lines.empty()


def test_nothing_is_compiled_ahead_by_a_run_that_goes_on(begun, monkeypatch):
    """A run that goes on from a seed model compiles nothing ahead, since its first process has."""
    for name in ("rehearse", "compile_alone"):
        monkeypatch.setattr(ahead, name, lambda *_: pytest.fail("it ran"))
    begun.keep_weights(begun.generation(0), begun.fresh_weights())
    with ahead.compiling(begun) as beside:
        beside.seed_is_there()
        beside.wait()


@pytest.mark.long
def test_on_several_devices_and_from_a_model_of_others_what_comes_is_compiled_and_nothing_runs(begun, monkeypatch):
    mesh = make_mesh(MeshConfig(), jax.devices()[:2])
    of = begun.config, begun.graphdef, mesh
    several = replace(begun, mesh=mesh, sampler=engines.sampler(*of), scorer=engines.scorer(*of, begun.scorer.unused))
    with compiling() as first:
        ahead.compile_alone(several, there(), lambda: None)
    params = several.fresh_weights()
    with compiling() as later:
        _after_a_call(several, params)
        _reviewed(several, params)
        lesson = wrongthink.difference(params, several.fresh_weights())
        for vector in (lesson, wrongthink.random_like(lesson, 7)):
            several.loss(wrongthink.against(params, vector, 0.5), control_text(several))
    compiled = {"jit(dispatch)", "jit(prefill)", "jit(empty)", "jit(allow)", "jit(answer_probabilities)"}
    compiled |= {"jit(difference)", "jit(_random)", "jit(_scaled)", "jit(_less)", "jit(loss_sums)"}
    assert compiled <= set(first) and not compiled & set(later)
    heard = []
    monkeypatch.setattr(ahead, "rehearse", lambda *_: pytest.fail("it ran"))
    monkeypatch.setattr(ahead, "compile_alone", lambda run, *_: heard.append(run))
    from_others = replace(begun, config=changed(begun.config, base="a folder"))
    for run in (several, from_others):
        with ahead.compiling(run):
            pass
    assert heard == [several, from_others]


def test_nothing_is_compiled_ahead_on_a_cpu_or_by_one_of_several_processes_on_gpus(begun, monkeypatch):
    for work in ("rehearse", "compile_alone"):
        monkeypatch.setattr(ahead, work, lambda *_: pytest.fail("it ran"))
    with monkeypatch.context() as patch:
        patch.setattr(jax, "process_count", lambda: 2)
        patch.setattr(programs, "platform", lambda device: "gpu")
        with ahead.compiling(replace(begun, mesh=make_mesh(MeshConfig(), jax.devices()[:2]))):
            pass
    monkeypatch.setattr(programs, "few", lambda device: False)
    with ahead.compiling(begun):
        pass


@pytest.mark.long
def test_a_generation_after_those_with_all_stages_compiles_nothing(tmp_path):
    """The first generation that makes corrections is the second; two more are made by a process that goes on."""
    changes = {"generations": 2, "controls__imitation": False}
    directory = start(tmp_path / "run", little_config(**changes))
    loop.run(directory, little_config(**changes), Silent())
    longer = little_config(**changes | {"generations": 4})
    given = extending.extend(directory, longer)
    with compiling() as later:
        loop.run(directory, longer, Silent(), given=given)
    assert (directory / "gen-004" / "DONE.json").exists() and not later
