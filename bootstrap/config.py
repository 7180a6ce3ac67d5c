"""Every setting of a run, frozen. The command line and `config.json` are made from these classes."""

import dataclasses
import difflib
import json
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ratchet.models.decoder import DecoderConfig, check_sizes
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.sharding import MeshConfig
from ratchet.train.trainer import EngineConfig


class ConfigError(ValueError):
    """A setting that is unknown, of the wrong type, or at odds with another."""


@dataclass(frozen=True)
class DocumentsConfig:
    """Source material."""

    path: str = ""
    """A TFDS dataset directory (with `id` and `text` features) or a folder of .txt files; empty: the world's own."""
    passage_words: int = 60
    """Longer documents are split into passages of at most this many words."""


@dataclass(frozen=True)
class WorldConfig:
    """The embedded lessons world."""

    slice: int = 54
    """Situations that each generation reads for the first time."""
    demonstrations: int = 200
    """Situations of the seed demonstrations; none of them is in the corpus."""
    prose: int = 6000
    """Lines of general prose for the seed model."""
    questions: int = 3
    """Tasks per situation, each in another context and order of options."""
    probes: int = 60
    """Further held-out situations with known references, for calibrating the reviewer."""
    third_option: float = 0.4
    """Share of situations with three possible actions instead of two; half of it among the demonstrations."""


@dataclass(frozen=True)
class SimulateConfig:
    samples: int = 16
    """Transcripts per task."""
    temperature: float = 1.0
    top_k: int = 0
    """Only the likeliest ids are sampled; 0: all."""
    top_p: float = 1.0
    """Only the likeliest ids that together have this much probability."""
    min_p: float = 0.0
    """Only ids with at least this share of the likeliest one's probability. What is captured is never cut."""
    passages: int = 3
    """Retrieved passages in view of the teacher."""
    withhold: float = 0.2
    """Share of transcripts whose teacher sees one passage less and has to look it up."""
    lookups: int = 1
    """Tool calls allowed per transcript."""
    new_tokens: int = 48
    """Longest assistant turn."""
    slots: int = 64
    """Answers sampled at a time, and questions asked; a slot takes the next as it ends."""
    int8_cache: bool = False
    """Keys and values in a byte a number while sampling: half of the memory and traffic of bfloat16."""
    keep: int = 8
    """Ids kept of every next-token distribution (K)."""
    unit_tasks: int = 80
    """Tasks committed together."""
    revisit: int = 6
    """Also return to earlier documents with fewer accepted transcripts than this; 0 never does."""


@dataclass(frozen=True)
class ReviewConfig:
    rubric: str = ""
    """A YAML file of criteria; empty: the built-in one."""
    target_precision: float = 0.97
    """The thresholds are the most lenient ones that reach this on the probes."""
    minimum_recall: float = 0.2
    """A reviewer below this recall on the probes, at the target precision, stops the generation."""
    random_share: float = 0.0
    """Control: above 0, this share of the transcripts is accepted at random instead of by their verdicts."""


@dataclass(frozen=True)
class TargetsConfig:
    kind: Literal["one_hot", "teacher", "reviewed"] = "reviewed"
    per_task: int = 3
    """Accepted transcripts kept per task."""
    open_mass: float = 0.02
    """τ: positions with more teacher probability than this outside the sampled token are branch-reviewed."""
    smallest_branch: float = 0.02
    """ε: alternatives below this probability get no branch, and no mass."""


@dataclass(frozen=True)
class WrongthinkConfig:
    first_generation: int = 2
    """Generation from which corrections are made; 0 turns them off."""
    sources: tuple[Literal["inverted", "incumbent", "random", "spoiled"], ...] = ("inverted", "spoiled")
    """Where wrong thoughts come from: one model (the inverted lesson vector, the incumbent's own errors or a random
    vector), and accepted transcripts with one step spoiled by rule."""
    steps: int = 60
    """Steps of the side run that measures what the lesson changes."""
    lambdas: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    perplexity_budget: float = 1.1
    """Largest perplexity of the wrong-thinker on control text, relative to the incumbent's."""
    minimum_formed: float = 0.7
    """Share of the wrong-thinker's samples that must be well formed."""
    samples: int = 3
    """Wrong thoughts per task and source; a model's first starts anew, the others after one right step, two, ...
    Of an answer, every claim and every wrong choice is made in turn."""
    share: float = 0.3
    """Share of corrections, of all generations, in a training batch's newest half."""


@dataclass(frozen=True)
class TrainConfig:
    seed_mixture: tuple[int, int, int, int] = (8, 1, 5, 8)
    """Examples per step of the seed model: simulate, interrupt, review, prose."""
    seed_steps: int = 550
    """Steps of the seed model, from scratch on the demonstrations."""
    steps: int = 360
    """Steps of generation 1; a generation with g slices to remember gets `steps · (1 + (g - 1) · growth)`."""
    growth: float = 1.0
    lora: int = 0
    """Rank of adapters that are trained in place of the weights of `base`, and merged into them; 0: all is trained."""
    batch: int = 64
    """Examples per step, half of them from the newest generation."""
    columns: int = 176
    """Tokens per packed row."""
    start: Literal["base", "last"] = "base"
    """Each generation starts from the seed model's weights, or from the last promoted ones."""
    mixture: Literal["accumulate", "replace"] = "accumulate"
    """Half newest and half everything earlier, or only the newest."""
    student: float = 0.65
    """Share of student examples (no sources in view) among accepted transcripts; the rest trains the simulator."""
    renamed: int = 4
    """Copies of an example with sources in view, each with names exchanged in sources and answer alike: reading
    answers it, memory does not. 0: the example as it is."""
    demonstrations: float = 0.35
    """Share of the seed demonstrations and prose in the earlier half, once there is anything else in it."""
    engine: EngineConfig = field(default_factory=EngineConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)


@dataclass(frozen=True)
class EvaluateConfig:
    fresh: int = 108
    """Situations at the end of the corpus that no generation reads, for the simulator's pass rate."""
    fresh_samples: int = 8
    """Transcripts per fresh situation."""
    margin: float = 0.02
    """What a guard may lose before a candidate is rolled back."""


BOUNDS: dict[str, tuple[Callable[[float], bool], str]] = {
    "at least 2": (lambda v: v >= 2, "train.batch"),
    "at least 1": (
        lambda v: v >= 1,
        """generations documents.passage_words world.slice world.demonstrations world.questions world.probes
        model.vocab_size model.width model.layers model.heads model.kv_heads model.mlp_width model.max_length model.conv
        simulate.samples simulate.passages simulate.new_tokens simulate.slots simulate.keep simulate.unit_tasks
        targets.per_task wrongthink.steps train.seed_steps train.steps train.columns train.engine.micro_batches
        evaluate.fresh evaluate.fresh_samples mesh.tensor""",
    ),
    "at least 0": (
        lambda v: v >= 0,
        """world.prose model.head_width simulate.temperature simulate.top_k simulate.lookups simulate.revisit
        wrongthink.first_generation train.seed_mixture train.lora train.growth train.renamed train.engine.loss.z_loss
        train.engine.save_every train.engine.profile train.optimizer.vector_share train.optimizer.weight_decay
        evaluate.margin""",
    ),
    "above 0": (
        lambda v: v > 0,
        """wrongthink.lambdas wrongthink.perplexity_budget train.engine.loss.temperature
        train.engine.save_minutes train.engine.stall_minutes train.optimizer.rate train.optimizer.clip""",
    ),
    "from 0 to 1": (
        lambda v: 0 <= v <= 1,
        """world.third_option simulate.min_p simulate.withhold
        review.target_precision review.minimum_recall review.random_share
        targets.open_mass targets.smallest_branch wrongthink.minimum_formed wrongthink.share train.student
        train.demonstrations train.engine.loss.hard_weight train.optimizer.warmup train.optimizer.average""",
    ),
    "above 0 and at most 1": (lambda v: 0 < v <= 1, "simulate.top_p"),
    "from 1 to 50": (lambda v: 1 <= v <= 50, "wrongthink.samples"),
    "at least 1, or -1 for all that is left": (lambda v: v >= 1 or v == -1, "mesh.data mesh.fsdp"),
}
"""What every number has to be, and the settings of which it is asked; of a tuple, each number."""


@dataclass(frozen=True)
class Config:
    """A run of the loop. Raises ConfigError when a setting is out of bounds or at odds with another, ValueError
    when the model's sizes are."""

    recipe: str = "lessons"
    base: str = ""
    """A Hugging Face folder to start from instead of random weights: its config.json takes the place of `model`, but
    for `max_length`, and its tokenizer that of SentencePiece."""
    seed: int = 0
    generations: int = 3
    imitation: bool = True
    """Also train the imitation arm: raw stories, one-hot, as many tokens as the last generation."""
    documents: DocumentsConfig = field(default_factory=DocumentsConfig)
    world: WorldConfig = field(default_factory=WorldConfig)
    model: DecoderConfig = field(default_factory=DecoderConfig)
    simulate: SimulateConfig = field(default_factory=SimulateConfig)
    review: ReviewConfig = field(default_factory=ReviewConfig)
    targets: TargetsConfig = field(default_factory=TargetsConfig)
    wrongthink: WrongthinkConfig = field(default_factory=WrongthinkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self):
        settings = flat(self)
        for text, (fits, names) in BOUNDS.items():
            for name in names.split():
                value = settings[name]
                if not all(map(fits, value if isinstance(value, tuple) else (value,))):
                    raise ConfigError(f"config: {name} is {value}; it must be {text}")
        for name, at_odds, remedy in _relations(self):
            if at_odds:
                raise ConfigError(f"config: {name} is {settings[name]}; {remedy}")
        check_sizes(self.model)


def _relations(c: Config) -> tuple[tuple[str, bool, str], ...]:
    """(setting, whether it is at odds with another, what to do)."""
    longest, answer = c.model.max_length, c.simulate.new_tokens
    part = max(longest - answer, answer)  # both together seldom are as long as they may be
    models = [source for source in c.wrongthink.sources if source != "spoiled"]
    return (
        ("simulate.new_tokens", answer >= longest,
         f"it must be below model.max_length, {longest}, to leave room for a prompt"),
        ("train.columns", c.train.columns <= part,
         f"it must be above {part}, which a prompt (model.max_length - simulate.new_tokens) or an answer may take"),
        ("simulate.keep", c.simulate.keep > c.model.vocab_size, f"model.vocab_size is {c.model.vocab_size}; lower it"),
        ("train.seed_mixture", len(c.train.seed_mixture) != 4 or not any(c.train.seed_mixture),
         "it must be four numbers that are not all 0"),
        ("train.lora", c.train.lora > 0 and not c.base, "random weights are not worth adapting; give --base"),
        ("wrongthink.sources", len(models) > 1, f"{' and '.join(models)} are models; choose one"),
    )  # fmt: skip


def from_json(text: str) -> Config:
    return _build(Config, json.loads(text), "")


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name."""
    found: dict[str, Any] = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        name = f"{prefix}{f.name}"
        found |= flat(value, name + ".") if dataclasses.is_dataclass(value) else {name: value}
    return found


def changed(old: Config, new: Config) -> list[str]:
    """One line for every setting in which two configs differ."""
    before, after = flat(old), flat(new)
    return [f"{name}: {before[name]!r} → {after[name]!r}" for name in before if before[name] != after[name]]


def nearest(name: str, config: Config | None = None) -> str:
    """The known dotted setting closest to an unknown one."""
    known = list(flat(config or Config()))
    leaf = [k for k in known if k.split(".")[-1] == name.split(".")[-1]]
    return (leaf or difflib.get_close_matches(name, known, n=1, cutoff=0.0))[0]


def _build(kind: type, values: dict[str, Any], prefix: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"config.json: {prefix.rstrip('.') or 'the whole'} is {values!r}; it must be an object")
    hints = get_type_hints(kind)
    for name in values:
        if name not in hints:
            raise ConfigError(f"config: unknown setting {prefix}{name}; nearest is {nearest(prefix + name)}")
    return kind(**{name: _value(hints[name], value, prefix + name) for name, value in values.items()})


def _value(hint: Any, value: Any, name: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name + ".")
    if get_origin(hint) is Literal and value not in get_args(hint):
        raise ConfigError(f"config: {name} is {value!r}; it must be one of {', '.join(get_args(hint))}")
    if get_origin(hint) is tuple:
        return tuple(_value(get_args(hint)[0], one, name) for one in value)
    plain = hint if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) else object
    if plain is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, plain) or (plain is int and isinstance(value, bool)):
        raise ConfigError(f"config: {name} is {value!r}; it must be of type {plain.__name__}")
    return value
