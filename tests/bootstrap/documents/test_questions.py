import difflib
import json

import pytest

from ratchet.bootstrap.documents.account import LISTED
from ratchet.bootstrap.documents.reading import read
from ratchet.bootstrap.worlds import DocumentsConfig, Question


@pytest.fixture
def folder(tmp_path):
    """Two documents, and a third that repeats the first."""
    (tmp_path / "own").mkdir()
    for name, text in (("crow", "A crow drank."), ("fox", "The fox left."), ("old_crow", "a crow drank")):
        (tmp_path / "own" / f"{name}.txt").write_text(text)
    return tmp_path / "own"


def asked(folder, *lines: str, **settings):
    path = folder.parent / "questions.jsonl"
    path.write_text("\n".join(lines))
    return read(DocumentsConfig(str(folder), questions=str(path), **settings))


def line(question="who drank?", answer="a crow", document="crow") -> str:
    return json.dumps({"question": question, "answer": answer, "document": document})


def test_a_document_is_named_by_its_id_or_source_and_one_that_repeats_another_means_that(folder):
    found = asked(folder, line(), line(document="crow.txt"), line(document="old_crow"), line(answer="7 crows"))
    who = Question("who drank?", "a crow", "crow")
    assert found.questions == (who, who, who, who._replace(answer="7 crows")) and found.account.questions == 4
    assert not found.account.of("unread")


def test_marks_and_half_letters_are_no_part_of_a_question(folder):
    found = asked(folder, line("\ufeffwho \ud800?", "\ufeffa crow", "\ufeffcrow").replace('"answer', '"\ufeffanswer'))
    assert found.questions == (Question("who \ufffd?", "a crow", "crow"),)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (line(document="crown"), "is about 'crown', which is no document that was read; the nearest is 'crow'"),
        (line(answer=" "), "has no text `answer`"),
        ('{"question": "who drank?", "document": "crow"}', "has no text `answer`"),
        ('{"question": ["who"], "answer": "a", "document": "crow"}', "has no text `question`"),
        ("7", "is no JSON object"),
        ("{", "cannot be read (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
    ],
)
def test_a_line_that_is_no_question_is_listed_and_strict_stops(folder, other, reason):
    found = asked(folder, line(), other)
    assert [q.question for q in found.questions] == ["who drank?"]
    assert [(o.source, o.reason) for o in found.account.of("unread")] == [("questions.jsonl:2", reason)]
    with pytest.raises(ValueError, match="questions.jsonl:2 .*leave out --documents.strict"):
        asked(folder, line(), other, strict=True)


def test_a_question_about_what_two_documents_are_called_is_listed(folder):
    (folder / "crow.txt.md").write_text("quite another tale, of bees and of bread")
    found = asked(folder, line(), line(document="crow.txt"), line(document="crow.txt.md"))
    assert [q.document for q in found.questions] == ["crow", "crow.txt"]
    (one,) = found.account.of("unread")
    assert one.reason == "is about 'crow.txt', which the documents 'crow' and 'crow.txt' are both called"


def test_a_file_without_questions_is_one_clear_line(folder):
    for lines in ([], ["{}"], [line(document="no such one")]):
        with pytest.raises(ValueError, match="documents: there is no question in .*; mend --documents.questions"):
            asked(folder, *lines)
    with pytest.raises(ValueError, match="cannot be read .No such file or directory.; mend --documents.questions"):
        read(DocumentsConfig(str(folder), questions=str(folder / "none.jsonl")))


def test_the_nearest_name_is_looked_for_where_it_is_shown_and_no_oftener(folder, monkeypatch):
    looked, near = [], difflib.get_close_matches
    monkeypatch.setattr(difflib, "get_close_matches", lambda *args, **more: looked.append(args) or near(*args, **more))
    found = asked(folder, line(), *(line(document=f"crown {n}") for n in range(40)))
    reasons = [o.reason for o in found.account.of("unread")]
    assert len(reasons) == 40 and len(looked) == LISTED
    assert ["nearest is 'crow" in reason for reason in reasons] == [True] * LISTED + [False] * (40 - LISTED)
