"""Small folders to serve, for tests."""

import dataclasses
import json

import jax
import pytest
from etils import epath
from support import CHATML, LLAMA, awaken, write_chat
from tokenizers import Tokenizer

from ratchet.launch.serve import served
from ratchet.launch.serve.served import Served
from ratchet.models import decoder, huggingface
from ratchet.train import sharding

PLAIN = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")
"""ChatML as transformers' templates have it."""


def write_folder(place, heat: float = 2.0) -> epath.Path:
    """A small Llama, every id of which is a token; the warmer it is, the surer of what it says."""
    place = write_chat(place, PLAIN)
    model = dataclasses.replace(LLAMA, vocab_size=Tokenizer.from_file(str(place / "tokenizer.json")).get_vocab_size())
    params = jax.tree.map(lambda x: x * heat, awaken(decoder.create(model, 3)[1]))
    huggingface.save(place, model, params, "float32")
    settings = json.loads((place / "tokenizer_config.json").read_text())
    (place / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "<|endoftext|>"}))
    return place


def of_folder(place, slots: int = 4, context: int = 0) -> Served:
    """A folder on one of the devices that tests have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "make_mesh", lambda config: sharding.make_mesh(config, jax.devices()[:1]))
        return served.of_base(str(place), slots, context)
