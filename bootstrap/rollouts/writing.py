"""Drafts to transcripts by servers that hold the run's own model.

They are asked in tokens and answer in tokens: what the run's own sampler would read, and what it would say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from etils import epath

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.rollouts.handover import hand_over
from ratchet.bootstrap.rollouts.replicas import Replicas, servers
from ratchet.bootstrap.simulate import Draft
from ratchet.bootstrap.teacher.afar import Scribe, sampling_of
from ratchet.bootstrap.teacher.client import Counts
from ratchet.bootstrap.transcript import Transcript
from ratchet.bootstrap.worlds.world import Document
from ratchet.train.buckets import in_bucket
from ratchet.train.together import Together

TEXTS, LONGEST = 4, 128
"""Texts by which weights are told apart, and tokens of each that are read."""


@dataclass(frozen=True)
class Rollouts:
    """Servers that have the weights of the model which the scribe writes down."""

    replicas: Replicas
    scribe: Scribe
    together: Together
    """Processes that are told alike: the first one asks."""

    def finish(
        self, drafts: Sequence[Draft], passages: Mapping[str, Document], *, generation: int, seed: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Transcript]:  # fmt: skip
        """Has the servers go on from every draft, whose prompt holds the passages already. Raises what
        `Replicas.answers` raises."""
        bodies = [self._body(d, seed) for d in drafts]
        ask = lambda: self.replicas.answers(bodies, advance)
        told = self.together.decided("what the servers answer", ask)
        tokenizer = self.scribe.writer.tokenizer
        ends = {tokenizer.end, *tokenizer.left_out}
        said = [tokens[:-1] if ended and tokens and tokens[-1] in ends else tokens for tokens, ended in told]
        return self.scribe.transcripts(drafts, said, [ended for _, ended in told], generation)

    @property
    def summary(self) -> str:
        """What was asked of each server, in a line; "" where nothing was."""
        asked = [f"{c.config.url}: {c.counts}" for c in self.replicas.clients if c.counts != Counts()]
        return f"rollouts: {'; '.join(asked)}" if asked else ""

    def _body(self, d: Draft, seed: int) -> dict[str, Any]:
        writer = self.scribe.writer
        ways = {"stop_token_ids": [writer.tokenizer.end], "return_token_ids": True}
        return {"prompt": list(d.prompt), **sampling_of(d, writer.config, seed), **ways}


def open_rollouts(
    directory: epath.Path, config: Config, number: int, scribe: Scribe, documents: Sequence[Document],
    say: Callable[[str], None], together: Together,
) -> Rollouts:  # fmt: skip
    """Servers with the weights of generation `number`, which are those that the scribe's model writes with; its
    documents' texts tell these from others. Raises what `hand_over` raises."""
    place = directory / "rollouts"
    here = directory if in_bucket(directory) else directory.absolute()
    seen = f"{config.rollouts.directory.rstrip('/') or here}/rollouts"
    texts = [tuple(scribe.writer.tokenizer.encode(d.text)[:LONGEST]) for d in documents[:TEXTS]]
    scorer = replace(scribe.scorer, unused=())  # as servers do, of every row
    own = (scorer, [text for text in texts if len(text) > 1])
    handover = hand_over(place, seen, number, scribe.writer.params, config.model, own, together)
    replicas = Replicas(servers(config.rollouts), handover, place / "answers" / handover.weights, say)
    return Rollouts(replicas, scribe, together)
