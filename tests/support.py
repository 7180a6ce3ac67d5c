"""What tests build their material with. What it is about lies in little.py."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from flax import nnx
from little import answer, create, deeds_of
from runs import arrays
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from ratchet.bootstrap import config_files, given, loop
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.examples import example, labelled, one_hot
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.run import Run, prepare
from ratchet.bootstrap.simulate import Writer, draft
from ratchet.bootstrap.stages.audit import audit_generation
from ratchet.bootstrap.stages.evaluate import evaluation
from ratchet.bootstrap.tools import call_text
from ratchet.bootstrap.transcript import Transcript, certain
from ratchet.bootstrap.worlds.world import Document, Task, World, content_id
from ratchet.launch.recipes import RECIPES
from ratchet.models import decoder, huggingface
from ratchet.models.decoder import DecoderConfig
from ratchet.models.family import Family
from ratchet.models.sampler import Request, Sampled
from ratchet.models.tokenizer import Tokenizer
from ratchet.train.batches import Batches
from ratchet.train.commits import Commits
from ratchet.train.optimizer import OptimizerConfig
from ratchet.train.records import Example
from ratchet.train.trainer import EngineConfig, Training, fit


def awaken(params: nnx.State, seed: int = 1) -> nnx.State:
    """Adds noise to every weight: a fresh decoder's attention and MLP write zeros and would hide mistakes."""
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [leaf + 0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(treedef, noisy)


@jax.jit(static_argnums=0)
def _logits(graphdef, params, tokens_1T):
    model = nnx.merge(graphdef, params)
    positions = jnp.arange(tokens_1T.shape[1])[None]
    return model.logits(model(tokens_1T, positions, jnp.ones_like(tokens_1T))[0], model.head_DV())


def full_logits(graphdef, params, tokens) -> np.ndarray:
    """Logits [T, V] after each token, by the packed forward without any cache; padded on the right to few shapes."""
    room = -(-len(tokens) // 32) * 32
    padded = np.zeros((1, room), np.int32)
    padded[0, : len(tokens)] = tokens
    return np.asarray(_logits(graphdef, params, padded))[: len(tokens)]


def full_probs(graphdef, params, tokens) -> np.ndarray:
    logits = full_logits(graphdef, params, tokens).astype(np.float64)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def random_examples(count: int, *, seed: int = 0, vocab: int = 64, longest: int = 20, keep: int = 1) -> list[Example]:
    """Examples with a random prompt and weighted end; the emitted token is the first kept id."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(count):
        length = int(rng.integers(3, longest + 1))
        tokens = rng.integers(2, vocab, length)
        trained = int(rng.integers(1, length))
        weights = np.r_[np.zeros(length - trained), np.ones(trained)]
        others = np.stack([rng.permutation([i for i in range(vocab) if i != t])[: keep - 1] for t in tokens[-trained:]])
        ids = np.concatenate([tokens[-trained:, None], others], axis=1)
        mass = rng.dirichlet(np.r_[3.0, np.ones(keep)] if keep > 1 else [1e9, 1e-9], trained)
        mass = mass if keep > 1 else np.round(mass)
        lineage = {"number": number}
        made.append(Example.create(tokens, weights, ids, mass[:, :-1], mass[:, -1], origin="seed", lineage=lineage))
    return made


def requests(count: int, seed: int = 0, shortest: int = 1, longest: int = 16) -> list[Request]:
    """Prompts of random length and ids below 64."""
    rng = np.random.default_rng(seed)
    return [
        Request(int(rng.integers(2**40)), tuple(rng.integers(2, 64, rng.integers(shortest, longest + 1)).tolist()))
        for _ in range(count)
    ]


def train_tokenizer(world: World, size: int = 500) -> Tokenizer:
    """A tokenizer in which the world's words are one piece each."""
    parts = (world.seed, world.fresh, *world.slices)
    asked = [m["content"] for part in parts for t in part.tasks for ms in (t.messages, *t.askings) for m in ms]
    answers = [answer(deeds_of(world), t) for part in parts for t in part.tasks]
    calls = [call_text(t.seek[0]) for part in parts for t in part.tasks]
    texts = [d.text for part in parts for d in part.documents]
    return Tokenizer.train([*texts, *asked, *answers, *calls, *map(" ".join, world.prose), "no, sure?"], size)


def small_tokenizer_json(place, metaspace: bool = False) -> None:
    """A tokenizer of a little world's words, byte-level or as Llama 2 has it."""
    made = FastTokenizer(models.BPE(unk_token="<unk>" if metaspace else None, byte_fallback=metaspace))
    made.pre_tokenizer = pre_tokenizers.Metaspace() if metaspace else pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.decoder = pieces if metaspace else decoders.ByteLevel()
    spelled = [f"<0x{byte:02X}>" for byte in range(256)] if metaspace else []
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=["<unk>", AddedToken("<|endoftext|>", special=True), *spelled],
        initial_alphabet=[] if metaspace else pre_tokenizers.ByteLevel.alphabet(),
    )
    made.train_from_iterator([d.text for part in create(generations=6).slices for d in part.documents], trainer)
    whole = json.loads(made.to_str())
    whole["added_tokens"] = [token for token in whole["added_tokens"] if token["content"] not in spelled]
    (place / "tokenizer.json").write_text(json.dumps(whole))


def transcript(task: Task, text: str, passages: Sequence[Document] = (), *, tokenizer=None, **fields) -> Transcript:
    """A finished answer that says `text`; with a tokenizer its tokens and what they were drawn from are filled in."""
    tokens = (*tokenizer.encode(text), tokenizer.end) if tokenizer else ()
    shown = [p.text for p in passages]
    made = Transcript(
        id=content_id(task.id, text, sorted(map(str, fields.items()))),
        task_id=task.id,
        generation=1,
        sibling=0,
        source="answer",
        prompt=tuple(tokenizer.render(task.messages, passages=shown)) if tokenizer else (),
        student_prompt=tuple(tokenizer.render(task.messages)) if tokenizer else (),
        tokens=tokens,
        text=text,
        passages=tuple(p.id for p in passages),
        finished=True,
        capture=certain(tokens, 2),
        messages=(*task.messages, {"role": "assistant", "content": text}),
    )
    return dataclasses.replace(made, **fields)


def changed(config: Config, **changes) -> Config:
    """A config with other settings; `section__name=value` changes a nested one."""
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        if section:
            part = dataclasses.replace(getattr(config, section), **{leaf: value})
            config = dataclasses.replace(config, **{section: part})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


def distributions(capture) -> list[dict[int, float]]:
    """By token, the kept ids with their probabilities; ids of no probability are padding."""
    rows = zip(capture.ids_NK.tolist(), capture.probs_NK.tolist(), strict=True)
    return [{i: p for i, p in zip(ids, probs, strict=True) if p > 0} for ids, probs in rows]


def tiny_config(**changes) -> Config:
    """The recipe `tiny`, changed."""
    return changed(RECIPES["tiny"].config, **changes)


def little_config(**changes) -> Config:
    """The recipe `tiny` in the little world, changed."""
    little = {"recipe": "lamps", "world": "little:create", "review__probes": 2, "review__practice": 0}
    learns = {"model__vocab_size": 512, "train__optimizer": OptimizerConfig("adamw", 1e-2)}
    return tiny_config(**little | learns | changes)


def start(directory, config: Config) -> epath.Path:
    """A run directory as `ratchet run` leaves it before the first stage."""
    directory = epath.Path(directory)
    config_files.save(directory, config)
    return directory


def run_tiny(directory, config: Config | None = None) -> epath.Path:
    """The directory of a whole run of `tiny`, or of another config. Its world is sealed."""
    config = config or tiny_config()
    directory = start(directory, config)
    load = given.load
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(loop.RunEnded):
        patch.setattr(given, "load", lambda *settings: sealed(load(*settings)))
        loop.run(directory, config, Silent())
    return directory


def sealed(world: World) -> World:
    """The world with an oracle that answers evaluation and audit alone, and a `known` that answers for worked tasks."""
    may_ask = {evaluation.__code__, audit_generation.__code__}
    worked = {t.id for t in (*world.seed.tasks, *world.probes.tasks)}

    def oracle(task: Task, text: str, before: str):
        frame = sys._getframe(1)
        while frame and frame.f_code not in may_ask:
            frame = frame.f_back
        assert frame, "the oracle was asked outside of evaluation and audit"
        return world.oracle(task, text, before)

    def known(task: Task, text: str, before: str):
        assert task.id in worked, "what is right was asked of a task that is not worked"
        return world.known(task, text, before)

    return dataclasses.replace(world, oracle=world.oracle and oracle, known=world.known and known)


def prepared(directory, config: Config, tokenizer: Tokenizer) -> Run:
    """A run before its first stage, which speaks with the given tokenizer."""
    directory = start(directory, config)
    (directory / "tokenizer").mkdir(exist_ok=True)
    spoken = directory / "tokenizer" / "model.spm"
    spoken.write_bytes(tokenizer.model)
    Commits(directory).adopt(spoken.parent, [spoken])
    return prepare(directory, config, Silent())


def to_know(run: Run) -> list[Example]:
    """What a writer of the little world may know about the first slice: answers, of which some are wrong, with sources
    in view and without; look-ups; corrections of wrong thoughts; and verdicts."""
    tokenizer, blank, deeds = run.tokenizer, run.fresh_weights(), deeds_of(run.world)
    writer, reviewer, index, made = run.writer(blank), run.reviewer(blank), Index(run.passages(1)), []
    texts = {p.id: p.text for p in index.passages}

    def teach(prompt: Sequence[int], tokens: Sequence[int]) -> None:
        made.append(example(prompt, tokens, one_hot(tokens), "seed", {"n": len(made)}))

    def say(prompt: Sequence[int], text: str) -> None:
        teach(prompt, [*tokenizer.encode(text), tokenizer.end])

    for task in run.tasks(1):
        right, wrong, start = answer(deeds, task), answer(deeds, task, (1,)), answer(deeds, task, (0,)).split(".")[0]
        first, last = right.split(". ")
        open_book = [draft(writer, index, task, n, "by heart").prompt for n in range(4)]
        closed_book = [tokenizer.render(messages) for messages in (task.messages, *task.askings)]
        for prompt in (*closed_book, *open_book):
            say(prompt, right)
        for prompt in (*closed_book, open_book[0]):
            say(prompt, wrong)
            say(prompt, f"{last} {first}.")
        for prompt in (*closed_book, *open_book[:2]):
            say([*prompt, *tokenizer.encode(f"{start}. no,")], right)
            say([*prompt, *tokenizer.encode(f"{wrong} no,")], last)
        half = half_told(tokenizer, task, texts)
        call = tokenizer.call("lookup", call_text(task.seek[1]))
        teach(half, call)
        for told in (texts[task.document_ids[1]], "nothing found."):
            say([*half, *call, *tokenizer.answered(told)], right)
        own = tuple(p for p in index.passages if p.id in task.document_ids)
        for text, view in [(text, view) for text in (right, answer(deeds, task, (0, 1))) for view in (own, own[::-1])]:
            for context, question, passes in labelled(run.rubric[-1], run.world, task, text, view, reviewer):
                teach([*context, *question], [tokenizer.verdicts[not passes]])
    return made


def half_told(tokenizer, task: Task, texts: Mapping[str, str]) -> tuple[int, ...]:
    """The prompt of a little task with the first of its two documents in view."""
    return tuple(tokenizer.render(task.messages, passages=[texts[task.document_ids[0]]]))


def saying(writer: Writer, *said: str | Sequence[int], finished: bool = True) -> Writer:
    """A writer that says these texts, or tokens, in turn, whatever it is asked."""
    spoken = [np.array(writer.tokenizer.encode(s) if isinstance(s, str) else s, np.int32) for s in said]
    certain_of = lambda tokens: certain((*tokens.tolist(), writer.tokenizer.end) if finished else tuple(tokens), 2)
    sampled = [Sampled(tokens, finished, writer.tokenizer.end, *certain_of(tokens)) for tokens in spoken]
    several = lambda params, requests, **_: [sampled[n % len(sampled)] for n in range(len(requests))]
    return dataclasses.replace(writer, sampler=several)


def learn_by_heart(run: Run, made: Sequence[Example], steps: int = 120) -> nnx.State:
    """Weights trained on examples until they know them."""
    batches = Batches([(made, len(made))], seed=0, steps=steps, columns=run.config.train.columns)
    training = Training(run.graphdef, batches, OptimizerConfig("adamw", 1e-2), run.mesh, EngineConfig(), {})
    return fit(training, run.fresh_weights(), None, lambda step, values: None)


def assert_same_bits(a, b) -> None:
    a, b = arrays(a), arrays(b)
    assert a.keys() == b.keys()
    different = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    assert not different


CHATML = """{%- if tools %}<|im_start|>system
{{ tools | tojson }}<|im_end|>
{% endif %}
{%- for m in messages %}
{%- if m['role'] == 'assistant' %}<|im_start|>assistant
{% generation %}{{ m['content'] | trim }}<|im_end|>{% endgeneration %}

{% else %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


COMPILED = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compiling() -> Iterator[list[str]]:
    """Within, the list that it gives grows by the name of each function that is compiled, or read from a cache."""
    names = []

    def told(event: str, seconds: float, fun_name: str = "", **_) -> None:
        if event == COMPILED:
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(told)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(told)


def write_chat(place, template=CHATML, special=SPECIAL):
    """A small byte-level tokenizer with a chat template, as Hugging Face folders have them."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["what is it and system user assistant be brief doubled"] * 5, trainer)
    tokenizer.save(str(place / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return epath.Path(place)


LLAMA = DecoderConfig(
    vocab_size=400,
    width=32,
    layers=1,
    heads=2,
    kv_heads=2,
    mlp_width=64,
    max_length=4096,
    conv=1,
    family=Family("LlamaForCausalLM", tied=False, scaled_embedding=False, activation="silu", gated=True),
)


def write_model(place) -> epath.Path:
    """A small model of random weights, as Hugging Face folders have them, in an empty folder."""
    place = write_chat(place)
    huggingface.save(place, LLAMA, awaken(decoder.create(LLAMA, 3)[1]), "float32")
    return place
