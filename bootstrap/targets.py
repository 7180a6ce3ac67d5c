"""Accepted transcripts to targets. No probability enters a reviewed target unless a continuation through it passed.

At every position where the teacher puts more than τ outside the sampled token, each alternative above ε is continued
by the teacher and the branch is reviewed; the target keeps teacher probability × pass rate, renormalised. N is the
number of tokens of a transcript, K the number of kept ids.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ratchet.bootstrap.config import TargetsConfig
from ratchet.bootstrap.progress import counted
from ratchet.bootstrap.simulate import Writer, shows
from ratchet.bootstrap.transcript import Capture, Review, Transcript, certain, packed, unpacked
from ratchet.bootstrap.worlds.world import content_id
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


@dataclass(frozen=True, eq=False)
class Target:
    """The distribution to train on at each of the N tokens of a transcript.

    `unreviewed` is the mean probability per token that no reviewed continuation backs.
    """

    transcript_id: str
    capture: Capture
    unreviewed: float
    branches: tuple[Branch, ...] = ()

    def sampled(self, t: Transcript) -> "Target":
        """The target that puts everything on what was sampled."""
        return replace(self, capture=certain(t.tokens), unreviewed=0.0, branches=())


def make_targets(
    writer: Writer,
    scorer: Scorer,
    review: Callable[[Sequence[Transcript]], Sequence[Review]],
    accepted: Sequence[Transcript],
    config: TargetsConfig,
    seed: int,
    reached: Callable[[float], None] = lambda share: None,
) -> list[Target]:
    """Targets of the configured kind for accepted transcripts; `review` judges the branches, and `reached` hears
    which share of them is sampled, time after time."""
    if config.kind in ("teacher", "students"):
        accepted = _drawn_where_they_stand(writer, scorer, accepted)
    if config.kind != "reviewed":
        return [_unbranched(t, config.kind) for t in accepted]
    opened = [(t, branch) for t in accepted for branch in _alternatives(writer, t, config)]
    texts = _continue(writer, [_branch_prompt(t, b) for t, b in opened], seed, reached)
    drafts = [_branch_transcript(writer, t, b, rest) for (t, b), rest in zip(opened, texts, strict=True)]
    reviewed: dict[str, list[Branch]] = {}
    for (t, branch), draft, found in zip(opened, drafts, review(drafts), strict=True):
        reason = next((v.reason for v in found.verdicts.values() if not v.passed), "")
        done = replace(branch, passed=found.accepted, text=draft.text, reason=reason)
        reviewed.setdefault(t.id, []).append(done)
    return [_reviewed(t, reviewed.get(t.id, [])) for t in accepted]


def _drawn_where_they_stand(writer: Writer, scorer: Scorer, accepted: Sequence[Transcript]) -> list[Transcript]:
    """Corrections with the teacher's distributions after the wrong thought.

    What was captured for a spoiled answer stood after no wrong thought, and its interruption was never sampled.
    """
    corrections = [t for t in accepted if t.forced]
    given = [((*t.prompt, *t.forced), t.tokens) for t in corrections]
    found = scorer.distributions(writer.params, given, writer.sampler.keep)
    captured = {t.id: Capture(*map(np.asarray, c)) for t, c in zip(corrections, found, strict=True)}
    return [replace(t, capture=captured.get(t.id, t.capture)) for t in accepted]


def _alternatives(writer: Writer, t: Transcript, config: TargetsConfig) -> list[Branch]:
    """The branches to open, without those that call a tool, since what a tool answers is not the transcript's to say,
    and those of symbols, which no text shows to a reviewer."""
    ids_NK, probs_NK = t.capture.ids_NK, t.capture.probs_NK
    barred = {writer.call, *writer.tokenizer.left_out} - {writer.tokenizer.end}
    own_N = np.sum(probs_NK * (ids_NK == np.asarray(t.tokens)[:, None]), axis=1, dtype=np.float64)
    found = []
    for n in np.flatnonzero(1.0 - own_N > config.open_mass).tolist():
        found += [
            Branch(n, i, p, False, "", "")
            for i, p in zip(ids_NK[n].tolist(), probs_NK[n].tolist(), strict=True)
            if i != t.tokens[n] and i not in barred and p >= config.smallest_branch
        ]
    return found


def _branch_prompt(t: Transcript, branch: Branch) -> tuple[int, ...]:
    return (*t.prompt, *t.forced, *t.tokens[: branch.position], branch.token)


def _continue(
    writer: Writer, prompts: Sequence[tuple[int, ...]], seed: int, reached: Callable[[float], None]
) -> list[tuple[tuple[int, ...], bool]]:
    """(tokens, finished) after each prompt; one that already ended is finished as it is. Equal prompts run once."""
    end = writer.tokenizer.end
    unique = sorted({p for p in prompts if p[-1] != end})
    requests = [Request(int(content_id(p)[:8], 16), p) for p in unique]
    sampled = writer.sample(requests, seed=seed, advance=counted(lambda done: reached(done / len(unique))))
    found = {p: (tuple(s.tokens.tolist()), s.finished) for p, s in zip(unique, sampled, strict=True)}
    return [found.get(p, ((), True)) for p in prompts]


def _branch_transcript(writer: Writer, t: Transcript, branch: Branch, rest: tuple[tuple[int, ...], bool]) -> Transcript:
    tokens = (*t.tokens[: branch.position], branch.token, *rest[0])
    text = writer.tokenizer.decode(tokens).lstrip()
    finished = rest[1] and shows(writer.tokenizer, tokens)
    return replace(t, id=content_id(t.id, branch.position, branch.token), tokens=tokens, text=text, finished=finished)


def _reviewed(t: Transcript, branches: Sequence[Branch]) -> Target:
    """Teacher probability × pass rate at the open positions, all on the sampled token elsewhere."""
    n, k = len(t.tokens), t.capture.ids_NK.shape[1]
    ids_NK, probs_NK = np.zeros((n, k), np.int64), np.zeros((n, k))
    ids_NK[:, 0], probs_NK[:, 0] = t.tokens, 1.0
    used = np.ones(n, int)
    for position in {b.position for b in branches}:
        at = t.capture.ids_NK[position].tolist().index(t.tokens[position])
        probs_NK[position, 0] = t.capture.probs_NK[position, at]
    for b in branches:
        if b.passed:
            ids_NK[b.position, used[b.position]], probs_NK[b.position, used[b.position]] = b.token, b.probability
            used[b.position] += 1
    probs_NK /= probs_NK.sum(axis=1, keepdims=True)
    backed = {(b.position, b.token) for b in branches if b.passed} | set(enumerate(t.tokens))
    loose = sum(
        p
        for at, (ids, probs) in enumerate(zip(ids_NK.tolist(), probs_NK.tolist(), strict=True))
        for i, p in zip(ids, probs, strict=True)
        if p > 0 and (at, i) not in backed
    )
    capture = Capture(ids_NK.astype(np.int32), probs_NK.astype(np.float32), np.zeros(n, np.float32))
    return Target(t.id, capture, loose / n, tuple(branches))


def _unbranched(t: Transcript, kind: str) -> Target:
    own_N1 = np.asarray(t.tokens, np.int32)[:, None]
    if kind == "one_hot":
        return Target(t.id, certain(t.tokens), 0.0)
    loose_N = 1.0 - np.sum(t.capture.probs_NK * (t.capture.ids_NK == own_N1), axis=1)
    return Target(t.id, t.capture, float(loose_N.mean()))


def to_json(target: Target) -> bytes:
    """A target as JSON, its distributions packed."""
    fields = vars(target) | {"capture": packed(target.capture)}
    return json.dumps(fields, default=vars, separators=(",", ":")).encode()


def from_json(payload: bytes) -> Target:
    """The target that `to_json` wrote."""
    fields = json.loads(payload)
    branches = tuple(Branch(**b) for b in fields["branches"])
    return Target(fields["transcript_id"], unpacked(fields["capture"]), fields["unreviewed"], branches)
