"""A run in which answers were accepted, for exports: what its generations commit, without a model that says it."""

import dataclasses

import little
import numpy as np
from etils import epath
from support import transcript

from ratchet.bootstrap import targets
from ratchet.bootstrap.ledger import Stage
from ratchet.bootstrap.run import Run
from ratchet.bootstrap.targets import Target
from ratchet.bootstrap.transcript import Capture, Review, Verdict, to_json

SOFT = 0.75
"""What each target puts on the token that was said."""


def with_answers(prepared: Run, directory: epath.Path) -> Run:
    """A run in the little world whose two generations have committed answers, of which some were accepted, and a
    correction. The first of its documents has a licence."""
    first, *others = prepared.world.slices
    licensed = dataclasses.replace(first.documents[0], meta={"license": "CC0-1.0", "source": "a/é.txt"})
    first = first._replace(documents=(licensed, *first.documents[1:]))
    world = dataclasses.replace(prepared.world, slices=(first, *others))
    run = dataclasses.replace(prepared, world=world, directory=directory)
    for number in (1, 2):
        for stage, payloads in _committed(run, number).items():
            Stage(run.generation(number) / stage).unit(0, "", lambda payloads=payloads: payloads)
        done = {"incumbent": number, "accepted": {}, "rollbacks": 0}
        run.commits.write(run.generation(number) / "DONE.json", done)
    return run


def _committed(run: Run, number: int) -> dict[str, list[bytes]]:
    """What a generation commits by stage: two answers that pass, one after a call, one that does not, a correction."""
    shown, tasks, tokenizer = run.passages(number)[:2], run.tasks(number), run.tokenizer
    deeds = little.deeds_of(run.world)
    say = lambda task, text, **more: transcript(task, text, shown, tokenizer=tokenizer, generation=number, **more)
    plain, called = (say(task, little.answer(deeds, task)) for task in tasks)
    call = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"query": " lamp"}'}}
    answer = {"role": "tool", "tool_call_id": "c1", "content": shown[0].text}
    asked, said = called.messages
    called = dataclasses.replace(called, messages=(asked, {"role": "assistant", "tool_calls": [call]}, answer, said))
    wrong = say(tasks[0], "all lamps dance.", sibling=1)
    correction = say(tasks[0], "no, so.", forced=(9,), forced_text="so", source="spoiled")
    passed = lambda t, ok=True: to_json(Review(t.id, {"grounded": Verdict(0.9, ok, "" if ok else "why")}, ok))
    return {
        "simulate": [to_json(t) for t in (plain, called, wrong)],
        "review": [passed(plain), passed(called), passed(wrong, False)],
        "targets": [targets.to_json(Target(plain.id, _soft(plain.tokens), 0.0))],
        "wrongthink": [to_json(correction), passed(correction)],
    }


def _soft(tokens: tuple[int, ...]) -> Capture:
    """The distributions that put SOFT on each token and the rest on id 7; the third of each is padding."""
    ids = np.stack([np.int32(tokens), np.full(len(tokens), 7, np.int32), np.zeros(len(tokens), np.int32)], axis=1)
    return Capture(ids, np.tile(np.float32([SOFT, 1 - SOFT, 0.0]), (len(tokens), 1)), np.zeros(len(tokens), np.float32))
