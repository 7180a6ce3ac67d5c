"""What was accepted, as a dataset for other trainers."""

import json
from collections import Counter
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import yaml
from accepted import SOFT, with_answers
from etils import epath

from ratchet.bootstrap.config import TeacherConfig
from ratchet.launch import api, cli, export_data
from ratchet.launch.commands import models


@pytest.fixture(scope="module")
def run(little_run, tmp_path_factory):
    return with_answers(little_run, epath.Path(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    return export_data.write(run, 2, epath.Path(tmp_path_factory.mktemp("out")) / "data")


@pytest.fixture(scope="module")
def rows(folder):
    return pq.read_table(str(folder / "train.parquet")).to_pylist()


def test_every_accepted_answer_up_to_a_generation_is_there_and_no_other(run, folder, rows, tmp_path):
    assert [(row["generation"], row["teacher"]) for row in rows] == [(1, 0), (1, 0), (2, 1), (2, 1)]
    assert len({row["id"] for row in rows}) == 4
    assert not any(word in row["completion"][0]["content"] for row in rows for word in ("dance", "no, so"))
    first = export_data.write(run, 1, epath.Path(tmp_path) / "data")
    assert pq.read_table(str(first / "train.parquet")).to_pylist() == rows[:2]


def test_json_lines_hold_the_same(folder, rows):
    assert [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()] == [
        json.loads(json.dumps(row)) | {"soft_targets": approx(row["soft_targets"]), "verdicts": approx(row["verdicts"])}
        for row in rows
    ]


def approx(value):
    """Numbers that went through 32 bits."""
    if isinstance(value, list):
        return [approx(one) for one in value]
    if isinstance(value, dict):
        return {name: approx(one) for name, one in value.items()}
    return pytest.approx(value, abs=1e-6) if isinstance(value, float) else value


def test_what_is_trained_on_is_the_answer_alone(rows, run, tokenizer):
    sources = [d.text for material in run.world.slices for d in material.documents]
    for row in rows:
        assert [m["role"] for m in (*row["prompt"], *row["completion"])] == ["user", "assistant"]
        assert row["messages"][0]["content"] == row["prompt"][0]["content"]
        assert row["messages"][-1]["content"] == row["completion"][0]["content"]
        said = row["prompt"][0]["content"] + row["completion"][0]["content"]
        assert not any(text in said for text in sources) and all(s["text"] in sources for s in row["sources"])
        assert row["privileged_context"] == "\n\n".join(s["text"] for s in row["sources"])


def test_calls_are_in_the_conversation_beside_the_tools(rows):
    plain, called = rows[:2]
    assert json.loads(plain["teacher_tools"]) == [] and len(plain["messages"]) == 2
    assert [tool["function"]["name"] for tool in json.loads(called["teacher_tools"])] == ["lookup"]
    assert [m["role"] for m in called["messages"]] == ["user", "assistant", "tool", "assistant"]
    function = called["messages"][1]["tool_calls"][0]["function"]
    assert json.loads(function["arguments"]) == {"query": " lamp"} and called["messages"][2]["tool_call_id"] == "c1"


def test_soft_targets_are_those_of_the_run(rows, tokenizer):
    chosen, other = rows[:2]
    assert other["soft_targets"] is None
    tokens = [one["token"] for one in chosen["soft_targets"]]
    assert tokenizer.decode(tokens).strip() == chosen["completion"][0]["content"] and tokens[-1] == tokenizer.end
    for one in chosen["soft_targets"]:
        assert one["ids"] == [one["token"], 7] and one["tail"] < 1e-6
        assert one["probabilities"] == pytest.approx([SOFT, 1 - SOFT], abs=1e-3)


def test_verdicts_sources_and_licences_go_along(rows):
    row = rows[0]
    assert [(v["criterion"], v["kind"], v["passed"]) for v in row["verdicts"]] == [("grounded", "rule", True)]
    assert row["verdicts"][0]["score"] == pytest.approx(0.9) and row["verdicts"][0]["threshold"] == 0.5
    assert row["licences"] == ["CC0-1.0", "unknown"]
    assert json.loads(row["sources"][0]["meta"])["source"] == "a/é.txt"


def test_the_card_says_what_it_is_and_which_file_to_open(folder):
    _, facts, text = (folder / "README.md").read_text().split("---\n", 2)
    found = yaml.safe_load(facts)
    assert found["license"] == "other" and found["size_categories"] == ["n<1K"]
    assert found["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert all(f"`{name}`" in text for name in export_data.COLUMNS)
    assert "* CC0-1.0: 4" in text and "* unknown: 4" in text and "4 answers" in text


@pytest.mark.parametrize(
    ("licence", "name"),
    [("CC0-1.0", "cc0-1.0"), ("CC BY-SA 4.0", "cc-by-sa-4.0"), ("https://example.org/by/4.0/", "other"),
     ("unknown", "other")],
)  # fmt: skip
def test_the_card_names_a_licence_as_cards_do(run, licence, name):
    card = export_data._card(run, 1, 1, Counter({licence: 1}))
    assert yaml.safe_load(card.split("---\n", 2)[1])["license"] == name and f"* {licence}: 1" in card


def test_what_a_server_wrote_is_said_to_be_its_own(run, rows, tmp_path):
    assert {row["writer"] for row in rows} == {""}
    teacher = TeacherConfig(url="http://127.0.0.1:1/v1", generations=1)
    theirs = replace(run, config=replace(run.config, teacher=teacher))
    (run.directory / "teacher").mkdir()
    run.commits.write(run.directory / "teacher" / "probe.json", {"model": "their-model"})
    place = export_data.write(theirs, 2, epath.Path(tmp_path) / "theirs")
    written = {(row["generation"], row["writer"]) for row in pq.read_table(str(place / "train.parquet")).to_pylist()}
    assert written == {(1, "their-model"), (2, "")}
    text = (place / "README.md").read_text()
    assert "Some are by their-model, whose terms hold for them" in text


def test_what_cannot_be_exported_is_one_line(run, folder):
    with pytest.raises(ValueError, match="data exists already; give another --to"):
        export_data.write(run, 2, folder)
    with pytest.raises(ValueError, match="up to generation 0 was accepted"):
        export_data.write(run, 0, folder.parent / "other")
    assert not (folder.parent / "other").exists()


def test_a_run_whose_decoder_is_our_own_gives_its_data_alone(run, rows, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(api, "load", lambda directory, generation: api.Model(run, generation))
    words = ["export", str(run.directory), "--generation", "2", "--to", str(tmp_path / "out"), "--data", "--json"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out) == {"data": str(tmp_path / "out" / "data")}
    assert pq.read_table(str(tmp_path / "out" / "data" / "train.parquet")).to_pylist() == rows


def test_half_an_export_is_not_left_behind(run, tmp_path, monkeypatch):
    """The same command would be refused, since its folder is there."""
    out = tmp_path / "out"
    words = ["export", str(run.directory), "--generation", "2", "--to", str(out), "--data", "--json"]
    monkeypatch.setattr(api, "load", lambda directory, generation: api.Model(run, generation))
    monkeypatch.setattr(models.architectures, "is_known", lambda config: True)
    monkeypatch.setattr(models.folders, "write", lambda run, of: out.mkdir() or out)
    with monkeypatch.context() as patch:

        def full(*given):
            raise ValueError("the disk is full")

        patch.setattr(export_data, "write", full)
        assert cli.main(words) == 2 and not out.exists()
    assert cli.main(words) == 0 and (out / "data" / "train.parquet").exists()
