"""Finished generations of a run, from Python: to be talked to, measured, or taken weights from.

    from ratchet.launch import api

    model = api.load("runs/lessons")  # the newest promoted generation
    print(model.answer([{"role": "user", "content": "what does the lamp do?"}]))
    print(model.evaluate()["metrics"]["open_book"]["value"])

`ratchet.bootstrap.loop.run(directory, config, progress)` starts a run or goes on with it; config is that of a recipe,
`ratchet.launch.recipes.RECIPES["lessons"].config`, or a changed copy of it.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from etils import epath
from flax import nnx

from ratchet.bootstrap import config_files, loop, run
from ratchet.bootstrap.progress import Progress, Silent
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.stages.evaluate import evaluation
from ratchet.bootstrap.worlds.world import content_id
from ratchet.launch.output import keep_compiled
from ratchet.models.sampler import Request
from ratchet.train.checkpoint import has_weights
from ratchet.train.files import typed


@dataclass(frozen=True)
class Model:
    """A finished generation of a run; number 0 is its seed model."""

    run: Run
    number: int

    @cached_property
    def weights(self) -> nnx.State:
        """The weights, laid out over the run's mesh, read when first needed."""
        return self.run.weights(self.number)

    def prompt(self, messages: Sequence[Mapping]) -> tuple[int, ...]:
        """The token ids of a conversation with an open assistant's turn, without sources or tools."""
        return tuple(self.run.tokenizer.render(messages))

    def fits(self, messages: Sequence[Mapping]) -> bool:
        """Whether the model has room for a conversation and its longest answer."""
        return len(self.prompt(messages)) <= self.run.writer(self.weights).room

    def answer(self, messages: Sequence[Mapping], *, temperature: float | None = None, seed: int = 0) -> str:
        """What the student says to a conversation, such as [{"role": "user", "content": "..."}].

        `temperature` takes the place of the run's own; 0 is greedy. Raises ValueError when the conversation is too
        long for the model.
        """
        writer = self.run.writer(self.weights)
        prompt = self.prompt(messages)
        if not self.fits(messages):
            raise ValueError(f"the conversation takes {len(prompt)} tokens, and {writer.room} fit; shorten it")
        alone = replace(writer, sampler=replace(writer.sampler, slots=writer.sampler.parts))
        request = Request(int(content_id(prompt)[:8], 16), prompt)
        said = alone.sample([request], seed=seed, temperature=temperature)[0]
        return self.run.tokenizer.decode(said.tokens).strip()

    def evaluate(self) -> dict[str, Any]:
        """All figures of the generation, as in its evaluation.json: the same numbers whenever it is asked."""
        knower = loop.knower(self.run, self.number, self.weights, loop.Seed(self.run))
        return evaluation(self.run, self.number, self.weights, knower)


def load(directory: str | os.PathLike, generation: int | None = None, progress: Progress | None = None) -> Model:
    """A generation of the run in a directory, which is only read; None is the newest that was promoted, or else the
    seed model. Compiled programs are kept for the next start, as by the commands.

    Raises ConfigError when the directory holds no run, AlteredError when a file of it is not what was committed,
    ValueError when the run has no such generation.
    """
    keep_compiled()
    place = epath.Path(directory)
    prepared = run.prepare(place, config_files.saved(place), progress or Silent(), writes=False)
    model = Model(prepared, newest(prepared) if generation is None else generation)
    weights = prepared.generation(model.number) / "model"
    if prepared.commits.knows(weights) and not has_weights(weights):
        raise ValueError(f"{weights}: the weights are missing; `ratchet resume {typed(place)}` trains them again")
    if not prepared.commits.knows(weights):
        raise ValueError(f"{place} has no finished generation {model.number}; see `ratchet status {typed(place)}`")
    return model


def newest(prepared: Run) -> int:
    """The generation that was promoted last; 0 while none was."""
    numbers = range(prepared.config.generations, 0, -1)
    return next((past.incumbent for n in numbers if (past := loop.left_by(prepared, n))), 0)
