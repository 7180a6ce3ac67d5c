"""Tasks that a model proposes about documents, and what is kept of them.

A task must be answerable with its document and not without. Nobody judges that: it is measured, by how much likelier an
answer is with the document in view than without it. And its question must find the document, for a student has nothing
else to tell what is asked about.
"""

import heapq
import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from rensa import RMinHash

from ratchet.bootstrap.kinds import Kind, Kinds
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.signals import grounded, words
from ratchet.bootstrap.simulate import Shown, Writer
from ratchet.bootstrap.worlds.world import Document, Message, Task, content_id, title_of
from ratchet.models.grammar import Grammar
from ratchet.models.sampler import Request, Sampled
from ratchet.models.scorer import Scorer

LONGEST_PASSAGES = 16
"""Passages with the most bytes whose tokens are counted."""
REPEATED = 0.8
"""The similarity of two questions from which on the later one is left out."""


@dataclass(frozen=True)
class Proposal:
    """A task about a document, with an answer that shows what the document adds to it: `gain`, in nats per token.
    `reason` says why it is no task, "" when it is one."""

    document: str
    kind: str
    question: str
    answer: str = ""
    askings: tuple[str, ...] = ()
    gain: float = 0.0
    reason: str = ""

    @property
    def task(self) -> Task:
        """The task, in all its wordings. The answer is no part of it: nobody has reviewed it."""
        messages, *others = (({"role": "user", "content": text},) for text in (self.question, *self.askings))
        return Task(content_id(self.document, messages), (self.document,), messages, tuple(others))


class Asked(NamedTuple):
    """A kind of task that is asked for about a document, for the so-manyth time, and the passage that is shown."""

    document: Document
    kind: Kind
    time: int
    view: Document


@dataclass(frozen=True)
class Proposer:
    """A model that proposes tasks of some kinds about the documents of an index, answers them with a passage in view,
    and measures what the passage adds to the answer."""

    writer: Writer
    scorer: Scorer
    kinds: Kinds
    index: Index
    withheld: Sequence[str] = ()
    """Questions that nothing may be trained on."""

    def __call__(self, documents: Sequence[Document], seed: int) -> list[Proposal]:
        """Proposals of each kind about each document. Those of a document begin with another kind each time, so that
        the first few of all documents are of all kinds. A document of several passages shows one after the other, and
        one of more than it has proposals shows some that lie equally far apart."""
        asked = [a for document in documents for a in self._asked(document)]
        proposed = self._proposed(asked, seed)
        return self._answered([(a, self._with_room(p)) for a, p in zip(asked, proposed, strict=True)], seed)

    def _asked(self, document: Document) -> list[Asked]:
        passages, first = self.index.of(document.id, ""), int(content_id(document.id)[:8], 16)
        turned = [self.kinds.kinds[(first + n) % len(self.kinds.kinds)] for n in range(len(self.kinds.kinds))]
        every = [(kind, time) for kind in turned for time in range(kind.times)]
        apart = max(1, len(passages) / len(every))
        begin = first if apart > 1 else 0
        views = [passages[(begin + int(n * apart)) % len(passages)] for n in range(len(every))]
        return [Asked(document, kind, time, view) for (kind, time), view in zip(every, views, strict=True)]

    def _proposed(self, asked: Sequence[Asked], seed: int) -> list[Proposal]:
        """A question for each, or why there is none."""
        spelled = self.writer.tokenizer.spelled()
        grammars = {kind.id: Grammar.of_json(kind.schema, spelled) for kind in self.kinds.kinds if not kind.question}
        requests: dict[int, Request] = {}
        for at, (document, kind, time, view) in enumerate(asked):
            prompt = () if kind.question else tuple(self.writer.tokenizer.render(_chat(self.kinds, kind, view.text)))
            if 0 < len(prompt) <= self.writer.room:
                number = int(content_id(document.id, kind.id, time)[:8], 16)
                requests[at] = Request(number, prompt, grammars[kind.id])
        said = dict(zip(requests, self.writer.sample(list(requests.values()), seed=seed), strict=True))
        made = []
        for at, (document, kind, _, _) in enumerate(asked):
            if kind.question:
                made.append(Proposal(document.id, kind.id, kind.question.replace("{title}", title_of(document))))
            elif at not in said:
                made.append(Proposal(document.id, kind.id, "", reason="examples and passage leave no room"))
            else:
                made.append(self._read(document, kind, said[at]))
        return made

    def _read(self, document: Document, kind: Kind, said: Sampled) -> Proposal:
        text = self.writer.tokenizer.decode(said.tokens)
        if not said.finished:
            return Proposal(document.id, kind.id, "", reason=f"cut off by the length limit: {text[:60]}")
        spoken = json.loads(text)
        name = f"{kind.id}: {spoken['kind'].strip()}" if kind.open else kind.id
        return Proposal(document.id, name, spoken["question"].strip())

    @cached_property
    def _longest(self) -> str:
        """The passage with the most tokens, of those with the most bytes."""
        tokens = lambda text: len(self.writer.tokenizer.encode(text))
        texts = [p.text for p in self.index.passages]
        return max(heapq.nlargest(LONGEST_PASSAGES, texts, key=lambda text: len(text.encode())), key=tokens)

    def _with_room(self, proposal: Proposal) -> Proposal:
        """The proposal, no task where its question leaves no room for every passage: whoever answers it sees one at
        least, which may be any that the question finds."""
        message, shown = [{"role": "user", "content": proposal.question}], [self._longest]
        prompt = self.writer.shown.prompt(self.writer.tokenizer, message, shown, tools=self.writer.offered)
        fits = proposal.reason or len(prompt) <= self.writer.room
        return proposal if fits else replace(proposal, reason="leaves no room for a passage")

    def _answered(self, pairs: Sequence[tuple[Asked, Proposal]], seed: int) -> list[Proposal]:
        """The proposals with the likeliest answer, what the passage adds to it, and why some are no tasks."""
        tokenizer, prompts = self.writer.tokenizer, {}
        for at, (asked, proposal) in enumerate(pairs):
            if not proposal.reason:
                message = [{"role": "user", "content": proposal.question}]
                views = ([asked.view.text], [])
                prompts[at] = [tuple(self.writer.shown.prompt(tokenizer, message, view)) for view in views]
        requests = [Request(at, with_text) for at, (with_text, _) in prompts.items()]
        said = dict(zip(prompts, self.writer.sample(requests, seed=seed, temperature=0.0), strict=True))
        spoken = {at: tuple(s.tokens.tolist()) for at, s in said.items() if len(s.tokens) and s.finished}
        given = [(without_text, spoken[at]) for at, (_, without_text) in prompts.items() if at in spoken]
        without = dict(zip(spoken, self.scorer.log_likelihoods(self.writer.params, given), strict=True))
        gains = {at: float(said[at].log_likelihoods.mean() - without[at].mean()) for at in spoken}
        made = []
        for at, (asked, proposal) in enumerate(pairs):
            if at in prompts:
                answer = tokenizer.decode(said[at].tokens).strip()
                askings = tuple(w.replace("{question}", proposal.question) for w in asked.kind.wordings)
                proposal = replace(proposal, answer=answer, askings=askings, gain=gains.get(at, 0.0))
                cut = "" if at in spoken else "its answer is empty or cut off by the length limit"
                proposal = replace(proposal, reason=cut or self._reason(asked.view, proposal))
            made.append(proposal)
        return made

    def _reason(self, view: Document, proposal: Proposal) -> str:
        """Why an answered proposal is no task."""
        question, answer = words(proposal.question), words(proposal.answer)
        if not question or not answer:
            return "has no words"
        said = f" {' '.join(words(proposal.question.lower()))} "
        if any(f" {' '.join(words(withheld.lower()))} " in said for withheld in self.withheld):
            return "holds a labelled question, which is for measuring alone"
        if set(answer) <= set(question):
            return "the question says the answer"
        for what, said in (("question", proposal.question), ("answer", proposal.answer)):
            if (measured := grounded(said, [view])).score < self.kinds.grounded:
                return f"the {what} says too much that is {measured.doubt}"
        if not proposal.gain >= self.kinds.gain:
            return f"the text adds too little to the answer: {proposal.gain:.2f} nats a token"
        if (found := self.index.search(proposal.question, 1)[0].document_id) != view.document_id:
            return f"the question finds another document: {found}"
        return ""


def tasks_of(proposals: Iterable[Proposal], per_document: int, fixed: Collection[str] = ()) -> tuple[Task, ...]:
    """The tasks among proposals: at most so many of a document, none whose question nearly repeats an earlier one. Of
    kinds whose question is `fixed`, which asks the same of every text, those of one document alone are compared."""
    kept: dict[str, list[Task]] = {}
    sketches: list[tuple[str, RMinHash]] = []
    for proposal in proposals:
        of_document = kept.setdefault(proposal.document, [])
        if proposal.reason or len(of_document) == per_document:
            continue
        sketch = RMinHash(num_perm=64, seed=0)
        sketch.update(list(words(proposal.question)))
        within = proposal.document if proposal.kind in fixed else ""
        if all(sketch.jaccard(other) < REPEATED for place, other in sketches if not within or place == within):
            sketches.append((proposal.document, sketch))
            of_document.append(proposal.task)
    return tuple(task for of_document in kept.values() for task in of_document)


def shown_of(kinds: Kinds | None) -> Shown:
    """The worked answers of a file of kinds."""
    if not kinds or not kinds.answers:
        return Shown()
    said = [(("user", a.question), ("assistant", a.answer)) for a in kinds.answers]
    return Shown(kinds.texts, tuple({"role": role, "content": text} for pair in said for role, text in pair))


def to_json(proposal: Proposal) -> bytes:
    """A proposal as JSON."""
    return json.dumps(vars(proposal), separators=(",", ":")).encode()


def from_json(payload: bytes) -> Proposal:
    """The proposal that `to_json` wrote."""
    fields = json.loads(payload)
    return Proposal(**fields | {"askings": tuple(fields["askings"])})


def _chat(kinds: Kinds, kind: Kind, text: str) -> list[Message]:
    """A chat in which the model has proposed tasks about two other texts before it is asked about this one."""
    user = lambda shown: {"role": "user", "content": f"{kind.instruction}\n\nText: {shown}"}
    made = []
    for shown, example in zip(kinds.texts, kind.examples, strict=True):
        given = json.dumps(example.model_dump(exclude_defaults=True), ensure_ascii=False, separators=(",", ":"))
        made += [user(shown), {"role": "assistant", "content": given}]
    return [*made, user(text)]
