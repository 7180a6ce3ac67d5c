import json
import re

import pytest
import yaml

from ratchet.bootstrap.kinds import read_kinds
from ratchet.bootstrap.worlds.documents import KINDS

OWN = yaml.safe_load(KINDS.read_text())


def test_the_kinds_that_come_along_ask_in_five_wordings_and_show_what_their_grammar_allows():
    kinds = read_kinds(KINDS.read_text(), "tasks.yaml")
    assert [k.id for k in kinds.kinds] == ["ask", "act", "correct", "elsewhere", "lesson", "own"]
    for kind in kinds.kinds:
        assert len(set(kind.wordings)) >= 5
        for example in kind.examples:
            shown = example.model_dump(exclude_defaults=True)
            assert [*shown] == kind.schema["required"]
            for name, text in shown.items():
                assert re.search(kind.schema["properties"][name].get("pattern", ""), text), text


def changed(**fields):
    """The file with the first kind changed."""
    return {**OWN, "kinds": [{**OWN["kinds"][0], **fields}]}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("kinds: [", "tasks.yaml: is no YAML"),
        ("- a", "tasks.yaml: : Input should be a valid dictionary"),
        ({**OWN, "kinds": []}, "tasks.yaml: kinds: Tuple should have at least 1 item"),
        ({**OWN, "gian": 1}, "tasks.yaml: gian: Extra inputs are not permitted; see bootstrap/worlds/tasks.yaml"),
        (changed(wordings=["{question}"] * 4), "tasks.yaml: kinds.0.wordings: Tuple should have at least 5 items"),
        (changed(wordings=["tell me"] * 5), "kinds.0: the wording 'tell me' has no {question}"),
        (changed(open=True), "kinds.0: the examples of an open kind, and only they, have a kind"),
        (changed(instruction=""), "kinds.0: give an instruction and two examples, or a question"),
        (changed(question="what?"), "kinds.0: a kind with a question of its own is not proposed"),
        (changed(times=0), "kinds.0.times: Input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_file_and_field(content, line):
    with pytest.raises(ValueError, match="tasks.yaml") as caught:
        read_kinds(content if isinstance(content, str) else json.dumps(content), "tasks.yaml")
    assert line in str(caught.value) and "\n" not in str(caught.value)
