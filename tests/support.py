"""What tests build their material with. Texts are rendered by the world itself, so that its wording may change."""

import contextlib
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer

from ratchet.bootstrap import loop
from ratchet.bootstrap.config import Config
from ratchet.bootstrap.ledger import write_json
from ratchet.bootstrap.progress import Silent
from ratchet.launch.recipes import RECIPES
from ratchet.models.sampler import Request
from ratchet.train.records import Example


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


def tiny_config(**changes) -> Config:
    """The recipe `tiny`; `section__name=value` changes a nested setting."""
    config = RECIPES["tiny"].config
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        if section:
            part = dataclasses.replace(getattr(config, section), **{leaf: value})
            config = dataclasses.replace(config, **{section: part})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


def start(directory, config: Config) -> epath.Path:
    """A run directory as `ratchet run` leaves it before the first stage."""
    directory = epath.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", dataclasses.asdict(config))
    return directory


def run_tiny(directory, config: Config | None = None) -> epath.Path:
    config = config or tiny_config()
    directory = start(directory, config)
    with contextlib.suppress(loop.RunEnded):
        loop.run(directory, config, Silent())
    return directory


def arrays(tree) -> dict[str, np.ndarray]:
    """Leaves of a pytree by path, on the host."""
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


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


def write_chat(place, template=CHATML, special=SPECIAL):
    """A small byte-level tokenizer with a chat template, as Hugging Face folders have them."""
    tokenizer = FastTokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[AddedToken(name, special=True, normalized=False) for name in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(["what is it and system user assistant be brief doubled"] * 5, trainer)
    tokenizer.save(str(place / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "chat_template": template}
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    return epath.Path(place)
