"""The data that flows through a generation: tasks become transcripts, and transcripts get reviews.

Everything here can be written as JSON, and identity is the sha256 of content. Sampled text is kept as token ids; the
text beside it is for people. N is the number of sampled tokens, K the number of ids kept of each distribution.
"""

import base64
import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ratchet.bootstrap.worlds.world import Call
from ratchet.train.codec import pack_targets, unpack_targets

Source = Literal["answer", "inverted", "contrast", "incumbent", "random", "spoiled", "junk"]
"""Where a transcript's text comes from: "answer" answers a task, and "junk" is made for calibration; all others
interrupt a wrong thought, which the inverted lesson, the contrast of right answers and spoiled ones, the incumbent, a
random vector, or a rule that spoils right answers made."""


class Capture(NamedTuple):
    """Sparse next-token distributions at N sampled positions, taken before any sampling warp.

    ids_NK and probs_NK hold the K likeliest ids with their probabilities, tail_N the mass outside of them.
    """

    ids_NK: np.ndarray
    probs_NK: np.ndarray
    tail_N: np.ndarray


def certain(tokens: tuple[int, ...], width: int = 1) -> Capture:
    """The distributions that put everything on the given tokens, K = `width` ids wide."""
    ids_NK = np.zeros((len(tokens), width), np.int32)
    probs_NK = np.zeros((len(tokens), width), np.float32)
    ids_NK[:, 0], probs_NK[:, 0] = tokens, 1.0
    return Capture(ids_NK, probs_NK, np.zeros(len(tokens), np.float32))


@dataclass(frozen=True, eq=False)
class Transcript:
    """One simulated answer."""

    id: str
    task_id: str
    generation: int
    sibling: int
    """Its number among the answers to the same task; corrections count on by themselves."""
    source: Source
    prompt: tuple[int, ...]
    """The token ids that the teacher saw before the final assistant turn, tool turns included."""
    student_prompt: tuple[int, ...]
    """The token ids of the task alone, as the student will see it."""
    tokens: tuple[int, ...]
    """The token ids of the final turn: sampled, but for an interruption that a correction begins with."""
    text: str
    passages: tuple[str, ...]
    """Ids of the passages that were in view in the end."""
    finished: bool
    capture: Capture
    forced: tuple[int, ...] = ()
    """The token ids of the wrong thought that was put into the assistant's mouth; they never carry weight."""
    forced_text: str = ""
    fault: str = ""
    """Why the supervisor interrupted the wrong thought."""
    called: tuple[tuple[int, int], ...] = ()
    """Spans (start, end) of `prompt` that the teacher sampled itself: its tool calls."""
    messages: tuple[dict[str, Any], ...] = ()

    @property
    def answer(self) -> str:
        """What the assistant said in all, a wrong thought included."""
        return f"{self.forced_text} {self.text}".strip()

    @property
    def calls(self) -> tuple[Call, ...]:
        """The tool calls by name and arguments."""
        made = [call["function"] for m in self.messages for call in m.get("tool_calls", ())]
        return tuple((f["name"], json.loads(f["arguments"])) for f in made)


UNREADABLE = "unreadable"
"""What the reason of a verdict begins with where nothing could be measured."""


@dataclass(frozen=True)
class Verdict:
    """One criterion's answer: what was measured, whether that passes, and why not.

    The `score` of a check is 1 or 0, of a model criterion P(yes) among yes and no, of other criteria what
    `bootstrap.signals` says.
    """

    score: float
    passed: bool
    reason: str = ""

    @property
    def readable(self) -> bool:
        """Whether there is a score; without one the verdict is a rejection."""
        return not self.reason.startswith(UNREADABLE)


@dataclass(frozen=True)
class Review:
    """All verdicts on one transcript."""

    transcript_id: str
    verdicts: dict[str, Verdict]
    accepted: bool

    @property
    def repeats(self) -> bool:
        """Whether it was refused for repeating an accepted sibling, which says nothing of whether it is right."""
        return "distinct" in self.verdicts and not self.verdicts["distinct"].passed


Pair = tuple[Transcript, Review]
"""A transcript and its review."""


def to_json(item: Any) -> bytes:
    """A transcript or review as JSON."""
    fields = vars(item)
    if "capture" in fields:
        fields = fields | {"capture": packed(fields["capture"])}
    return json.dumps(fields, default=vars, separators=(",", ":")).encode()


def transcript_from_json(payload: bytes) -> Transcript:
    """The transcript that `to_json` wrote."""
    fields = json.loads(payload)
    capture = unpacked(fields.pop("capture"))
    return Transcript(**{name: _tuples(value) for name, value in fields.items()}, capture=capture)


def packed(capture: Capture) -> list:
    """A capture as JSON: [vocabulary, bits in base 64]. Log-probabilities are kept in float16, as targets are."""
    vocab = 1 + int(capture.ids_NK.max(initial=1))
    return [vocab, base64.b64encode(pack_targets(capture.ids_NK, capture.probs_NK, vocab)).decode()]


def unpacked(fields: list) -> Capture:
    """The capture that `packed` wrote."""
    vocab, text = fields
    return Capture(*unpack_targets(base64.b64decode(text), vocab))


def review_from_json(payload: bytes) -> Review:
    """The review that `to_json` wrote."""
    fields = json.loads(payload)
    fields["verdicts"] = {name: Verdict(**verdict) for name, verdict in fields["verdicts"].items()}
    return Review(**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
