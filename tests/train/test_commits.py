"""What is committed: known files alone are believed, and a process may be killed at any moment between."""

import json

import pytest
from etils import epath

from ratchet.train import commits
from ratchet.train.commits import FILE, AlteredError, Commits


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def run(tmp_path):
    return epath.Path(tmp_path)


def never():
    raise AssertionError("what is committed is not made again")


def test_json_is_made_once_and_read_back(run):
    path = run / "gen-001" / "decision.json"
    assert Commits(run).once(path, lambda: {"promoted": True}) == {"promoted": True}
    assert Commits(run).once(path, never) == {"promoted": True} and Commits(run).has(path)
    Commits(run).write(path, {"promoted": False})
    assert Commits(run).once(path, never) == Commits(run).read(path) == {"promoted": False}
    assert sorted(p.name for p in run.iterdir()) == [FILE, "gen-001"] and Commits(run).altered() == []


def test_half_a_letter_is_written_and_read_back(run):
    """As a name of a file or a tool call's JSON may have it."""
    path = run / "plan.json"
    assert Commits(run).once(path, lambda: {"a\ud800": "\udce9"}) == Commits(run).read(path) == {"a\ud800": "\udce9"}


def test_what_was_never_committed_is_made_whatever_lies_there(run):
    path = run / "decision.json"
    path.write_text('{"promoted": true}')
    assert not Commits(run).has(path)
    assert Commits(run).once(path, lambda: {"promoted": False}) == {"promoted": False}


@pytest.mark.parametrize("content", [b'{"promoted": false}', b"{", b"", b"[]", b'{"\xe9": 1}', bytes(20)])
def test_other_bytes_are_not_believed(run, content):
    path = run / "decision.json"
    Commits(run).write(path, {"promoted": True})
    Commits(run).write(run / "plan.json", {})
    path.write_bytes(content)
    assert Commits(run).altered() == ["decision.json"]
    for ask in (Commits(run).check, lambda: Commits(run).read(path), lambda: Commits(run).once(path, never)):
        with pytest.raises(AlteredError, match="decision.json: it is not what was committed; put it back, or rem"):
            ask()


def test_a_directory_in_the_place_of_a_file_is_not_what_was_committed(run):
    path = run / "gen-001" / "decision.json"
    Commits(run).write(path, {"promoted": True})
    path.unlink()
    (path / "within").mkdir(parents=True)
    assert Commits(run).altered() == ["gen-001/decision.json"]
    for ask in (Commits(run).check, lambda: Commits(run).read(path), lambda: Commits(run).once(path, never)):
        with pytest.raises(AlteredError, match="decision.json: it is not what was committed; put it back, or rem"):
            ask()
    path.rmtree()
    assert Commits(run).once(path, lambda: {"promoted": True}) == {"promoted": True}
    (run / FILE).unlink()
    (run / FILE).mkdir()
    assert Commits(run).altered() == [FILE]
    with pytest.raises(AlteredError, match=f"{FILE}: it is missing or damaged"):
        Commits(run).read(path)


def test_weights_are_left_to_whoever_reads_them(run):
    place = run / "gen-001" / "model"
    Commits(run).keep(place, "0" * 64, lambda: place.mkdir(parents=True))
    assert Commits(run).has(place) and Commits(run).altered() == []


def test_what_is_missing_is_made_again_and_must_come_out_as_it_was(run):
    path = run / "evaluation.json"
    Commits(run).once(path, lambda: {"right": 3})
    path.unlink()
    assert Commits(run).altered() == [] and not Commits(run).has(path)
    with pytest.raises(AlteredError, match="evaluation.json: the file is missing; `ratchet resume"):
        Commits(run).read(path)
    with pytest.raises(AlteredError, match="evaluation.json: made again, it is not what was committed"):
        Commits(run).once(path, lambda: {"right": 4})
    assert not path.exists()
    assert Commits(run).once(path, lambda: {"right": 3}) == {"right": 3}


def test_of_several_altered_files_the_first_is_named(run):
    for name in ("a.json", "b.json", "c.json"):
        Commits(run).write(run / name, {})
        (run / name).write_text("[]")
    with pytest.raises(AlteredError, match=r"a.json: .*; 2 more are listed by `ratchet status"):
        Commits(run).check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xe9", b'{"files": [], "coming": 1, "sha256": ""}', None])
def test_commits_that_are_missing_or_damaged_are_named(run, content):
    Commits(run).write(run / "plan.json", {})
    whole = (run / FILE).read_bytes()
    flipped = whole.replace(b"plan", b"plbn")
    (run / FILE).write_bytes(flipped if content is None else content)
    assert Commits(run).altered() == [FILE]
    with pytest.raises(AlteredError, match=f"{FILE}: it is missing or damaged"):
        Commits(run).check()
    (run / FILE).unlink()
    assert Commits(run).altered() == [FILE]


def test_a_first_file_that_is_announced_may_be_written_anew(run, monkeypatch):
    """As the settings of a run are when it is killed at once."""
    real, path = commits._written, run / "config.json"

    def write(where, content):
        if where == path:
            raise Killed
        real(where, content)

    monkeypatch.setattr(commits, "_written", write)
    with pytest.raises(Killed):
        Commits(run).write(path, {"n": 1})
    monkeypatch.setattr(commits, "_written", real)
    assert not Commits(run).knows(path)
    path.write_bytes(b'{\n "n": 1\n}\n')  # or it was killed just after
    assert Commits(run).altered() == [] and Commits(run).read(path) == {"n": 1}
    Commits(run).write(path, {"n": 2})
    assert Commits(run).knows(path) and Commits(run).read(path) == {"n": 2}


@pytest.mark.parametrize("moment", ["announced", "written"])
def test_a_kill_between_a_file_and_its_commit_leaves_both_readable(run, monkeypatch, moment):
    path, real = run / "samples.json", commits._written
    Commits(run).write(path, {"n": 1})

    def write(where, content):
        if moment == "announced" and where == path:
            raise Killed
        real(where, content)
        if moment == "written" and where == path:
            raise Killed

    monkeypatch.setattr(commits, "_written", write)
    with pytest.raises(Killed):
        Commits(run).write(path, {"n": 2})
    monkeypatch.setattr(commits, "_written", real)
    assert Commits(run).altered() == [] and Commits(run).read(path) == {"n": 1 if moment == "announced" else 2}
    Commits(run).write(run / "other.json", {})
    assert Commits(run).altered() == []
    Commits(run).write(path, {"n": 3})
    assert Commits(run).read(path) == {"n": 3} and json.loads((run / FILE).read_text())["coming"] == {}


def test_whoever_reads_while_a_file_is_replaced_sees_no_alteration(run, monkeypatch):
    path, looked = run / "funnel.json", []
    Commits(run).write(path, {"n": 1})
    real = Commits._known

    def known(self):
        if not looked:
            looked.append(1)
            Commits(run).write(path, {"n": 2})
        return real(self)

    monkeypatch.setattr(Commits, "_known", known)
    assert Commits(run).read(path) == {"n": 2}


def test_equal_runs_have_equal_commits_whatever_was_committed_first(tmp_path):
    names = ["a.json", "b.json", "c/d.json"]
    for place, order in ((tmp_path / "x", names), (tmp_path / "y", names[::-1])):
        for name in order:
            Commits(place).write(epath.Path(place) / name, {"name": name})
    assert (tmp_path / "x" / FILE).read_bytes() == (tmp_path / "y" / FILE).read_bytes()


def test_what_is_forgotten_is_made_again_and_what_is_inherited_is_not(run):
    Commits(run / "a").write(run / "a" / "arm" / "model.json", {"n": 1})
    Commits(run / "a").write(run / "a" / "plan.json", {})
    target = run / "b" / "arm" / "model.json"
    target.parent.mkdir(parents=True)
    target.write_bytes((run / "a" / "arm" / "model.json").read_bytes())
    Commits(run / "b").inherit(Commits(run / "a"), run / "b" / "arm")
    assert Commits(run / "b").once(target, never) == {"n": 1}
    assert Commits(run / "b").within(run / "b" / "arm") == [target]
    Commits(run / "b").forget(run / "b" / "arm")
    assert Commits(run / "b").once(target, lambda: {"n": 2}) == {"n": 2}
