"""Drafts to transcripts by a teacher at an address.

It sees what a teacher of the run would see: passages and the task's messages. It may call what the run's own model may.
What it says and calls is put into the run's own tokens. Distributions are those of the run's own model for these
tokens, in the teacher's view: another model's vocabulary is another one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from ratchet.bootstrap.config import Config, SimulateConfig
from ratchet.bootstrap.progress import Progress, Reached, counted
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.simulate import Draft, Made, Writer, after_calls, transcript_of
from ratchet.bootstrap.teacher.client import Client, Counts
from ratchet.bootstrap.teacher.kept import keep, kept, place_of
from ratchet.bootstrap.teacher.probing import Probed, meet
from ratchet.bootstrap.teacher.turns import offering, turned
from ratchet.bootstrap.toolkit.source import Answered, Asked
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


class _Heard(NamedTuple):
    """What a teacher says in a turn, whether the turn ended by itself, and the call that it makes: the tool's name, and
    JSON."""

    text: str = ""
    ended: bool = False
    call: Sequence[Any] | None = None


@dataclass(frozen=True)
class Afar:
    """A teacher by address, what writes down what it says, and where it may look passages up."""

    client: Client
    scribe: Scribe
    index: Index
    together: Together = ALONE
    """Processes that hear the same: the first one asks."""

    def finish(
        self, drafts: Sequence[Draft], passages: Mapping[str, Document], *, generation: int, seed: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> list[Transcript]:  # fmt: skip
        """Has the teacher answer every draft, with the tools asked that it calls between turns. A call that the run's
        own model could not have made ends its transcript unfinished. Raises what `Client.answers` raises."""
        writer = self.scribe.writer
        turns = writer.config.calls if writer.offered else 0
        given = [self._body(d, [passages[i].text for i in d.passages], seed) for d in drafts]
        waiting, last = dict(enumerate(drafts)), {}
        reached = Reached(advance)
        fits = lambda d: len(d.prompt) <= writer.room
        for turn in range(turns + 1):
            bodies = {at: self._turn(given[at], d, turn < turns) for at, d in waiting.items()}
            heard = dict(zip(bodies, self._heard([*bodies.values()], counted(reached, len(last))), strict=True))
            calls = {at: one.call for at, one in heard.items() if one.call and turn < turns}
            written = {at: writer.caller.write(*call) for at, call in calls.items()}
            made = {at: Made(waiting[at], *of) for at, of in written.items() if of}
            after = after_calls(writer, self.index, made, partial(self._once, bodies))
            still = {at: d for at, d in after.items() if fits(d)}
            last |= {at: (waiting[at], one) for at, one in heard.items() if at not in still}
            waiting = still
            reached(len(last))
        ends = [last[at] for at in range(len(drafts))]
        may = bool(writer.offered)  # some servers call what nobody offered
        said = [[writer.call] if one.call and may else writer.tokenizer.encode(one.text.strip()) for _, one in ends]
        sampled = self.scribe.sampled([d.prompt for d, _ in ends], said, [one.ended for _, one in ends])
        return [transcript_of(writer, d, s, generation) for (d, _), s in zip(ends, sampled, strict=True)]

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

    def _turn(self, body: Mapping[str, Any], d: Draft, may_call: bool) -> dict[str, Any]:
        """A draft's chat with the calls and answers so far, and the tools that may be called next."""
        offered = self.scribe.writer.offered
        if not offered:
            return dict(body)
        since = [{"content": "", **message} for message in d.messages[len(d.task.messages) :]]
        return {**body, "messages": [*body["messages"], *since], **offering(offered, may_call)}

    def _heard(self, bodies: Sequence[Mapping[str, Any]], advance: Callable[[int], None]) -> list[_Heard]:
        ask = lambda: self.client.answers(bodies, advance, turned)
        return [_Heard(*answer or ()) for answer in self.together.decided("what the teacher answers", ask)]

    def _once(self, bodies: Mapping[int, Mapping[str, Any]], asked: Mapping[int, Asked]) -> list[Answered]:
        """What tools say to calls. It is kept, since what the teacher is asked next, and paid for, depends on it."""
        if not asked:
            return []
        folder = self.client.folder.parent / "tools"
        questions = {at: [content_id(bodies[at]), one.name, one.arguments] for at, one in asked.items()}
        files = {at: place_of(folder, question) for at, question in questions.items()}
        read = lambda: [kept(file) if file.exists() else None for file in files.values()]
        known = dict(zip(asked, self.together.decided("what tools have answered", read), strict=True))
        new = [at for at, answer in known.items() if answer is None]
        found = dict(zip(new, self.scribe.writer.tools.answers([asked[at] for at in new]), strict=True))
        write = lambda: [keep(folder, questions[at], list(answer)) for at, answer in found.items()]
        self.together.decided("that tools' answers are kept", write)
        return [found[at] if at in found else Answered(*answer) for at, answer in known.items()]


def sampling_of(c: SimulateConfig, *seeds: Any) -> dict[str, Any]:
    """How a server samples an answer, in the words of OpenAI's web API and of what is usual beside it. The `seeds`
    together are those of no other answer."""
    number = int(content_id(*seeds)[:8], 16) >> 1
    more = {name: value for name, value in (("top_k", c.top_k), ("min_p", c.min_p)) if value}
    return {"max_tokens": c.new_tokens, "temperature": c.temperature, "top_p": c.top_p, "seed": number, **more}


def meet_teacher(
    directory: epath.Path, config: Config, progress: Progress, calls: bool, together: Together = ALONE
) -> Client:
    """The teacher of a run, probed when the run begins; what it can do is said and kept. Raises ServerRefused, also for
    one that calls no tools where it may."""

    def means(found: Probed) -> str:
        last = config.teacher.generations
        which = "generation 1" if last == 1 else f"generations 1 to {last}"
        return f"it writes {which}, and targets are what the run's own model gives in its view"

    return meet(directory, config.teacher, config.model.max_length, progress, means, together, calls)[0]
