"""What a run starts from: the corpus, the tokenizer, the seed demonstrations and the seed model (generation 0)."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import jax
from etils import epath
from flax import nnx

from ratchet.bootstrap import documents, examples
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.ledger import once
from ratchet.bootstrap.progress import Metrics, Progress
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import Criterion, load_rubric
from ratchet.bootstrap.simulate import Writer
from ratchet.bootstrap.tools import call_grammar, call_text
from ratchet.bootstrap.transcript import Document, Task, content_id
from ratchet.bootstrap.worlds import demonstrations
from ratchet.bootstrap.worlds.language import ASKINGS, CONTEXTS
from ratchet.bootstrap.worlds.lessons import Lessons, Situation, stories
from ratchet.bootstrap.worlds.oracle import Oracle
from ratchet.models import architectures, decoder, huggingface
from ratchet.models.folder_tokenizer import FolderTokenizer
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer
from ratchet.models.tokenizer import Tokenizer
from ratchet.train.batches import Batches
from ratchet.train.checkpoint import Checkpoints, has_weights, load_weights, save_weights
from ratchet.train.monitor import describe
from ratchet.train.records import Example, whole
from ratchet.train.sharding import make_mesh, slots_sharding, state_sharding
from ratchet.train.trainer import Training, fit

SKILLS = ("simulate", "interrupt", "review", "prose")
SEEN = tuple(c for c in CONTEXTS if c.seen)


@dataclass(frozen=True)
class Run:
    """Everything that stays the same while a run goes on. `oracle` is None for users' own documents."""

    directory: epath.Path
    config: Config
    world: Lessons
    oracle: Oracle | None
    slices: tuple[tuple[Task, ...], ...]
    """Tasks of each slice of the corpus, in the order in which generations read them; the last is for none of them."""
    index: Index
    passages: Mapping[str, Document]
    corpus: tuple[Document, ...]
    tokenizer: Tokenizer
    rubric: tuple[Criterion, ...]
    graphdef: nnx.GraphDef
    sampler: Sampler
    scorer: Scorer
    mesh: jax.sharding.Mesh
    progress: Progress
    metrics: Metrics

    @property
    def room(self) -> int:
        """Tokens that a prompt may have."""
        return self.config.model.max_length - self.config.simulate.new_tokens

    def seed(self, *parts) -> int:
        """A 31-bit seed for one purpose, from the run's seed."""
        return int(content_id(self.config.seed, *parts)[:8], 16) >> 1

    def generation(self, number: int) -> epath.Path:
        return self.directory / f"gen-{number:03d}"

    def writer(self, params: nnx.State) -> Writer:
        return Writer(self.sampler, params, self.tokenizer, self.config.model.max_length)

    def weights(self, number: int) -> nnx.State:
        """The weights of a finished generation."""
        return load_weights(self.generation(number) / "model", self.fresh_weights())

    def fresh_weights(self) -> nnx.State:
        """A decoder's weights before any training, laid out over the mesh."""
        _, params = decoder.create(self.config.model, self.seed("initial"))
        return jax.device_put(params, state_sharding(self.mesh, params))


def check(config: Config) -> None:
    """Raises ValueError for what a run would stumble over: world, rubric, mesh, model, documents, or a tokenizer in
    which no tool can be called."""
    _world(config)
    load_rubric(config.review.rubric)
    _sampler(config, decoder.create(config.model, 0)[0], make_mesh(config.mesh))
    if config.documents.path:
        documents.read(epath.Path(config.documents.path))
    if config.base and config.simulate.lookups:
        call_grammar(FolderTokenizer.of_folder(epath.Path(config.base)))


def prepare(directory: epath.Path, config: Config, progress: Progress) -> Run:
    """Reads or makes corpus, tokenizer and model definition. Cheap enough to repeat on every resume.

    Raises ValueError when the documents or the rubric are not those that the run began with.
    """
    world = _world(config)
    rubric = load_rubric(config.review.rubric)
    corpus, slices, oracle = _material(directory, config, world)
    _check_inputs(directory, corpus, rubric)
    passages = documents.passages(corpus, config.documents.passage_words)
    tokenizer = _tokenizer(directory, config, world, corpus)
    graphdef, _ = decoder.create(config.model, 0)
    mesh = make_mesh(config.mesh)
    return Run(
        directory, config, world, oracle, slices, Index(passages), {p.id: p for p in passages}, tuple(corpus),
        tokenizer, rubric, graphdef, _sampler(config, graphdef, mesh), _scorer(config, graphdef, mesh), mesh, progress,
        Metrics(directory),
    )  # fmt: skip


def _sampler(config: Config, graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> Sampler:
    """The sampler, its slots over the mesh. Raises ValueError when they do not fill it."""
    c, parts = config.simulate, mesh.shape["data"] * mesh.shape["fsdp"]
    if c.slots % parts:
        raise ValueError(f"simulate.slots: {c.slots} do not divide over {parts} devices; make it a multiple of {parts}")
    return Sampler(
        graphdef, slots=c.slots, new_tokens=c.new_tokens, keep=c.keep, int8=c.int8_cache,
        dtype=config.train.engine.dtype, rows=_rows(mesh), attention=config.train.engine.attention,
    )  # fmt: skip


def _scorer(config: Config, graphdef: nnx.GraphDef, mesh: jax.sharding.Mesh) -> Scorer:
    engine = config.train.engine
    return Scorer(
        graphdef, questions=config.simulate.slots, dtype=engine.dtype, rows=_rows(mesh), attention=engine.attention
    )


def _rows(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding | None:
    return slots_sharding(mesh) if mesh.size > 1 else None


def _world(config: Config) -> Lessons:
    return Lessons.create(
        config.seed, config.world.slice * config.generations + config.evaluate.fresh,
        config.world.demonstrations + config.world.probes, config.world.third_option,
    )  # fmt: skip


def _material(directory: epath.Path, config: Config, world: Lessons):
    """(documents, tasks by slice, oracle) of the world, or of the user's own material without an oracle."""
    if config.documents.path:
        corpus = documents.read(epath.Path(config.documents.path))
        tasks = documents.tasks(corpus)
        size = config.world.slice
        slices = tuple(tuple(tasks[i * size : (i + 1) * size]) for i in range(config.generations))
        return corpus, slices, None
    path = directory / "corpus" / "1.0.0"
    if not (path / "dataset_info.json").exists():
        documents.write(path, world.documents())
    questions = [_questions(world, s, config.world.questions, i) for i, s in enumerate(world.situations)]
    truth = {t.id: s for s, tasks in zip(world.situations, questions, strict=True) for t in tasks}
    size, read = config.world.slice, len(questions) - config.evaluate.fresh
    slices = tuple(tuple(t for tasks in questions[i : i + size] for t in tasks) for i in range(0, read, size))
    fresh = tuple(tasks[0] for tasks in questions[read:])
    return documents.read(path), (*slices, fresh), Oracle(truth)


def _questions(world: Lessons, situation: Situation, count: int, first: int) -> list[Task]:
    """Questions about a situation, each in the next of the contexts that training may see, and other ways to ask it."""
    tasks = []
    for n in range(count):
        context = SEEN[(first + n) % len(SEEN)]
        others = [c for c in (*SEEN, *ASKINGS) if c != context]
        also = random.Random(f"askings {situation.id} {n}").sample(others, len(SEEN))
        tasks.append(world.task(situation, context, n, also))
    return tasks


def _check_inputs(directory: epath.Path, corpus: Sequence[Document], rubric: Sequence[Criterion]) -> None:
    """Files outside the run's directory are compared by hash: units made from two versions do not mix."""
    now = {
        "documents": content_id([[d.id, d.text] for d in corpus]),
        "rubric": content_id([c.model_dump() for c in rubric]),
    }
    began = once(directory / "inputs.json", lambda: now)
    if different := [name for name in now if now[name] != began[name]]:
        raise ValueError(
            f"{directory}: the {different[0]} changed since this run began; restore the old or start a new run"
        )


def load_tokenizer(directory: epath.Path) -> Tokenizer | None:
    """That of a run, once it has one."""
    own, folder = directory / "tokenizer" / "model.spm", directory / "tokenizer" / "tokenizer.json"
    if folder.exists():
        return FolderTokenizer(folder.read_bytes())
    return Tokenizer.load(own) if own.exists() else None


def _tokenizer(directory: epath.Path, config: Config, world: Lessons, corpus: list[Document]) -> Tokenizer:
    if found := load_tokenizer(directory):
        return found
    if config.base:
        folder = epath.Path(config.base)
        tokenizer, name = FolderTokenizer.of_folder(folder), "tokenizer.json"
        with whole(directory / "tokenizer" / "config.json") as kept:  # how long its sequences may be, for an export
            kept.write_bytes((folder / "config.json").read_bytes())
    else:
        tokenizer, name = _own_tokenizer(config, world, corpus), "model.spm"
    with whole(directory / "tokenizer" / name) as fresh:
        fresh.write_bytes(tokenizer.model)
    return tokenizer


def _own_tokenizer(config: Config, world: Lessons, corpus: list[Document]) -> Tokenizer:
    shown = world.demonstrations
    questions = [t for s in shown for t in _questions(world, s, len(SEEN), 0)]
    asked = [m["content"] for t in questions for messages in (t.messages, *t.askings) for m in messages]
    ideal = [demonstrations.ideal_answer(s, s.actions, random.Random(s.id), missing=s.actions) for s in shown]
    answers = [f"{answer.text} no, told? {call_text(answer.lookup)}" for answer in ideal]
    prose = [" ".join(line) for line in demonstrations.prose(random.Random("tokenizer"), 1000)]
    told = [story.text for s in shown for story in _stories(world, s)]
    own = [*told, *asked, *answers, *prose]
    return Tokenizer.train([*own, *_as_much_as(own, corpus)], config.model.vocab_size)


def _as_much_as(own: list[str], corpus: list[Document]) -> list[str]:
    """Corpus text up to the length of the seed text, so that a large corpus does not crowd its words out."""
    room, taken = sum(map(len, own)), []
    for document in corpus:
        room -= len(document.text)
        if room < 0:
            break
        taken.append(document.text)
    return taken


def _stories(world: Lessons, situation: Situation) -> list[Document]:
    return stories(situation, random.Random(f"{world.seed} {situation.id}"))


def demonstration_index(run: Run) -> Index:
    """BM25 over the demonstrations' own documents, which are no part of the corpus."""
    return Index([story for s in run.world.demonstrations for story in _stories(run.world, s)])


def seed_examples(run: Run) -> dict[str, list[Example]]:
    """The seed demonstrations as examples by skill: simulate, interrupt, review; and general prose."""
    c, index = run.config, demonstration_index(run)
    models = [r for r in run.rubric if r.kind == "model"]
    made: dict[str, list[Example]] = {"simulate": [], "interrupt": [], "review": []}
    for number, situation in enumerate(run.world.demonstrations[: c.world.demonstrations]):
        task = run.world.task(situation, SEEN[number % len(SEEN)])
        given = (run.tokenizer, index, situation, task)
        made["simulate"].append(examples.simulate_demonstration(*given, c.simulate, run.room, "demo"))
        made["interrupt"].append(examples.interrupt_demonstration(*given, c.simulate, run.room, "demo"))
        made["review"] += examples.review_demonstrations(*given, models, c.simulate, run.room, "demo")
    for skill, shown in made.items():
        made[skill] = [copy for e in shown for copy in examples.renamed(run.tokenizer, e, c.train.renamed)]
    lines = demonstrations.prose(random.Random(f"prose {c.seed}"), c.world.prose)
    made["prose"] = [examples.prose_example(run.tokenizer, *line) for line in lines]
    return made


def blend(made: Mapping[str, list[Example]], mixture: Sequence[int]) -> list[Example]:
    """The seed examples as one pool in the seed model's mixture; a skill with few examples repeats them."""
    unit = len(made["simulate"])
    return [e for name, share in zip(SKILLS, mixture, strict=True) for e in itertools.islice(
        itertools.cycle(made[name]), unit * share)]  # fmt: skip


def with_base(config: Config) -> Config:
    """The settings with the model of the folder `base`, if there is one, and rows for the control symbols; only
    `model.max_length` stays. Raises FolderError for a folder that cannot be read."""
    if not config.base:
        return config
    folder = epath.Path(config.base)
    model, ids = architectures.read_config(folder), FolderTokenizer.of_folder(folder).vocab_size
    rows = max(model.vocab_size, -(-ids // 64) * 64)
    return replace(config, model=replace(model, vocab_size=rows, max_length=config.model.max_length))


def base_weights(config: Config, mesh: jax.sharding.Mesh) -> nnx.State:
    """The weights of the folder `base` over the mesh, with rows for the control symbols."""
    folder = epath.Path(config.base)
    own = huggingface.load(folder, architectures.read_config(folder), lambda params: state_sharding(mesh, params))
    more = huggingface.with_rows(own, config.model.vocab_size)
    return jax.device_put(more, state_sharding(mesh, more))


def control_text(run: Run) -> list[Example]:
    """Prose that nothing was trained on, for perplexity."""
    lines = demonstrations.prose(random.Random(f"control {run.config.seed}"), 64)
    return [examples.prose_example(run.tokenizer, *line) for line in lines]


def train_seed_model(run: Run, made: Mapping[str, list[Example]]) -> nnx.State:
    """Generation 0: a decoder from scratch, or from the weights of `base`, on the demonstrations and general prose,
    never on the corpus."""
    target = run.generation(0) / "model"
    c = run.config
    if has_weights(target):
        return run.weights(0)
    params = base_weights(c, run.mesh) if c.base else run.fresh_weights()
    pools = list(zip((made[skill] for skill in SKILLS), c.train.seed_mixture, strict=True))
    params = train_arm(run, 0, "seed", params, pools, c.train.seed_steps)
    save_weights(target, params)
    return params


def train_arm(run: Run, generation: int, arm: str, params: nnx.State, pools, steps: int,
              rate_scale: float = 1.0) -> nnx.State:  # fmt: skip
    """Trains with checkpoints under the arm's own directory, progress and metrics."""
    c = run.config.train
    rows = run.mesh.shape["data"] * run.mesh.shape["fsdp"] * c.engine.micro_batches
    batches = Batches(
        pools, seed=run.seed("batches", arm, generation), steps=steps, columns=c.columns, row_multiple=rows
    )
    optimizer = replace(c.optimizer, rate=c.optimizer.rate * rate_scale)
    position = {
        "arm": arm,
        "generation": generation,
        "steps": steps,
        "data": content_id([e.id for p in pools for e in p[0]]),
    }
    name = f"{arm}-{generation:03d}"
    profile = str(run.directory / "profile" / name)
    training = Training(run.graphdef, batches, optimizer, run.mesh, c.engine, position, profile, c.lora)
    checkpoints = Checkpoints(run.directory / "checkpoints" / name, keep_every=c.engine.save_every)
    with run.progress.stage(f"gen {generation} train ({arm})", steps) as advance, checkpoints:

        def log(step: int, values: dict[str, float]) -> None:
            advance(1, describe(step, steps, values))
            if step % 20 == 0 or step == steps - 1:
                run.metrics.log(generation, arm, step, values)

        return fit(training, params, checkpoints, log)
