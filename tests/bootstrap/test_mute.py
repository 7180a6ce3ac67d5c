"""Worlds without truth, worked tasks or items, read by a model that speaks in a chat template of its own."""

import json
import shutil

import pytest
from support import write_model

from ratchet.bootstrap import given
from ratchet.launch import cli

TINY = (
    "--simulate.new-tokens 16 --simulate.calls 0 --model.max-length 192 --train.columns 192 --train.batch 4 "
    "--controls.no-imitation"
).split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small model of random weights, as Hugging Face folders have them."""
    return write_model(tmp_path_factory.mktemp("base"))


def ratchet(*words):
    return cli.main([str(word) for word in words])


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def mute_run(folder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "mute"
    words = ("run", "tiny", "--world", "mute:create", "--base", folder, "--out", directory, *TINY)
    assert ratchet(*words, "--controls.random-share", "0.7") == 0
    return directory


def test_a_mute_world_runs_from_documents_to_promotion(mute_run):
    for number in (1, 2):
        place = mute_run / f"gen-{number:03d}"
        assert read(place / "funnel.json")["trained"] > 0 and read(place / "audit.json")["raw_tokens"] == 0
        assert read(place / "decision.json")["promoted"] in (True, False) and (place / "DONE.json").exists()
    assert (mute_run / "report" / "index.html").exists()


def test_without_an_oracle_the_review_judges_and_nothing_claims_to_know_more(mute_run):
    found = read(mute_run / "gen-002" / "evaluation.json")
    assert found["judge"] == "review" and "closed_book" in found["metrics"]
    assert "oracle" not in read(mute_run / "gen-002" / "audit.json")
    assert read(mute_run / "gen-001" / "calibration.json")["review"] == {"junk": 0.0}


def test_status_calls_a_mute_run_finished(mute_run, capsys):
    assert ratchet("status", mute_run, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finished"] and found["ended"] is None and found["world"] == "mute:create"


def test_it_is_resumed_and_grows_like_any_other(mute_run, capsys):
    assert ratchet("resume", mute_run) == 0
    capsys.readouterr()
    assert ratchet("resume", mute_run, "--json") == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["event"] == "result" and result["error"] is None and result["status"]["finished"]
    assert ratchet("resume", mute_run, "--generations", "1") == 2
    assert "--generations can be more, not fewer" in capsys.readouterr().err


def test_the_files_of_its_tokenizer_are_committed_and_made_again(mute_run, tmp_path, capsys):
    """They are the base model's, and of other kinds than those that a model from scratch has."""
    run = shutil.copytree(mute_run, tmp_path / "run")
    before = {path: path.read_bytes() for path in (run / "tokenizer").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "config.json"} <= {path.name for path in before}
    for path, content in before.items():
        path.write_bytes(content[: len(content) // 2])
        capsys.readouterr()
        assert ratchet("resume", run) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and f"{path}: it is not what was committed" in said
        path.unlink()
    assert ratchet("resume", run) == 0
    assert {path: path.read_bytes() for path in (run / "tokenizer").iterdir()} == before


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ("mute:nothing", "world: the module mute has no function nothing"),
        (".mute:create", "world: '.mute:create' names no module; set --world to package.module:function"),
        (":create", "world: ':create' names no module"),
        ("nowhere:create", "world: No module named 'nowhere'; install the package of nowhere:create"),
        ("json:dumps", "world: json:dumps does not take a seed and the number of generations (too many positional"),
        ("mute:RUBRIC", "world: mute:RUBRIC does not take a seed"),
        ("operator:add", "world: operator:add returns a value of type int; let it return a World of ratchet.boot"),
        ("silent", "world: there is no 'silent'; set --world to one of documents, lessons and arithmetic"),
    ],
)
def test_a_world_that_is_not_there_is_one_line(tmp_path, capsys, folder, world, said):
    assert ratchet("run", "tiny", "--world", world, "--base", folder, "--out", tmp_path / "run", *TINY) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.strip().splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_model_from_scratch_learns_nothing_from_a_world_without_worked_tasks(tmp_path, capsys):
    assert ratchet("run", "tiny", "--world", "mute:create", "--out", tmp_path / "run") == 2
    assert "world: mute has no worked tasks" in capsys.readouterr().err


FABLES = (
    "A fox saw ripe grapes that hung high on a vine. He jumped again and again and could not reach them. At last "
    "he walked away with his nose in the air and said that they were surely sour.",
    "A crow sat in a tree with a piece of cheese in her beak. A fox praised her voice and begged for a song. She "
    "opened her beak to sing, the cheese fell, and the fox ate it.",
    "A dog crossed a bridge with meat in his mouth and saw his own picture in the water. He took it for another "
    "dog with more meat, snapped at it, and lost what he had.",
    "A hare laughed at a tortoise for her slow feet and lay down to sleep in the middle of the race. When he "
    "woke, the tortoise sat beyond the line and was resting.",
)


KINDS = """
version: 1
gain: 0
grounded: 0
texts: ["the mule fell.", "the agent slept."]
kinds: [{id: say, question: "What does {title} say?", wordings: ["{question} a", "{question} b", "{question} c",
  "{question} d", "{question} e"]}]
"""
"""Without worked answers, for which a short context has no room."""


@pytest.mark.long
def test_real_prose_ends_with_one_line_and_nothing_is_waved_through(folder, tmp_path, capsys, monkeypatch):
    """The model's weights are random: nothing that it says about fables passes, and the page shows why."""
    reads, read_documents = [], given.read
    monkeypatch.setattr(given, "read", lambda config: reads.append(config) or read_documents(config))
    (tmp_path / "fables").mkdir()
    for number, text in enumerate(FABLES):
        (tmp_path / "fables" / f"{number}.txt").write_text(text)
    (tmp_path / "fables" / "damaged.docx").write_bytes(b"no document")
    asked = [{"question": f"What is {n} about?", "answer": "a fox", "document": str(n % 4)} for n in range(12)]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    words = (tmp_path / "fables", "--world", "documents", "--documents.slice", "3")
    words += ("--documents.fresh", "1", "--generations", "1", "--base", folder, "--controls.random-share", "0")
    (tmp_path / "kinds.yaml").write_text(KINDS)
    words += ("--documents.question", "What does {title} say?", "--documents.tasks", tmp_path / "kinds.yaml")
    words += ("--documents.questions", tmp_path / "asked.jsonl", "--review.target-precision", "0")
    directory = tmp_path / "run"
    assert ratchet("run", "tiny", *words, *TINY, "--review.minimum-recall", "0", "--out", directory) == 1
    said, error = capsys.readouterr()
    assert len(reads) == 1, "a million documents take minutes to read"
    assert "4 read from" in said and "12 questions; 1 could not be read" in said and "damaged.docx cannot be" in said
    assert read(directory / "documents.json")["unread"][0][0] == "damaged.docx"
    labelled = read(directory / "gen-000" / "evaluation.json")["metrics"]["labelled"]
    probed = read(directory / "gen-001" / "calibration.json")["review"]["n"]
    assert 0 < labelled["n"] < 12 and 0 < probed < 24, "some are asked without sources, others probe the reviewer"
    assert "no transcript passed the review (6 sampled, 6 reviewed, 0 accepted)" in error
    assert len(error.strip().splitlines()) == 1 and read(directory / "ended.json")["reason"] in error
    assert read(directory / "gen-001" / "funnel.json")["passed"] == 0
    page = (directory / "report" / "index.html").read_text()
    rejected = read(directory / "gen-001" / "samples.json")["transcripts"]
    assert rejected and all(t["id"] in page for t in rejected)
