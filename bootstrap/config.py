"""Every setting of a run, frozen. The command line and `config.json` are made from these classes.

The bound of a number lies with its field; `models.bounds` says what the texts mean.
"""

import dataclasses
import difflib
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ratchet.bootstrap.rollouts.settings import RolloutsConfig
from ratchet.bootstrap.teacher.settings import JudgeConfig, TeacherConfig, is_address
from ratchet.bootstrap.worlds import ArithmeticConfig, DocumentsConfig, LessonsConfig
from ratchet.models import bounds
from ratchet.models.bounds import bounded
from ratchet.models.decoder import DecoderConfig, check_sizes
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig
from ratchet.train.trainer import EngineConfig


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or at odds with another."""


@dataclass(frozen=True)
class SimulateConfig:
    """How the teacher reads and writes."""

    samples: int = bounded(8, "at least 1")
    """Transcripts per task."""
    temperature: float = bounded(1.0, "at least 0")
    top_k: int = bounded(0, "at least 0")
    """Only the likeliest ids are sampled; 0: all."""
    top_p: float = bounded(1.0, "above 0 and at most 1")
    """Only the likeliest ids that together have this much of the probability that top_k leaves."""
    min_p: float = bounded(0.0, "from 0 to 1")
    """Only ids with at least this share of the likeliest one's probability. What is captured is never cut."""
    passage_words: int = bounded(200, "at least 1")
    """Longer documents are split into passages of at most this many words, or twice as many letters of a script that
    is written without spaces."""
    passages: int = bounded(3, "at least 1")
    """Retrieved passages in view of the teacher."""
    alike: float = bounded(0.95, "from 0 to 1")
    """Passages that score at least this share of the best one tell what is sought as well: siblings see different
    ones."""
    withhold: float = bounded(0.0, "from 0 to 1")
    """Share of transcripts whose teacher sees one passage less and has to look it up."""
    calls: int = bounded(1, "at least 0")
    """Tool calls allowed per transcript; 0: none, and the teacher hears of no tools."""
    call_seconds: float = bounded(60.0, "above 0")
    """Seconds that the tools of a transcript may take together. A call beyond them is answered by saying so."""
    tools: tuple[Literal["lookup", "calculate", "python"], ...] = ("lookup",)
    """What may be called beside the tools of the world: `lookup` finds passages that are not in view, `calculate` works
    out expressions, and `python` runs programs in WebAssembly, without files or network ([tools])."""
    mcp: str = ""
    """A YAML file of MCP servers and of their tools that may be called ([tools]), as bootstrap/worlds/README.md shows
    one."""
    relevant: float = bounded(0.7, "from 0 to 1")
    """A look-up finds no passage that scores less than this share of the best one."""
    repeated: float = bounded(0.5, "from 0 to 1")
    """A look-up finds no passage that shares more than this of its words with one in view."""
    new_tokens: int = bounded(256, "at least 1")
    """Longest assistant turn."""
    slots: int = bounded(64, "at least 1")
    """Answers sampled at a time, and questions asked; a slot takes the next as it ends."""
    int8_cache: bool = False
    """Keys and values in a byte a number while sampling: half of the memory and traffic of bfloat16."""
    keep: int = bounded(16, "at least 1")
    """Ids kept of every next-token distribution (K)."""
    unit_tasks: int = bounded(80, "at least 1")
    """Tasks committed together."""
    revisit: int = bounded(6, "at least 0")
    """Also return to earlier documents with fewer accepted transcripts than this; 0 never does."""


@dataclass(frozen=True)
class ReviewConfig:
    """How transcripts are judged."""

    rubric: str = ""
    """A YAML file of criteria, or grounded-knowledge, agent-safety or tool-use; empty: the world's own."""
    probes: int = bounded(60, "at least 1")
    """Worked tasks, the last of the world's seed, that nothing is trained on: they calibrate the reviewer, if the world
    grades them."""
    practice: int = bounded(0, "at least 0")
    """Further worked tasks that no demonstration shows, if the world grades them: what the model as a reviewer gets
    wrong about answers to them teaches it."""
    target_precision: float = bounded(0.97, "from 0 to 1")
    """The thresholds are the most lenient ones that reach this on the probes."""
    minimum_recall: float = bounded(0.2, "from 0 to 1")
    """A reviewer below this recall on the probes, at the target precision, stops the generation."""
    attacks: int = bounded(100, "at least 0")
    """Wrong answers that try to pass the review, in each generation of a world with an oracle; those that do are
    counted."""


@dataclass(frozen=True)
class TargetsConfig:
    """What distribution an accepted transcript teaches."""

    kind: Literal["one_hot", "teacher", "students", "reviewed"] = "reviewed"
    """`reviewed`: no probability enters that no reviewed continuation backs. `students`: the teacher's distributions
    for students, and what was sampled for the simulator, which learns nothing from its own view. The others are for
    comparisons."""
    per_task: int = bounded(3, "at least 1")
    """Accepted transcripts kept per task."""
    open_mass: float = bounded(0.02, "from 0 to 1")
    """τ: positions with more teacher probability than this outside the sampled token are branch-reviewed."""
    smallest_branch: float = bounded(0.02, "from 0 to 1")
    """ε: alternatives below this probability get no branch, and no mass."""


@dataclass(frozen=True)
class WrongthinkConfig:
    """Wrong thoughts, and what interrupts them."""

    first_generation: int = bounded(2, "at least 0")
    """Generation from which corrections are made; 0 turns them off."""
    sources: tuple[Literal["inverted", "contrast", "incumbent", "random", "spoiled"], ...] = ("inverted", "spoiled")
    """Where wrong thoughts come from: at most one model (the inverted lesson; the contrast of right answers and spoiled
    ones; the incumbent's own errors; a random vector), and accepted transcripts with one step spoiled by rule."""
    interruption: str = "no,"
    """What the supervisor says first."""
    steps: int = bounded(60, "at least 1")
    """Steps of each of the two side runs, on right answers and on spoiled ones, whose difference is the contrast."""
    lambdas: tuple[float, ...] = bounded((0.2, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7), "above 0")
    """How far the vector is inverted: each is tried, and the most wrong within the two bounds below is taken."""
    perplexity_budget: float = bounded(1.1, "above 0")
    """Largest perplexity of the wrong-thinker on control text, relative to the incumbent's."""
    minimum_formed: float = bounded(0.9, "from 0 to 1")
    """Share of the wrong-thinker's samples that must be well formed."""
    minimum_wrong: float = bounded(0.2, "from 0 to 1")
    """Share of its samples that must be wrong, or no model thinks wrongly in this generation."""
    samples: int = bounded(3, "at least 1")
    """Wrong thoughts per task and source; a model's first begins anew, its second after one right step, and so on. Of
    an answer, every step is spoiled."""
    per_task: int = bounded(8, "at least 1")
    """Accepted corrections of a task that a generation trains on."""
    share: float = bounded(0.3, "from 0 to 1")
    """Share of corrections, of all generations, in a training batch's newest half."""


@dataclass(frozen=True)
class SeedMixture:
    """Examples per step of the seed model, by skill; a skill that the world has no examples of is left out."""

    simulate: int = bounded(8, "at least 0")
    interrupt: int = bounded(1, "at least 0")
    review: int = bounded(5, "at least 0")
    prose: int = bounded(8, "at least 0")


@dataclass(frozen=True)
class TrainConfig:
    """What each generation trains on, and for how long."""

    seed_mixture: SeedMixture = field(default_factory=SeedMixture)
    seed_steps: int = bounded(500, "at least 1")
    """Steps of the seed model on the worked tasks; a world without any starts from the weights as they are."""
    steps: int = bounded(300, "at least 1")
    """Steps of generation 1; a generation with g slices to remember gets `steps · (1 + (g - 1) · growth)`."""
    growth: float = bounded(1.0, "at least 0")
    later_rate: float = bounded(1.0, "above 0")
    """Learning rate of generations, relative to the seed model's: below 1 where the seed's skills are easily lost."""
    lora: int = bounded(0, "at least 0")
    """Rank of adapters that are trained in place of the weights of `base`, and merged into them; 0: all is trained."""
    batch: int = bounded(64, "at least 2")
    """Examples per step, half of them from the newest generation."""
    columns: int = bounded(1024, "at least 1")
    """Tokens per packed row. Longer examples are left out, and it is said how many."""
    student: float = bounded(0.65, "from 0 to 1")
    """Share of student examples (no sources in view) among accepted transcripts; the rest trains the simulator."""
    renamed: int = bounded(0, "at least 0")
    """Copies of an example with sources in view, each with the world's names exchanged in sources and answer alike:
    reading answers it, memory does not. 0: the example as it is, as it is for models of others in whose tokens a word
    after a space is another than one at the beginning."""
    demonstrations: float = bounded(0.35, "from 0 to 1")
    """Share of the seed demonstrations and prose in the earlier half, once there is anything else in it."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    """How a generation is measured."""

    samples: int = bounded(8, "at least 1")
    """Transcripts per fresh task."""
    margin: float = bounded(0.02, "at least 0")
    """What a guard may lose before a candidate is rolled back."""
    resolution: float = bounded(0.2, "above 0")
    """A fall as large as this must be seen. Where the items are too few to exclude it, a candidate is not promoted."""
    rollbacks: int = bounded(2, "at least 1")
    """Generations in a row that are rolled back before a run ends."""


@dataclass(frozen=True)
class ControlsConfig:
    """What is there for comparisons alone."""

    start: Literal["base", "last"] = "base"
    """Each generation starts from the seed model's weights, or from the last promoted ones."""
    mixture: Literal["accumulate", "replace"] = "accumulate"
    """Half newest and half everything earlier, or only the newest."""
    random_share: float = bounded(0.0, "from 0 to 1")
    """Above 0, this share of the transcripts is accepted at random instead of by their verdicts."""
    imitation: bool = False
    """Also train the imitation arm: raw documents, one-hot, as many tokens as the last generation."""


@dataclass(frozen=True)
class Config:
    """A run of the loop. Raises ConfigError when a setting is at odds with another, ValueError when a number is out of
    its bound or the model's sizes do not fit together."""

    recipe: str = "documents"
    world: str = "documents"
    """What there is to read: documents, lessons, arithmetic, or a function of yours, package.module:function."""
    base: str = ""
    """A model to start from, not random weights: smollm2, a Hugging Face folder or a GGUF file, be it in a bucket. Its
    sizes take the place of `model`, but for `max_length`, its tokenizer and chat template that of SentencePiece."""
    wandb: str = ""
    """A project of Weights & Biases to which the figures of training are sent as well ([wandb]); its key comes from the
    environment variable WANDB_API_KEY."""
    seed: int = 0
    generations: int = bounded(3, "at least 1")
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    lessons: LessonsConfig = field(default_factory=LessonsConfig)
    arithmetic: ArithmeticConfig = field(default_factory=ArithmeticConfig)
    model: DecoderConfig = field(default_factory=DecoderConfig)
    simulate: SimulateConfig = field(default_factory=SimulateConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    rollouts: RolloutsConfig = field(default_factory=RolloutsConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    wrongthink: WrongthinkConfig = field(default_factory=WrongthinkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    controls: ControlsConfig = field(default_factory=ControlsConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        try:
            bounds.check(self)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        settings = flat(self)
        for name, at_odds, remedy in _relations(self):
            if at_odds:
                raise ConfigError(f"config: {name} is {settings[name]}; {remedy}")
        check_sizes(self.model)


def _relations(c: Config) -> tuple[tuple[str, bool, str], ...]:
    """(setting, whether it is at odds with another, what to do)."""
    longest, answer = c.model.max_length, c.simulate.new_tokens
    first, last = c.train.engine.profile
    part = max(longest - answer, answer)  # both together seldom are as long as they may be
    models = [source for source in c.wrongthink.sources if source != "spoiled"]
    return (
        (
            "simulate.new_tokens",
            answer >= longest,
            f"it must be below model.max_length, {longest}, to leave room for a prompt",
        ),
        (
            "train.columns",
            c.train.columns <= part,
            f"it must be above {part}, which a prompt (model.max_length - simulate.new_tokens) or an answer may take",
        ),
        (
            "documents.path",
            bool(c.documents.path) and c.world != "documents",
            f"the world {c.world} reads none; leave it out, or set --world documents",
        ),
        ("simulate.keep", c.simulate.keep > c.model.vocab_size, f"model.vocab_size is {c.model.vocab_size}; lower it"),
        *(
            (name, bool(url) and not is_address(url), "give it as http://HOST:PORT/v1, without a name or a key")
            for name, url in (
                ("teacher.url", c.teacher.url), ("judge.url", c.judge.url),
                *(("rollouts.url", url) for url in c.rollouts.url),
            )  # fmt: skip
        ),
        ("rollouts.url", bool(c.rollouts.url) and not c.base, "servers hold a model that others know; give its --base"),
        (
            "simulate.calls",
            bool(c.rollouts.url) and c.simulate.calls > 0,
            "servers of the run's own model have all passages in view and call nothing; set it to 0",
        ),
        *(
            (f"simulate.{name}", there and c.simulate.calls < 1, "nothing may be called; set simulate.calls above 0")
            for name, there in (("tools", bool({*c.simulate.tools} - {"lookup"})), ("mcp", bool(c.simulate.mcp)))
        ),
        *(
            (f"{s.section}.prices", len(s.prices) not in (0, 2), "give two, of a million prompt and answer tokens")
            for s in (c.teacher, c.judge)
        ),
        ("train.lora", c.train.lora > 0 and not c.base, "random weights are not worth adapting; give --base"),
        ("train.optimizer.rate", math.isinf(c.train.optimizer.rate), "it must be a finite number"),
        ("train.engine.profile", first > last, "the second step, the first that is not traced, comes after the first"),
        ("wrongthink.sources", len(models) > 1, f"{' and '.join(models)} are models; choose one"),
        ("wrongthink.interruption", not c.wrongthink.interruption.strip(), "the supervisor has to say something"),
    )


def from_json(text: str) -> Config:
    """The config in a JSON object by section, such as `{"train": {"steps": 300}}`; what is left out has its default.
    Raises ConfigError like `with_settings`, and ValueError for text that is no JSON."""
    return _build(Config, json.loads(text), "")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        name = f"{prefix}{f.name}"
        found |= flat(value, name + ".") if dataclasses.is_dataclass(value) else {name: value}
    return found


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with other values of the settings that are given by dotted name. Raises ConfigError for a setting that
    is unknown, and for a value that is of the wrong type or at odds with another."""
    fields, known = dataclasses.asdict(config), flat(config)
    for name, value in settings.items():
        if name not in known:
            within = [n for n in known if n.startswith(name + ".")]
            remedy = f"it holds settings, such as {within[0]}" if within else in_place_of(name)
            raise ConfigError(f"config: unknown setting {name}; {remedy}")
        part = fields
        *sections, leaf = name.split(".")
        for section in sections:
            part = part[section]
        part[leaf] = value
    return _build(Config, fields, "")


def nearest(name: str) -> str | None:
    """The known dotted setting closest to an unknown one: of those whose last word is closest or the same; where none
    is close, of all. None where none of these is close either."""
    known, last = list(flat(Config())), lambda setting: setting.split(".")[-1]
    words = difflib.get_close_matches(last(name), {*map(last, known)}, n=1)
    leaf = [k for k in known if last(k) in words]
    return next(iter(difflib.get_close_matches(name, leaf or known, n=1, cutoff=0.0 if leaf else 0.6)), None)


def in_place_of(name: str) -> str:
    """What is said of an unknown setting: which one is near, or where all are."""
    close = nearest(name)
    return f"nearest is {close}" if close else "`ratchet run RECIPE --help` lists all"


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"config: {prefix.rstrip('.') or 'the whole'} is {values!r}; it must be an object")
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise ConfigError(f"config: unknown setting {prefix}{name}; {in_place_of(prefix + name)}")
    return kind(**{name: _value(hints[name], value, prefix + name) for name, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name + ".")
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise ConfigError(f"config: {name} is {value!r}; it must be one of {', '.join(get_args(hint))}")
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"config: {name} is {value!r}; it must be a list")
        kinds = get_args(hint)
        if kinds[-1] is not Ellipsis and len(value) != len(kinds):
            raise ConfigError(f"config: {name} is {value!r}; it must have {len(kinds)} parts")
        return tuple(_value(kinds[0], one, name) for one in value)
    plain = hint if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) else object
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError(f"config: {name} is {value!r}; it must be of type {plain.__name__}")
    return value
