"""The index of a run's transcripts, as its units come, change and are damaged."""

import json
import shutil
import sqlite3

import pytest
from etils import epath
from evil_run import TEXTS, add, commit

from ratchet.bootstrap.lineage import reviewed
from ratchet.launch.ui import index as indices
from ratchet.launch.ui.index import Index
from ratchet.launch.ui.pages import acceptance
from ratchet.launch.ui.search import Query, search


@pytest.fixture
def run(tmp_path):
    place = epath.Path(tmp_path) / "run"
    add(place)
    return place


@pytest.fixture
def index(run, tmp_path):
    return made(run, tmp_path)


def made(run, tmp_path) -> Index:
    found = Index(run, tmp_path / "index.sqlite")
    found.prepare()
    return found


def all_of(index) -> int:
    """Indexes what there is; returns how many units were new."""
    count = 0
    while index.update():
        count += 1
    return count


def ids(index, **asked) -> list[str]:
    with index.open() as connection:
        return [row["id"] for row in search(connection, Query(**asked)).rows]


def test_every_unit_is_read_once_also_by_the_next_who_looks(run, index, tmp_path):
    assert index.left() == 2 and all_of(index) == 2 and index.left() == 0
    assert made(run, tmp_path).left() == 0
    add(run, 8, 3)
    again = made(run, tmp_path)
    assert all_of(again) == 2
    assert sorted(ids(again)) == sorted(TEXTS), "what stands in two units is one transcript"


def test_answers_are_there_before_their_review(run, index):
    review = run / "gen-002" / "review"
    moved = review.rename(run / "later")
    assert all_of(index) == 1 and sorted(ids(index)) == sorted(TEXTS) and ids(index, verdict="passed") == []
    with index.open() as connection:
        assert acceptance(connection) is None
    moved.rename(review)
    all_of(index)
    assert len(ids(index, verdict="passed")) == 2


def test_acceptance_counts_answers_and_not_corrections(index):
    all_of(index)
    with index.open() as connection:
        found = acceptance(connection)
    assert (found["generation"], found["reviewed"]) == (2, 3) and found["accepted"] == pytest.approx(2 / 3)


def test_a_unit_that_was_made_anew_makes_the_index_anew(run, index):
    all_of(index)
    records = [{**json.loads(json.dumps({"id": "b1", "task_id": "t", "generation": 2, "source": "answer"})),
                "text": "other words", "forced_text": "", "messages": []}]  # fmt: skip
    commit(run / "gen-002" / "simulate", 7, records)
    all_of(index)
    assert ids(index) == ["b1"] and ids(index, words="lantern") == [] and ids(index, words="other") == ["b1"]


@pytest.mark.parametrize("damage", ["bytes", "missing", "fields", "commit"])
def test_a_damaged_unit_is_noted_and_the_others_are_read(run, index, damage):
    stage = run / "gen-002" / "simulate"
    path = commit(stage, 3, [{"id": "half of it"}] if damage == "fields" else [])
    if damage == "bytes":
        path.write_bytes(b"torn")
    if damage == "missing":
        path.unlink()
    if damage == "commit":
        path.with_suffix(".json").write_text("{")
    all_of(index)
    assert sorted(ids(index)) == sorted(TEXTS)
    with index.open() as connection:
        named = [row["path"] for row in connection.execute("select path from unit where damaged")]
    assert named == ([] if damage == "commit" else ["gen-002/simulate/unit-00003.array_record"])


@pytest.mark.parametrize("anew", [False, True])
def test_a_unit_that_is_whole_again_is_read(run, index, tmp_path, anew):
    """Its hash is what it was: what is made again is the same."""
    path = run / "gen-002" / "simulate" / "unit-00007.array_record"
    assert path.exists()
    moved = path.rename(run / "away")
    all_of(index)
    assert not ids(index)
    moved.rename(path)
    index = made(run, tmp_path) if anew else index
    assert all_of(index) == 2 and sorted(ids(index)) == sorted(TEXTS) and all_of(index) == 0
    with index.open() as connection:
        assert connection.execute("select count(*) from verdict").fetchone()[0] > 0


def test_a_run_is_looked_through_once_for_all_units_that_came(run, index, monkeypatch):
    """In a bucket every look takes a while."""
    add(run, 8, 3)
    looks, real = [], Index._units
    monkeypatch.setattr(Index, "_units", lambda self: looks.append(self) or real(self))
    assert all_of(index) == 4 and index.left() == 0 and len(looks) == 2


@pytest.mark.parametrize("content", [b"no database", b""])
def test_an_index_that_is_damaged_or_of_another_version_is_made_anew(run, index, tmp_path, content, monkeypatch):
    all_of(index)
    if content:
        for file in tmp_path.glob("index.sqlite*"):
            file.write_bytes(content)
    else:
        monkeypatch.setattr(indices, "VERSION", indices.VERSION + 1)
    again = made(run, tmp_path)
    assert all_of(again) == 2 and sorted(ids(again)) == sorted(TEXTS)


def test_two_who_look_at_once_do_not_count_twice(run, index, tmp_path):
    other = made(run, tmp_path)
    for one in (index, other, index, other):
        one.update()
    with other.open() as connection:
        assert acceptance(connection)["reviewed"] == 3 and len(ids(other)) == len(TEXTS)


def test_who_reads_cannot_write(index):
    with index.open() as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("delete from transcript")


def test_an_index_lies_in_the_cache_of_its_user_by_where_the_run_is(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    place = lambda name: indices.cached(epath.Path(tmp_path) / name)
    assert place("a") == place("b") != place("c") and tmp_path / ".cache" in place("a").parents
    one = Index(epath.Path(tmp_path) / "a", place("a"))
    one.prepare()
    assert place("a").parent.stat().st_mode & 0o077 == 0


def test_every_transcript_of_a_real_run_is_indexed_with_its_verdicts(tiny_run, tmp_path):
    index = made(epath.Path(shutil.copytree(tiny_run, tmp_path / "copy")), tmp_path)
    all_of(index)
    for number in (1, 2):
        transcripts, reviews = reviewed(tiny_run / f"gen-{number:03d}")
        with index.open() as connection:
            rows = connection.execute("select * from transcript where generation = ?", (number,)).fetchall()
            assert {r["id"]: (r["answer"], r["source"], bool(r["accepted"])) for r in rows} == {
                i: (t.text, t.source, reviews[i].accepted) for i, t in transcripts.items()
            }
            for name in reviews[rows[0]["id"]].verdicts:
                query = Query(criterion=name, verdict="failed", generation=number)
                failed = [i for i, r in reviews.items() if name in r.verdicts and not r.verdicts[name].passed]
                assert search(connection, query).count == len(failed)
