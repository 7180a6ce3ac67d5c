"""Drafts to transcripts by a teacher at an address.

It sees what a teacher of the run would see: passages and the task's messages. What it says is put into the run's own
tokens. Distributions are those of the run's own model for these tokens, in the teacher's view: another model's
vocabulary is another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from etils import epath

from ratchet.bootstrap.config import Config, SimulateConfig
from ratchet.bootstrap.progress import Progress
from ratchet.bootstrap.simulate import Draft, Writer, transcript_of
from ratchet.bootstrap.teacher.client import Client, Counts
from ratchet.bootstrap.teacher.probing import Probed, meet
from ratchet.bootstrap.transcript import Transcript, certain
from ratchet.bootstrap.worlds.world import Document, content_id
from ratchet.models.sampler import Sampled
from ratchet.models.scorer import Scorer
from ratchet.models.wording import numbered
from ratchet.train.together import ALONE, Together


@dataclass(frozen=True)
class Scribe:
    """Writes down what a server said, in the run's own tokens and by its own model."""

    writer: Writer
    scorer: Scorer
    rescored: bool
    """Whether targets need the distributions; else each token is certain."""

    def sampled(
        self, prompts: Sequence[Sequence[int]], said: Sequence[Sequence[int]], ended: Sequence[bool]
    ) -> list[Sampled]:
        """What was said after each prompt as the run's own sampler would give it; a turn that has `ended`, for which
        there is room, is closed."""
        most, end = self.writer.config.new_tokens, self.writer.tokenizer.end
        closed = [whole and len(tokens) < most for tokens, whole in zip(said, ended, strict=True)]
        tokens = [(*one, end) if whole else tuple(one[:most]) for one, whole in zip(said, closed, strict=True)]
        return self._captured(prompts, tokens, closed)

    def _captured(
        self, prompts: Sequence[Sequence[int]], said: Sequence[tuple[int, ...]], ended: Sequence[bool]
    ) -> list[Sampled]:
        """What was said with the distributions that targets are made from."""
        if self.rescored:
            given = [(prompt, tokens) for prompt, tokens in zip(prompts, said, strict=True) if tokens]
            found = iter(self.scorer.distributions(self.writer.params, given, self.writer.sampler.keep))
            captured = [next(found) if tokens else certain(()) for tokens in said]
        else:
            captured = [certain(tokens) for tokens in said]
        end = self.writer.tokenizer.end
        return [
            Sampled(np.array(tokens[: len(tokens) - whole], np.int32), whole, end if whole else 0, *map(np.asarray, c))
            for tokens, whole, c in zip(said, ended, captured, strict=True)
        ]


@dataclass(frozen=True)
class Afar:
    """A teacher by address, and what writes down what it says."""

    client: Client
    scribe: Scribe
    together: Together = ALONE
    """Processes that are told alike: the first one asks."""

    def finish(
        self, drafts: Sequence[Draft], passages: Mapping[str, Document], *, generation: int, seed: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Transcript]:  # fmt: skip
        """Has the teacher answer every draft. Raises what `Client.answers` raises."""
        bodies = [self._body(d, [passages[i].text for i in d.passages], seed) for d in drafts]
        ask = lambda: list(self.client.answers(bodies, advance))
        told = [answer or ("", False) for answer in self.together.decided("what the teacher answers", ask)]
        encode = self.scribe.writer.tokenizer.encode
        said, ended = [encode(text.strip()) for text, _ in told], [whole for _, whole in told]
        sampled = self.scribe.sampled([d.prompt for d in drafts], said, ended)
        return [transcript_of(self.scribe.writer, d, s, generation) for d, s in zip(drafts, sampled, strict=True)]

    @property
    def summary(self) -> str:
        """What was asked and answered, in a line; "" where nothing was."""
        return f"teacher: {self.client.counts}" if self.client.counts != Counts() else ""

    def _body(self, d: Draft, passages: Sequence[str], seed: int) -> dict[str, Any]:
        """The chat that a draft asks for: its passages in the system's message, then the task's messages."""
        c = self.scribe.writer.config
        sources = numbered(passages)
        first, *others = d.task.messages
        own = [first["content"]] if first["role"] == "system" else []
        system = "\n\n".join(text for text in (sources, *own) if text)
        asked = others if own else d.task.messages
        messages = [{"role": "system", "content": system}] if system else []
        sampling = sampling_of(c, seed, d.task.id, d.sibling)
        return {"model": self.client.model, "messages": [*messages, *map(dict, asked)], **sampling}


def sampling_of(c: SimulateConfig, *seeds: Any) -> dict[str, Any]:
    """How a server samples an answer, in the words of OpenAI's web API and of what is usual beside it. The `seeds`
    together are those of no other answer."""
    number = int(content_id(*seeds)[:8], 16) >> 1
    more = {name: value for name, value in (("top_k", c.top_k), ("min_p", c.min_p)) if value}
    return {"max_tokens": c.new_tokens, "temperature": c.temperature, "top_p": c.top_p, "seed": number, **more}


def meet_teacher(
    directory: epath.Path, config: Config, progress: Progress, together: Together = ALONE
) -> Client:
    """The teacher of a run, probed when the run begins; what it can do is said and kept. Raises ServerRefused."""

    def means(found: Probed) -> str:
        last = config.teacher.generations
        which = "generation 1" if last == 1 else f"generations 1 to {last}"
        return f"it writes {which}, and targets are what the run's own model gives in its view"

    return meet(directory, config.teacher, config.model.max_length, progress, means, together)[0]
