"""Drafts to transcripts by servers that hold the run's own model.

They are asked in tokens and answer in tokens: what the run's own sampler would read, and what it would say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from etils import epath

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.rollouts.handover import Handover, hand_over
from ratchet.bootstrap.rollouts.replicas import Replicas, servers
from ratchet.bootstrap.simulate import Draft
from ratchet.bootstrap.teacher.afar import Scribe, sampling_of
from ratchet.bootstrap.teacher.client import Client, Counts
from ratchet.bootstrap.transcript import Transcript
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.buckets import in_bucket
from ratchet.train.together import Together

TEXTS, LONGEST = 4, 128
"""Texts by which weights are told apart, and tokens of each that are read."""


@dataclass(frozen=True)
class Rollouts:
    """Servers that write with the weights of the scribe's model; `hand_over` gives these to them when they are first
    asked. What they say is kept in a folder, `place`."""

    clients: Sequence[Client]
    hand_over: Callable[[], Handover]
    scribe: Scribe
    place: epath.Path
    say: Callable[[str], None]
    together: Together
    """Processes that are told alike: the first one asks."""

    @cached_property
    def replicas(self) -> Replicas:
        """The servers, with the weights that each must have."""
        handover = self.hand_over()
        return Replicas(self.clients, handover, self.place / handover.weights, self.say)

    def finish(
        self, drafts: Sequence[Draft], passages: Mapping[str, Document], *, generation: int, seed: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Transcript]:  # fmt: skip
        """Has the servers go on from every draft, whose prompt holds the passages already. Raises what `hand_over` and
        `Replicas.answers` raise."""
        bodies, replicas = [self._body(d, seed) for d in drafts], self.replicas
        ask = lambda: replicas.answers(bodies, advance)
        told = self.together.decided("what the servers answer", ask)
        tokenizer = self.scribe.writer.tokenizer
        ends = {tokenizer.end, *tokenizer.left_out}
        said = [tokens[:-1] if ended and tokens and tokens[-1] in ends else tokens for tokens, ended in told]
        return self.scribe.transcripts(drafts, said, [ended for _, ended in told], generation)

    @property
    def summary(self) -> str:
        """What was asked of each server, in a line; "" where nothing was."""
        asked = [f"{c.config.url}: {c.counts}" for c in self.clients if c.counts != Counts()]
        return f"rollouts: {'; '.join(asked)}" if asked else ""

    def _body(self, d: Draft, seed: int) -> dict[str, Any]:
        writer = self.scribe.writer
        ways = {"stop_token_ids": [writer.tokenizer.end], "return_token_ids": True}
        return {"prompt": list(d.prompt), **sampling_of(d, writer.config, seed), **ways}


def open_rollouts(
    directory: epath.Path, config: Config, number: int, scribe: Scribe, texts: Sequence[str],
    say: Callable[[str], None], together: Together,
) -> Rollouts:  # fmt: skip
    """Servers for the weights of generation `number`, which are those that the scribe's model writes with. By the
    first of `texts`, which are a run's own for all its life, they are told from others."""
    place = directory / "rollouts"
    here = directory if in_bucket(directory) else directory.absolute()
    seen = f"{config.rollouts.directory.rstrip('/') or here}/rollouts"
    encode = scribe.writer.tokenizer.encode
    own = (
        replace(scribe.scorer, unused=()),  # as servers do, of every row
        [tuple(encode(text)[:LONGEST]) for text in texts[:TEXTS]],
    )
    give = lambda: hand_over(place, seen, number, scribe.writer.params, config.model, own, together)
    return Rollouts(servers(config.rollouts), give, scribe, place / "answers", say, together)
