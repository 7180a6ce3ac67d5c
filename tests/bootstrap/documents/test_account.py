import json

import pytest
from etils import epath

from ratchet.bootstrap.documents.account import FILE, LISTED, Account, LeftOut, NotInstalled, because, library
from ratchet.bootstrap.progress import Silent

UNREAD = [LeftOut(f"{n}.pdf", "gives no text") for n in range(LISTED + 3)]
OTHERS = [LeftOut("b.txt", "says nearly the same as a.txt", "repeated"), LeftOut("x.png", ".png", "other")]


class Heard(Silent):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def test_what_was_left_out_is_counted_and_the_first_are_named():
    heard = Heard()
    Account("texts", 7, 3, [*UNREAD, *OTHERS]).tell(heard)
    first, *named, last = heard.lines
    assert first == (
        "documents: 7 read from texts and 3 questions; 8 could not be read; 1 nearly the same as others left out; 1 of "
        "other kinds passed by (.png)"
    )
    assert named == [f"documents: {n}.pdf gives no text" for n in range(LISTED)]
    assert last == "documents: 3 more are listed in documents.json of the run"


def test_where_nothing_was_left_out_one_line_says_how_much_was_read():
    heard = Heard()
    Account("texts", 7, 0, []).tell(heard)
    assert heard.lines == ["documents: 7 read from texts"]


def test_a_run_keeps_every_source_that_was_left_out_with_its_reason(tmp_path):
    Account("texts", 7, 3, [*UNREAD, *OTHERS]).keep(epath.Path(tmp_path))
    kept = json.loads((tmp_path / FILE).read_text())
    assert kept["unread"] == [[o.source, o.reason] for o in UNREAD]
    assert kept["repeated"] == [["b.txt", "says nearly the same as a.txt"]] and kept["other"] == {".png": 1}
    assert (kept["path"], kept["documents"], kept["questions"]) == ("texts", 7, 3)


def test_why_something_cannot_be_read_is_one_line():
    assert because(ValueError("two\nlines")) == "cannot be read (two)"
    assert because(KeyError()) == "cannot be read (KeyError)"
    assert because(PermissionError(13, "Permission denied", "/a")) == "cannot be read (Permission denied)"


def test_a_library_that_there_is_not_names_the_extra():
    with pytest.raises(NotInstalled, match="a.txt needs no_such_library; `.*pip install 'ratchet.documents.'`"):
        library("no_such_library", "a.txt")
