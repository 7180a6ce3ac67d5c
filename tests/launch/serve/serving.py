"""Small folders to serve, for tests."""

import dataclasses
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import templates
from etils import epath
from support import CHATML, LLAMA, awaken, write_chat
from tokenizers import Tokenizer

from ratchet.launch.serve import served
from ratchet.launch.serve.served import Served
from ratchet.models import decoder, huggingface
from ratchet.models.chat import ChatTokenizer
from ratchet.train import sharding

PLAIN = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
"""ChatML as transformers' templates have it."""


def write_folder(place, heat: float = 2.0) -> epath.Path:
    """A small Llama, every id of which is a token; the warmer it is, the surer of what it says."""
    place = write_chat(place, PLAIN)
    words = Tokenizer.from_file(str(place / "tokenizer.json")).get_vocab_size()
    model = dataclasses.replace(LLAMA, vocab_size=words, max_length=192)
    params = jax.tree.map(lambda x: x * heat, awaken(decoder.create(model, 3)[1]))
    huggingface.save(place, model, params, "float32")
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|endoftext|>"}))
    return place


ANSWER = "it is"
"""What the models of `write_speaker` make of a tool's answer."""


def write_speaker(place, kind: str, says: str = "", calls: bool = True) -> epath.Path:
    """A model with a chat template as published ones have it, that says this and then opens a call of a tool, or ends.
    Where its template opens a turn otherwise after a tool's answer, it gives ANSWER there, and ends.

    What it says depends on the last token alone; of what a grammar leaves to it, it ends texts soonest.
    """
    place = templates.write_folder(place, kind)
    own = ChatTokenizer.load(place)
    follows = dict.fromkeys(range(own.vocab_size), own.encode('"')[0])
    if own.can_call:
        follows |= itertools.pairwise([own.answered("a")[-1], *own.encode(ANSWER), own.end])
    asked = own.render([{"role": "user", "content": "a"}])[-1]
    opening = own.calling(["look", "add"]).opening if calls else (own.end,)
    chain = [asked, *own.encode(says), *(opening if isinstance(own.parts(opening)[0], str) else opening[:1])]
    assert len({*chain[:-1]}) == len(chain) - 1, "after a token it says one and the same"
    follows |= itertools.pairwise(chain)
    model = dataclasses.replace(LLAMA, vocab_size=own.vocab_size, max_length=2048)
    params, directions = decoder.create(model, 3)[1], [*dict.fromkeys(follows.values())]
    embedding_VD, head_DV = (np.zeros(params[name].shape, np.float32) for name in ("embedding", "head"))
    for token, following in follows.items():
        embedding_VD[token, directions.index(following)] = 1
    head_DV[range(len(directions)), directions] = 10
    for name, array in (("embedding", embedding_VD), ("head", head_DV)):
        params[name] = params[name].replace(jnp.asarray(array))
    huggingface.save(place, model, params, "float32")
    return place


def of_folder(place, slots: int = 4, context: int = 0) -> Served:
    """A folder on one of the devices that tests have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "make_mesh", lambda config: sharding.make_mesh(config, jax.devices()[:1]))
        return served.of_base(str(place), slots, context)
