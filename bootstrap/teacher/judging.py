"""Verdicts of a judge at an address.

It is asked by chats of one message each, and answers by one word. Its log-probabilities of the words are its verdict
or, where it gives none, the word that it says.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from etils import epath

from ratchet.bootstrap.config import Config
from ratchet.bootstrap.progress import Progress, counted
from ratchet.bootstrap.teacher.client import Client, Counts, Failed, checked
from ratchet.bootstrap.teacher.probing import Probed, meet
from ratchet.models.wording import ANSWERS, asking
from ratchet.train.together import ALONE, Together

SURE = 0.5
"""The probability that yes and no, or what stands for them, have at least together, or nothing was said."""
LONGEST_WORD = 16
"""Tokens that an answer of one word may take."""
_MAY_MARK = re.compile(r"(?<=[<\[])(?=\S)")
"""Where a marker of roles or turns may begin, in the template of whatever model: `<|im_end|>`, `</s>`, `[INST]`."""


class Posed(NamedTuple):
    """A question with all that is in view, the words by which it may be answered, and those of them that pass."""

    text: str
    words: tuple[str, ...]
    passing: tuple[str, ...]


PLAIN_QUESTION = "Is the sky blue?"
PLAIN = Posed(asking(PLAIN_QUESTION, ()), ANSWERS, ANSWERS[:1])


@dataclass(frozen=True)
class FarJudge:
    """A judge by address. `likeliest` are the tokens of which it shows the log-probability; 0: none."""

    client: Client
    likeliest: int
    together: Together = ALONE
    """The processes of the run, of which the first one asks."""

    def __call__(
        self, posed: Sequence[Posed], reached: Callable[[float], None] = lambda share: None
    ) -> list[tuple[float, float]]:
        """P(pass) and P(fail) of each question, 0 and 0 where the server refuses it. `reached` is called with the share
        that is answered. Raises what `Client.answers` raises."""

        def answered(done: int) -> None:
            self.together.publish(f"after {done} of {len(posed)} questions to the judge")
            reached(done / len(posed))

        advance = counted(answered)
        ask = lambda: self.client.answers([self._body(one) for one in posed], advance, self._read)
        said = self.together.decided("what the judge answers", ask)
        return [self._verdict(one, likely or {}) for one, likely in zip(posed, said, strict=True)]

    def _body(self, posed: Posed) -> dict[str, Any]:
        message = {"role": "user", "content": unmarked(posed.text)}
        asked = {"model": self.client.model, "messages": [message], "temperature": 0}
        if self.likeliest:
            return asked | {"max_tokens": 1, "logprobs": True, "top_logprobs": self.likeliest}
        return asked | {"max_tokens": LONGEST_WORD}

    def _read(self, answer: Any) -> Mapping[str, float]:
        """How likely each first token of an answer is, as it is spelled or, without log-probabilities, the answer,
        which is then certain. Raises Failed for what is no answer."""
        said, _ = checked(answer)
        if not self.likeliest:
            return {said: 1.0}
        try:
            found: Counter[str] = Counter()  # by their letters; of two tokens that show the same, both count
            for one in answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]:
                found[one["token"]] += math.exp(one["logprob"])
            return found
        except (LookupError, TypeError, OverflowError):
            raise Failed("no log-probabilities") from None

    def _verdict(self, posed: Posed, likely: Mapping[str, float]) -> tuple[float, float]:
        """What a judge's words mean: a token may be the beginning of one alone, an answer begins with a whole one."""
        of = dict.fromkeys(posed.words, 0.0)
        for said, share in likely.items():
            meant = [word for word in posed.words if _means(said, word, whole=not self.likeliest)]
            if len(meant) == 1:
                of[meant[0]] += share
        passing = sum(of[word] for word in posed.passing)
        return passing, sum(of.values()) - passing


def _means(said: str, word: str, whole: bool) -> bool:
    said, word = said.strip().casefold(), word.casefold()
    part = not whole and said and word.startswith(said)
    return bool(part or re.match(rf"{re.escape(word)}(?!\w)", said))


def unmarked(text: str) -> str:
    """A text in which no model's template can find a marker of its own: a space stands behind what may begin one."""
    return _MAY_MARK.sub(" ", text)


def meet_judge(
    directory: epath.Path, config: Config, progress: Progress, asked: Sequence[str], together: Together = ALONE
) -> FarJudge:
    """The judge of a run, probed when the run begins; what it can do is said and kept, by which criteria it is `asked`,
    and whether it answers a plain question by yes or no. Raises ServerRefused."""
    path = directory / config.judge.section / "probe.json"
    met = together.decided("whether the judge was asked", path.exists)

    def means(found: Probed) -> str:
        how = "the probability that it gives to each word" if found.likeliest else "the word that it says"
        return f"of the review it answers {', '.join(asked)}, by {how}"

    client, found = meet(directory, config.judge, config.model.max_length, progress, means, together)
    judge = FarJudge(client, found.likeliest, together)
    asked_apart = replace(judge, client=replace(client, counts=Counts()))  # it says nothing of the run's own questions
    if not met and sum(asked_apart([PLAIN])[0]) < SURE:
        progress.line(f"judge: it answers {PLAIN_QUESTION!r} by neither yes nor no; what it judges so is rejected")
    return judge
