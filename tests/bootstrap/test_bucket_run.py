"""A run in a bucket, killed at any upload, goes on to what a run on a disk comes to, and is looked at where it lies."""

import io
import json

import pytest
from kill_at import POINTS, at_call
from runs import different
from stores import Killed, dying, now_and_then
from support import little_config, start

from ratchet.bootstrap import loop, run
from ratchet.bootstrap.lineage import reviewed
from ratchet.bootstrap.progress import Silent
from ratchet.launch import cli
from ratchet.launch import compare as comparison
from ratchet.train import holder
from ratchet.train.buckets import read
from ratchet.train.checkpoint import has_weights
from ratchet.train.commits import Commits

pytestmark = pytest.mark.long

CONFIG = little_config(generations=1, controls__imitation=False)
UPLOADS = (1, 14)
"""How many uploads the first lives of the killed run get to."""
ENDS = (POINTS["train"], lambda die: at_call(run, "save_weights", die))
"""Where its later lives end: after a checkpoint, and before the weights are there."""


@pytest.fixture(scope="module", autouse=True)
def soon():
    """Who is dead is known to be so in less than a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(holder, "BEAT", 0.1)
        patch.setattr(holder, "SILENCE", 0.3)
        patch.setattr(holder, "SENT", 0.0)
        yield


def die():
    raise Killed


def go_on(directory):
    loop.run(directory, CONFIG, Silent())


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    directory = start(tmp_path_factory.mktemp("disk") / "run", CONFIG)
    go_on(directory)
    return directory


@pytest.fixture(scope="module")
def killed(gs):
    """A run that was killed four times, and finished; the bucket now and then refuses."""
    directory = start(gs.bucket / "runs" / "killed", CONFIG)
    with gs.refusing(now_and_then(400)):
        for after in UPLOADS:
            with dying(after), pytest.raises(Killed):
                go_on(directory)
        for end in ENDS:
            with end(die), pytest.raises(Killed):
                go_on(directory)
        go_on(directory)
    return directory


def ratchet(capsys, *words) -> tuple[int, str, str]:
    """The exit status, and what is said on standard output and standard error."""
    status = cli.main([str(word) for word in words])
    return status, *capsys.readouterr()


def test_a_run_in_a_bucket_killed_again_and_again_is_the_one_on_a_disk(on_disk, killed):
    assert different(on_disk, killed) == []


def test_a_run_goes_on_in_a_bucket_that_orbax_does_not_know(on_disk, killed, s3):
    """From its dataset on, and killed with half a checkpoint there."""
    directory = s3.bucket / "runs" / "moved"
    for path in killed.iterdir():
        if path.name not in ("checkpoints", "report", "tensorboard", "working"):
            comparison._copy(path, directory / path.name)
    for name in ("DONE.json", "decision.json", "evaluation.json"):
        (directory / "gen-001" / name).unlink()
    (directory / "gen-001" / "model").rmtree()
    with dying(6), pytest.raises(Killed):
        go_on(directory)
    go_on(directory)
    assert different(on_disk, directory) == []


def test_a_run_is_looked_at_where_it_lies(killed, gs, capsys, monkeypatch):
    status, said, _ = ratchet(capsys, "status", killed, "--json")
    assert status == 0 and json.loads(said)["finished"] and json.loads(said)["holder"] is None
    assert ratchet(capsys, "report", killed)[0] == 0
    assert b"<html" in read(killed / "report" / "index.html")
    one = next(iter(reviewed(killed / "gen-001")[0]))
    status, said, _ = ratchet(capsys, "show", killed, one, "--json")
    assert status == 0 and json.loads(said)["transcript"] == one
    status, said, _ = ratchet(capsys, "evaluate", killed, "--generation", 1, "--json")
    assert status == 0 and json.loads(said) == json.loads(read(killed / "gen-001" / "evaluation.json"))
    monkeypatch.setattr("sys.stdin", io.StringIO("what does it do?\n"))
    status, said, _ = ratchet(capsys, "chat", killed)
    assert status == 0 and said.strip()
    out = gs.bucket / "exported"
    assert ratchet(capsys, "export", killed, "--generation", 1, "--to", out, "--data")[0] == 0
    assert sorted(path.name for path in (out / "data").iterdir()) == ["README.md", "train.jsonl", "train.parquet"]
    status, _, said = ratchet(capsys, "run", "tiny", "--out", killed)
    assert status == 2 and f"go on with `ratchet resume {killed}`" in said


def test_an_arm_of_a_comparison_begins_in_a_bucket_with_what_the_run_committed(killed, gs):
    arm, place = comparison.arms_of([["train.steps", "3"]], CONFIG)[0], gs.bucket / "arms"
    comparison._begin(killed, 1, arm, place)
    assert Commits(place).altered() == [] and has_weights(place / "gen-000" / "model")
    assert (place / "gen-001" / "dataset" / "1.0.0" / "record.json").exists()


def test_a_bucket_that_fails_is_one_line_and_the_run_goes_on_once_it_answers(killed, gs, capsys):
    done = read(killed / "gen-001" / "DONE.json")
    (killed / "gen-001" / "DONE.json").unlink()
    with gs.refusing(lambda method, path: 403 if method == "POST" else 0):
        status, _, said = ratchet(capsys, "resume", killed)
    assert status == 1 and f"{killed}: the bucket failed (Forbidden" in said and f"`ratchet resume {killed}`" in said
    assert len(said.splitlines()) == 1
    go_on(killed)
    assert read(killed / "gen-001" / "DONE.json") == done


def test_a_bucket_that_is_missing_or_read_only_is_told_before_anything_is_made(gs, capsys):
    status, _, said = ratchet(capsys, "run", "tiny", "--out", "gs://ratchet-nowhere/run")
    assert status == 2 and "the bucket gs://ratchet-nowhere is not there for you" in said and said.count("\n") == 1
    out = gs.bucket / "read-only"
    with gs.refusing(lambda method, path: 403 if method == "POST" else 0):
        status, _, said = ratchet(capsys, "run", "tiny", "--out", out)
    assert status == 2 and f"{out}" in said and "Forbidden" in said and said.count("\n") == 1
    assert not out.exists()
