"""The command that watches runs in a terminal."""

import json
import shutil
from pathlib import Path

import pytest

from ratchet.launch import cli
from ratchet.launch.commands import watch
from ratchet.train.buckets import StoreError


@pytest.fixture
def ratchet(capsys):
    def call(*words) -> tuple[int, str, str]:
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def test_a_run_that_is_over_is_shown_once(ratchet, tiny_run):
    code, out, error = ratchet("watch", tiny_run)
    assert (code, error) == (0, "")
    assert f"tiny, {tiny_run}: finished" in out and "goodput" in out and "generation 2" in out and "simulate" in out


def test_it_waits_for_what_has_not_begun_and_ends_with_the_last_run(ratchet, tiny_run, tmp_path, monkeypatch):
    """One that is begun while it is watched, beside one that is over."""
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        shutil.copytree(tiny_run, tmp_path / "later")

    monkeypatch.setattr(watch.time, "sleep", sleep)
    code, out, error = ratchet("watch", tmp_path / "later", tiny_run, "--json", "--every", "7")
    looks = [json.loads(line) for line in out.splitlines()]
    assert (code, error, waited) == (0, "", [7.0])
    assert [[run["state"] for run in look["runs"]] for look in looks] == [["not begun", "finished"], ["finished"] * 2]
    assert looks[1]["time"] >= looks[0]["time"] and looks[1]["runs"][0]["directory"] == str(tmp_path / "later")


def test_a_damaged_run_that_nobody_works_on_ends_the_view(ratchet, tiny_run, tmp_path):
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    path = run / "gen-002" / "evaluation.json"
    path.write_text("[]")
    code, out, error = ratchet("watch", run)
    assert code == 2 and "damaged" in out and error.startswith(f"ratchet: watch: {path}: it is not what was committed")
    path.unlink()
    code, out, error = ratchet("watch", run)
    assert (code, error) == (0, "") and "it is missing" in out


def test_it_changes_nothing(ratchet, tiny_run):
    files = lambda: {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in Path(tiny_run).rglob("*")}
    before = files()
    ratchet("watch", tiny_run)
    assert files() == before


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "watch: give DIR"), (["x", "--every", "0"], "--every is 0; give seconds above 0, 3600 at most"),
        (["x", "--every", "nan"], "--every is nan"), (["x", "--every", "soon"], "--every"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(ratchet, words, named):
    code, out, error = ratchet("watch", *words)
    assert (code, out) == (2, "") and named in error and error.count("\n") == 1


def test_a_bucket_that_fails_once_ends_no_view_but_one_that_is_shut_does(ratchet, tiny_run, tmp_path, monkeypatch):
    look, looks = watch.Watched.look, []

    def failing(of, again=True):
        looks.append(of)
        if len(looks) == 2:
            failed = StoreError("gs://b/x: the bucket does not do it (HttpError: 503)")
            failed.again = again
            raise failed
        return look(of)

    monkeypatch.setattr(watch.Watched, "look", failing)
    begin = lambda seconds: len(looks) == 2 and shutil.copytree(tiny_run, tmp_path / "x")
    monkeypatch.setattr(watch.time, "sleep", begin)
    code, out, error = ratchet("watch", tmp_path / "x", "--json")
    states = [json.loads(line)["runs"][0]["state"] for line in out.splitlines()]
    assert (code, error, states) == (0, "", ["not begun", "not begun", "finished"])
    looks.clear()
    monkeypatch.setattr(watch.Watched, "look", lambda of: failing(of, again=False))
    code, _, error = ratchet("watch", tmp_path / "y", "--json")
    assert code != 0 and "the bucket does not do it" in error and error.count("\n") == 1
