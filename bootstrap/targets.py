"""Accepted transcripts to targets. No probability enters a reviewed target unless a continuation through it passed.

At every position where the teacher puts more than τ outside the sampled token, each alternative above ε is continued
by the teacher and the branch is reviewed; the target keeps teacher probability × pass rate, renormalised.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratchet.bootstrap.checks import count_judgements
from ratchet.bootstrap.config import TargetsConfig
from ratchet.bootstrap.review import Reviewer
from ratchet.bootstrap.simulate import Writer
from ratchet.bootstrap.transcript import Capture, Document, Task, Transcript, content_id
from ratchet.models.sampler import Request
from ratchet.models.scorer import Scorer


@dataclass(frozen=True)
class Branch:
    """One alternative token, continued and reviewed."""

    position: int
    token: int
    probability: float
    passed: bool
    text: str
    reason: str


@dataclass(frozen=True)
class Target:
    """The distribution to train on at each of the N tokens of a transcript.

    ids, probs: [N][K]; tail: [N]; unreviewed: mean probability per token that no reviewed continuation backs.
    """

    transcript_id: str
    ids: tuple[tuple[int, ...], ...]
    probs: tuple[tuple[float, ...], ...]
    tail: tuple[float, ...]
    unreviewed: float
    branches: tuple[Branch, ...] = ()


def make_targets(
    writer: Writer, reviewer: Reviewer, accepted: Sequence[Transcript], siblings: Sequence[Transcript],
    tasks: Mapping[str, Task], passages: Mapping[str, Document], config: TargetsConfig, *, seed: int,
    temperature: float,
) -> list[Target]:  # fmt: skip
    """Targets of the configured kind for accepted transcripts; `siblings` vote on judgements in branch reviews."""
    if config.kind == "teacher":
        accepted = _drawn_where_they_stand(writer, reviewer.scorer, accepted)
    if config.kind != "reviewed":
        return [_unbranched(t, config.kind) for t in accepted]
    opened = [(t, branch) for t in accepted for branch in _alternatives(writer, t, config)]
    texts = _continue(writer, [_branch_prompt(t, b) for t, b in opened], seed, temperature)
    drafts = [_branch_transcript(writer, t, b, rest) for (t, b), rest in zip(opened, texts, strict=True)]
    reviews = reviewer.review(drafts, tasks, passages, count_judgements(siblings))
    reviewed: dict[str, list[Branch]] = {}
    for (t, branch), draft, review in zip(opened, drafts, reviews, strict=True):
        reason = next((v.reason for v in review.verdicts.values() if not v.passed), "")
        done = replace(branch, passed=review.accepted, text=draft.text, reason=reason)
        reviewed.setdefault(t.id, []).append(done)
    return [_reviewed(t, reviewed.get(t.id, [])) for t in accepted]


def _drawn_where_they_stand(writer: Writer, scorer: Scorer, accepted: Sequence[Transcript]) -> list[Transcript]:
    """With the teacher's own distributions of corrections. Those that were captured are of an answer that no wrong
    thought came before, and of its "no," there are none."""
    corrections = [t for t in accepted if t.forced]
    told = [((*t.prompt, *t.forced), t.tokens) for t in corrections]
    found = scorer.distributions(writer.params, told, writer.sampler.keep)
    captured = {t.id: Capture(*(of_N.tolist() for of_N in c)) for t, c in zip(corrections, found, strict=True)}
    return [replace(t, capture=captured.get(t.id, t.capture)) for t in accepted]


def _alternatives(writer: Writer, t: Transcript, config: TargetsConfig) -> list[Branch]:
    """The branches to open, without those that call a tool: what a tool answers is not the transcript's to say."""
    call = writer.tokenizer.control["call"]
    found = []
    for position, (token, ids, probs) in enumerate(zip(t.tokens, t.capture.ids, t.capture.probs, strict=True)):
        own = next(p for i, p in zip(ids, probs, strict=True) if i == token)
        if 1.0 - own > config.open_mass:
            found += [
                Branch(position, i, p, False, "", "")
                for i, p in zip(ids, probs, strict=True)
                if i not in (token, call) and p >= config.smallest_branch
            ]
    return found


def _branch_prompt(t: Transcript, branch: Branch) -> tuple[int, ...]:
    return (*t.prompt, *t.forced, *t.tokens[: branch.position], branch.token)


def _continue(writer: Writer, prompts: Sequence[tuple[int, ...]], seed: int,
              temperature: float) -> list[tuple[tuple[int, ...], bool]]:  # fmt: skip
    """(tokens, finished) after each prompt; one that already ended is finished as it is. Equal prompts run once."""
    end = writer.tokenizer.control["end"]
    unique = sorted({p for p in prompts if p[-1] != end})
    requests = [Request(int(content_id(p)[:8], 16), p) for p in unique]
    sampled = writer.sampler(writer.params, requests, seed=seed, temperature=temperature, stop=(end,))
    found = {p: (tuple(s.tokens.tolist()), s.finished) for p, s in zip(unique, sampled, strict=True)}
    return [found.get(p, ((), True)) for p in prompts]


def _branch_transcript(writer: Writer, t: Transcript, branch: Branch, rest: tuple[tuple[int, ...], bool]) -> Transcript:
    tokens = (*t.tokens[: branch.position], branch.token, *rest[0])
    text = writer.tokenizer.decode(tokens)
    return replace(t, id=content_id(t.id, branch.position, branch.token), tokens=tokens, text=text, finished=rest[1])


def _reviewed(t: Transcript, branches: Sequence[Branch]) -> Target:
    """Teacher probability × pass rate at the open positions, all on the sampled token elsewhere."""
    k = len(t.capture.ids[0])
    ids_NK, probs_NK = np.zeros((len(t.tokens), k), np.int64), np.zeros((len(t.tokens), k))
    ids_NK[:, 0], probs_NK[:, 0] = t.tokens, 1.0
    used = np.ones(len(t.tokens), int)
    for position in {b.position for b in branches}:
        at = t.capture.ids[position].index(t.tokens[position])
        probs_NK[position, 0] = t.capture.probs[position][at]
    for b in branches:
        if b.passed:
            ids_NK[b.position, used[b.position]], probs_NK[b.position, used[b.position]] = b.token, b.probability
            used[b.position] += 1
    probs_NK /= probs_NK.sum(axis=1, keepdims=True)
    backed = {(b.position, b.token) for b in branches if b.passed} | set(enumerate(t.tokens))
    loose = sum(
        p for n, (ids, probs) in enumerate(zip(ids_NK.tolist(), probs_NK.tolist(), strict=True))
        for i, p in zip(ids, probs, strict=True) if p > 0 and (n, i) not in backed
    )  # fmt: skip
    return _target(t, ids_NK, probs_NK, np.zeros(len(t.tokens)), loose / len(t.tokens), tuple(branches))


def _unbranched(t: Transcript, kind: str) -> Target:
    if kind == "one_hot":
        ids_NK = np.array(t.tokens)[:, None]
        return _target(t, ids_NK, np.ones(ids_NK.shape), np.zeros(len(t.tokens)), 0.0)
    ids_NK, probs_NK = np.array(t.capture.ids), np.array(t.capture.probs)
    loose = 1.0 - np.sum(probs_NK * (ids_NK == np.array(t.tokens)[:, None]), axis=1)
    return _target(t, ids_NK, probs_NK, np.array(t.capture.tail), float(loose.mean()))


def _target(t: Transcript, ids_NK, probs_NK, tail_N, unreviewed: float, branches: tuple[Branch, ...] = ()) -> Target:
    ids, probs = (tuple(map(tuple, array.tolist())) for array in (ids_NK, probs_NK))
    return Target(t.id, ids, probs, tuple(tail_N.tolist()), unreviewed, branches)


def to_json(target: Target) -> bytes:
    return json.dumps(target, default=vars, separators=(",", ":")).encode()


def from_json(payload: bytes) -> Target:
    fields = json.loads(payload)
    fields["branches"] = tuple(Branch(**b) for b in fields["branches"])
    for name in ("ids", "probs"):
        fields[name] = tuple(tuple(row) for row in fields[name])
    return Target(**fields | {"tail": tuple(fields["tail"])})
