"""Tasks of every kind go through every stage, whoever writes: a server at an address, or the run's own model."""

import json

import numpy as np
import pytest
import yaml
from etils import epath
from faulty import Faulty
from support import little_config, start, write_model

from ratchet.bootstrap import loop, targets
from ratchet.bootstrap import run as runs
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.progress import Silent
from ratchet.bootstrap.proposals import from_json
from ratchet.bootstrap.stages.train import dataset_of
from ratchet.bootstrap.transcript import certain, review_from_json, transcript_from_json
from ratchet.bootstrap.worlds.documents import KINDS
from ratchet.models.sampler import Sampled, Sampler
from ratchet.train.records import read_examples

pytestmark = pytest.mark.long

OWN = yaml.safe_load(KINDS.read_text())
COINS = {"Nib": 12, "Odo": 35, "Ada": 48, "Ivo": 67, "Una": 91}
"""What stands in the texts, and is the answer to every question about them."""
QUESTIONS = {
    "ask": "How many coins did {name} keep?",
    "act": "What should {name} do with them at home?",
    "correct": "Is it true that nobody gave {name} any money?",
    "elsewhere": "Which rule can a banker learn from {name}?",
    "own": "Why was {name} in that town?",
}
RUBRIC = """
version: 1
criteria:
- {id: finished, kind: rule, of: form, question: "Does it end?"}
- {id: interrupts, kind: rule, question: "Is a wrong thought interrupted once?"}
- {id: original, kind: rule, limit: 5, question: "Is nothing pasted?"}
- {id: grounded, kind: rule, of: step, threshold: 0.9, question: "Do its words stand in the sources?"}
- {id: likely, kind: likelihood, threshold: -99, question: "Is it likely?"}
- {id: says, kind: model, show: [passages, question], question: "Do the sources say: {answer}"}
"""
STAGES = ("propose", "simulate", "review", "targets", "wrongthink", "corrections", "train", "evaluate")


def answer(text: str) -> str:
    """What is said of whoever is named last."""
    return f"{COINS[max(COINS, key=text.rfind)]}."


def says(prompt: str) -> str:
    """What the run's own model says, which has learned nothing: a proposal where one is asked for, else an answer."""
    asked = prompt.rpartition("user\n")[2]
    kind = next((k for k in OWN["kinds"] if asked.startswith(f"{k['id']}:")), None)
    if kind is None:
        return answer(prompt)
    question = QUESTIONS[kind["id"]].format(name=max(COINS, key=prompt.rfind))
    return json.dumps({**({"kind": "cause"} if kind.get("open") else {}), "question": question})


def speaking(run):
    """The sampler's place is taken by one that says it: no model that is small enough for a test would."""

    def sample(own, params, requests, *, advance=lambda done: None, **_):
        made = []
        for request in requests:
            tokens, end = run.tokenizer.encode(says(run.tokenizer.decode(request.prompt))), run.tokenizer.end
            made.append(Sampled(np.array(tokens, np.int32), True, end, *certain((*tokens, end), own.keep)))
        advance(len(made))
        return made

    return sample


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run about five texts, of all kinds of tasks that Ratchet brings: a server writes its first generation, its own
    model the second, and the server judges both. What was paid for is counted."""
    place = epath.Path(tmp_path_factory.mktemp("kinds"))
    for folder in ("texts", "base"):
        (place / folder).mkdir()
    for name, count in COINS.items():
        (place / "texts" / f"{name}.txt").write_text(f"{name} kept {count} coins in a box. Nobody else had any.")
    kinds = [kind if kind.get("question") else kind | {"instruction": f"{kind['id']}:"} for kind in OWN["kinds"]]
    short = {"gain": -99, "grounded": 0, "texts": ["it fell.", "it slept."], "answers": [], "kinds": kinds}
    (place / "kinds.yaml").write_text(yaml.safe_dump(OWN | short))
    (place / "rubric.yaml").write_text(RUBRIC)
    read = {"world": "documents", "documents__path": str(place / "texts"), "documents__slice": 2,
            "documents__fresh": 1, "documents__tasks": str(place / "kinds.yaml"), "documents__per_document": 6}
    far = Faulty(lambda body: "Yes" if "one word" in str(body["messages"]) else answer(body["messages"][-1]["content"]))
    with far.serving() as address, pytest.MonkeyPatch.context() as patch:
        config = runs.with_base(little_config(
            train__columns=512, model__max_length=512, simulate__keep=4, simulate__new_tokens=40, simulate__calls=0,
            simulate__unit_tasks=40, simulate__slots=64, wrongthink__first_generation=1,
            wrongthink__sources=("spoiled",), review__rubric=str(place / "rubric.yaml"), controls__random_share=0.0,
            controls__imitation=False, targets__kind="students", base=str(write_model(place / "base")), generations=2,
            teacher__url=address, judge__url=address, **read,
        ))  # fmt: skip
        run = runs.prepare(start(place / "run", config), config, Silent())
        run.metrics.close()
        patch.setattr(Sampler, "__call__", speaking(run))
        loop.run(run.directory, config, Silent())
    return run, far.paid


@pytest.fixture(scope="module", params=[1, 2], ids=["by address", "own model"])
def found(request, ran):
    """By stage, the kinds of the tasks that went through it in a generation."""
    run, number = ran[0], request.param
    place, proposals = run.generation(number), [p for n in range(number + 1) for p in _committed(run.proposals(n))]
    kinds = {p.task.id: p.kind.partition(":")[0] for p in map(from_json, proposals) if not p.reason}
    units = {stage: _committed(place / stage) for stage in STAGES[1:6]}
    said = {t.id: t for t in map(transcript_from_json, (*units["simulate"], *units["wrongthink"][::2]))}
    reviews = map(review_from_json, (*units["review"], *units["wrongthink"][1::2]))
    judged = [said[r.transcript_id] for r in reviews if r.accepted]
    of = lambda payloads: [said[targets.from_json(p).transcript_id] for p in payloads]
    through = {
        "simulate": [t for t in said.values() if t.source == "answer"],
        "review": [t for t in judged if t.source == "answer"],
        "targets": of(units["targets"]),
        "wrongthink": [t for t in judged if t.source == "spoiled"],
        "corrections": of(units["corrections"]),
    }
    evaluated = json.loads((place / "evaluation.json").read_text())["items"]["closed_book"]
    trained = [e.lineage["task"] for e in read_examples(dataset_of(run, number), tokenizer=run.tokenizer.hash)]
    tasks = {stage: [t.task_id for t in of_stage] for stage, of_stage in through.items()}
    tasks |= {"propose": [t.id for t in run.tasks(number)], "train": trained, "evaluate": [*evaluated]}
    return {stage: {kinds[i] for i in ids} for stage, ids in tasks.items()}


def _committed(place: epath.Path) -> list[bytes]:
    return [*Stage(place).committed()]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", [kind["id"] for kind in OWN["kinds"]])
def test_a_task_of_every_kind_goes_through_every_stage(found, kind, stage):
    assert kind in found[stage]


def test_the_server_wrote_the_first_generation_and_judged_both_and_no_question_was_paid_for_twice(ran):
    run = ran[0]
    paid = {body: count for body, count in ran[1].items() if "Say: one." not in body}  # which probes ask
    asked = [json.loads(body)["messages"][-1]["content"] for body in paid]
    assert set(paid.values()) == {1} and any("one word" in text for text in asked)
    answered = {text for text in asked if "one word" not in text}
    questions = lambda number: {t.question for t in run.tasks(number)}
    assert questions(1) <= answered and not questions(2) & answered
