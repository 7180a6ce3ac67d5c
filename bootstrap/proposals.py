"""Tasks that a model proposes about documents, and what is kept of them.

A task must be answerable with its document and not without. Nobody judges that: it is measured, by the likelihood of
the proposed answer with the document in view and without it. And its question must find the document, for a student has
nothing else to tell what is asked about.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rensa import RMinHash

from ratchet.bootstrap.kinds import Kind, Kinds
from ratchet.bootstrap.retrieval import Index
from ratchet.bootstrap.signals import grounded, words
from ratchet.bootstrap.simulate import Writer
from ratchet.bootstrap.worlds.world import Document, Message, Task, content_id
from ratchet.models.grammar import Grammar
from ratchet.models.sampler import Request
from ratchet.models.scorer import Scorer

REPEATED = 0.8
"""The similarity of two questions from which on the later one is left out."""


@dataclass(frozen=True)
class Proposal:
    """A task that a model proposed about a document. `gain` and `likely` measure its answer in nats per token; `reason`
    says why it is no task, "" when it is one."""

    document: str
    kind: str
    question: str
    answer: str
    askings: tuple[str, ...]
    gain: float
    likely: float
    reason: str

    @property
    def task(self) -> Task:
        """The task, in all its wordings. The proposed answer is no part of it: nobody has reviewed it."""
        messages, *others = (({"role": "user", "content": text},) for text in (self.question, *self.askings))
        return Task(content_id(self.document, messages), (self.document,), messages, tuple(others))


@dataclass(frozen=True)
class Proposer:
    """A model that proposes tasks of some kinds about the documents of an index, and measures them."""

    writer: Writer
    scorer: Scorer
    kinds: Kinds
    index: Index

    def __call__(self, documents: Sequence[Document], seed: int) -> list[Proposal]:
        """One proposal of each kind about each document: those of a document begin with another kind each time, so that
        the first few of all documents are of all kinds. A document of several passages shows another one each time."""
        asked = [(d, kind, view) for d in documents for kind, view in self._kinds_of(d)]
        spelled = self.writer.tokenizer.spelled()
        grammars = {kind.id: Grammar.of_json(kind.schema, spelled) for kind in self.kinds.kinds}
        requests = []
        for d, kind, view in asked:
            prompt = tuple(self.writer.tokenizer.render(self._messages(kind, view.text)))
            number = int(content_id(d.id, kind.id)[:8], 16)
            requests.append(Request(number, prompt, grammars[kind.id]))
        fits = [len(r.prompt) <= self.writer.room for r in requests]
        said = iter(self.writer.sample([r for r, ok in zip(requests, fits, strict=True) if ok], seed=seed))
        texts = [self._said(next(said)) if ok else "the examples and the passage leave no room" for ok in fits]
        return self._measured([(d, kind, view, text) for (d, kind, view), text in zip(asked, texts, strict=True)])

    def _kinds_of(self, document: Document) -> list[tuple[Kind, Document]]:
        passages, first = self.index.of(document.id, ""), int(content_id(document.id)[:8], 16)
        turned = [self.kinds.kinds[(first + n) % len(self.kinds.kinds)] for n in range(len(self.kinds.kinds))]
        return [(kind, passages[n % len(passages)]) for n, kind in enumerate(turned)]

    def _messages(self, kind: Kind, text: str) -> list[Message]:
        """A chat in which the model has proposed tasks about two other texts before it is asked about this one."""
        made = []
        for shown, example in zip(self.kinds.texts, kind.examples, strict=True):
            given = example.model_dump(exclude_defaults=True)
            made += [_asked(kind, shown), {"role": "assistant", "content": json.dumps(given, ensure_ascii=False)}]
        return [*made, _asked(kind, text)]

    def _said(self, sampled: Any) -> dict[str, str] | str:
        """What a proposal says, or why it says nothing."""
        text = self.writer.tokenizer.decode(sampled.tokens)
        return json.loads(text) if sampled.finished else f"cut off by the length limit: {text[:60]}"

    def _measured(self, said: Sequence[tuple[Document, Kind, Document, dict[str, str] | str]]) -> list[Proposal]:
        tokenizer, given, made = self.writer.tokenizer, [], []
        for _, _, view, told in said:
            if isinstance(told, dict):
                messages, answer = [{"role": "user", "content": told["question"]}], tokenizer.encode(told["answer"])
                contexts = (tokenizer.render(messages, passages=p, room=self.writer.room) for p in ([view.text], []))
                given += [(tuple(context), tuple(answer)) for context in contexts]
        means = iter([float(of_N.mean()) for of_N in self.scorer.log_likelihoods(self.writer.params, given)])
        for document, kind, view, told in said:
            if not isinstance(told, dict):
                made.append(Proposal(document.id, kind.id, "", "", (), 0.0, 0.0, told))
                continue
            likely, without = next(means), next(means)
            question, answer = told["question"].strip(), told["answer"].strip()
            askings = tuple(w.replace("{question}", question) for w in kind.wordings)
            name = f"{kind.id}: {told['kind'].strip()}" if kind.open else kind.id
            reason = self._reason(view, question, answer, likely, likely - without)
            made.append(Proposal(document.id, name, question, answer, askings, likely - without, likely, reason))
        return made

    def _reason(self, view: Document, question: str, answer: str, likely: float, gain: float) -> str:
        """Why a proposal about a passage is no task."""
        if not words(question) or not words(answer):
            return "has no words"
        if set(words(answer)) <= set(words(question)):
            return "the question says the answer"
        for what, said in (("question", question), ("answer", answer)):
            if (measured := grounded(said, [view])).score < self.kinds.grounded:
                return f"the {what} says too much that is {measured.doubt}"
        if not likely >= self.kinds.likely:
            return f"the answer is unlikely with the text in view: {likely:.2f} nats a token"
        if not gain >= self.kinds.gain:
            return f"the text adds too little to the answer: {gain:.2f} nats a token"
        if (found := self.index.search(question, 1)[0].document_id) != view.document_id:
            return f"the question finds another document: {found}"
        return ""


def tasks_of(proposals: Iterable[Proposal], per_document: int) -> tuple[Task, ...]:
    """The tasks among proposals: at most so many of a document, none whose question nearly repeats an earlier one."""
    kept: dict[str, list[Task]] = {}
    sketches: list[RMinHash] = []
    for proposal in proposals:
        of_document = kept.setdefault(proposal.document, [])
        if proposal.reason or len(of_document) == per_document:
            continue
        sketch = RMinHash(num_perm=64, seed=0)
        sketch.update(list(words(proposal.question)))
        if all(sketch.jaccard(other) < REPEATED for other in sketches):
            sketches.append(sketch)
            of_document.append(proposal.task)
    return tuple(task for of_document in kept.values() for task in of_document)


def to_json(proposal: Proposal) -> bytes:
    """A proposal as JSON."""
    return json.dumps(vars(proposal), separators=(",", ":")).encode()


def from_json(payload: bytes) -> Proposal:
    fields = json.loads(payload)
    return Proposal(**fields | {"askings": tuple(fields["askings"])})


def _asked(kind: Kind, text: str) -> Message:
    return {"role": "user", "content": f"{kind.instruction}\n\nText: {text}"}
