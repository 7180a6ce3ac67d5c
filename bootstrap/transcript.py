"""The data that flows through one generation: Document -> Task -> Transcript -> Review (design §4).

Everything here is JSON-able, and identity is the sha256 of content. Sampled text is kept as token ids; the text
beside it is for people.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


def content_id(*parts: Any) -> str:
    """16 hexadecimal digits of sha256 over the JSON of `parts`."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Document:
    """A piece of source material: read, never trained on."""

    id: str
    text: str
    meta: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What a simulated user asks. `messages` is what the student will see; the documents are for the teacher alone."""

    id: str
    document_ids: tuple[str, ...]
    messages: tuple[dict[str, str], ...]
    askings: tuple[tuple[dict[str, str], ...], ...] = ()
    """Other messages that ask the same: an accepted answer to one teaches the student to answer all."""

    @property
    def question(self) -> str:
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Capture:
    """Sparse next-token distributions at N sampled positions, before any sampling warp.

    ids, probs: [N][K] nested tuples; tail: [N], the mass outside the kept ids.
    """

    ids: tuple[tuple[int, ...], ...] = ()
    probs: tuple[tuple[float, ...], ...] = ()
    tail: tuple[float, ...] = ()


@dataclass(frozen=True)
class Transcript:
    """One simulated answer.

    prompt: token ids that the teacher saw before the final assistant turn, tool turns included.
    student_prompt: token ids of the task alone, as the student will see it.
    forced: token ids put in the assistant's mouth (a wrong thought); never trained on.
    tokens: token ids sampled for the final turn.
    called: spans (start, end) of `prompt` that the teacher sampled itself (its tool calls).
    """

    id: str
    task_id: str
    generation: int
    sibling: int
    prompt: tuple[int, ...]
    student_prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    passages: tuple[str, ...]
    finished: bool
    capture: Capture = Capture()
    forced: tuple[int, ...] = ()
    forced_text: str = ""
    called: tuple[tuple[int, int], ...] = ()
    messages: tuple[dict[str, Any], ...] = ()

    @property
    def answer(self) -> str:
        """What the assistant said in all, forced prefix included."""
        return f"{self.forced_text} {self.text}".strip()

    @property
    def queries(self) -> list[str]:
        """What it looked up."""
        calls = [call for m in self.messages for call in m.get("tool_calls", ())]
        return [json.loads(call["function"]["arguments"])["query"].strip() for call in calls]


@dataclass(frozen=True)
class Verdict:
    """One criterion's answer: probability that it passes, whether it does, and why not."""

    p_pass: float
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Review:
    """All verdicts on one transcript."""

    transcript_id: str
    verdicts: dict[str, Verdict]
    accepted: bool


def to_json(item: Any) -> bytes:
    return json.dumps(item, default=vars, separators=(",", ":")).encode()


def transcript_from_json(payload: bytes) -> Transcript:
    fields = json.loads(payload)
    ids, probs, tail = fields.pop("capture").values()
    capture = Capture(tuple(map(tuple, ids)), tuple(map(tuple, probs)), tuple(tail))
    return Transcript(**{name: _tuples(value) for name, value in fields.items()}, capture=capture)


def review_from_json(payload: bytes) -> Review:
    fields = json.loads(payload)
    fields["verdicts"] = {name: Verdict(**verdict) for name, verdict in fields["verdicts"].items()}
    return Review(**fields)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
