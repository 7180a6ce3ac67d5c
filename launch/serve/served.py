"""What is served: a generation of a run, or a model that others trained."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from etils import epath

from ratchet.bootstrap.given import base_model
from ratchet.launch import api
from ratchet.launch.serve.asked import MOST_LIKELY
from ratchet.models import decoder, pretrained
from ratchet.models.architectures import FolderError
from ratchet.models.chat import ChatTokenizer
from ratchet.models.decoder import DecoderConfig
from ratchet.models.inference import Weights
from ratchet.models.sampler import Sampler
from ratchet.models.scorer import Scorer
from ratchet.models.settings import NoTemplate
from ratchet.train.buckets import in_bucket
from ratchet.train.sharding import MeshConfig, make_mesh, slots_sharding, state_sharding

LONGEST = 4096
"""Tokens of a prompt and its answer together, unless more or fewer are asked for."""
_NO_CHAT = "{{ raise_exception('it has no chat template, so it completes text and answers no messages') }}"


@dataclass(frozen=True, eq=False)
class Served:
    """A model with what it reads and writes by. `context` tokens are the most that a prompt and its answer take.

    `other` reads other weights of it from a folder, and raises FolderError for those of another model; None: it takes
    no others.
    """

    name: str
    tokenizer: Any
    sampler: Sampler
    scorer: Scorer
    weights: Weights
    context: int
    other: Callable[[epath.Path], Weights] | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def vocab_size(self) -> int:
        """Rows of the model's embedding; a text to score may have any of these ids."""
        return self.weights.params["embedding"].shape[0]

    @property
    def described(self) -> dict[str, str]:
        """What other programs are told of the tokenizer: special tokens by name, and the chat template."""
        told = {"eos_token": self.tokenizer.piece(self.ends[0])} if self.ends else {}
        return {name: text for name, text in {**told, **self.tokenizer.described}.items() if text != _NO_CHAT}

    @property
    def can_call(self) -> bool:
        """Whether the model calls tools that it is told of, as one from scratch is of none."""
        return isinstance(self.tokenizer, ChatTokenizer) and self.tokenizer.can_call

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The ids that end what the model says: the one that closes its turns, and the tokenizer's `eos_token`."""
        try:
            closing = [self.tokenizer.end]
        except FolderError:  # it writes no turns
            closing = []
        by_name = self.tokenizer.whole(self.tokenizer.described.get("eos_token", ""), False)
        return tuple(dict.fromkeys([*closing, *by_name[:1]]))


def of_run(model: api.Model, slots: int, context: int) -> Served:
    """A generation of a run, named after the run's directory and its number."""
    run = model.run
    name, size = f"{run.directory.name}-gen-{model.number:03d}", run.config.model
    sampler = replace(run.sampler, slots=_slots(slots, run.sampler.parts), keep=_kept(size))
    scorer = replace(run.scorer, questions=slots, unused=())  # as transformers would, of every row
    return Served(name, run.tokenizer, sampler, scorer, sampler.weights(model.weights), _context(context, size))


def of_base(named: str, slots: int, context: int) -> Served:
    """A model that others trained, named after its folder or file, over all devices. Raises FolderError for one that
    cannot be read."""
    base = base_model(named)
    config = base.config
    try:
        tokenizer = base.tokenizer()
    except NoTemplate:
        tokenizer = base.tokenizer(_NO_CHAT)
    mesh = make_mesh(MeshConfig())
    rows = slots_sharding(mesh) if mesh.size > 1 else None
    graphdef, _ = decoder.shapes(config)
    laid_out = lambda params: state_sharding(mesh, params)
    weights = base.weights(laid_out)
    unused = tuple(sorted({*range(config.vocab_size)} - tokenizer.ids))
    scorer = Scorer(graphdef, questions=slots, rows=rows)
    slots = _slots(slots, scorer.parts)
    sampler = Sampler(graphdef, slots=slots, new_tokens=1, keep=_kept(config), rows=rows, unused=unused)
    place = epath.Path(named)
    name, context = (place if in_bucket(place) else place.absolute()).name, _context(context, config)

    def other(folder: epath.Path) -> Weights:
        found = pretrained.Folder(folder)
        if replace(found.config, max_length=config.max_length) != config:
            raise FolderError(f"{folder}: it is a decoder of another shape than {name}; give weights of that one")
        return sampler.weights(found.weights(laid_out))

    return Served(name, tokenizer, sampler, scorer, sampler.weights(weights), context, other)


def _kept(model: DecoderConfig) -> int:
    """Ids kept of a distribution: as many as an answer may show, and the token's own."""
    return min(MOST_LIKELY + 1, model.vocab_size)


def _slots(asked: int, parts: int) -> int:
    if asked < 1 or asked % parts:
        raise ValueError(f"serve: {asked} slots do not divide over {parts} devices; set --slots to a multiple")
    return asked


def _context(asked: int, model: DecoderConfig) -> int:
    """The context that was asked for, 0: as much as the model has, up to LONGEST."""
    if not 0 <= asked <= model.max_length or asked == 1:
        raise ValueError(f"serve: the model reads 2 to {model.max_length} tokens; set --context to so many")
    return asked or min(model.max_length, LONGEST)
