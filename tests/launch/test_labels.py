"""Labels by one key each, and what they say of a review, on a finished run."""

import io
import json
import shutil
from dataclasses import replace

import pytest
from etils import epath
from rich.console import Console
from support import changed

from ratchet.bootstrap import config_files
from ratchet.bootstrap.certificate import OVERALL
from ratchet.bootstrap.lineage import reviewed
from ratchet.bootstrap.report.terminal import shown
from ratchet.bootstrap.worlds.world import content_id
from ratchet.launch import cli
from ratchet.launch.commands import labels


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A copy, which labels and a certificate may be written into. That lots accepted its answers is not said."""
    place = epath.Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("labels") / "run"))
    config_files.save(place, changed(config_files.saved(place), controls__random_share=0.0))
    return place


@pytest.fixture
def ratchet(capsys, monkeypatch):
    def call(*words, keys: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(keys))
        code = cli.main([str(word) for word in words])
        return code, *capsys.readouterr()

    return call


def lines(path) -> list[dict]:
    return [json.loads(line) for line in epath.Path(path).read_text().splitlines()]


def answers(run, number: int = 2) -> dict[str, bool]:
    """Whether each answer of a generation was accepted; those that only repeat another are left out."""
    transcripts, reviews = reviewed(run / f"gen-{number:03d}")
    return {i: reviews[i].accepted for i, t in transcripts.items() if t.source == "answer" and not reviews[i].repeats}


def test_one_key_labels_an_answer_and_the_next_call_goes_on(run, ratchet, tmp_path):
    file, there = tmp_path / "labels.jsonl", answers(run)
    code, out, _ = ratchet("label", run, "--labels", file, keys="ynsyq")
    assert code == 0 and "3 labels added" in out
    first = lines(file)
    assert [entry["label"] for entry in first] == [True, False, True]
    assert all(entry["criterion"] == OVERALL and entry["transcript"] in there for entry in first)
    assert [there[entry["transcript"]] for entry in first[:2]] == [True, False], "accepted and rejected in turn"
    assert ratchet("label", run, "--labels", file, keys="n")[0] == 0, "the end of input ends it"
    again = lines(file)
    assert again[:3] == first and again[3]["transcript"] not in {entry["transcript"] for entry in first}
    code, out, err = ratchet("label", run, "--labels", file, "--json", keys="y")
    assert code == 0 and json.loads(out) == {"added": 1, "labels": str(file)} and "Is this answer right?" in err


def test_a_key_goes_back_and_the_last_label_counts(run, ratchet, tmp_path):
    file = tmp_path / "labels.jsonl"
    ratchet("label", run, "--labels", file, keys="yunq")
    first, second = lines(file)
    assert first["transcript"] == second["transcript"] and (first["label"], second["label"]) == (True, False)


def test_an_answer_is_shown_with_its_sources_and_without_its_verdict(run, ratchet, tmp_path):
    transcripts, reviews = reviewed(run / "gen-001")
    _, out, _ = ratchet("label", run, "--generation", "1", "--labels", tmp_path / "l.jsonl", "--accepted", keys="yq")
    (entry,) = lines(tmp_path / "l.jsonl")
    t = transcripts[entry["transcript"]]
    assert reviews[t.id].accepted and shown(t.text).plain.split(".")[0] in " ".join(out.split())
    assert "source" in out and "Is this answer right?" in out and "accepted" not in out.replace("--accepted", "")


def test_what_was_called_is_shown_and_moves_no_cursor(run, capsys):
    t = next(iter(reviewed(run / "gen-001")[0].values()))
    call = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"query": "lamp"}'}}
    asked, *_ = t.messages
    answered = {"role": "tool", "content": "it \x1b[2Khums", "tool_call_id": "c1"}
    t = replace(t, messages=(asked, {"role": "assistant", "content": "", "tool_calls": [call]}, answered))
    labels._show(Console(), replace(t, passages=()), {}, "Is it right?", "1 of 1")
    out = capsys.readouterr().out
    assert 'lookup {"query": "lamp"}' in out and "→ it \\x1b[2Khums" in out and "\x1b" not in out


def test_what_lots_accept_is_not_certified(tiny_run, ratchet, tmp_path):
    place = epath.Path(shutil.copytree(tiny_run, tmp_path / "by lot"))
    first = next(i for i, accepted in answers(place).items() if accepted)
    (tmp_path / "l.jsonl").write_text(json.dumps({"transcript": first, "criterion": OVERALL, "label": True}))
    code, out, _ = ratchet("calibrate", place, "--labels", tmp_path / "l.jsonl")
    assert code == 0 and "no certificate: lots accept its answers (controls.random_share)" in out
    assert not (place / "gen-002" / "certificate.json").exists()


def test_labels_may_be_of_one_criterion(run, ratchet, tmp_path):
    file = tmp_path / "labels.jsonl"
    _, out, _ = ratchet("label", run, "--criterion", "grounded", "--labels", file, keys="yyq")
    assert "Does every claim stand" in out and {entry["criterion"] for entry in lines(file)} == {"grounded"}
    code, _, error = ratchet("label", run, "--criterion", "nothing")
    assert code == 2 and "there is no criterion nothing; there are overall, " in error


def test_a_review_is_compared_with_labels_and_certified_for_its_judge_and_rubric(run, ratchet, tmp_path, monkeypatch):
    """Whoever made them says that every accepted answer is right, and no other."""
    file, there = tmp_path / "labels.jsonl", answers(run)
    of = lambda i, ok, criterion: json.dumps({"transcript": i, "criterion": criterion, "label": ok})
    told = [of(i, ok, OVERALL) for i, ok in there.items()] + [of(next(iter(there)), True, "grounded")]
    file.write_text("\n".join([*told, of("elsewhere", True, OVERALL)]))
    code, out, _ = ratchet("calibrate", run, "--labels", file, "--json")
    found = json.loads(out)
    overall, made = found["criteria"][OVERALL], found["certificate"]
    assert code == 0 and (found["generation"], found["labels"], found["elsewhere"]) == (2, len(there) + 1, 1)
    assert overall["tpr"] == overall["tnr"] == overall["kappa"] == overall["precision"] == 1.0
    assert overall["rate"]["value"] == pytest.approx(sum(there.values()) / len(there))
    assert made["accepted"] == sum(there.values()) and made["wrong"] == 0 and not made["holds"] and made["needed"] == 99
    assert json.loads((run / "gen-002" / "certificate.json").read_text()) == made
    code, out, _ = ratchet("calibrate", run, "--labels", file)
    assert "not certified: precision ≥ 97% at one-sided 95% takes 99 with 0 wrong ones" in " ".join(out.split())
    assert {"overall", "grounded", "κ", "TPR", "TNR"} <= set(out.split())
    monkeypatch.setattr(labels, "make_console", lambda aside=False: Console(stderr=aside, width=60))
    _, narrow, _ = ratchet("calibrate", run, "--labels", file)
    cells = {word for word in out.split() if "─" not in word}
    assert "…" not in narrow and "right, corrected" in narrow and cells <= set(narrow.split())
    code, out, _ = ratchet("calibrate", run, "--json")
    assert code == 0 and json.loads(out) == {"certificate": made}


def test_of_several_certificates_the_newest_that_holds_is_shown(run, ratchet, monkeypatch):
    """After a roll-back, two generations have one judge; that of generation 2 is of another."""
    own = {"judge": "ab", "rubric": "cd", "generation": 1, "accepted": 99, "wrong": 0, "holds": True, "needed": 99}
    other = own | {"judge": "ef", "generation": 2}
    for made in (own, other):
        file = run / f"gen-00{made['generation']}" / "certificate.json"
        file.write_text(json.dumps(made | {"sha256": content_id(made)}))
    monkeypatch.setattr("ratchet.bootstrap.certificate.identity", lambda reviewer: {"judge": "ab", "rubric": "cd"})
    code, out, _ = ratchet("calibrate", run, "--generation", "2", "--json")
    assert code == 0 and json.loads(out)["certificate"]["generation"] == 1


def test_a_stale_certificate_is_refused(run, ratchet):
    """That of generation 2, for generation 1, whose judge is another."""
    made = {"judge": "ab", "rubric": "cd", "generation": 2, "accepted": 99, "wrong": 0, "holds": True, "needed": 99}
    (run / "gen-002" / "certificate.json").write_text(json.dumps(made | {"sha256": content_id(made)}))
    for generation in ("1", "2"):
        code, _, error = ratchet("calibrate", run, "--generation", generation)
        assert code == 2 and "certificate.json is stale: its judge is ab" in error and error.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '{"judge": "ab", "rubric": "cd", "holds": true}'])
def test_a_damaged_certificate_is_one_line_that_names_it(run, ratchet, content):
    (run / "gen-002" / "certificate.json").write_text(content)
    code, _, error = ratchet("calibrate", run)
    assert code == 2 and "gen-002/certificate.json is damaged; give --labels" in error and error.count("\n") == 1


def test_what_is_advised_names_the_file_and_the_generation(run, ratchet, tmp_path):
    file, of = tmp_path / "mine.jsonl", ("--generation", "1")
    for kept in run.glob("gen-*/certificate.json"):
        kept.unlink()
    made = f"make it with `ratchet label {run} --generation 1 --labels {file}`"
    assert made in ratchet("calibrate", run, *of, "--labels", file)[2]
    assert f"`ratchet label {run}` and give --labels {run / 'labels.jsonl'}" in ratchet("calibrate", run)[2]
    out = ratchet("label", run, *of, "--labels", file, keys="q")[1]
    assert "0 labels added" in out and "ratchet calibrate" not in out and not file.exists()
    out = ratchet("label", run, *of, "--labels", file, keys="yq")[1]
    assert f"`ratchet calibrate {run} --generation 1 --labels {file}` compares the review with them" in out
    assert ratchet("calibrate", run, *of, "--labels", file)[0] == 0


def test_mistakes_are_one_line(run, ratchet, tmp_path):
    file = tmp_path / "labels.jsonl"
    for text, named in (
        (None, "is missing; make it with `ratchet label"),
        ('{"transcript": "x", "label": true}', "labels no answer of generation 2"),
        ('{"transcript": "x"}', "line 1: label is None"),
        (json.dumps({"transcript": next(iter(answers(run))), "criterion": "z", "label": True}), "labels z; the rubric"),
        ("\n\xe9", "labels.jsonl, line 2: no JSON ('utf-8' codec can't decode"),
        ("[" * 100_000, "labels.jsonl, line 1: no JSON (maximum recursion"),
    ):
        if text:
            file.write_text(text, "latin-1")
        code, _, error = ratchet("calibrate", run, "--labels", file)
        assert code == 2 and named in error and error.count("\n") == 1, error
    code, _, error = ratchet("calibrate", run, "--generation", "7", "--labels", file)
    assert code == 2 and "has reviews of generations 1, 2; set --generation" in error
