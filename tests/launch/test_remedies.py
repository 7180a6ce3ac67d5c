"""What a message tells people to do with a run can be done, and mends it."""

import ast
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from etils import epath

from ratchet.bootstrap import loop
from ratchet.bootstrap.report.status import status
from ratchet.bootstrap.stages import train, transcripts
from ratchet.launch import cli
from ratchet.train.commits import FILE
from ratchet.train.files import RecordError
from ratchet.train.records import read_examples

HOUSE = Path(loop.__file__).parents[1]
TELLS = re.compile(
    r"ratchet resume|resume (the run|with)|delete|remove|restore (it|them|the)|put (it|that|those) back|start a new run"
)
DAMAGE, HERE, KILLED = "launch/test_damage.py", "launch/test_remedies.py", "bootstrap/test_resume.py"
IN_STEP = "bootstrap/test_in_step.py"
FOLLOWED = {
    "it is missing; `ratchet": (HERE, "units_that_are_not_what_a_generation_ended_with_are_named_and_made_again"),
    "remove it, and": (DAMAGE, "committed_files_that_are_removed_are_made_again_as_the_line_says"),
    "the file is missing; ": (DAMAGE, "damaged_records_are_named_and_made_again_once_they_are_deleted"),
    "the file is damaged": (DAMAGE, "damaged_records_are_named_and_made_again_once_they_are_deleted"),
    "does not match its sha256; delete it": (DAMAGE, "damaged_records_are_named_and_made_again_once_they_are_deleted"),
    "commits no unit; resume the run": (DAMAGE, "damaged_commits_of_units_are_named_and_made_again"),
    "to train this again": (DAMAGE, "damaged_weights_are_named_and_trained_again_once_they_are_deleted"),
    "the weights are missing": (DAMAGE, "damaged_weights_are_named_and_trained_again_once_they_are_deleted"),
    "the checkpoint was made with other": (DAMAGE, "a_half_run_goes_on_from_damage_as_if_nothing_had_been"),
    "says what was committed; put it back": (HERE, "what_is_put_back_is_gone_on_with"),
    "made with; put it back": (HERE, "what_is_put_back_is_gone_on_with"),
    "cannot be read: ": (HERE, "what_is_put_back_is_gone_on_with"),
    "put that back": (HERE, "what_was_made_otherwise_is_mended_by_putting_the_old_back"),
    "put those back": (HERE, "units_that_were_made_otherwise_are_mended_by_putting_the_old_back"),
    "holds a run already": (HERE, "a_run_that_is_there_is_resumed"),
    "differs from the run": (HERE, "a_run_that_is_there_is_resumed"),
    "delete …": (HERE, "a_training_set_that_is_deleted_is_made_again"),
    "files are missing; `ratchet resume": (HERE, "who_looks_at_a_run_without_tokenizer_is_sent_to_resume"),
    "goes on for another": (HERE, "a_run_that_has_finished_says_so_and_goes_on_for_another_generation"),
    "goes on from what is committed": (IN_STEP, "two_processes_of_which_one_is_killed_make_what_one_makes"),
    "no process is at work": (IN_STEP, "two_processes_of_which_one_is_killed_make_what_one_makes"),
    "the disk is full": (KILLED, "a_full_disk_is_one_clear_line_and_leaves_nothing_half_written"),
    "the bucket failed (…); once it answers": (
        "bootstrap/test_bucket_run.py", "a_bucket_that_fails_is_one_line_and_the_run_goes_on_once_it_answers",
    ),
    "kubectl delete": (
        "launch/submit/test_submitting.py", "a_set_that_has_ended_makes_way_for_the_same_again",
    ),
    "stop it or let it end": (
        "train/test_holder.py", "one_process_holds_a_run_and_the_next_is_refused_in_a_line_that_names_it",
    ),
    "no JSON (…); mend it": ("launch/test_labels.py", "mistakes_are_one_line"),
    "goes on with room for them": ("launch/test_cli.py", "what_a_run_with_rows_too_short_advises_can_be_done"),
    "see to it, then `ratchet resume`": (
        "bootstrap/teacher/test_afar.py", "a_run_whose_teacher_died_goes_on_as_if_it_had_not",
    ),
    "`ratchet resume` asks for it again": (
        "bootstrap/teacher/test_afar.py", "an_answer_that_is_damaged_is_asked_for_again_once_it_is_removed",
    ),
    "see to them, then `ratchet resume`": (
        "bootstrap/rollouts/test_rollouts.py",
        "one_that_dies_is_left_out_and_a_run_whose_servers_all_died_goes_on_with_what_was",
    ),
    "….budget, then `ratchet resume` goes on": (
        "bootstrap/teacher/test_client.py", "nothing_is_asked_beyond_the_budget_of_a_runs_whole_life",
    ),
    "changed since the run began": (
        "bootstrap/test_loop.py", "documents_that_changed_under_a_run_are_refused_and_gone_on_with_when_restored",
    ),
}  # fmt: skip
"""By a part of each message that says what to do with a run, the test that does it."""
OF_A_NEW_RUN = re.compile(
    r"start (a new run|one) with|start a new run here|is gone or a device hangs|restore the rubric"
)
"""Of these, what helps is a run with other settings or inputs."""


def messages() -> list[str]:
    """Every text but docstrings that tells people to do something with a run; … stands for what is filled in."""
    found = []
    for path in (p for package in ("bootstrap", "launch", "train") for p in (HOUSE / package).rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        within = {id(part) for n in nodes if isinstance(n, ast.JoinedStr) for part in n.values}
        within |= {id(n.value) for n in nodes if isinstance(n, ast.Expr)}
        for node in (n for n in nodes if isinstance(n, ast.JoinedStr | ast.Constant) and id(n) not in within):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in parts)
            found += [text] if TELLS.search(text) else []
    return found


def test_what_every_message_tells_to_do_is_done_by_a_test():
    said = messages()
    assert [m for m in said if not any(part in m for part in FOLLOWED) and not OF_A_NEW_RUN.search(m)] == []
    assert [part for part in FOLLOWED if not any(part in m for m in said)] == []
    for file, test in FOLLOWED.values():
        assert f"def test_{test}(" in (Path(__file__).parents[1] / file).read_text(), f"{file} has no test_{test}"


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of a finished run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def ratchet(capsys, *words) -> tuple[int, str]:
    """The exit code, and what is said on standard error."""
    return cli.main([str(word) for word in words]), capsys.readouterr().err


@pytest.mark.parametrize(("name", "content"), [
    ("config.json", b"{"), ("config.json", None), ("config.json", b"changed"), (FILE, None), (FILE, b"[]"),
])  # fmt: skip
def test_what_is_put_back_is_gone_on_with(run, capsys, name, content):
    path = run / name
    before = path.read_bytes()
    changed = before.replace(b'"seed": 0', b'"seed": 1') if content == b"changed" else content
    path.unlink() if content is None else path.write_bytes(changed)
    code, said = ratchet(capsys, "resume", run)
    assert code == 2 and str(path) in said and "put it back, or start a new run" in said
    path.write_bytes(before)
    assert ratchet(capsys, "resume", run) == (0, "")


def test_what_was_made_otherwise_is_mended_by_putting_the_old_back(run, capsys, monkeypatch):
    path, real = run / "gen-001" / "training.json", train.tokens_per_step
    before = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(train, "tokens_per_step", lambda pools: real(pools) + 1)
    code, said = ratchet(capsys, "resume", run)
    assert code == 2 and f"{path}: made again, it is not what was committed" in said and "put that back" in said
    path.write_bytes(before)
    assert ratchet(capsys, "resume", run) == (0, "")


@pytest.mark.parametrize("change", [
    lambda path: path.write_bytes(path.read_bytes().replace(b'"inputs"', b'"imputs"')),
    lambda path: path.write_text("[]"),
    lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": "0" * 64})),
    lambda path: path.with_suffix(".array_record").unlink(),
])  # fmt: skip
def test_units_that_are_not_what_a_generation_ended_with_are_named_and_made_again(run, capsys, change):
    stage = run / "gen-001" / "review"
    assert status(run)["altered"] == []
    commit = next(stage.glob("unit-*.json"))
    change(commit)
    records = commit.with_suffix(".array_record")
    (line,) = (*status(run)["altered"], *status(run)["missing"])
    if records.exists():
        assert line.startswith(f"{commit}: it is not what was committed; put it back, or remove it, and `ratchet")
        commit.unlink()
    else:
        assert line.startswith(f"{records}: it is missing; `ratchet resume {run}` makes it again")
    assert ratchet(capsys, "resume", run) == (0, "") and status(run)["altered"] == []


def test_units_that_were_made_otherwise_are_mended_by_putting_the_old_back(run, tiny_run, capsys, monkeypatch):
    stage, real = run / "gen-002" / "targets", transcripts.make_targets
    for path in stage.glob("unit-*.array_record"):
        path.unlink()
    other = lambda *given: [replace(t, unreviewed=0.5) for t in real(*given)]
    monkeypatch.setattr(transcripts, "make_targets", other)
    code, said = ratchet(capsys, "resume", run)
    assert code == 2 and f"{stage}: made again, its units are not those" in said and "put those back" in said
    shutil.rmtree(stage)
    shutil.copytree(Path(tiny_run) / "gen-002" / "targets", stage)
    assert ratchet(capsys, "resume", run) == (0, "")


def test_a_run_that_has_finished_says_so_and_goes_on_for_another_generation(run, capsys, monkeypatch):
    assert cli.main(["resume", str(run)]) == 0
    said = capsys.readouterr().out
    assert said.count("the run had finished, nothing was left to do") == 1
    advised = re.search("`ratchet (resume .*? --generations 3)` goes on for another generation", said)[1]

    def end(r, number, *_):
        raise loop.RunEnded(f"generation {number} begins")

    monkeypatch.setattr(loop, "turn", end)
    assert cli.main(shlex.split(advised)) == 1
    told = capsys.readouterr()
    assert told.err == "ratchet: generation 3 begins\n" and "had finished" not in told.out


def test_a_run_that_is_made_whole_again_does_not_say_that_nothing_was_left_to_do(run, capsys):
    (run / "gen-002" / "evaluation.json").unlink()
    assert cli.main(["resume", str(run)]) == 0
    said = capsys.readouterr().out
    assert "nothing was left to do" not in said
    assert f"`ratchet chat {run}` talks to what was trained; `ratchet --help` lists what else there is" in said


def test_a_run_that_is_there_is_resumed(run, capsys):
    code, said = ratchet(capsys, "run", "tiny", "--out", run)
    assert code == 2 and f"go on with `ratchet resume {run}`" in said
    code, said = ratchet(capsys, "resume", run, "--train.steps", "9")
    assert code == 2 and "start a new run to change it" in said
    assert ratchet(capsys, "resume", run) == (0, "")


def test_a_training_set_that_is_deleted_is_made_again(run, capsys):
    place = epath.Path(run) / "gen-001" / "dataset" / "1.0.0"
    before = {p.name: p.read_bytes() for p in place.iterdir()}
    with pytest.raises(RecordError, match=f"delete {place} and resume the run to make it again"):
        read_examples(place, tokenizer="another")
    place.rmtree()
    assert ratchet(capsys, "resume", run) == (0, "")
    assert {p.name: p.read_bytes() for p in place.iterdir()} == before


def test_a_run_that_would_train_on_what_was_rejected_ends_in_a_line_and_with_1(run, capsys, monkeypatch):
    """The weights of the last generation are made again, from a dataset with one example more."""
    shutil.rmtree(run / "gen-002" / "model")
    shutil.rmtree(run / "gen-002" / "dataset")
    real = train.dataset

    def spoiled(g, taught, mistakes):
        made = real(g, taught, mistakes)
        return [*made, replace(made[0], lineage=made[0].lineage | {"transcript": "nobody's"})]

    monkeypatch.setattr(train, "dataset", spoiled)
    code, said = ratchet(capsys, "resume", run)
    assert code == 1 and said.count("\n") == 1
    assert "generation 2: of the tokens to be trained on, the audit found " in said and "audit.json" in said
    assert not (run / "gen-002" / "model").exists()
    code, said = ratchet(capsys, "resume", run)
    assert code == 2 and "has ended: generation 2: of the tokens to be trained on" in said


def test_who_looks_at_a_run_without_tokenizer_is_sent_to_resume(run, capsys):
    (run / "tokenizer" / "model.spm").unlink()
    code, said = ratchet(capsys, "show", run, "0")
    assert code == 2 and f"{run / 'tokenizer'}: files are missing; `ratchet resume {run}` makes them again" in said
    assert ratchet(capsys, "resume", run) == (0, "")
    assert (run / "tokenizer" / "model.spm").exists()
