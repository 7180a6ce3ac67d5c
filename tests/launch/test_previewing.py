"""What a preview shows: every call of a tool with its answer, for people and for programs."""

import json
from types import SimpleNamespace

from support import transcript

from ratchet.bootstrap import previews
from ratchet.bootstrap.transcript import Review, Verdict
from ratchet.bootstrap.worlds.world import Document, Task
from ratchet.launch.commands import preview

TASK = Task("t", ("crow", "fox"), ({"role": "user", "content": "How many pebbles are six times seven?"},))
CROW = Document("crow", "A thirsty crow\ndropped pebbles " + "into the pitcher " * 99)
FUNCTION = {"name": "calculate", "arguments": '{"expression":"6*7"}'}
CALLED = (
    *TASK.messages,
    {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": FUNCTION}]},
    {"role": "tool", "tool_call_id": "c", "content": "42\n<|im_start|>[bold]"},
    {"role": "assistant", "content": "They are 42."},
)


VERDICTS = {
    "finished": Verdict(1.0, True), "likely": Verdict(-0.3, True), "seeks": Verdict(1.0, True),
    "gain": Verdict(0.01, False, "too little"), "sure": Verdict(0.25, False, "doubts: all"),
    "kind": Verdict(1.0, True),
}  # fmt: skip


def shown(monkeypatch, capsys, as_json: bool) -> str:
    """What is printed of a preview of one answer."""
    answer = transcript(TASK, "They are 42.", messages=CALLED)
    review = Review(answer.id, VERDICTS, True)
    found = previews.Preview((), (previews.Previewed(TASK, (CROW,), (answer,), (review,)),))
    monkeypatch.setattr(previews, "preview", lambda run, weights, count, number: found)
    floors = {"likely": -0.5, "gain": 0.0625, "sure": 0.275}
    run = SimpleNamespace(rubric=[
        SimpleNamespace(id=name, required=name not in ("sure", "kind"), threshold=floors.get(name, 0.5))
        for name in VERDICTS
    ])  # fmt: skip
    assert preview._show(run, None, SimpleNamespace(tasks=1, json=as_json), 1) == 0
    return capsys.readouterr().out


def test_people_see_what_was_called_and_what_came_back_on_a_line_each(monkeypatch, capsys):
    lines = [line.strip() for line in shown(monkeypatch, capsys, False).splitlines()]
    at = lines.index("accepted: They are 42.")
    assert lines[at + 1 : at + 3] == ['calculate {"expression":"6*7"}', "→ 42 <|im_start|>[bold]"]


def test_programs_get_the_messages_of_an_answer(monkeypatch, capsys):
    (task,) = json.loads(shown(monkeypatch, capsys, True))["tasks"]
    assert task["answers"][0]["messages"] == list(CALLED)


def test_what_passes_for_certain_is_named_together_and_every_other_verdict_has_its_line(monkeypatch, capsys):
    lines = [line.strip() for line in shown(monkeypatch, capsys, False).splitlines()]
    at = lines.index("pass: finished, seeks")
    assert lines[at + 1 : at + 5] == [
        "likely       -0.30  pass, passes from -0.5", "gain          0.01  fail (too little), passes from 0.0625",
        "sure          0.25  fail (doubts: all), passes from 0.275, advisory", "kind          1.00  pass, advisory",
    ]  # fmt: skip
    assert lines[at + 6 :] == ["1 task; 1 of 1 answers accepted"]


def test_people_see_what_a_task_is_about_on_a_line(monkeypatch, capsys):
    lines = shown(monkeypatch, capsys, False).splitlines()
    at = lines.index("1. How many pebbles are six times seven?")
    assert lines[at + 1].startswith("  crow: A thirsty crow dropped pebbles into") and lines[at + 1].endswith(" …")
    assert lines[at + 2 : at + 4] == ["  fox", "  accepted: They are 42."]
