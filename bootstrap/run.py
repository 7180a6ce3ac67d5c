"""What stays the same while a run goes on, and how it is prepared."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from etils import epath
from flax import nnx

from ratchet.bootstrap import engines
from ratchet.bootstrap.config import Config, ReviewConfig, flat
from ratchet.bootstrap.given import Given, base_config, base_model, check_inputs, given_world
from ratchet.bootstrap.kinds import Kinds, read_kinds
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.passages import passages_of
from ratchet.bootstrap.progress import Metrics, Progress, timed
from ratchet.bootstrap.proposals import Proposal, from_json, shown_of, tasks_of
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.rollouts.replicas import find_server
from ratchet.bootstrap.rubric import Criterion, load_rubric, seated
from ratchet.bootstrap.simulate import Writer, check_later, longest_passage
from ratchet.bootstrap.teacher.afar import meet_teacher
from ratchet.bootstrap.teacher.client import Client
from ratchet.bootstrap.teacher.judging import FarJudge, meet_judge
from ratchet.bootstrap.teacher.probing import find_model
from ratchet.bootstrap.tokenizers import TOKENIZER, keep_tokenizer
from ratchet.bootstrap.toolkit.offered import open_toolbox, toolbox
from ratchet.bootstrap.tools import Toolbox, caller
from ratchet.bootstrap.worlds.world import Document, Material, Task, World, content_id
from ratchet.models import decoder
from ratchet.models.architectures import FolderError
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer
from ratchet.models.tokenizer import load as load_tokenizer
from ratchet.train.checkpoint import fingerprint, has_weights, load_weights, save_weights
from ratchet.train.commits import Commits, units_in
from ratchet.train.files import typed
from ratchet.train.records import Example
from ratchet.train.sharding import laid_out, make_mesh, place, state_sharding
from ratchet.train.together import ALONE, Together
from ratchet.train.trainer import compile_mean_loss, mean_loss


@dataclass(frozen=True)
class Run:
    """Everything that stays the same while a run goes on."""

    directory: epath.Path
    config: Config
    world: World
    tokenizer: Any
    rubric: tuple[Criterion, ...]
    graphdef: nnx.GraphDef
    sampler: Sampler
    scorer: Scorer
    mesh: jax.sharding.Mesh
    progress: Progress
    metrics: Metrics | None
    """None: the run is only read, and nothing is written into its directory."""
    tools: Toolbox
    kinds: Kinds | None
    """What is proposed about documents without tasks, and worked answers; None: the world has none."""
    longest_passage: int
    """Tokens that fit into the teacher's view beside a question."""
    together: Together = ALONE
    """The processes that go on with the run in step; the first one writes its files."""

    def seed(self, *parts) -> int:
        """A 31-bit seed for one purpose, from the run's seed."""
        return int(content_id(self.config.seed, *parts)[:8], 16) >> 1

    @property
    def commits(self) -> Commits:
        """What the run has committed."""
        return Commits(self.directory, self.together)

    def stage(self, place: epath.Path) -> Stage:
        """The units of a stage, in its directory."""
        return Stage(place, self.together)

    def generation(self, number: int) -> epath.Path:
        """The directory of a generation."""
        return self.directory / f"gen-{number:03d}"

    def writer(self, params: nnx.State) -> Writer:
        """A model that writes with these weights."""
        longest, shown = self.config.model.max_length, shown_of(self.kinds)
        return Writer(self.sampler, params, self.tokenizer, self.config.simulate, longest, self.tools, shown)

    def reviewer(self, params: nnx.State) -> Reviewer:
        """A model that reviews with these weights, at the rubric's own thresholds."""
        return Reviewer(
            self.scorer,
            params,
            self.tokenizer,
            self.rubric,
            self.world.checks,
            self.world.steps,
            self.config.wrongthink.interruption,
            self.config.model.max_length,
            lambda: self.seed_weights,
            self.judge,
        )

    def material(self, number: int) -> Material:
        """What generation `number` reads for the first time; with 0, what none reads."""
        return self.world.slices[number - 1] if number else self.world.fresh

    def proposals(self, number: int) -> epath.Path:
        """Where the tasks are committed that a model proposes about the material of `number`."""
        return self.generation(number) / "propose"

    def tasks(self, number: int) -> tuple[Task, ...]:
        """The tasks of the slice that generation `number` reads for the first time, or with 0 those that the simulator
        is measured on: the world's own, else those proposed so far."""
        own = self.material(number).tasks
        if own or not self.kinds:
            return own
        known = number, *units_in(self.proposals(number))
        if known not in self._proposed:
            self._proposed[known] = self.tasks_among(map(from_json, self.stage(self.proposals(number)).committed()))
        return self._proposed[known]

    @cached_property
    def _proposed(self) -> dict[tuple, tuple[Task, ...]]:
        """The tasks among what was committed, by generation and hashes of its units: each is compared with all."""
        return {}

    def tasks_among(self, proposals: Iterable[Proposal]) -> tuple[Task, ...]:
        """The tasks among proposals of the run's kinds."""
        fixed = {kind.id for kind in self.kinds.kinds if kind.question}
        return tasks_of(proposals, self.world.per_document, fixed)

    def read(self, number: int) -> tuple[Task, ...]:
        """The tasks of every slice read by generation `number`, in order."""
        return tuple(t for n in range(1, number + 1) for t in self.tasks(n))

    def passages(self, number: int) -> list[Document]:
        """The passages of every document read by generation `number`."""
        return self.cut(d for material in self.world.slices[:number] for d in material.documents)

    @cached_property
    def fresh_index(self) -> Index:
        """The passages that the simulator is measured on: those of the fresh material beside the first slice's. They
        stay the same however many generations there are."""
        return Index(self.cut((*self.world.fresh.documents, *self.world.slices[0].documents)))

    @cached_property
    def seed_index(self) -> Index:
        """The passages of the worked tasks, the seed's and the probes'."""
        return Index(self.cut((*self.world.seed.documents, *self.world.probes.documents)))

    def cut(self, documents: Iterable[Document]) -> list[Document]:
        """Documents in passages that fit into the teacher's view beside a question."""
        longest = self.longest_passage
        fits = lambda text: len(text.encode()) <= longest or len(self.tokenizer.encode(text)) <= longest
        return passages_of(documents, self.config.simulate.passage_words, fits)

    @property
    def shown(self) -> tuple[Task, ...]:
        """The worked tasks that are demonstrated."""
        return _worked(self.world, self.config.review)[0]

    @property
    def practice(self) -> tuple[Task, ...]:
        """The worked tasks that are not demonstrated, and teach reviewers what they get wrong about answers to them."""
        return _worked(self.world, self.config.review)[1]

    @property
    def probes(self) -> tuple[Task, ...]:
        """The worked tasks that nothing is trained on, for the reviewer's calibration."""
        return _worked(self.world, self.config.review)[2]

    def fitting(self, made: Sequence[Example], where: str) -> list[Example]:
        """The examples that a row of training holds. It is said how many are left out, and `where`."""
        columns = self.config.train.columns
        fit = [e for e in made if len(e.tokens) <= columns]
        if left_out := len(made) - len(fit):
            self.progress.line(
                f"{where}: {left_out} of {len(made)} examples are left out, longer than train.columns, {columns} tokens"
            )
        return fit

    def longer_rows(self, tokens: int) -> str:
        """What to do where examples of so many tokens are needed."""
        return f"`ratchet resume {typed(self.directory)} --train.columns {tokens}` goes on with room for them"

    def loss(self, params: nnx.State, examples: Sequence[Example]) -> float:
        """The mean loss of examples, in nats per weighted token."""
        return mean_loss(self.graphdef, params, examples, deterministic=self.config.train.engine.deterministic)

    def compile_loss(self, params: nnx.State, examples: Sequence[Example]) -> None:
        """Compiles what `loss` runs, for shapes of weights with their layout."""
        compile_mean_loss(self.graphdef, params, examples, deterministic=self.config.train.engine.deterministic)

    @cached_property
    def teacher(self) -> Client:
        """The teacher by address, which is probed when it is first needed in a run's life."""
        calls = bool(self.config.simulate.calls and self.tools.described)
        return meet_teacher(self.directory, self.config, self.progress, calls, self.together)

    @cached_property
    def judge(self) -> FarJudge | None:
        """The judge by address, probed like the teacher; None: there is none."""
        if not self.config.judge.url:
            return None
        asked = [c.id for c in self.rubric if c.judge == "address"]
        return meet_judge(self.directory, self.config, self.progress, asked, self.together)

    def weights(self, number: int) -> nnx.State:
        """The weights of a trained generation."""
        return self.weights_in(self.generation(number))

    def has_weights(self, place: epath.Path) -> bool:
        """Whether a generation or an arm is trained, and its weights are there."""
        there = lambda: has_weights(place / "model")
        return self.commits.has(place / "model") and self.decided(f"whether {place.name} is trained", there)

    def weights_in(self, place: epath.Path) -> nnx.State:
        """The weights of a generation or an arm, in its directory, laid out over the mesh. Raises CheckpointError when
        they cannot be read, AlteredError when they are another's."""
        _, shapes = decoder.shapes(self.config.model)
        params = load_weights(place / "model", laid_out(shapes, state_sharding(self.mesh, shapes)))
        self.commits.confirm(place / "model", fingerprint(params))
        return params

    def decided(self, what: str, decide: Callable[[], Any]) -> Any:
        """What the first of several processes finds or does among the run's files, as `Together.decided` has it."""
        return self.together.decided(what, decide)

    def timed(self, place: epath.Path, stage: str) -> contextlib.AbstractContextManager:
        """Adds the seconds that a stage takes to those that are written down in a generation's directory."""
        return timed(place, stage) if self.together.first else contextlib.nullcontext()

    def keep_weights(self, place: epath.Path, params: nnx.State) -> None:
        """Commits the weights of a generation or an arm."""
        self.commits.keep(place / "model", fingerprint(params), lambda: save_weights(place / "model", params))

    @cached_property
    def seed_weights(self) -> nnx.State:
        """The weights of generation 0, from which students start and by which a run is judged."""
        return self.weights(0)

    def fresh_weights(self) -> nnx.State:
        """A decoder's weights before any training, laid out over the mesh."""
        _, params = decoder.create(self.config.model, self.seed("initial"))
        return place(params, state_sharding(self.mesh, params))


def check_adapters(config: Config) -> None:
    """Raises ValueError where adapters would be trained by an optimizer that is for whole weights."""
    if config.train.lora and config.train.optimizer.kind == "muon":
        raise ValueError("config: train.optimizer.kind is muon, which is for whole matrices; adapters take adamw")
    if config.train.lora and config.train.optimizer.average:
        raise ValueError("config: train.optimizer.average is not 0; the mean of adapters is not that of weights")


def check(config: Config) -> Given:
    """What a run is given to read. Raises ValueError for what a run would stumble over: world, rubric, mesh, model,
    documents, a tokenizer in which no tool can be called, questions beside which no passage fits, or a teacher, judge
    or servers by address that are not there."""
    check_adapters(config)
    given = given_world(config)
    world = given.world
    seated(load_rubric(config.review.rubric, world), bool(config.judge.url))
    kinds = _kinds(world)
    engines.sampler(config, decoder.shapes(config.model)[0], make_mesh(config.mesh))
    if config.base:
        asked, reads = config.model.max_length, base_config(config.base).max_length
        if asked > reads:
            raise ValueError(f"config: model.max_length is {asked}; {config.base} reads {reads}, lower it to that")
        tokenizer = base_model(config.base).tokenizer()
        tokenizer.check()
        tools = toolbox(config.simulate, world.tools)
        if config.simulate.calls and tools.described:
            try:
                _ = caller(tools.described, tokenizer).grammar
            except FolderError as error:
                raise FolderError(f"{error}, or have none called by --simulate.calls 0") from error
        check_later(tokenizer, config, tools, shown_of(kinds), world)
    elif not world.seed.tasks:
        raise ValueError(
            f"world: {world.name} has no worked tasks, from which alone a model from scratch learns to answer; start "
            "from a model with --base"
        )
    elif not _worked(world, config.review)[0]:
        c = config.review
        held_out = [f"--review.probes {c.probes}"] * (not world.probes.tasks)
        held_out += [f"--review.practice {c.practice}"] * (c.practice > 0)
        raise ValueError(
            f"world: {world.name} has {len(world.seed.tasks)} worked tasks, and {' and '.join(held_out)} of them are "
            "held out for the review; a model from scratch learns from the others: have more, or hold out fewer"
        )
    for asked in (one for one in (config.teacher, config.judge) if one.url):
        find_model(Client(asked, asked.model, None), config.model.max_length)
    if config.rollouts.url:
        find_server(config.rollouts)
    return given


def prepare(
    directory: epath.Path, config: Config, progress: Progress, *, writes: bool = True, together: Together = ALONE,
    given: Given | None = None,
) -> Run:  # fmt: skip
    """Reads or makes world, tokenizer and model definition; a world that is `given` is not read again.

    A run that is looked at while another process may be at work on it is one that never `writes` there. Raises, before
    anything is written, AlteredError when a file is not what was committed; ValueError when the documents or the rubric
    are not those that the run began with, or when there is nothing to look at yet.
    """
    commits = Commits(directory, together)
    together.decided("what was committed", commits.check)
    if not writes and not any(directory.glob("gen-*")):
        raise ValueError(f"{directory} has made nothing yet; see `ratchet status {typed(directory)}`")
    world, account = given or given_world(config)
    rubric = load_rubric(config.review.rubric, world)
    tools = open_toolbox(directory, config.simulate, world.tools, progress, writes, together)
    check_inputs(directory, commits, world, rubric, tools, writes)
    rubric = seated(rubric, bool(config.judge.url))
    if account and writes:
        together.decided("an account of what was read", lambda: account.keep(directory))
        account.tell(progress)
    make = lambda: keep_tokenizer(directory, config, world, rubric, writes)
    together.decided("the tokenizer", make)
    tokenizer = load_tokenizer(directory / TOKENIZER)
    if config.simulate.calls and tools.described:
        caller(tools.described, tokenizer)  # whether it can tell them apart
    graphdef, _ = decoder.shapes(config.model)
    mesh = _mesh(directory, config)
    # Rows that pad a folder's embedding were never trained; a model from scratch learns that no such id comes next.
    unused = tuple(sorted({*range(config.model.vocab_size)} - tokenizer.ids)) if config.base else ()
    sampler, scorer = engines.sampler(config, graphdef, mesh, unused), engines.scorer(config, graphdef, mesh, unused)
    metrics = Metrics(directory, together.first, config.wandb, flat(config)) if writes else None
    kinds = _kinds(world)
    longest = longest_passage(tokenizer, config, tools, shown_of(kinds), world)
    return Run(
        directory, config, world, tokenizer, rubric, graphdef, sampler, scorer, mesh, progress, metrics, tools, kinds,
        longest, together,
    )  # fmt: skip


def _worked(world: World, held_out: ReviewConfig) -> tuple[tuple[Task, ...], tuple[Task, ...], tuple[Task, ...]]:
    """The worked tasks that are shown, those that reviewers practise on, and at most `held_out.probes` that probe them:
    the world's own, else the last of the seed's. What probes is nowhere else, and what is practised on is not shown,
    also where the seed has it twice. None are held out where nobody knows right answers, since nothing is graded."""
    tasks, own = world.seed.tasks, world.probes.tasks
    if not world.known:
        return tasks, (), own[: held_out.probes]
    end = len(tasks) if own else max(0, len(tasks) - held_out.probes)
    start = max(0, end - held_out.practice)
    probes = own[: held_out.probes] if own else tasks[end:]
    practice = _without(tasks[start:end], own or probes)
    return _without(tasks[:start], (*practice, *(own or probes))), practice, probes


def _without(tasks: Sequence[Task], others: Sequence[Task]) -> tuple[Task, ...]:
    """The tasks whose question and answer no other has."""
    taken = {(t.question, t.answer) for t in others}
    return tuple(t for t in tasks if (t.question, t.answer) not in taken)


def _kinds(world: World) -> Kinds | None:
    """The kinds of tasks that a model proposes in a world; None where it has none. Raises ValueError when they cannot
    be read."""
    return read_kinds(world.kinds, f"tasks of the world {world.name}") if world.kinds else None


def _mesh(directory: epath.Path, config: Config) -> jax.sharding.Mesh:
    """The mesh of a run. Raises ValueError when it was begun on devices of another number."""
    try:
        return make_mesh(config.mesh)
    except ValueError as error:
        reason = str(error).rpartition("; ")[0]
        raise ValueError(f"{directory}: {reason}; go on where it was begun, or start a new run here") from error


def with_base(config: Config) -> Config:
    """The settings with the model that `base` names, if there is one; only `model.max_length` stays. Raises FolderError
    for one that cannot be read."""
    if not config.base:
        return config
    model = base_config(config.base)
    return replace(config, model=replace(model, max_length=config.model.max_length))
