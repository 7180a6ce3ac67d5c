"""A sampler by servers that hold the run's own model.

They are asked in tokens and answer in tokens: what the run's own sampler would read, and what it would say.

What the promoted weights write goes to them: transcripts, the corrections of wrong thoughts, the continuations of
alternatives that targets are made from, and answers to the review's worked tasks. What other weights write does not: an
evaluation asks those that are not promoted yet, a wrong-thinker's never are, and those of the seed model, which the
judge of evaluations is calibrated on, are handed over for the first generations alone. Proposals do not go there
either: their questions keep to a grammar, and the likelihood of their answers decides. Reviews read, and write nothing.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from etils import epath
from flax import nnx

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.rollouts.handover import Handover, hand_over
from ratchet.bootstrap.rollouts.replicas import Replicas, servers
from ratchet.bootstrap.simulate import Writer
from ratchet.bootstrap.teacher.afar import Scribe, sampling_of
from ratchet.bootstrap.teacher.client import Client, Counts
from ratchet.models.sampler import Request, Sampled
from ratchet.train.buckets import in_bucket
from ratchet.train.together import Together

TEXTS, LONGEST = 4, 128
"""Texts by which weights are known, and tokens of each that are read."""
_UNCUT = {
    "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0,
}  # fmt: skip
"""What a server shall do unless the settings say otherwise: vLLM would do what the model's generation_config.json says.
"""


@dataclass(frozen=True)
class Rollouts:
    """Servers that sample with the weights of the scribe's model, in place of its sampler; `hand_over` gives these to
    them when they are first asked. What they say is kept in a folder, `place`."""

    clients: Sequence[Client]
    hand_over: Callable[[], Handover]
    scribe: Scribe
    place: epath.Path
    say: Callable[[str], None]
    together: Together
    """Processes that hear the same: the first one asks."""

    @cached_property
    def replicas(self) -> Replicas:
        """The servers, with the weights that each must have."""
        handover = self.hand_over()
        return Replicas(self.clients, handover, self.place / handover.weights, self.say)

    def writer(self, captured: bool) -> Writer:
        """The scribe's model as it writes by these servers. What they say comes without distributions, each token as
        certain, unless these are to be `captured`, which takes a reading of it, and targets are made from them."""
        scribe = self.scribe if captured else replace(self.scribe, rescored=False)
        return replace(self.scribe.writer, sampler=replace(self, scribe=scribe))

    @property
    def keep(self) -> int:
        return self.scribe.writer.sampler.keep

    def __call__(
        self, params: nnx.State, requests: Sequence[Request], *, seed: int, temperature: float, stop: tuple[int, ...],
        top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, advance: Callable[[int], None] = lambda done: None,
    ) -> list[Sampled]:  # fmt: skip
        """Continues every request, in the order given, as the run's own sampler would. That one is asked with weights
        which the servers do not have, and for what they could not read whole or would end elsewhere. Raises what
        `hand_over` and `Replicas.answers` raise."""
        own, ways = self.scribe.writer, {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
        served = params is own.params and {own.tokenizer.end} <= {*stop} <= {*self._ends}
        fits = lambda r: served and r.grammar is None and len(r.prompt) <= own.room
        theirs, others = ([n for n, r in enumerate(requests) if fits(r) == whose] for whose in (True, False))
        sampling = replace(own.config, **ways)
        bodies = [self._body(requests[n], sampling_of(sampling, seed, requests[n].id)) for n in theirs]
        said, ended = self._said(bodies, advance) if bodies else ((), ())
        sampled = self.scribe.sampled([requests[n].prompt for n in theirs], said, ended)
        rest = own.sampler(params, [requests[n] for n in others], seed=seed, stop=stop, advance=advance, **ways)
        found = dict(zip([*theirs, *others], [*sampled, *rest], strict=True))
        return [found[n] for n in range(len(requests))]

    @property
    def _ends(self) -> list[int]:
        """The ids that end an answer."""
        return self.scribe.writer.tokenizer.special_ids["eos_token_id"]

    @property
    def summary(self) -> str:
        """What was asked of each server, in a line; "" where nothing was."""
        asked = [f"{c.config.url}: {c.counts}" for c in self.clients if c.counts != Counts()]
        return f"rollouts: {'; '.join(asked)}" if asked else ""

    def _said(
        self, bodies: Sequence[dict[str, Any]], advance: Callable[[int], None]
    ) -> tuple[list[list[int]], list[bool]]:
        """What the servers say, without the token that ended it, and whether it ended by itself."""
        replicas, tokenizer = self.replicas, self.scribe.writer.tokenizer
        heard = self.together.decided("what the servers answer", lambda: replicas.answers(bodies, advance))
        ends = {tokenizer.end, *tokenizer.left_out}
        said = [tokens[:-1] if ended and tokens and tokens[-1] in ends else tokens for tokens, ended in heard]
        return said, [ended for _, ended in heard]

    def _body(self, request: Request, sampling: dict[str, Any]) -> dict[str, Any]:
        ways = {"stop_token_ids": self._ends, "return_token_ids": True}
        return {"prompt": list(request.prompt), **_UNCUT, **sampling, **ways}


def open_rollouts(
    directory: epath.Path, config: Config, number: int, scribe: Scribe, texts: Sequence[str],
    say: Callable[[str], None], together: Together,
) -> Rollouts | None:  # fmt: skip
    """Servers for the weights of generation `number`, which are those that the scribe's model writes with; None where
    the settings name none. By the first of `texts`, which are a run's own for all its life, they are known from
    others."""
    if not config.rollouts.url:
        return None
    place = directory / "rollouts"
    here = directory if in_bucket(directory) else directory.absolute()
    seen = f"{config.rollouts.directory.rstrip('/') or here}/rollouts"
    encode = scribe.writer.tokenizer.encode
    own = (
        replace(scribe.scorer, unused=()),  # as servers do, of every row
        [tuple(encode(text)[:LONGEST]) for text in texts[:TEXTS]],
    )
    give = functools.cache(lambda: hand_over(place, seen, number, scribe.writer.params, config.model, own, together))
    return Rollouts(servers(config.rollouts), give, scribe, place / "answers", say, together)
